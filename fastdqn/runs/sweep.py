"""A sweep: every combination of games, seeds, presets and values is a run of its own, in one folder.

    SWEEP/sweep.json          the manifest: the runs, the threads of each, the command, versions and machine
    SWEEP/configs/NAME.json   the configuration of each run
    SWEEP/NAME/               its folder, once it has begun
    SWEEP/logs/NAME.txt       what it said

What has been done of a run is read from its folder alone: a sweep that was stopped, killed or moved goes on from
what lies there.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from fastdqn.config import Config, differences, in_words
from fastdqn.errors import UserError
from fastdqn.json_files import checked, parse_object, read_object, read_text
from fastdqn.runs.ending import Progress
from fastdqn.runs.folder import machine_and_versions, write_text
from fastdqn.runs.lock import LOCK, RunLock

MANIFEST = "sweep.json"
_BEGUN = {LOCK, "configs", "logs", f"{MANIFEST}.tmp"}
"""What a process leaves that was killed before it wrote the manifest."""
FORMAT = 1
MOST_RUNS = 100_000
_LONGEST_NAME = 150  # of a file, with room for an ending
_TAIL_BYTES = 65_536  # of metrics.jsonl, where the last row is looked for

State = Literal["waiting", "running", "stopped", "done", "failed"]


@dataclass(frozen=True)
class PlannedRun:
    """One combination.

    Attributes:
        name: Its folder's, made of what differs between the runs of a sweep.
        config: What it computes.
    """

    name: str
    config: Config


@dataclass(frozen=True)
class Sweep:
    """The folder of a sweep.

    Attributes:
        path: It.
        runs: Of the manifest, in its order.
        threads: PyTorch's CPU threads in each run. Sums over threads round by their number, so it is the sweep's.
    """

    path: Path
    runs: tuple[PlannedRun, ...]
    threads: int = 1

    def folder(self, run: PlannedRun) -> Path:
        """Return the folder of a run, which need not exist."""
        return self.path / run.name

    def config_file(self, run: PlannedRun) -> Path:
        """Return the file of a run's configuration."""
        return self.path / "configs" / f"{run.name}.json"

    def log_file(self, run: PlannedRun) -> Path:
        """Return the file that a run's messages are appended to."""
        return self.path / "logs" / f"{run.name}.txt"


@dataclass(frozen=True)
class RunStatus:
    """How far a run is.

    Attributes:
        name: The run's.
        state: waiting: not begun; running; stopped: saved, to be resumed; done; failed.
        frames: Emulator frames played, by its last row of metrics.
        total_frames: Those that it will play.
        fps: Frames per second by that row, `None` before the first.
        return_mean: Mean unclipped return of its last 20 games, likewise.
        eta_seconds: Time left at that speed, `None` where it is unknown or over.
        message: Why it failed.
    """

    name: str
    state: State
    frames: int
    total_frames: int
    fps: float | None = None
    return_mean: float | None = None
    eta_seconds: float | None = None
    message: str = ""


def grid(
    bases: Sequence[Config], games: Sequence[str], seeds: Sequence[int], values: Mapping[str, Sequence[Any]]
) -> list[PlannedRun]:
    """Return every combination: games outermost, then presets, values, and seeds innermost.

    Args:
        bases: The presets' configurations.
        games: Names.
        seeds: Of each combination.
        values: By a setting's dotted name, such as `learner.n_step`; one with several is a part of the name.

    Raises:
        UserError: A combination stands there twice, or there are too many.
    """
    count = len(games) * len(bases) * len(seeds) * math.prod(len(several) for several in values.values())
    if count > MOST_RUNS:
        raise UserError(f"these are {count:,} runs; a sweep has {MOST_RUNS:,} at most.")
    runs: dict[str, PlannedRun] = {}
    chosen = [[(name, value) for value in several] for name, several in values.items()]
    for game, base, changes, seed in itertools.product(games, bases, list(itertools.product(*chosen)), seeds):
        config = replace(changed(base, dict(changes)), game=game, seed=seed)
        varied = [f"{name}={value}" for name, value in changes if len(values[name]) > 1]
        name = _file_name([game, base.preset, *varied, f"seed{seed}"])
        if name in runs:
            raise UserError(f"{name}: this combination stands there twice.")
        runs[name] = PlannedRun(name, config)
    return list(runs.values())


def changed(config: Config, values: Mapping[str, Any]) -> Config:
    """Return a configuration with other values, by their dotted names."""
    result: Any = config
    for name, value in values.items():
        section, _, leaf = name.rpartition(".")
        if section:
            result = replace(result, **{section: replace(getattr(result, section), **{leaf: value})})
        else:
            result = replace(result, **{leaf: value})
    assert isinstance(result, Config)
    return result


def read(path: Path) -> Sweep:
    """Read the manifest of a sweep and the configurations of its runs.

    Raises:
        UserError: The folder has no manifest, or one that cannot be read.
    """
    file = path / MANIFEST
    if not file.is_file():
        what = f"has no {MANIFEST}" if path.exists() else "does not exist"
        raise UserError(f"{path} is not a sweep: it {what}. `fastdqn sweep` makes one.")
    try:
        data = read_object(file)
        if data.get("format") != FORMAT:
            raise ValueError(f"format = {data.get('format')!r}: {FORMAT} is wanted")
        names = checked(data.get("runs"), list[str], "runs")
        threads = checked(data.get("threads"), int, "threads")
        sweep = Sweep(path, (), threads)
        runs = [PlannedRun(name, _read_config(path / "configs" / f"{name}.json")) for name in names]
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}") from None
    return replace(sweep, runs=tuple(runs))


def _read_config(file: Path) -> Config:
    try:
        return Config.from_json(read_text(file))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: {error}") from None


@contextmanager
def opened(path: Path, runs: Sequence[PlannedRun], threads: int) -> Iterator[Sweep]:
    """Make a sweep's folder, or go on in one, and keep every other process from doing so meanwhile.

    Runs that it has already stay; new ones are added.

    Args:
        path: The folder.
        runs: What the command names.
        threads: Of each run.

    Yields:
        The sweep with the runs that the command names.

    Raises:
        UserError: There is something else, a run computes something else, or another process is at it.
    """
    if path.exists() and not (path / MANIFEST).exists() and {one.name for one in path.iterdir()} - _BEGUN:
        raise UserError(f"{path} exists already and is not a sweep: choose another `out`.")
    path.mkdir(parents=True, exist_ok=True)
    lock = RunLock(path)
    try:
        before = read(path) if (path / MANIFEST).exists() else Sweep(path, (), threads)
        if before.threads != threads:
            raise UserError(
                f"threads = {threads}: the runs of {path} have {before.threads}, which decides how sums round; "
                "choose another `out`, or the same number."
            )
        configs = {run.name: run.config for run in before.runs}
        for run in runs:
            differing = differences(run.config, configs.get(run.name, run.config))
            if differing:
                raise UserError(
                    f"{path / run.name} is a run of another configuration: {in_words(_turned(differing))}.\n"
                    "Choose another `out`, or the values that it has."
                )
        sweep = Sweep(path, tuple(runs), threads)
        (path / "configs").mkdir(exist_ok=True)
        (path / "logs").mkdir(exist_ok=True)
        for run in runs:
            if run.name not in configs:
                write_text(sweep.config_file(run), run.config.to_json())
        names = [*configs, *(run.name for run in runs if run.name not in configs)]
        if len(names) > len(configs):
            manifest = {"format": FORMAT, "runs": names, "threads": threads, **machine_and_versions()}
            write_text(path / MANIFEST, json.dumps(manifest, indent=2) + "\n")
        yield sweep
    finally:
        lock.release()


def _turned(found: dict[str, tuple[Any, Any]]) -> dict[str, tuple[Any, Any]]:
    return {name: (there, here) for name, (here, there) in found.items()}


def is_done(folder: Path, config: Config) -> bool:
    """Whether a run has ended as its configuration says: by its summary, or by its newest checkpoint.

    A kill between the two leaves a run that is complete and has no summary, and that cannot be resumed.
    """
    with suppress(OSError, ValueError):
        if read_object(folder / "summary.json").get("interrupted") is False:
            return True
    saved = sorted((folder / "checkpoints").glob("frame-*"))
    with suppress(OSError, ValueError, KeyError, TypeError, IndexError):
        state = read_object(saved[-1] / "state.json")
        progress = Progress.of_state(state, config)
        return progress.complete and not progress.evaluation_is_due  # which was cut short
    return False


def can_resume(folder: Path) -> bool:
    """Whether a run has a checkpoint to go on from; a folder that has its name is whole.

    Raises:
        OSError: The disk does not tell. Nothing is to be begun anew for that.
    """
    try:
        with os.scandir(folder / "checkpoints") as entries:
            return any(entry.name.startswith("frame-") for entry in entries)
    except FileNotFoundError:
        return False


def last_row(folder: Path) -> dict[str, Any]:
    """Return the last whole row of a run's metrics, empty where there is none."""
    with suppress(OSError, ValueError), (folder / "metrics.jsonl").open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _TAIL_BYTES))
        lines = file.read().split(b"\n")
        if len(lines) > 1:
            return parse_object(lines[-2])
    return {}


def status(sweep: Sweep, run: PlannedRun, state: State | None = None, message: str = "") -> RunStatus:
    """Return how far a run is, from its folder.

    Args:
        sweep: Its sweep.
        run: It.
        state: What is known of it; `None` where nobody works on it.
        message: Why it failed.
    """
    folder, total = sweep.folder(run), run.config.total_frames
    done = is_done(folder, run.config)
    if state is None:
        state = "done" if done else "stopped" if can_resume(folder) else "waiting"
    row = last_row(folder)
    timing: Mapping[str, Any] = row.get("timing") or {}
    frames = int(row.get("frames") or 0)
    fps = timing.get("fps_recent") or timing.get("fps_run")
    left = max(0, total - frames)
    eta = left / fps if fps and state == "running" else None
    return RunStatus(run.name, state, frames, total, fps, row.get("return_mean"), eta, message)


def _file_name(parts: Sequence[str]) -> str:
    """Join what a run is named after; letters that a file system may not take become underscores."""
    name = re.sub(r"[^\w.=+-]", "_", "-".join(parts), flags=re.ASCII)
    if len(name) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256("-".join(parts).encode()).hexdigest()[:12]
    return f"{name[: _LONGEST_NAME - 20]}-{digest}-{parts[-1]}"
