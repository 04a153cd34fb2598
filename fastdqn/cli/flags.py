"""From what the library says to what is typed: the one place where a field becomes a flag.

The library's messages name fields as Python does. A value that is wrong stands as `seed = -1: must be ...`; what
can be done about it is Python in backquotes: a field, a field with a value, a call of a function of `fastdqn`.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
from collections.abc import Sequence

ALIASES = {
    "--exploration-max": "--exploration.max",
    "--exploration-min": "--exploration.min",
    "--evaluate-every-frames": "--evaluation.every-frames",
}
"""Short names of flags of `train`."""

_COMMANDS = {"resume_training": "train --resume", "train": "train", "evaluate": "evaluate"}
_PYTHON = re.compile(r"`([^`\n]+)`")


def in_flags(message: str, words: Sequence[str] = ()) -> str:
    """Return a message of the library in words that can be typed.

    Args:
        message: Its message. `replay.capacity` in backquotes becomes --replay.capacity, `overwrite = True` becomes
            --overwrite, and `resume_training('RUN')` the command that does it; other backquotes stay.
        words: The command line. Values that were given there stand as they were: `seed = -1` as --seed -1, also
            without backquotes; those of a file or a preset keep the field's name.
    """
    for flag in (word.partition("=")[0].replace("_", "-") for word in words if word.startswith("--")):
        field = ALIASES.get(flag, flag).removeprefix("--").replace("-", "_")
        # What follows a colon is in the file that stands before it. Names without a dot are everyday words, too.
        before = r"(?<![\w.`])(?<!: )" if "." in field else "^"
        typed = f"{flag} ".replace("\\", r"\\")  # it is no pattern
        message = re.sub(f"{before}{re.escape(field)} = ", typed, message, flags=re.MULTILINE)
    return _PYTHON.sub(lambda found: _typed(found[1]) or found[0], message)


def flag_of(field: str, value: object = ...) -> str:
    """Return the flag of a field, such as --env.num-envs, with what follows it where a value is given."""
    group, _, name = field.replace("_", "-").rpartition(".")
    prefix = f"--{group}." if group else "--"
    if value is ... or value is True:
        return prefix + name
    if value is False:
        return f"{prefix}no-{name}"
    return f"{prefix}{name} {'none' if value is None else shlex.quote(str(value))}"


def program() -> str:
    """Return what a command begins with that goes on with the run of this process, or of these processes."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return "fastdqn"
    return f"torchrun --nproc-per-node {os.environ.get('LOCAL_WORLD_SIZE', '1')} -m fastdqn"


def _typed(code: str) -> str | None:
    """Return what is typed for a piece of Python, `None` where that names neither a field nor a function."""
    try:
        body = ast.parse(code).body
    except (SyntaxError, ValueError):
        return None
    match body:
        case [ast.Expr(ast.Name("torchrun"))]:
            return "torchrun --nproc-per-node N -m fastdqn train ..."
        case [ast.Expr((ast.Name() | ast.Attribute()) as field)]:
            return flag_of(ast.unparse(field))
        case [ast.Assign([field], ast.Constant(value))]:
            return flag_of(ast.unparse(field), value)
        case [ast.Expr(ast.Call(ast.Name(function), arguments, keywords))] if function in _COMMANDS:
            given = [ast.literal_eval(argument) for argument in arguments]
            words = ["GAME" if value is ... else shlex.quote(str(value)) for value in given]
            flags = [flag_of(one.arg or "", ast.literal_eval(one.value)) for one in keywords]
            # Only what goes on with a run needs the processes that it is trained by.
            begins = program() if function == "resume_training" else "fastdqn"
            return " ".join([begins, _COMMANDS[function], *words, *flags])
    return None
