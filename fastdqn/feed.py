"""Batches from the replay to the learner, and priorities back."""

from __future__ import annotations

import torch

from fastdqn.learner import Batch, UpdateResult
from fastdqn.replay import ReplayBuffer

PRIORITY_FLOOR = 1e-6
"""Added to |TD error|, so that no transition becomes unreachable (Schaul et al. 2016, section 3.3)."""


class HostFeed:
    """Samples into one set of host arrays that is used again for every batch.

    On a CPU the learner reads those arrays in place. A batch is good until the next one is asked for.

    Args:
        replay: Where to sample.
        batch_size: Transitions per batch.
        device: Where the learner wants its tensors.
    """

    def __init__(self, replay: ReplayBuffer, batch_size: int, device: str = "cpu") -> None:
        self._replay = replay
        self._size = batch_size
        self._device = device
        self._arrays = replay.make_batch(batch_size)
        self._tensors = Batch(
            **{name: torch.from_numpy(getattr(self._arrays, name)) for name in Batch.__dataclass_fields__}
        )

    def next(self, beta: float) -> Batch:
        """Return the next batch, as tensors on the learner's device.

        Args:
            beta: Exponent of the importance weights; without effect under uniform sampling.
        """
        self._replay.sample(self._size, beta=beta, out=self._arrays)
        if self._device == "cpu":
            return self._tensors
        return Batch(**{name: tensor.to(self._device) for name, tensor in vars(self._tensors).items()})

    def report(self, result: UpdateResult) -> None:
        """Give the rows of the last batch their new priorities, |TD error| and a little.

        Under uniform sampling nobody asks for them, and a GPU is not waited for.
        """
        if self._replay.alpha > 0:
            priority = result.td_error.abs().add_(PRIORITY_FLOOR).cpu().numpy()
            self._replay.update_priorities(self._arrays.row, priority)
