"""A checkpoint's folder: on the disk whole or not at all, and a checksum for every file in it.

A folder is written under a temporary name, synced, and renamed. SHA256SUMS has the checksums (`sha256sum -c
SHA256SUMS` checks them by hand).
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from fastdqn.errors import UserError
from fastdqn.outputs import write_atomic

PARTS = ("online", "target", "optimizer", "loop")
AVERAGE = "average"
"""One more part, of a run that keeps an average of its weights: then it is the policy."""
SUMS = "SHA256SUMS"
REPLAY = "replay.safetensors"
CHECKPOINT, BEST, _TEMPORARY = "frame-", "best-", "tmp-"
_OURS = re.compile(rf"{_TEMPORARY}(old-)?({CHECKPOINT}|{BEST})\d{{12}}(-[0-9a-f]{{16}})?")
"""What `write` and `remove` name a folder that is on its way."""

_PART = re.compile(
    rf"({'|'.join((*PARTS, AVERAGE))})\.safetensors|{re.escape(REPLAY)}(\.[0-9a-f]{{16}})?(\.partial)?"
    rf"|(state|evaluation)\.json|{SUMS}(\.tmp)?"
)
"""What such a folder may have in it."""

ANOTHER = "To go on from the checkpoint before it, remove this one's folder."


def write(
    folder: Path,
    name: str,
    files: Mapping[str, bytes],
    write_replay: Callable[[Path], None] | None = None,
) -> Path:
    """Write a folder of files and their checksums: it appears whole or not at all.

    What a process left there that was killed while it wrote one is removed.

    Args:
        folder: Where a run's checkpoints lie.
        name: Of the new one; one that has this name is replaced.
        files: By name.
        write_replay: Writes the replay, which is too large to be held, to the path it is given.

    Returns:
        The new folder.

    Raises:
        OSError: The disk is full or failed; what was there before is as it was.
    """
    final, temporary = folder / name, _new_name(folder, name)
    for left in folder.glob(_TEMPORARY + "*"):
        _sweep(left)
    try:
        folder.mkdir(exist_ok=True)  # not its parents: a run's folder that is gone is not made again
        temporary.mkdir()
        sums = {file: hashlib.sha256(data).hexdigest() for file, data in files.items()}
        for file, data in files.items():
            (temporary / file).write_bytes(data)
        if write_replay:
            write_replay(temporary / REPLAY)
            sums[REPLAY] = _hash(temporary / REPLAY)
        (temporary / SUMS).write_bytes(_sums_text(sums))
        for path in (*temporary.iterdir(), temporary):
            _sync(path)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    old = _new_name(folder, name)
    if final.exists():  # saved twice at one frame
        final.rename(old)
    temporary.rename(final)
    _sync(folder)
    shutil.rmtree(old, ignore_errors=True)
    return final


def _new_name(folder: Path, name: str) -> Path:
    """Return a temporary name that nobody has: a fixed one could be a user's, or a link to something."""
    return folder / f"{_TEMPORARY}{name}-{secrets.token_hex(8)}"


def _sweep(path: Path) -> None:
    """Remove what a process left that was killed. What else begins alike, or lies in there, is somebody's."""
    if path.is_symlink() or not _OURS.fullmatch(path.name) or not path.is_dir():
        return
    with suppress(OSError):
        for file in path.iterdir():
            if _PART.fullmatch(file.name):
                file.unlink()
        path.rmdir()


def remove(path: Path, say: Callable[[str], None]) -> None:
    """Remove a checkpoint that newer ones replace. A reader finds it whole or not at all.

    Args:
        path: Its folder.
        say: Called with a line where it cannot be removed.
    """
    try:
        if not os.access(path, os.W_OK):  # it could lose its name and nothing else
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        path = path.rename(path.with_name(_TEMPORARY + path.name))
        shutil.rmtree(path)
    except OSError as error:
        say(f"{path} cannot be removed and takes up space: {error.strerror or error}")


def drop_replay(path: Path) -> None:
    """Remove a checkpoint's replay, from its checksums first: at every moment the checkpoint is good.

    Raises:
        OSError: The disk is full or failed.
    """
    try:
        sums = read_sums(path)
    except UserError:  # damaged already: `load` will say so, should it ever be read
        return
    if sums.pop(REPLAY, None):
        write_atomic(path / SUMS, _sums_text(sums))
        _sync(path)
    (path / REPLAY).unlink(missing_ok=True)


def _sums_text(sums: Mapping[str, str]) -> bytes:
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())).encode()


def read_sums(path: Path) -> dict[str, str]:
    """Read a folder's checksums: SHA-256 in hexadecimal, by the names of its files.

    Raises:
        UserError: There are none, or they are damaged.
    """
    file = path / SUMS
    try:
        lines = file.read_text("ascii").splitlines()
        return {name: digest for digest, name in (line.split("  ") for line in lines)}
    except FileNotFoundError:
        raise UserError(
            f"{path} is no checkpoint, a damaged one, or of an older fastdqn: it has no {SUMS}.\n{ANOTHER}"
        ) from None
    except (OSError, ValueError):
        raise UserError(f"{file} is damaged.\n{ANOTHER}") from None


def verify(path: Path, sums: Mapping[str, str]) -> None:
    """Raise unless a file has its checksum.

    Args:
        path: The file.
        sums: Its folder's, of `read_sums`.

    Raises:
        UserError: It has another, is missing from them, or cannot be read.
    """
    if path.exists() and not path.is_file():  # a FIFO would be waited for
        raise UserError(f"{path} is no file.\n{ANOTHER}")
    try:
        digest = _hash(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.\n{ANOTHER}") from None
    if sums.get(path.name) != digest:
        raise UserError(f"{path} is damaged: its checksum is not the one in {SUMS}.\n{ANOTHER}")


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Have the disk hold a file or a folder's entries before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
