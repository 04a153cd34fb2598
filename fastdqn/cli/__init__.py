"""The command line: `fastdqn COMMAND ...`. One file a command; nothing is imported before it is needed."""

from __future__ import annotations

import sys

try:
    import contextlib
    import errno
    import gc
    import importlib
    import io
    import os
    import signal
    from collections.abc import Sequence
    from types import ModuleType

    from fastdqn import torchrun
    from fastdqn.errors import RefusedError, RunFailedError, UserError
    from fastdqn.openmp import shorten_waits
except KeyboardInterrupt:  # before there was anything to stop
    sys.exit(130)

# What is wrong with a path that was typed; a full or broken disk is not.
_PATH_ERRORS = frozenset(
    getattr(errno, name)
    for name in [
        "ENAMETOOLONG",
        "ENOTDIR",
        "EISDIR",
        "ENOENT",
        "EACCES",
        "EPERM",
        "EROFS",
        "ELOOP",
        "EEXIST",
        "ENXIO",
        "EINVAL",
    ]
)
_LONGEST_LINE = 600

COMMANDS = {
    "train": "train on a game; live dashboard, checkpoints, resumable",
    "sweep": "train many games, seeds and settings, each a run of its own",
    "evaluate": "play whole games with a trained network",
    "record": "film a game: an mp4 and a GIF, with the value of each action",
    "plot": "draw the curves of one run or of several seeds",
    "report": "compare sweeps: tables, intervals, pictures",
    "export": "write the policy to a file that other programs can load",
    "games": "list the Atari games and their actions",
    "presets": "compare the named configurations",
    "info": "versions, processor, memory, accelerator, and what is missing",
    "completion": "print a script that makes Tab complete in bash or zsh",
}

_HELP = """\
usage: fastdqn COMMAND ...

Deep Q-Networks on Atari, trained fast with PyTorch and EnvPool.

commands:
{commands}

  fastdqn COMMAND --help   explains a command
  fastdqn --version        prints the version

to begin:
  fastdqn train Pong-v5
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        argv: The words after `fastdqn`; `None` takes those of the process.

    Returns:
        0, or 1 if it failed while running, 2 if the user can mend it, 128 + n after signal n.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if argv is None:  # the process is ours
        # Importing and tracing make millions of objects that stay. To look for garbage among them after every 700
        # or 2,000, as Python does, took a tenth of the time until a run learns.
        gc.set_threshold(50_000, 20, 100)
        # By this module EnvPool imports a dozen families of games and what they draw with, as long again. Atari's
        # is named where it is used (`games/envs.py`).
        sys.modules["envpool.entry"] = ModuleType("envpool.entry")
    _open_missing_streams()
    shorten_waits()
    try:
        code = _run(words)
        sys.stdout.flush()
        return code
    except RefusedError as error:
        return _fail(words, str(error), 2) if torchrun.speaks() else 2
    except UserError as error:
        return _fail(words, str(error), 2)
    except RunFailedError as error:
        return _fail(words, str(error), 1)
    except ImportError as error:
        if _was_interrupted(error):
            return 130
        from fastdqn.cli import extras

        message = extras.explain(error)
        if message is None:
            raise
        return _fail(words, message, 2)
    except KeyboardInterrupt as interrupt:
        number = interrupt.args[0] if interrupt.args else signal.SIGINT
        return _fail(words, "stopped at once, nothing saved.", 128 + number)
    except BrokenPipeError:  # whoever read stdout has gone (`| head`)
        return 1
    except OSError as error:
        code = 2 if error.errno in _PATH_ERRORS else 1
        return _fail(words, f"{error.filename or 'the system'}: {error.strerror or error}", code)
    finally:
        _drop_lost_streams()


def _was_interrupted(error: BaseException | None) -> bool:
    """Whether an error came of an interrupt: libraries written in C make an ImportError of it."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _run(words: list[str]) -> int:
    first = words[0] if words else ""
    if first in ("", "-h", "--help", "help"):
        commands = "\n".join(f"  {name:<11}{about}" for name, about in COMMANDS.items())
        print(_HELP.format(commands=commands), end="", file=sys.stdout if first else sys.stderr)
        return 0 if first else 2
    if first in ("-V", "--version"):
        from fastdqn.cli.version import version

        print(f"fastdqn {version() or '(version unknown: not installed)'}")
        return 0
    if first not in COMMANDS:
        from fastdqn.cli import mistakes

        raise UserError(mistakes.unknown_command(words, COMMANDS))
    command = importlib.import_module(f"fastdqn.cli.{first}")
    try:
        code: int = command.main(words[1:])
    except SystemExit as done:  # tyro, after a help text
        return done.code if isinstance(done.code, int) else 1
    return code


def _open_missing_streams() -> None:
    """Give a process that was started without stdout or stderr (`>&-`) something to write to.

    Names of files that are not UTF-8 go to stdout as they are, so that scripts can use them.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        # Names of files may be any bytes, and are written as they are; where stdout is ASCII, letters are spelled.
        utf8 = sys.stdout.encoding.lower().replace("-", "") == "utf8"
        sys.stdout.reconfigure(errors="surrogateescape" if utf8 else "backslashreplace")


def _drop_lost_streams() -> None:
    """Have what nobody takes any more be forgotten: Python's own flush at exit would make the exit code 120."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except ValueError:
        pass
    try:
        sys.stderr.flush()
    except OSError:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    except ValueError:  # closed: nothing will be flushed
        pass


def _shortened(line: str) -> str:
    """Cut the middle out of a line that quotes something endless."""
    half = _LONGEST_LINE // 2
    return line if len(line) <= _LONGEST_LINE else f"{line[:half]} ... {line[-half:]}"


def _fail(words: Sequence[str], message: str, code: int) -> int:
    """Write a message to stderr, if anyone is there to read it."""
    from fastdqn.cli.flags import in_flags

    message = in_flags(message, words)
    first, *more = [_shortened(line) for line in message.splitlines()]
    message = "\n".join([first, *(f"  {line.strip()}" for line in more)])
    command = f" {words[0]}" if words and words[0] in COMMANDS else ""
    command += "" if torchrun.speaks() else f" (rank {os.environ['RANK']})"
    with contextlib.suppress(OSError, ValueError):
        print(f"fastdqn{command}: {message}", file=sys.stderr, flush=True)
    return code
