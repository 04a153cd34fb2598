"""Passes in, batches out; what is put off is done when it has to be."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("envpool")

from fastdqn.engine.device import CpuBackend
from fastdqn.engine.feed import DeviceFeed, HostFeed, Queueing
from fastdqn.engine.learner import LaunchResults
from fastdqn.games.envs import Outcome
from fastdqn.replay import ReplayBuffer
from fastdqn.runs.experience import Experience, Pass, ReplayedExperience

ENVS, BATCH = 2, 4


class Games:
    """Random stacks that continue each other, with an end now and then."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.stack = self.first()

    def first(self) -> np.ndarray:
        self.stack = np.repeat(self.random.integers(256, size=(ENVS, 1, 6, 5), dtype=np.uint8), 4, axis=1)
        self.done = np.zeros(ENVS, np.bool_)
        return self.stack

    def step(self) -> Pass:
        frame = self.random.integers(256, size=(ENVS, 1, 6, 5), dtype=np.uint8)
        self.stack = np.concatenate([self.stack[:, 1:], frame], axis=1)
        self.stack[self.done] = frame[self.done]
        self.done = (self.random.random(ENVS) < 0.1) & ~self.done
        reward, no = self.random.random(ENVS).astype(np.float32), np.zeros(ENVS, np.bool_)
        outcome = Outcome(self.stack, reward, self.done, no, ENVS, [], [], [])
        return Pass(self.random.integers(3, size=ENVS), outcome)


def replayed(kind=HostFeed, delay: int = 0) -> tuple[ReplayBuffer, ReplayedExperience]:
    replay = ReplayBuffer(60, ENVS, frame_shape=(6, 5), alpha=0.5, seed=3)
    return replay, ReplayedExperience(
        replay, kind(replay, BATCH, CpuBackend(), Queueing(priority_lag_updates=delay))
    )


def batch(experience: Experience) -> dict[str, np.ndarray]:
    """The batch of the next launch, as the learner sees it."""
    experience.stage(0.4)
    return {
        name: value.clone().numpy()
        for name, value in vars(experience.inputs.batch(*experience.inputs.tensors[0])).items()
    }


def launched(value: float) -> LaunchResults:
    return LaunchResults({}, torch.full((1, BATCH), value))


@pytest.mark.parametrize("kind", [HostFeed, DeviceFeed])
def test_passes_are_what_the_replay_would_have_been_given(kind):
    """Fails when a pass is stored twice, not at all, or in another order than games were begun."""
    _, experience = replayed(kind)
    wanted = ReplayBuffer(60, ENVS, frame_shape=(6, 5), alpha=0.5, seed=3)
    games = Games(1)
    for number in range(50):
        if number in (0, 23):  # where all games are made anew
            experience.begin(games.first())
            wanted.begin(games.stack)
        last = games.step()
        experience.add(last)
        if number % 3:
            experience.store()
        if number % 5 == 0:
            experience.store()
        outcome = last.outcome
        wanted.add(last.action, outcome.observation, outcome.reward, outcome.terminated, outcome.truncated)
    experience.store()
    for _ in range(5):
        got, want = batch(experience), wanted.sample(BATCH, beta=0.4)
        for name, value in got.items():
            assert np.array_equal(value, getattr(want, name)), name


@pytest.mark.parametrize("kind", [HostFeed, DeviceFeed])
def test_a_flushed_experience_goes_on_from_its_file(kind, tmp_path):
    """Fails when the feed's copy of the frames, or anything of the replay, is not read again."""
    games = Games(2)
    (_, whole), (_, parted) = replayed(kind, delay=2), replayed(kind, delay=2)
    for one in (whole, parted):
        one.begin(games.stack)
    for _ in range(20):
        last = games.step()
        for one in (whole, parted):
            one.add(last)
            one.store()
    for value in (1.0, 9.0, 30.0):
        for one in (whole, parted):
            batch(one)
            one.report(launched(value))
    last = games.step()
    for one in (whole, parted):
        one.add(last)
        one.flush()
    parted.save(tmp_path / "replay")
    _, again = replayed(kind, delay=2)
    again.load(tmp_path / "replay")
    for _ in range(10):
        got, want = batch(again), batch(whole)
        assert all(np.array_equal(got[name], want[name]) for name in want)
    assert again.stats() == whole.stats()


def test_flushing_applies_priorities_and_stores():
    replay, experience = replayed(delay=2)
    games = Games(3)
    experience.begin(games.stack)
    for _ in range(10):
        experience.add(games.step())
    batch(experience)
    experience.report(launched(1e4))
    experience.add(games.step())
    before = replay.stats()
    experience.flush()
    assert replay.stats().sampleable == before.sampleable + ENVS
    drawn = np.concatenate([batch(experience)["weight"] for _ in range(20)])
    assert drawn.min() < 0.5  # the rows with the large priority weigh less than those without


def test_it_says_what_it_holds():
    for kind, device_bytes in ((HostFeed, 0), (DeviceFeed, 60 * 6 * 5)):
        replay, experience = replayed(kind)
        games = Games(4)
        experience.begin(games.stack)
        for _ in range(8):
            experience.add(games.step())
        held = experience.stats()
        assert held.transitions == replay.stats().sampleable > 0
        assert held.fill == replay.stats().frames / 60
        assert held.device_bytes == device_bytes
        assert held.allocated_bytes == replay.stats().allocated_bytes
