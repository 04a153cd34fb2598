"""One update: from a batch to new weights, for every head, rule, loss and optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value

from fastdqn.algorithm.layers import Draws, advanced, on_cpu, part_of
from fastdqn.algorithm.losses import LOSSES, weighted_mean
from fastdqn.algorithm.networks import QNetwork
from fastdqn.algorithm.optimizers import OPTIMIZERS, clip_by_norm, gradient_scale
from fastdqn.algorithm.parameters import FlatLayout
from fastdqn.algorithm.targets import RULES, Values
from fastdqn.config import LearnerConfig, OptimizerConfig

METRICS = ("loss", "q_mean", "grad_norm")
"""What an update reports, each a number: the weighted mean of the losses; the mean over batch and actions of the
online network's values, before the step; the Euclidean norm of the whole gradient, before it is clipped."""


@dataclass(frozen=True)
class Transitions:
    """A batch on the learner's device.

    The memory layout (strides) must be the same in every batch of a run: compiled code is made for one.

    Attributes:
        obs: uint8 [B, stack, 84, 84].
        action: int64 [B].
        reward: float32 [B], the n-step return up to the bootstrap.
        discount: float32 [B], gamma^m * (1 - terminated) for the m steps that were taken.
        next_obs: uint8 [B, stack, 84, 84], the observation m steps later.
        weight: float32 [B], importance of each sample; 1 where sampling is uniform.
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    discount: Tensor
    next_obs: Tensor
    weight: Tensor


class Weights(NamedTuple):
    """A network's tensors, in flat buffers that keep their addresses.

    Attributes:
        parameters: float32 [P], what the optimizer changes.
        buffers: float32 [S], the layers' state, which changes with each update; S is 0 for most networks.
    """

    parameters: Tensor
    buffers: Tensor

    def clone(self) -> Weights:
        """Return a copy that shares no memory with this one."""
        return Weights(*(part.clone() for part in self))


def copy_weights(source: Weights, target: Weights) -> None:
    """Copy `source` into the memory of `target`."""
    for source_part, target_part in zip(source, target, strict=True):
        target_part.copy_(source_part)


def average_weights(source: Weights, average: Weights, share: float) -> None:
    """Move `average` towards `source` by a share of the way, in place; the layers' state is copied."""
    average.parameters.lerp_(source.parameters, share)
    average.buffers.copy_(source.buffers)


class WeightsLayout:
    """Where a network's parameters and buffers lie in `Weights`.

    Args:
        network: The network whose tensors they are.
        arranged: As `FlatLayout` has it, for the parameters.
    """

    def __init__(self, network: QNetwork, *, arranged: bool = False) -> None:
        self.parameters = FlatLayout(network.named_parameters(), arranged=arranged)
        self.buffers = FlatLayout(network.named_buffers())

    def join(self, network: QNetwork) -> Weights:
        """Return copies of a network's tensors."""
        parameters, buffers = dict(network.named_parameters()), dict(network.named_buffers())
        return Weights(self.parameters.join(parameters).detach(), self.buffers.join(buffers).detach())

    def split(self, weights: Weights) -> dict[str, Tensor]:
        """Return all tensors by name, as views."""
        return {**self.parameters.split(weights.parameters), **self.buffers.split(weights.buffers)}


class BatchGradient(NamedTuple):
    """What a batch says of the weights, before a step is taken.

    Attributes:
        gradient: float32 [P], of the mean loss, not clipped.
        buffers: The layers' next state by name.
        loss: The mean loss, no dimensions.
        q_mean: As in `METRICS`.
        priority: [B].
    """

    gradient: Tensor
    buffers: dict[str, Tensor]
    loss: Tensor
    q_mean: Tensor
    priority: Tensor


ComputeGradient = Callable[[Weights, Weights, Transitions, Mapping[str, Draws]], BatchGradient]
"""gradient(online, target, batch, draws): changes nothing."""

Step = Callable[[Weights, dict[str, Tensor], Tensor, Tensor], Tensor]
"""step(online, slots, learning_rate, gradient): clips the gradient, takes a step in place; returns its norm."""

Update = Callable[
    [Weights, Weights, dict[str, Tensor], Tensor, Transitions, Mapping[str, Draws]],
    tuple[dict[str, Tensor], Tensor],
]


def passes_of(network: QNetwork, config: LearnerConfig) -> tuple[str, ...]:
    """Return the passes of an update through a network, whose random numbers are drawn separately.

    `online` is the one that is differentiated, `target_next` that of the goal. What else there is the rule says,
    by what it asks for when it is given zeros.

    Args:
        network: Its structure.
        config: The rule.

    Returns:
        Those that are read of `online`, `target_next`, `target_choice`, `online_next`, `target_now`, `online_now`.
    """
    read = ["online", "target_next"]

    def zeros(name: str) -> Tensor:
        read.append(name)
        return torch.zeros(1, network.num_actions)

    RULES[config.rule](config)(_values(zeros, network, config, torch.zeros(1, dtype=torch.int64)))
    return tuple(dict.fromkeys(read))


def _values(
    q_of: Callable[[str], Tensor], network: QNetwork, config: LearnerConfig, action: Tensor
) -> Values:
    """Return what a rule may use, each from the action values of a pass, by its name."""
    chooses_apart = network.head.samples and config.fresh_quantiles
    return Values(
        target_next=lambda: q_of("target_choice" if chooses_apart else "target_next"),
        online_next=lambda: q_of("online_next"),
        target_now=lambda: q_of("target_now"),
        online_now=lambda: q_of("online_now"),
        action=action,
    )


def make_update(
    network: QNetwork, layout: WeightsLayout, config: LearnerConfig, optimizer: OptimizerConfig
) -> Update:
    """Return the update of a network by a configuration's rules.

    Args:
        network: Its structure; the tensors in it are not used.
        layout: Where its tensors lie in the flat buffers.
        config: Rule and loss.
        optimizer: Which one, and its constants.

    Returns:
        update(online, target, slots, learning_rate, batch, draws): it changes `online` and the optimizer's
        `slots` in place, reads everything else (`learning_rate` is float32 without dimensions, `draws` has
        those of each of `passes_of`), and returns `METRICS` and the priorities, [B]. It depends on its
        arguments alone.
    """
    gradient_of = make_gradient(network, layout, config)
    take_step = make_step(layout, config, optimizer)

    def update(
        online: Weights,
        target: Weights,
        slots: dict[str, Tensor],
        learning_rate: Tensor,
        batch: Transitions,
        draws: Mapping[str, Draws],
    ) -> tuple[dict[str, Tensor], Tensor]:
        gradient, buffers, loss, q_mean, priority = gradient_of(online, target, batch, draws)
        norm = take_step(online, slots, learning_rate, gradient)
        advance_buffers(layout, online, buffers)
        return dict(zip(METRICS, (loss, q_mean, norm), strict=True)), priority

    return update


def advance_buffers(layout: WeightsLayout, online: Weights, buffers: Mapping[str, Tensor]) -> None:
    """Put the layers' next state into `online`, in place; nothing is done where they have none."""
    if layout.buffers.size:
        online.buffers.copy_(layout.buffers.join(buffers))


def make_step(layout: WeightsLayout, config: LearnerConfig, optimizer: OptimizerConfig) -> Step:
    """Return the second half of an update: from a gradient to new weights. Arguments as for `make_update`."""
    scale = gradient_scale(config)
    step = OPTIMIZERS[optimizer.name](optimizer, scale).step
    limit = math.inf if optimizer.max_grad_norm is None else optimizer.max_grad_norm / scale

    def take_step(
        online: Weights, slots: dict[str, Tensor], learning_rate: Tensor, gradient: Tensor
    ) -> Tensor:
        gradient, norm = clip_by_norm(gradient, limit, layout.parameters.row)
        step(online.parameters, gradient, slots, learning_rate)
        return norm

    return take_step


_PAIR = ("target_next", "online_next")
"""Passes of two networks over the same observations, without a gradient."""


def make_gradient(network: QNetwork, layout: WeightsLayout, config: LearnerConfig) -> ComputeGradient:
    """Return the first half of an update: from a batch to a gradient. Arguments as for `make_update`."""
    head, rule, elementwise = network.head, RULES[config.rule](config), LOSSES[config.loss]
    in_pairs = network.is_faster_in_pairs and set(_PAIR) <= set(passes_of(network, config))

    def forward(tensors: Mapping[str, Tensor], pixels: Tensor, draws: Draws) -> Tensor:
        return cast(Tensor, functional_call(network, dict(tensors), (pixels, draws), {"prepared": True}))

    def gradient(
        online: Weights, target: Weights, batch: Transitions, draws: Mapping[str, Draws]
    ) -> BatchGradient:
        parameters, target_tensors = layout.parameters.split(online.parameters), layout.split(target)
        buffers = advanced(network, layout.split(online))
        pixels, next_pixels = network.prepare(batch.obs), network.prepare(batch.next_obs)

        tensors = {"online": {**parameters, **buffers}, "target": target_tensors}
        seen = {"now": pixels, "next": next_pixels, "choice": next_pixels}

        together: dict[str, Tensor] = {}
        if in_pairs and on_cpu(next_pixels):
            passes = [(tensors[name.split("_")[0]], draws[name]) for name in _PAIR]
            together = dict(zip(_PAIR, network.z_of_each(next_pixels, passes), strict=True))

        def z_of(name: str) -> Tensor:
            if name in together:
                return together[name]
            which, when = name.split("_")
            return forward(tensors[which], seen[when], draws[name])

        next_z = z_of("target_next")

        def q_of(name: str) -> Tensor:
            return head.q(next_z if name == "target_next" else z_of(name))

        next_actions = rule(_values(q_of, network, config, batch.action))
        reward = batch.reward + next_actions.bonus
        goal = head.goal(of_actions(next_z, next_actions.action), next_actions, reward, batch.discount)

        is_taken = is_action(batch.action, network.num_actions)

        def objective(parameters: dict[str, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            z = forward({**parameters, **buffers}, pixels, draws["online"])
            taken = of_action(z, is_taken)
            losses, priority = head.loss(taken, goal, part_of(draws["online"], "head"), elementwise)
            return weighted_mean(losses, batch.weight), (head.q(z).mean(), priority)

        # torch.func differentiates inside the trace: forward, backward and optimizer are one graph.
        gradients, (loss, (q_mean, priority)) = grad_and_value(objective, has_aux=True)(parameters)
        return BatchGradient(layout.parameters.join(gradients), buffers, loss, q_mean, priority)

    return gradient


def is_action(action: Tensor, num_actions: int) -> Tensor:
    """Return which of all actions is the one, bool [B, A]; `action` is int64 [B]."""
    return torch.arange(num_actions, device=action.device) == action.unsqueeze(1)


def of_action(z: Tensor, chosen: Tensor) -> Tensor:
    """Return a head's output for one action, with a gradient that is not scattered.

    Args:
        z: [B, A, N].
        chosen: bool [B, A], what `is_action` returned.

    Returns:
        [B, N].
    """
    return torch.where(chosen.unsqueeze(2), z, 0.0).sum(1)


def of_actions(z: Tensor, action: Tensor) -> Tensor:
    """Return a head's output for some of the actions.

    Args:
        z: [B, A, N].
        action: int64 [B, K].

    Returns:
        [B, K, N].
    """
    return z.gather(1, action.unsqueeze(2).expand(-1, -1, z.shape[2]))
