"""`fastdqn train`: play and learn, from nothing, from weights, or from where a run stopped."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

from tyro.conf import FlagCreatePairsOff, Positional, arg

from fastdqn import api, torchrun
from fastdqn.cli import extras
from fastdqn.cli.arguments import Given
from fastdqn.cli.command import Command, load, open_run, values_of
from fastdqn.cli.config_file import DEFAULT_PRESET, base_config
from fastdqn.cli.flags import ALIASES, in_flags, program
from fastdqn.cli.progress import Mode, check_mode, open_progress
from fastdqn.cli.stopping import StopRequest
from fastdqn.config import Config, TrackerName
from fastdqn.errors import UserError
from fastdqn.presets import PRESETS

if TYPE_CHECKING:
    from fastdqn.runs.report import Summary

_ABOUT = """Train a Deep Q-Network on an Atari game.

  fastdqn train Pong-v5
  fastdqn train Breakout-v5 --preset nature --total-frames 10M --seed 3
  fastdqn train --config RUN/config.json --seed 2
  fastdqn train --resume RUN
  fastdqn train Pong-v5 --weights RUN --exploration-max 0.1
  torchrun --nproc-per-node 2 -m fastdqn train Pong-v5 --pipeline.data-parallel

The preset's values come first, those of --config over them, flags over both;
the defaults below are those of --preset and --config. Counts can be written
10M, 2.5k or 1_000_000.
--exploration-max is another name of --exploration.max, --evaluate-every-frames
of --evaluation.every-frames.

Progress goes to stderr; when the run ends, stdout gets one line of JSON.
The first Ctrl-C saves a checkpoint and names the command that resumes; a
second one stops at once."""

_CHANGES = {"--total-frames": "total_frames", "--stop-at-return": "stop_at_return"}
"""What --resume lets change of a configuration: when the run ends."""

_WITH_RESUME = {"--resume", "--progress", "--inexact", "--stop-on-eof", *_CHANGES}


@dataclass(frozen=True)
class TrainArguments(Config):
    """What `fastdqn train` takes: a configuration and what to do with it."""

    game: Annotated[str, Positional, arg(metavar="GAME", help_behavior_hint="")] = ""
    """An Atari game under EnvPool's name, such as Pong-v5."""
    preset: Annotated[str, arg(metavar="{" + ",".join(PRESETS) + "}")] = DEFAULT_PRESET
    """Where the values come from that no flag sets; `fastdqn presets` compares them."""
    config: Annotated[str, arg(metavar="FILE", help_behavior_hint="")] = ""
    """Values that take the place of the preset's, in JSON or TOML; a run's config.json is such a file."""
    run_dir: Annotated[str, arg(metavar="DIR", help_behavior_hint="(default: a new one in runs/)")] = ""
    """Folder of the run: configuration, metrics, log, checkpoints."""
    overwrite: Annotated[bool, FlagCreatePairsOff, arg(help_behavior_hint="")] = False
    """Replace the run that is in the folder."""
    resume: Annotated[str, arg(metavar="RUN", help_behavior_hint="")] = ""
    """Continue this run with its own configuration; --total-frames, --stop-at-return, --inexact and
    --progress can be added."""
    inexact: Annotated[bool, FlagCreatePairsOff, arg(help_behavior_hint="")] = False
    """With --resume: go on though PyTorch, EnvPool or fastdqn has another version than when it was saved, or
    another number of processes trains: replay and games then start afresh."""
    weights: Annotated[str, arg(metavar="RUN_OR_FILE", help_behavior_hint="")] = ""
    """Start from the network of a run or of a .safetensors file."""
    trackers: Annotated[str, arg(metavar="NAME[,NAME]", help_behavior_hint="")] = ""
    """wandb, mlflow or both: where the rows of metrics.jsonl go, too. A resumed run keeps those it has."""
    stop_on_eof: Annotated[bool, FlagCreatePairsOff, arg(help_behavior_hint="")] = False
    """Save and stop when stdin ends, as after a first Ctrl-C: for programs that start runs, and may die."""
    progress: Mode = "auto"
    """auto: a dashboard (live) on a terminal, else plain lines; json: one object a line. All on stderr."""


COMMAND = Command("train", TrainArguments, _ABOUT, positional="game")


def main(words: Sequence[str]) -> int:
    """Run the command; return the exit code."""
    words = [_renamed(word) for word in words]
    given = COMMAND.scan(words)
    base = base_config(given.values.get("--config"), given.values.get("--preset"))
    arguments = COMMAND.parse(words, TrainArguments(**vars(base)))
    check_mode(arguments.progress)
    extras.require()
    return _go_on(arguments, given) if arguments.resume else _begin(arguments)


def _renamed(word: str) -> str:
    flag, equals, value = word.partition("=")
    return ALIASES.get(flag.replace("_", "-"), flag) + equals + value


def _begin(arguments: TrainArguments) -> int:
    """Train a new run."""
    if arguments.inexact:
        raise UserError("--inexact is for a run that goes on.\n  Type: fastdqn train --resume RUN --inexact")
    if not arguments.game:
        raise UserError("train needs a game.\n  Type: fastdqn train Pong-v5, or fastdqn train --resume RUN")
    config = Config(**values_of(Config, arguments))
    load("fastdqn.runs.trainer")
    train = partial(
        api.train,
        config,
        arguments.run_dir or None,
        weights=arguments.weights or None,
        overwrite=arguments.overwrite,
        trackers=cast("list[TrackerName]", arguments.trackers.split(",") if arguments.trackers else []),
    )
    return _show(train, arguments, config)


def _go_on(arguments: TrainArguments, given: Given) -> int:
    """Train a run that was stopped, for longer if flags say so."""
    refused = [*given.words, *(flag for flag in given.values if flag not in _WITH_RESUME)]
    if refused:
        again = shlex.quote(arguments.resume)
        raise UserError(
            f"--resume continues a run with its own configuration, so {', '.join(refused)} cannot be given.\n"
            f"  Type: fastdqn train --resume {again}\n"
            f"  Or start a new run from its weights: fastdqn train GAME --weights {again} ..."
        )
    run = open_run(arguments.resume, "fastdqn.runs.trainer")
    changes = {name: getattr(arguments, name) for flag, name in _CHANGES.items() if flag in given.values}
    train = partial(api.resume_training, run.path, inexact=arguments.inexact, **changes)
    return _show(train, arguments, run.config, run.metrics)


def _show(
    train: Callable[..., Summary], arguments: TrainArguments, config: Config, past: Path | None = None
) -> int:
    """Train in sight of people, until the end or a signal; return the exit code.

    Args:
        train: Trains; takes what `api.train` calls while it does.
        arguments: How the run is shown, and what stops it.
        config: The run's.
        past: The metrics.jsonl of a run that goes on.
    """
    speaks = torchrun.speaks()
    mode, watched = arguments.progress if speaks else "none", 0 if arguments.stop_on_eof else None
    title = f"{config.game} {config.preset}, seed {config.seed}"
    with open_progress(mode, title, past) as view, StopRequest(view.say, watched) as stop:
        summary = train(
            report=view.report, say=lambda line: view.say(in_flags(line)), stop_requested=stop.requested
        )
    if not speaks:
        return stop.exit_code if summary.interrupted else 0
    print(json.dumps(summary.row()), flush=True)
    lines = _closing_lines(summary, config)
    if mode == "json":
        lines = [json.dumps({"message": line}) for line in lines]
    if mode != "none" or summary.interrupted:
        with suppress(OSError):  # stderr may be gone; the run is complete and saved
            print("\n".join(lines), file=sys.stderr, flush=True)
    return stop.exit_code if summary.interrupted else 0


def _closing_lines(summary: Summary, config: Config) -> list[str]:
    from fastdqn.views.dashboard import duration

    mean = summary.mean_return_20
    scores = f"; mean return of the last 20: {mean:.1f}" if mean is not None else ""
    lines = [
        f"{config.game}: {summary.frames:,} frames in {duration(summary.seconds)} "
        f"({summary.frames_per_second:,.0f} frames/s), {summary.updates:,} updates",
        f"{summary.episodes:,} games{scores}",
    ]
    if summary.interrupted:
        again = f"  {program()} train --resume {shlex.quote(summary.run)}"
        return [*lines, "stopped and saved; to go on, type:", again]
    return [*lines, "to see how well it plays, type:", f"  fastdqn evaluate {shlex.quote(summary.run)}"]
