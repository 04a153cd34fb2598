"""Rules: which next actions a target is made of; B is the batch, A the number of actions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from fastdqn.config import LearnerConfig


class Next(NamedTuple):
    """The next actions of a target: K of them, 1 for greedy rules, A for soft ones.

    The target is the sum over k of `weight[k] * (what the target network says of action[k] - penalty[k])`,
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
    """The action values that a rule may ask for; asking for some costs a pass through a network.

    Attributes:
        target_next: The target network's of the next observations, [B, A]; these are there anyway.
        online_next: The online network's of the next observations.
        target_now: The target network's of the observations.
        action: int64 [B], the actions taken.
    """

    target_next: Callable[[], Tensor]
    online_next: Callable[[], Tensor]
    target_now: Callable[[], Tensor]
    action: Tensor


Rule = Callable[[Values], Next]


def max_rule(values: Values) -> Next:
    """Take the action that the target network likes best (Mnih et al. 2015, algorithm 1)."""
    return greedily(values.target_next())


def double_rule(values: Values) -> Next:
    """Take the action that the online network likes best (van Hasselt et al. 2016, equation 4)."""
    return greedily(values.online_next())


def greedily(q: Tensor) -> Next:
    """Return the best action alone, among equal values the first.

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
