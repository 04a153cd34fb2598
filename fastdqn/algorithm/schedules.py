"""Values that change over a run, as pure functions of the frame count."""

from __future__ import annotations

from dataclasses import dataclass

from fastdqn.config import Config


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
class Schedule:
    """What changes in the course of a run, each as a function of the frames played.

    Attributes:
        epsilon: Exploration (Mnih et al. 2015): it falls from the end of warm-up on.
        learning_rate: Step size.
        beta: Exponent of the importance weights (Schaul et al. 2016): it grows to 1.
    """

    epsilon: Line
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
        return cls(
            epsilon=Line(
                exploration.max, exploration.min, warmup_frames, warmup_frames + exploration.decay_frames
            ),
            learning_rate=Line(first, first if final is None else final, 0, last),
            beta=Line(config.replay.beta, 1.0, warmup_frames, last),
        )
