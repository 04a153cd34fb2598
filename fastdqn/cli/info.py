"""`fastdqn info`: what is installed, what the machine has, what is missing."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastdqn.cli import extras
from fastdqn.cli.command import Command, Listing, answer
from fastdqn.cli.version import version, version_of
from fastdqn.cpu import cpu_bfloat16

_ABOUT = "Show versions, processor, memory and accelerator, and say what is missing."


COMMAND = Command("info", Listing, _ABOUT)


def main(words: Sequence[str]) -> int:
    """Run the command; return the exit code."""
    arguments = COMMAND.read(words)
    facts, missing = _facts()
    lines = [f"{name:<14}{value}" for name, value in facts.items()]
    lines += ["", *(["missing:", *(f"  {line}" for line in missing)] if missing else ["nothing is missing"])]
    return answer({**facts, "missing": missing}, lines, as_json=arguments.json)


def _facts() -> tuple[dict[str, Any], list[str]]:
    """Return what there is, and a line for each thing that is not."""
    facts: dict[str, Any] = {"fastdqn": version() or "unknown", "python": platform.python_version()}
    absent = extras.what_is_missing()
    missing = [absent.replace("\n  ", " ")] if absent else []
    for name in ("fastdqn._core", "numpy", *extras.PACKAGES):
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            message = extras.explain(error) or str(error)
            if message != absent:
                missing.append(f"{name}: {message}".replace("\n ", ""))
            continue
        if name != "fastdqn._core":
            facts[name] = version_of(name)
        if name == "torch":
            facts |= _torch(module)
    if not (shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")):
        missing.append(
            "a C++ compiler (g++): torch.compile needs it on a CPU; without it: --pipeline.accelerate eager"
        )
    return {**facts, **_machine()}, missing


def _torch(torch: Any) -> dict[str, Any]:
    facts = {"torch build": f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"}
    from fastdqn.engine.device import gpu_name

    facts["accelerator"] = gpu_name() or "none"
    facts["torch threads"] = torch.get_num_threads()
    return facts


def _load(cores: int) -> str:
    """Say how busy the machine is, and what that does to training."""
    load = os.getloadavg()[0]
    busy = "; training shares the cores with that" if load >= 0.5 else ""
    return f"{load:.1f} of {cores} cores in the last minute{busy}"


def _machine() -> dict[str, Any]:
    cores = len(os.sched_getaffinity(0))
    facts: dict[str, Any] = {
        "cores": f"{cores} usable of {os.cpu_count()}",
        "load": _load(cores),
        "bfloat16": f"{cpu_bfloat16()} (instructions of the CPU)",
    }
    try:
        from fastdqn.replay import available_memory_bytes

        lines = Path("/proc/meminfo").read_text().splitlines()
    except (ImportError, OSError):
        return facts
    kilobytes = {line.partition(":")[0]: int(line.split()[1]) for line in lines if len(line.split()) > 1}
    free = available_memory_bytes()  # in a container or a job what its limit leaves
    total = kilobytes.get("MemTotal", 0)
    return {**facts, "memory": f"{free / 2**30:.1f} GiB to spare of {total / 2**20:.1f} GiB"}
