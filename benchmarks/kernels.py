"""What an update and an act launch on a GPU, by the code that Inductor generates for an H100. Needs no GPU.

    python=.offline/venv-2.11.0/bin/python
    $python benchmarks/kernels.py --out benchmarks/results/kernels-2.11.0.json
    $python benchmarks/kernels.py --only nature --cubin

It lowers what `Learner` and `ActingNetwork` give to `torch.compile`, with fake tensors, and counts in the code
that comes out; nothing runs, so it says nothing about time. Cases are the presets, and `gpu`: Nature's network,
double, dueling, under Adam, which benchmarks/gpu.py times.

It takes a CUDA build of torch with its Triton, 5.5 GB, and no driver. Once for a version, beside the project's
own environment, whose other packages it borrows (`===` leaves out builds like 2.11.0+cpu):

    python3 -m venv .offline/venv-2.11.0
    .offline/venv-2.11.0/bin/pip install --no-cache-dir "torch===2.11.0" numpy
    site=$(echo $PWD/.venv/lib/python3*/site-packages)
    cd .offline/venv-2.11.0/lib/python3*/site-packages
    echo "import site; site.addsitedir('$site')" > project.pth

Exit code 2: this Python has no such build; the line says what is missing.

A launch is a call of the generated code that does work on the device: a Triton kernel, a matrix product, a
convolution; a convolution's backward pass counts one for each gradient that it returns. cuDNN and cuBLAS may need
more than one kernel for a call: the counts are least ones. Bytes are what each kernel has to read and write: every
number once that it reads or writes, whatever a cache may spare; for a library's call its inputs and outputs.
"""

# ruff: noqa: E402 (CUDA's libraries are replaced before anything imports torch)
from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import no_gpu

FOLDER = no_gpu.ROOT / ".offline"

if __name__ == "__main__":
    if lacks := no_gpu.missing():
        print(f"benchmarks/kernels.py: {lacks} (its docstring says what to install)", file=sys.stderr)
        raise SystemExit(2)
    no_gpu.start(FOLDER / "no_gpu")

import common
import torch
import tyro
from torch import nn
from torch._inductor import config as inductor
from torch._inductor import ir
from torch._inductor.dependencies import MemoryDep
from torch._inductor.graph import GraphLowering
from torch._subclasses.fake_tensor import FakeTensorMode

from fastdqn.config import Config, LearnerConfig, NetworkConfig, OptimizerConfig
from fastdqn.engine.acting import ActingNetwork
from fastdqn.engine.device import Work
from fastdqn.engine.feed import DeviceFeed
from fastdqn.engine.learner import Learner
from fastdqn.presets import PRESETS

ACTIONS = 6
WHATS = ("update", "act")
GPU = "gpu"

SILENT = re.compile(
    r"assert_size_stride|assert_alignment|empty_strided_cuda|reinterpret_tensor|get_raw_stream|args\.clear|"
    r"copy_if_misaligned|torch\.cuda\._DeviceGuard|torch\.cuda\.set_device|AsyncCompile|range|len|print"
)
"""Calls in generated code that launch nothing; a misaligned input would be copied, but all begin at 64 bytes."""
SYNCHRONISING = re.compile(r"\.item$|_local_scalar_dense|nonzero|\.cpu$|\.tolist$|synchronize")


NOTES = (
    *("fallbacks", "on_the_host", "synchronising", "against_capture"),
    *("timed", "index_checks", "wide_powers"),
)
"""Of the counts those that should be empty."""


@dataclass(frozen=True)
class Settings:
    """Count launches."""

    only: tuple[str, ...] = ()
    """Cases; all without it."""
    what: tuple[str, ...] = WHATS
    """update, act, or both."""
    rows: int = 128
    """Games of an act."""
    batch_size: int = 0
    """Of an update; 0 leaves the case's own."""
    cubin: bool = False
    """Compile every configuration of every Triton kernel to machine code as well; minutes. Exit code 1 where one
    does not compile."""
    code: Path | None = None
    """Folder for the generated code."""
    out: Path | None = None
    """File for the counts; standard output without it."""


def cases() -> dict[str, Config]:
    """Return what is compiled, by name."""
    timed = Config(
        network=NetworkConfig(dueling=True),
        learner=LearnerConfig(rule="double"),
        optimizer=OptimizerConfig(name="adam", learning_rate=1e-4),
    )
    presets = {name: preset.config for name, preset in PRESETS.items()}
    return {**presets, GPU: timed}


# A learner of fake tensors ------------------------------------------------------------------------------------


class Stream:
    """Does nothing but what is to be compiled."""

    def submit(self, work: Work) -> None:
        """Return: all that is submitted outside a capture fills memory."""

    def record(self, *, blocking: bool = False) -> Stream:
        """Return itself as an event."""
        return self

    def wait(self, event: Stream | None = None) -> None:
        """Return."""


class FakeGpu:
    """A backend whose capture runs the work once, and so compiles it."""

    def __init__(self) -> None:
        self.device = torch.device("cuda", 0)
        self.shares_memory, self.compiles_captures = False, True
        self.learn = self.act = self.copy = Stream()

    def host_memory(self, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        """Return zeros."""
        return torch.zeros(shape, dtype=dtype)

    def capture(self, work: Work, outputs: object, stream: object) -> Work:
        """Run the work."""
        work()
        return work

    def synchronize(self) -> None:
        """Return."""

    def free_bytes(self) -> int | None:
        """Return `None`."""
        return None


class HostGenerator(torch.Generator):
    """A generator on the host, whatever device is asked for: a compilation draws nothing."""

    def __new__(cls, device: object = "cpu") -> HostGenerator:
        """Return one."""
        return super().__new__(cls, "cpu")


@contextmanager
def fake_tensors() -> Iterator[None]:
    """Make every tensor fake, those on the GPU too, and modules movable to it."""
    generator, apply = torch.Generator, nn.Module._apply
    torch.Generator = HostGenerator  # type: ignore[misc]
    nn.Module._apply = move  # type: ignore[assignment, method-assign]
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield
    finally:
        torch.Generator = generator  # type: ignore[misc]
        nn.Module._apply = apply  # type: ignore[method-assign]


def move(module: nn.Module, function: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
    """Put other tensors into a module; PyTorch's own way swaps their contents, which fake ones refuse."""
    for part in module.modules():
        for name, value in part._parameters.items():
            part._parameters[name] = (
                None if value is None else nn.Parameter(function(value), value.requires_grad)
            )
        for name, value in part._buffers.items():
            part._buffers[name] = None if value is None else function(value)
    return module


def compile_update(config: Config, rows: int) -> None:
    """Compile one update of a configuration as training with frames on the device would."""
    learner, shape = fake_learner(config), config.replay
    shape = SimpleNamespace(
        ring=shape.capacity // config.env.num_envs,
        num_envs=config.env.num_envs,
        stack=4,
        frame_shape=(84, 84),
    )
    feed = DeviceFeed(shape, config.learner.batch_size, learner.backend)  # type: ignore[arg-type]
    learner.prepare(feed.inputs)


def compile_act(config: Config, rows: int) -> None:
    """Compile one act of `rows` games."""
    ActingNetwork(fake_learner(config), rows, lambda: 0).prepare()


def fake_learner(config: Config) -> Learner:
    """Return a captured learner on the GPU that is not there."""
    tf32 = config.pipeline.precision == "tf32"
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    return Learner(config, ACTIONS, backend=FakeGpu(), accelerate="graph")  # type: ignore[arg-type]


COMPILE: dict[str, Callable[[Config, int], None]] = {"update": compile_update, "act": compile_act}


# From the learner to generated code ---------------------------------------------------------------------------


class Lowered(Exception):  # noqa: N818
    """Stops a compilation once its code is there."""


def lower(compile_: Callable[[], None]) -> list[Counts]:
    """Return the counts of each graph that is compiled by `compile_`: one, unless the graph breaks."""
    found: list[Counts] = []

    def keep(graph: GraphLowering) -> None:
        code, _ = graph.codegen()
        found.append(count(graph, getattr(code, "value", code)))
        raise Lowered

    torch.compiler.reset()
    no_gpu.TIMED.clear()
    original, GraphLowering.compile_to_module = GraphLowering.compile_to_module, keep  # type: ignore
    try:
        with fake_tensors(), inductor.patch(fx_graph_cache=False), functorch_cache_off():
            compile_()
    except Exception as error:
        if not stopped(error):
            raise
    finally:
        GraphLowering.compile_to_module = original  # type: ignore[method-assign]
    if len(found) != 1:
        raise SystemExit(f"{len(found)} graphs were compiled where one is expected")
    return found


def functorch_cache_off() -> Any:
    """Return the context in which nothing is taken from AOTAutograd's cache."""
    from torch._functorch import config

    return config.patch(enable_autograd_cache=False)


def stopped(error: BaseException | None) -> bool:
    """Return whether it was `Lowered` that ended a compilation."""
    while error is not None:
        if isinstance(error, Lowered) or isinstance(getattr(error, "inner_exception", None), Lowered):
            return True
        error = error.__cause__ or error.__context__
    return False


# Counting -----------------------------------------------------------------------------------------------------


@dataclass
class Counts:
    """What one call of the generated code does.

    Attributes:
        launches: By kind.
        bytes: That all launches together read and write.
        fallbacks: Operators that Inductor has no code for, convolutions' backward passes aside.
        on_the_host: Tensors in host memory.
        synchronising: Calls that wait for the device.
        against_capture: Why Inductor would not put it into a CUDA graph.
        timed: What Inductor would decide by timing: another day may decide otherwise, and round otherwise.
        index_checks: Bounds of indices that are looked at while a kernel runs.
        wide_powers: Loops of a kernel that compute a power for more numbers than Adam's two.
        code: The generated code.
    """

    launches: dict[str, int] = field(default_factory=dict)
    bytes: int = 0
    fallbacks: list[str] = field(default_factory=list)
    on_the_host: list[str] = field(default_factory=list)
    synchronising: list[str] = field(default_factory=list)
    against_capture: list[str] = field(default_factory=list)
    timed: list[str] = field(default_factory=list)
    index_checks: list[str] = field(default_factory=list)
    wide_powers: list[str] = field(default_factory=list)
    code: str = ""

    @property
    def total(self) -> int:
        """Launches of all kinds."""
        return sum(self.launches.values())


def count(graph: GraphLowering, code: str) -> Counts:
    """Count in a graph that has just been lowered, and in its code."""
    from torch._inductor.cudagraph_utils import check_lowering_disable_cudagraph

    calls = list(calls_of(code))
    reasons = (graph.disable_cudagraphs_reason, check_lowering_disable_cudagraph(graph.device_node_mapping))
    return Counts(
        launches=dict(sorted(launches(calls).items())),
        bytes=sum(bytes_of(graph, node) for node in graph.scheduler.nodes),
        fallbacks=sorted(fallbacks(graph)),
        on_the_host=sorted({name for name, _ in calls if "_cpu" in name} | host_inputs(graph)),
        synchronising=sorted({name for name, _ in calls if SYNCHRONISING.search(name)}),
        against_capture=[reason for reason in reasons if reason],
        timed=list(no_gpu.TIMED),
        wide_powers=wide_powers(code),
        index_checks=sorted(set(re.findall(r"tl\.device_assert\(.*\"(.*)\"\)", code))),
        code=code,
    )


def calls_of(code: str) -> Iterator[tuple[str, ast.Call]]:
    """Yield the calls in the generated function `call`, by dotted name."""
    for function in ast.walk(ast.parse(code)):
        if isinstance(function, ast.FunctionDef) and function.name == "call":
            for node in ast.walk(function):
                if isinstance(node, ast.Call):
                    yield ast.unparse(node.func), node


def launches(calls: list[tuple[str, ast.Call]]) -> Counter[str]:
    """Return launches by kind; a call that is not known to be silent is one."""
    result: Counter[str] = Counter()
    for name, call in calls:
        if name.endswith(".run"):
            result["triton"] += 1
        elif name.endswith("convolution_backward.default"):
            mask = ast.literal_eval(call.args[-1])
            result["convolution backward"] += sum(mask)
        elif name.startswith("extern_kernels."):
            kind = name.partition(".")[2]
            result["mm" if kind in ("mm", "addmm", "bmm", "baddbmm") else kind] += 1
        elif not SILENT.fullmatch(name):
            result[f"other: {name}"] += 1
    return result


def wide_powers(code: str) -> list[str]:
    """Return the loops in which a power is computed for each of more than two numbers."""
    before = (code[: power.start()] for power in re.finditer(r"libdevice\.pow\(", code))
    numbers = {int(re.findall(r"xnumel = (\d+)", text)[-1]) for text in before}
    return [f"a loop over {number} numbers" for number in sorted(numbers) if number > 2]


def fallbacks(graph: GraphLowering) -> set[str]:
    """Return the operators that are called because there is no code for them."""
    nodes = (node.node for one in graph.scheduler.nodes for node in one.get_nodes())
    names = {str(node.op_overload) for node in nodes if isinstance(node, ir.FallbackKernel)}
    return names - {"aten.convolution_backward.default"}


def host_inputs(graph: GraphLowering) -> set[str]:
    """Return the inputs that lie in host memory."""
    return {
        name
        for name, value in graph.graph_inputs.items()
        if (device := getattr(value, "get_device", lambda: None)()) is not None and device.type == "cpu"
    }


def bytes_of(graph: GraphLowering, kernel: Any) -> int:
    """Return what a scheduled kernel reads and writes.

    Args:
        graph: Which it is of; lowered.
        kernel: A node of the schedule: some loops in one kernel, or a library's call.
    """
    total, seen = 0, set()
    for node in kernel.get_nodes():
        if isinstance(node.node, ir.ExternKernel):
            total += bytes_of_call(node.node)
            continue
        for access in (*node.read_writes.reads, *node.read_writes.writes):
            if not isinstance(access, MemoryDep) or access.name in graph.removed_buffers:
                continue  # an order without data, or a value that stays inside the kernel
            if (key := (access.name, access.index)) in seen:
                continue
            seen.add(key)
            total += numbers(graph, access) * graph.get_dtype(access.name).itemsize
    return total


def numbers(graph: GraphLowering, access: MemoryDep) -> int:
    """Return how many numbers an access touches; where the index is data, the numbers that are asked for."""
    used = access.index.free_symbols
    count = 1
    for name, size in zip(access.var_names, access.size, strict=True):
        if access.is_indirect() or name in used:
            count *= int(size)
    return min(count, int(graph.get_numel(access.name)))


def bytes_of_call(node: ir.ExternKernel) -> int:
    """Return the bytes of a library call's inputs and outputs."""
    if isinstance(node, ir.MultiOutput):
        return size_of(node)  # written by the call that it is a part of
    inputs = sum(size_of(value) for value in node.inputs)
    return inputs if isinstance(node.layout, ir.MultiOutputLayout) else inputs + size_of(node)


def size_of(value: Any) -> int:
    """Return the bytes of a tensor, a view's own ones alone."""
    count = 1
    for length in value.get_size():
        count *= int(length)
    return count * int(value.get_dtype().itemsize)


# Triton's kernels ---------------------------------------------------------------------------------------------


def kernels_of(code: str) -> dict[str, Any]:
    """Return the Triton kernels in generated code, each a `CachingAutotuner`, by name; none is compiled."""
    from torch._inductor.async_compile import AsyncCompile
    from torch._inductor.codecache import PyCodeCache

    sources: dict[str, str] = {}

    def keep(self: AsyncCompile, name: str, source: str, *rest: object, **more: object) -> None:
        sources[name] = source

    PyCodeCache.cache_clear()  # the kernel of an earlier case is compiled already, and has forgotten how often
    original, AsyncCompile.triton = AsyncCompile.triton, keep  # type: ignore[assignment, method-assign]
    try:
        PyCodeCache.load(code)
    finally:
        AsyncCompile.triton = original  # type: ignore[method-assign]
    return {name: getattr(PyCodeCache.load(source), name) for name, source in sources.items()}


def tuned_sums(kernels: dict[str, Any]) -> list[str]:
    """Return the kernels that sum and have several configurations: the fastest of a day decides the order."""
    return [
        f"{name}: one of {len(kernel.configs)} configurations"
        for name, kernel in kernels.items()
        if "REDUCTION" in kernel.heuristic_type.name and len(kernel.configs) > 1
    ]


def to_machine_code(kernels: dict[str, Any]) -> dict[str, Any]:
    """Compile every configuration of some Triton kernels; return how many there were, and what did not compile."""
    wanted = compiled = 0
    not_compiled = []
    for name, kernel in kernels.items():
        count = len(kernel.configs)
        kernel._precompile_worker()
        wanted, compiled = wanted + count, compiled + len(kernel.compile_results)
        if len(kernel.compile_results) != count:
            not_compiled.append(f"{name}: {len(kernel.compile_results)} of {count} configurations")
    return {
        "kernels": len(kernels),
        "configurations": wanted,
        "compiled": compiled,
        "not_compiled": not_compiled,
    }


# The table ----------------------------------------------------------------------------------------------------


def row(name: str, what: str, config: Config, settings: Settings) -> dict[str, Any]:
    """Compile one thing of one case and return its line of the table."""
    (found,) = lower(lambda: COMPILE[what](config, settings.rows))
    if settings.code:
        settings.code.mkdir(parents=True, exist_ok=True)
        (settings.code / f"{name}-{what}.py").write_text(found.code)
    result = {
        "case": name,
        "what": what,
        "rows": config.learner.batch_size if what == "update" else settings.rows,
    }
    counts = {key: value for key, value in asdict(found).items() if key != "code"}
    result |= {"launches": found.total, "by_kind": counts.pop("launches"), **counts}
    kernels = kernels_of(found.code)
    result["timed"] += tuned_sums(kernels)
    if settings.cubin:
        result["machine_code"] = to_machine_code(kernels)
    return result


def show(result: dict[str, Any]) -> None:
    """Print a line of the table."""
    kinds = ", ".join(f"{kind} {number}" for kind, number in result["by_kind"].items())
    print(
        f"{result['case']:8s} {result['what']:6s} {result['launches']:4d} launches ({kinds}), "
        f"{result['bytes'] / 1e6:.1f} MB",
        flush=True,
    )
    for name in NOTES:
        if result[name]:
            print(f"    {name}: {'; '.join(result[name])}")
    if made := result.get("machine_code"):
        print("    {kernels} kernels, {compiled} of {configurations} configurations compiled".format(**made))
        print("".join(f"    {line}\n" for line in made["not_compiled"]), end="", flush=True)


def main(settings: Settings) -> None:
    """Compile the cases; print and write the counts."""
    no_gpu.pretend()
    results = []
    for name, config in cases().items():
        if settings.only and name not in settings.only:
            continue
        if settings.batch_size:
            config = replace(config, learner=replace(config.learner, batch_size=settings.batch_size))
        for what in settings.what:
            results.append(row(name, what, config, settings))
            show(results[-1])
    told = {**asdict(settings), "out": None, "code": None}
    common.write("kernels", told, results, settings.out)
    if any(one.get("machine_code", {}).get("not_compiled") for one in results):
        raise SystemExit(1)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
