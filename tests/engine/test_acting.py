"""Epsilon-greedy: greedy where it should be, random as often as it should be, and resumable."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("torch")

from fastdqn.algorithm.exploration import Actor

OBSERVATION = np.zeros((1_000, 4, 84, 84), np.uint8)[:, :, :1, :1]


def best_is_two(observation, act):
    return np.full(len(observation), 2)


def test_epsilon_zero_is_greedy():
    assert (Actor(best_is_two, 5, 1_000, seed=1).act(OBSERVATION, 0.0) == 2).all()


def test_epsilon_one_is_uniform_and_needs_no_network():
    """Seed 1, chi-square over 5 actions, 4 degrees: above 18.5 once in a thousand; biased actions fail."""

    def refuse(observation, act):
        raise AssertionError("the network was consulted")

    counts = np.bincount(Actor(refuse, 5, 1_000, seed=1).act(OBSERVATION, 1.0), minlength=5)
    assert ((counts - 200) ** 2 / 200).sum() < 18.5


def test_epsilon_is_per_row():
    """Seed 1: 300 of 1000 explore, 0.8 of them off the greedy action: 240, sd 13.5; per-batch coins fail."""
    off = (Actor(best_is_two, 5, 1_000, seed=1).act(OBSERVATION, 0.3) != 2).sum()
    assert abs(off - 240) < 4 * 13.5


def test_the_stream_goes_on_from_its_saved_state_across_blocks_of_draws():
    actor = Actor(best_is_two, 5, 7, seed=1)
    for _ in range(250):
        actor.act(OBSERVATION[:7], 0.5)
    state = json.loads(json.dumps(actor.random_state()))
    wanted = [actor.act(OBSERVATION[:7], 0.5) for _ in range(20)]
    other = Actor(best_is_two, 5, 7, seed=1)
    other.set_random_state(state)
    assert all(np.array_equal(other.act(OBSERVATION[:7], 0.5), action) for action in wanted)
    assert len({action.tobytes() for action in wanted}) > 10


def test_draws_do_not_depend_on_epsilon():
    """Fails when a schedule moves the random stream."""
    greedy, wild = (Actor(best_is_two, 5, 7, seed=3) for _ in range(2))
    for _ in range(300):
        greedy.act(OBSERVATION[:7], 0.0)
        wild.act(OBSERVATION[:7], 1.0)
    assert np.array_equal(greedy.act(OBSERVATION[:7], 0.7), wild.act(OBSERVATION[:7], 0.7))


def test_seeds_differ_and_the_caller_owns_the_actions():
    one, other = (Actor(best_is_two, 5, 1_000, seed=seed) for seed in (1, 2))
    action = one.act(OBSERVATION, 1.0)
    assert not np.array_equal(action, other.act(OBSERVATION, 1.0))
    again = Actor(best_is_two, 5, 1_000, seed=1)
    first = again.act(OBSERVATION, 1.0)
    first[:] = -1
    again.set_random_state({"acts": 0})
    assert np.array_equal(again.act(OBSERVATION, 1.0), action)
