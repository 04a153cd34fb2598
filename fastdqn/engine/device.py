"""Where work runs: streams, events, pinned memory and capture, behind one small interface.

Nothing else in the package touches `torch.cuda`. Work is submitted to one of three streams:

- `learn`: updates, target copies, averages, the device's frames; all state of the learner belongs to it;
- `act`: observations in, the best actions out;
- `copy`: batches on their way from pinned memory, where they hold pixels.

`CpuBackend` does all work at once, in the order in which it was submitted. `CudaBackend` queues it. The tests have
a third one, which behaves on a CPU as badly as a GPU may (`tests/engine/strict_twin.py`).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fastdqn.errors import UserError

Work = Callable[[], object]

WARM_UP_RUNS = 3
"""Runs before a capture: compilers, cuDNN and cuBLAS settle and allocate in the first ones."""


class Event(Protocol):
    """A point in a stream."""

    def wait(self) -> None:
        """Block the host until all that was submitted before this point is done."""
        ...


class Stream(Protocol):
    """A queue of work that is done in order."""

    def submit(self, work: Work) -> None:
        """Queue `work`: tensor operations of this device on memory that stays where it is."""
        ...

    def record(self, *, blocking: bool = False) -> Event:
        """Return the point after all that was submitted so far.

        Args:
            blocking: Whether a host that waits for it sleeps, and leaves its core to the emulator's threads. It
                wakes later than one that looks all the time: not for a device that is idle until it does.
        """
        ...

    def wait(self, event: Event) -> None:
        """Let what is submitted from now on begin after `event`; the host goes on at once."""
        ...


class Backend(Protocol):
    """A device with its three streams.

    Attributes:
        device: Where tensors live.
        learn: Updates.
        act: Acting.
        copy: Batches from pinned memory.
        shares_memory: Whether the device reads the host's memory, and does so at once.
        compiles_captures: Whether what is to be captured is compiled first.
    """

    device: torch.device
    shares_memory: bool
    compiles_captures: bool
    learn: Stream
    act: Stream
    copy: Stream

    def host_memory(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """Return zeroed host memory that the device copies from and to without a stop on the way."""
        ...

    def capture(self, work: Work, outputs: Sequence[Tensor], stream: Stream) -> Work:
        """Return what does all of `work`'s tensor operations again, without its Python.

        `work` is run a few times first, and it may be run once more while it is recorded: whoever calls puts
        back what it changed.

        Args:
            work: Reads and writes tensors that stay where they are, and nothing else that changes.
            outputs: The tensors that it overwrites as a whole. (The tests' device fills them with rubbish before.)
            stream: Where the result will be submitted.
        """
        ...

    def synchronize(self) -> None:
        """Block the host until all streams are empty."""
        ...

    def free_bytes(self) -> int | None:
        """Return the device's free memory, `None` where it has no memory of its own."""
        ...


class _Done:
    """The event of work that was done when it was submitted."""

    def wait(self) -> None:
        return


class _InOrderStream:
    """Does work when it is submitted."""

    def submit(self, work: Work) -> None:
        work()

    def record(self, *, blocking: bool = False) -> Event:
        return _Done()

    def wait(self, event: Event) -> None:
        event.wait()


class CpuBackend:
    """The host itself: all is done in the order in which it is submitted, and nothing is captured."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.shares_memory = True
        self.compiles_captures = False
        self.learn: Stream = _InOrderStream()
        self.act: Stream = self.learn
        self.copy: Stream = self.learn

    def host_memory(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """Return zeroed memory."""
        return torch.zeros(shape, dtype=dtype)

    def capture(self, work: Work, outputs: Sequence[Tensor], stream: Stream) -> Work:
        """Raise: there is nothing to capture with.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError("capturing an update needs a CUDA device")

    def synchronize(self) -> None:
        """Return: nothing is ever left to do."""

    def free_bytes(self) -> int | None:
        """Return `None`."""
        return None


class _CudaEvent:
    def __init__(self, event: torch.cuda.Event) -> None:
        self.event = event

    def wait(self) -> None:
        self.event.synchronize()


class _CudaStream:
    def __init__(self, stream: torch.cuda.Stream) -> None:
        self.stream = stream

    def submit(self, work: Work) -> None:
        with torch.cuda.stream(self.stream):
            work()

    def record(self, *, blocking: bool = False) -> Event:
        event = torch.cuda.Event(blocking=blocking)  # type: ignore[no-untyped-call]
        event.record(self.stream)
        return _CudaEvent(event)

    def wait(self, event: Event) -> None:
        assert isinstance(event, _CudaEvent)
        self.stream.wait_event(event.event)


class CudaBackend:
    """An NVIDIA GPU.

    Results are reproducible: cuDNN takes deterministic algorithms and does not choose them by timing.

    Args:
        precision: `fp32` computes float32 products as such; `tf32` lets tensor cores round their factors to
            10 bits of mantissa. `bf16` is the network's own affair and leaves this at `fp32`.
    """

    def __init__(self, precision: str = "fp32") -> None:
        self.device = torch.device("cuda", torch.cuda.current_device())
        self.shares_memory = False
        self.compiles_captures = True
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        self.learn: Stream = _CudaStream(torch.cuda.Stream())  # type: ignore[no-untyped-call]
        # The games wait for the actions: they go first.
        self.act: Stream = _CudaStream(torch.cuda.Stream(priority=-1))  # type: ignore[no-untyped-call]
        self.copy: Stream = _CudaStream(torch.cuda.Stream())  # type: ignore[no-untyped-call]
        self._graphs: list[torch.cuda.CUDAGraph] = []

    def host_memory(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """Return zeroed page-locked memory."""
        return torch.zeros(shape, dtype=dtype, pin_memory=True)

    def capture(self, work: Work, outputs: Sequence[Tensor], stream: Stream) -> Work:
        """Return the replay of a CUDA graph. A capture that fails is an error, never a return to eager."""
        assert isinstance(stream, _CudaStream)
        for _ in range(WARM_UP_RUNS):
            stream.submit(work)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream.stream):
            work()
        # All graphs live as long as the process' streams do: freeing one can take a workspace that cuBLAS
        # shares with another (pytorch#193402).
        self._graphs.append(graph)
        return graph.replay

    def synchronize(self) -> None:
        """Block the host until the device is idle."""
        torch.cuda.synchronize()

    def free_bytes(self) -> int | None:
        """Return the free memory of the GPU in bytes."""
        free, _ = torch.cuda.mem_get_info(self.device)
        return int(free)


def has_cuda() -> bool:
    """Return whether there is a GPU that PyTorch can use."""
    return torch.cuda.is_available()


def gpu_name() -> str | None:
    """Return the name of the GPU, `None` where there is none."""
    return torch.cuda.get_device_name() if has_cuda() else None


def free_gpu_bytes() -> int | None:
    """Return the free memory of the GPU, `None` where there is no GPU."""
    return int(torch.cuda.mem_get_info()[0]) if has_cuda() else None


@dataclass(frozen=True)
class Gpu:
    """A GPU that processes may be put on.

    Attributes:
        name: What `CUDA_VISIBLE_DEVICES` calls it.
        free_bytes: Its free memory.
    """

    name: str
    free_bytes: int


_FREE_BYTES = "import torch; c = torch.cuda; print(*[c.mem_get_info(i)[0] for i in range(c.device_count())])"


def list_gpus() -> list[Gpu]:
    """Return the GPUs that this process may use, empty where there is none.

    Another process asks for their memory: whoever asks holds some of each for as long as it lives.
    """
    if not has_cuda():
        return []
    asked = subprocess.run([sys.executable, "-c", _FREE_BYTES], capture_output=True, text=True, check=True)
    free = [int(word) for word in asked.stdout.split()]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(number) for number in range(len(free))]
    return [Gpu(name.strip(), size) for name, size in zip(names, free, strict=False)]


def collectives() -> str:
    """Return what PyTorch calls the library that adds up tensors of this device over processes."""
    return "nccl" if has_cuda() else "gloo"


def take(index: int, count: int) -> None:
    """Have this process use a GPU of its own, where there are GPUs.

    Args:
        index: Its number among the processes of this machine.
        count: How many they are.

    Raises:
        UserError: There are GPUs, and fewer than processes.
    """
    if not has_cuda():
        return
    gpus = torch.cuda.device_count()
    if count > gpus:
        raise UserError(f"{count} processes on this machine, and it has {gpus} GPUs: each takes one.")
    torch.cuda.set_device(index)


def choose(precision: str = "fp32") -> Backend:
    """Return the GPU if there is one, else the CPU."""
    return CudaBackend(precision) if has_cuda() else CpuBackend()
