"""One process at a time trains a run. The kernel holds the lock, so it ends with its process, however it ends."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import weakref
from contextlib import suppress
from pathlib import Path

from fastdqn.errors import UserError

LOCK = "lock"
"""Name of the file; it stays in the folder."""

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
_HOLDER = re.compile(rb"process (\d+) on (\S+)\n")


class HeldError(UserError):
    """Another process trains the run."""


class RunLock:
    """The lock of a run's folder, from the constructor to `release` or the end of the process.

    It is an flock on the file `lock`: between machines it works where the file system carries it there, as NFS
    does. Where there are no locks at all a run is trained without one, and `warning` says so; refusing to train
    would help nobody there.

    Args:
        folder: The run's folder, which exists.

    Attributes:
        warning: What people should know, `None` where all is well.

    Raises:
        HeldError: Another process holds it.
        UserError: The file cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.warning: str | None = None
        # The folder's, which goes with it when it is renamed, and the file's.
        self._descriptors: list[int] = []
        try:
            self._descriptors.append(os.open(folder, os.O_RDONLY | os.O_DIRECTORY))
            self._descriptors.append(self._locked_file(folder))
        except OSError as error:
            self.release()
            raise UserError(
                f"{folder} cannot be locked, so it cannot be trained: {error.strerror}."
            ) from None
        except UserError:
            self.release()
            raise
        _held.add(self)

    def release(self) -> None:
        """Give it back. Closing does that; an explicit unlock in a forked child would take the parent's away."""
        _held.discard(self)
        while self._descriptors:
            os.close(self._descriptors.pop())

    def __del__(self) -> None:
        self.release()

    @property
    def held(self) -> bool:
        """Whether this process holds it, or goes on without where there are no locks."""
        return bool(self._descriptors)

    def find(self, expected: Path) -> Path | None:
        """Return where the locked folder is now, `None` where it was removed.

        Args:
            expected: Where it was before.
        """
        if self._is_at(expected):
            return expected
        try:
            moved = Path(os.readlink(f"/proc/self/fd/{self._descriptors[0]}"))
        except OSError:  # a system without /proc
            return None
        return moved if self._is_at(moved) else None

    def _is_at(self, path: Path) -> bool:
        try:
            there = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:  # a disk that does not answer now: whoever writes there will learn of it
            return True
        return os.path.samestat(there, os.fstat(self._descriptors[0]))

    def _locked_file(self, folder: Path) -> int:
        """Return the descriptor of the folder's lock file, locked, with our name in it."""
        while True:
            descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
            try:
                self._lock(descriptor, folder)
                there = os.stat(folder / LOCK)
            except FileNotFoundError:
                os.close(descriptor)
                continue
            except BaseException:
                os.close(descriptor)
                raise
            if os.path.samestat(there, os.fstat(descriptor)):
                break
            os.close(descriptor)  # the folder was replaced before the lock was there
        with suppress(OSError):  # a full disk: only the name is missing
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {os.uname().nodename}\n".encode(), 0)
        return descriptor

    def _lock(self, descriptor: int, folder: Path) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HeldError(
                f"{folder} is being trained by {_holder(descriptor)}: one process at a time can do that."
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            self.warning = (
                f"the file system of {folder} has no locks ({error.strerror}): see to it that no second process "
                "trains this run, for nothing else does"
            )


def _holder(descriptor: int) -> str:
    """Name the process that holds a lock, as far as its file says."""
    found = _HOLDER.fullmatch(os.pread(descriptor, 400, 0))
    if not found:
        return "another process"
    pid, host = int(found[1]), found[2].decode(errors="backslashreplace")
    stop = f" (kill {pid} has it save and stop)" if host == os.uname().nodename else ""
    return f"process {pid} on {host}{stop}"


_held: weakref.WeakSet[RunLock] = weakref.WeakSet()


def _release_in_child() -> None:
    """A forked child shares its parent's lock, and would keep it when the parent is gone."""
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_release_in_child)
