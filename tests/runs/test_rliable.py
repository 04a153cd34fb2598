"""The statistics of reports beside rliable's, which is unkept and wants an old `arch`: an environment of its own.

python -m venv build/rliable
build/rliable/bin/python -m pip install 'arch<6' 'numpy<2' 'scipy<1.14' 'pandas<2.3' absl-py seaborn pytest
build/rliable/bin/python -m pip install --no-deps rliable==1.2.0
build/rliable/bin/python -m pytest -m slow -p no:cacheprovider -c /dev/null tests/runs/test_rliable.py
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.slow
pytest.importorskip("rliable")

import numpy as np
from rliable import library, metrics

SHAPES = [(3, 5), (5, 26), (10, 57), (2, 2), (7, 1)]
"""Runs and games."""


def load() -> ModuleType:
    """The module by its file: the rest of the package is not installed there."""
    path = Path(__file__).parents[2] / "fastdqn/runs/aggregate.py"
    spec = importlib.util.spec_from_file_location("aggregate", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


aggregate = load()


def scores(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).lognormal(-0.5, 1.0, shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_statistics_are_rliables(shape):
    theirs = scores(shape)
    ours = list(theirs.T)
    assert abs(aggregate.iqm(ours) - metrics.aggregate_iqm(theirs)) < 1e-12
    assert abs(aggregate.mean(ours) - metrics.aggregate_mean(theirs)) < 1e-12
    assert abs(aggregate.median(ours) - metrics.aggregate_median(theirs)) < 1e-12
    assert abs(aggregate.optimality_gap(ours) - metrics.aggregate_optimality_gap(theirs)) < 1e-12


@pytest.mark.parametrize("shape", SHAPES)
def test_the_probability_of_improvement_is_rliables(shape):
    one, other = scores(shape, 1), np.round(scores(shape, 2), 1)
    one[0] = other[0]  # ties
    wanted = metrics.probability_of_improvement(one, other)
    assert abs(aggregate.probability_of_improvement(list(one.T), list(other.T)) - wanted) < 1e-12


def test_profiles_are_rliables():
    theirs, thresholds = scores((5, 26)), np.linspace(0, 3, 31)
    wanted, _ = library.create_performance_profile({"a": theirs}, thresholds, reps=10)
    assert np.abs(aggregate.profile(list(theirs.T), thresholds) - wanted["a"]).max() < 1e-12


@pytest.mark.parametrize("shape", [(3, 5), (5, 26), (10, 57)])
def test_the_ends_of_intervals_are_rliables_within_the_noise_of_resampling(shape):
    """20,000 resamples each, seed 3: an end differs by less than a twentieth of the interval's width."""
    theirs = scores(shape)
    statistics = (metrics.aggregate_iqm, metrics.aggregate_median, metrics.aggregate_optimality_gap)
    ours = (aggregate.iqm, aggregate.median, aggregate.optimality_gap)
    _, ends = library.get_interval_estimates(
        {"a": theirs},
        lambda x: np.array([statistic(x) for statistic in statistics]),
        reps=20_000,
        random_state=np.random.RandomState(3),
    )
    for number, statistic in enumerate(ours):
        low, high = aggregate.interval(
            statistic, list(theirs.T), rng=np.random.default_rng(3), resamples=20_000
        )
        wanted_low, wanted_high = ends["a"][:, number]
        width = wanted_high - wanted_low
        assert abs(low - wanted_low) < 0.05 * width
        assert abs(high - wanted_high) < 0.05 * width
