"""Files that are written whole or not at all; those that a user names are tried before the work."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fastdqn.errors import UserError


@contextmanager
def new_file(path: Path, name: str) -> Iterator[Path]:
    """Make an empty file beside `path`; it takes that name when the block ends without an error, else it goes.

    Folders above it are made, and go again with it. A link is followed, so that what it points to is replaced.

    Args:
        path: The file that is wanted; one that exists is replaced.
        name: Of the argument that names it.

    Yields:
        The path to write to. Its name has no ending.

    Raises:
        UserError: There is something else than a file, the system lets nothing be written there, or an OSError
            ended the block: the disk is full.
    """
    temporary: Path | None = None
    new_folders: list[Path] = []
    try:
        if path.exists() and not path.is_file():
            what = "a folder" if path.is_dir() else "no file but a device or a pipe"
            raise UserError(f"{name} = {path}: that is {what}, and the name of a file is wanted.")
        final = Path(os.path.realpath(path))
        new_folders = [folder for folder in final.parents if not folder.exists()]
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = final.with_name(f".fastdqn-{secrets.token_hex(6)}")
        temporary.open("xb").close()
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(final)
        new_folders = []
    except OSError as error:
        reason = error.strerror or next(iter(str(error).splitlines()), type(error).__name__)
        if isinstance(error, FileExistsError):  # what mkdir says
            reason = f"{error.filename} is no folder"
        raise UserError(f"{name} = {path}: cannot be written: {reason}.") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        for folder in new_folders:  # the deepest first
            with suppress(OSError):  # another's file is in it by now
                folder.rmdir()


def write_atomic(path: Path, data: bytes, *, temporary: Path | None = None) -> None:
    """Write a file so that a reader, or a crash, finds the old bytes or the new ones, never half.

    Args:
        path: The file; one that exists is replaced, a link as well: what it points to stays.
        data: All of it.
        temporary: Where it is written first, `path` with .tmp at its end if not given. What has that name is
            removed, never written to: it could be a link to someone's file.

    Raises:
        OSError: The disk is full or failed, or there is a folder of one of the two names.
    """
    temporary = temporary or path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)
    with temporary.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
