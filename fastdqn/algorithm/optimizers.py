"""Optimizers on one flat float32 buffer: pure arithmetic on tensors that are allocated once.

Every parameter of the network lies in one buffer of P numbers, so a step is a few vector operations in
eager mode and one fused loop when compiled; the same code runs both ways. All state, the step count and the
learning rate included, is tensors that are changed in place: a compiler cannot freeze any of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fastdqn.config import LearnerConfig, OptimizerConfig


class Optimizer(Protocol):
    """What an optimizer has: its state and a step."""

    def initial_state(self, weights: Tensor) -> dict[str, Tensor]:
        """Return the state before the first step, by name: tensors of weights' shape or of no dimensions."""
        ...

    def step(
        self, weights: Tensor, gradient: Tensor, state: dict[str, Tensor], learning_rate: Tensor
    ) -> None:
        """Change `weights` (float32 [P]) and `state` in place; `learning_rate` has no dimensions."""
        ...


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma & Ba 2015, algorithm 1), epsilon outside the root, as `torch.optim.Adam` does it.

    Attributes:
        beta1: Decay of the gradient's mean.
        beta2: Decay of the squared gradient's mean.
        epsilon: Added to the root of the second moment, after its bias is corrected.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def initial_state(self, weights: Tensor) -> dict[str, Tensor]:
        """Return `mean` and `square`, float32 [P], and `step`, float64 (it must count past 2^24)."""
        step = torch.zeros((), dtype=torch.float64, device=weights.device)
        return {"mean": torch.zeros_like(weights), "square": torch.zeros_like(weights), "step": step}

    def step(
        self, weights: Tensor, gradient: Tensor, state: dict[str, Tensor], learning_rate: Tensor
    ) -> None:
        """Take one step in place."""
        mean, square = state["mean"], state["square"]
        step = state["step"].add_(1)
        mean.lerp_(gradient, 1 - self.beta1)
        square.mul_(self.beta2).addcmul_(gradient, gradient, value=1 - self.beta2)
        # In float64: 1 - beta2 keeps only four digits in float32.
        bias1, bias2 = self._missing(self.beta1, step), self._missing(self.beta2, step)
        scale, root = materialized(learning_rate / bias1, bias2.rsqrt(), dtype=weights.dtype)
        weights.sub_(scale * (mean / (square.sqrt() * root + self.epsilon)))

    @staticmethod
    def _missing(beta: float, step: Tensor) -> Tensor:
        """Return 1 - beta^step, the share of the mean that its zero start has not yet given way to."""
        return 1 - beta**step


@dataclass(frozen=True)
class RMSProp:
    """The centred RMSProp of Mnih et al. 2015 (after Graves 2013, equations 38 to 41, without momentum).

    Epsilon stands INSIDE the root: `g / sqrt(E[g^2] - E[g]^2 + epsilon)`; `torch.optim.RMSprop` has it
    outside, where 0.01 is another number. The paper's 0.01 belongs to gradients summed over its batch of 32;
    for a mean the same steps need 0.01 / 32^2.

    Attributes:
        decay: Decay of both running means.
        epsilon: Added to the variance, in units of the squared gradient.
    """

    decay: float = 0.95
    epsilon: float = 0.01 / 32**2

    def initial_state(self, weights: Tensor) -> dict[str, Tensor]:
        """Return `mean` and `square`, float32 [P]."""
        return {"mean": torch.zeros_like(weights), "square": torch.zeros_like(weights)}

    def step(
        self, weights: Tensor, gradient: Tensor, state: dict[str, Tensor], learning_rate: Tensor
    ) -> None:
        """Take one step in place."""
        mean, square = state["mean"], state["square"]
        mean.lerp_(gradient, 1 - self.decay)
        square.mul_(self.decay).addcmul_(gradient, gradient, value=1 - self.decay)
        # Rounding can bring the difference a little below zero where the gradient hardly varies.
        variance = (square - mean.square()).clamp(min=0.0)
        weights.sub_(learning_rate * (gradient / (variance + self.epsilon).sqrt()))


@dataclass(frozen=True)
class Adagrad:
    """Adagrad (Duchi et al. 2011), as `torch.optim.Adagrad` does it.

    Attributes:
        epsilon: Added to the root of the sum of squared gradients.
    """

    epsilon: float = 1e-10

    def initial_state(self, weights: Tensor) -> dict[str, Tensor]:
        """Return `sum`, float32 [P]."""
        return {"sum": torch.zeros_like(weights)}

    def step(
        self, weights: Tensor, gradient: Tensor, state: dict[str, Tensor], learning_rate: Tensor
    ) -> None:
        """Take one step in place."""
        total = state["sum"].addcmul_(gradient, gradient)
        weights.sub_(learning_rate * (gradient / (total.sqrt() + self.epsilon)))


def clip_by_norm(gradient: Tensor, limit: float = math.inf, row: int | None = None) -> tuple[Tensor, Tensor]:
    """Scale a gradient down to a global norm; below it nothing changes.

    Args:
        gradient: float [P].
        limit: Largest Euclidean norm; infinity leaves every gradient as it is.
        row: Sum the squares by rows of so many numbers first: a divisor of P. A compiler for a GPU joins that sum
            to what makes the gradient.

    Returns:
        The gradient, float [P], and its norm before, no dimensions.
    """
    squares = gradient.square()
    norm = (squares if row is None else squares.view(-1, row).sum(1)).sum().sqrt()
    (factor,) = materialized((limit / norm).clamp(max=1.0), dtype=gradient.dtype)
    return gradient * factor, norm


def materialized(*scalars: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Return the same scalars, computed once and read from memory.

    Inductor would otherwise write their arithmetic, powers and divisions, into the loop over the weights and
    do it again for every 16 of them: more work than the step itself.

    Args:
        scalars: Without dimensions.
        dtype: Of the result.
    """
    numbers = torch.stack([scalar.to(dtype) for scalar in scalars])
    # For a GPU it would do so in spite of the stack; a tensor that is strided by hand has to be in memory.
    return tuple(numbers.as_strided((), (), index) for index in range(len(scalars)))


_SCALES: dict[str, Callable[[LearnerConfig], int]] = {
    "mean": lambda config: 1,
    "sum": lambda config: config.batch_size,
}


def gradient_scale(config: LearnerConfig) -> int:
    """Return S: a configuration's constants are given for S times the gradient of the mean loss.

    For the mean, a limit of the norm is divided by S. Adam, RMSProp and Adagrad divide gradients by their size,
    so S cancels but for epsilon, which is divided by S beside a root and by S^2 inside one. Steps on the mean
    with these constants are those on the sum.
    """
    return _SCALES[config.reduction](config)


OPTIMIZERS: dict[str, Callable[[OptimizerConfig, int], Optimizer]] = {
    "adam": lambda config, scale: Adam(config.beta1, config.beta2, config.epsilon / scale),
    "rmsprop": lambda config, scale: RMSProp(config.decay, config.epsilon / scale**2),
    "adagrad": lambda config, scale: Adagrad(config.epsilon / scale),
}
"""Optimizers of a mean loss, from their constants and the `gradient_scale` that these are given for."""
