"""What a run reports of itself: episode returns, phase times, snapshots, and the files they go to."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastdqn.errors import UserError
from fastdqn.json_files import checked, parse_object
from fastdqn.outputs import write_atomic

PHASES = ("act", "env", "store", "sample", "learn")
"""Parts of one pass of the loop: choose actions, wait for the emulator, store, sample a batch, update."""

RECENT_GAMES = 20


@dataclass(frozen=True)
class Snapshot:
    """The state of a run at one moment, for people and programs to read.

    Attributes:
        frames: Emulator frames played.
        total_frames: Emulator frames that the run will play.
        steps: Environment steps.
        updates: Optimizer steps.
        episodes: Whole games finished.
        returns: Unclipped returns of the games that finished since the previous logged snapshot.
        return_mean: Mean of the last 20 games, `None` before the first game ends.
        return_best: Best game of the run.
        loss: Mean TD loss since the previous logged snapshot, `None` before the first update.
        q_mean: Mean value of the actions in the batches, likewise.
        grad_norm: Mean global gradient norm before clipping, likewise.
        epsilon: Exploration now.
        learning_rate: Step size now.
        replay_transitions: Transitions that can be sampled.
        replay_fill: Share of the frame slots in use, 0 to 1.
        replay_bytes: Memory that the replay holds when full, or now where frames are kept as what changes.
        replay_frame_bytes: What a frame takes of it, on the mean.
        seconds: Wall time since this process began to train.
        fps_recent: Frames per second over the last 10 s.
        fps_run: Frames per second since training began.
        eta_seconds: Time left at the recent speed, `None` while it is unknown.
        phase_share: Share of wall time for each of `PHASES`, 0 to 1, over the last 10 s.
        note: What is going on outside the plain loop ("compiling", "warming up"), or empty.
        solved_return: Mean of the last 20 games at which the run ends before its last frame, `None` for never.
        confirm_stop: Whether it ends so only after an evaluation.
    """

    frames: int
    total_frames: int
    steps: int
    updates: int
    episodes: int
    returns: Sequence[float]
    return_mean: float | None
    return_best: float | None
    loss: float | None
    q_mean: float | None
    grad_norm: float | None
    epsilon: float
    learning_rate: float
    replay_transitions: int
    replay_fill: float
    replay_bytes: int
    replay_frame_bytes: float
    seconds: float
    fps_recent: float
    fps_run: float
    eta_seconds: float | None
    phase_share: Mapping[str, float]
    note: str = ""
    solved_return: float | None = None
    confirm_stop: bool = False

    def row(self) -> dict[str, Any]:
        """Return what a log keeps: `timing` holds all that differs between two runs of one seed."""
        timing = ("seconds", "fps_recent", "fps_run", "eta_seconds", "phase_share")
        left_out = (*timing, "note", "solved_return", "confirm_stop")
        values = {name: value for name, value in vars(self).items() if name not in left_out}
        values["returns"] = list(self.returns)
        values["timing"] = {name: getattr(self, name) for name in timing if name != "phase_share"}
        values["timing"]["phase_share"] = dict(self.phase_share)
        return values


@dataclass
class Games:
    """Returns of whole games, from the step when each ended.

    Attributes:
        count: Games finished.
        best: Best return, `None` before the first.
        recent: The last 20 returns.
        since_logged: Returns since `take_logged` was last called.
    """

    count: int = 0
    best: float | None = None
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT_GAMES))
    since_logged: list[float] = field(default_factory=list)

    def add(self, returns: Sequence[float]) -> None:
        """Count finished games with these unclipped returns."""
        for value in returns:
            self.count += 1
            self.recent.append(value)
            self.since_logged.append(value)
            self.best = value if self.best is None else max(self.best, value)

    @property
    def mean(self) -> float | None:
        """Mean return of the last 20 games."""
        return sum(self.recent) / len(self.recent) if self.recent else None

    def solved(self, wanted: float | None) -> bool:
        """Whether the last 20 games have a mean return of at least `wanted`; never where nothing is wanted."""
        if wanted is None or len(self.recent) < RECENT_GAMES:
            return False
        return sum(self.recent) >= RECENT_GAMES * wanted

    def take_logged(self) -> list[float]:
        """Return the games since the last call, and forget them."""
        taken, self.since_logged = self.since_logged, []
        return taken

    def state(self) -> dict[str, Any]:
        """Return all of it, as JSON values."""
        return {**vars(self), "recent": list(self.recent)}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.count, self.best, self.since_logged = state["count"], state["best"], list(state["since_logged"])
        self.recent.extend(state["recent"])


class PhaseTimer:
    """Wall time of each phase. The phases of a pass follow each other, so one clock reading each is enough."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Add the time of the block to `phase`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - start


class RateWindow:
    """Frames per second and phase shares over a sliding window of wall time.

    Args:
        window_seconds: Length of the window.
    """

    def __init__(self, window_seconds: float) -> None:
        self._window = window_seconds
        self._marks: deque[tuple[float, int, dict[str, float]]] = deque()

    def mark(self, now: float, frames: int, phases: Mapping[str, float] | None = None) -> None:
        """Note the counters at time `now`; marks older than the window go, but for one that spans it."""
        self._marks.append((now, frames, dict(phases or {})))
        while len(self._marks) > 2 and now - self._marks[1][0] >= self._window:
            self._marks.popleft()

    @property
    def fps(self) -> float:
        """Frames per second between the window's first mark and its last; 0 before there are two."""
        if len(self._marks) < 2:
            return 0.0
        (start, first, _), (end, last, _) = self._marks[0], self._marks[-1]
        return (last - first) / (end - start) if end > start else 0.0

    @property
    def phase_share(self) -> dict[str, float]:
        """Share of the window's time that each phase took."""
        if len(self._marks) < 2:
            return {}
        (start, _, first), (end, _, last) = self._marks[0], self._marks[-1]
        return {name: (last[name] - first.get(name, 0.0)) / max(end - start, 1e-9) for name in last}


def _nowhere(row: Mapping[str, Any]) -> None:
    """Take a row, and do nothing with it."""


def scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a row and of its timing, frames aside: what a curve can be drawn of."""
    values = {**row, **row.get("timing", {})}
    return {
        name: value for name, value in values.items() if isinstance(value, int | float) and name != "frames"
    }


class JsonLines:
    """A file of one JSON object a line, each on disk as soon as it is written.

    Args:
        path: The file; it is continued where it exists.
        keep_frames: Rows with more frames than this are dropped first: a resumed run writes them again.
        also: Called with each row, those aside that an earlier process wrote and this one writes again.
    """

    def __init__(
        self, path: Path, keep_frames: int | None = None, also: Callable[[Mapping[str, Any]], None] = _nowhere
    ) -> None:
        self._also, self._reported_frames = also, 0
        if keep_frames is not None and path.exists():
            lines = path.read_bytes().splitlines(keepends=True)
            if lines and not lines[-1].endswith(b"\n"):  # cut short by a kill, newer than any checkpoint
                lines.pop()
            frames = [_frames(line, path, number) for number, line in enumerate(lines, 1)]
            kept = [line for line, of in zip(lines, frames, strict=True) if of <= keep_frames]
            self._reported_frames = max(frames, default=0)
            write_atomic(path, b"".join(kept), temporary=path.with_suffix(".tmp"))
        self._file = path.open("ab", buffering=0)
        self._waiting = b""

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one row. What a full disk does not take is kept, and written before the next row or at `sync`."""
        self._waiting += (json.dumps(row) + "\n").encode()
        with suppress(OSError):
            self._flush()
        if row["frames"] > self._reported_frames:
            self._also(row)

    def sync(self) -> None:
        """Have the disk hold every row before going on.

        Raises:
            OSError: It does not take them.
        """
        self._flush()
        os.fsync(self._file.fileno())

    def move(self, path: Path) -> None:
        """Go on where the file, which is open, has been renamed to."""

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):
            self._flush()
        self._file.close()

    def _flush(self) -> None:
        while self._waiting:
            self._waiting = self._waiting[self._file.write(self._waiting) :]


def _frames(line: bytes, path: Path, number: int) -> int:
    try:
        return int(checked(parse_object(line).get("frames"), int, "frames"))
    except ValueError as error:
        raise UserError(
            f"{path}: line {number} cannot be read: {error}. Remove it to go on without that row."
        ) from None


class JsonLinesAndEvents(JsonLines):
    """The same rows once more as TensorBoard events, in `tensorboard/` beside the file; lists are left out.

    Args:
        path: The file.
        keep_frames: As for `JsonLines`; TensorBoard then ignores later events of an earlier process.
        also: As for `JsonLines`.
    """

    def __init__(
        self, path: Path, keep_frames: int | None = None, also: Callable[[Mapping[str, Any]], None] = _nowhere
    ) -> None:
        super().__init__(path, keep_frames, also)
        self._events = _events(path, None if not keep_frames else keep_frames + 1)

    def move(self, path: Path) -> None:
        """Go on in another file of events: TensorBoard opens its files anew by their names."""
        with suppress(OSError):
            self._events.close()
        self._events = _events(path) if takes_events(path) else _NoEvents()

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one row."""
        super().write(row)
        with suppress(OSError):  # a full disk; the file has, or will have, the row
            for name, value in scalars(row).items():
                self._events.add_scalar(name, value, row["frames"])
            self._events.flush()

    def close(self) -> None:
        """Close both."""
        super().close()
        with suppress(OSError):
            self._events.close()


class _NoEvents:
    """Takes the place of TensorBoard's writer where that cannot write."""

    def add_scalar(self, name: str, value: float, frames: int) -> None:
        pass

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def takes_events(path: Path) -> bool:
    """Return whether TensorBoard can write beside a file: it takes only paths in UTF-8."""
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError:
        return False
    return True


def writes_events() -> bool:
    """Return whether TensorBoard is installed: who installed it wants events, so there is no setting."""
    return importlib.util.find_spec("tensorboard") is not None


def _events(path: Path, purge: int | None = None) -> Any:
    tensorboard: Any = importlib.import_module("torch.utils.tensorboard")
    folder = path.parent / "tensorboard" / path.stem
    return tensorboard.SummaryWriter(str(folder), purge_step=purge)


def open_rows(
    path: Path, keep_frames: int | None = None, also: Callable[[Mapping[str, Any]], None] = _nowhere
) -> JsonLines:
    """Open a file of rows, with TensorBoard events beside it where that is installed and can write there."""
    kind = JsonLinesAndEvents if writes_events() and takes_events(path) else JsonLines
    return kind(path, keep_frames, also)


class Speed:
    """Frames per second over 10 s, over 60 s and over all, from marks made a few times a second.

    The first two are of training alone: evaluations are pauses.
    """

    def __init__(self, frames: int) -> None:
        self._start, self._first_frame = time.perf_counter(), frames
        self._recent, self._minute = RateWindow(10.0), RateWindow(60.0)
        self._frames = frames
        self._paused_seconds = 0.0
        self._pause_began: float | None = None

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Leave the time of the block out of recent speeds."""
        self._pause_began = began = time.perf_counter()
        try:
            yield
        finally:
            self._pause_began = None
            self._paused_seconds += time.perf_counter() - began

    @property
    def seconds(self) -> float:
        """Wall time since the start."""
        return time.perf_counter() - self._start

    def mark(self, frames: int, phases: Mapping[str, float], learning: bool) -> None:
        """Note the counters now. The 60 s window opens when learning has started."""
        now, self._frames = self._pause_began or time.perf_counter(), frames
        now -= self._paused_seconds
        self._recent.mark(now, frames, phases)
        if learning:
            self._minute.mark(now, frames)

    @property
    def recent(self) -> float:
        """Over the last 10 s."""
        return self._recent.fps

    @property
    def run(self) -> float:
        """Since the start."""
        return (self._frames - self._first_frame) / max(self.seconds, 1e-9)

    @property
    def final(self) -> float:
        """After learning started, over the last 60 s or all of it; of the whole run where nothing was learned."""
        return self._minute.fps or self.run

    @property
    def phase_share(self) -> dict[str, float]:
        """Share of each phase over the last 10 s."""
        return self._recent.phase_share
