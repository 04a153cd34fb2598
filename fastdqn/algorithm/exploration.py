"""Epsilon-greedy exploration for a batch of environments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

ChosenActions = Callable[[NDArray[np.uint8], int], NDArray[np.int64]]
"""From observations, uint8 [N, 4, 84, 84], and the number of this act in the run, to actions, int64 [N]."""

_BLOCK = 256
"""Acts that are drawn for at once: a draw alone costs tens of microseconds, in which no game is played."""


class Actor:
    """Chooses an action for each environment: random with probability epsilon, else the network's choice.

    Randomness is counter-based (Philox): the draws of an act follow from the seed and the number of acts
    before it, whatever epsilon is.

    Args:
        chosen_actions: The network's; random numbers that it takes follow from the number of the act.
        num_actions: Number of actions.
        num_envs: N.
        seed: Of the exploration.
    """

    def __init__(self, chosen_actions: ChosenActions, num_actions: int, num_envs: int, seed: int) -> None:
        self._chosen_actions = chosen_actions
        self._num_actions = num_actions
        self._shape = (_BLOCK, num_envs)
        self._seed = seed
        self._acts = 0
        self._draw()

    def act(self, observation: NDArray[np.uint8], epsilon: float) -> NDArray[np.int64]:
        """Return an action per row. Where every row explores the network is not evaluated.

        Args:
            observation: uint8 [N, 4, 84, 84].
            epsilon: Probability of a random action, per row.

        Returns:
            int64 [N], in memory that nothing else writes to.
        """
        act, index = self._acts, self._acts % _BLOCK
        explores = self._chance[index] < epsilon
        action: NDArray[np.int64] = self._random_action[index]
        self._acts += 1
        if self._acts % _BLOCK == 0:
            self._draw()
        if explores.all():
            return action.copy()
        chosen: NDArray[np.int64] = np.where(explores, action, self._chosen_actions(observation, act))
        return chosen

    def random_state(self) -> dict[str, Any]:
        """Return where the random stream is, as plain numbers."""
        return {"acts": self._acts}

    def set_random_state(self, state: dict[str, Any]) -> None:
        """Continue a stream of the same seed from what `random_state` returned."""
        self._acts = int(state["acts"])
        self._draw()

    def _draw(self) -> None:
        """Draw for the block of acts that the next one is in."""
        counter = [0, 0, self._acts // _BLOCK, 0]
        random = np.random.Generator(np.random.Philox(counter=counter, key=self._seed))
        self._chance = random.random(self._shape)
        self._random_action = random.integers(self._num_actions, size=self._shape)
