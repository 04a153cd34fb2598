"""Heads: from features to numbers for each action, and from those to values, targets, losses and priorities.

B is the batch, A the number of actions, N the numbers that a head has for each action (1 where it is a value;
51 or 200 where it is a distribution), K the next actions that a rule names (`targets.Next`). z is a head's output.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastdqn.algorithm import layers
from fastdqn.algorithm.layers import Draws, draw_weights, linear, linear_to_one
from fastdqn.algorithm.losses import ElementwiseLoss
from fastdqn.algorithm.targets import Next
from fastdqn.config import NetworkConfig

PRIORITY_FLOOR = 1e-6
"""Added to |TD error|, so that no transition becomes unreachable (Schaul et al. 2016, section 3.3)."""


class Head(nn.Module, ABC):
    """A hidden layer and N numbers for each action; a new head is a subclass in `HEADS`.

    Plain: one hidden layer of 512 (Mnih et al. 2015). Dueling (Wang et al. 2016, equation 9): two, of which one
    ends in the state's N numbers and one in N for each action, whose mean over the actions is subtracted. The
    two are one matrix here, `hidden`: the rows of its first half belong to the state.

    Args:
        config: The network's shape.
        features: Numbers that the torso gives for an observation.
        num_actions: A.

    Attributes:
        size: N.
    """

    size = 1

    def __init__(self, config: NetworkConfig, features: int, num_actions: int) -> None:
        super().__init__()
        units = max(1, round(config.width * 512))
        self.num_actions = num_actions
        self.hidden = nn.Linear(features, units * (2 if config.dueling else 1))
        self.value = nn.Linear(units, self.size) if config.dueling else None
        self.advantage = nn.Linear(units, num_actions * self.size)

    def initialize(self, generator: torch.Generator | None) -> None:
        """Draw the initial weights, smaller in the last layers."""
        draw_weights(self.hidden, 6.0, generator)
        for layer in (self.value, self.advantage):
            if layer is not None:
                draw_weights(layer, 1.0, generator)

    def forward(self, features: Tensor, draws: Draws) -> Tensor:
        """Return z, float32 [B, A, N].

        Args:
            features: [B, features], float32 or bfloat16.
            draws: The random numbers that its layers take, by path.
        """
        hidden = functional.relu(linear(features, self.hidden.weight, self.hidden.bias))
        hidden = hidden.to(self.advantage.weight.dtype)
        if self.value is None:
            return self._by_action(self.advantage(hidden))
        for_value, for_advantage = hidden.chunk(2, dim=1)
        advantage = self._by_action(self.advantage(for_advantage))
        if self.size == 1 and not layers.on_cpu(hidden):
            state: Tensor = linear_to_one(for_value, self.value.weight, self.value.bias).unsqueeze(1)
        else:
            state = self.value(for_value).unsqueeze(1)
        return state + advantage - advantage.mean(dim=1, keepdim=True)

    @abstractmethod
    def q(self, z: Tensor) -> Tensor:
        """Return the action values.

        Args:
            z: [B, A, N].

        Returns:
            [B, A].
        """

    @abstractmethod
    def goal(self, next_z: Tensor, next_actions: Next, reward: Tensor, discount: Tensor) -> Tensor:
        """Return the target of z for the action taken.

        Args:
            next_z: [B, K, N], the target network's z for the next actions.
            next_actions: Those actions, with their weights and penalties.
            reward: [B], the n-step return up to the bootstrap, and what the rule adds to it.
            discount: [B], gamma^m * (1 - terminated) with the true number of steps m.

        Returns:
            [B, any], as `loss` takes it.
        """

    @abstractmethod
    def loss(
        self, z: Tensor, goal: Tensor, draws: Draws, elementwise: ElementwiseLoss
    ) -> tuple[Tensor, Tensor]:
        """Return the loss and the priority of each transition.

        Args:
            z: [B, N], the online network's for the action taken.
            goal: What `goal` returned, without gradient.
            draws: The random numbers of the online network's pass, under the names of this head's layers.
            elementwise: The loss of a TD error, where the head has some.

        Returns:
            Both [B]; the priority without gradient, above zero.
        """

    def _by_action(self, numbers: Tensor) -> Tensor:
        return numbers.view(-1, self.num_actions, self.size)


class ScalarHead(Head):
    """One value per action (Mnih et al. 2015)."""

    def q(self, z: Tensor) -> Tensor:
        """Return z itself, [B, A]."""
        return z.squeeze(2)

    def goal(self, next_z: Tensor, next_actions: Next, reward: Tensor, discount: Tensor) -> Tensor:
        """Return [B], reward + discount * the weighted sum of (value - penalty) over the next actions."""
        value = (next_actions.weight * (next_z.squeeze(2) - next_actions.penalty)).sum(1)
        return reward + discount * value

    def loss(
        self, z: Tensor, goal: Tensor, draws: Draws, elementwise: ElementwiseLoss
    ) -> tuple[Tensor, Tensor]:
        """Return the loss of the TD error, and its size as priority (Schaul et al. 2016)."""
        td_error = goal - z.squeeze(1)
        return elementwise(td_error), td_error.detach().abs() + PRIORITY_FLOOR


HEADS: dict[str, Callable[[NetworkConfig, int, int], Head]] = {"scalar": ScalarHead}
