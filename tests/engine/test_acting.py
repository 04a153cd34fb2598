"""Epsilon-greedy: greedy where it should be, random as often as it should be, and resumable."""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fastdqn import _core
from fastdqn.algorithm import winograd
from fastdqn.algorithm.direct import direct_values
from fastdqn.algorithm.exploration import Actor
from fastdqn.algorithm.networks import QNetwork
from fastdqn.config import Config, NetworkConfig, PipelineConfig
from fastdqn.engine.acting import ActingNetwork
from fastdqn.engine.learner import Learner

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


needs_kernels = pytest.mark.skipif(not _core.has_winograd_torso(), reason="this CPU has no AVX2")


def frames(rows: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (rows, 4, 84, 84), dtype=torch.uint8, generator=generator)


@needs_kernels
@pytest.mark.parametrize("width", [1.0, 0.5])
@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("rows", [1, 9])
def test_direct_values_are_the_networks(width, dueling, centered, rows):
    config = NetworkConfig(width=width, dueling=dueling, centered=centered)
    network = QNetwork(config, 6, generator=torch.Generator().manual_seed(1)).requires_grad_(False)
    obs = frames(rows, 0)
    values = direct_values(network, dict(network.named_parameters()), obs)
    for seed in range(2):
        obs.copy_(frames(rows, seed))
        with torch.no_grad():
            network.torso.conv2.weight.mul_(1 + seed)  # read anew each time
        want = network.q_values(obs)
        assert want.std() > 1e-3
        torch.testing.assert_close(values(), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "other",
    [
        {"width": 0.25},
        {"width": 0.505},  # Nature's filters, and 259 hidden units
        {"width": 0.505, "dueling": True},
        {"head": "categorical"},
        {"noise": "normal"},
        {"normalization": "layer"},
        {"torso": "impala", "width": 0.25},
    ],
)
def test_other_networks_have_no_direct_values(other):
    network = QNetwork(NetworkConfig(**other), 6).requires_grad_(False)
    assert direct_values(network, dict(network.named_parameters()), frames(1, 0)) is None


def test_bfloat16_and_other_processors_have_no_direct_values(monkeypatch):
    config, obs = NetworkConfig(), frames(1, 0)
    half = QNetwork(config, 6, compute_dtype=torch.bfloat16).requires_grad_(False)
    assert direct_values(half, dict(half.named_parameters()), obs) is None
    monkeypatch.setattr(winograd, "_HERE", False)
    whole = QNetwork(config, 6).requires_grad_(False)
    assert direct_values(whole, dict(whole.named_parameters()), obs) is None


@needs_kernels
@pytest.mark.parametrize("lag", [0, 2])
def test_acting_is_the_same_with_the_extension_and_without(monkeypatch, lag):
    config = Config(network=NetworkConfig(width=0.5, dueling=True), pipeline=PipelineConfig(precision="fp32"))
    chosen = []
    for here in (True, False):
        monkeypatch.setattr(winograd, "_HERE", here)
        learner, count = Learner(config, 6, seed=3), 0
        acting = ActingNetwork(learner, 8, lambda: count, lag_updates=lag)  # noqa: B023
        acting.prepare()
        actions = []
        for count in range(12):
            learner.weights.parameters.add_(
                torch.randn(learner.num_parameters, generator=torch.Generator().manual_seed(count)),
                alpha=0.02,
            )
            actions.append(acting(frames(8, 50 + count).numpy(), count).tolist())
        chosen.append(actions)
    assert chosen[0] == chosen[1]
    assert len({tuple(one) for one in chosen[0]}) > 3
