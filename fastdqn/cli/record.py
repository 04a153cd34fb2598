"""`fastdqn record`: a film of a game, with what the network makes of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

from fastdqn import api
from fastdqn.cli.command import Command, answer, open_run, values_of
from fastdqn.cli.counts import which_of
from fastdqn.config import FilmSettings

_ABOUT = """Film a game that a run's newest checkpoint plays: an mp4 of 60 frames a second
and a short GIF, in the console's colours, beside the value of each action.

  fastdqn record RUN
  fastdqn record RUN --seed 3 --epsilon 0 --gif-start 20

It is the game of `fastdqn evaluate RUN --episodes 1` with the same --epsilon
and --seed: the network sees the same observations, bit for bit. A second
emulator plays the same actions in colour; that it stays in step is checked."""


@dataclass(frozen=True)
class RecordArguments(FilmSettings):
    """What `fastdqn record` takes."""

    run: Annotated[str, Positional, arg(metavar="RUN", help_behavior_hint="")] = ""
    """Folder of the run; nothing else is needed."""
    out: Annotated[str, arg(metavar="FOLDER", help_behavior_hint="(default: video/ in the run)")] = ""
    """Where the films go."""
    checkpoint: Annotated[str, arg(metavar="{last,best,FRAMES}")] = "last"
    """last; best: the best by the evaluations while it trained; or the frames of one."""
    json: Annotated[bool, FlagCreatePairsOff, arg(help_behavior_hint="")] = False
    """Write one JSON object to stdout instead of sentences."""


COMMAND = Command(
    "record", RecordArguments, _ABOUT, "fastdqn record RUN", positional="run", needs=("train", "video")
)


def main(words: Sequence[str]) -> int:
    """Run the command; return the exit code."""
    arguments = COMMAND.read(words)
    which = which_of(arguments.checkpoint)
    open_run(arguments.run, "fastdqn.views.record")
    result = api.record(
        arguments.run,
        arguments.out or None,
        checkpoint=which,
        **values_of(FilmSettings, arguments),
        on_second=_report if sys.stderr.isatty() else lambda second, seconds: None,
    )
    end = (
        "game over"
        if result.game_over
        else "cut there (by --max-seconds, or the protocol's frames of a game)"
    )
    lines = [
        f"{result.game}: {result.score:g} points in {result.seconds:.0f} s of play, {end}",
        f"  {result.mp4}",
        f"  {result.gif}",
    ]
    return answer(result.row(), lines, as_json=arguments.json)


def _report(second: int, seconds: int) -> None:
    end = "\n" if second >= seconds else ""
    with suppress(OSError):
        print(f"\rfilmed {second} of {seconds} s", end=end, file=sys.stderr, flush=True)
