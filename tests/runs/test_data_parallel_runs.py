"""Two processes train one run: equal weights, sums over both, exact resume, an end when one of them is gone."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("envpool")

from fastdqn.cli import main
from fastdqn.config import Config, EvaluationConfig
from fastdqn.engine.data_parallel import ALONE, Alone
from fastdqn.errors import UserError
from fastdqn.replay import ReplayBuffer
from fastdqn.runs import checkpoint, checkpoint_folder, memory, resume
from fastdqn.runs.checks import check, share
from fastdqn.runs.experience import ExperienceStats, of_all
from fastdqn.runs.folder import RunFolder
from fastdqn.runs.seeds import run_seeds
from tests.runs.test_resume import tiny

ROOT = Path(__file__).parents[2]
SAID_TO_END_WITHIN_SECONDS = 30
"""docs/scale.md has it. The tests wait longer where the machine is slow, not the rank."""


def divided(**changes: object) -> Config:
    config = tiny(**changes)
    return replace(config, pipeline=replace(config.pipeline, data_parallel=True))


def new(path: Path, config: Config) -> list[str]:
    file = path.with_suffix(".json")
    file.write_text(config.to_json())
    return ["--config", str(file), "--run-dir", str(path)]


def start(words: list[str], ranks: int = 2) -> list[subprocess.Popen[str]]:
    """Processes as torchrun starts them; torchrun itself would end one when the other is gone."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "OMP_NUM_THREADS": "1"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "PYTHONPATH": str(ROOT)}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "fastdqn", "train", *words, "--progress", "plain"],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]


def ended(ranks: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    said = [rank.communicate(timeout=900) for rank in ranks]
    return [(rank.returncode, *texts) for rank, texts in zip(ranks, said, strict=True)]


def wait_until(happened: Callable[[], object], ranks: list[subprocess.Popen[str]]) -> None:
    while not happened():
        if any(rank.poll() is not None for rank in ranks):
            raise AssertionError(ended(ranks))
        time.sleep(0.02)


def rows(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def outcome(run: Path) -> dict[str, object]:
    """All that both ranks leave, timings aside."""
    found: dict[str, object] = {}
    for path, parts in ((run, checkpoint_folder.PARTS), (run / "rank-1", ("loop",))):
        last = checkpoint.newest(path / "checkpoints")
        saved = checkpoint.load(last, parts)
        state = {name: value for name, value in saved.state.items() if name != "versions"}
        del state["marks"]["saved"]
        lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        for line in lines:
            del line["timing"]
        own: dict[str, object] = {"state": state, "rows": lines}
        own |= {name: tensor.numpy().tobytes() for name, tensor in saved.tensors.items()}
        assert saved.replay is not None
        own["replay"] = saved.replay.read_bytes()
        found |= {f"{path.name if path != run else 'rank-0'} {name}": value for name, value in own.items()}
    return found


def differences(one: dict[str, object], other: dict[str, object]) -> list[str]:
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def transitions(run: Path, rank: int) -> int:
    """How many a rank's last checkpoint has."""
    config = share(RunFolder.open(run).config, 2)
    replay = ReplayBuffer(
        config.replay.capacity,
        config.env.num_envs,
        n_step=config.learner.n_step,
        alpha=config.replay.alpha,
        seed=run_seeds(config.seed, rank).replay,
    )
    replay.load(checkpoint.newest(run / "checkpoints") / "replay.safetensors")
    return replay.stats().sampleable


@pytest.mark.slow
def test_two_ranks_train_one_run_and_go_on_exactly(tmp_path):
    """Fails when anything that a rank is made of is not in its part, or a kill leaves parts of two moments."""
    config = divided()
    (code, out, err), (other_code, other_out, other_err) = ended(start(new(tmp_path / "alone", config)))
    assert (code, other_code) == (0, 0), (err, other_err)
    summary = json.loads(out)
    assert summary["frames"] >= config.total_frames
    assert (other_out, other_err) == ("", "")  # rank 0 speaks
    expected = outcome(tmp_path / "alone")
    assert expected["rank-0 rows"] == expected["rank-1 rows"]
    last = expected["rank-0 rows"][-1]
    assert last["frames"] == summary["frames"]
    assert last["episodes"] == summary["episodes"] > 0
    held = [transitions(tmp_path / "alone" / part, rank) for rank, part in enumerate(("", "rank-1"))]
    # The last pass is stored for the checkpoint; in rings that are full it takes a transition of each rank, too.
    assert abs(sum(held) - last["replay_transitions"]) <= 2
    assert expected["rank-0 replay"] != expected["rank-1 replay"]  # games of their own
    for name in ("online", "average"):  # the policy once
        assert list((tmp_path / "alone").rglob(f"{name}.safetensors"))
        assert not list((tmp_path / "alone/rank-1").rglob(f"{name}.safetensors"))

    killed, words = tmp_path / "killed", new(tmp_path / "killed", config)
    for stop in (2, 4, 6):
        ranks = start(words)
        wait_until(lambda stop=stop: rows(killed / "metrics.jsonl") >= stop, ranks)
        for rank in ranks:
            rank.kill()
        ended(ranks)
        words = ["--resume", str(killed)]
        if not checkpoint.find(killed / "rank-1/checkpoints"):
            words = [*new(killed, config), "--overwrite"]
    assert words[0] == "--resume"
    ends = ended(start(words))
    assert [code for code, *_ in ends] == [0, 0], ends
    assert differences(outcome(killed), expected) == []


@pytest.mark.slow
def test_two_ranks_end_together_once_rank_0_has_confirmed_it(tmp_path):
    """Fails when a rank does not hear of the evaluation: it would play on, and wait for the other."""
    config = divided(game="Pong-v5", stop_at_return=-100.0)
    config = replace(
        config,
        env=replace(config.env, max_episode_frames=200),
        evaluation=EvaluationConfig(episodes=3, epsilon=0.5, max_episode_frames=200),
    )
    assert config.confirm_stop
    run = tmp_path / "r"
    ends = ended(start(new(run, config)))
    assert [code for code, *_ in ends] == [0, 0], ends
    summary = json.loads(ends[0][1])
    assert not summary["interrupted"]
    assert summary["frames"] < config.total_frames
    found = outcome(run)
    (one, other) = (found[f"rank-{rank} state"]["marks"] for rank in (0, 1))
    assert one == other
    assert one["evaluated"] == summary["frames"]
    assert one["evaluated_bound"] >= -100.0
    refused = ended(start(["--resume", str(run)]))
    assert [code for code, *_ in refused] == [2, 2]
    assert "is complete" in refused[0][2]


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_the_other_with_a_message_and_a_signal_saves_both(tmp_path):
    run = tmp_path / "r"
    ranks = start(new(run, divided(total_frames=10**8)))
    wait_until(lambda: checkpoint.find(run / "rank-1/checkpoints"), ranks)
    ranks[1].kill()
    killed = time.monotonic()
    (code, _, said), _ = ended(ranks)
    assert time.monotonic() - killed < SAID_TO_END_WITHIN_SECONDS
    assert code == 1
    assert "rank 0 of 2 cannot go on without another one" in said
    assert f"torchrun --nproc-per-node 2 -m fastdqn train --resume {run}" in said
    assert "Traceback" not in said

    ranks = start(["--resume", str(run)])
    before = rows(run / "metrics.jsonl")
    wait_until(lambda: rows(run / "metrics.jsonl") > before, ranks)
    ranks[0].send_signal(signal.SIGTERM)  # it takes the other along
    (code, out, said), (_, other_out, _) = ended(ranks)
    assert code == 143
    assert f"torchrun --nproc-per-node 2 -m fastdqn train --resume {run}" in said
    assert other_out == ""
    saved = [checkpoint.newest(path / "checkpoints").name for path in (run, run / "rank-1")]
    assert saved == [f"frame-{json.loads(out)['frames']:012d}"] * 2

    # Another number of processes.
    (code, _, said), (other_code, _, other_said), _ = ended(start(["--resume", str(run)], 3))
    assert (code, other_code, other_said) == (2, 2, "")
    assert "env.num_envs = 2: 3 processes cannot have equal shares of it" in said
    words = [sys.executable, "-m", "fastdqn", "train", "--resume", str(run), "--total-frames"]
    alone = {"RANK": "0", "WORLD_SIZE": "1", "PYTHONPATH": str(ROOT)}
    frames = str(json.loads(out)["frames"] + 1_000)
    refused = subprocess.run([*words, frames], env=os.environ | alone, capture_output=True, text=True)
    assert refused.returncode == 2
    assert f"{run} was trained by 2 processes together, and here are 1" in refused.stderr
    afresh = subprocess.run(
        [*words, frames, "--inexact"], env=os.environ | alone, capture_output=True, text=True
    )
    assert afresh.returncode == 0, afresh.stderr
    assert "replay and games start afresh" in afresh.stderr


@pytest.mark.slow
def test_torchrun_starts_them_and_its_ctrl_c_saves_both(tmp_path):
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "fastdqn", "train"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    quiet = ["--progress", "none"]
    run = tmp_path / "r"
    stopped = subprocess.Popen(
        [*words, *new(run, divided(total_frames=10**8)), *quiet],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in background jobs
    )
    wait_until(lambda: rows(run / "metrics.jsonl"), [stopped])
    stopped.send_signal(signal.SIGINT)
    ((_, out, said),) = ended([stopped])
    frames = json.loads(out)["frames"]
    assert f"torchrun --nproc-per-node 2 -m fastdqn train --resume {run}" in said
    for path in (run, run / "rank-1"):
        assert checkpoint.newest(path / "checkpoints").name == f"frame-{frames:012d}"
    again = [*words, "--resume", str(run), "--total-frames", str(frames + 800), *quiet]
    done = subprocess.run(again, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["frames"] >= frames + 800
    single = divided(total_frames=1_600, seed=2)
    single = replace(single, pipeline=replace(single.pipeline, data_parallel=False))
    refused = subprocess.run(
        [*words, *new(tmp_path / "s", single), *quiet], env=env, capture_output=True, text=True
    )
    assert refused.stderr.count("fastdqn train: torchrun has started 2 processes") == 1
    assert "--pipeline.data-parallel" in refused.stderr


# Without processes ------------------------------------------------------------------------------------------


def test_mistaken_use_is_one_message_of_rank_0(tmp_path, capsys, monkeypatch):
    words = ["train", *new(tmp_path / "r", divided())]
    assert main(words) == 2
    assert "torchrun --nproc-per-node N -m fastdqn train" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    single = ["train", *new(tmp_path / "s", tiny())]
    assert main(single) == 2
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("RANK", "0")
    assert main(single) == 2
    assert "torchrun has started 2 processes" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()
    assert not (tmp_path / "s").exists()


def test_a_rank_has_its_share(monkeypatch):
    config = divided()
    mine = share(config, 2)
    assert (mine.env.num_envs, mine.replay.capacity, mine.learner.batch_size) == (1, 300, 2)
    large = divided(replay=replace(config.replay, capacity=400_000))  # 2.8 GB of raw frames, in two parts
    assert memory.storage(share(large, 2)) == memory.storage(large) == "delta"
    assert len({seed for rank in range(3) for seed in run_seeds(1, rank)}) == 12
    assert run_seeds(1, 0) == run_seeds(1)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UserError) as error:
        check(config)
    said = str(error.value).splitlines()
    assert said[0] == "env.num_envs = 2: 3 processes cannot have equal shares of it; try `env.num_envs = 3`"
    assert said[1].startswith("learner.batch_size = 4: ")
    check(tiny())  # which divides nothing


def test_the_processes_of_a_machine_share_its_memory(monkeypatch):
    monkeypatch.setattr(memory, "host_bytes", lambda: 4 * 2**30)
    config = divided(replay=replace(tiny().replay, capacity=800_000, storage="raw"))  # 5.3 GiB
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"= 2\.6 GiB, and each of 2 processes has 2\.0 GiB to spare"):
        check(config)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")  # a machine each
    check(config)


def test_what_ranks_hold_is_summed_and_shares_are_means():
    stats = [ExperienceStats(10, 0.5, 100, 50.0, 1), ExperienceStats(20, 1.0, 300, 70.0, 2)]
    assert of_all(stats) == ExperienceStats(30, 0.75, 400, 60.0, 3)
    assert of_all(stats[:1]) == stats[0]


class Two(Alone):
    """The first of two ranks; what the other one says is known beforehand."""

    count = 2

    def __init__(self, *others: object) -> None:
        self.others = list(others)

    def gather(self, value):
        return [value, self.others.pop(0)]


def saved_by(run: RunFolder, ranks: int, *, replay: bool = True) -> list[str]:
    for frames in (100, 200, 300):
        tensors = {"online.a": torch.zeros(2), "loop.sums": torch.zeros(3)}
        write = (lambda path: path.write_bytes(b"replay")) if replay else None
        everywhere = frames != 300
        checkpoint.save(
            run.checkpoints,
            frames,
            tensors,
            {"ranks": ranks},
            Config().network,
            4,
            2,
            write,
            replaces_older=lambda everywhere=everywhere: everywhere,
        )
    return [path.name for path in checkpoint.find(run.checkpoints)]


def test_the_newest_checkpoint_that_all_have_is_taken_and_newer_ones_go(tmp_path):
    run = RunFolder.create(tmp_path / "r", Config())
    names = saved_by(run, 2)
    assert len(names) == 3  # nothing older went: not every rank had the last one
    assert resume._load_newest(run, Two({}, names, True), inexact=False).path.name == names[2]
    found = resume._load_newest(run, Two({}, names[:2], True), inexact=False)
    assert found.path.name == names[1]
    assert found.replay is not None  # the newest that all had keeps it until the next is everywhere
    assert [path.name for path in checkpoint.find(run.checkpoints)] == names[:2]
    assert resume._load_newest(run, Two({}, names[:2], False), inexact=False).replay is None
    with pytest.raises(UserError, match="no checkpoint that all 2 processes have"):
        resume._load_newest(run, Two({}, ["frame-000000000999"]), inexact=False)


def test_another_number_of_ranks_is_refused_or_starts_afresh(tmp_path):
    run = RunFolder.create(tmp_path / "r", Config())
    names = saved_by(run, 4)
    for ranks in (ALONE, Two({})):
        with pytest.raises(UserError, match=rf"trained by 4 processes together, and here are {ranks.count}"):
            resume._load_newest(run, ranks, inexact=False)
        found = resume._load_newest(run, Two({}), inexact=True)
        assert (found.path.name, found.replay) == (names[-1], None)
    part = RunFolder.of_rank(run.path, Config(), 1)
    saved_by(part, 4)

    class Second(Two):
        index = 1

        def gather(self, value):
            return [self.others.pop(0), value]

    found = resume._load_newest(part, Second({"ranks": 4}), inexact=True)
    assert (found.replay, found.state) == (None, {"ranks": 4})
    assert len(checkpoint.find(part.checkpoints)) == len(names)  # nobody has accepted yet

    class Refused(Second):
        def gather(self, value):
            raise UserError("rank 0 does not")

    with pytest.raises(UserError):
        resume._forget_other_division(part, found, Refused({}))
    assert len(checkpoint.find(part.checkpoints)) == len(names)
    resume._forget_other_division(part, found, Second({}))
    assert checkpoint.find(part.checkpoints) == []  # of another division
