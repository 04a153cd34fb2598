"""The weights that a run acts on, and the actions that are chosen by them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call

from fastdqn.algorithm.direct import direct_values
from fastdqn.algorithm.layers import NO_DRAWS, Draw, Draws, draws_of
from fastdqn.algorithm.networks import FRAME_SIZE, STACK, QNetwork
from fastdqn.algorithm.policies import GREEDY, Policy
from fastdqn.algorithm.update import Weights, copy_weights
from fastdqn.engine.compiling import compiling
from fastdqn.engine.device import Event, Work
from fastdqn.engine.draws import DrawBuffer
from fastdqn.engine.learner import Learner

_PASS, _CHOICE = "act", "choice"


def _draws_of_an_act(network: QNetwork, policy: Policy, rows: int) -> dict[str, dict[str, Draw]]:
    """Return what the network's layers and the policy take for one act."""
    return {_PASS: draws_of(network, rows), _CHOICE: policy.draws(rows, network.num_actions)}


class PolicyNetwork:
    """Action values by a network that does not change: for evaluation, film and whoever loads a policy.

    Args:
        network: With its weights.
        device: Where it is to be.
        seed: Of the random numbers that its layers take; without one they do without.
        policy: Chooses actions by the values.
    """

    def __init__(
        self,
        network: QNetwork,
        device: str | torch.device = "cpu",
        seed: int | None = None,
        policy: Policy = GREEDY,
    ) -> None:
        self.policy = policy
        self.network = network.to(device).eval().requires_grad_(False)
        self._device, self._seed = device, seed
        self._draws: DrawBuffer | None = None
        self._rows = 0

    def __call__(self, obs: Tensor, act: int = 0) -> Tensor:
        """Return the value of each action.

        Args:
            obs: uint8 [N, 4, 84, 84] on the network's device.
            act: The random numbers follow from it and the seed.

        Returns:
            float32 [N, A].

        Raises:
            TypeError: The dtype is not uint8.
            ValueError: The shape is another.
        """
        with torch.no_grad():
            return self.network.q_values(obs, self._drawn(len(obs), act)[_PASS])

    def z(self, obs: Tensor, act: int = 0) -> Tensor:
        """Return what the head says of each action, float32 [N, A, any]; its values are `network.head.q`'s."""
        with torch.no_grad():
            return cast(Tensor, self.network(obs, self._drawn(len(obs), act)[_PASS]))

    def choose(self, values: Tensor, act: int) -> Tensor:
        """Return the policy's actions by some values of an act, int64 [N]."""
        return self.policy(values, self._drawn(len(values), act)[_CHOICE])

    def chosen_actions(self, observation: NDArray[np.uint8], act: int) -> NDArray[np.int64]:
        """Return the policy's actions, int64 [N]: an `exploration.ChosenActions`."""
        values = self(torch.from_numpy(observation).to(self._device), act)
        return cast("NDArray[np.int64]", self.choose(values, act).cpu().numpy())

    def _drawn(self, rows: int, act: int) -> Mapping[str, Draws]:
        if self._seed is None:
            return {_PASS: NO_DRAWS, _CHOICE: NO_DRAWS}
        if self._draws is None or self._rows != rows:
            self._rows = rows
            passes = _draws_of_an_act(self.network, self.policy, rows)
            self._draws = DrawBuffer(passes, self._device, self._seed)
        self._draws.fill(act)
        return self._draws.parts[0]


class ActingNetwork:
    """The actions chosen by a learner's online network, on the stream `act`: an `exploration.ChosenActions`.

    With a lag of 0 every act waits for all updates queued before it and uses their weights. With more,
    acts use a copy: one that was queued when the copy in use was half as old as allowed is taken into use when
    that one is too old. When is decided by counts of updates, never by what has arrived, so a run can be
    repeated.

    Args:
        learner: Whose weights; after a restore of its state, call `prepare` again.
        num_envs: Rows of each observation, N.
        updates: Returns how many updates of the run were queued so far.
        lag_updates: Updates that the weights may be behind.
        seed: Of the random numbers that the network's layers, and the policy, take.
        policy: Chooses actions by the values.

    Attributes:
        first_choice: Makes what is entered while the first act compiles, should it.
    """

    def __init__(
        self,
        learner: Learner,
        num_envs: int,
        updates: Callable[[], int],
        *,
        lag_updates: int = 0,
        seed: int = 0,
        policy: Policy = GREEDY,
    ) -> None:
        backend = self._backend = learner.backend
        self._learner, self._layout = learner, learner.layout
        self._count, self._lag = updates, lag_updates
        shape = (num_envs, STACK, FRAME_SIZE, FRAME_SIZE)
        self._host_obs = self._obs = backend.host_memory(*shape, dtype=torch.uint8)
        if not backend.shares_memory:
            self._obs = torch.zeros(shape, dtype=torch.uint8, device=backend.device)
        self._best = torch.zeros(num_envs, dtype=torch.int64, device=backend.device)
        self._host_best = backend.host_memory(num_envs, dtype=torch.int64)
        passes = _draws_of_an_act(learner.network, policy, num_envs)
        self._draws, self._policy = DrawBuffer(passes, backend.device, seed), policy
        self._chosen = learner.wrap(self._write_actions)
        self._weights = self._coming = learner.weights
        if lag_updates:
            self._weights, self._coming = learner.weights.clone(), learner.weights.clone()
        self._values = direct_values(learner.network, self._layout.split(self._weights), self._obs)
        self.first_choice: Callable[[], AbstractContextManager[None]] = nullcontext
        self._run: Work = self._choose if learner.captured or self._values else self._choose_first
        # A copy of the weights: how many updates it has seen, when it has arrived, when it may be replaced.
        self._updates = self._queued_updates = updates()
        self._queued: Event | None = None
        self._taken: Event | None = None
        backend.synchronize()  # the memory was filled on another stream than those that will use it

    def prepare(self) -> None:
        """Capture, where launches are, and take the learner's weights as they are now.

        Without a capture the first act that the network chooses compiles, unless the extension computes all of it:
        where a run explores at first, that is after its first update.
        """
        self._backend.synchronize()
        if self._learner.captured and self._run == self._choose:
            with compiling():
                self._run = self._backend.capture(self._choose, [self._best], self._backend.act)
        if self._lag:
            copy_weights(self._learner.weights, self._weights)
        self._updates, self._queued, self._taken = self._count(), None, None
        self._backend.synchronize()

    def __call__(self, observation: NDArray[np.uint8], act: int) -> NDArray[np.int64]:
        """Return int64 [N] for uint8 [N, 4, 84, 84]. The loop's one wait of the host is in here."""
        stream = self._backend.act
        self._host_obs.copy_(torch.from_numpy(observation))
        if self._obs is not self._host_obs:
            stream.submit(lambda: self._obs.copy_(self._host_obs, non_blocking=True))
        stream.submit(lambda: self._draws.fill(act))
        self._refresh()
        stream.submit(self._run)
        stream.submit(lambda: self._host_best.copy_(self._best, non_blocking=True))
        stream.record().wait()
        return self._host_best.numpy().copy()

    def _choose_first(self) -> None:
        with self.first_choice(), compiling():
            self._choose()
        self._run = self._learner.settled(self._choose)

    def _choose(self) -> None:
        if self._values:
            self._best.copy_(self._policy(self._values(), self._draws.parts[0][_CHOICE]))
            return
        self._chosen(self._weights, self._obs, self._draws.parts[0], self._best)

    def _write_actions(self, weights: Weights, obs: Tensor, draws: Mapping[str, Draws], best: Tensor) -> None:
        with torch.no_grad():
            network, tensors = self._learner.network, self._layout.split(weights)
            z = cast(Tensor, functional_call(network, tensors, (obs, draws[_PASS])))
            best.copy_(self._policy(network.head.q(z), draws[_CHOICE]))

    def _refresh(self) -> None:
        """Have the stream wait for the weights that this act is to use.

        Two copies take turns, so that neither stream waits for the other's work of the moment: `learn` writes
        the one that is coming once acting has read it for the last time (`_taken`), `act` takes it over once it
        has arrived (`_queued`). Half of the allowed age lies between the two, in which the copy is made.
        """
        learn, act, now = self._backend.learn, self._backend.act, self._count()
        if self._lag == 0:
            act.wait(learn.record())
            return
        if now - self._updates > self._lag:
            if self._queued is None or now - self._queued_updates > self._lag:
                self._queue_copy(now)
            assert self._queued is not None
            act.wait(self._queued)
            act.submit(lambda: copy_weights(self._coming, self._weights))
            self._updates, self._queued, self._taken = self._queued_updates, None, act.record()
        if self._queued is None and 2 * (now - self._updates) >= self._lag and now > self._updates:
            self._queue_copy(now)

    def _queue_copy(self, now: int) -> None:
        learn = self._backend.learn
        if self._taken is not None:
            learn.wait(self._taken)
        learn.submit(lambda: copy_weights(self._learner.weights, self._coming))
        self._queued, self._queued_updates = learn.record(), now
