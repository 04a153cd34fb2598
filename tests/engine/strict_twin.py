"""A double of a GPU for machines without one, where missing waits and frozen Python show in the results.

It puts work off for as long as the waits allow, so that a missing wait computes with stale memory, and it
captures by tracing once and replaying the traced operations, so that whatever Python did beside them stays frozen
as it does in a CUDA graph.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from fastdqn.engine.device import CpuBackend, Event, Stream, Work


class _LateEvent:
    def __init__(self, stream: _LateStream, position: int) -> None:
        self._stream, self._position = stream, position

    def wait(self) -> None:
        self._stream.run_until(self._position)


class _LateStream:
    """Does work when somebody waits for it, and not before."""

    def __init__(self) -> None:
        self._queue: deque[Work] = deque()
        self._submitted = self._done = 0

    def submit(self, work: Work) -> None:
        self._queue.append(work)
        self._submitted += 1

    def record(self, *, blocking: bool = False) -> Event:
        return _LateEvent(self, self._submitted)

    def wait(self, event: Event) -> None:
        self.submit(event.wait)

    def run_until(self, position: int) -> None:
        while self._done < position:
            work = self._queue.popleft()
            self._done += 1
            work()


class StrictTwin(CpuBackend):
    """A CPU that behaves as badly as a GPU may.

    Streams do their work as late as waits allow. A capture traces `work` once into a graph of operations;
    each replay first fills the outputs with rubbish and then runs those operations with gradients off. So a
    Python counter, a host branch, a tensor that was rebound after the capture and an output that nobody
    writes all show in the results.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shares_memory = False
        self.compiles_captures = False  # what is traced must be Python
        self.learn, self.act, self.copy = _LateStream(), _LateStream(), _LateStream()

    def capture(self, work: Work, outputs: Sequence[Tensor], stream: Stream) -> Work:
        """Return a replay of the traced operations."""
        from torch.fx.experimental.proxy_tensor import make_fx

        def traced() -> list[Tensor]:
            work()
            return []

        work()
        graph = make_fx(traced)()

        def replay() -> None:
            for output in outputs:
                _spoil(output)
            with torch.no_grad():
                graph()

        return replay

    def synchronize(self) -> None:
        """Do all that is left."""
        for stream in (self.copy, self.learn, self.act):
            stream.record().wait()


def _spoil(tensor: Tensor) -> None:
    """Fill a tensor with what nobody computes: not-a-number, or the type's largest whole number."""
    tensor.fill_(torch.nan if tensor.is_floating_point() else torch.iinfo(tensor.dtype).max)
