"""What sweeps have come to: scores by game, aggregates with intervals, as tables, JSON and pictures.

Runs of one method differ in nothing but game and seed. Only runs that have ended count. Where a run was evaluated
while it trained, its scores are those evaluations, `last` and `best` apart; else the mean return of its last 20
games at its end, and where it was highest.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdqn.config import GAME_RULES, Config
from fastdqn.errors import UserError
from fastdqn.games.scores import RANDOM_AND_HUMAN, SOURCE, human_normalized
from fastdqn.json_files import checked, read_object, read_rows
from fastdqn.outputs import write_atomic
from fastdqn.runs import aggregate
from fastdqn.runs.metrics import RECENT_GAMES
from fastdqn.runs.sweep import PlannedRun, Sweep, is_done, last_row, read

KINDS = ("last", "best")
"""Which checkpoint a score is of. The best is chosen by the scores that it is then told by: it flatters."""

_EVALUATION: dict[str, Any] = {"frames": int, "mean": float, "protocol": str, "episodes": int}
_ROW: dict[str, Any] = {"frames": int, "return_mean": float | None}
_POINTS = 40  # of a sample efficiency curve
_CURVE_RESAMPLES = 2_000
_THRESHOLDS = 101  # of a performance profile


@dataclass(frozen=True)
class ScoredRun:
    """A run that has ended.

    Attributes:
        game: EnvPool's name.
        seed: The run's.
        protocol: How the games behind its scores were played, and for how many frames it was trained.
        frames: Frames [F] at which it has scores.
        scores: Unclipped returns there [F].
    """

    game: str
    seed: int
    protocol: str
    frames: NDArray[np.float64]
    scores: NDArray[np.float64]

    def score(self, kind: str) -> float:
        """Return the score of its last checkpoint, or of the best."""
        return float({"last": self.scores[-1], "best": self.scores.max()}[kind])


@dataclass(frozen=True)
class Report:
    """What sweeps have come to.

    Attributes:
        about: Protocols, frames, seeds, hardware, commits and what was left out, for people.
        methods: The runs of each method, by its name.
        data: All figures, as JSON values.
        files: Names of the files that it was written to.
    """

    about: list[str]
    methods: Mapping[str, Sequence[ScoredRun]]
    data: dict[str, Any]
    files: Sequence[str] = ()

    def markdown(self, pictures: Iterable[str] = ()) -> str:
        """Return the tables.

        Args:
            pictures: Names of files to be shown below them.
        """
        lines = ["# Report", "", *(f"- {line}" for line in self.about), "", *_games_table(self.data)]
        for kind in KINDS:
            lines += ["", *_aggregate_table(self.data, kind)]
        if self.data["improvement"]:
            lines += ["", *_improvement_table(self.data)]
        for name in pictures:
            lines += ["", f"![{Path(name).stem}]({name})"]
        return "\n".join(lines) + "\n"


def report(paths: Sequence[Path], *, mix_protocols: bool = False) -> Report:
    """Read sweeps and work out what they come to.

    Args:
        paths: Their folders. With several, a method is named after its sweep, too.
        mix_protocols: Put scores into one table though they were measured differently.

    Raises:
        UserError: A folder is no sweep, no run has ended, or protocols differ and `mix_protocols` is off.
    """
    for path, count in Counter(path.resolve() for path in paths).items():
        if count > 1:
            raise UserError(f"{path} stands there twice: its runs would count twice.")
    sweeps = [read(path) for path in paths]
    methods: dict[str, list[ScoredRun]] = {}
    left_out: list[str] = []
    early: list[str] = []
    facts: dict[str, dict[str, None]] = {"hardware": {}, "commit": {}, "PyTorch": {}}
    for sweep in sweeps:
        labels = _labels(sweep)
        alike = [other.path.name for other in sweeps].count(sweep.path.name)
        prefix = f"{sweep.path if alike > 1 else sweep.path.name}: " if len(sweeps) > 1 else ""
        for run in sweep.runs:
            scored = _scored(sweep, run)
            if scored is None:
                left_out.append(f"{sweep.path.name}/{run.name}")
                continue
            methods.setdefault(prefix + labels[_method(run.config)], []).append(scored)
            if last_row(sweep.folder(run)).get("frames", run.config.total_frames) < run.config.total_frames:
                early.append(f"{sweep.path.name}/{run.name}")
            _note_machine(sweep.folder(run), facts)
    if not methods:
        raise UserError(f"{', '.join(map(str, paths))}: no run has ended yet that has scores.")
    protocols = _protocols(methods)
    if len(protocols) > 1 and not mix_protocols:
        kinds = "\n".join(f"{count} runs: {protocol}" for protocol, count in protocols.items())
        raise UserError(
            f"the runs were not measured alike, so one table of them would compare protocols:\n{kinds}\n"
            "Report on sweeps of one protocol, or put them together all the same with `mix_protocols = True`."
        )
    data = _figures(methods)
    data |= {"protocols": protocols, "left_out": left_out, "ended_early": early}
    data |= {name: list(of) for name, of in facts.items()}
    return Report(_about(methods, protocols, facts, data), methods, data)


def write(result: Report, folder: Path, draw: Callable[[Report, Path], list[str]] | None = None) -> Report:
    """Write report.md, report.json and the pictures.

    Args:
        result: What is written.
        folder: Where to; made if it does not exist.
        draw: Draws the pictures into a folder and returns their names; `None` draws none.

    Returns:
        The report, which names the files.

    Raises:
        UserError: It cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        pictures = draw(result, folder) if draw else []
        write_atomic(folder / "report.md", result.markdown(pictures).encode(errors="backslashreplace"))
        write_atomic(folder / "report.json", (json.dumps(result.data, indent=2) + "\n").encode())
    except OSError as error:
        raise UserError(f"out = {folder}: cannot be written: {error.strerror}.") from None
    return replace(result, files=[str(folder / name) for name in ("report.md", "report.json", *pictures)])


def normalized(runs: Sequence[ScoredRun], kind: str, games: Sequence[str]) -> list[NDArray[np.float64]]:
    """Return human-normalised scores, [runs of the game] for each game."""
    scores: dict[str, list[float]] = {game: [] for game in games}
    for run in runs:
        if run.game in scores:
            scores[run.game].append(_of_human(run.game, run.score(kind)))
    return [np.array(scores[game]) for game in games]


def common_games(methods: Mapping[str, Sequence[ScoredRun]]) -> list[str]:
    """Return the games that every method has and that a human's score is known of."""
    every = set.intersection(*({run.game for run in runs} for runs in methods.values()))
    return sorted(game for game in every if game.removesuffix("-v5") in RANDOM_AND_HUMAN)


def efficiency(runs: Sequence[ScoredRun], games: Sequence[str]) -> dict[str, list[float] | None] | None:
    """Return the interquartile mean of human-normalised scores over frames, as far as all runs go.

    Args:
        runs: Of a method.
        games: Those that count.

    Returns:
        `frames`, `IQM`, `low` and `high`, the last two `None` where a game has one run alone; `None` where the
        runs share no frames.
    """
    runs = [run for run in runs if run.game in games]
    if not runs:
        return None
    start, end = max(run.frames[0] for run in runs), min(run.frames[-1] for run in runs)
    if start >= end:
        return None
    frames = np.linspace(start, end, _POINTS)
    by_game: dict[str, list[NDArray[np.float64]]] = {game: [] for game in games}
    for run in runs:
        line = np.interp(frames, run.frames, run.scores)
        by_game[run.game].append(np.array([_of_human(run.game, value) for value in line]))
    lines = [np.stack(of) for of in by_game.values()]  # [runs, F]
    rng = np.random.default_rng(0)
    values, low, high = [], [], []
    for point in range(_POINTS):
        scores = [game[:, point] for game in lines]
        values.append(float(aggregate.iqm(scores)))
        if not _resampled(scores):
            continue
        ends = aggregate.interval(aggregate.iqm, scores, rng=rng, resamples=_CURVE_RESAMPLES)
        low.append(float(ends[0]))
        high.append(float(ends[1]))
    return {"frames": frames.tolist(), "IQM": values, "low": low or None, "high": high or None}


def _figures(methods: Mapping[str, Sequence[ScoredRun]]) -> dict[str, Any]:
    """Return all numbers: by game, aggregated, over frames, and between methods."""
    games = common_games(methods)
    data: dict[str, Any] = {"games_in_aggregates": games, "methods": {}, "improvement": []}
    top = 1.0
    if games:
        pooled = np.concatenate(
            [np.concatenate(normalized(runs, "last", games)) for runs in methods.values()]
        )
        top = max(1.0, float(np.quantile(pooled, 0.98)))
    thresholds = np.linspace(0.0, top, _THRESHOLDS)
    for name, runs in methods.items():
        data["methods"][name] = {"games": _by_game(runs)}
        if games:
            data["methods"][name] |= {
                "aggregate": {kind: _aggregated(normalized(runs, kind, games)) for kind in KINDS},
                "profile": _profile(normalized(runs, "last", games), thresholds),
                "efficiency": efficiency(runs, games),
            }
    if games:
        for one, other in combinations(methods, 2):
            ours, theirs = (normalized(methods[name], "last", games) for name in (one, other))
            value, low, high = _with_interval(aggregate.probability_of_improvement, ours, theirs)
            data["improvement"].append(
                {"method": one, "over": other, "probability": value, "low": low, "high": high}
            )
    return data


def _by_game(runs: Sequence[ScoredRun]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for game in sorted({run.game for run in runs}):
        those = sorted((run for run in runs if run.game == game), key=lambda run: run.seed)
        entry: dict[str, Any] = {"seeds": [run.seed for run in those]}
        for kind in KINDS:
            scores = [run.score(kind) for run in those]
            average = float(np.mean(scores))
            entry[kind] = {
                "runs": scores,
                "mean": average,
                "median": float(np.median(scores)),
                "human_normalized": human_normalized(game, average),
            }
        result[game] = entry
    return result


def _aggregated(scores: aggregate.Scores) -> dict[str, list[float | None]]:
    return {name: _with_interval(statistic, scores) for name, statistic in aggregate.STATISTICS.items()}


def _with_interval(
    statistic: Callable[..., NDArray[np.float64]], *scores: aggregate.Scores
) -> list[float | None]:
    """Return a statistic and the ends of its interval, which are `None` where a game has one run alone."""
    value = float(statistic(*scores))
    if not all(_resampled(some) for some in scores):
        return [value, None, None]
    low, high = aggregate.interval(statistic, *scores, rng=np.random.default_rng(0))
    return [value, float(low), float(high)]


def _resampled(scores: aggregate.Scores) -> bool:
    """Whether each game has two runs and more: of one alone every resample is the same, and says nothing."""
    return min(len(game) for game in scores) >= 2


def _profile(scores: aggregate.Scores, thresholds: NDArray[np.float64]) -> dict[str, list[float] | None]:
    shares = {"thresholds": thresholds.tolist(), "share": aggregate.profile(scores, thresholds).tolist()}
    if not _resampled(scores):
        return {**shares, "low": None, "high": None}
    low, high = aggregate.interval(
        lambda some: aggregate.profile(some, thresholds),
        scores,
        rng=np.random.default_rng(0),
        resamples=_CURVE_RESAMPLES,
    )
    return {**shares, "low": low.tolist(), "high": high.tolist()}


def _scored(sweep: Sweep, run: PlannedRun) -> ScoredRun | None:
    """Return a run's scores, `None` where it has not ended or finished no game.

    Raises:
        UserError: Its files are damaged.
    """
    folder, config = sweep.folder(run), run.config
    if not is_done(folder, config):
        return None
    trained = f"{config.total_frames:,} frames"
    # Those that only confirm that a run is done tell nothing of one that is not.
    every = config.evaluation.every_frames
    evaluations = [] if every is None else _rows(folder / "evaluations.jsonl", _EVALUATION)
    if evaluations:
        last = evaluations[-1]
        protocol = f"evaluations while training, {last['protocol']}, {last['episodes']} games; {trained}"
        points = [(row["frames"], row["mean"]) for row in evaluations]
    else:
        rules = ", ".join(f"{name} {getattr(config.env, name):g}" for name in GAME_RULES)
        protocol = f"mean return of the last {RECENT_GAMES} games of training, {rules}; {trained}"
        rows = _rows(folder / "metrics.jsonl", _ROW)
        points = [(row["frames"], row["return_mean"]) for row in rows if row["return_mean"] is not None]
    if not points:
        return None
    frames, scores = np.array(points, float).T
    return ScoredRun(config.game, config.seed, protocol, frames, scores)


def _rows(path: Path, hints: dict[str, Any]) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        return [
            {name: checked(row.get(name), hint, name) for name, hint in hints.items()}
            for _, row in read_rows(path)
        ]
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}; the file is damaged.") from None


def _method(config: Config) -> Config:
    return replace(config, game="", seed=0)


def _labels(sweep: Sweep) -> dict[Config, str]:
    """Name the methods of a sweep: by the preset, and by the values in which those of one preset differ."""
    methods = list(dict.fromkeys(_method(run.config) for run in sweep.runs))
    labels = {}
    for one in methods:
        alike = [other.flat() for other in methods if other.preset == one.preset]
        differing = [name for name, value in one.flat().items() if any(o[name] != value for o in alike)]
        values = one.flat()
        labels[one] = " ".join([one.preset, *(f"{name}={values[name]}" for name in differing)])
    return labels


def _protocols(methods: Mapping[str, Sequence[ScoredRun]]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for runs in methods.values():
        for run in runs:
            counts[run.protocol] = counts.get(run.protocol, 0) + 1
    return counts


def _note_machine(folder: Path, facts: dict[str, dict[str, None]]) -> None:
    """Note where a run was trained, as far as its meta.json says."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        meta = read_object(folder / "meta.json")
        machine = meta["machine"]
        gpu = f"{machine['gpu']}, " if machine.get("gpu") else ""
        facts["hardware"][f"{gpu}{machine['cores']} cores of {machine['cpu']}"] = None
        facts["commit"][str(meta.get("git_commit") or f"fastdqn {meta['versions']['fastdqn']}")] = None
        facts["PyTorch"][str(meta["versions"]["torch"])] = None


def _about(
    methods: Mapping[str, Sequence[ScoredRun]],
    protocols: Mapping[str, int],
    facts: Mapping[str, Mapping[str, None]],
    data: Mapping[str, Any],
) -> list[str]:
    counts = sorted({len(of["seeds"]) for one in data["methods"].values() for of in one["games"].values()})
    seeds = f"{counts[0]} to {counts[-1]}" if counts[1:] else f"{counts[0]}"
    games = sorted({run.game for runs in methods.values() for run in runs})
    lines = [
        f"protocol: {' | '.join(protocols)}" + (" (MIXED)" if len(protocols) > 1 else ""),
        f"{len(games)} games, {seeds} seeds each",
        *(f"{name}: {'; '.join(of) or 'not known'}" for name, of in facts.items()),
        f"human-normalised: 0 is random play, 1 a human ({SOURCE})",
        f"intervals: {aggregate.CONFIDENCE:.0%}, stratified bootstrap of {aggregate.RESAMPLES:,} resamples",
    ]
    apart = [game for game in games if game not in data["games_in_aggregates"]]
    if apart:
        lines.append(f"not in the aggregates, for want of a human's score or of a method: {', '.join(apart)}")
    told = {
        "ended_early": "ended before their frames, where training games had the mean return to stop at",
        "left_out": "left out, not ended or without a game",
    }
    for name, what in told.items():
        runs = data[name]
        if runs:
            lines.append(f"{what}: {len(runs)} runs ({', '.join(runs[:5])}{', ...' if runs[5:] else ''})")
    return lines


def _games_table(data: Mapping[str, Any]) -> list[str]:
    lines = [
        "| game | method | seeds | last: mean | median | human | best: mean | median | human |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for game in sorted({game for method in data["methods"].values() for game in method["games"]}):
        for name, method in data["methods"].items():
            if game in method["games"]:
                entry = method["games"][game]
                cells = [cell for kind in KINDS for cell in _cells(entry[kind])]
                lines.append(f"| {game} | {name} | {len(entry['seeds'])} | {' | '.join(cells)} |")
    return lines


def _cells(scores: Mapping[str, Any]) -> list[str]:
    human = scores["human_normalized"]
    return [
        f"{scores['mean']:,.1f}",
        f"{scores['median']:,.1f}",
        "-" if human is None else f"{human:.3f}",
    ]


def _aggregate_table(data: Mapping[str, Any], kind: str) -> list[str]:
    if not data["games_in_aggregates"]:
        return [f"No aggregates of the {kind} checkpoints: no game with a human's score is in all methods."]
    names = list(aggregate.STATISTICS)
    lines = [
        f"Human-normalised, {kind} checkpoints, {len(data['games_in_aggregates'])} games:",
        "",
        f"| method | {' | '.join(names)} |",
        f"|---|{'--:|' * len(names)}",
    ]
    for name, method in data["methods"].items():
        cells = [_with_ends(*method["aggregate"][kind][statistic]) for statistic in names]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _improvement_table(data: Mapping[str, Any]) -> list[str]:
    lines = ["How probably a run of one is better than one of the other (last checkpoints):", ""]
    lines += ["| method | over | probability |", "|---|---|--:|"]
    for one in data["improvement"]:
        cell = _with_ends(one["probability"], one["low"], one["high"])
        lines.append(f"| {one['method']} | {one['over']} | {cell} |")
    return lines


def _with_ends(value: float, low: float | None, high: float | None) -> str:
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} ({low:.3f} to {high:.3f})"


def _of_human(game: str, score: float) -> float:
    value = human_normalized(game, score)
    assert value is not None
    return value
