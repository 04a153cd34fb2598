"""`fastdqn sweep`: train every combination of games, seeds, presets and values."""

from __future__ import annotations

import io
import json
import re
import shlex
import sys
import typing
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import FlagCreatePairsOff, arg

from fastdqn.cli import extras, mistakes
from fastdqn.cli.arguments import convert, flags_of, switched_on
from fastdqn.cli.command import Command, answer, load
from fastdqn.cli.config_file import DEFAULT_PRESET, base_config
from fastdqn.cli.counts import format_count
from fastdqn.cli.flags import ALIASES, flag_of, in_flags
from fastdqn.cli.progress import Mode, check_mode
from fastdqn.cli.stopping import StopRequest
from fastdqn.config import Config
from fastdqn.errors import UserError
from fastdqn.games.suites import SUITES
from fastdqn.limits import Range, limit_of
from fastdqn.runs.sweep import RunStatus

if TYPE_CHECKING:
    from fastdqn.runs.launch import Outcome
    from fastdqn.runs.placement import Slot
    from fastdqn.runs.sweep import PlannedRun, State, Sweep
    from fastdqn.runs.sweep_engines import Watch

_SETS = ", ".join(f"{name} ({len(games)})" for name, games in SUITES.items())

_ABOUT = f"""Train every combination of games, presets, values and seeds, each in a run folder
of its own, several at once. The same command goes on where it was stopped.

  fastdqn sweep --games Pong-v5 Breakout-v5 --seeds 1-3 --out SWEEP
  fastdqn sweep --games atari5 --seeds 1-5 --preset c51,qrdqn --out SWEEP --dry-run
  fastdqn sweep --games Pong-v5 --set learner.n-step=1,3 total-frames=2M --out SWEEP

--games takes names and sets of games: {_SETS}, all.
--set takes any field of `fastdqn train --help`; several values, between commas,
are combined with everything else. A run that was finished is passed over,
another goes on from its newest checkpoint. The first Ctrl-C saves and stops all
of them.

Progress goes to stderr; at the end, stdout gets one line of JSON."""

_OWN = {"game": "--games", "seed": "--seeds", "preset": "--preset", "pipeline.threads": "--threads"}
_SEEDS = re.compile(r"(\d+)(?:-(\d+))?")
_MOST_SEEDS = 10_000
_TRUE, _FALSE = ("true", "yes", "on"), ("false", "no", "off")


@dataclass(frozen=True)
class SweepArguments:
    """What `fastdqn sweep` takes."""

    games: Annotated[tuple[str, ...], arg(metavar="GAME [GAME ...]", help_behavior_hint="")] = ()
    """Names such as Pong-v5, and sets: atari5, atari26, atari57, all."""
    seeds: Annotated[str, arg(metavar="1,2,5-8")] = "1-3"
    """Of each combination."""
    preset: Annotated[str, arg(metavar="NAME[,NAME]")] = DEFAULT_PRESET
    """Where the values come from that nothing else sets; `fastdqn presets` compares them."""
    config: Annotated[str, arg(metavar="FILE", help_behavior_hint="")] = ""
    """Values that take the place of the preset's, as for `fastdqn train`."""
    set: Annotated[
        tuple[str, ...], arg(metavar="FIELD=VALUE[,VALUE] [FIELD=VALUE ...]", help_behavior_hint="")
    ] = ()
    """Values that take the place of both: learner.n-step=1,3 total-frames=10M env.num-envs=4."""
    out: Annotated[str, arg(metavar="SWEEP", help_behavior_hint="")] = ""
    """Folder of the sweep: a manifest, sweep.json, and a folder for each run."""
    jobs: Annotated[
        Annotated[int, Range(1, 4096)] | None,
        arg(metavar="N", help_behavior_hint="(default: as many as there is room for)"),
    ] = None
    """Runs at once, each pinned to its share of the cores."""
    threads: Annotated[int, Range(1, 512)] = 1
    """PyTorch's CPU threads in each run. Two runs of one thread are faster than one of two."""
    runs_per_gpu: Annotated[int, Range(1, 64)] = 1
    """Runs that share a GPU, where there is one."""
    engine: Literal["local", "ray", "slurm"] = "local"
    """local: processes of this machine; ray: tasks of a Ray cluster; slurm: its jobs. The last two need --out on a
    disk that all machines share."""
    slurm: Annotated[tuple[str, ...], arg(metavar="NAME=VALUE [NAME=VALUE ...]", help_behavior_hint="")] = ()
    """With --engine slurm: submitit's parameters, such as timeout-min=1440 gpus-per-node=1 slurm-partition=gpu."""
    dry_run: Annotated[bool, FlagCreatePairsOff, arg(help_behavior_hint="")] = False
    """Print the runs and what they cost, and make nothing."""
    fps: Annotated[
        Annotated[int, Range(1, 10**9)] | None,
        arg(metavar="N", help_behavior_hint="(default: what runs of the sweep have measured)"),
    ] = None
    """With --dry-run: frames per second of a run, for an estimate of the time."""
    json: Annotated[bool, FlagCreatePairsOff, arg(help_behavior_hint="")] = False
    """With --dry-run: write one JSON object to stdout instead of a table."""
    progress: Mode = "auto"
    """auto: a table (live) on a terminal, else plain lines; json: one object a line. All on stderr."""


COMMAND = Command("sweep", SweepArguments, _ABOUT)


def main(words: Sequence[str]) -> int:
    """Run the command; return the exit code."""
    words = _joined(words, ("--set", "--games", "--slurm"))
    _refuse_flags_of_train(words)
    given = COMMAND.scan(words)
    arguments = COMMAND.parse(words)
    if not arguments.games:
        raise UserError("sweep needs games.\n  Type: fastdqn sweep --games Pong-v5 --out SWEEP")
    if not arguments.out:
        raise UserError(f"sweep needs a folder.\n  Type: fastdqn sweep {' '.join(words)} --out SWEEP")
    if not arguments.dry_run:
        for flag in ("--fps", "--json"):
            if flag in given.values:
                raise UserError(f"{flag} is for --dry-run.")
    if arguments.slurm and arguments.engine != "slurm":
        raise UserError("--slurm is for --engine slurm.")
    if arguments.engine == "slurm" and "--runs-per-gpu" in given.values:
        raise UserError("--runs-per-gpu is not for --engine slurm: there a job has its GPUs to itself.")
    _options(arguments.slurm)
    _check_numbers(arguments)
    check_mode(arguments.progress)
    runs = _runs(arguments)
    extras.require()
    if arguments.engine != "local" and not arguments.dry_run:
        extras.require(arguments.engine)
    load("fastdqn.runs.checks", "fastdqn.runs.launch")
    return _dry_run(arguments, runs) if arguments.dry_run else _train(arguments, runs)


def _check_numbers(arguments: SweepArguments) -> None:
    """Raise where a number is out of its range."""
    for name, hint in typing.get_type_hints(SweepArguments, include_extras=True).items():
        value = getattr(arguments, name)
        limit = limit_of(hint) or next(filter(None, map(limit_of, typing.get_args(hint))), None)
        if limit and isinstance(value, int) and not limit.allows(value):
            raise UserError(f"{flag_of(name, value)}: must be {limit.wanted}")


def _refuse_flags_of_train(words: Sequence[str]) -> None:
    """Raise where a flag of `train` is among the words: its field belongs behind --set.

    Raises:
        UserError: One is; it says what to type.
    """
    own, theirs = flags_of(SweepArguments), flags_of(Config)
    for number, word in enumerate(words):
        typed, _, value = word.partition("=")
        flag = ALIASES.get(typed.replace("_", "-"), typed.replace("_", "-"))
        if flag in theirs and flag not in own and flag.removeprefix("--") not in _OWN:
            value = value or (words[number + 1] if number + 1 < len(words) else "VALUE")
            if theirs[flag] is bool:
                flag, value = switched_on(flag), "true" if flag == switched_on(flag) else "false"
            raise UserError(
                f"{typed} is a flag of `fastdqn train`; in a sweep its field stands behind --set.\n"
                f"  Type: --set {flag.removeprefix('--')}={value}"
            )


def _joined(words: Sequence[str], flags: Sequence[str]) -> list[str]:
    """Return words in which each of some flags stands once, with all that followed any of them."""
    rest: list[str] = []
    taken: dict[str, list[str]] = {}
    target = rest
    for word in words:
        flag, equals, value = word.partition("=")
        if flag in flags:
            target = taken.setdefault(flag, [])
            target += [value] if equals else []
            continue
        if word.startswith("-"):
            target = rest
        target.append(word)
    return [*rest, *(word for flag, those in taken.items() for word in (flag, *those))]


def _runs(arguments: SweepArguments) -> list[PlannedRun]:
    from fastdqn.runs.sweep import changed, grid

    presets = arguments.preset.split(",")
    # A run's config.json has the threads that it took; here they are the sweep's.
    bases = [
        changed(base_config(arguments.config or None, preset), {"pipeline.threads": 0}) for preset in presets
    ]
    return grid(bases, _games(arguments.games), _seeds(arguments.seeds), _values(arguments.set))


def _games(words: Sequence[str]) -> list[str]:
    """Return the games that names and sets stand for, each once."""
    games: dict[str, None] = {}
    for word in words:
        for name in word.split(","):
            if name == "all":
                from fastdqn.games.envs import game_names

                games |= dict.fromkeys(game_names())
            else:
                games |= dict.fromkeys(SUITES.get(name, [name]))
    return list(games)


def _seeds(text: str) -> list[int]:
    seeds: dict[int, None] = {}
    for part in text.split(","):
        found = _SEEDS.fullmatch(part.strip())
        if not found or len(part) > 30:
            raise UserError(f"--seeds {text}: numbers and ranges are wanted, such as 1,2,5-8.")
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first or last - first >= _MOST_SEEDS:
            raise UserError(f"--seeds {text}: {part} is no range of 1 to {_MOST_SEEDS:,} seeds.")
        seeds |= dict.fromkeys(range(first, last + 1))
    return list(seeds)


def _values(words: Sequence[str]) -> dict[str, list[Any]]:
    """Read --set: values by the dotted names of fields.

    Raises:
        UserError: There is no such field, or a value is not of its type.
    """
    known = {
        flag.removeprefix("--").replace("-", "_"): hint
        for flag, hint in flags_of(Config).items()
        if flag == switched_on(flag)
    }
    values: dict[str, list[Any]] = {}
    for word in words:
        typed, equals, text = word.partition("=")
        field = ALIASES.get(f"--{typed}", typed).removeprefix("--").replace("-", "_")
        if not equals or not text:
            raise UserError(f"--set {word}: FIELD=VALUE is wanted, such as learner.n-step=1,3.")
        if field in _OWN:
            raise UserError(f"--set {word}: type {_OWN[field]} {text}")
        if field not in known:
            near = mistakes.nearest(field, known)
            guess = f" Did you mean {near.replace('_', '-')}?" if near else ""
            raise UserError(f"--set {word}: there is no field {typed}.{guess}")
        if field in values:
            raise UserError(f"--set {word}: {typed} stands there twice; type {typed}=VALUE,VALUE")
        try:
            values[field] = [_value(part, known[field]) for part in text.split(",")]
        except ValueError as error:
            raise UserError(f"--set {word}: {error}.") from None
    return values


def _value(text: str, hint: Any) -> object:
    if hint is not bool:
        return convert(text, hint)
    if text.lower() not in (*_TRUE, *_FALSE):
        raise ValueError("true or false is wanted")
    return text.lower() in _TRUE


def _checks(runs: Sequence[PlannedRun]) -> None:
    """Raise where a run cannot be trained, before anything is made; the first three that cannot are named."""
    from fastdqn.engine.device import CpuBackend
    from fastdqn.runs.checks import check

    problems: dict[str, str] = {}
    for run in runs:
        try:
            check(run.config, device=CpuBackend())
        except UserError as error:
            problems.setdefault(str(error), run.name)
    if problems:
        raise UserError("\n".join(f"{name}: {problem}" for problem, name in list(problems.items())[:3]))


def _slots(arguments: SweepArguments, runs: Sequence[PlannedRun]) -> list[Slot]:
    """Return what this machine gives each of the runs; on a cluster that is the cluster's business."""
    if arguments.engine != "local":
        return []
    from fastdqn.engine.device import list_gpus
    from fastdqn.runs.placement import slots

    return slots(
        [run.config for run in runs],
        jobs=arguments.jobs,
        threads=arguments.threads,
        runs_per_gpu=arguments.runs_per_gpu,
        gpus=list_gpus(),
    )


def _jobs(arguments: SweepArguments, slots: Sequence[Slot]) -> int | None:
    """Return how many runs are trained at once, `None` where a cluster decides that."""
    return len(slots) if arguments.engine == "local" else arguments.jobs


def _where(arguments: SweepArguments, slots: Sequence[Slot]) -> str:
    jobs = _jobs(arguments, slots)
    at_once = "" if jobs is None else f"{jobs} at once"
    return at_once if arguments.engine == "local" else f"{at_once} on {arguments.engine}".lstrip()


def _train(arguments: SweepArguments, runs: Sequence[PlannedRun]) -> int:
    from fastdqn.cli.sweep_progress import open_sweep_progress
    from fastdqn.runs.sweep import is_done, opened, status

    _checks(runs)
    path = Path(arguments.out).absolute()
    left = [run for run in runs if not is_done(path / run.name, run.config)]
    slots = _slots(arguments, left)
    with opened(path, runs, arguments.threads) as sweep:
        with open_sweep_progress(arguments.progress) as view, StopRequest(view.say) as stop:
            view.say(f"{len(runs)} runs, {len(runs) - len(left)} of them done; {_where(arguments, slots)}")

            def watch(known: Mapping[str, Outcome | State]) -> None:
                view.show([_status(sweep, run, known.get(run.name)) for run in runs])

            with redirect_stdout(_Said(view.say)):
                outcomes = _engine(arguments, sweep, slots, watch, stop.requested)
        statuses = [status(sweep, run, outcomes[run.name].state, outcomes[run.name].message) for run in runs]
    return _close(arguments, statuses, stop)


class _Said(io.TextIOBase):
    """Takes the place of stdout, which is for programs: what Ray writes there of a lost node is a message, too."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def write(self, text: str) -> int:
        for line in filter(str.strip, text.splitlines()):
            self._say(line)
        return len(text)


def _engine(
    arguments: SweepArguments,
    sweep: Sweep,
    slots: Sequence[Slot],
    watch: Watch,
    stop_requested: Callable[[], bool],
) -> dict[str, Outcome]:
    """Train the runs by whichever engine is meant."""
    from fastdqn.runs import sweep_cluster, sweep_engines

    if arguments.engine == "ray":
        return sweep_cluster.on_ray(
            sweep,
            jobs=arguments.jobs,
            runs_per_gpu=arguments.runs_per_gpu,
            watch=watch,
            stop_requested=stop_requested,
        )
    if arguments.engine == "slurm":
        return sweep_cluster.on_slurm(
            sweep,
            jobs=arguments.jobs,
            options=_options(arguments.slurm),
            watch=watch,
            stop_requested=stop_requested,
        )
    return sweep_engines.local(sweep, slots, watch, stop_requested)


def _options(words: Sequence[str]) -> dict[str, int | str]:
    """Read --slurm: submitit's parameters by name."""
    options: dict[str, int | str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not value:
            raise UserError(f"--slurm {word}: NAME=VALUE is wanted, such as timeout-min=1440.")
        options[name.replace("-", "_")] = int(value) if value.isdecimal() else value
    return options


def _status(sweep: Sweep, run: PlannedRun, known: Outcome | State | None) -> RunStatus:
    from fastdqn.runs.sweep import status

    if known is None or isinstance(known, str):
        return status(sweep, run, known)
    return status(sweep, run, known.state, known.message)


def _close(arguments: SweepArguments, statuses: Sequence[RunStatus], stop: StopRequest) -> int:
    """Say how the sweep ended; return the exit code."""
    counts = Counter(status.state for status in statuses)
    print(json.dumps({"sweep": arguments.out, **counts, "runs": [asdict(one) for one in statuses]}))
    lines = [
        f"{status.name} failed: {in_flags(status.message)}" for status in statuses if status.state == "failed"
    ]
    if counts["done"] == len(statuses):
        lines.append(
            f"all {len(statuses)} runs are done; to see the scores, type: "
            f"fastdqn report {shlex.quote(arguments.out)}"
        )
    else:
        lines.append(
            f"{counts['done']} of {len(statuses)} runs are done; the same command goes on with the others"
        )
    if arguments.progress == "json":
        lines = [json.dumps({"message": line}) for line in lines]
    if arguments.progress != "none" or counts["failed"]:
        with suppress(OSError):
            print("\n".join(lines), file=sys.stderr, flush=True)
    if stop.signal:
        return stop.exit_code
    return 1 if counts["done"] < len(statuses) else 0


def _dry_run(arguments: SweepArguments, runs: Sequence[PlannedRun]) -> int:
    """Print the grid and its cost."""
    from fastdqn.runs.sweep_cost import cost

    _checks(runs)
    path = Path(arguments.out)
    costs = [cost(run, path / run.name, arguments.fps) for run in runs]
    left = [run for run, its in zip(runs, costs, strict=True) if its.frames_left]
    slots = _slots(arguments, left)
    jobs = _jobs(arguments, slots)
    seconds = [its.seconds_left for its in costs if its.frames_left]
    known = [one for one in seconds if one is not None]
    hours = sum(known) / 3600 / max(1, jobs or 1) if len(known) == len(seconds) else None
    data = {
        "runs": [asdict(one) for one in costs],
        "engine": arguments.engine,
        "jobs": jobs,
        "slots": [asdict(slot) for slot in slots],
        "frames_left": sum(one.frames_left for one in costs),
        "updates_left": sum(one.updates_left for one in costs),
        "disk_bytes": sum(one.disk_bytes for one in costs),
        "hours": hours,
    }
    lines = [f"{'run':<50}{'frames left':>12}{'updates':>10}{'memory':>10}{'disk':>10}"]
    lines += [
        f"{one.name:<50}{format_count(one.frames_left):>12}{format_count(one.updates_left):>10}"
        f"{one.memory_bytes / 1e9:>7.1f} GB{one.disk_bytes / 1e9:>7.1f} GB"
        for one in costs
    ]
    how = "one after the other" if jobs is None else f"at {jobs} at once"
    time = (
        f"about {hours:.1f} hours {how} (an estimate, by the frames per second of each)"
        if hours is not None
        else "time unknown: no run has measured its speed yet; --fps N estimates it"
    )
    lines += [
        f"{len(runs)} runs, {len(left)} to be trained, {_where(arguments, slots)}",
        f"{data['frames_left']:,} frames, {data['updates_left']:,} updates, "
        f"{sum(one.disk_bytes for one in costs) / 1e9:.1f} GB of disk at most",
        time,
    ]
    return answer(data, lines, as_json=arguments.json)
