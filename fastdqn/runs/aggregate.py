"""What many runs on many games come to, with intervals.

After Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice".

Scores are a sequence of arrays, one a game, whose last axis is the runs (seeds) of that game; axes before it are
resamples. Games may have different numbers of runs: where runs are pooled, each counts once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Scores = Sequence[Floats]
Statistic = Callable[[Scores], Floats]
"""From scores, each [..., runs of the game], to a number for each resample, [...]."""

RESAMPLES = 10_000
CONFIDENCE = 0.95


def iqm(scores: Scores) -> Floats:
    """Return the interquartile mean: of all runs of all games, those between the quarters that are cut off.

    Of n runs, n // 4 are cut off at either end, as SciPy's `trim_mean` does.
    """
    pooled = np.sort(np.concatenate(scores, axis=-1), axis=-1)
    cut = pooled.shape[-1] // 4
    return np.asarray(pooled[..., cut : pooled.shape[-1] - cut].mean(-1))


def mean(scores: Scores) -> Floats:
    """Return the mean over games of each game's mean."""
    return np.asarray(np.mean(_means(scores), axis=0))


def median(scores: Scores) -> Floats:
    """Return the median over games of each game's mean."""
    return np.asarray(np.median(_means(scores), axis=0))


def optimality_gap(scores: Scores, wanted: float = 1.0) -> Floats:
    """Return by how much runs miss `wanted`, on the mean of all; what lies above it counts as reaching it."""
    pooled = np.concatenate(scores, axis=-1)
    return np.asarray(wanted - np.minimum(pooled, wanted).mean(-1))


STATISTICS: dict[str, Statistic] = {
    "IQM": iqm,
    "median": median,
    "mean": mean,
    "optimality gap": optimality_gap,
}


def profile(scores: Scores, thresholds: Floats) -> Floats:
    """Return the performance profile: the share of runs whose score is above each threshold, [..., thresholds]."""
    pooled = np.concatenate(scores, axis=-1)
    return np.stack([(pooled > threshold).mean(-1) for threshold in thresholds], axis=-1)


def probability_of_improvement(ours: Scores, theirs: Scores) -> Floats:
    """Return how probably a run of ours beats one of theirs, on the mean over games; a tie is half a win.

    Args:
        ours: Scores on some games.
        theirs: Scores on the same games, in the same order.
    """
    games = []
    for one, other in zip(ours, theirs, strict=True):
        above = one[..., :, None] > other[..., None, :]
        equal = one[..., :, None] == other[..., None, :]
        games.append((above + 0.5 * equal).mean((-2, -1)))
    return np.asarray(np.mean(games, axis=0))


def resample(scores: Scores, rng: np.random.Generator, resamples: int = RESAMPLES) -> list[Floats]:
    """Draw runs with replacement within each game, a stratified bootstrap: [resamples, runs] each."""
    return [game[rng.integers(0, len(game), (resamples, len(game)))] for game in scores]


def interval(
    statistic: Callable[..., Floats],
    *scores: Scores,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> tuple[Any, Any]:
    """Return the ends of a statistic's interval, by percentiles of a stratified bootstrap.

    Args:
        statistic: Of as many scores as are given, such as `iqm` or `probability_of_improvement`.
        scores: [runs] for each game.
        rng: Draws the resamples.
        resamples: How many.
        confidence: Share of them between the ends.
    """
    drawn = statistic(*(resample(some, rng, resamples) for some in scores))
    outside = (1 - confidence) / 2
    low, high = np.quantile(drawn, [outside, 1 - outside], axis=0)
    return low, high


def _means(scores: Scores) -> Floats:
    return np.stack([game.mean(-1) for game in scores])
