"""The statistics of reports, by cases worked by hand; benchmarks/rliable_scores.py compares them with rliable."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest

from fastdqn.runs.aggregate import (
    interval,
    iqm,
    mean,
    median,
    optimality_gap,
    probability_of_improvement,
    profile,
    resample,
)


def games(*values: list[float]) -> list[np.ndarray]:
    return [np.array(one, float) for one in values]


def test_the_interquartile_mean_by_hand():
    # Sorted 0 1 2 3 4 5 6 100: two of eight go at either end, and 2 3 4 5 are left.
    assert iqm(games([3, 100, 0, 5], [1, 6, 2, 4])) == 3.5
    # Six runs: one goes at either end.
    assert iqm(games([0, 1, 2], [3, 4, 50])) == 2.5
    # Three runs: none goes.
    assert iqm(games([0, 1], [5])) == 2.0


def test_mean_median_and_gap_by_hand():
    scores = games([0.0, 1.0], [2.0, 4.0], [0.1, 0.3])  # means 0.5, 3, 0.2
    assert mean(scores) == pytest.approx(3.7 / 3)
    assert median(scores) == 0.5
    # Below 1 are 0, 0.1 and 0.3; the three others count as 1: 1 - 3.4 / 6.
    assert optimality_gap(scores) == pytest.approx(1 - 3.4 / 6)
    assert median(games([1.0, 3.0], [4.0])) == 3.0


def test_a_profile_is_the_share_above_each_threshold():
    shares = profile(games([0.0, 0.5], [0.5, 2.0]), np.array([-1.0, 0.0, 0.5, 1.9, 2.0]))
    assert shares.tolist() == [1.0, 0.75, 0.25, 0.25, 0.0]


def test_the_probability_of_improvement_by_hand():
    # First game: of 4 pairs (1,0) (1,2) (3,0) (3,2), 3 are won. Second: one pair, a tie.
    assert probability_of_improvement(games([1, 3], [5]), games([0, 2], [5])) == (0.75 + 0.5) / 2
    assert probability_of_improvement(games([1, 1]), games([2])) == 0.0
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        probability_of_improvement(games([1], [1]), games([1]))


def test_resamples_draw_within_a_game_with_replacement():
    drawn = resample(games([1, 2, 3], [10, 20]), np.random.default_rng(0), 500)
    assert [one.shape for one in drawn] == [(500, 3), (500, 2)]
    assert [sorted(set(one.ravel())) for one in drawn] == [[1, 2, 3], [10, 20]]
    assert any(len(set(row)) < 3 for row in drawn[0].tolist())


def test_statistics_of_resamples_are_those_of_each():
    rng = np.random.default_rng(1)
    scores = [rng.normal(size=5), rng.normal(size=3), rng.normal(size=4)]
    others = [rng.normal(size=2) for _ in scores]
    drawn, drawn_others = resample(scores, rng, 20), resample(others, rng, 20)
    for statistic in (iqm, mean, median, optimality_gap):
        each = [float(statistic([game[i] for game in drawn])) for i in range(20)]
        assert np.array_equal(statistic(drawn), each)
    each = [
        float(probability_of_improvement([g[i] for g in drawn], [g[i] for g in drawn_others]))
        for i in range(20)
    ]
    assert np.array_equal(probability_of_improvement(drawn, drawn_others), each)
    assert profile(drawn, np.zeros(3)).shape == (20, 3)


def test_intervals_cover_what_is_true_as_often_as_they_say():
    """4 games of 25 normal scores, 300 times with seed 5: a 90 % interval of the mean covers it 90 % of times.

    The bootstrap is a little narrow at 25 runs, so 83 to 94 % pass; an interval of one end, or of the runs of all
    games pooled where games differ by 10, would cover all or half.
    """
    rng, covered = np.random.default_rng(5), 0
    offsets = 10.0 * np.arange(4)[:, None]
    for _ in range(300):
        scores = list(rng.normal(size=(4, 25)) + offsets)
        low, high = interval(mean, scores, rng=rng, resamples=400, confidence=0.9)
        covered += low <= offsets.mean() <= high
        width = high - low
    assert 0.83 < covered / 300 < 0.94
    assert width == pytest.approx(2 * NormalDist().inv_cdf(0.95) / 10, rel=0.3)


def test_runs_that_agree_have_an_interval_of_no_width():
    low, high = interval(iqm, games([2, 2], [2, 2]), rng=np.random.default_rng(0), resamples=50)
    assert low == high == 2.0
