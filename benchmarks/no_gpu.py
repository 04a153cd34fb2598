"""An H100 that answers the questions of torch, Inductor and Triton while they compile, and does nothing else.

`start` runs the program again in a process whose CUDA libraries are `no_gpu.c`; `pretend` then patches what asks
in Python. Tensors have to be fake (`torch._subclasses.FakeTensorMode`): nothing can be allocated or launched. What
is patched is private to torch and was read in the sources of 2.11 and 2.13.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
STARTED = "FASTDQN_NO_GPU"

TIMED: list[str] = []
"""What Inductor wanted to time on the device to decide how to compile it; it got no for an answer."""

# "NVIDIA H100 Tensor Core GPU Architecture" (2022), tables 1 and 3, and the CUDA C++ programming guide's table of
# compute capability 9.0; clocks in kHz.
H100 = {
    "name": "NVIDIA H100 80GB HBM3",
    "major": 9,
    "minor": 0,
    "total_memory": 80 * 2**30,
    "multi_processor_count": 132,
    "regs_per_multiprocessor": 65536,
    "max_threads_per_multi_processor": 2048,
    "max_threads_per_block": 1024,
    "warp_size": 32,
    "shared_memory_per_block": 48 * 2**10,
    "shared_memory_per_block_optin": 227 * 2**10,
    "shared_memory_per_multiprocessor": 228 * 2**10,
    "L2_cache_size": 50 * 2**20,
    "clock_rate": 1_980_000,
    "memory_clock_rate": 2_619_000,
    "memory_bus_width": 5120,
    "is_integrated": 0,
    "is_multi_gpu_board": 0,
    "gcnArchName": "",
    "uuid": "0",
    "pci_bus_id": 0,
}


def missing() -> str | None:
    """Return in a line what this Python lacks to compile for a GPU, `None` where it has everything."""
    try:
        import torch
    except ImportError:
        return "torch is not installed"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is a CPU build; a CUDA build brings the compiler"
    try:
        import triton  # noqa: F401
    except ImportError:
        return "Triton, which a CUDA build of torch brings on Linux, is not installed"
    if shutil.which("cc") is None:
        return "there is no C compiler `cc`"
    return None


def start(folder: Path) -> None:
    """Run this program again, with `no_gpu.c` in place of CUDA's libraries; return where that is done already.

    Args:
        folder: Where the library is built.
    """
    if STARTED in os.environ:
        return
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / "libcuda.so.1"
    source = Path(__file__).with_suffix(".c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
    environment = {
        **os.environ,
        STARTED: "1",
        "LD_PRELOAD": str(library),
        "LD_LIBRARY_PATH": f"{folder}:{os.environ.get('LD_LIBRARY_PATH', '')}",
        "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}",
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "cache"),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
    }
    os.execve(sys.executable, [sys.executable, *sys.argv], environment)


class _Stream:
    """What Dynamo reads of the current stream."""

    stream_id = device_index = cuda_stream = 0
    device_type = 1


class _Driver:
    """Triton's driver: compiling asks it for the target, launching would ask for more."""

    class utils:  # noqa: N801
        @staticmethod
        def get_device_properties(device: int) -> dict[str, int]:
            return {
                "max_shared_mem": H100["shared_memory_per_block_optin"],
                "multiprocessor_count": H100["multi_processor_count"],
                "max_num_regs": H100["regs_per_multiprocessor"],
                "warpSize": H100["warp_size"],
            }

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 10 * H100["major"] + H100["minor"], H100["warp_size"])

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int | None = None) -> int:
        return 0

    def get_active_torch_device(self) -> Any:
        import torch

        return torch.device("cuda", 0)

    def is_active(self) -> bool:
        return True


def pretend() -> None:
    """Have torch, Inductor and Triton find an H100."""
    import torch
    from torch._dynamo.device_interface import CudaInterface
    from torch._inductor.runtime import triton_helpers
    from torch._subclasses import fake_tensor
    from triton.runtime import driver

    properties = SimpleNamespace(**H100)
    _Stream.device = torch.device("cuda", 0)
    answers = {
        "is_available": True,
        "is_initialized": True,
        "device_count": 1,
        "current_device": 0,
        "set_device": None,
        "get_device_properties": properties,
        "get_device_capability": (H100["major"], H100["minor"]),
        "get_device_name": H100["name"],
        "synchronize": None,
        "is_bf16_supported": True,
        "mem_get_info": (H100["total_memory"], H100["total_memory"]),
        "memory_allocated": 0,
        "current_stream": _Stream(),
        "get_raw_stream": 0,
        "exchange_device": 0,
        "maybe_exchange_device": 0,
        "_exchange_device": 0,
        "_maybe_exchange_device": 0,
        "_lazy_init": None,
        "get_rng_state": torch.zeros(16, dtype=torch.uint8),
        "set_rng_state": None,
    }
    for name, answer in answers.items():
        for owner in (torch.cuda, CudaInterface, CudaInterface.Worker):
            if hasattr(owner, name):
                said = _always(answer)
                setattr(owner, name, said if owner is torch.cuda else staticmethod(said))
    fake_tensor.init_gpu_context = triton_helpers.set_driver_to_gpu = _always(None)
    torch._C._cuda_getCurrentRawStream = _always(0)
    driver.set_active(_Driver())
    _no_real_tensors()


def _always(answer: Any) -> Any:
    return lambda *args, **kwargs: answer


def _no_real_tensors() -> None:
    """Keep Inductor's passes from computing with real tensors on the device."""
    import torch
    from torch._inductor.fx_passes import fuse_attention, joint_graph, pad_mm

    # Patterns of attention are traced on the device. There is no attention here.
    fuse_attention._sfdp_init = joint_graph._sfdp_init = _always(None)

    def no_padding(match: Any, left: Any, right: Any, operator: Any, bias: Any = None) -> bool:
        TIMED.append(f"{operator} of {list(left.shape)} and {list(right.shape)}, padded or not")
        return False

    pad_mm._should_pad = no_padding
    folder = joint_graph.UniformValueConstantFolder
    deduce = folder._deduce_value

    def on_the_host(self: Any, node: Any) -> Any:
        # One number stands for a tensor of equal ones. Where it lies changes nothing.
        given = node.kwargs
        if "device" in given:
            node.kwargs = {**given, "device": torch.device("cpu")}
        try:
            return deduce(self, node)
        finally:
            node.kwargs = given

    folder._deduce_value = on_the_host
