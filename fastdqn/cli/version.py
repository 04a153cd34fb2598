"""The version, without anything else."""

from __future__ import annotations

import importlib
from importlib import metadata


def version() -> str | None:
    """Return the version of fastdqn, `None` where it is neither built nor installed."""
    try:
        return str(importlib.import_module("fastdqn._core").__version__)
    except ImportError:
        return version_of("fastdqn")


def version_of(package: str) -> str | None:
    """Return the version of an installed package, `None` where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
