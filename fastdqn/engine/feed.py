"""Batches from the replay to the learner, frames to the device, and priorities back.

`HostFeed` sends whole batches: the pixels lie in host memory. `DeviceFeed` keeps a copy of every frame on the
device and sends frame numbers; the update gathers. Both go through a ring of host slots, so that the host can
prepare a launch while earlier ones are queued.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastdqn.algorithm.update import Transitions
from fastdqn.engine.device import Backend, Event
from fastdqn.engine.learner import LaunchInputs, LaunchResults
from fastdqn.replay import COLUMNS, Added, Batch, Plan, ReplayBuffer

_ALIGNMENT = 64
_STORES_IN_FLIGHT = 3
_CHUNK = 4096

_FIELDS = tuple(Transitions.__annotations__)
PLANNED = {"obs": "obs_frames", "next_obs": "next_frames"}
"""The fields that are pixels, each with the field of a plan that has their frames' slots."""
_COLUMNS = {
    name: torch.from_numpy(np.empty(0, dtype)).dtype for name, dtype in COLUMNS.items() if name in _FIELDS
}
"""The replay's columns that an update reads, and so are sent. The names of the rows stay here."""


@dataclass(frozen=True)
class Queueing:
    """How updates are queued.

    Attributes:
        updates: Updates per launch, each with a batch.
        in_flight: Launches that may be queued before the host has to wait for one.
        priority_lag_updates: Updates that may be queued before the priorities of a launch have to be back; whole
            launches count.
    """

    updates: int = 1
    in_flight: int = 3
    priority_lag_updates: int = 0


ONE_BY_ONE = Queueing()


class Feed(Protocol):
    """What the loop needs of a feed.

    Attributes:
        inputs: What the learner is prepared for.
        device_bytes: Memory of the device that frames take.
    """

    inputs: LaunchInputs
    device_bytes: int

    def store(self, added: Added, observation: NDArray[np.uint8]) -> None:
        """Take note of frames that the replay has stored, and of the observations that they came in."""
        ...

    def stage(self, beta: float) -> None:
        """Sample the batches of the next launch and queue their way into the inputs' memory."""
        ...

    def report(self, results: LaunchResults) -> None:
        """Give the rows of the launch just queued their new priorities."""
        ...

    def flush(self) -> None:
        """Wait for priorities that are still on their way."""
        ...

    def refill(self) -> None:
        """Start over after the replay was restored."""
        ...


@dataclass
class _Slot:
    """Host memory of one launch.

    Attributes:
        flat: uint8 [bytes], all that is sent, in one piece.
        on_device: The same on the device, on its way to the inputs' memory; `None` where memory is shared.
        fields: For each update the parts of `flat`, by name.
        row: int64 [K, B], names of the sampled transitions, which stay here.
        free: When `flat` may be written again.
    """

    flat: Tensor
    on_device: Tensor | None
    fields: list[dict[str, Tensor]]
    row: NDArray[np.int64]
    free: Event


@dataclass
class _Priorities:
    """Priorities on their way back.

    Attributes:
        row: int64 [K, B], the transitions that they belong to.
        priority: float32 [K, B], on the host.
        arrived: When they are on the host.
    """

    row: NDArray[np.int64]
    priority: Tensor
    arrived: Event


class _Feed(ABC):
    """What both feeds have in common: slots, staging and priorities.

    Args:
        replay: Where to sample.
        batch_size: Transitions per batch, B.
        backend: Where the learner is.
        queueing: How updates are queued; K updates per launch.
        pixels: Shape and type of what is sent for each of the two observations of a batch.
    """

    def __init__(
        self,
        replay: ReplayBuffer,
        batch_size: int,
        backend: Backend,
        queueing: Queueing,
        pixels: tuple[tuple[int, ...], torch.dtype],
    ) -> None:
        self._replay, self._backend, self._size = replay, backend, batch_size
        self._lag_launches = queueing.priority_lag_updates // queueing.updates
        columns = {name: ((batch_size,), dtype) for name, dtype in _COLUMNS.items()}
        self._layout = {**dict.fromkeys(PLANNED, pixels), **columns}
        count = queueing.updates
        size = count * sum(_padded(shape, dtype) for shape, dtype in self._layout.values())
        slots = 1 if backend.shares_memory else queueing.in_flight
        self._slots = [self._new_slot(size, count) for _ in range(slots)]
        self._priorities = [self._new_priorities(count) for _ in range(self._lag_launches + 1)]
        self._staged = self._reported = 0
        self._pending: deque[_Priorities] = deque()
        if backend.shares_memory:
            self._static = self._slots[0].flat
        else:
            self._static = torch.zeros(size, dtype=torch.uint8, device=backend.device)
        self._parts = _split(self._static, self._layout, count)
        backend.synchronize()  # the memory was filled on another stream than those that will use it

    def refill(self) -> None:
        """Forget what was on its way."""
        self._pending.clear()

    def stage(self, beta: float) -> None:
        """Sample the batches of the next launch and queue their way into the inputs' memory.

        Args:
            beta: Exponent of the importance weights; without effect under uniform sampling.
        """
        slot = self._slots[self._staged % len(self._slots)]
        self._staged += 1
        slot.free.wait()
        for fields, row in zip(slot.fields, slot.row, strict=True):
            self._fill({name: tensor.numpy() for name, tensor in fields.items()}, row, beta)
        if slot.on_device is not None:
            self._send(slot)

    def report(self, results: LaunchResults) -> None:
        """Queue the way back of a launch's priorities and apply those that are due.

        Under uniform sampling nobody needs them, and a GPU is not waited for.

        Args:
            results: What `Learner.launch` returned for the batches staged last.
        """
        if self._replay.alpha == 0:
            return
        coming = self._priorities[self._reported % len(self._priorities)]
        self._reported += 1
        coming.row[:] = self._slots[(self._staged - 1) % len(self._slots)].row
        learn = self._backend.learn
        learn.submit(lambda: coming.priority.copy_(results.priority, non_blocking=True))
        coming.arrived = learn.record(
            blocking=self._lag_launches > 0
        )  # without a lag the device idles meanwhile
        self._pending.append(coming)
        while len(self._pending) > self._lag_launches:
            self._apply_oldest()

    def flush(self) -> None:
        """Apply all priorities that are still on their way."""
        while self._pending:
            self._apply_oldest()

    @abstractmethod
    def _fill(self, fields: dict[str, NDArray[Any]], row: NDArray[np.int64], beta: float) -> None:
        """Sample a batch into `fields`, by name, and its rows into `row`, int64 [B]."""

    def _new_slot(self, size: int, count: int) -> _Slot:
        backend = self._backend
        flat = backend.host_memory(size, dtype=torch.uint8)
        return _Slot(
            flat=flat,
            on_device=None if backend.shares_memory else torch.zeros_like(flat, device=backend.device),
            fields=_split(flat, self._layout, count),
            row=np.zeros((count, self._size), np.int64),
            free=backend.learn.record(blocking=True),
        )

    def _new_priorities(self, count: int) -> _Priorities:
        return _Priorities(
            row=np.zeros((count, self._size), np.int64),
            priority=self._backend.host_memory(count, self._size, dtype=torch.float32),
            arrived=self._backend.learn.record(),
        )

    def _send(self, slot: _Slot) -> None:
        """Bring a slot to the device beside the updates, then in their order into the inputs' memory."""
        copy, learn, on_device = self._backend.copy, self._backend.learn, slot.on_device
        assert on_device is not None
        copy.submit(lambda: on_device.copy_(slot.flat, non_blocking=True))
        learn.wait(copy.record())
        learn.submit(lambda: self._static.copy_(on_device))
        slot.free = learn.record(blocking=True)

    def _apply_oldest(self) -> None:
        coming = self._pending.popleft()
        coming.arrived.wait()
        self._replay.update_priorities(coming.row.reshape(-1), coming.priority.numpy().reshape(-1))


class HostFeed(_Feed):
    """Sends whole batches from host memory. On a CPU the learner reads them where the replay wrote them.

    Args:
        replay: Where to sample.
        batch_size: Transitions per batch.
        backend: Where the learner is.
        queueing: How updates are queued.
    """

    def __init__(
        self,
        replay: ReplayBuffer,
        batch_size: int,
        backend: Backend,
        queueing: Queueing = ONE_BY_ONE,
    ) -> None:
        shape = (batch_size, replay.stack, *replay.frame_shape)
        super().__init__(replay, batch_size, backend, queueing, (shape, torch.uint8))
        self.device_bytes = 0
        self.inputs = LaunchInputs(
            [tuple(part[name] for name in _FIELDS) for part in self._parts], Transitions
        )

    def store(self, added: Added, observation: NDArray[np.uint8]) -> None:
        """Do nothing: the pixels go with the batches."""

    def _fill(self, fields: dict[str, NDArray[Any]], row: NDArray[np.int64], beta: float) -> None:
        self._replay.sample(self._size, beta=beta, out=Batch(**fields, row=row))


class DeviceFeed(_Feed):
    """Keeps every frame on the device and sends frame numbers, 2.7 kB for a batch of 32.

    A frame crosses once, when the replay stores it. The device's frames are changed in the order of the
    updates, on the stream `learn`: a queued update reads what the replay held when its batch was planned, so
    no frame has to be guarded.

    Args:
        replay: Where to plan.
        batch_size: Transitions per batch.
        backend: Where the learner is, and the frames.
        queueing: How updates are queued.

    Attributes:
        frames: uint8 [slots, height, width], a mirror of the replay's store.
    """

    def __init__(
        self,
        replay: ReplayBuffer,
        batch_size: int,
        backend: Backend,
        queueing: Queueing = ONE_BY_ONE,
    ) -> None:
        super().__init__(replay, batch_size, backend, queueing, ((batch_size, replay.stack), torch.int64))
        slots = replay.ring * replay.num_envs
        self.frames = torch.zeros((slots, *replay.frame_shape), dtype=torch.uint8, device=backend.device)
        self.device_bytes = self.frames.nbytes
        self.inputs = LaunchInputs(
            [(self.frames, *(part[name] for name in _FIELDS)) for part in self._parts], gather_batch
        )
        most = replay.num_envs * replay.stack
        self._new = [
            (
                backend.host_memory(most, *replay.frame_shape, dtype=torch.uint8),
                backend.host_memory(most, dtype=torch.int64),
            )
            for _ in range(_STORES_IN_FLIGHT)
        ]
        self._new_free = [backend.learn.record(blocking=True) for _ in range(_STORES_IN_FLIGHT)]
        self._stores = 0
        backend.synchronize()

    def store(self, added: Added, observation: NDArray[np.uint8]) -> None:
        """Send the frames that the replay has stored.

        Args:
            added: What `ReplayBuffer.add` or `begin` returned.
            observation: uint8 [N, stack, height, width], what was given to it.
        """
        turn = self._stores % _STORES_IN_FLIGHT
        self._stores += 1
        self._new_free[turn].wait()
        pixels, slots = (part[: len(added.slot)] for part in self._new[turn])
        single = observation.reshape(-1, *observation.shape[2:])
        where = added.source_row * observation.shape[1] + added.source_index
        np.take(single, where, axis=0, out=pixels.numpy(), mode="clip")
        slots.numpy()[:] = added.slot
        device, learn = self._backend.device, self._backend.learn
        learn.submit(
            lambda: self.frames.index_copy_(
                0, slots.to(device, non_blocking=True), pixels.to(device, non_blocking=True)
            )
        )
        self._new_free[turn] = learn.record(blocking=True)

    def refill(self) -> None:
        """Copy the whole store."""
        super().refill()
        self._backend.synchronize()
        for first in range(0, len(self.frames), _CHUNK):
            part = self.frames[first : first + _CHUNK]
            chunk = np.empty(tuple(part.shape), np.uint8)
            part.copy_(torch.from_numpy(self._replay.read_frames(first, chunk)))
        self._backend.synchronize()

    def _fill(self, fields: dict[str, NDArray[Any]], row: NDArray[np.int64], beta: float) -> None:
        planned = {PLANNED.get(name, name): field for name, field in fields.items()}
        self._replay.plan(self._size, beta=beta, out=Plan(**planned, row=row))


def gather_batch(frames: Tensor, *planned: Tensor) -> Transitions:
    """Return the batch of a plan.

    Args:
        frames: uint8 [slots, height, width].
        planned: The batch's fields in their order; for pixels int64 [B, stack], the slots of their frames.
    """
    named = dict(zip(_FIELDS, planned, strict=True))
    return Transitions(**{name: frames[value] if name in PLANNED else value for name, value in named.items()})


def _padded(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """Return the bytes of an array, up to the next multiple of the alignment."""
    return -(-math.prod(shape) * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT


def _split(
    flat: Tensor, layout: Mapping[str, tuple[tuple[int, ...], torch.dtype]], count: int
) -> list[dict[str, Tensor]]:
    """Return `count` times the arrays of a layout as views of flat memory, one after the other."""
    result, at = [], 0
    for _ in range(count):
        fields = {}
        for name, (shape, dtype) in layout.items():
            size = math.prod(shape) * dtype.itemsize
            fields[name] = flat[at : at + size].view(dtype).view(shape)
            at += _padded(shape, dtype)
        result.append(fields)
    return result
