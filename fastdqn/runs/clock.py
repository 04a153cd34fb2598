"""The one owner of units: frames, steps and updates, counted as exact integers, and what is due after so many."""

from __future__ import annotations

from dataclasses import dataclass


def passed(frames: int, every_frames: int | None, since: int) -> bool:
    """Return whether a multiple of `every_frames` was reached after frame `since`; never one of `None`."""
    return every_frames is not None and frames // every_frames > since // every_frames


@dataclass
class Clock:
    """Counts what has happened and says how many updates are due.

    A step is one action that an environment really took: the rows in which EnvPool resets a game are no steps.
    Updates are owed for the steps taken since warm-up ended, one for each `steps_per_update` of them, with
    nothing lost or gained in rounding however many environments step at once.

    Attributes:
        frame_skip: Emulator frames per step.
        warmup_steps: Steps with nothing but play before updates are owed.
        steps_per_update: Steps, of all environments together, per update.
        steps: Steps taken.
        updates: Updates done.
        warm_from_steps: Value of `steps` when the replay was last empty; warm-up counts from there.
        warm_from_updates: Value of `updates` at that moment.
    """

    frame_skip: int
    warmup_steps: int
    steps_per_update: int
    steps: int = 0
    updates: int = 0
    warm_from_steps: int = 0
    warm_from_updates: int = 0

    @property
    def frames(self) -> int:
        """Emulator frames played: steps times `frame_skip`."""
        return self.steps * self.frame_skip

    @property
    def warmup_frames(self) -> int:
        """Emulator frames in a warm-up."""
        return self.warmup_steps * self.frame_skip

    def passed(self, every_frames: int | None, *, since: int) -> bool:
        """Return whether a multiple of `every_frames` was reached after frame `since`; never one of `None`."""
        return passed(self.frames, every_frames, since)

    def add_steps(self, steps: int) -> None:
        """Count `steps` more steps."""
        self.steps += steps

    def add_updates(self, updates: int) -> None:
        """Count `updates` more updates."""
        self.updates += updates

    def updates_due(self) -> int:
        """Updates owed for the steps taken so far and not yet done."""
        return self._owed_after(self.steps) - (self.updates - self.warm_from_updates)

    def launches_due(self, updates_per_launch: int) -> int:
        """Whole launches among the updates owed; what is left waits until a launch is full."""
        return self.updates_due() // updates_per_launch

    def updates_planned(self, total_frames: int) -> int:
        """Updates in a run of `total_frames` frames, counted from where warm-up began."""
        return self._owed_after(total_frames // self.frame_skip)

    def restart_warmup(self) -> None:
        """Owe nothing until `warmup_steps` more steps: the replay is empty again."""
        self.warm_from_steps, self.warm_from_updates = self.steps, self.updates

    def _owed_after(self, steps: int) -> int:
        return max(0, (steps - self.warm_from_steps - self.warmup_steps) // self.steps_per_update)


@dataclass
class Marks:
    """Frames at which what is done every so many frames was done last, and how the last evaluation came out.

    Attributes:
        logged: A row of metrics was begun.
        evaluated: An evaluation was complete.
        saved: A checkpoint was saved, or could not be.
        evaluated_games: Games of training that had ended when one was.
        evaluated_bound: The lesser `Evaluation.bound` of two, where two were played to end the run by; else none.
    """

    logged: int = 0
    evaluated: int = 0
    saved: int = 0
    evaluated_games: int = 0
    evaluated_bound: float | None = None
