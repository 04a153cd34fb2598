"""How the update is run: as it is, compiled, or compiled and captured."""

from __future__ import annotations

import ctypes
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, cast

import torch
from torch._functorch import config as autograd_config

from fastdqn.algorithm.torsos import is_convolved_here
from fastdqn.config import NetworkConfig
from fastdqn.cpu import cpu_bfloat16

Acceleration = Literal["eager", "compile", "graph"]

# A GPU's is an estimate: half a minute or so of compiling, repaid by a millisecond or more an update.
_UPDATES_THAT_REPAY_COMPILING = {"cpu": 5_000, "cuda": 20_000}

# The names and numbers of <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def resolve_accelerate(
    setting: Literal["auto", "eager", "compile", "graph"], device: str | torch.device, planned_updates: int
) -> Acceleration:
    """Return how a run computes its updates.

    `auto` is a rule of the device and the run's length, never a timing, so that a run can be repeated:
    compiling takes up to half a minute and must be repaid by the updates that follow. What a GPU compiles is
    captured, too.

    Args:
        setting: As configured.
        device: Where the learner lives.
        planned_updates: Updates of the whole run.
    """
    if setting != "auto":
        return setting
    kind = torch.device(device).type
    if planned_updates < _UPDATES_THAT_REPAY_COMPILING[kind]:
        return "eager"
    return "graph" if kind == "cuda" else "compile"


def resolve_precision(
    setting: Literal["auto", "fp32", "tf32", "bf16"], device: str | torch.device, network: NetworkConfig
) -> Literal["fp32", "tf32", "bf16"]:
    """Return what a run's products are computed in.

    `auto` is a rule of the device and the network: bfloat16 on x86 with instructions for it, but for a torso that
    the extension convolves in float32, which is no slower in compiled updates. Those of AVX-512 were measured
    (docs/performance.md); a CPU with AMX has them, too.

    Args:
        setting: As configured.
        device: Where the learner lives.
        network: Its shape.
    """
    if setting != "auto":
        return setting
    has_bfloat16 = torch.device(device).type == "cpu" and cpu_bfloat16() in ("amx_bf16", "avx512_bf16")
    return "bf16" if has_bfloat16 and not is_convolved_here(network, "fp32") else "fp32"


def keep_freed_memory() -> None:
    """Have the C library keep what is freed, up to 1 GiB, instead of returning it to the system.

    An update allocates and frees tens of megabytes; getting those pages anew each time costs a third of it.
    Without glibc nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, 1 << 30)
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)


Wrapper = Callable[[Callable[..., Any]], Callable[..., Any]]

COMPILER_OPTIONS: dict[str, dict[str, bool]] = {
    "cpu": {
        # All kernels and the calls between them become one C++ function: one file to compile instead of two dozen.
        "cpp_wrapper": True,
        # Compiling the headers beforehand takes longer than reading them in both files of a run.
        "cpp_cache_precompile_headers": False,
    },
    "cuda": {
        # What a tuner times decides the order of sums, so bits would depend on the compiler's cache.
        "deterministic": True,
        "shape_padding": False,
        # At 32 rows a launch costs more than what is in it: independent loops become one kernel.
        "combo_kernels": True,
        # The gradients of all weights become one buffer in one kernel, not in one for each.
        "force_pointwise_cat": True,
        # A quarter of the gather's instructions. Frame numbers are the replay's; tests hold them inside the store.
        "assert_indirect_indexing": False,
    },
}
"""Of Inductor, by the kind of device; benchmarks/kernels.py counts what they are worth."""


def wrapper(compiled: bool, device: torch.device) -> Wrapper:
    """Return what is put round a function.

    Args:
        compiled: Whether it is to be compiled.
        device: Where it runs.
    """
    if not compiled:
        return lambda function: function
    options: dict[str, Any] = dict(COMPILER_OPTIONS[device.type])
    if device.type == "cpu":
        # The code is for so many, which PyTorch 2.11 leaves out of its cache's key.
        options["cpp.threads"] = torch.get_num_threads()
        if torch.backends.cpu.get_cpu_capability().startswith("AVX"):
            # Else each process asks whether the C++ compiler knows AVX2: seconds. All do that know C++20.
            options["cpp.vec_isa_ok"] = True
    return lambda function: torch.compile(function, fullgraph=True, dynamic=False, options=options)


def without_guards(work: Callable[[], object]) -> Callable[[], object]:
    """Return compiled work that has run once, without the check whether it was compiled for these arguments.

    The check takes a twentieth of an update of `quick`. It is not needed where each call has the same tensors:
    one compilation of each function is all there is.
    """

    def unguarded() -> None:
        with torch.compiler.set_stance(skip_guard_eval_unsafe=True):
            work()

    return unguarded


@contextmanager
def compiling() -> Iterator[None]:
    """Have what is compiled while the block runs kept for the next process, and the C++ compiler left in peace.

    A terminal sends Ctrl-C to the compiler, too. It would end, and the run with an error instead of a checkpoint.
    It inherits this thread's signals; this process' own are seen by another thread, or when the block ends.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with _kept_across_processes():
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _kept_across_processes() -> AbstractContextManager[None]:
    """Have what is compiled while the block runs kept by AOTAutograd's cache, too.

    That cache leaves out what contains a `torch.autograd.Function`, which may compute with what its key lacks.
    `layers.linear`'s does not: all of it is in the graph that the key is made of. A quarter of a start is saved.
    """
    setting = "autograd_cache_allow_custom_autograd_functions"
    if not hasattr(autograd_config, setting):  # it is PyTorch's own affair
        return nullcontext()
    return cast(AbstractContextManager[None], autograd_config.patch(setting, True))
