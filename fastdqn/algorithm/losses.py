"""Losses of TD errors as pure functions of tensors; B is the batch."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

ElementwiseLoss = Callable[[Tensor], Tensor]
"""From TD errors, of any shape, to their losses."""


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

    The paper's code sums over the batch instead, a gradient B times as large. `LearnerConfig.reduction` says
    for which of the two its constants are given, and `optimizers.gradient_scale` converts them: nothing else
    differs.

    Args:
        losses: float [B].
        weight: float [B], importance of each sample; 1 where sampling is uniform.

    Returns:
        float, no dimensions.
    """
    return (weight * losses).mean()


LOSSES: dict[str, ElementwiseLoss] = {"huber": huber, "squared": squared}
