"""Batches from the replay to the learner."""

from __future__ import annotations

import torch

from fastdqn.learner import Batch
from fastdqn.replay import ReplayBuffer


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

    def next(self) -> Batch:
        """Return the next batch, as tensors on the learner's device."""
        self._replay.sample(self._size, out=self._arrays)
        if self._device == "cpu":
            return self._tensors
        return Batch(**{name: tensor.to(self._device) for name, tensor in vars(self._tensors).items()})
