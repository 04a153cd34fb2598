"""Heads: from features to numbers for each action, and from those to values, targets, losses and priorities.

B is the batch, A the number of actions, N the numbers that a head has for each action (1 where it is a value;
51 or 200 where it is a distribution), K the next actions that a rule names (`targets.Next`). z is a head's output.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastdqn.algorithm import layers
from fastdqn.algorithm.layers import LINEARS, NORMS, Draw, Draws, Linear, linear, linear_to_one, part_of
from fastdqn.algorithm.losses import ElementwiseLoss
from fastdqn.algorithm.targets import Next
from fastdqn.config import NetworkConfig

PRIORITY_FLOOR = 1e-6
"""Added to |TD error|, so that no transition becomes unreachable (Schaul et al. 2016, section 3.3)."""

MOST_CROSS_ENTROPY = 100.0
"""The largest priority of a categorical head (dqn_zoo's Rainbow)."""


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
        size: Numbers that the last layers give for each action: N, where a pass through them is all of z.
        samples: Whether z is of random fractions, so that two passes give two samples of the same.
    """

    size: int = 1
    samples: bool = False

    def __init__(self, config: NetworkConfig, features: int, num_actions: int) -> None:
        super().__init__()
        units, streams = max(1, round(config.width * 512)), 2 if config.dueling else 1
        make = LINEARS[config.noise]
        self.num_actions = num_actions
        self.hidden = make(config, features, units * streams, streams)
        self.norm = NORMS[config.normalization](units * streams, streams)
        self.value = make(config, units, self.size, 1) if config.dueling else None
        self.advantage = make(config, units, num_actions * self.size, 1)

    def initialize(self, generator: torch.Generator | None) -> None:
        """Draw the initial weights, smaller in the last layers."""
        self.hidden.initialize(self.hidden.gain, generator)
        for layer in (self.value, self.advantage):
            if layer is not None:
                layer.initialize(1.0, generator)

    def forward(self, features: Tensor, draws: Draws) -> Tensor:
        """Return z, float32 [B, A, N].

        Args:
            features: [B, features], float32 or bfloat16.
            draws: The random numbers that its layers take, by path.
        """
        hidden = functional.relu(self.norm(linear(features, *self.hidden.weights(part_of(draws, "hidden")))))
        hidden = hidden.to(self.advantage.weight.dtype)
        last = self.advantage.weights(part_of(draws, "advantage"))
        if self.value is None:
            return self._by_action(functional.linear(hidden, *last))
        for_value, for_advantage = hidden.chunk(2, dim=1)
        advantage = self._by_action(functional.linear(for_advantage, *last))
        to_state = self.value.weights(part_of(draws, "value"))
        sums = self.size == 1 and not layers.on_cpu(hidden)
        state = (linear_to_one if sums else functional.linear)(for_value, *to_state).unsqueeze(1)
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

    def outcomes(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the returns that z expects of each action, and their probabilities: for people to look at.

        Args:
            z: [B, A, N].

        Returns:
            Both [B, A, N]; where a head knows no more than a value, that value alone, N = 1.
        """
        value = self.q(z).unsqueeze(2)
        return value, torch.ones_like(value)

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


class CategoricalHead(Head):
    """A distribution over returns that are fixed, N of them from `v_min` to `v_max` (Bellemare et al. 2017, C51).

    z are logits. Dueling (Hessel et al. 2018) is over the logits of each return.
    """

    def __init__(self, config: NetworkConfig, features: int, num_actions: int) -> None:
        self.size = config.atoms
        super().__init__(config, features, num_actions)
        self.v_min, self.v_max = config.v_min, config.v_max

    def q(self, z: Tensor) -> Tensor:
        """Return the mean of each distribution, [B, A]."""
        return (z.softmax(2) * self.returns(z)).sum(2)

    def goal(self, next_z: Tensor, next_actions: Next, reward: Tensor, discount: Tensor) -> Tensor:
        """Return the probabilities [B, N] of reward + discount * (return - penalty), on the same returns.

        A return between two is shared by them in proportion to its nearness (algorithm 1, whose two sides fall
        together, and lose their share, where a return meets one exactly); one beyond the ends is theirs. The next
        actions' distributions are mixed by their weights.
        """
        returns = self.returns(next_z)
        probability = next_z.softmax(2) * next_actions.weight.unsqueeze(2)
        moved = returns - next_actions.penalty.unsqueeze(2)
        moved = reward.view(-1, 1, 1) + discount.view(-1, 1, 1) * moved
        distance = (moved.clamp(self.v_min, self.v_max).unsqueeze(3) - returns).abs()
        share = (1 - distance * ((self.size - 1) / (self.v_max - self.v_min))).clamp(min=0)
        return (share * probability.unsqueeze(3)).sum((1, 2))

    def loss(
        self, z: Tensor, goal: Tensor, draws: Draws, elementwise: ElementwiseLoss
    ) -> tuple[Tensor, Tensor]:
        """Return the cross entropy, and as priority the same up to 100, as dqn_zoo's Rainbow has it.

        It adds nothing to a priority, and draws one transition in a thousand uniformly instead.
        """
        losses = -(goal * z.log_softmax(1)).sum(1)
        return losses, losses.detach().clamp(PRIORITY_FLOOR, MOST_CROSS_ENTROPY)

    def outcomes(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the N returns, and the softmax of z."""
        return self.returns(z).expand(z.shape), z.softmax(2)

    def returns(self, like: Tensor) -> Tensor:
        """Return the N returns, on the device and in the type of a tensor."""
        return torch.linspace(self.v_min, self.v_max, self.size, device=like.device, dtype=like.dtype)


class QuantileHead(Head):
    """N quantiles of the return, at the middles of N equal fractions (Dabney et al. 2018, QR-DQN)."""

    def __init__(self, config: NetworkConfig, features: int, num_actions: int) -> None:
        self.size = config.quantiles
        super().__init__(config, features, num_actions)
        self.quantiles = config.quantiles

    def q(self, z: Tensor) -> Tensor:
        """Return the mean of the quantiles, [B, A]."""
        return z.mean(2)

    def goal(self, next_z: Tensor, next_actions: Next, reward: Tensor, discount: Tensor) -> Tensor:
        """Return [B, N], reward + discount * the weighted sum of (quantile - penalty) over the next actions.

        So does Munchausen-IQN's code: quantile by quantile, where the distributions could be mixed.
        """
        value = (next_actions.weight.unsqueeze(2) * (next_z - next_actions.penalty.unsqueeze(2))).sum(1)
        return reward.unsqueeze(1) + discount.unsqueeze(1) * value

    def loss(
        self, z: Tensor, goal: Tensor, draws: Draws, elementwise: ElementwiseLoss
    ) -> tuple[Tensor, Tensor]:
        """Return the quantile Huber loss (equation 10), and the sum of |TD error| as priority.

        Both are summed over the quantiles of z and averaged over those of the goal. The priority is BTR's.
        """
        td_error = goal.unsqueeze(1) - z.unsqueeze(2)
        weight = (self.fractions(z, draws).unsqueeze(2) - (td_error.detach() < 0).to(z.dtype)).abs()
        losses = (weight * elementwise(td_error)).sum(1).mean(1)
        return losses, td_error.detach().abs().sum(1).mean(1) + PRIORITY_FLOOR

    def outcomes(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the quantiles, each as probable as another."""
        return z, torch.full_like(z, 1 / z.shape[2])

    def fractions(self, like: Tensor, draws: Draws) -> Tensor:
        """Return the fractions that z has quantiles of, [1, N] or [B, N]."""
        count = torch.arange(self.quantiles, device=like.device, dtype=like.dtype)
        return ((count + 0.5) / self.quantiles).unsqueeze(0)


class ImplicitQuantileHead(QuantileHead):
    """Quantiles of the return at fractions that are drawn anew for each pass (Dabney et al. 2018b, IQN).

    A fraction tau becomes relu(linear(cos(pi i tau))), i = 1 to 64 (as in dqn_zoo and Dopamine; the paper has 0 to
    63), and multiplies the features (equation 4). Without draws the fractions are the middles of N equal ones.
    """

    samples = True

    def __init__(self, config: NetworkConfig, features: int, num_actions: int) -> None:
        super().__init__(replace(config, quantiles=1), features, num_actions)
        self.quantiles, self.cosines = config.quantiles, config.cosines
        self.embedding = Linear(config.cosines, features)

    def initialize(self, generator: torch.Generator | None) -> None:
        """Draw the initial weights."""
        super().initialize(generator)
        self.embedding.initialize(self.embedding.gain, generator)

    def draws(self, rows: int) -> dict[str, Draw]:
        """Return what a pass takes: N fractions for each observation."""
        return {"fractions": Draw("uniform", (rows, self.quantiles))}

    def forward(self, features: Tensor, draws: Draws) -> Tensor:
        """Return z, float32 [B, A, N]."""
        fractions = self.fractions(self.advantage.weight, draws)
        multiples = math.pi * torch.arange(
            1, self.cosines + 1, device=fractions.device, dtype=fractions.dtype
        )
        cosines = (fractions.unsqueeze(2) * multiples).cos().flatten(0, 1).to(features.dtype)
        # PyTorch's own: `layers.linear` is for wide inputs.
        weight, bias = (part.to(features.dtype) for part in self.embedding.weights(draws))
        described = functional.relu(functional.linear(cosines, weight, bias))
        described = described.view(-1, self.quantiles, described.shape[1])
        z = super().forward((features.unsqueeze(1) * described).flatten(0, 1), draws)
        return z.view(-1, self.quantiles, self.num_actions).transpose(1, 2)

    def fractions(self, like: Tensor, draws: Draws) -> Tensor:
        """Return the pass's fractions, [B, N], or [1, N] without draws."""
        return draws["fractions"] if "fractions" in draws else super().fractions(like, draws)


HEADS: dict[str, Callable[[NetworkConfig, int, int], Head]] = {
    "scalar": ScalarHead,
    "categorical": CategoricalHead,
    "quantile": QuantileHead,
    "implicit": ImplicitQuantileHead,
}
