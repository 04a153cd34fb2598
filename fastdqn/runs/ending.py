"""When a run has come to its end, and when it is evaluated: by how far it is, and by its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastdqn.config import Config
from fastdqn.runs.clock import Marks, passed
from fastdqn.runs.metrics import Games

GAMES_BETWEEN = 10
"""Games of training from an evaluation that did not confirm a run's end to the next."""


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        frames: Emulator frames played.
        games: The games that have ended.
        marks: What was done when.
        config: The run's.
    """

    frames: int
    games: Games
    marks: Marks
    config: Config

    @classmethod
    def of_state(cls, state: Mapping[str, Any], config: Config) -> Progress:
        """Return that of a checkpoint, which may be edited and is then one of several kinds of error."""
        games = Games()
        games.set_state(state["games"])
        return cls(state["frames"], games, Marks(**state.get("marks", {})), config)

    @property
    def complete(self) -> bool:
        """Whether the run has played its last frame, or well enough to end before it."""
        if self.frames >= self.config.total_frames:
            return True
        wanted = self.config.solved_return
        if wanted is None or not self.games.solved(wanted):
            return False
        return not self.config.confirm_stop or self._is_confirmed

    @property
    def evaluation_is_due(self) -> bool:
        """Whether one is, or was cut short."""
        every, since = self.config.evaluation.every_frames, self.marks.evaluated
        if passed(self.frames, every, since) or (every is not None and self.complete and self.frames > since):
            return True
        return (
            self.config.confirm_stop
            and self.games.solved(self.config.solved_return)
            and self.games.count >= self.marks.evaluated_games + GAMES_BETWEEN
            and not self.complete
        )

    def is_confirmed_by(self, bound: float) -> bool:
        """Return whether an evaluation with this `bound` would end the run here."""
        wanted = self.config.solved_return if self.config.confirm_stop else None
        return wanted is not None and self.games.solved(wanted) and bound >= wanted

    @property
    def _is_confirmed(self) -> bool:
        bound = self.marks.evaluated_bound
        return self.marks.evaluated == self.frames and bound is not None and self.is_confirmed_by(bound)
