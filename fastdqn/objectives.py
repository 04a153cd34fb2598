"""TD targets and losses as pure functions of tensors; B is the batch, A the number of actions."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Values = Callable[[Tensor], Tensor]
"""A network: uint8 [B, stack, 84, 84] to float [B, A]."""


def max_bootstrap(next_obs: Tensor, online: Values, target: Values) -> Tensor:
    """Return the target network's value of the action that it likes best (Mnih et al. 2015, algorithm 1).

    Args:
        next_obs: uint8 [B, stack, 84, 84].
        online: The network that learns; not asked here.
        target: The network that values.

    Returns:
        float [B].
    """
    return target(next_obs).amax(dim=1)


def double_bootstrap(next_obs: Tensor, online: Values, target: Values) -> Tensor:
    """Return the target network's value of the action that the online network likes best.

    van Hasselt et al. 2016, equation 4. Among equal values the first action is taken.

    Args:
        next_obs: uint8 [B, stack, 84, 84].
        online: The network that learns; it chooses.
        target: The network that values.

    Returns:
        float [B].
    """
    choice = online(next_obs).argmax(dim=1, keepdim=True)
    return target(next_obs).gather(1, choice).squeeze(1)


def td_target(reward: Tensor, discount: Tensor, next_value: Tensor) -> Tensor:
    """Return `reward + discount * next_value`.

    Args:
        reward: float [B], the n-step return up to the bootstrap.
        discount: float [B], gamma^m * (1 - terminated) with the true number of steps m.
        next_value: float [B], value of the observation m steps later.

    Returns:
        float [B].
    """
    return reward + discount * next_value


def huber(td_error: Tensor) -> Tensor:
    """Return the Huber loss with threshold 1: its gradient is the TD error clipped to [-1, 1].

    That is what Mnih et al. 2015 mean by clipping the error term.

    Args:
        td_error: float [B], target minus prediction.

    Returns:
        float [B].
    """
    size = td_error.abs()
    # With c = min(|d|, 1): d^2/2 where |d| <= 1, |d| - 1/2 beyond.
    clipped = size.clamp(max=1.0)
    return clipped * (size - 0.5 * clipped)


def squared(td_error: Tensor) -> Tensor:
    """Return half the squared TD error; its gradient is the TD error.

    Args:
        td_error: float [B], target minus prediction.

    Returns:
        float [B].
    """
    return 0.5 * td_error.square()


def weighted_mean(losses: Tensor, weight: Tensor) -> Tensor:
    """Return the mean over the batch of `weight * losses`.

    The paper's code sums over the batch instead, a gradient B times as large. `LearnerConfig.reduction` says for
    which of the two its constants are given, and `optimizers.gradient_scale` converts them: nothing else differs.

    Args:
        losses: float [B].
        weight: float [B], importance of each sample; 1 where sampling is uniform.

    Returns:
        float, no dimensions.
    """
    return (weight * losses).mean()


LOSSES: dict[str, Callable[[Tensor], Tensor]] = {"huber": huber, "squared": squared}

BOOTSTRAPS: dict[str, Callable[[Tensor, Values, Values], Tensor]] = {
    "max": max_bootstrap,
    "double": double_bootstrap,
}
