"""What a Chrome trace of torch.profiler says: kernels beside their floors, an idle stream, the host's time.

A kernel's floor is the larger of two times: its bytes at the memory's bandwidth, its arithmetic at the peak
rate. Both follow from the shapes of the operator that launched it, so the trace has to be one of an update that
is not captured, with `record_shapes=True`. They are a bound from below: each argument crosses once, and what is
in a cache not at all.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PASS = "pass of the loop"
"""Name of the ranges that mark the passes in a trace."""
H100_FLOPS = {"fp32_teraflops": 67.0, "tensor_teraflops": 495.0}
"""Peak rates of an H100 SXM as its maker states them, dense: float32 outside tensor cores, TF32 inside."""
_BYTES = {
    "float": 4,
    "int": 4,
    "long int": 8,
    "long": 8,
    "unsigned char": 1,
    "double": 8,
    "c10::BFloat16": 2,
    "bool": 1,
}
_STORE_BYTES = 50_000_000
"""An argument above this is the store of frames, which a gather does not read as a whole."""


@dataclass(frozen=True)
class Peaks:
    """What the device could do at most.

    Attributes:
        gigabytes_per_second: Of its memory, as measured by a copy.
        fp32_teraflops: Without tensor cores.
        tensor_teraflops: With them.
    """

    gigabytes_per_second: float
    fp32_teraflops: float
    tensor_teraflops: float


@dataclass(frozen=True)
class Kernel:
    """A kernel, copy or fill.

    Attributes:
        name: As the profiler gives it.
        start: In microseconds.
        microseconds: How long it ran.
        stream: Where.
        correlation: Number of the host's call that launched it.
    """

    name: str
    start: float
    microseconds: float
    stream: int
    correlation: int


class Trace:
    """The events of a trace that are looked at here.

    Attributes:
        kernels: By their start.
        runtime: Calls of CUDA by the host.
        operators: Operators on the host, with shapes.
        passes: (start, end) of each pass of the loop, in microseconds.
    """

    def __init__(self, events: list[dict[str, Any]]) -> None:
        by_kind: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for event in events:
            if event.get("ph") == "X":
                by_kind[event.get("cat", "")].append(event)
        device = by_kind["kernel"] + by_kind["gpu_memcpy"] + by_kind["gpu_memset"]
        self.kernels = sorted(
            (
                Kernel(
                    e["name"],
                    e["ts"],
                    e["dur"],
                    e["args"].get("stream", -1),
                    e["args"].get("correlation", -1),
                )
                for e in device
            ),
            key=lambda kernel: kernel.start,
        )
        self.runtime = by_kind["cuda_runtime"] + by_kind["cuda_driver"]
        self.operators = sorted(by_kind["cpu_op"], key=lambda event: event["ts"])
        marks = [e for e in by_kind["user_annotation"] if e["name"] == PASS]
        self.passes = sorted((e["ts"], e["ts"] + e["dur"]) for e in marks)

    @classmethod
    def read(cls, path: Path) -> Trace:
        """Read what `export_chrome_trace` wrote."""
        return cls(json.loads(path.read_text())["traceEvents"])

    def operator_of(self, kernel: Kernel) -> dict[str, Any] | None:
        """Return the innermost operator that launched a kernel, of those that have shapes."""
        call = next((e for e in self.runtime if e["args"].get("correlation") == kernel.correlation), None)
        if call is None:
            return None
        around = [
            e
            for e in self.operators
            if e["tid"] == call["tid"]
            and e["ts"] <= call["ts"] <= e["ts"] + e["dur"]
            and e["args"].get("Input Dims")
        ]
        return around[-1] if around else None


def kernel_rows(trace: Trace, peaks: Peaks) -> list[dict[str, Any]]:
    """Return a row for each kernel, in their order; the floor is `None` where no operator has shapes."""
    rows = []
    for kernel in trace.kernels:
        operator = trace.operator_of(kernel)
        size, work = (None, None) if operator is None else (_bytes(operator), _flop(operator))
        floor = None
        if size is not None and work is not None:
            floor = max(size / peaks.gigabytes_per_second / 1e3, work / peaks.tensor_teraflops / 1e6)
        rows.append(
            {
                "kernel": kernel.name[:120],
                "operator": operator and operator["name"],
                "microseconds": kernel.microseconds,
                "bytes": size,
                "flop": work,
                "floor_microseconds": floor,
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as text, the longest kernels first, with their sum below."""

    def line(name: str, spent: float, floor: float | None) -> str:
        times = "     -" if floor is None else f"{floor:6.2f}  {spent / floor if floor else math.inf:6.1f}"
        return f"{name[:60]:60}  {spent:8.2f}  {times}"

    ordered = sorted(rows, key=lambda row: -row["microseconds"])
    lines = [f"{'kernel':60}  {'us':>8}  {'floor':>6}  {'times':>6}"]
    lines += [line(row["kernel"], row["microseconds"], row["floor_microseconds"]) for row in ordered]
    known = sum(row["floor_microseconds"] or 0.0 for row in rows)
    return "\n".join([*lines, line(f"{len(rows)} kernels", sum(row["microseconds"] for row in rows), known)])


def loop_figures(trace: Trace) -> dict[str, Any]:
    """Return medians of a trace's passes, in microseconds: their length, the learner's idle time, host calls.

    The learner's stream is the one with most of the kernels' time.
    """
    by_stream: dict[int, list[Kernel]] = defaultdict(list)
    for kernel in trace.kernels:
        by_stream[kernel.stream].append(kernel)
    if not by_stream or not trace.passes:
        return {"passes": len(trace.passes), "kernels": len(trace.kernels)}
    learn = max(by_stream.values(), key=lambda kernels: sum(kernel.microseconds for kernel in kernels))
    calls: dict[str, list[float]] = defaultdict(list)
    for event in trace.runtime:
        calls[event["name"]].append(event["dur"])
    return {
        "passes": len(trace.passes),
        "kernels": len(trace.kernels),
        "pass_microseconds": statistics.median(end - start for start, end in trace.passes),
        "learner_idle_microseconds": statistics.median(
            end - start - busy(learn, start, end) for start, end in trace.passes
        ),
        "host_calls": {
            name: {
                "per_pass": len(spent) / len(trace.passes),
                "median_microseconds": statistics.median(spent),
            }
            for name, spent in sorted(calls.items())
        },
    }


def busy(kernels: list[Kernel], start: float, end: float) -> float:
    """Return the microseconds between two times in which a kernel runs; they are ordered by their start."""
    total, at = 0.0, start
    for kernel in kernels:
        first, last = max(kernel.start, at), min(kernel.start + kernel.microseconds, end)
        if last > first:
            total += last - first
            at = last
    return total


def _bytes(operator: dict[str, Any]) -> int:
    """Return the bytes of an operator's arguments, each read or written once."""
    args = operator["args"]
    sizes = [
        math.prod(dims) * _BYTES.get(kind, 4)
        for dims, kind in zip(args["Input Dims"], args.get("Input type", []), strict=False)
        if isinstance(dims, list) and dims and all(isinstance(number, int) for number in dims)
    ]
    return sum(size for size in sizes if size < _STORE_BYTES)


def _flop(operator: dict[str, Any]) -> int:
    """Return the multiplications and additions of a product or a convolution, 0 of anything else."""
    name, dims = operator["name"], operator["args"]["Input Dims"]
    matrices = [d for d in dims if isinstance(d, list) and len(d) == 2]
    if name in ("aten::mm", "aten::addmm") and len(matrices) >= 2:
        (rows, inner), (_, columns) = matrices[-2:]
        return int(2 * rows * inner * columns)
    images = [d for d in dims if isinstance(d, list) and len(d) == 4]
    if "convolution_backward" in name and len(images) >= 3:
        result, _, weight = images[:3]
        return int(2 * 2 * math.prod(result) * math.prod(weight[1:]))  # of the input and of the weight
    if "conv" in name and len(images) >= 2:
        (count, _, height, width), weight = images[:2]
        stride = next((d for d in _strides(operator) if d), 1)
        return int(
            2
            * count
            * weight[0]
            * ((height - weight[2]) // stride + 1)
            * ((width - weight[3]) // stride + 1)
            * math.prod(weight[1:])
        )
    return 0


def _strides(operator: dict[str, Any]) -> list[int]:
    """Return the strides of a convolution, where the trace has its concrete arguments."""
    for value in operator["args"].get("Concrete Inputs", []):
        if isinstance(value, str) and value.startswith("["):
            return [int(number) for number in json.loads(value)]
    return []
