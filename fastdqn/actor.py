"""Batched epsilon-greedy action selection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

ActionValues = Callable[[torch.Tensor], torch.Tensor]


class Actor:
    """Chooses an action for each environment: random with probability epsilon, else the best known.

    Args:
        q_values: uint8 [N, 4, 84, 84] to float32 [N, A].
        num_actions: A.
        seed: Of the exploration.
        device: Where `q_values` wants its observations.
    """

    def __init__(self, q_values: ActionValues, num_actions: int, seed: int, device: str = "cpu") -> None:
        self._q_values = q_values
        self._num_actions = num_actions
        self._device = device
        self._random = np.random.Generator(np.random.Philox(seed))

    def act(self, observation: NDArray[np.uint8], epsilon: float) -> NDArray[np.int64]:
        """Return an action per row.

        The network is not asked when every row explores. The random stream moves on by the same amount
        whatever epsilon is, so that a run's exploration does not hang on its schedule.

        Args:
            observation: uint8 [N, 4, 84, 84].
            epsilon: Probability of a random action, per row.

        Returns:
            int64 [N].
        """
        rows = len(observation)
        explores = self._random.random(rows) < epsilon
        action = self._random.integers(self._num_actions, size=rows)
        if not explores.all():
            values = self._q_values(torch.from_numpy(observation).to(self._device))
            action = np.where(explores, action, values.argmax(1).cpu().numpy())
        return action

    def random_state(self) -> dict[str, Any]:
        """Return the state of the random stream, as plain numbers and strings."""
        state = self._random.bit_generator.state
        counters = {name: [int(word) for word in state["state"][name]] for name in ("counter", "key")}
        return {
            **state,
            "state": counters,
            "buffer": [int(word) for word in state["buffer"]],
        }

    def set_random_state(self, state: dict[str, Any]) -> None:
        """Continue a stream from what `random_state` returned."""
        words = {name: np.array(state["state"][name], np.uint64) for name in ("counter", "key")}
        buffer = np.array(state["buffer"], np.uint64)
        self._random.bit_generator.state = {**state, "state": words, "buffer": buffer}
