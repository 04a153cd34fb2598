"""One run of a sweep as a process: `fastdqn train`, begun or resumed, on cores and a GPU that it is given."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fastdqn.runs.lock import HeldError, RunLock
from fastdqn.runs.sweep import PlannedRun, State, Sweep, can_resume, is_done

if TYPE_CHECKING:
    from fastdqn.runs.placement import Slot

PROGRAM: Sequence[str] = (sys.executable, "-m", "fastdqn")

POLL_SECONDS = 0.2
_TAIL_BYTES = 4_000
_STOPPED = tuple(128 + number for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR2))


@dataclass(frozen=True)
class Outcome:
    """How a run's process ended.

    Attributes:
        state: done, stopped (to be resumed), waiting (nothing was begun or saved), or failed.
        message: Why it failed, in the run's own last words.
    """

    state: State
    message: str = ""


def train(
    sweep: Sweep,
    run: PlannedRun,
    slot: Slot | None,
    stop_requested: Callable[[], bool] = lambda: False,
    kill_requested: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train a run to its end in a process of its own; nothing is done where it has ended already.

    The process saves and stops when its stdin ends: when it is asked to here, and also when this process dies,
    however it dies. A signal to the whole group (Ctrl-C) reaches both, and that is no second request to stop.

    Args:
        sweep: The run's sweep.
        run: It.
        slot: Its cores and GPU; `None` where it has those that this process has.
        stop_requested: Asked a few times a second; the run is saved and stopped when it says yes.
        kill_requested: Likewise; the run is ended at once.
    """
    if is_done(sweep.folder(run), run.config):
        return Outcome("done")
    wait_until_free(sweep.folder(run), lambda: stop_requested() or kill_requested())
    if is_done(sweep.folder(run), run.config):  # by now
        return Outcome("done")
    if stop_requested() or kill_requested():
        return Outcome("stopped" if can_resume(sweep.folder(run)) else "waiting")
    with sweep.log_file(run).open("ab") as log:
        start = log.tell()
        with pinned(slot.cores if slot else ()):
            process = subprocess.Popen(
                [*PROGRAM, *words(sweep, run)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment(sweep.threads, slot),
            )
        try:
            code = _wait(process, stop_requested, kill_requested)
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            assert process.stdin
            process.stdin.close()
    if code == 0:
        return Outcome("done")
    if stop_requested() or code in _STOPPED:
        return Outcome("stopped" if can_resume(sweep.folder(run)) else "waiting")
    return Outcome("failed", _last_words(sweep.log_file(run), start, code))


@contextmanager
def pinned(cores: Sequence[int]) -> Iterator[None]:
    """Pin this thread while the block runs, and so the processes that it starts; no cores leave it as it is."""
    before = os.sched_getaffinity(0)
    if cores:
        os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def wait_until_free(folder: Path, stop_requested: Callable[[], bool]) -> None:
    """Wait while another process trains a run: one whose sweep has died saves it, and stops.

    Args:
        folder: The run's, which need not exist.
        stop_requested: Asked a few times a second; ends the waiting.
    """
    while folder.exists() and not stop_requested():
        try:
            RunLock(folder).release()
        except HeldError:
            time.sleep(POLL_SECONDS)
        else:
            return


def words(sweep: Sweep, run: PlannedRun) -> list[str]:
    """Return the command line that begins a run, or goes on from its newest checkpoint.

    What has no checkpoint is begun anew: nothing is lost but what was played before the first one.
    """
    folder = sweep.folder(run)
    if can_resume(folder):
        what = ["--resume", str(folder)]
    else:
        what = ["--config", str(sweep.config_file(run)), "--run-dir", str(folder), "--overwrite"]
    return ["train", *what, "--progress", "plain", "--stop-on-eof"]


def environment(threads: int, slot: Slot | None) -> dict[str, str]:
    """Return the environment of a run's process."""
    env = os.environ | {"OMP_NUM_THREADS": str(threads)}
    if slot and slot.gpu is not None:
        env["CUDA_VISIBLE_DEVICES"] = slot.gpu
    return env


def _wait(
    process: subprocess.Popen[bytes], stop_requested: Callable[[], bool], kill_requested: Callable[[], bool]
) -> int:
    assert process.stdin
    while True:
        try:
            return process.wait(POLL_SECONDS)
        except subprocess.TimeoutExpired:
            if kill_requested():
                process.kill()
            elif stop_requested():
                process.stdin.close()


def _last_words(log: Path, start: int, code: int) -> str:
    """Return why a run failed: its message in the log, or the signal that ended it."""
    if code < 0:
        why = " (the system does so with what takes too much memory)" if code == -signal.SIGKILL else ""
        return f"killed by {signal.Signals(-code).name}{why}"
    with log.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(start, size - _TAIL_BYTES))
        lines = file.read().decode(errors="replace").strip().splitlines()
    ours = [number for number, line in enumerate(lines) if line.startswith("fastdqn")]
    said = lines[ours[-1] :] if ours else lines[-1:]
    return " ".join(line.strip() for line in said) or f"exit code {code}"
