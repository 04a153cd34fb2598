"""The folder of a run: all that is needed to continue, evaluate or explain it.

Who only reads a run needs no lock and changes nothing. Who trains it holds its lock from before the first change.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import platform
import re
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from fastdqn.config import Config, OlderConfigError
from fastdqn.cpu import cpu_bfloat16, cpu_model
from fastdqn.errors import RunFailedError, UserError
from fastdqn.json_files import read_object, read_text
from fastdqn.outputs import write_atomic
from fastdqn.runs.lock import LOCK, RunLock

T = TypeVar("T")

PACKAGES = ("fastdqn", "torch", "envpool", "numpy", "rich", "safetensors", "tyro")

_MARKS = {"game", "preset", "env", "replay", "learner"}
"""Keys of a run's config.json, of every version."""

_OWN_FILES = re.compile(
    r"(rank-\d+/)?((config|meta|summary|trackers)\.json(\.tmp)?|(metrics|evaluations)\.(jsonl|tmp)|log\.txt"
    r"|checkpoints/(frame|best)-\d+/((online|target|average|optimizer|loop|replay)\.safetensors"
    r"|(state|evaluation)\.json|SHA256SUMS(\.tmp)?)|checkpoints/tmp-[^/]+/[^/]+"
    r"|tensorboard/(metrics|evaluations)/events\.out\.tfevents\.[^/]+"
    r"|video/(tmp-)?(frame|best)-\d+-seed\d+\.(mp4|gif)|(tmp-)?curves\.(png|svg|pdf)"
    rf"|(tmp-)?policy\.(safetensors|pt2|pt)|(video/)?\.fastdqn-[0-9a-f]{{12}}|{LOCK})"
)
"""Every file that fastdqn writes into a run's folder by itself, by its path in there."""

_OWN_FOLDERS = re.compile(
    r"(rank-\d+/)?(checkpoints(/(frame|best)-\d+|/tmp-[^/]+)?|tensorboard(/(metrics|evaluations))?|video)|rank-\d+"
)

_TEXT: dict[str, Any] = {"encoding": "utf-8", "errors": "backslashreplace"}
"""How text is written: whatever the locale, and with names that are not UTF-8 (as stderr has them)."""

_BEGUN = {LOCK, "config.json.tmp"}
"""What a process leaves that was killed before its new folder was a run's."""


class RunFolder:
    """Paths and small files of one run.

    Args:
        path: The folder.
        config: What the run computes.
        rank: Of several processes that train it together, the one whose part this is. That of rank 0 is the run's
            folder; those of the others lie in it.
    """

    def __init__(self, path: Path, config: Config, rank: int = 0) -> None:
        self.path = path
        self.config = config
        self._rank = rank
        self._lock: RunLock | None = None

    @classmethod
    def create(
        cls, path: Path, config: Config, *, overwrite: bool = False, weights: Path | None = None
    ) -> RunFolder:
        """Make the folder of a new run, locked, with its config.json and meta.json.

        Args:
            path: The folder.
            config: What the run computes.
            overwrite: Replace a run: remove what fastdqn has written there, if there is nothing else.
            weights: What the run is to start from, which must not lie in what is replaced.

        Raises:
            UserError: The folder is not empty and `overwrite` is off; it is no run, has files that are not
                fastdqn's, has the weights, or is being trained by another process; or it cannot be made.
        """
        if overwrite and weights and weights.resolve().is_relative_to(path.resolve()):
            raise UserError(
                f"{weights} lies in {path}, which `overwrite` would remove. Choose another `run_dir`."
            )
        run = cls(path, config)
        try:
            _what_goes(path, overwrite)  # so that no lock file is made in what is no run
            path.mkdir(parents=True, exist_ok=True)
            run.lock()
            # Listed anew: before there was a lock, another process could make a run here.
            for old in _what_goes(path, overwrite):
                old.rmdir() if old.is_dir() else old.unlink()
            write_text(path / "config.json", config.to_json())
            write_text(path / "meta.json", json.dumps(machine_and_versions(), indent=2) + "\n")
            run.checkpoints.mkdir()
        except OSError as error:
            run.unlock()
            raise UserError(f"cannot make the run folder {path}: {error.strerror}") from None
        except BaseException:
            run.unlock()
            raise
        return run

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open the folder of an earlier run.

        Raises:
            UserError: There is none, or its config.json is of an older version, cannot be read, or has values that
                cannot be.
        """
        file = path / "config.json"
        try:
            if not file.is_file():
                what = "has no config.json" if path.exists() else "does not exist"
                raise UserError(
                    f"{path} is not a run: it {what}. Training names the run's folder when it starts."
                )
            config = Config.from_json(read_text(file))
        except OSError as error:
            raise UserError(f"{file} cannot be read: {error.strerror}") from None
        except OlderConfigError as error:
            raise UserError(
                f"{file}: {error}.\nGo on with the fastdqn that wrote it (meta.json names it), or start a new run "
                f"from its weights: `train(..., weights={str(path)!r})`"
            ) from None
        except ValueError as error:
            raise UserError(f"{file} cannot be read: {error}") from None
        problems = config.validate()
        if problems:
            raise UserError("\n".join(f"{file}: {problem}" for problem in problems))
        return cls(path, config)

    @classmethod
    def of_rank(cls, path: Path, config: Config, rank: int) -> RunFolder:
        """Make or open another rank's part of a run, locked.

        Args:
            path: The run's folder, which exists and is locked by rank 0.
            config: What the run computes.
            rank: From 1 on.

        Raises:
            UserError: It cannot be made, or another process trains it.
        """
        run = cls(path / f"rank-{rank}", config, rank)
        try:
            run.checkpoints.mkdir(parents=True, exist_ok=True)
            run.lock()
            write_text(run.path / "config.json", config.to_json())
            write_text(run.path / "meta.json", json.dumps(machine_and_versions(), indent=2) + "\n")
        except OSError as error:
            run.unlock()
            raise UserError(f"cannot make the folder {run.path}: {error.strerror}") from None
        return run

    @classmethod
    def reopen(
        cls, path: Path, changes: Mapping[str, Any], check: Callable[[Config], T]
    ) -> tuple[RunFolder, T]:
        """Open and lock the folder of a run that is to go on.

        Args:
            path: The folder.
            changes: New values of its configuration, such as `total_frames`, written to its config.json.
            check: Called with the configuration before anything is written.

        Returns:
            The folder, and what `check` returned.

        Raises:
            UserError: As in `open` and `lock`, or raised by `check`.
        """
        run = cls.open(path)
        run.lock()
        try:
            run.config = cls.open(path).config  # another process may have trained it in between
            run.config = replace(run.config, **changes)
            checked = check(run.config)
            if changes:
                write_text(run.path / "config.json", run.config.to_json())
        except BaseException:
            run.unlock()
            raise
        return run, checked

    def lock(self) -> str | None:
        """Keep every other process from training the run, until `unlock` or the end of this process.

        Returns:
            What people should know of the lock, if anything.

        Raises:
            UserError: Another process trains it, or nothing can be written there.
        """
        if self._lock is None or not self._lock.held:
            self._lock = RunLock(self.path)
        return self._lock.warning

    def unlock(self) -> None:
        """Let others train the run. A run that is not locked stays so."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def follow(self) -> bool:
        """Go with the folder of a locked run, should it have been renamed.

        Returns:
            Whether `path` is another one now.

        Raises:
            RunFailedError: The folder, or its config.json, is gone.
        """
        assert self._lock is not None
        path = self._lock.find(self.path)
        if path is None or _is_gone(path / "config.json"):
            raise RunFailedError(f"{self.path} was removed while it was trained")
        moved, self.path = path != self.path, path
        return moved

    def move_beside(self, suffix: str) -> None:
        """Go on in a new folder beside this one, which was removed.

        Raises:
            UserError: It exists or cannot be made.
        """
        other = RunFolder.create(self.path.with_name(self.path.name + suffix), self.config)
        self.unlock()
        self.path, self._lock = other.path, other._lock

    @property
    def whole(self) -> Path:
        """The run's folder, also where this is the part of another rank than the first."""
        return self.path.parent if self._rank else self.path

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
        with suppress(OSError), (self.path / "log.txt").open("a", **_TEXT) as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")

    def write_summary(self, row: dict[str, Any]) -> None:
        """Write summary.json."""
        write_text(self.path / "summary.json", json.dumps(row, indent=2) + "\n")


def _is_gone(path: Path) -> bool:
    """Whether nothing is there. A disk that does not answer may do so again when it is needed."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _what_goes(path: Path, overwrite: bool) -> list[Path]:
    """Return what `overwrite` removes of a folder, files before the folders that they lie in.

    The lock stays, because it is held, and config.json, which is replaced as the last: a kill in between leaves
    what is still known as a run.

    Raises:
        UserError: There is something, and `overwrite` is off or the folder is not fastdqn's alone.
    """
    if not os.path.lexists(path) or (path.is_dir() and set(os.listdir(path)) <= _BEGUN):
        return []
    if not overwrite:
        raise UserError(
            f"{path} exists already.\nContinue it with `resume_training({str(path)!r})`, replace it with "
            "`overwrite = True`, or choose another `run_dir`."
        )
    if path.is_symlink():
        raise UserError(f"{path} is a link, so `overwrite` leaves it alone. Name the folder itself.")
    if not _is_run(path):
        raise UserError(
            f"{path} is not a run (it has no config.json of one), so `overwrite` leaves it alone."
        )
    own, foreign = _sorted_out(path)
    if foreign:
        names = ", ".join(str(name) for name in foreign[:5]) + (", ..." if len(foreign) > 5 else "")
        raise UserError(
            f"{path} has files that fastdqn did not write ({names}), so `overwrite` leaves it alone.\n"
            "Move them away, or choose another `run_dir`."
        )
    return [path / name for name in own if str(name) not in (LOCK, "config.json")]


def _is_run(path: Path) -> bool:
    file = path / "config.json"
    try:
        return file.is_file() and read_object(file).keys() >= _MARKS
    except (OSError, ValueError):
        return False


def _sorted_out(path: Path) -> tuple[list[Path], list[Path]]:
    """Return what lies in a folder, from the bottom up: fastdqn's own, and the rest. Links are never ours."""
    own: list[Path] = []
    foreign: list[Path] = []
    for folder, folders, files in os.walk(path, topdown=False):
        for name in (*sorted(files), *sorted(folders)):
            full = Path(folder, name)
            inside, mode = full.relative_to(path), full.lstat().st_mode
            ours = _OWN_FILES if stat.S_ISREG(mode) else _OWN_FOLDERS if stat.S_ISDIR(mode) else None
            (own if ours and ours.fullmatch(str(inside)) else foreign).append(inside)
    return own, foreign


def default_run_path(config: Config) -> Path:
    """Return a new folder's path under runs/, named by game, preset, seed and time."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{config.game}-{config.preset}-seed{config.seed}-{stamp}"


def write_text(path: Path, text: str) -> None:
    """Write a text file of a run, whole or not at all."""
    write_atomic(path, text.encode(**_TEXT))


def machine_and_versions() -> dict[str, Any]:
    """Return what a reader of the figures wants to know of where they came from."""
    return {
        "command": sys.argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": dict(versions()),
        "machine": {
            "system": platform.platform(),
            "cpu": cpu_model(),
            "bfloat16": cpu_bfloat16(),
            "cores": os.cpu_count(),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "gpu": _gpu(),
        },
        "git_commit": _git_commit(),
    }


@functools.cache  # what this process began with, even if a package is replaced on disk while it trains
def versions() -> Mapping[str, str | None]:
    """Return the versions of Python and of `PACKAGES`, `None` where one is not installed.

    PyTorch's own word counts: 2.13.0 on PyPI is 2.13.0+cu130, and only the module says so.
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


def _gpu() -> str | None:
    """Return the GPU that a run is trained on; `None` where there is none, or nothing that could tell."""
    if "torch" not in sys.modules:  # whoever trains has loaded it
        return None
    name: str | None = importlib.import_module("fastdqn.engine.device").gpu_name()
    return name


def _git_commit() -> str | None:
    """Return the commit of the checkout that the package lies in, with `+` where it has been edited since."""
    here = Path(__file__).parents[1]
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
