"""Odd input to every command, each case in a process of its own, forked from one that has imported everything.

    python tests/odd_input.py FOLDER [--sample CASES] [--seed SEED] [--only TEXT]

Every flag of every command and every field of every file of a run gets values that it cannot have, or hardly.
A case is good if it ends with 0 or 2, without a traceback, a signal, or more memory than it may take, and if a 2
is told in a few lines of our own. A run that diverges may end with 1: its step size is the user's. Prints a line
of JSON for each bad case, and one with the counts; on stderr, how far it is.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import safe_open

MEMORY_BYTES = 12 * 2**30
CPU_SECONDS = 60
PASSES = 150
"""Of the loop, after which a training is stopped: some odd values ask for a run without end, and get it."""

WORDS = (
    "",
    "x",
    "-1",
    "0",
    "1.5",
    "nan",
    "inf",
    "1e39",
    "4e18",
    "9" * 5000,
    "none",
    "\u00fc\u2603\u202e",
    "a" * 5000,
)
VALUES: tuple[Any, ...] = (
    *("", "\u2603\x00\n", "a" * 5000, -1, 0, 1.5, 1e39, 2**62, 10**400, float("nan")),
    *(None, True, [], {"a": 1}),
)
HEADERS = ("", "x", "-1", "0", "1.5", "nan", "1e39", "9" * 30, "9" * 5000, "\u2603")
TEXTS: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"garbage\n",
    "a list": b"[]\n",
    "a number": b"3\n",
    "deep list": b"[" * 200_000 + b"\n",
    "deep object": b'{"a":' * 200_000 + b"\n",
    "digits": b'{"frames": 1' + b"0" * 5000 + b"}\n",
    "not UTF-8": b'{"game": "\xff\xfe"}\n',
    "zeros": b"\0" * 1000,
}
# With these a command does as it is told and is not done for long.
ENDLESS = ("--episodes", "--max-episode-frames", "--max-seconds", "evaluation.", "env.")


@dataclass(frozen=True)
class Case:
    """One command on one thing that is odd.

    Attributes:
        name: What is odd.
        words: The command line; RUN stands for the folder of the run, NEW for a name that is free.
        spoil: Changes the run's folder first.
    """

    name: str
    words: tuple[str, ...]
    spoil: Callable[[Path], None] = lambda run: None


def tiny_config() -> Any:
    from fastdqn.config import EnvConfig, ReplayConfig
    from fastdqn.presets import PRESETS

    quick = PRESETS["quick"].config
    return replace(
        quick,
        total_frames=400,
        log_every_frames=100,
        env=EnvConfig(num_envs=2, max_episode_frames=400),
        replay=ReplayConfig(capacity=1_000, warmup_steps=50),
        network=replace(quick.network, width=1 / 16),
        pipeline=replace(quick.pipeline, accelerate="eager"),
        evaluation=replace(quick.evaluation, every_frames=200, episodes=1, max_episode_frames=200),
    )


# What is tried on a run: the command, and for the files which of them it reads.
TRAIN = (
    *("train", "Pong-v5", "--run-dir", "NEW", "--progress", "none", "--total-frames", "400"),
    *("--pipeline.accelerate", "eager", "--env.num-envs", "2", "--replay.capacity", "1000"),
    *("--replay.warmup-steps", "50", "--network.width", "0.0625"),
)
_POLICY = "average.safetensors"
"""The file of a checkpoint that the runs here are played by."""

RESUME = ("train", "--resume", "RUN", "--total-frames", "800", "--progress", "none")
EVALUATE = ("evaluate", "RUN", "--episodes", "1", "--max-episode-frames", "200")
RECORD = ("record", "RUN", "--max-seconds", "1", "--scale", "2", "--gif-seconds", "0.1", "--out", "NEW")
EXPORT = ("export", "RUN", "--out", "NEW")
PLOT = ("plot", "RUN", "--out", "NEW.png")
SWEEP = ("sweep", "--games", "Pong-v5", "--seeds", "1", "--out", "NEW", "--dry-run")
REPORT = ("report", "RUN")
WEIGHTS = (*TRAIN, "--network.dueling", "--network.centered", "--weights", "RUN")
READERS = {
    "config.json": (EVALUATE, RECORD, EXPORT, PLOT, RESUME),
    "metrics.jsonl": (PLOT, RESUME),
    "evaluations.jsonl": (PLOT, RESUME),
    "state.json": (RESUME,),
    "evaluation.json": (RESUME,),
}


def flag_cases() -> Iterator[Case]:
    from fastdqn.cli.arguments import flags_of
    from fastdqn.cli.evaluate import EvaluateArguments
    from fastdqn.cli.export import ExportArguments
    from fastdqn.cli.plot import PlotArguments
    from fastdqn.cli.record import RecordArguments
    from fastdqn.cli.report import ReportArguments
    from fastdqn.cli.sweep import SweepArguments
    from fastdqn.cli.train import TrainArguments

    commands: list[tuple[type[Any], tuple[str, ...]]] = [
        (TrainArguments, TRAIN),
        (EvaluateArguments, EVALUATE),
        (RecordArguments, RECORD),
        (ExportArguments, EXPORT),
        (PlotArguments, PLOT),
        (SweepArguments, SWEEP),
        (ReportArguments, REPORT),
    ]
    for command in ("games", "presets", "info"):
        for value in WORDS:
            yield Case(f"{command} --json {value[:20]!r}", (command, f"--json={value}"))
            yield Case(f"{command} word {value[:20]!r}", (command, value))
    for arguments, words in commands:
        for flag in flags_of(arguments):
            for value in WORDS:
                yield Case(f"{words[0]} {flag} {value[:20]!r}", (*words, f"{flag}={value}"))
        for value in WORDS:
            yield Case(f"{words[0]} word {value[:20]!r}", (words[0], value))


def path_cases() -> Iterator[Case]:
    odd = {
        "overlong": "n" * 300,
        "under a file": "RUN/config.json/x",
        "no place": "/proc/nothing/x",
        "device": "/dev/full",
        "folder": "RUN",
        "colon": "NEW:a",
        "dash": "./-x",
        "percent": "NEW%d",
        "not UTF-8": "NEW\udcff",
    }
    for name, path in odd.items():
        yield Case(f"train into {name}", (*TRAIN[:3], path, *TRAIN[4:]))
        for command in (RECORD, EXPORT):
            yield Case(f"{command[0]} into {name}", (*command[:-1], path))
        for end in ("png", "svg", "pdf"):
            yield Case(f"plot {end} into {name}", (*PLOT[:-1], f"{path}.{end}"))
        for command in (EVALUATE, RECORD, EXPORT, PLOT, RESUME):
            yield Case(
                f"{command[0]} run at {name}", tuple(path if word == "RUN" else word for word in command)
            )
        yield Case(f"weights at {name}", (*WEIGHTS[:-1], path))


def file_cases(run: Path) -> Iterator[Case]:
    for name, commands in READERS.items():
        file = find(run, name)
        lines = file.read_text().splitlines() if file.suffix == ".jsonl" else [file.read_text()]
        data = json.loads(lines[0])
        for field, where in enumerate(places(data)):
            for turn, value in enumerate(VALUES, field):
                words = commands[turn % len(commands)]  # all of them for each field, but not for each value
                text = json.dumps(changed(data, where, value))
                text = "\n".join([text, *lines[1:]]) + "\n"
                label = f"{name} {'.'.join(map(str, where))} = {json.dumps(value)[:20]}"
                yield Case(label, words, written(name, text.encode()))
            text = json.dumps(without(data, where))
            yield from (
                Case(
                    f"{name} without {'.'.join(map(str, where))}", words, written(name, text.encode() + b"\n")
                )
                for words in commands
            )
        for label, content in TEXTS.items():
            yield from (Case(f"{name}: {label}", words, written(name, content)) for words in commands)
        yield from (Case(f"{name}: a folder", words, made_a_folder(name)) for words in commands)
    header = find(run, _POLICY)
    with safe_open(header, framework="pt") as opened:
        about = dict(opened.metadata())
    for field in about:
        for value in HEADERS:
            for words in (EVALUATE, RECORD, EXPORT, WEIGHTS, RESUME):
                yield Case(f"header {field} = {value[:20]!r}", words, header_with(field, value))
    for label, content in {**TEXTS, "huge header": b"\xff" * 100}.items():
        for words in (EVALUATE, EXPORT, WEIGHTS, RESUME):
            yield Case(f"{_POLICY}: {label}", words, written(_POLICY, content))
        yield Case(f"online.safetensors: {label}", RESUME, written("online.safetensors", content))


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value inside a JSON value; of a list, its first."""
    inner = (
        data.items()
        if isinstance(data, dict)
        else list(enumerate(data))[:1]
        if isinstance(data, list)
        else []
    )
    for key, value in inner:
        yield (*path, key)
        yield from places(value, (*path, key))


def changed(data: Any, where: tuple[Any, ...], value: Any) -> Any:
    copy = json.loads(json.dumps(data))
    inner = copy
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    return copy


def without(data: Any, where: tuple[Any, ...]) -> Any:
    copy = json.loads(json.dumps(data))
    inner = copy
    for key in where[:-1]:
        inner = inner[key]
    del inner[where[-1]]
    return copy


def find(run: Path, name: str) -> Path:
    folder = "best-*" if name == "evaluation.json" else "frame-*"
    return run / name if (run / name).exists() else sorted((run / "checkpoints").glob(f"{folder}/{name}"))[-1]


def written(name: str, content: bytes) -> Callable[[Path], None]:
    def spoil(run: Path) -> None:
        file = find(run, name)
        file.unlink()  # it is a link to the whole run's
        file.write_bytes(content)
        sign(file)

    return spoil


def made_a_folder(name: str) -> Callable[[Path], None]:
    def spoil(run: Path) -> None:
        file = find(run, name)
        file.unlink()
        file.mkdir()

    return spoil


def header_with(field: str, value: str) -> Callable[[Path], None]:
    def spoil(run: Path) -> None:
        file = find(run, _POLICY)
        with safe_open(file, framework="pt") as opened:
            about = dict(opened.metadata()) | {field: value}
        tensors = safetensors.torch.load_file(file)
        file.unlink()
        safetensors.torch.save_file(tensors, file, metadata=about)
        sign(file)

    return spoil


def sign(file: Path) -> None:
    """Have the checkpoint's checksums name the file as it is now, as one would who means it."""
    sums = file.parent / "SHA256SUMS"
    if sums.exists():
        lines = [line for line in sums.read_text().splitlines() if not line.endswith(f"  {file.name}")]
        sums.unlink()
        lines.append(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}")
        sums.write_text("\n".join(lines) + "\n")


def verdict(case: Case, run: Path, folder: Path) -> str:
    """Run a case; return how it ended: 0, 2, diverged, endless, or what is wrong with it."""
    own = Path(tempfile.mkdtemp(dir=folder))
    try:
        shutil.copytree(run, own / "run", copy_function=os.link)
        case.spoil(own / "run")
        names = {"RUN": str(own / "run"), "NEW": str(own / "new")}
        words = [word.replace("RUN", names["RUN"]).replace("NEW", names["NEW"]) for word in case.words]
        pid = os.fork()
        if not pid:
            child(words, own)
        _, status = os.waitpid(pid, 0)
        said = (own / "stderr").read_text(errors="replace")
    finally:
        shutil.rmtree(own, ignore_errors=True)
    return judged(case, os.waitstatus_to_exitcode(status), said)


def judged(case: Case, code: int, said: str) -> str:
    if code == -signal.SIGXCPU and any(word in case.name for word in ENDLESS):
        return "endless"
    if "Traceback" in said:
        return "traceback: " + said[-1500:]
    if code == 1 and "diverged" in said:
        return "diverged"
    if code == 0:
        return "0"
    lines = said.splitlines()
    few = len(lines) <= 12 and all(len(line) < 700 for line in lines)
    if code == 2 and lines and lines[-1] and few and any(line.startswith("fastdqn") for line in lines):
        return "2"
    return f"code {code}: {said[-1500:]}"


def child(words: list[str], own: Path) -> None:
    """Be the process of a case, and never return."""
    code = 70
    try:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.chdir(own)
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(own / name, os.O_WRONLY | os.O_CREAT), number)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", errors="backslashreplace", closefd=False)  # noqa: SIM115
        from fastdqn.cli import main

        code = main(words)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def stop_after_some_passes() -> None:
    """Have every training of this process and its children end as if it were complete."""
    from fastdqn.runs import trainer

    whole = trainer.train

    def train(*what: Any, **call: Any) -> Any:
        asked = iter(range(PASSES))
        summary = whole(*what, **{**call, "stop_requested": lambda: next(asked, None) is None})
        return replace(summary, interrupted=False)

    trainer.train = train


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sample", type=int)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    # All that a command imports, so that a case takes a fork and not seconds; nothing here starts a thread.
    from fastdqn.runs import evaluation  # noqa: F401
    from fastdqn.runs.folder import RunFolder
    from fastdqn.views import export, plot, record  # noqa: F401

    run = options.folder / "whole"
    pid = os.fork()  # what trains has threads, which do not survive a fork, and holds the run's lock
    if not pid:
        from fastdqn.runs import trainer

        trainer.train(RunFolder.create(run, tiny_config()))
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert status == 0, "the run that is to be spoilt was not trained"
    stop_after_some_passes()
    cases = [*flag_cases(), *path_cases(), *file_cases(run)]
    cases = [case for case in cases if options.only in f"{case.name} {case.words[0]}"]
    every = len(cases)
    if options.sample is not None:
        cases = random.Random(options.seed).sample(cases, min(options.sample, every))
    ends: Counter[str] = Counter()
    for count, case in enumerate(cases, 1):
        if count % 100 == 0:
            print(f"{count} of {len(cases)}: {dict(ends)}", file=sys.stderr, flush=True)
        end = verdict(case, run, options.folder)
        good = end in ("0", "2", "diverged", "endless")
        ends[end if good else "bad"] += 1
        if not good:
            print(
                json.dumps({"case": case.name, "words": [w[:60] for w in case.words], "end": end}), flush=True
            )
    print(json.dumps({"cases": len(cases), "of": every, **ends}), flush=True)
    return 1 if ends["bad"] else 0


if __name__ == "__main__":
    sys.exit(main())
