"""The folder of a run: all that is needed to continue, evaluate or explain it."""

from __future__ import annotations

import importlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from fastdqn.config import Config
from fastdqn.errors import UserError
from fastdqn.json_files import read_text

PACKAGES = ("fastdqn", "torch", "envpool", "numpy", "rich", "safetensors", "tyro")


class RunFolder:
    """Paths and small files of one run.

    Args:
        path: The folder.
        config: What the run computes.
    """

    def __init__(self, path: Path, config: Config) -> None:
        self.path = path
        self.config = config

    @classmethod
    def create(cls, path: Path, config: Config, *, overwrite: bool = False) -> RunFolder:
        """Make the folder of a new run, with its config.json and meta.json.

        Raises:
            UserError: The folder exists and `overwrite` is off, is no run, or cannot be made.
        """
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            if not overwrite:
                raise UserError(
                    f"{path} exists already.\nContinue it with --resume {path}, replace it with --overwrite, "
                    "or choose another --run-dir."
                )
            if not (path / "config.json").is_file():
                raise UserError(f"{path} is not a run (no config.json), so --overwrite leaves it alone.")
            shutil.rmtree(path)
        run = cls(path, config)
        try:
            run.checkpoints.mkdir(parents=True, exist_ok=True)
            write_atomic(path / "config.json", config.to_json())
            write_atomic(path / "meta.json", json.dumps(machine_and_versions(), indent=2) + "\n")
        except OSError as error:
            raise UserError(f"cannot make the run folder {path}: {error.strerror}") from None
        return run

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open the folder of an earlier run.

        Raises:
            UserError: There is none, or its config.json cannot be read or has values that cannot be.
        """
        file = path / "config.json"
        try:
            if not file.is_file():
                what = "has no config.json" if path.exists() else "does not exist"
                raise UserError(
                    f"{path} is not a run: it {what}. `fastdqn train` names the run folder when it starts."
                )
            config = Config.from_json(read_text(file))
        except OSError as error:
            raise UserError(f"{file} cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise UserError(f"{file} cannot be read: {error}") from None
        problems = config.validate()
        if problems:
            raise UserError("\n".join(f"{file}: {problem}" for problem in problems))
        return cls(path, config)

    @classmethod
    def reopen(cls, path: Path, total_frames: int | None, check: Callable[[Config], None]) -> RunFolder:
        """Open the folder of a run that is to go on.

        Args:
            path: The folder.
            total_frames: The run's new length, written to its config.json; the old one if none.
            check: Called with the configuration before anything is written.

        Raises:
            UserError: As in `open`, or raised by `check`.
        """
        run = cls.open(path)
        if total_frames is not None:
            run.config = replace(run.config, total_frames=total_frames)
        check(run.config)
        if total_frames is not None:
            write_atomic(run.path / "config.json", run.config.to_json())
        return run

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """One JSON object a line, every `log_every_frames`."""
        return self.path / "metrics.jsonl"

    @property
    def evaluations(self) -> Path:
        """One JSON object a line, for each evaluation while training."""
        return self.path / "evaluations.jsonl"

    def log(self, line: str) -> None:
        """Append a line with the time of day to log.txt. One that a full disk does not take ends no run."""
        with suppress(OSError), (self.path / "log.txt").open("a") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")

    def write_summary(self, row: dict[str, Any]) -> None:
        """Write summary.json."""
        write_atomic(self.path / "summary.json", json.dumps(row, indent=2) + "\n")


def default_run_path(config: Config) -> Path:
    """Return a new folder's path under runs/, named by game, preset, seed and time."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{config.game}-{config.preset}-seed{config.seed}-{stamp}"


def write_atomic(path: Path, text: str) -> None:
    """Write a text file so that a reader, or a crash, finds the old text or the new one, never half."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def machine_and_versions() -> dict[str, Any]:
    """Return what a reader of the figures wants to know of where they came from."""
    return {
        "command": sys.argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": versions(),
        "machine": {
            "system": platform.platform(),
            "cpu": _cpu_model(),
            "cores": os.cpu_count(),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        },
        "git_commit": _git_commit(),
    }


def versions() -> dict[str, str | None]:
    """Return the versions of Python and of `PACKAGES`, none where one is not installed.

    PyTorch is asked itself: 2.13.0 on PyPI is 2.13.0+cu130, and only the module says so.
    """
    packages = {name: _version(name) for name in PACKAGES}
    with suppress(ImportError):
        packages["torch"] = str(importlib.import_module("torch").__version__)
    return {"python": platform.python_version(), **packages}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _git_commit() -> str | None:
    """Return the commit of the checkout that the package lies in, with `+` where it has been edited since."""
    here = Path(__file__).parent
    if not (here.parent / ".git").exists():  # installed somewhere inside another project's checkout
        return None
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        )
        edited = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+" if edited.stdout else "")
