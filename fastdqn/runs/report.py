"""What a run says while it trains: lines for people, rows in files and trackers, snapshots for a display."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fastdqn.algorithm.update import METRICS
from fastdqn.config import Config
from fastdqn.cpu import cpu_bfloat16
from fastdqn.engine.learner import Learner
from fastdqn.errors import RunFailedError
from fastdqn.openmp import OtherPrograms, busy_note
from fastdqn.runs import trackers
from fastdqn.runs.build import Components, keeps_replay
from fastdqn.runs.experience import ExperienceStats, of_all
from fastdqn.runs.folder import RunFolder
from fastdqn.runs.memory import replay_bytes, storage
from fastdqn.runs.metrics import JsonLines, PhaseTimer, Snapshot, Speed, open_rows
from fastdqn.runs.trackers import Trackers

DISPLAY_SECONDS = 0.25

_BUSY_SECONDS = 10.0
"""Over which it is seen what other programs take."""

_FILLING = "filling the replay before the first update"


@dataclass(frozen=True)
class Summary:
    """How a run ended.

    Attributes:
        frames: Emulator frames played, of the whole run.
        frames_per_second: After learning started, over the last 60 s or all, of this process.
        updates: Optimizer steps, of the whole run.
        episodes: Whole games finished.
        mean_return_20: Mean unclipped return of the last 20 games, `None` where no game ended.
        seconds: Wall time of this process.
        run: The run's folder.
        interrupted: It was asked to stop before its last frame.
    """

    frames: int
    frames_per_second: float
    updates: int
    episodes: int
    mean_return_20: float | None
    seconds: float
    run: str
    interrupted: bool

    def row(self) -> dict[str, Any]:
        """Return the fields, for JSON."""
        return asdict(self)


class Report:
    """The run as others see it. Files follow frame counts alone; only the display follows the time.

    Means of the updates are queued in one pass and read in a later one, when they have arrived: the newest would
    have to be waited for.

    Args:
        run: Where the rows go.
        components: What is reported on.
        track: Trackers of a new run; one that is continued keeps those that it has.
        resuming: Whether the run goes on.
        display: Called with the state of the run.
        say: Called with lines for people.

    Attributes:
        phase: Times the phases of a pass.
    """

    def __init__(
        self,
        run: RunFolder,
        components: Components,
        track: Sequence[str],
        resuming: bool,
        display: Callable[[Snapshot], None],
        say: Callable[[str], None],
    ) -> None:
        self._run, self._components = run, components
        self._display, self._say = display, say
        self.phase = PhaseTimer()
        self._trackers = Trackers()
        self._rows, self._evaluations = self._open(run.metrics), self._open(run.evaluations)
        self._speed = Speed(components.clock.frames)
        self._displayed_at = 0.0
        self._means: Mapping[str, float] | None = None
        self._read_row = self._read_display = components.learner.means.read()
        self._row: Snapshot | None = None
        self._others, self._busy = OtherPrograms(), ""
        self._trackers = trackers.start(run, track, say, resuming=resuming)

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """Say what will run, and how long the block took where it compiles."""
        learner, config = self._components.learner, self._run.config
        self._say(
            f"{config.game}, {learner.num_parameters:,} parameters, on {learner.backend.device}, "
            f"{learner.accelerate}{precision_note(learner)}{threads_note(learner)}, "
            f"{frames_note(self._components.experience.stats())}"
        )
        self._say(replay_note(config))
        on_cpu = learner.backend.device.type == "cpu"
        if learner.precision == "bf16" and on_cpu and cpu_bfloat16() == "none":
            self._say(
                "this CPU has no instructions for bfloat16 (amx_bf16, avx512_bf16, Arm's bf16): "
                "`pipeline.precision = fp32` is faster here"
            )
        with self.compiling("the update"):
            yield
        self._speed = Speed(self._components.clock.frames)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Leave the block's time out of the speed of training."""
        with self._speed.pause():
            yield

    @contextmanager
    def compiling(self, what: str) -> Iterator[None]:
        """Say what the block compiles, should the run be compiled, and how long that took."""
        compiles = self._components.learner.accelerate != "eager"
        if compiles:
            self.display(f"compiling {what}")
        start = time.perf_counter()
        yield
        if compiles:
            self._say(f"compiled {what} in {time.perf_counter() - start:.1f} s")
        self._others = OtherPrograms()  # the compiler was one

    def begin_row_if_due(self) -> None:
        """Take a row's figures; those of the learner are on their way until the next actions have arrived."""
        clock, marks = self._components.clock, self._components.marks
        if clock.passed(self._run.config.log_every_frames, since=marks.logged):
            self._begin_row()

    def write_row(self) -> None:
        """Write the row that was begun, if one was.

        Raises:
            RunFailedError: The mean loss is not finite.
        """
        if self._row is None:
            return
        row, self._row, self._means = self._row, None, self._read_row()
        self._rows.write(replace(row, **(self._means or dict.fromkeys(METRICS))).row())
        if self._means and not math.isfinite(self._means["loss"]):
            raise RunFailedError(
                f"the loss is {self._means['loss']} at frame {row.frames}: the run has diverged.\n"
                "A smaller `optimizer.learning_rate` may help."
            )

    def write_evaluation(self, scores: Mapping[str, Any]) -> None:
        """Write a row of evaluations.jsonl."""
        self._evaluations.write(scores)

    def sync(self) -> None:
        """Have the disk hold every row before going on.

        Raises:
            OSError: It does not take them.
        """
        self._rows.sync()
        self._evaluations.sync()

    def move(self) -> None:
        """Go on in the run's folder, which has another name now."""
        self._rows.move(self._run.metrics)
        self._evaluations.move(self._run.evaluations)

    def display(self, note: str) -> None:
        """Show the state of the run, and what is going on outside the plain loop."""
        self._display(self._snapshot(note))

    @property
    def display_is_due(self) -> bool:
        """Whether the display is older than a moment."""
        return time.perf_counter() - self._displayed_at > DISPLAY_SECONDS

    def update_display(self) -> None:
        """Show the state of the run, with the means that were queued when it was shown last."""
        self._mark_speed()
        self._means, self._read_display = self._read_display(), self._components.learner.means.read()
        self._look_at_others()
        self.display(self._busy if self._components.clock.updates else _FILLING)
        self._displayed_at = time.perf_counter()

    def _look_at_others(self) -> None:
        alone = self._components.ranks.count == 1  # to each rank the others are other programs
        if alone and self._others.age > _BUSY_SECONDS:
            self._busy = busy_note(self._others.cores())

    def display_last(self) -> None:
        """Show the state of the run at its end, to the newest update."""
        self._mark_speed()
        self._means = self._components.learner.means.read()()
        self.display("")

    def write_last_row(self, *, complete: bool) -> None:
        """Write what no row has yet.

        Args:
            complete: Whether the run has played all of its frames; else the row is filled when it goes on.
        """
        if complete and self._components.clock.frames > self._components.marks.logged:
            self._begin_row()
        self.write_row()

    def summarize(self, *, complete: bool) -> Summary:
        """Write how the run ended, also to the trackers, and return it.

        Args:
            complete: Whether it has played all of its frames.
        """
        clock, games = self._components.clock, self._components.games
        summary = Summary(
            frames=clock.frames,
            frames_per_second=round(self._speed.final, 1),
            updates=clock.updates,
            episodes=games.count,
            mean_return_20=games.mean,
            seconds=round(self._speed.seconds, 1),
            run=str(self._run.path),
            interrupted=not complete,
        )
        self._run.write_summary(summary.row())
        self._trackers.finish(summary.row(), "finished" if complete else "stopped")
        return summary

    def close(self) -> None:
        """Close the files. Trackers that do not know yet how the run ended take it that it failed."""
        self._rows.close()
        self._evaluations.close()
        self._trackers.finish({}, "failed")

    def _open(self, path: Path) -> JsonLines:
        """Open a file of rows that the trackers get, too; of several ranks the first has all that goes with it."""
        frames = self._components.clock.frames
        if path == self._run.evaluations:  # one that no checkpoint knows of is played, and written, again
            frames = min(frames, self._components.marks.evaluated)
        if self._components.ranks.index > 0:
            return JsonLines(path, frames)
        return open_rows(path, frames, also=lambda row: self._trackers.write(path.stem, row))

    def _begin_row(self) -> None:
        held = of_all(self._components.ranks.gather(self._components.experience.stats()))
        self._row = self._snapshot("", held, returns=self._components.games.take_logged())
        self._read_row = self._components.learner.means.read(clear=True)
        self._components.marks.logged = self._components.clock.frames

    def _mark_speed(self) -> None:
        clock = self._components.clock
        self._speed.mark(clock.frames, self.phase.seconds, learning=clock.updates > 0)

    def _snapshot(
        self, note: str, held: ExperienceStats | None = None, returns: Sequence[float] | None = None
    ) -> Snapshot:
        clock, games, schedule = self._components.clock, self._components.games, self._components.schedule
        held, fps = held or self._components.experience.stats(), self._speed.recent
        means = self._means or dict.fromkeys(METRICS)
        total_frames = self._run.config.total_frames
        left = max(0, total_frames - clock.frames)  # the last pass may play a few too many
        return Snapshot(
            frames=clock.frames,
            total_frames=total_frames,
            steps=clock.steps,
            updates=clock.updates,
            episodes=games.count,
            returns=games.since_logged if returns is None else returns,
            return_mean=games.mean,
            return_best=games.best,
            loss=means["loss"],
            q_mean=means["q_mean"],
            grad_norm=means["grad_norm"],
            epsilon=schedule.epsilon(clock.frames),
            learning_rate=schedule.learning_rate(clock.frames),
            replay_transitions=held.transitions,
            replay_fill=held.fill,
            replay_bytes=held.allocated_bytes,
            replay_frame_bytes=held.frame_bytes,
            seconds=self._speed.seconds,
            fps_recent=fps,
            fps_run=self._speed.run,
            eta_seconds=left / fps if fps else None,
            phase_share=self._speed.phase_share,
            note=note,
            solved_return=self._run.config.solved_return,
            confirm_stop=self._run.config.confirm_stop,
        )


def precision_note(learner: Learner) -> str:
    """Say what the network's products are computed in, where that is not float32."""
    return "" if learner.precision == "fp32" else f", {learner.precision}"


def threads_note(learner: Learner) -> str:
    """Say how many threads compute, where the CPU's do: what sums round by."""
    if learner.backend.device.type != "cpu":
        return ""
    threads = torch.get_num_threads()
    return f", {threads} thread{'s' if threads > 1 else ''}"


def frames_note(stats: ExperienceStats) -> str:
    """Say where the learner reads frames."""
    if stats.device_bytes:
        return f"{stats.device_bytes / 2**30:.2f} GiB of frames on the device"
    return "frames on the host"


def replay_note(config: Config) -> str:
    """Say what checkpoints do with the replay, and what that means."""
    size = f"up to {replay_bytes(config) / 1e6:,.0f} MB"
    if storage(config) == "delta":
        size += ", frames kept as what changes"
    if keeps_replay(config):
        lags = config.pipeline.acting_lag_updates or config.pipeline.priority_lag_updates
        exact = "exact but for what the lags keep waiting" if lags else "exact"
        return f"the newest checkpoint keeps the replay ({size}): resuming is {exact}"
    return (
        f"checkpoints leave the replay out ({size}; `checkpoint.replay = 'on'` keeps it): "
        "a resumed run fills it anew, with other games"
    )
