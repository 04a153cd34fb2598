"""What the benchmark scripts share: a JSON file that says where its figures came from."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from fastdqn.openmp import shorten_waits
from fastdqn.runs.folder import machine_and_versions

shorten_waits()  # as the command line does; the scripts import this module before torch


def write(name: str, settings: dict[str, Any], results: Any, out: Path | None) -> None:
    """Write a benchmark's figures beside the command, machine, versions and commit that made them."""
    text = json.dumps(
        {"benchmark": name, "settings": settings, "results": results, **machine_and_versions()}, indent=2
    )
    if out is None:
        print(text)
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n")
        print(f"wrote {out}")


def spread(values: list[float]) -> dict[str, float]:
    """Return the median and the extremes: on a shared machine the median alone says too little."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}
