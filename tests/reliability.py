"""Kill, damage, fill and wait: the figures of docs/reliability.md.

    python tests/reliability.py kills --count 100
    python tests/reliability.py damages --count 1000
    python tests/reliability.py full-disk          # needs the right to mount a tmpfs
    python tests/reliability.py memory --minutes 60
    python tests/reliability.py memory --minutes 60 --stressed

Runs are real (EnvPool's Breakout, PyTorch), but tiny: a network of 1/16 of the width, two games, a replay of a few
hundred frames, a checkpoint every 400 frames. `memory` without `--stressed` is Pong as `quick` trains it. Each
command prints one JSON object and exits with 1 if anything was not as it should be.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from array import array
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for a script, where it lies is first

from fastdqn.config import CheckpointConfig, Config, EvaluationConfig
from fastdqn.errors import RunFailedError, UserError
from fastdqn.presets import PRESETS
from fastdqn.replay import ReplayBuffer
from fastdqn.runs import checkpoint
from fastdqn.runs.folder import RunFolder
from fastdqn.runs.trainer import train
from tests.runs.test_resume import differences, outcome, tiny


def small() -> Config:
    """A run that saves all the time, is evaluated now and then, and never ends."""
    config = tiny(
        total_frames=10_000_000,
        evaluation=EvaluationConfig(every_frames=6_000, episodes=2, max_episode_frames=400),
    )
    return replace(
        config,
        checkpoint=CheckpointConfig(every_frames=400, keep=3),
        env=replace(config.env, restart_steps=1_500),
    )


def train_until(run: RunFolder, rows: int, **options: Any) -> None:
    """Train until metrics.jsonl has this many rows: a moment that depends on frames alone."""

    def enough() -> bool:
        return run.metrics.exists() and run.metrics.read_bytes().count(b"\n") >= rows

    train(run, stop_requested=enough, **options)


# Kills

MOST_SECONDS = 3.0
"""Processor time of a process before it is killed, at most; half a second of it is the start."""


def kills(count: int, seed: int, folder: Path) -> dict[str, Any]:
    """Kill a run at random moments; each time resume what is left; at the end compare with a run left alone.

    Every process is forked from this one, which has imported everything and started nothing, and dies of SIGKILL.
    """
    rng = random.Random(seed)
    run = RunFolder.create(folder / "killed", small())
    run.unlock()  # the processes take it, one after the other
    facts: Counter[str] = Counter()
    saved_last = ""
    frames_lost = []
    for number in range(count):
        before = [path.name for path in checkpoint.find(run.checkpoints)]
        told = killed_process(run, resuming=bool(before), after=rng.uniform(0.0, MOST_SECONDS))
        facts["killed"] += 1
        facts["killed while saving"] += bool(list(run.checkpoints.glob("tmp-*")))
        resumed = [Path(line.split(",")[0]).name for line in told if line.startswith("going on from")]
        facts["resumed"] += len(resumed)
        if resumed and resumed[0].split()[-1] != before[-1]:
            facts["resumed from another checkpoint than the newest"] += 1
        saved = [Path(line.removeprefix("saved ")).name for line in told if line.startswith("saved ")]
        saved_last = saved[-1] if saved else saved_last
        left = checkpoint.find(run.checkpoints)
        facts["checkpoints saved"] += len(saved)
        facts["saved checkpoints lost"] += bool(saved_last) and (not left or left[-1].name < saved_last)
        for path in left:
            if not loads(path):
                facts["checkpoints damaged"] += 1
        if left:
            frames_lost.append(frames_after(run, left[-1]))
        print(
            f"{number + 1} kills, at {left[-1].name if left else 'no checkpoint'}",
            file=sys.stderr,
            flush=True,
        )
    rows = 2 + run.metrics.read_bytes().count(b"\n")
    train_until(RunFolder.open(run.path), rows, resume=True)
    alone = RunFolder.create(folder / "alone", small())
    train_until(alone, rows)
    differ = differences(outcome(run), outcome(alone))
    if run.evaluations.read_bytes() != alone.evaluations.read_bytes():
        differ.append("evaluations.jsonl")
    facts["differences from a run left alone"] = len(differ)
    wrong = (
        "resumed from another checkpoint than the newest",
        "saved checkpoints lost",
        "checkpoints damaged",
    )
    return {
        **facts,
        **{name: facts[name] for name in wrong},
        "frames at the end": checkpoint.load(checkpoint.newest(run.checkpoints)).state["frames"],
        "most rows of metrics written after the last checkpoint": max(frames_lost, default=0),
        "ok": not differ and not any(facts[name] for name in wrong),
    }


def killed_process(run: RunFolder, resuming: bool, after: float) -> list[str]:
    """Train in a process of its own, kill it, and return what it had said.

    Args:
        run: What to train.
        resuming: There is a checkpoint.
        after: Seconds of processor time that the process gets: a busy machine changes nothing.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        code = 1
        try:
            opened = RunFolder.open(run.path)
            train(opened, resume=resuming, say=lambda line: os.write(writer, f"{line}\n".encode()) and None)
        except BaseException as error:
            os.write(writer, f"FAILED {error!r}\n".encode())
        finally:
            os._exit(code)
    os.close(writer)
    while processor_seconds(child) < after:
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(reader) as pipe:
        lines = pipe.read().splitlines()
    failed = [line for line in lines if line.startswith("FAILED")]
    if failed:
        raise SystemExit(f"a process ended by itself: {failed}")
    return lines


def processor_seconds(process: int) -> float:
    """Processor time that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def loads(path: Path) -> bool:
    """Whether a checkpoint is whole."""
    try:
        saved = checkpoint.load(path)
        if saved.replay:
            ReplayBuffer.from_file(saved.replay)
    except (UserError, ValueError):
        return False
    return True


def frames_after(run: RunFolder, path: Path) -> int:
    """Rows of metrics that are newer than a checkpoint: they are computed again."""
    frames = int(path.name.rpartition("-")[2])
    lines = run.metrics.read_text().splitlines(keepends=True) if run.metrics.exists() else []
    return sum(json.loads(line)["frames"] > frames for line in lines if line.endswith("\n"))


# Damages


def damages(count: int, seed: int, folder: Path) -> dict[str, Any]:
    """Damage a checkpoint in random ways; each must be refused with a message, or change nothing."""
    rng = random.Random(seed)
    config = replace(small(), total_frames=3_000, evaluation=EvaluationConfig())
    config = replace(config, replay=replace(config.replay, capacity=60))
    run = RunFolder.create(folder / "run", config)
    train(run)
    other, newest = checkpoint.find(run.checkpoints)[-2:]
    whole = read(newest)
    facts: Counter[str] = Counter()
    for _ in range(count):
        place = folder / "damaged" / newest.name
        shutil.rmtree(place.parent, ignore_errors=True)
        shutil.copytree(newest, place)
        what = damage(place, other, rng)
        with suppress(UserError):  # apart: who plays reads fewer files than who resumes
            if policy(place) != whole[2]:
                facts["TAKEN AS GOOD"] += 1
        try:
            same = read(place) == whole
            facts["harmless" if same else "TAKEN AS GOOD"] += 1
            facts[f"{what}: harmless"] += same
        except (UserError, ValueError) as error:
            facts["refused"] += 1
            facts[f"{what}: refused"] += 1
            if isinstance(error, ValueError):  # by the replay, whose file has a checksum of its own
                facts["refused by the replay alone"] += 1
    return {"damages": count, **dict(sorted(facts.items())), "ok": not facts["TAKEN AS GOOD"]}


def policy(path: Path) -> dict[str, bytes]:
    """The weights that playing would take from a checkpoint."""
    return {name: value.numpy().tobytes() for name, value in checkpoint.load_policy(path).weights.items()}


def read(path: Path) -> tuple[Any, ...]:
    """All that resuming, and playing, would take from a checkpoint."""
    saved = checkpoint.load(path)
    tensors = {name: (tensor.dtype, tensor.numpy().tobytes()) for name, tensor in saved.tensors.items()}
    weights = policy(path)
    replay = saved.replay.read_bytes() if saved.replay else None
    if saved.replay:
        ReplayBuffer.from_file(saved.replay)
    return tensors, saved.state, weights, replay


def damage(path: Path, other: Path, rng: random.Random) -> str:
    """Do one kind of harm to one file, or two; return what."""
    file, second = rng.sample(sorted(path.iterdir()), 2)
    data = bytearray(file.read_bytes())
    what = rng.choice(
        ["bit flip", "truncation", "deletion", "swap", "older file", "zeroed range", "extra bytes"]
    )
    if what == "bit flip":
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif what == "truncation":
        del data[rng.randrange(len(data)) :]
    elif what == "zeroed range":
        start = rng.randrange(len(data))
        size = min(rng.randrange(1, 4096), len(data) - start)
        data[start : start + size] = bytes(size)
    elif what == "extra bytes":
        place = rng.randrange(len(data) + 1)
        data[place:place] = rng.randbytes(rng.randrange(1, 64))
    if what == "deletion":
        file.unlink()
    elif what == "swap":
        file.write_bytes(second.read_bytes())
        second.write_bytes(data)
    elif what == "older file" and (other / file.name).exists():
        file.write_bytes((other / file.name).read_bytes())
    else:
        file.write_bytes(data)
    return what


# A full disk


def full_disk(folder: Path) -> dict[str, Any]:
    """Let a tmpfs fill up under a run: it goes on, then fails at its last save; what it had saved is intact."""
    disk = folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32M", "tmpfs", str(disk)], check=True)
    try:
        return _full_disk(folder, disk)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def _full_disk(folder: Path, disk: Path) -> dict[str, Any]:
    config = replace(small(), total_frames=6_000, evaluation=EvaluationConfig())
    run, said = RunFolder.create(disk / "run", config), []
    filler = disk / "filler"

    def say(line: str) -> None:
        said.append(line)
        if line.startswith("saved") and len(said) > 4 and not filler.exists():
            fill(filler)

    try:
        train(run, say=say)
        failure = ""
    except RunFailedError as error:
        failure = str(error)
    kept = [path.name for path in checkpoint.find(run.checkpoints)]
    intact = all(loads(path) for path in checkpoint.find(run.checkpoints))
    rest = [path.name for path in run.checkpoints.glob("tmp-*")]
    filler.unlink()
    train(RunFolder.open(run.path), resume=True)
    alone = RunFolder.create(folder / "alone", config)
    train(alone)
    differ = differences(outcome(run), outcome(alone))
    not_saved = sum(line.startswith("NOT SAVED") for line in said)
    return {
        "saves that did not fit, and training went on": not_saved,
        "the last save": failure.splitlines()[0] if failure else "",
        "checkpoints left": kept,
        "all intact": intact,
        "halves left": rest,
        "differences, once there was room and the run was resumed": differ,
        "ok": bool(not_saved and failure and kept and intact and not rest and not differ),
    }


def fill(path: Path) -> None:
    """Write until the disk takes no more."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


# Memory


def memory(minutes: float, stressed: bool, folder: Path) -> dict[str, Any]:
    """Train for a while and watch the resident memory once the replay is full.

    Args:
        minutes: Of the whole run.
        stressed: Save, evaluate and make games anew hundreds of times, beside a tiny network and replay; else
            Pong as `quick` trains it, with evaluations.
        folder: Where the run goes.
    """
    run = RunFolder.create(folder / "run", restless() if stressed else evaluated_quick())
    start, full_at = time.monotonic(), []
    seconds, sizes = array("d"), array("q")  # small: the watching itself is in the figures

    def watch(snapshot: Any) -> None:
        if snapshot.replay_fill > 0.999 and not full_at:
            full_at.append(time.monotonic() - start)
        if full_at:
            seconds.append(time.monotonic() - start)
            sizes.append(resident())

    summary = train(run, report=watch, stop_requested=lambda: time.monotonic() - start > 60 * minutes)
    # What is allocated once, on the first checkpoint and the first evaluation, is no growth: a tenth is left out.
    settled = [size for at, size in zip(seconds, sizes, strict=True) if at > full_at[0] + 6 * minutes]
    tenths = [part.mean() / 1e6 for part in np.array_split(np.array(settled), 10)]
    growth = tenths[-1] / tenths[0] - 1
    return {
        "minutes": minutes,
        "frames": summary.frames,
        "updates": summary.updates,
        "checkpoints": (run.path / "log.txt").read_text().count(" saved "),
        "games made anew": checkpoint.load(checkpoint.newest(run.checkpoints)).state["generation"],
        "evaluations": run.evaluations.read_bytes().count(b"\n"),
        "replay full after s": round(full_at[0], 1),
        "resident MB when it was full": round(sizes[0] / 1e6, 1),
        "resident MB in each tenth of what followed": [round(float(size), 1) for size in tenths],
        "resident MB, least and most": [round(min(settled) / 1e6, 1), round(max(settled) / 1e6, 1)],
        "growth": round(float(growth), 5),
        "ok": bool(abs(growth) < 0.01),
    }


def evaluated_quick() -> Config:
    """Return what `make train` does, without an end and with evaluations."""
    evaluation = EvaluationConfig(every_frames=200_000, episodes=4, max_episode_frames=10_000)
    return replace(PRESETS["quick"].config, total_frames=10**9, evaluation=evaluation)


def restless() -> Config:
    """Return a tiny run that saves, evaluates and makes its games anew all the time."""
    config = tiny(
        total_frames=10**9,
        evaluation=EvaluationConfig(every_frames=8_000, episodes=2, max_episode_frames=800),
    )
    return replace(
        config,
        env=replace(config.env, restart_steps=3_000),
        replay=replace(config.replay, capacity=2_000),
        checkpoint=CheckpointConfig(every_frames=4_000, keep=3),
    )


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> int:
    """Run one of the parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=["kills", "damages", "full-disk", "memory"])
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--stressed", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        parts = {
            "kills": lambda: kills(arguments.count, arguments.seed, Path(folder)),
            "damages": lambda: damages(arguments.count, arguments.seed, Path(folder)),
            "full-disk": lambda: full_disk(Path(folder)),
            "memory": lambda: memory(arguments.minutes, arguments.stressed, Path(folder)),
        }
        facts = parts[arguments.part]()
    print(json.dumps({"part": arguments.part, **facts, "seconds": round(time.monotonic() - start)}, indent=1))
    return 0 if facts["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
