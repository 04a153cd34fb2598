"""Values that follow the frames played."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest

from fastdqn.algorithm.schedules import Line, Schedule
from fastdqn.config import Config, ExplorationConfig, ReplayConfig
from fastdqn.presets import PRESETS


def test_a_line_goes_from_end_to_end_and_stays():
    line = Line(1.0, 0.1, 100, 200)
    assert [line(frame) for frame in (0, 100, 150, 200, 10**9)] == [1.0, 1.0, pytest.approx(0.55), 0.1, 0.1]


def schedule(**optimizer) -> Schedule:
    config = Config(
        total_frames=300_000,
        exploration=ExplorationConfig(max=1.0, min=0.01, decay_frames=200_000),
        replay=ReplayConfig(beta=0.4),
    )
    return Schedule.of(
        replace(config, optimizer=replace(config.optimizer, **optimizer)), warmup_frames=20_000
    )


def test_epsilon_waits_for_warmup_and_then_falls():
    """Fails when a schedule silently becomes a constant."""
    values = [schedule().epsilon(frame) for frame in range(0, 230_001, 10_000)]
    assert values[:3] == [1.0, 1.0, 1.0]
    assert values[22:] == [0.01, 0.01]
    assert all(late < early for early, late in itertools.pairwise(values[2:23]))


def test_epsilon_may_fall_exponentially_and_end():
    """BTR's: .01 + .99 exp(-t / 2M steps), .37 after 8 million frames; nothing from 100 million frames on."""
    epsilon = Schedule.of(PRESETS["btr"].config, warmup_frames=800_000).epsilon
    assert epsilon(0) == 1.0
    assert epsilon(8_000_000) == pytest.approx(0.01 + 0.99 / math.e)
    assert epsilon(99_999_999) == pytest.approx(0.01, abs=1e-5)
    assert epsilon(100_000_000) == 0.0
    slow = 1.0
    for _ in range(1000):  # its code's own words: a 2,000,000th of the distance each step
        slow -= (slow - 0.01) / 2_000_000
    assert epsilon(4_000) == pytest.approx(slow, abs=1e-9)


def test_beta_may_stay_and_noise_may_explore_alone():
    config = PRESETS["btr"].config
    assert {Schedule.of(config, 0).beta(frame) for frame in (0, 10**6, 10**9)} == {0.2}
    assert {Schedule.of(PRESETS["rainbow"].config, 0).epsilon(frame) for frame in (0, 10**9)} == {0.0}


def test_beta_waits_for_warmup_and_reaches_one_at_the_end():
    beta = schedule().beta
    assert [beta(frame) for frame in (0, 20_000, 160_000, 300_000)] == [0.4, 0.4, pytest.approx(0.7), 1.0]


def test_the_learning_rate_falls_from_frame_0_or_is_one_number():
    falling = schedule(learning_rate=1e-3, learning_rate_final=0.0).learning_rate
    assert [falling(frame) for frame in (0, 150_000, 300_000)] == [1e-3, pytest.approx(5e-4), 0.0]
    sooner = schedule(
        learning_rate=1e-3, learning_rate_final=1e-4, learning_rate_fraction=1 / 3
    ).learning_rate
    assert [sooner(frame) for frame in (0, 50_000, 100_000, 300_000)] == [
        1e-3,
        pytest.approx(5.5e-4),
        1e-4,
        1e-4,
    ]
    constant = schedule(learning_rate=1e-3, learning_rate_final=None).learning_rate
    assert {constant(frame) for frame in range(0, 400_000, 777)} == {1e-3}
