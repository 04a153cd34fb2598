"""A run that was stopped anywhere and resumed equals the one that never was, bit for bit, on real games."""

from __future__ import annotations

import hashlib
import json
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("envpool")

from fastdqn.config import CheckpointConfig, Config, EnvConfig, ReplayConfig
from fastdqn.errors import RunFailedError, UserError, cause_of_failure
from fastdqn.games import envs
from fastdqn.presets import PRESETS
from fastdqn.runs import build, checkpoint, report, resume
from fastdqn.runs.folder import RunFolder, versions
from fastdqn.runs.metrics import Games, JsonLines
from fastdqn.runs.trainer import train
from fastdqn.views import export as exporting


def tiny(game: str = "Breakout-v5", alpha: float = 0.5, **changes) -> Config:
    """Two games, some 650 passes; lives, resets, cuts, restarts and a replay that wraps all fall in between."""
    config = PRESETS["quick"].config
    config = replace(
        config,
        game=game,
        total_frames=5_200,
        log_every_frames=700,
        env=EnvConfig(num_envs=2, threads=1, max_episode_frames=1_000, restart_steps=900),
        replay=ReplayConfig(capacity=600, warmup_steps=60, alpha=alpha),
        network=replace(config.network, width=1 / 16),
        learner=replace(config.learner, batch_size=4, n_step=3, target_period_updates=37),
        pipeline=replace(config.pipeline, accelerate="eager", precision="fp32"),
        exploration=replace(config.exploration, decay_frames=2_000),
        checkpoint=CheckpointConfig(every_frames=1_500, keep=2),
    )
    return replace(config, **changes)


def outcome(run: RunFolder) -> dict:
    """All that a run leaves, timings aside."""
    last = checkpoint.newest(run.checkpoints)
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    for row in rows:
        del row["timing"]
    saved = checkpoint.load(last)
    state = dict(saved.state)
    del state["marks"]["saved"], state["versions"]
    return {
        "rows": rows,
        "state": state,
        "tensors": {name: tensor.numpy().tobytes() for name, tensor in saved.tensors.items()},
        "replay": hashlib.sha256(saved.replay.read_bytes()).hexdigest() if saved.replay else None,
    }


def digest(run: RunFolder) -> str:
    """A checksum of `outcome`, for processes that compare by a line."""
    found = outcome(run)
    found["tensors"] = {name: hashlib.sha256(value).hexdigest() for name, value in found["tensors"].items()}
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def differences(one: dict, other: dict) -> list[str]:
    """Names of what differs, for a message that can be read."""
    found = [key for key in ("rows", "state", "replay") if one[key] != other[key]]
    tensors = one["tensors"].keys() | other["tensors"].keys()
    return found + sorted(name for name in tensors if one["tensors"].get(name) != other["tensors"].get(name))


def interrupted(path: Path, config: Config, stops: list[int]) -> RunFolder:
    """Stop a run after each of these numbers of passes, counted from where it went on, and let it end."""
    run = RunFolder.create(path, config)
    for number, stop in enumerate([*stops, 10**9]):
        passes = iter(range(10**9))
        train(
            RunFolder.open(path) if number else run,
            resume=number > 0,
            stop_requested=lambda passes=passes, stop=stop: next(passes) >= stop,
        )
    return run


@pytest.mark.parametrize(
    ("game", "alpha", "storage", "often"),
    [
        ("Breakout-v5", 0.5, "raw", False),
        pytest.param("Breakout-v5", 0.5, "raw", True, marks=pytest.mark.long),
        pytest.param("Breakout-v5", 0.5, "delta", True, marks=pytest.mark.long),
        pytest.param("Pong-v5", 0.0, "delta", True, marks=pytest.mark.long),
    ],
)
def test_resumed_is_uninterrupted(game, alpha, storage, often, tmp_path):
    """Fails when anything that a run is made of is not in its checkpoint."""
    config = tiny(game, alpha)
    config = replace(config, replay=replace(config.replay, storage=storage))
    config = replace(config, env=replace(config.env, sticky_actions=0.25 if game == "Pong-v5" else 0.0))
    whole = RunFolder.create(tmp_path / "whole", config)
    train(whole)
    expected = outcome(whole)
    assert expected["state"]["generation"] == 1
    assert expected["state"]["clock"]["updates"] > 300
    assert any(row["returns"] for row in expected["rows"])
    rng = random.Random(11)
    passes = [0, 1, *(rng.randint(1, 85) for _ in range(7))] if often else [rng.randint(1, 85)]
    assert differences(outcome(interrupted(tmp_path / "parts", config, passes)), expected) == []


@pytest.mark.long
def test_storage_changes_nothing_that_is_learned(tmp_path):
    found, sizes = [], []
    for storage in ("raw", "delta"):
        config = tiny(total_frames=2_500)
        config = replace(config, replay=replace(config.replay, storage=storage))
        run = RunFolder.create(tmp_path / storage, config)
        train(run)
        found.append(outcome(run))
        for row in found[-1]["rows"]:
            del row["replay_bytes"], row["replay_frame_bytes"]
        sizes.append((checkpoint.newest(run.checkpoints) / "replay.safetensors").stat().st_size)
    raw, delta = found
    assert raw["state"]["clock"]["updates"] > 100
    assert (raw["tensors"], raw["rows"]) == (delta["tensors"], delta["rows"])
    assert sizes[1] < sizes[0] / 3


def test_games_that_gather_for_the_next_row_are_saved():
    """Fails when games between two rows of metrics are lost in a checkpoint."""
    games = Games()
    games.add([3.0, 7.0])
    games.take_logged()
    games.add([5.0])
    other_games = Games()
    other_games.set_state(json.loads(json.dumps(games.state())))
    assert (other_games.count, other_games.best, other_games.mean) == (3, 7.0, 5.0)
    assert other_games.take_logged() == [5.0]


@pytest.mark.slow
def test_resumed_is_uninterrupted_when_compiled(tmp_path):
    config = tiny()
    config = replace(config, pipeline=replace(config.pipeline, accelerate="compile"))
    whole = RunFolder.create(tmp_path / "whole", config)
    train(whole)
    assert differences(outcome(interrupted(tmp_path / "parts", config, [150, 101])), outcome(whole)) == []


@pytest.mark.long
def test_resumed_is_uninterrupted_in_bfloat16(tmp_path, monkeypatch):
    """And the weights are float32, so that a policy is exported as any other."""
    monkeypatch.setattr(exporting, "_CHECKED_STEPS", 2)
    (tmp_path / "cpuinfo").write_text("flags\t\t: fpu avx2\n")
    monkeypatch.setattr("fastdqn.cpu.CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr("fastdqn.engine.device.has_cuda", lambda: False)
    config = tiny(total_frames=2_500)
    config = replace(config, pipeline=replace(config.pipeline, precision="bf16"))
    whole = RunFolder.create(tmp_path / "whole", config)
    train(whole)
    expected = outcome(whole)
    assert differences(outcome(interrupted(tmp_path / "parts", config, [150, 41])), expected) == []
    exported = exporting.export(whole, "safetensors", tmp_path / "policy.safetensors")
    assert Path(exported.path).exists()
    assert "no instructions for bfloat16" in (whole.path / "log.txt").read_text()
    exact = RunFolder.create(tmp_path / "fp32", tiny(total_frames=2_500))
    train(exact)
    assert "online.torso.conv1.weight" in differences(outcome(exact), expected)
    assert "bfloat16" not in (exact.path / "log.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_resumed_is_uninterrupted_at_many_places(seed, tmp_path):
    rng = random.Random(seed)
    config = tiny(
        rng.choice(["Breakout-v5", "Pong-v5", "SpaceInvaders-v5"]), rng.choice([0.0, 0.5]), seed=seed
    )
    whole = RunFolder.create(tmp_path / "whole", config)
    train(whole)
    stops = [rng.randint(0, 30) for _ in range(20)]
    assert differences(outcome(interrupted(tmp_path / "parts", config, stops)), outcome(whole)) == []


@pytest.mark.long
def test_without_the_replay_games_and_replay_start_afresh(tmp_path):
    config = replace(tiny(), checkpoint=CheckpointConfig(every_frames=1_500, replay="off"))
    run = RunFolder.create(tmp_path / "r", config)
    passes = iter(range(10**6))
    first = train(run, stop_requested=lambda: next(passes) >= 300)
    assert not list(run.checkpoints.glob("*/replay.safetensors"))
    said: list[str] = []
    done = train(RunFolder.open(run.path), resume=True, say=said.append)
    assert any("start afresh" in line for line in said)
    assert done.updates > first.updates
    # The warm-up is served again: 60 steps, an update for each 4.
    steps = done.frames // 4
    assert done.updates == pytest.approx((steps - 60 - 60) / 4, abs=4)
    state = json.loads((checkpoint.newest(run.checkpoints) / "state.json").read_text())
    assert state["generation"] >= 1
    frames = [json.loads(line)["frames"] for line in run.metrics.read_text().splitlines()]
    assert frames == sorted(set(frames))


@pytest.mark.parametrize(
    ("setting", "capacity", "storage", "kept"),
    [
        ("auto", 100_000, "auto", True),
        ("auto", 1_000_000, "raw", False),
        ("auto", 1_000_000, "auto", True),
        ("auto", 10_000_000, "auto", False),
        ("on", 1_000_000, "raw", True),
        ("off", 100, "auto", False),
    ],
)
def test_the_log_says_what_becomes_of_the_replay(setting, capacity, storage, kept):
    config = replace(tiny(), replay=ReplayConfig(capacity=capacity, storage=storage))
    config = replace(config, checkpoint=CheckpointConfig(replay=setting))
    assert build.keeps_replay(config) is kept
    assert ("resuming is exact" if kept else "`checkpoint.replay = 'on'`") in report.replay_note(config)
    if capacity == 1_000_000:
        size = "up to 7,090 MB" if storage == "raw" else "up to 1,803 MB, frames kept as what changes"
        assert size in report.replay_note(config)


@pytest.mark.long
def test_only_the_newest_checkpoint_has_its_replay_and_the_older_one_is_good(tmp_path):
    config = tiny(total_frames=3_800)
    run = RunFolder.create(tmp_path / "r", config)
    train(run)
    older, newest = checkpoint.find(run.checkpoints)
    assert (newest / checkpoint.REPLAY).exists()
    assert not (older / checkpoint.REPLAY).exists()
    assert checkpoint.load(older).replay is None
    (newest / "online.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"(?s)is damaged.*remove this one's folder"):
        train(RunFolder.open(run.path), resume=True)
    for file in newest.iterdir():
        file.unlink()
    newest.rmdir()
    assert train(RunFolder.open(run.path), resume=True).frames >= 3_800


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path):
    """Fails when a checkpoint that was copied into another run's folder is taken."""
    config = tiny(total_frames=400)
    run = RunFolder.create(tmp_path / "r", config)
    train(run)
    run.config = replace(config, total_frames=800, seed=2)
    with pytest.raises(
        UserError, match=r"another configuration than .*config\.json: seed 1 instead of 2\.\n"
    ):
        train(run, resume=True)
    run.config = replace(config, total_frames=800)
    train(run, resume=True)


def test_another_emulator_is_noticed(tmp_path, monkeypatch):
    """Fails when games that go another way than they did are played on."""
    run = RunFolder.create(tmp_path / "r", tiny())
    passes = iter(range(10**6))
    train(run, stop_requested=lambda: next(passes) >= 200)
    monkeypatch.setattr(envs, "_generation_seed", lambda seed, generation: seed + 1)
    with pytest.raises(UserError, match="another EnvPool"):
        train(RunFolder.open(run.path), resume=True)


def edit_versions(run: RunFolder, change) -> Path:
    """Change what the newest checkpoint says it was saved with, checksum included."""
    path = checkpoint.newest(run.checkpoints)
    state = json.loads((path / "state.json").read_text())
    change(state)
    (path / "state.json").write_text(json.dumps(state))
    sums = path / checkpoint.SUMS
    kept = [line for line in sums.read_text().splitlines() if not line.endswith("state.json")]
    digest = hashlib.sha256((path / "state.json").read_bytes()).hexdigest()
    sums.write_text("\n".join([*kept, f"{digest}  state.json"]) + "\n")
    return path


@pytest.fixture
def stopped(tmp_path) -> RunFolder:
    """A run that was stopped, its replay in the checkpoint."""
    run = RunFolder.create(tmp_path / "r", tiny(total_frames=1_600))
    passes = iter(range(10**6))
    train(run, stop_requested=lambda: next(passes) >= 100)
    return run


@pytest.mark.parametrize("package", resume.DECIDING)
def test_another_version_is_named_and_taken_only_when_that_is_wanted(package, stopped):
    """Fails when a run goes on, unasked, with a package that may compute other bits than it began with."""
    here = versions()[package]
    path = edit_versions(stopped, lambda state: state["versions"].update({package: "2.11.0+cu128"}))
    wanted = (
        f"(?s){path} was saved with {package} 2.11.0.cu128; here is {package} {re.escape(here)}.*inexact=True"
    )
    with pytest.raises(UserError, match=wanted):
        train(RunFolder.open(stopped.path), resume=True)
    assert train(RunFolder.open(stopped.path), resume=True, inexact=True).frames >= 1_600
    state = json.loads((checkpoint.newest(stopped.checkpoints) / "state.json").read_text())
    assert state["versions"] == versions()


@pytest.mark.parametrize("package", ["python", "numpy", "rich"])
def test_versions_that_decide_no_bits_may_differ(package, stopped):
    edit_versions(stopped, lambda state: state["versions"].update({package: "1.0"}))
    assert train(RunFolder.open(stopped.path), resume=True).frames >= 1_600


def test_a_checkpoint_that_names_no_versions_is_taken(stopped):
    edit_versions(stopped, lambda state: state.pop("versions"))
    assert train(RunFolder.open(stopped.path), resume=True).frames >= 1_600


def test_versions_of_another_type_are_refused(stopped):
    edit_versions(stopped, lambda state: state.update(versions=[1]))
    with pytest.raises(UserError, match=r"state.json cannot be read: versions = \[1\]"):
        train(RunFolder.open(stopped.path), resume=True)


def test_other_versions_do_not_matter_where_the_replay_is_not_kept(tmp_path):
    """Such a run goes on with other games anyway."""
    config = replace(tiny(total_frames=1_600), checkpoint=CheckpointConfig(replay="off"))
    run = RunFolder.create(tmp_path / "r", config)
    passes = iter(range(10**6))
    train(run, stop_requested=lambda: next(passes) >= 100)
    edit_versions(run, lambda state: state["versions"].update(torch="2.11.0"))
    assert train(RunFolder.open(run.path), resume=True).frames >= 1_600


def test_a_row_that_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"frames": 1}\n{"fra\x00es": 2}\n{"frames": 3}\n{"fr')
    with pytest.raises(UserError, match="line 2 cannot be read"):
        JsonLines(path, keep_frames=2)
    path.write_text('{"frames": 1}\n{"frames": 3}\n{"fr')
    JsonLines(path, keep_frames=2).close()
    assert path.read_text() == '{"frames": 1}\n'


def test_rows_that_a_full_disk_did_not_take_are_written_later(tmp_path):
    """Fails when a full disk leaves half a row, or a hole, in metrics.jsonl."""
    path = tmp_path / "metrics.jsonl"
    rows = JsonLines(path)
    rows.write({"frames": 1})
    real, rows._file = rows._file, open("/dev/full", "ab", buffering=0)  # noqa: SIM115
    rows.write({"frames": 2})
    rows.write({"frames": 3})
    with pytest.raises(OSError, match="No space left"):
        rows.sync()
    rows._file.close()
    rows._file = real
    rows.write({"frames": 4})
    rows.sync()
    rows.close()
    assert [json.loads(line)["frames"] for line in path.read_text().splitlines()] == [1, 2, 3, 4]


class _Full:
    """A disk that is full from the n-th checkpoint on."""

    def __init__(self, real, after):
        self.real, self.left = real, after

    def __call__(self, *args, **kwargs):
        self.left -= 1
        if self.left < 0:
            raise OSError(28, "No space left on device", "/data")
        return self.real(*args, **kwargs)


@pytest.mark.long
def test_a_full_disk_in_the_middle_ends_no_run_while_a_checkpoint_is_left(tmp_path, monkeypatch):
    real, saves = resume.save, []

    def save(*args):
        saves.append(args)
        if len(saves) == 2:
            raise OSError(28, "No space left on device", "/data")
        return real(*args)

    monkeypatch.setattr(resume, "save", save)
    said: list[str] = []
    summary = train(RunFolder.create(tmp_path / "r", tiny()), say=said.append)
    assert summary.frames >= 5_200
    assert len(saves) == 4
    assert sum("NOT SAVED: No space left" in line for line in said) == 1


def test_a_folder_that_is_renamed_while_it_is_saved_is_followed(tmp_path, monkeypatch):
    real, renamed = resume.save, []

    def save(run, *rest):
        if not renamed:
            renamed.append(run.path.rename(tmp_path / "new"))
        return real(run, *rest)

    monkeypatch.setattr(resume, "save", save)
    said = []
    summary = train(RunFolder.create(tmp_path / "old", tiny(total_frames=2_000)), say=said.append)
    assert summary.run == str(tmp_path / "new")
    assert not (tmp_path / "old").exists()
    assert len(checkpoint.find(tmp_path / "new/checkpoints")) == 2
    assert not any("NOT SAVED" in line for line in said)


@pytest.mark.parametrize("after", [0, pytest.param(3, marks=pytest.mark.long)])
def test_a_full_disk_at_the_first_or_the_last_save_ends_the_run(after, tmp_path, monkeypatch):
    monkeypatch.setattr(resume, "save", _Full(resume.save, after))
    wanted = r"(?s)/data: No space left.*" + (
        "last good checkpoint is" if after else "No checkpoint had been"
    )
    with pytest.raises(RunFailedError, match=wanted):
        train(RunFolder.create(tmp_path / "r", tiny()))


COMPILED = "c26c74qru7bc722dqxuffh32tiuaesw7jexcl6ypqmueivejuy7v"
"""A name as Inductor makes it."""


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (MemoryError(), "out of memory"),
        (
            RuntimeError(f"InductorError: ImportError: /tmp/a b/kl/{COMPILED}.main.so: file too short"),
            f"rm '/tmp/a b/kl/{COMPILED}.main.so'",
        ),
        pytest.param(
            RuntimeError("CUDA out of memory. Tried to allocate"),
            "out of memory: CUDA",
            marks=pytest.mark.long,
        ),
        pytest.param(
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            "out of memory",
            marks=pytest.mark.long,
        ),
        (RunFailedError("the emulator died: gone"), "the emulator died"),
    ],
)
def test_what_ends_a_run_names_the_last_good_checkpoint(error, wanted, tmp_path, monkeypatch):
    real, calls = envs.AtariEnvs.recv, []

    def recv(self):
        calls.append(None)
        if len(calls) > 250:
            raise error
        return real(self)

    monkeypatch.setattr(envs.AtariEnvs, "recv", recv)
    run = RunFolder.create(tmp_path / "r", tiny())
    with pytest.raises(
        RunFailedError, match=rf"(?s){wanted}.*frame-00000000150.*`resume_training\('{run.path}'\)`"
    ):
        train(run)


def test_a_bug_keeps_its_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr(envs.AtariEnvs, "recv", lambda self: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        train(RunFolder.create(tmp_path / "r", tiny()))


def test_a_broken_library_that_nobody_would_make_anew_is_not_to_be_removed():
    assert cause_of_failure(ImportError("/v/triton/_C/libtriton.so: file too short")) is None


@pytest.mark.parametrize(("alpha", "wanted"), [(0.0, "not finite at frame"), (0.5, "TD error is not finite")])
def test_weights_that_are_not_finite_are_not_saved(alpha, wanted, tmp_path):
    config = tiny(total_frames=3_000, alpha=alpha)
    config = replace(
        config,
        learner=replace(config.learner, loss="squared"),
        optimizer=replace(config.optimizer, learning_rate=1e30),
    )
    config = replace(config, checkpoint=CheckpointConfig(every_frames=200), log_every_frames=10**6)
    run = RunFolder.create(tmp_path / "r", config)
    with pytest.raises(RunFailedError, match=f"(?s){wanted}.*diverged.*last good checkpoint"):
        train(run)
    for path in checkpoint.find(run.checkpoints):
        assert all(torch.isfinite(value).all() for value in checkpoint.load(path).tensors.values())
