"""A stand-in of torch.cuda for builds of PyTorch that have none: `CudaBackend` itself runs on it.

It stands for what PyTorch's programming model of a GPU demands, and for nothing of what CUDA or cuDNN do:

- **Two memories.** A tensor of the device is a `DeviceTensor`: it says that it is on `cuda:0`, is computed by the
  CPU, and does not mix with tensors of the host. Only copies cross, and a copy knows whether the host waits for
  it.
- **Streams and events** as a happens-before relation (vector clocks; Lamport 1978, Fidge 1988). All work is
  done at once, in the order in which the host queues it, so the results are those of a correct program; what a
  GPU might do in another order is found by the race detector instead: each memory knows its last writer and the
  readers since, and two accesses, one of them a write, that no event, stream or wait of the host orders are a
  race. Memory of the host that is page-locked takes part. Memory that is freed while another stream than its
  own may still use it is a race, too: PyTorch's allocator would give it away.
- **Capture** records operations and does not do them: what they would return is filled with rubbish. A replay does
  them again, without any Python of the captured function, and leaves the results in the same memory. What a
  capture forbids raises: reading a value, waiting, memory of the host that is not page-locked.
- **Synchronisation** that nobody sees in the source (`.item()`, `.cpu()`, a copy of pageable memory) raises under
  `torch.cuda.set_sync_debug_mode("error")`.

`torch.compile` returns the function as it is: what a compiler makes of it is another question. A test or a script
uses the stand-in in one of three ways: `with installed() as machine`, `pytest -p tests.engine.cuda_standin`, which
runs tests that need a GPU and fails those in which there was a race, or benchmarks/gpu.py's `--rehearse`.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "stand-in for a GPU"
CUDA = torch.device("cuda", 0)
FREE_BYTES = 4 * 2**30
_ROOT = str(Path(__file__).resolve().parents[2]) + os.sep

aten = torch.ops.aten
_READS_A_VALUE = {aten._local_scalar_dense, aten.equal, aten.is_nonzero, aten.nonzero, aten.item}
_FILLS_NOTHING = {aten.empty, aten.empty_like, aten.new_empty, aten.empty_strided, aten.new_empty_strided}


# Who did what before what -----------------------------------------------------------------------------------

Clock = dict["Agent", int]
"""How far each agent had come, as far as the owner of the clock has waited for it."""


class Agent:
    """The host, or a stream: does one thing after the other."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.clock: Clock = {self: 0}

    def has_waited_for(self, clock: Clock) -> None:
        """Take in that everything in `clock` is done before what this agent does from now on."""
        for agent, tick in clock.items():
            if self.clock.get(agent, 0) < tick:
                self.clock[agent] = tick

    def is_after(self, access: Access) -> bool:
        """Whether an access was done before anything that this agent does from now on."""
        return access.agent is self or self.clock.get(access.agent, 0) >= access.tick


@dataclass(frozen=True)
class Access:
    """One use of a memory."""

    agent: Agent
    tick: int
    what: str


class Memory:
    """What is known of one storage, whichever tensors view it.

    Args:
        machine: Where it is.
        home: The stream that it was allocated on, whose later allocations may get it once it is freed; `None` for
            memory that is never given to another.
    """

    def __init__(self, machine: Machine, home: Agent | None) -> None:
        self._machine, self._home = machine, home
        self._written: Access | None = None
        self._read: dict[Agent, Access] = {}

    def use(self, agent: Agent, write: bool, what: str) -> None:
        """Note an access, and a race if an earlier one is not ordered before it."""
        access = Access(agent, agent.clock[agent], what)
        earlier = [self._written] if self._written else []
        if write:
            earlier += self._read.values()
            self._written, self._read = access, {}
        else:
            self._read[agent] = access
        for other in earlier:
            if not agent.is_after(other):
                self._machine.races.append(f"{other.agent.name}: {other.what} | {agent.name}: {what}")

    def __del__(self) -> None:
        if self._home is None:
            return
        after = Agent("allocator")  # what the home stream is given from now on
        after.has_waited_for(self._home.clock)
        after.has_waited_for(self._machine.host.clock)
        for other in (*self._read.values(), *([self._written] if self._written else [])):
            if other.agent is not self._home and not after.is_after(other):
                self._machine.races.append(f"{other.agent.name}: {other.what} | freed on {self._home.name}")


# The machine ------------------------------------------------------------------------------------------------


@dataclass
class Recording:
    """A capture that is under way."""

    stream: Stream
    operations: list[Operation] = field(default_factory=list)


@dataclass(frozen=True)
class Operation:
    """One recorded operation: what is called, with what, and where its results go."""

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: list[DeviceTensor]
    in_place: bool
    what: str


class Machine:
    """The GPU and its host.

    Attributes:
        races: What was not ordered, each time as `who: what | who: what`.
        calls: How often each function of torch.cuda was called.
        trace: Chrome trace events of what the device did while it was profiled, `None` while it is not.
    """

    def __init__(self) -> None:
        self.host = Agent("host")
        self.races: list[str] = []
        self.calls: dict[str, int] = {}
        self.recording: Recording | None = None
        self.sync_debug_mode: int | str = "default"
        self._numbers = itertools.count()
        self.default = Stream(machine=self)
        self.streams = [self.default]
        self.current = [self.default]
        self._pinned: dict[int, tuple[Memory, Any]] = {}
        self.trace: list[dict[str, Any]] | None = None

    def count(self, name: str) -> None:
        """Count a call."""
        self.calls[name] = self.calls.get(name, 0) + 1

    def check(self) -> None:
        """Raise if there was a race.

        Raises:
            AssertionError: There was.
        """
        races = dict.fromkeys(self.races)
        self.races.clear()
        assert not races, f"{len(races)} races:\n" + "\n".join(itertools.islice(races, 10))

    def next_number(self) -> int:
        """Return the next stream's number."""
        return next(self._numbers)

    # the host

    def waits(self, what: str, clock: Clock) -> None:
        """The host waits for what `clock` has seen."""
        self._refuse_in_a_capture(what)
        self.host.has_waited_for(clock)

    def waits_unseen(self, what: str) -> None:
        """The host waits for the current stream, by an operation that does not say so."""
        self.count("hidden synchronisation")
        if self.sync_debug_mode in ("error", 2):
            raise RuntimeError(f"called a synchronizing CUDA operation: {what}")
        self.waits(what, self.current[-1].clock)

    def uses_on_the_host(self, tensor: Tensor, write: bool, what: str) -> None:
        """The host reads or writes memory; it matters where that is page-locked."""
        memory = self.pinned(tensor)
        if memory is not None:
            self.host.clock[self.host] += 1
            memory.use(self.host, write, what)

    def pin(self, tensor: Tensor) -> Tensor:
        """Make a tensor's memory page-locked."""
        self._refuse_in_a_capture("page-locking memory")
        storage = tensor.untyped_storage()
        self._pinned[storage.data_ptr()] = Memory(self, None), storage
        return tensor

    def pinned(self, tensor: Tensor) -> Memory | None:
        """Return what is known of a tensor's memory if that is page-locked."""
        found = self._pinned.get(tensor.untyped_storage().data_ptr()) if self._pinned else None
        return found and found[0]

    # the device

    def does(self, stream: Stream, reads: list[Memory], writes: list[Memory], what: str) -> None:
        """A stream is given something to do."""
        stream.has_waited_for(self.host.clock)
        stream.clock[stream] += 1
        for memory in dict.fromkeys(reads):
            memory.use(stream, False, what)
        for memory in dict.fromkeys(writes):
            memory.use(stream, True, what)

    def new_memory(self) -> Memory:
        """Return memory that the current stream allocates; a graph's own is never given away."""
        return Memory(self, None if self.recording else self.current[-1])

    def run(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Do an operation with tensors of the device, or record it."""
        what = f"{function} {_caller()}"
        _refuse_mixed(function, args, kwargs)
        if function.overloadpacket in _READS_A_VALUE or _by_a_mask(function, args):
            self.waits_unseen(what)
        elif self.recording is not None:
            return self._record(function, args, kwargs, what)
        inputs, outputs, result = _compute(self, function, args, kwargs)
        if not _only_views(function, inputs, outputs):
            self.does(
                self.current[-1],
                _memories(inputs),
                _memories(_written(function, args, kwargs, outputs)),
                what,
            )
        return result

    def copy(self, target: Tensor, source: Tensor, non_blocking: bool) -> Tensor:
        """Copy between host and device."""
        what = f"copy_ {_caller()}"
        host = source if isinstance(target, DeviceTensor) else target
        pinned = self.pinned(host)
        if self.recording is not None and (pinned is None or not non_blocking):
            kind = "of pageable memory" if pinned is None else "that the host waits for"
            raise RuntimeError(f"a copy {kind} is not permitted while a stream is captured: {what}")
        if self.recording is not None:
            self._expect_captured_stream(what)
            self.recording.operations.append(Operation(None, (target, source), {}, [], True, what))
            return target
        self._copy_now(target, source, what)
        if not non_blocking:
            self.waits_unseen(what)
        return target

    def replay(self, operations: list[Operation]) -> None:
        """Do recorded operations again, on the current stream."""
        self._refuse_in_a_capture("a launch of another graph")
        stream = self.current[-1]
        with torch.no_grad(), _without_modes():
            for operation in operations:
                if operation.function is None:
                    self._copy_now(*operation.args, operation.what)
                    continue
                args, kwargs = tree_map(_inside, (operation.args, operation.kwargs))
                new = operation.function(*args, **kwargs)
                written: list[Any] = operation.results
                if not operation.in_place:
                    for kept, value in zip(written, _tensors(new), strict=True):
                        kept.inside.copy_(value)
                inputs = _device_tensors((operation.args, operation.kwargs))
                self.does(stream, _memories(inputs), _memories(written), operation.what)

    def _record(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], what: str) -> Any:
        """Note an operation for later. What it returns has the right shape, and in the end rubbish in it."""
        assert self.recording is not None
        self._expect_captured_stream(what)
        if function._schema.is_mutable:
            written = _written(function, args, kwargs, [])
            self.recording.operations.append(Operation(function, args, kwargs, written, True, what))
            (result,) = written if len(written) == 1 else (None,)
            return result
        inputs, outputs, result = _compute(self, function, args, kwargs)
        if _only_views(function, inputs, outputs):
            return result
        if function.overloadpacket not in _FILLS_NOTHING:
            self.recording.operations.append(Operation(function, args, kwargs, outputs, False, what))
        return result

    def _copy_now(self, target: Tensor, source: Tensor, what: str) -> None:
        """Copy between host and device, on the current stream."""
        with _without_modes():
            _inside(target).copy_(_inside(source))
        read, written = (
            [t.memory] if isinstance(t, DeviceTensor) else [m for m in [self.pinned(t)] if m]
            for t in (source, target)
        )
        self.does(self.current[-1], read, written, what)

    def _refuse_in_a_capture(self, what: str) -> None:
        if self.recording is not None:
            raise RuntimeError(f"operation not permitted while a stream is captured: {what}")

    def _expect_captured_stream(self, what: str) -> None:
        assert self.recording is not None
        if self.current[-1] is not self.recording.stream:
            raise RuntimeError(f"work for a stream that is not the captured one: {what}")


class DeviceTensor(Tensor):
    """A tensor of the device.

    Attributes:
        inside: The tensor of the CPU that has its numbers.
        memory: Who used them, shared with all views.
    """

    inside: Tensor
    memory: Memory

    @staticmethod
    def __new__(cls, inside: Tensor, memory: Memory) -> DeviceTensor:
        self: DeviceTensor = Tensor._make_wrapper_subclass(
            cls,
            inside.size(),
            strides=inside.stride(),
            storage_offset=inside.storage_offset(),
            dtype=inside.dtype,
        )
        self.inside, self.memory = inside, memory
        return self

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{function}: a tensor of the stand-in is used while it is not installed")

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """Where it is, as it says."""
        return CUDA

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        """Yes."""
        return True


def _compute(
    machine: Machine, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[list[DeviceTensor], list[DeviceTensor], Any]:
    """Do an operation on the CPU; return the inputs, the outputs, and what the caller gets."""
    inputs = _device_tensors((args, kwargs))
    result = function(*tree_map(_inside, args), **tree_map(_inside, kwargs))
    by_object = {id(tensor.inside): tensor for tensor in inputs}
    by_storage = {tensor.inside.untyped_storage()._cdata: tensor.memory for tensor in inputs}

    def outside(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if id(value) in by_object:
            return by_object[id(value)]
        return DeviceTensor(value, by_storage.get(value.untyped_storage()._cdata) or machine.new_memory())

    result = tree_map(outside, result)
    return inputs, _device_tensors(result), result


def _written(
    function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], new: list[DeviceTensor]
) -> list[Any]:
    """Return the tensors that an operation writes: the arguments that it changes, or what it returns."""
    if not function._schema.is_mutable:
        return new
    named = dict(zip((a.name for a in function._schema.arguments), args, strict=False)) | kwargs
    changed = {a.name for a in function._schema.arguments if a.is_write}
    return _device_tensors([value for name, value in named.items() if name in changed])


def _only_views(function: Any, inputs: list[DeviceTensor], outputs: list[DeviceTensor]) -> bool:
    """Whether an operation only looks at its inputs' memory in another way."""
    known = {tensor.memory for tensor in inputs}
    if function._schema.is_mutable or function.overloadpacket in _READS_A_VALUE:
        return False
    return all(tensor.memory in known for tensor in outputs)


def _by_a_mask(function: Any, args: tuple[Any, ...]) -> bool:
    """Whether an operation takes elements by a mask, and so has to know how many there are."""
    if function.overloadpacket not in (aten.index, aten.index_put, aten.index_put_):
        return False
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])


def _refuse_mixed(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise where an operation of the device is given a tensor of the host that is not a single number."""
    for tensor in _tensors((args, kwargs)):
        if not isinstance(tensor, DeviceTensor) and tensor.dim() > 0:
            raise RuntimeError(f"{function}: expected all tensors to be on the same device, cuda:0 and cpu")


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _device_tensors(tree: Any) -> list[DeviceTensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, DeviceTensor)]


def _memories(tensors: list[Any]) -> list[Memory]:
    return [tensor.memory for tensor in tensors]


def _inside(value: Any) -> Any:
    return value.inside if isinstance(value, DeviceTensor) else value


def _without_modes() -> Any:
    """Operators called here are the CPU's."""
    return torch.utils._python_dispatch._disable_current_modes()


def spoil(tensor: Tensor) -> None:
    """Fill a tensor with what nobody computes: not-a-number, or the type's largest whole number."""
    if tensor.dtype == torch.bool:
        tensor.fill_(True)
    else:
        tensor.fill_(torch.nan if tensor.is_floating_point() else torch.iinfo(tensor.dtype).max)


def _caller() -> str:
    """Return the innermost lines of the project that are not the stand-in's own."""
    found: list[str] = []
    frame = sys._getframe(1)
    while frame is not None and len(found) < 3:
        name = frame.f_code.co_filename
        if name.startswith(_ROOT) and name != __file__ and ".venv" not in name:
            found.append(f"{name.removeprefix(_ROOT)}:{frame.f_lineno}")
        frame = frame.f_back  # type: ignore[assignment]
    return " < ".join(found)


# What PyTorch calls -----------------------------------------------------------------------------------------


class _Dispatch(TorchDispatchMode):
    """Sends each operation to the device or to the host."""

    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self._machine = machine

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = _tensors((args, kwargs))
        of_device = [isinstance(tensor, DeviceTensor) for tensor in tensors]
        if any(of_device):
            if function is aten.copy_.default and not all(of_device):
                return self._machine.copy(
                    args[0], args[1], args[2] if len(args) > 2 else kwargs.get("non_blocking")
                )
            return self._machine.run(function, tuple(args), kwargs)
        result = function(*args, **kwargs)
        changed = {id(t) for t in _tensors(result)} if function._schema.is_mutable else set()
        for tensor in tensors:
            self._machine.uses_on_the_host(tensor, id(tensor) in changed, f"{function} {_caller()}")
        return result


class _Functions(TorchFunctionMode):
    """Makes tensors where they are to be, and moves them."""

    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self._machine = machine
        self._own: dict[Any, Callable[..., Any]] = {
            Tensor.device.__get__: lambda tensor: CUDA if _is_on_device(tensor) else torch.device("cpu"),  # type: ignore[attr-defined]
            Tensor.is_cuda.__get__: lambda tensor: _is_on_device(tensor),  # type: ignore[attr-defined]
            Tensor.to: self._to,
            Tensor.cpu: lambda tensor: self._move(tensor, None, False),
            Tensor.cuda: lambda tensor, device=CUDA, non_blocking=False: self._move(
                tensor, CUDA, non_blocking
            ),
            Tensor.numpy: self._numpy,
            Tensor.tolist: lambda tensor: self._move(tensor, None, False).tolist(),
            Tensor.__repr__: lambda tensor, **kwargs: repr(self._move(tensor, None, False)),
            Tensor.pin_memory: lambda tensor: machine.pin(tensor.clone()),
            Tensor.is_pinned: lambda tensor: machine.pinned(tensor) is not None,
            Tensor.data_ptr: lambda tensor: _inside(tensor).data_ptr(),
        }

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if function in self._own:
            return self._own[function](*args, **kwargs)
        pinned = kwargs.pop("pin_memory", False)
        if _is_cuda(kwargs.get("device")):
            return self._new(function, args, {**kwargs, "device": "cpu"})
        result = function(*args, **kwargs)
        return self._machine.pin(result) if pinned else result

    def _new(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Make a tensor on the device."""
        machine = self._machine
        with _without_modes():
            inside = function(*tree_map(_inside, args), **tree_map(_inside, kwargs))
        if function is torch.tensor or function is torch.as_tensor:
            return self._move(inside, CUDA, False)
        made = DeviceTensor(inside, machine.new_memory())
        what = f"{function.__name__} {_caller()}"
        if machine.recording is None:
            machine.does(machine.current[-1], [], [made.memory], what)
        else:  # filled at each replay
            again = DeviceTensor(inside.clone(), machine.new_memory())
            machine.recording.operations.append(
                Operation(aten.copy_.default, (made, again), {}, [made], True, what)
            )
        return made

    def _to(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        copy = kwargs.pop("copy", False)
        if args and isinstance(args[0], Tensor):
            args = (args[0].dtype, CUDA if _is_on_device(args[0]) else "cpu", *args[1:])
            args, kwargs = (), {"device": args[1], "dtype": args[0], **kwargs}
        device, dtype, non_blocking, memory_format = torch._C._nn._parse_to(*args, **kwargs)
        if dtype is not None or memory_format is not None or copy:
            tensor = tensor.to(dtype=dtype or tensor.dtype, memory_format=memory_format, copy=copy)
        if device is None:
            return tensor
        return self._move(tensor, CUDA if _is_cuda(device) else None, non_blocking)

    def _move(self, tensor: Tensor, device: torch.device | None, non_blocking: bool) -> Tensor:
        """Return a tensor on the device, or on the host."""
        if _is_on_device(tensor) == (device is not None):
            return tensor
        source = tensor.detach()
        with _without_modes():
            inside = torch.empty_like(_inside(source))
        made = DeviceTensor(inside, self._machine.new_memory()) if device else inside
        return made.copy_(source, non_blocking)

    def _numpy(self, tensor: Tensor) -> Any:
        if isinstance(tensor, DeviceTensor):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        self._machine.uses_on_the_host(tensor, True, f"numpy {_caller()}")  # whoever asks may write
        return tensor.numpy()


def _is_cuda(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def _is_on_device(tensor: Tensor) -> bool:
    """Whether a tensor is one of the device, also inside a function transform."""
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(tensor):
        tensor = functorch.get_unwrapped(tensor)
    return isinstance(tensor, DeviceTensor)


# torch.cuda -------------------------------------------------------------------------------------------------

MACHINES: list[Machine] = []
"""The machine that is installed, last."""


class Stream(Agent):
    """`torch.cuda.Stream`: it waits for no other by itself, the default stream neither."""

    def __init__(self, device: Any = None, priority: int = 0, *, machine: Machine | None = None) -> None:
        self._machine = machine or MACHINES[-1]
        self.priority, self.stream_id = priority, self._machine.next_number()
        super().__init__(f"stream {self.stream_id}")
        if machine is None:
            self._machine.streams.append(self)

    def wait_event(self, event: Event) -> None:
        """Do what comes from now on after the event."""
        self._machine.count("wait_event")
        self._machine._refuse_in_a_capture("waiting for an event of work that is not captured")
        self.has_waited_for(event.clock)

    def wait_stream(self, stream: Stream) -> None:
        """Do what comes from now on after all that `stream` has been given."""
        self.wait_event(stream.record_event())

    def record_event(self, event: Event | None = None) -> Event:
        """Return the point after all that was given so far."""
        event = event or Event()
        event.record(self)
        return event

    def synchronize(self) -> None:
        """Have the host wait."""
        if self._machine.sync_debug_mode in ("error", 2):
            raise RuntimeError("called a synchronizing CUDA operation: Stream.synchronize")
        self._machine.waits("Stream.synchronize", self.clock)


class Event:
    """`torch.cuda.Event`."""

    def __init__(
        self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False
    ) -> None:
        self._machine = MACHINES[-1]
        self.clock: Clock = {}
        self._wait = "Event.synchronize, blocking" if blocking else "Event.synchronize"

    def record(self, stream: Stream | None = None) -> None:
        """Be the point after all that the stream has been given."""
        self._machine.count("Event.record")
        stream = stream or self._machine.current[-1]
        stream.has_waited_for(self._machine.host.clock)
        self.clock = dict(stream.clock)

    def wait(self, stream: Stream | None = None) -> None:
        """Have a stream wait."""
        (stream or self._machine.current[-1]).wait_event(self)

    def synchronize(self) -> None:
        """Have the host wait."""
        self._machine.count(self._wait)
        self._machine.waits("Event.synchronize", self.clock)

    def query(self) -> bool:
        """Whether it has come: all is done at once here, but nobody has waited for it."""
        self._machine._refuse_in_a_capture("Event.query")
        return True


class CUDAGraph:
    """`torch.cuda.CUDAGraph`."""

    def __init__(self, keep_graph: bool = False) -> None:
        self._machine = MACHINES[-1]
        self.operations: list[Operation] = []

    def replay(self) -> None:
        """Do the captured operations on the current stream."""
        self._machine.count("replay")
        self._machine.replay(self.operations)


@contextmanager
def _stream(stream: Stream) -> Iterator[None]:
    """`torch.cuda.stream`."""
    current = MACHINES[-1].current
    current.append(stream)
    try:
        yield
    finally:
        current.pop()


@contextmanager
def _graph(graph: CUDAGraph, pool: Any = None, stream: Stream | None = None) -> Iterator[None]:
    """`torch.cuda.graph`: what is called inside is recorded, and not done."""
    machine = MACHINES[-1]
    _synchronize()
    captured = stream or Stream()
    machine.recording = Recording(captured)
    try:
        with _stream(captured):
            yield
        graph.operations = machine.recording.operations
    finally:
        machine.recording = None
    with _without_modes():
        for operation in graph.operations:
            for result in () if operation.in_place else operation.results:
                spoil(result.inside)


def _synchronize(device: Any = None) -> None:
    machine = MACHINES[-1]
    machine.count("synchronize")
    if machine.sync_debug_mode in ("error", 2):
        raise RuntimeError("called a synchronizing CUDA operation: torch.cuda.synchronize")
    for stream in machine.streams:
        machine.waits("torch.cuda.synchronize", stream.clock)


def _set_sync_debug_mode(mode: int | str) -> None:
    MACHINES[-1].sync_debug_mode = mode


class _Generator(torch.Generator):
    """`torch.Generator`, of the CPU wherever it is asked for."""

    def __new__(cls, device: Any = "cpu") -> _Generator:
        return super().__new__(cls, "cpu" if _is_cuda(device) else device)


_TORCH: dict[str, Any] = {"compile": lambda function, **how: function, "Generator": _Generator}
_CUDA: dict[str, Any] = {
    "is_available": lambda: True,
    "current_device": lambda: 0,
    "device_count": lambda: 1,
    "get_device_name": lambda device=None: NAME,
    "mem_get_info": lambda device=None: (FREE_BYTES, FREE_BYTES),
    "max_memory_allocated": lambda device=None: 0,
    "current_stream": lambda device=None: MACHINES[-1].current[-1],
    "set_sync_debug_mode": _set_sync_debug_mode,
    "synchronize": _synchronize,
    "Stream": Stream,
    "Event": Event,
    "CUDAGraph": CUDAGraph,
    "stream": _stream,
    "graph": _graph,
}


@contextmanager
def installed() -> Iterator[Machine]:
    """Have torch.cuda be a new stand-in while the block runs, in this thread."""
    if torch.cuda.is_available():
        raise RuntimeError("there is a GPU: nothing has to stand in for it")
    machine = Machine()
    MACHINES.append(machine)
    try:
        with ExitStack() as stack:
            for module, names in ((torch, _TORCH), (torch.cuda, _CUDA)):
                for name, value in names.items():
                    stack.enter_context(mock.patch.object(module, name, value))
            stack.enter_context(_Dispatch(machine))
            stack.enter_context(_Functions(machine))
            yield machine
    finally:
        MACHINES.remove(machine)


# As a plugin of pytest --------------------------------------------------------------------------------------

_PLUGIN = ExitStack()


def pytest_configure(config: pytest.Config) -> None:
    """Install it before tests are collected."""
    _PLUGIN.enter_context(installed())
    config.add_cleanup(_PLUGIN.close)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fail a test in which there was a race."""
    MACHINES[-1].races.clear()
    yield
    MACHINES[-1].check()
