"""Batches to the learner and priorities back."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fastdqn.algorithm.heads import PRIORITY_FLOOR
from fastdqn.algorithm.update import Transitions
from fastdqn.engine.device import CpuBackend
from fastdqn.engine.feed import HostFeed
from fastdqn.engine.learner import LaunchResults
from fastdqn.replay import ReplayBuffer


def filled(alpha: float) -> ReplayBuffer:
    """A buffer of forty transitions; transition t of env e has reward 100 * e + t."""
    replay = ReplayBuffer(200, 2, frame_shape=(3, 5), alpha=alpha, seed=4)
    rng = np.random.default_rng(1)
    stack = np.repeat(rng.integers(256, size=(2, 1, 3, 5), dtype=np.uint8), 4, axis=1)
    replay.begin(stack)
    for t in range(20):
        frame = rng.integers(256, size=(2, 1, 3, 5), dtype=np.uint8)
        stack = np.concatenate([stack[:, 1:], frame], axis=1)
        reward = np.array([t, 100 + t], np.float32)
        no = np.zeros(2, np.bool_)
        replay.add(np.array([t % 3, 2]), stack, reward, no, no)
    return replay


def result(priority) -> LaunchResults:
    return LaunchResults({}, torch.as_tensor(priority, dtype=torch.float32).view(1, -1))


def host_feed(replay: ReplayBuffer, size: int) -> HostFeed:
    return HostFeed(replay, size, CpuBackend())


def sampled(feed: HostFeed, beta: float) -> Transitions:
    """The next batch, as the learner sees it."""
    feed.stage(beta)
    return feed.inputs.batch(*feed.inputs.tensors[0])


def test_a_batch_is_what_the_replay_samples():
    batch, wanted = sampled(host_feed(filled(0.0), 8), 1.0), filled(0.0).sample(8)
    for name in Transitions.__annotations__:
        assert np.array_equal(getattr(batch, name).numpy(), getattr(wanted, name)), name


def test_the_arrays_are_used_again():
    feed = host_feed(filled(0.0), 8)
    first = sampled(feed, 1.0)
    kept, address = first.reward.clone(), first.obs.data_ptr()
    second = sampled(feed, 1.0)
    assert second.obs.data_ptr() == address
    assert not torch.equal(second.reward, kept)


def test_priorities_go_back_to_the_rows_they_came_from():
    """Seed 4; one reward gets a priority of 50, all others hardly any: it must then be drawn nearly always."""
    feed = host_feed(filled(1.0), 16)
    for _ in range(60):
        reward = sampled(feed, 0.4).reward
        feed.report(result(torch.where(reward == 107.0, 50.0, PRIORITY_FLOOR)))
    drawn = torch.cat([sampled(feed, 0.4).reward.clone() for _ in range(20)])
    assert (drawn == 107.0).float().mean() > 0.99


def test_the_least_priority_leaves_a_row_reachable():
    """Seed 4, forty equal priorities: 2,000 draws leave out a row once in 10^20; a priority of 0 fails."""
    feed = host_feed(filled(1.0), 50)
    for _ in range(40):
        sampled(feed, 0.4)
        feed.report(result(np.full(50, PRIORITY_FLOOR)))
    assert PRIORITY_FLOOR > 0
    drawn = torch.cat([sampled(feed, 0.4).reward.clone() for _ in range(40)])
    assert len(drawn.unique()) == 40


def test_beta_reaches_the_weights():
    def spread(beta: float) -> float:
        feed = host_feed(filled(1.0), 50)
        for _ in range(20):
            feed.report(result(sampled(feed, 0.4).reward + 1.0))
        weight = sampled(feed, beta).weight
        assert weight.max() == 1.0
        return float(weight.min())

    assert spread(0.0) == 1.0
    assert spread(1.0) < spread(0.5) < 1.0


def test_uniform_sampling_ignores_what_is_reported():
    told, untold = host_feed(filled(0.0), 8), host_feed(filled(0.0), 8)
    for _ in range(5):
        sampled(told, 1.0)
        sampled(untold, 1.0)
        told.report(result(np.full(8, 1e6)))
    assert torch.equal(sampled(told, 1.0).reward, sampled(untold, 1.0).reward)
