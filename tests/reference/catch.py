"""A game of pixels whose best play is known: a ball falls, a paddle catches it, and luck pays for it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CELLS, PIXELS = 4, 21
ACTIONS = 3
"""Left, stay, right."""

PAYS, CHANCE = 2.5, 0.4
"""A caught ball pays so much, with that probability, and 1 in the mean; a missed one never pays. So the least
return of a catch is that of a miss (who learns the lowest quantile alone learns nothing), and who keeps to one
action never finds out that another one is better (who does not explore learns nothing, either)."""


class Catch:
    """Several games side by side as EnvPool has them: stacks of 4 frames of 84x84, reset in the row after an end.

    A ball falls from a random column of four, a row each step; the paddle starts in the third. Every ball can be
    caught: after three steps it is in the paddle's row, and the paddle has moved up to three columns. Whoever does
    not look at the ball catches a quarter of them.

    Args:
        games: Side by side, N.
        seed: Of columns and luck.

    Attributes:
        caught: Balls caught so far.
        fallen: Balls fallen so far.
    """

    def __init__(self, games: int, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._done = np.zeros(games, bool)
        self._row, self._column, self._paddle = (np.zeros(games, int) for _ in range(3))
        self._stack = np.zeros((games, 4, CELLS * PIXELS, CELLS * PIXELS), np.uint8)
        self.caught = self.fallen = 0

    def reset(self) -> NDArray[np.uint8]:
        """Begin every game; return uint8 [N, 4, 84, 84]."""
        self._begin(np.ones(len(self._row), bool))
        return self._stack.copy()

    def step(
        self, action: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.bool_]]:
        """Play a step; return observation, reward float32 [N] and terminated bool [N]."""
        fresh = self._done
        self._row += ~fresh
        self._paddle = np.where(fresh, self._paddle, np.clip(self._paddle + action - 1, 0, CELLS - 1))
        ended = ~fresh & (self._row == CELLS - 1)
        caught = ended & (self._paddle == self._column)
        self.caught, self.fallen = self.caught + int(caught.sum()), self.fallen + int(ended.sum())
        paid = caught & (self._random.random(len(caught)) < CHANCE)
        self._stack = np.concatenate([self._stack[:, 1:], self._frames()[:, None]], axis=1)
        self._begin(fresh)
        self._done = ended
        return self._stack.copy(), np.where(paid, PAYS, 0).astype(np.float32), ended

    def _begin(self, which: NDArray[np.bool_]) -> None:
        self._row[which], self._paddle[which] = 0, CELLS // 2
        self._column[which] = self._random.integers(CELLS, size=int(which.sum()))
        self._stack[which] = self._frames()[which, None]

    def _frames(self) -> NDArray[np.uint8]:
        games = np.arange(len(self._row))
        cells = np.zeros((len(games), CELLS, CELLS), np.uint8)
        cells[games, CELLS - 1, self._paddle] = 160
        cells[games, self._row, self._column] = 255
        return cells.repeat(PIXELS, axis=1).repeat(PIXELS, axis=2)
