"""Rules: which next actions a target is made of; B is the batch, A the number of actions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from fastdqn.config import LearnerConfig


class Next(NamedTuple):
    """The next actions of a target: K of them, 1 for greedy rules, A for soft ones.

    The target is the sum over k of `weight[k] * (the target network's value of action[k] - penalty[k])`,
    discounted, and added to the reward and the bonus.

    Attributes:
        action: int64 [B, K].
        weight: float [B, K].
        penalty: float [B, K].
        bonus: float [B].
    """

    action: Tensor
    weight: Tensor
    penalty: Tensor
    bonus: Tensor


@dataclass(frozen=True)
class Values:
    """The action values that a rule may use, each [B, A] and computed when a rule calls for it.

    Attributes:
        target_next: The target network's for the next observations; every update has them, so they cost nothing.
        online_next: The online network's for the next observations; costs a pass through the network.
        target_now: The target network's for the observations; costs a pass through the network.
        action: int64 [B], the actions taken.
    """

    target_next: Callable[[], Tensor]
    online_next: Callable[[], Tensor]
    target_now: Callable[[], Tensor]
    action: Tensor


Rule = Callable[[Values], Next]


def max_rule(values: Values) -> Next:
    """Take the action of the target network's largest value (Mnih et al. 2015, algorithm 1)."""
    return greedy(values.target_next())


def double_rule(values: Values) -> Next:
    """Take the action of the online network's largest value (van Hasselt et al. 2016, equation 4)."""
    return greedy(values.online_next())


def greedy(q: Tensor) -> Next:
    """Return the action of the largest value alone, the first among equal ones.

    Args:
        q: [B, A].
    """
    first = q[:, :1]
    action = q.argmax(dim=1, keepdim=True)
    return Next(
        action, first.new_ones(first.shape), first.new_zeros(first.shape), first.new_zeros(len(first))
    )


RULES: dict[str, Callable[[LearnerConfig], Rule]] = {
    "max": lambda config: max_rule,
    "double": lambda config: double_rule,
}
