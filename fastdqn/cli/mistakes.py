"""What to answer to words that are not ours: the nearest word, or the one that means the same here."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Sequence

from fastdqn.cli.counts import format_count, parse_count
from fastdqn.config import MOVED

FRAMES_PER_STEP = 4  # Atari's usual frame skip: what other programs' timesteps are counted in

_STEPS = "Runs are measured in emulator frames: a timestep (one action) is 4 of them (--env.frame-skip)."
_GAME = "The game comes first, without a flag."
_PREFIX = "Values that belong together carry a prefix."
_EPSILON = "Two things are called epsilon: the exploration's and the optimizer's."

# What other programs call it: (what to type here, why). {value} is what was given, {frames} 4 times as much.
_FOREIGN: dict[str, tuple[str, str]] = {
    **dict.fromkeys(
        (
            "total-timesteps",
            "timesteps",
            "num-timesteps",
            "n-timesteps",
            "total-steps",
            "num-steps",
            "max-steps",
        ),
        ("--total-frames {frames}", _STEPS),
    ),
    **dict.fromkeys(("frames", "num-frames", "max-frames"), ("--total-frames {value}", "")),
    **dict.fromkeys(
        ("env", "env-id", "env-name", "game", "task", "environment", "rom"), ("fastdqn train {value}", _GAME)
    ),
    **dict.fromkeys(("lr", "learning-rate"), ("--optimizer.learning-rate {value}", _PREFIX)),
    **dict.fromkeys(("optimizer", "optim"), ("--optimizer.name {value}", _PREFIX)),
    **dict.fromkeys(
        ("adam-eps", "adam-epsilon", "optimizer-eps", "optimizer-epsilon"),
        ("--optimizer.epsilon {value}", _PREFIX),
    ),
    **dict.fromkeys(
        ("clip-grad-norm", "grad-clip", "gradient-clip", "max-gradient-norm"),
        ("--optimizer.max-grad-norm {value}", _PREFIX),
    ),
    **dict.fromkeys(("compile", "torch-compile"), ("--pipeline.accelerate compile", _PREFIX)),
    **dict.fromkeys(("cudagraph", "cudagraphs", "cuda-graphs"), ("--pipeline.accelerate graph", _PREFIX)),
    **dict.fromkeys(("amp", "mixed-precision", "bf16"), ("--pipeline.precision bf16", _PREFIX)),
    **dict.fromkeys(
        ("buffer-size", "memory-size", "replay-size", "replay-capacity"),
        ("--replay.capacity {value}", _PREFIX),
    ),
    **dict.fromkeys(
        ("learning-starts", "replay-start-size", "start-steps"),
        ("--replay.warmup-steps {value}", "Both count steps (one action of one game)."),
    ),
    **dict.fromkeys(
        ("train-frequency", "train-freq", "update-frequency"),
        ("--learner.steps-per-update {value}", "Both count steps (one action of one game)."),
    ),
    **dict.fromkeys(
        ("target-network-frequency", "target-update-interval", "target-update", "target-update-freq"),
        (
            "--learner.target-period-updates N",
            "Ours counts updates; a number that counts steps is to be divided by --learner.steps-per-update.",
        ),
    ),
    **dict.fromkeys(("n-envs", "num-workers", "envs"), ("--env.num-envs {value}", _PREFIX)),
    **dict.fromkeys(("start-e", "eps-start", "exploration-initial-eps"), ("--exploration.max {value}", "")),
    **dict.fromkeys(("end-e", "eps-end", "exploration-final-eps"), ("--exploration.min {value}", "")),
    **dict.fromkeys(
        ("epsilon", "eps"), ("--exploration.max and --exploration.min, or --optimizer.epsilon", _EPSILON)
    ),
    **dict.fromkeys(
        ("exploration-fraction", "eps-decay"),
        ("--exploration.decay-frames N", "Ours is a number of frames, not a share of the run."),
    ),
    **dict.fromkeys(("wd", "weight-decay"), ("nothing", "The optimizers here have no weight decay.")),
    **dict.fromkeys(
        ("log-dir", "logdir", "output-dir", "out-dir", "save-dir", "exp-name", "run-name", "name"),
        ("--run-dir {value}", "A run keeps all its files in one folder."),
    ),
    **dict.fromkeys(("load", "load-model", "pretrained", "model-path"), ("--weights {value}", "")),
    **dict.fromkeys(("continue", "continue-from"), ("fastdqn train --resume {value}", "")),
    **dict.fromkeys(
        ("device", "cuda", "gpu", "no-cuda"),
        ("nothing", "The device is found, not chosen; `fastdqn info` names it."),
    ),
    **dict.fromkeys(("algo", "algorithm", "agent"), ("--preset {value}", "`fastdqn presets` lists them.")),
    "quiet": ("--progress none", ""),
    "verbose": ("--progress plain", ""),
    "duel": ("--network.dueling", _PREFIX),
    "double": ("--learner.rule double", ""),
    "double-q": ("--learner.rule double", ""),
}

_COMMANDS = {
    **dict.fromkeys(("test", "eval", "enjoy", "play", "score"), "evaluate"),
    **dict.fromkeys(("learn", "fit", "run"), "train"),
    **dict.fromkeys(("resume", "continue"), "train --resume"),
    **dict.fromkeys(("doctor", "env", "version", "about"), "info"),
    **dict.fromkeys(("list", "configs", "ls"), "presets"),
    **dict.fromkeys(("film", "video", "movie", "watch", "render"), "record"),
    **dict.fromkeys(("chart", "curve", "curves", "graph"), "plot"),
    **dict.fromkeys(("envs", "roms", "list-games"), "games"),
}


# BreakoutNoFrameskip-v4, ALE/Breakout-v5, Breakout-v4: Gym's names of what EnvPool calls Breakout-v5.
_OTHER_NAMES = re.compile(r"^ALE/|(NoFrameskip|Deterministic)?-v\d$")


def nearest(word: str, words: Collection[str]) -> str | None:
    """Return the one of `words` that `word` was most likely meant to be, `None` if nothing is near."""
    by_lower = {known.lower(): known for known in words}
    found = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None


def unknown_word(kind: str, word: str, words: Collection[str], more: str) -> str:
    """Return the message for a `kind` ("preset") that does not exist: the nearest one, all, and `more`."""
    near = nearest(word, words)
    guess = f" Did you mean {near}?" if near else ""
    return f"there is no {kind} {word!r}.{guess}\n  There are: {', '.join(words)}. {more}"


def unknown_command(words: Sequence[str], commands: Collection[str]) -> str:
    """Return the message for a command line whose first word is no command."""
    first, rest = words[0], " ".join(words[1:])
    meant = _COMMANDS.get(first.lower())
    if meant:
        return f"there is no command {first!r}.\n  Type: fastdqn {meant} {rest}".rstrip()
    if first.startswith("-"):
        return f"{first} comes after a command.\n  Type: fastdqn train GAME {first} {rest}".rstrip()
    if _OTHER_NAMES.search(first):  # a game where the command should be
        return f"there is no command {first!r}.\n  Type: fastdqn train {first} {rest}".rstrip()
    return unknown_word("command", first, commands, "`fastdqn --help` explains them.")


def unknown_flag(flag: str, value: str | None, flags: Collection[str]) -> str:
    """Return the message for a flag that does not exist.

    Args:
        flag: What was typed, with its dashes, without a value.
        value: The value that followed it, if any.
        flags: The flags that exist.
    """
    name = flag.lstrip("-").lower().replace("_", "-")
    # Only `train` has the flags that the foreign words are translated to.
    if name in _FOREIGN and "--total-frames" in flags:
        ours, why = _FOREIGN[name]
        return _answer(flag, _fill(ours, value), why)
    if name.replace("-", "_") in MOVED and "--total-frames" in flags:
        ours, note = MOVED[name.replace("-", "_")]
        typed = f"--{ours.replace('_', '-')} {'N' if note else value or 'VALUE'}"
        return _answer(flag, typed, f"It has another name now{', and ' + note if note else ''}.")
    by_name = {known.lstrip("-"): known for known in flags}
    by_leaf = {known.rpartition(".")[2]: known for known in flags if "." in known}
    if name in by_leaf:
        typed = by_leaf[name] if value is None else f"{by_leaf[name]} {value}"
        return _answer(flag, typed, _PREFIX)
    near = nearest(name, {**by_leaf, **by_name})
    if near:
        meant = by_name.get(near) or by_leaf[near]
        return f"there is no flag {flag}. Did you mean {meant}?\n  --help lists all flags."
    return f"there is no flag {flag}.\n  --help lists all flags."


def _answer(flag: str, ours: str, why: str) -> str:
    lines = [f"there is no flag {flag}.", why, "" if ours == "nothing" else f"Type: {ours}"]
    return "\n  ".join(line for line in lines if line)


def _fill(ours: str, value: str | None) -> str:
    if "{frames}" in ours:
        try:
            frames = format_count(FRAMES_PER_STEP * parse_count(value or ""))
        except ValueError:
            frames = "N, with N 4 times your number"
        return ours.format(frames=frames)
    if ours.startswith("fastdqn train {"):
        return ours.format(value=_OTHER_NAMES.sub("", value or "Pong") + "-v5")
    return ours.format(value=value or "VALUE")
