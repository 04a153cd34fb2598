"""Batched epsilon-greedy action selection, and the weights that it acts on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastdqn.backend import Event, Work
from fastdqn.learner import Learner
from fastdqn.networks import FRAME_SIZE

BestActions = Callable[[NDArray[np.uint8]], NDArray[np.int64]]

_BLOCK = 256
"""Acts that are drawn for at once: a draw alone costs tens of microseconds, in which no game is played."""


class Actor:
    """Chooses an action for each environment: random with probability epsilon, else the best known.

    Randomness is counter-based (Philox): the draws of an act follow from the seed and the number of acts
    before it, whatever epsilon is.

    Args:
        best_actions: uint8 [N, 4, 84, 84] to int64 [N].
        num_actions: Number of actions.
        num_envs: N.
        seed: Of the exploration.
    """

    def __init__(self, best_actions: BestActions, num_actions: int, num_envs: int, seed: int) -> None:
        self._best_actions = best_actions
        self._num_actions = num_actions
        self._shape = (_BLOCK, num_envs)
        self._seed = seed
        self._acts = 0
        self._draw()

    def act(self, observation: NDArray[np.uint8], epsilon: float) -> NDArray[np.int64]:
        """Return an action per row. The network is not asked when every row explores.

        Args:
            observation: uint8 [N, 4, 84, 84].
            epsilon: Probability of a random action, per row.

        Returns:
            int64 [N], the caller's own.
        """
        index = self._acts % _BLOCK
        explores = self._chance[index] < epsilon
        action: NDArray[np.int64] = self._random_action[index]
        self._acts += 1
        if self._acts % _BLOCK == 0:
            self._draw()
        if explores.all():
            return action.copy()
        chosen: NDArray[np.int64] = np.where(explores, action, self._best_actions(observation))
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


def best_of(q_values: Callable[[Tensor], Tensor], device: str | torch.device = "cpu") -> BestActions:
    """Return the best actions by a network.

    Args:
        q_values: uint8 [N, 4, 84, 84] to float32 [N, A].
        device: Where it lives.
    """

    def best_actions(observation: NDArray[np.uint8]) -> NDArray[np.int64]:
        with torch.no_grad():
            values = q_values(torch.from_numpy(observation).to(device))
            return cast("NDArray[np.int64]", values.argmax(1).cpu().numpy())

    return best_actions


class LearnersBest:
    """The best actions by a learner's online network, on the stream `act`.

    With a staleness of 0 every act waits for all updates queued before it and uses their weights. With more,
    acts use a copy: one that was queued when the copy in use was half as old as allowed is taken into use when
    that one is too old. When is decided by counts of updates, never by what is ready, so a run can be repeated.

    Args:
        learner: Whose weights; after a restore of its state, call `prepare` again.
        num_envs: Rows of each observation, N.
        staleness_updates: Updates that the weights may be behind.
        captured: Whether the backend captures the network.
    """

    def __init__(
        self, learner: Learner, num_envs: int, *, staleness_updates: int = 0, captured: bool = False
    ) -> None:
        backend = self._backend = learner.backend
        self._learner = learner
        self._staleness = staleness_updates
        self._captured = captured
        shape = (num_envs, 4, FRAME_SIZE, FRAME_SIZE)
        self._host_obs = backend.host_memory(*shape, dtype=torch.uint8)
        self._obs = torch.zeros(shape, dtype=torch.uint8, device=backend.device)
        self._best = torch.zeros(num_envs, dtype=torch.int64, device=backend.device)
        self._host_best = backend.host_memory(num_envs, dtype=torch.int64)
        self._weights = learner.weights if staleness_updates == 0 else learner.weights.clone()
        self._coming = self._weights if staleness_updates == 0 else learner.weights.clone()
        self._run: Work = self._choose
        # A copy of the weights: how many updates it has seen, when it is there, when it may be replaced.
        self._updates = self._queued_updates = learner.updates
        self._queued: Event | None = None
        self._taken: Event | None = None

    def prepare(self) -> None:
        """Compile, capture, and take the learner's weights as they are now."""
        self._backend.synchronize()
        if self._captured and self._run == self._choose:
            self._run = self._backend.capture(self._choose, [self._best], self._backend.act)
        else:
            self._backend.act.submit(self._choose)
        if self._staleness:
            self._weights.copy_(self._learner.weights)
        self._updates, self._queued, self._taken = self._learner.updates, None, None
        self._backend.synchronize()

    def __call__(self, observation: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return int64 [N] for uint8 [N, 4, 84, 84]. The loop's one wait of the host is in here."""
        act = self._backend.act
        self._host_obs.copy_(torch.from_numpy(observation))
        act.submit(lambda: self._obs.copy_(self._host_obs, non_blocking=True))
        self._refresh()
        act.submit(self._run)
        act.submit(lambda: self._host_best.copy_(self._best, non_blocking=True))
        act.record().wait()
        return self._host_best.numpy().copy()

    def _choose(self) -> None:
        self._best.copy_(self._learner.q_values_of(self._weights, self._obs).argmax(1))

    def _refresh(self) -> None:
        """Have the stream wait for the weights that this act is to use."""
        learn, act, now = self._backend.learn, self._backend.act, self._learner.updates
        if self._staleness == 0:
            act.wait(learn.record())
            return
        if now - self._updates > self._staleness:
            if self._queued is None or now - self._queued_updates > self._staleness:
                self._queue_copy(now)
            assert self._queued is not None
            act.wait(self._queued)
            act.submit(lambda: self._weights.copy_(self._coming))
            self._updates, self._queued, self._taken = self._queued_updates, None, act.record()
        if self._queued is None and 2 * (now - self._updates) >= self._staleness and now > self._updates:
            self._queue_copy(now)

    def _queue_copy(self, now: int) -> None:
        learn = self._backend.learn
        if self._taken is not None:
            learn.wait(self._taken)
        learn.submit(lambda: self._coming.copy_(self._learner.weights))
        self._queued, self._queued_updates = learn.record(), now
