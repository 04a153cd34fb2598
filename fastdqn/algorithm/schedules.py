"""Values that change over a run, as pure functions of the frame count."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from fastdqn.config import Config, ExplorationConfig


@dataclass(frozen=True)
class Line:
    """A straight line between two frames, constant outside.

    Attributes:
        start: Value up to `first_frame`.
        end: Value from `last_frame` on.
        first_frame: Where the line starts, in emulator frames.
        last_frame: Where it ends.
    """

    start: float
    end: float
    first_frame: int
    last_frame: int

    def __call__(self, frame: int) -> float:
        """Return the value after `frame` frames; exactly `end` from `last_frame` on."""
        if frame >= self.last_frame:
            return self.end
        if frame <= self.first_frame:
            return self.start
        rise, length = self.end - self.start, self.last_frame - self.first_frame
        return self.start + rise * (frame - self.first_frame) / length


@dataclass(frozen=True)
class Exponential:
    """A distance to a value that falls to 1/e in each span of frames.

    Attributes:
        start: Value at frame 0.
        end: What it comes to.
        frames: The span, in emulator frames.
    """

    start: float
    end: float
    frames: int

    def __call__(self, frame: int) -> float:
        """Return the value after `frame` frames."""
        return self.end + (self.start - self.end) * math.exp(-frame / self.frames)


@dataclass(frozen=True)
class Until:
    """A value that is 0 from a frame on.

    Attributes:
        value: Before that.
        off_frame: From which frame on, in emulator frames; infinity for never.
    """

    value: Line | Exponential
    off_frame: float

    def __call__(self, frame: int) -> float:
        """Return the value after `frame` frames."""
        return self.value(frame) if frame < self.off_frame else 0.0


_EPSILONS: dict[str, Callable[[ExplorationConfig, int], Line | Exponential]] = {
    "linear": lambda config, warmup: Line(config.max, config.min, warmup, warmup + config.decay_frames),
    "exponential": lambda config, warmup: Exponential(config.max, config.min, config.decay_frames),
}


@dataclass(frozen=True)
class Schedule:
    """What changes in the course of a run, each as a function of the frames played.

    Attributes:
        epsilon: Exploration (Mnih et al. 2015).
        learning_rate: Step size.
        beta: Exponent of the importance weights (Schaul et al. 2016).
    """

    epsilon: Until
    learning_rate: Line
    beta: Line

    @classmethod
    def of(cls, config: Config, warmup_frames: int) -> Schedule:
        """Return the schedule of a run.

        Args:
            config: The run's.
            warmup_frames: Frames before the first update.
        """
        exploration, optimizer, last = config.exploration, config.optimizer, config.total_frames
        first, final = optimizer.learning_rate, optimizer.learning_rate_final
        fallen = round(last * optimizer.learning_rate_fraction)
        off = math.inf if exploration.off_frames is None else exploration.off_frames
        return cls(
            epsilon=Until(_EPSILONS[exploration.schedule](exploration, warmup_frames), off),
            learning_rate=Line(first, first if final is None else final, 0, fallen),
            beta=Line(config.replay.beta, config.replay.beta_final, warmup_frames, last),
        )
