"""Rules: which next actions a target is made of; B is the batch, A the number of actions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
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
        target_next: The target network's for the next observations; every update has them, so they cost nothing,
            but where a head samples and they are to be of another sample (`learner.fresh_quantiles`).
        online_next: The online network's for the next observations; costs a pass through the network.
        target_now: The target network's for the observations; costs a pass through the network.
        online_now: The online network's for the observations; costs a pass through the network.
        action: int64 [B], the actions taken.
    """

    target_next: Callable[[], Tensor]
    online_next: Callable[[], Tensor]
    target_now: Callable[[], Tensor]
    online_now: Callable[[], Tensor]
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


@dataclass(frozen=True)
class Munchausen:
    """Value all next actions by the target network's softmax policy, and reward what the policy was sure of.

    Vieillard et al. 2020, equation 2: r + alpha * clip(tau log pi(a|s), floor, 0)
    + discount * sum over a' of pi(a'|s') (q(s', a') - tau log pi(a'|s')), pi = softmax(q / tau). Of a return over
    several steps the first alone has the bonus, as in BTR's code.

    Attributes:
        alpha: Share of the log policy that is rewarded.
        temperature: tau.
        floor: Lowest value of tau log pi(a|s).
        network: Whose policy pi(a|s) is: `target`, as in the paper, or `online`, as in BTR's code. That of the
            next observations is the target network's.
    """

    alpha: float
    temperature: float
    floor: float
    network: str

    def __call__(self, values: Values) -> Next:
        """Return all actions, by the policy's probabilities, with tau log pi as penalties."""
        q = values.target_next()
        now = {"target": values.target_now, "online": values.online_now}[self.network]()
        taken = scaled_log_softmax(now, self.temperature).gather(1, values.action.unsqueeze(1)).squeeze(1)
        penalty = scaled_log_softmax(q, self.temperature)
        return Next(
            action=torch.arange(q.shape[1], device=q.device).expand(len(q), -1),
            weight=(penalty / self.temperature).exp(),
            penalty=penalty,
            bonus=self.alpha * taken.clamp(self.floor, 0.0),
        )


def scaled_log_softmax(q: Tensor, temperature: float) -> Tensor:
    """Return temperature * log softmax(q / temperature), [B, A], finite for every temperature.

    Written as x - m - tau logsumexp((x - m) / tau), m the maximum: differences of values are formed before the
    division makes them large (Vieillard et al. 2020, appendix B.1).
    """
    above = q - q.amax(dim=1, keepdim=True)
    return above - temperature * (above / temperature).logsumexp(dim=1, keepdim=True)


RULES: dict[str, Callable[[LearnerConfig], Rule]] = {
    "max": lambda config: max_rule,
    "double": lambda config: double_rule,
    "munchausen": lambda config: Munchausen(
        config.munchausen_alpha, config.temperature, config.munchausen_floor, config.munchausen_network
    ),
}
