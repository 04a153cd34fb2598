"""The loop on real Pong: reproducible, resumable, stoppable. Networks are small; the games are real."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("envpool")

from safetensors.torch import load_file

import fastdqn
from fastdqn.config import CheckpointConfig, Config, EnvConfig, EvaluationSettings, ReplayConfig
from fastdqn.engine.data_parallel import ALONE, Ranks
from fastdqn.engine.device import Backend
from fastdqn.errors import RunFailedError, UserError
from fastdqn.presets import PRESETS
from fastdqn.runs import checkpoint, report, trainer
from fastdqn.runs import folder as run_folder
from fastdqn.runs.checks import check
from fastdqn.runs.evaluation import evaluate
from fastdqn.runs.folder import RunFolder
from fastdqn.runs.trainer import train


def small(**changes) -> Config:
    """A run of three hundred updates in seconds: the quick preset with a narrow network and small batches."""
    config = PRESETS["quick"].config
    config = replace(
        config,
        total_frames=6_400,
        log_every_frames=2_000,
        env=EnvConfig(num_envs=4, max_episode_frames=1_200),
        replay=ReplayConfig(capacity=3_000, warmup_steps=200),
        network=replace(config.network, width=1 / 16),
        learner=replace(config.learner, batch_size=8, target_period_updates=100),
        pipeline=replace(config.pipeline, accelerate="eager", precision="fp32"),
        exploration=replace(config.exploration, decay_frames=5_000),
    )
    return replace(config, **changes)


def rows(run: RunFolder, timing: bool = False) -> list[dict]:
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return lines if timing else [{k: v for k, v in line.items() if k != "timing"} for line in lines]


def weights(run: RunFolder) -> dict:
    return load_file(checkpoint.newest(run.checkpoints) / "online.safetensors")


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def go(
    path: Path,
    config: Config,
    weights: Path | None = None,
    device: Backend | None = None,
    ranks: Ranks = ALONE,
) -> RunFolder:
    run = RunFolder.create(path, config)
    train(run, check(config, weights, device=device), ranks=ranks)
    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> RunFolder:
    """A complete run, for tests that only look at it."""
    return go(tmp_path_factory.mktemp("runs") / "a", small())


def test_a_run_counts_exactly(finished):
    last, summary = rows(finished)[-1], json.loads((finished.path / "summary.json").read_text())
    assert 6_400 <= last["frames"] < 6_400 + 4 * 4
    assert last["frames"] == 4 * last["steps"] == summary["frames"]
    # The updates owed for the last pass are not done any more.
    assert 345 <= last["updates"] <= (last["steps"] - 200) // 4
    assert summary["episodes"] == last["episodes"] == sum(len(row["returns"]) for row in rows(finished)) > 0
    assert summary["interrupted"] is False
    assert summary["frames_per_second"] > 0


def test_a_run_learns_and_tells(finished):
    last = rows(finished, timing=True)[-1]
    assert last["loss"] > 0
    assert last["grad_norm"] > 0
    assert last["epsilon"] == 0.01
    assert sum(last["timing"]["phase_share"].values()) == pytest.approx(1.0, abs=0.2)
    assert (finished.path / "log.txt").read_text().count("saved") >= 1
    assert json.loads((finished.path / "meta.json").read_text())["versions"]["torch"] == torch.__version__


def test_the_versions_name_the_build_of_pytorch(monkeypatch):
    """Fails where pip's metadata is believed: PyPI's CUDA build calls itself 2.13.0 there, and 2.13.0+cu130."""
    monkeypatch.setattr(run_folder.metadata, "version", lambda package: "2.13.0")
    monkeypatch.setattr(run_folder, "versions", run_folder.versions.__wrapped__)  # not what was asked before
    assert run_folder.machine_and_versions()["versions"] == {
        "python": platform.python_version(),
        **dict.fromkeys(run_folder.PACKAGES, "2.13.0"),
        "torch": torch.__version__,
    }


@pytest.mark.long
def test_one_seed_gives_one_run(finished, tmp_path):
    again = go(tmp_path / "b", small())
    assert rows(again) == rows(finished)
    assert equal(weights(again), weights(finished))
    assert rows(again)[-1]["updates"] > 300


def test_weights_move_and_another_seed_differs(finished, tmp_path):
    untrained = go(tmp_path / "u", small(total_frames=400))
    assert rows(untrained)[-1]["updates"] == 0
    other = go(tmp_path / "o", small(total_frames=2_000, seed=2))
    for run in (untrained, other):
        own, trained = weights(run), weights(finished)
        assert all(not torch.equal(own[name], trained[name]) for name in own)
    assert rows(other)[0]["loss"] != rows(finished)[0]["loss"]


@pytest.mark.long
def test_a_prioritised_run_is_reproducible_and_not_the_uniform_one(finished, tmp_path):
    config = small(total_frames=4_000)
    config = replace(config, replay=replace(config.replay, alpha=0.5))
    first, second = go(tmp_path / "p", config), go(tmp_path / "q", config)
    assert rows(first) == rows(second)
    assert equal(weights(first), weights(second))
    assert rows(first)[-1]["loss"] != rows(finished)[1]["loss"]


@pytest.mark.slow
def test_one_seed_gives_one_compiled_run(finished, tmp_path):
    config = small(total_frames=17_600)
    config = replace(config, pipeline=replace(config.pipeline, accelerate="compile"))
    first, second = go(tmp_path / "1", config), go(tmp_path / "2", config)
    assert rows(first) == rows(second)
    assert rows(first)[-1]["updates"] > 1_000
    assert equal(weights(first), weights(second))
    other = go(tmp_path / "3", replace(config, seed=2))
    assert not equal(weights(other), weights(first))


@pytest.mark.long
def test_a_stopped_run_resumes_to_its_end(tmp_path):
    config = small()
    run = RunFolder.create(tmp_path / "r", config)
    passes = iter(range(10**6))
    summary = train(run, stop_requested=lambda: next(passes) >= 300)
    assert summary.interrupted
    before = checkpoint.newest(run.checkpoints)
    stopped_rows = rows(run)
    saved = checkpoint.load(before)
    assert saved.state["clock"]["steps"] == summary.frames // 4

    resumed = train(RunFolder.open(run.path), resume=True, stop_requested=lambda: True)
    assert resumed.frames == summary.frames
    assert resumed.updates == summary.updates
    assert equal(saved.tensors, checkpoint.load(checkpoint.newest(run.checkpoints)).tensors)

    done = train(RunFolder.open(run.path), resume=True)
    assert not done.interrupted
    assert done.frames >= config.total_frames
    assert done.updates > summary.updates
    assert done.episodes >= summary.episodes
    frames = [row["frames"] for row in rows(run)]
    assert frames == sorted(set(frames))
    assert rows(run)[: len(stopped_rows)] == stopped_rows


@pytest.mark.long
def test_rows_newer_than_the_checkpoint_are_written_again(finished, tmp_path):
    """Fails when a run that was killed shows the same frames twice."""
    run = go(tmp_path / "k", small(total_frames=6_000))
    kept = rows(run)
    with run.metrics.open("a") as file:
        file.write(json.dumps({**kept[-1], "frames": 9_000}) + '\n{"frames": 11_0')
    run.config = small(total_frames=12_000)
    train(run, resume=True)
    frames = [row["frames"] for row in rows(run)]
    assert frames == sorted(set(frames))
    assert rows(run)[: len(kept)] == kept
    assert 9_000 not in frames


def test_a_complete_run_is_not_resumed(finished):
    with pytest.raises(UserError, match="is complete"):
        train(finished, resume=True)


def test_training_starts_from_given_weights(finished, tmp_path):
    config = small(total_frames=400, seed=9)
    run = go(tmp_path / "w", config, weights=finished.path)
    assert equal(weights(run), checkpoint.load_policy(finished.path).weights)
    assert rows(run)[0]["frames"] <= 2_016  # a new run, not a continued one


def test_weights_of_another_network_are_refused_with_the_flags_to_type(finished, tmp_path):
    config = replace(small(), network=replace(small().network, width=0.25, dueling=False))
    with pytest.raises(UserError, match=r"`network\.width = 0\.0625` `network\.dueling = True`"):
        go(tmp_path / "x", config, weights=finished.path)


def test_weights_of_another_game_are_refused(finished, tmp_path):
    with pytest.raises(UserError, match=r"knows 6 actions, Breakout-v5 has 4"):
        go(tmp_path / "x", replace(small(), game="Breakout-v5"), weights=finished.path)


def test_a_diverged_run_stops_and_names_what_is_left(tmp_path):
    config = small()
    config = replace(
        config,
        learner=replace(config.learner, loss="squared"),
        optimizer=replace(config.optimizer, learning_rate=1e30),
    )
    run = RunFolder.create(tmp_path / "d", config)
    with pytest.raises(RunFailedError, match="diverged"):
        train(run)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"game": "Pnog-v5"}, "did you mean Pong-v5"),
        ({"game": "pong"}, "did you mean Pong-v5"),
        ({"game": "BreakoutNoFrameskip-v4"}, "did you mean Breakout-v5"),
        ({"replay": ReplayConfig(capacity=20, warmup_steps=200)}, "at least 48 is needed"),
        ({"replay": ReplayConfig(capacity=3_000, warmup_steps=1)}, "there is nothing to sample"),
        (
            {"replay": ReplayConfig(capacity=10**10, warmup_steps=200, storage="raw")},
            r"10,000,000,000 frames x 7,090 bytes = 66,030",
        ),
        ({"total_frames": 0}, "total_frames = 0"),
    ],
)
def test_bad_configurations_are_refused_before_anything_is_made(tmp_path, change, wanted):
    with pytest.raises(UserError, match=wanted):
        train(RunFolder(tmp_path / "none", replace(small(), **change)))
    assert not (tmp_path / "none").exists()


def test_nothing_is_trained_unchecked_and_nothing_is_checked_twice(tmp_path, monkeypatch):
    checked = []
    monkeypatch.setattr(trainer, "check", lambda config: checked.append(config) or check(config))
    config = small(total_frames=200)
    train(RunFolder.create(tmp_path / "a", config))
    assert checked == [config]
    train(RunFolder.create(tmp_path / "b", config), check(config))
    assert checked == [config]
    with pytest.raises(ValueError, match="another configuration"):
        train(RunFolder.create(tmp_path / "c", config), check(small(total_frames=400)))
    RunFolder.open(tmp_path / "c").lock()  # it was given back


@pytest.mark.long
def test_evaluation_is_repeatable_and_counts_whole_games(finished):
    settings = EvaluationSettings(episodes=5, epsilon=0.5, max_episode_frames=2_000)
    first = evaluate(finished, settings, seed=3)
    assert evaluate(finished, settings, seed=3) == first
    assert evaluate(finished, settings, seed=4) != first
    row = first.row()
    assert len(row["returns"]) == len(row["lengths_frames"]) == 5
    assert max(row["lengths_frames"]) <= 2_000
    assert all(-21 <= value <= 21 for value in row["returns"])


def test_evaluation_needs_nothing_but_the_folder(finished, tmp_path):
    moved = tmp_path / "elsewhere"
    finished.path.rename(moved)
    try:
        evaluate(RunFolder.open(moved), EvaluationSettings(episodes=1, epsilon=1.0))
    finally:
        moved.rename(finished.path)


@pytest.mark.parametrize(
    "bad", [{"episodes": 0}, {"epsilon": 1.5}, {"epsilon": float("nan")}, {"seed": -1}], ids=str
)
def test_evaluation_refuses_bad_numbers(finished, bad):
    with pytest.raises(UserError, match=f"^{next(iter(bad))} = "):
        fastdqn.evaluate(finished.path, **bad)


def test_an_existing_folder_is_not_written_over(finished, tmp_path):
    with pytest.raises(UserError, match=r"(?s)`resume_training\(.*`overwrite = True`"):
        RunFolder.create(finished.path, small())
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="is not a run"):
        RunFolder.create(tmp_path / "notes", small(), overwrite=True)
    assert (tmp_path / "notes" / "thesis.txt").exists()


def test_a_run_that_is_being_trained_is_neither_resumed_nor_replaced(tmp_path):
    """Fails when a second training takes away the first one's rows, as resuming does."""
    config = small(total_frames=2_000, log_every_frames=400)
    run, refused = RunFolder.create(tmp_path / "r", config), []

    def report(snapshot):
        if snapshot.frames < 1_000 or refused:
            return
        before = run.metrics.read_bytes()
        for again in (
            lambda: train(RunFolder.open(run.path), resume=True),
            lambda: fastdqn.resume_training(run.path, total_frames=10**6),
            lambda: fastdqn.train(small(), run.path, overwrite=True),
        ):
            with pytest.raises(UserError, match=f"is being trained by process {os.getpid()}") as error:
                again()
            refused.append(error)
        assert run.metrics.read_bytes() == before

    train(run, report=report)
    assert len(refused) == 3
    assert [row["frames"] for row in rows(run)][-1] >= 2_000
    assert RunFolder.open(run.path).config == config
    fastdqn.train(small(total_frames=400), run.path, overwrite=True)  # it is over, and its lock given back


def once(frames, call):
    """A `report` that does something once, after so many frames."""
    left = [call]
    return lambda snapshot: left.pop()() if left and snapshot.frames >= frames else None


def test_a_run_whose_folder_is_renamed_goes_on_there(tmp_path, monkeypatch):
    """Fails when it goes on in a new folder of the old name, or in another run that has the name now."""
    monkeypatch.setattr(report, "DISPLAY_SECONDS", 0.0)
    config = small(total_frames=2_000, log_every_frames=400, checkpoint=CheckpointConfig(every_frames=800))
    run, new, said = RunFolder.create(tmp_path / "runs" / "r", config), tmp_path / "elsewhere" / "r", []

    def rename():
        (tmp_path / "runs").rename(tmp_path / "elsewhere")
        (tmp_path / "runs" / "r").mkdir(parents=True)
        (tmp_path / "runs" / "r" / "config.json").touch()

    summary = train(run, report=once(1_000, rename), say=said.append)
    assert summary.run == str(new)
    assert f"the run's folder has another name now: {new}" in said
    assert [path.name for path in (tmp_path / "runs" / "r").iterdir()] == ["config.json"]
    whole = go(tmp_path / "whole", config)
    moved = RunFolder.open(new)
    assert rows(moved) == rows(whole)
    assert [path.name for path in checkpoint.find(moved.checkpoints)] == [
        path.name for path in checkpoint.find(whole.checkpoints)
    ]
    assert equal(weights(moved), weights(whole))
    assert json.loads((new / "summary.json").read_text())["run"] == str(new)
    moved.lock()


@pytest.mark.parametrize("remove", ["folder", "content"])
def test_a_run_whose_folder_is_removed_is_saved_beside_it_and_fails(remove, tmp_path, monkeypatch):
    """Fails when it goes on without configuration and ends well."""
    monkeypatch.setattr(report, "DISPLAY_SECONDS", 0.0)
    run = RunFolder.create(tmp_path / "r", small(total_frames=2_000))

    def content():
        (run.path / "config.json").unlink()

    gone = once(1_000, content if remove == "content" else lambda: shutil.rmtree(run.path))
    wanted = r"(?s)r was removed while it was trained\n.*`resume_training\('\S+r-rescued-"
    with pytest.raises(RunFailedError, match=wanted) as error:
        train(run, report=gone)
    assert (tmp_path / "r").exists() == (remove == "content")
    (rescued,) = tmp_path.glob("r-rescued-*")
    assert run.path == rescued
    assert str(error.value).endswith(f"`resume_training({str(rescued)!r})`")
    summary = fastdqn.resume_training(rescued)
    assert (summary.frames, summary.interrupted) == (2_000, False)


@pytest.mark.slow
def test_a_compiled_run_that_is_killed_leaves_no_lock(tmp_path):
    """Its compiler starts processes of its own, which must not keep the lock."""
    words = ["train", "Pong-v5", "--run-dir", str(tmp_path / "r"), "--pipeline.accelerate", "compile"]
    words += ["--checkpoint.every-frames", "2000", "--replay.warmup-steps", "200", "--progress", "plain"]
    command = [sys.executable, "-m", "fastdqn", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        line = ""
        while "saved " not in line:
            line = process.stderr.readline()
            assert line, "it ended"
        refused = subprocess.run(
            [*command[:3], "train", "--resume", str(tmp_path / "r")], capture_output=True
        )
        assert refused.returncode == 2
        assert b"is being trained by process %d " % process.pid in refused.stderr
        assert refused.stderr.count(b"\n") == 1
        process.kill()
        process.wait()
        RunFolder.open(tmp_path / "r").lock()


@pytest.mark.parametrize("content", [None, "{", '{"unknown": 1}'])
def test_a_folder_that_is_no_run_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json"):
        RunFolder.open(tmp_path)


def short_games(**changes) -> Config:
    """Games of 200 frames, so that 20 have ended soon."""
    config = small(total_frames=5_600, **changes)
    return replace(config, env=replace(config.env, max_episode_frames=200))


@pytest.mark.long
def test_a_run_ends_when_twenty_games_are_good_enough(tmp_path):
    """Fails where it plays on, ends after fewer games, counts as interrupted, or begins again when resumed."""
    run = RunFolder.create(tmp_path / "a", short_games(stop_at_return=-100.0, confirm_stop=False))
    said: list[str] = []
    summary = train(run, say=said.append)
    assert (summary.interrupted, summary.episodes) == (False, 20)
    assert summary.frames < 5_600
    assert checkpoint.exists(run.checkpoints, summary.frames)
    assert rows(run)[-1]["frames"] == summary.frames
    (line,) = (line for line in said if "stop_at_return" in line)
    assert f"{summary.mean_return_20:.1f}: done (`stop_at_return = -100`)" in line
    with pytest.raises(
        UserError, match=r"complete: the mean return .*\nPlay on with `stop_at_return = None`"
    ):
        fastdqn.resume_training(run.path)
    with pytest.raises(UserError, match="stop_at_return = nan"):
        fastdqn.resume_training(run.path, stop_at_return=float("nan"))
    again = fastdqn.resume_training(run.path, stop_at_return=None)
    assert (again.interrupted, again.frames) == (False, 5_600)
    assert RunFolder.open(run.path).config.stop_at_return is None


@pytest.mark.long
def test_a_return_that_is_not_reached_changes_nothing(tmp_path):
    wanted, never = (go(tmp_path / str(value), short_games(stop_at_return=value)) for value in (1e6, None))
    assert rows(wanted) == rows(never)
    assert equal(weights(wanted), weights(never))
    assert rows(wanted)[-1]["frames"] == 5_600
