"""Several processes as one learner: each has its share of a batch, and one gradient is averaged over all.

`torchrun` starts the processes, ranks 0 to N - 1. The collectives are PyTorch's: gloo between hosts' memories,
NCCL between GPUs, where the sum of the gradients is a part of the capture. Each rank calls the same methods in the
same order.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from threading import Event, Thread
from typing import Any, NoReturn, Protocol, TypeVar

import torch
import torch.distributed as distributed
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from fastdqn import torchrun
from fastdqn.engine import device
from fastdqn.errors import RefusedError, RunFailedError, UserError

T = TypeVar("T")

JOIN_SECONDS = 300.0
"""How long a rank waits for the others at the start."""
LONGEST_SECONDS = 86_400.0
"""How long a rank waits for one that is alive: rank 0 may play an evaluation of hours meanwhile."""
BEAT_SECONDS = 1.0
"""Time between two signs of life."""
SILENCE_SECONDS = 300.0
"""A rank that has given none for so long is lost. One whose process has ended is noticed at once, as its
connections close."""
GRACE_SECONDS = 15.0
"""What a process that has lost another one has to end by itself, with the message that knows most."""


class Ranks(Protocol):
    """The processes that learn together.

    Attributes:
        index: This one's number.
        count: How many there are.
    """

    index: int
    count: int

    def all_reduce(self, tensor: Tensor) -> None:
        """Replace a tensor of the learner's device by its sum over the ranks, the same bits on each.

        It is queued on the current stream, and can be captured.
        """
        ...

    def broadcast(self, tensor: Tensor) -> None:
        """Replace a tensor of the learner's device by that of rank 0."""
        ...

    def sum(self, *counts: int) -> tuple[int, ...]:
        """Return the sum of each number over the ranks."""
        ...

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks, in their order.

        Raises:
            UserError: A rank has refused (`together`).
        """
        ...

    def refuse(self, problem: str) -> NoReturn:
        """Have the `gather` of every other rank, and this call, raise a `UserError`."""
        ...


class Alone:
    """One process, with nobody to wait for."""

    index, count = 0, 1

    def all_reduce(self, tensor: Tensor) -> None:
        """Leave it as it is."""

    def broadcast(self, tensor: Tensor) -> None:
        """Leave it as it is."""

    def sum(self, *counts: int) -> tuple[int, ...]:
        """Return them."""
        return counts

    def gather(self, value: T) -> list[T]:
        """Return it."""
        return [value]

    def refuse(self, problem: str) -> NoReturn:
        """Raise it."""
        raise UserError(problem)


ALONE = Alone()


class Group:
    """The ranks of a process group of PyTorch.

    Args:
        init_method: How ranks find each other; `env://` is torchrun's way.
        index: This rank; -1 where the environment says it.
        count: Ranks, likewise.
    """

    def __init__(self, init_method: str = "env://", index: int = -1, count: int = -1) -> None:
        store, self.index, self.count = next(
            rendezvous(init_method, index, count, timeout=timedelta(seconds=JOIN_SECONDS))
        )
        longest = timedelta(seconds=LONGEST_SECONDS)
        # The default group has the device's tensors alone: one communicator, which a capture may own.
        distributed.init_process_group(
            device.collectives(), store=store, rank=self.index, world_size=self.count, timeout=longest
        )
        self._host = distributed.new_group(backend="gloo", timeout=longest)
        self._watch = _Watch(self.index, self.count)
        self._watch.start()

    def all_reduce(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum: `Ranks.all_reduce`."""
        self._together(lambda: distributed.all_reduce(tensor))

    def broadcast(self, tensor: Tensor) -> None:
        """Replace a tensor by that of rank 0: `Ranks.broadcast`."""
        if tensor.numel():
            self._together(lambda: distributed.broadcast(tensor, 0))

    def sum(self, *counts: int) -> tuple[int, ...]:
        """Return sums over the ranks: `Ranks.sum`."""
        total = torch.tensor(counts, dtype=torch.int64)
        self._together(lambda: distributed.all_reduce(total, group=self._host))
        return tuple(total.tolist())

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks: `Ranks.gather`."""
        return self._exchange(value, None)

    def refuse(self, problem: str) -> NoReturn:
        """Have all ranks raise it: `Ranks.refuse`."""
        self._exchange(None, problem)
        raise AssertionError("unreachable: a refusal is among what was exchanged")

    def leave(self) -> None:
        """Leave, once all others do.

        The threads of the groups end here: one that lets go of a tensor while Python ends would abort the process.
        """
        self._watch.leave()
        distributed.destroy_process_group(self._host)
        del self._host
        if distributed.get_backend() == "gloo":  # NCCL's communicator waits for its captures (pytorch#115388)
            distributed.destroy_process_group()

    def give_up(self) -> None:
        """Leave without the others, who will see that this rank is lost."""
        self._watch.give_up()

    def _exchange(self, value: Any, problem: str | None) -> list[Any]:
        found: list[Any] = [None] * self.count
        self._together(lambda: distributed.all_gather_object(found, (value, problem), group=self._host))
        for _, refused in found:
            if refused is not None:
                raise RefusedError(refused)
        return [one for one, _ in found]

    def _together(self, work: Callable[[], object]) -> None:
        """Do what all ranks do.

        Raises:
            RunFailedError: One of them is gone.
        """
        try:
            work()
        except RuntimeError as error:
            raise RunFailedError(_lost(self.index, self.count, error)) from error


class _Watch(Thread):
    """Ends this process where another one is lost, should it not end by itself.

    The loop may be where nothing tells it: a GPU waits for the other's part of a sum for ever, an evaluation takes
    hours.
    """

    def __init__(self, index: int, count: int) -> None:
        super().__init__(name="watch", daemon=True)
        self._index, self._count = index, count
        self._leaves, self._gives_up = Event(), Event()
        self._group = distributed.new_group(backend="gloo", timeout=timedelta(seconds=SILENCE_SECONDS))

    def run(self) -> None:
        """Exchange signs of life, until all leave."""
        leaving = torch.zeros((), dtype=torch.int64)
        try:
            while leaving < self._count:
                self._leaves.wait(BEAT_SECONDS)
                if self._gives_up.is_set():
                    return
                leaving.fill_(self._leaves.is_set())
                distributed.all_reduce(leaving, group=self._group)
        except RuntimeError as error:
            if self._gives_up.wait(GRACE_SECONDS):
                return
            # Nothing that is open is lost by it: files are written whole or not at all.
            print(f"fastdqn: {_lost(self._index, self._count, error)}", file=sys.stderr, flush=True)
            os._exit(1)

    def leave(self) -> None:
        """Return when all ranks have called this."""
        self._leaves.set()
        self.join()
        distributed.destroy_process_group(self._group)
        del self._group

    def give_up(self) -> None:
        """End, without the others: a thread inside PyTorch while Python ends would abort the process."""
        self._gives_up.set()
        self._leaves.set()
        self.join(2 * BEAT_SECONDS)


def _lost(index: int, count: int, error: RuntimeError) -> str:
    said = str(error).splitlines()[0].rpartition("] ")[2]
    return f"rank {index} of {count} cannot go on without another one, which has ended or is silent ({said})."


@contextmanager
def joined(wanted: bool) -> Iterator[Ranks]:
    """Join the processes that torchrun has started, for the length of a block; leave when all others do.

    A block that raises does not wait: the others learn that this rank is lost.

    Args:
        wanted: `pipeline.data_parallel`.

    Yields:
        The ranks; `ALONE` where no others are wanted, or there is but one.

    Raises:
        UserError: They are wanted, and nobody has started them; or there are some, and they are not wanted.
    """
    place = torchrun.place()
    if wanted and place is None:
        raise UserError(
            "pipeline.data_parallel = True: nobody has started several processes.\nStart them with `torchrun`"
        )
    count = place.count if place else 1
    if count > 1 and not wanted:
        raise RefusedError(  # each of them does
            f"torchrun has started {count} processes, and each would train this run by itself.\n"
            "Divide it among them with `pipeline.data_parallel = True`."
        )
    if place is None or count == 1:
        yield ALONE
        return
    device.take(place.local_rank, place.local_count)
    try:
        group = Group()
    except RuntimeError as error:
        raise RunFailedError(f"the {count} processes have not found each other: {error}") from error
    try:
        yield group
    except BaseException:
        group.give_up()
        raise
    group.leave()


@contextmanager
def together(ranks: Ranks) -> Iterator[None]:
    """Have a block, which may `gather` and do nothing else of the kind, succeed on every rank or on none.

    Raises:
        UserError: On every rank, that of the first that raised one.
    """
    try:
        yield
    except RefusedError:
        raise
    except UserError as error:
        ranks.refuse(str(error))
    else:
        ranks.gather(None)
