"""What the machine's processor is, and which instructions it has."""

from __future__ import annotations

import platform
from contextlib import suppress
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")
"""Where Linux says it."""


def cpu_model() -> str:
    """Return the processor's name."""
    return next(iter(_cpu_info("model name")), platform.processor())


def cpu_bfloat16() -> str:
    """Return the CPU's instructions for products of bfloat16, by Linux's name: `none` without, or `unknown`.

    `amx_bf16` and `avx512_bf16` are those of x86, `bf16` is Arm's.
    """
    flags = set(" ".join(_cpu_info("flags", "Features")).split())
    found = (name for name in ("amx_bf16", "avx512_bf16", "bf16") if name in flags)
    return next(found, "none" if flags else "unknown")


def _cpu_info(*names: str) -> list[str]:
    """Return what Linux says of each core under any of these names."""
    with suppress(OSError):
        fields = (line.partition(":") for line in CPU_INFO.read_text().splitlines())
        return [value.strip() for name, _, value in fields if name.strip() in names]
    return []
