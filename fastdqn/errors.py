"""What can go wrong that is no bug: mistakes of the user, and runs that cannot go on."""

from __future__ import annotations

import re
import shlex

_BROKEN_LIBRARY = re.compile(
    r"(?P<path>/[^\n:]*/[a-z0-9]{2}/c[a-z2-7]{30,}[\w.]*\.so): (?P<what>file too short|invalid ELF header)"
)
"""What the dynamic loader says of one that was not written to its end; the name is one that Inductor gives."""


class UserError(Exception):
    """Something the user asked for cannot be done; the message says what, where, why and what to do.

    It names fields and arguments, `seed = -1: must be ...`, and in backquotes what helps, `overwrite = True`. The
    command line prints it with the flags that stand for them, without a traceback, and exits with 2.
    """


class RefusedError(UserError):
    """The same of several processes: each raises it, and the first says it."""


class RunFailedError(Exception):
    """A run that had begun cannot go on; the message says why and what is left of it. Exit code 1."""


def cause_of_failure(error: Exception) -> str | None:
    """Return why a run cannot go on, in words; `None` if it is a bug or the user's to mend."""
    if isinstance(error, RunFailedError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename or 'the system'}: {error.strerror or error}"
    if isinstance(error, ValueError) and str(error).startswith("priority: "):  # what a replay says to nan
        return (
            "a TD error is not finite any more: the run has diverged.\n"
            "A smaller `optimizer.learning_rate` may help."
        )
    broken = _BROKEN_LIBRARY.search(str(error)) if isinstance(error, (ImportError, RuntimeError)) else None
    if broken:
        return (
            "PyTorch's compiler has left a broken file, as a full disk or a machine that goes down does: "
            f"{broken['path']}: {broken['what']}\n"
            f"Remove it, and it is made anew: rm {shlex.quote(broken['path'])}"
        )
    # torch raises a RuntimeError of its own on a GPU, and a plain one on a CPU.
    said = str(error)
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and ("out of memory" in said or "can't allocate memory" in said)
    ):
        return (
            f"out of memory: {said.splitlines()[0] if said else 'the system has no more'}\n"
            "A smaller `replay.capacity`, `learner.batch_size` or `env.num_envs` needs less."
        )
    return None
