"""The replay buffer with real vector environments and another library's DQN, beside plain logs of whole stacks."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import runpy
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastdqn.replay import ReplayBuffer
from tests.reference.replay_oracle import Comparison
from tests.replay.conftest import raw_is_long

NUM_ENVS, RING = 2, 50
MODES = {"next_step": "NextStep", "same_step": "SameStep", "disabled": "Disabled"}


def make_breakout(padding: str) -> Any:
    """Breakout as Gymnasium's own wrappers make it, cut after 20 steps."""
    gymnasium = pytest.importorskip("gymnasium")
    gymnasium.register_envs(pytest.importorskip("ale_py"))
    pytest.importorskip("cv2")
    env = gymnasium.make("ALE/Breakout-v5", frameskip=1, repeat_action_probability=0.0)
    env = gymnasium.wrappers.AtariPreprocessing(env, terminal_on_life_loss=True, noop_max=5)
    env = gymnasium.wrappers.FrameStackObservation(env, 4, padding_type=padding)
    return gymnasium.wrappers.TimeLimit(env, 20)


def make_vector_env(kind: str, autoreset: str, padding: str) -> Any:
    """Gymnasium's Sync or Async, or ALE's own."""
    vector = pytest.importorskip("gymnasium").vector
    mode = vector.AutoresetMode(MODES[autoreset])
    if kind == "ale":
        ale = pytest.importorskip("ale_py")
        return ale.AtariVectorEnv(
            "breakout", NUM_ENVS, autoreset_mode=mode, episodic_life=True, max_num_frames_per_episode=60
        )
    make = {"sync": vector.SyncVectorEnv, "async": vector.AsyncVectorEnv}[kind]
    return make([partial(make_breakout, padding)] * NUM_ENVS, autoreset_mode=mode)


def play(envs: Any, comparison: Comparison, autoreset: str, steps: int) -> tuple[int, set[np.dtype]]:
    """Random play into buffer and log; returns how many rows were cut off, and the rewards' types."""
    rng = np.random.default_rng(3)
    observation, _ = envs.reset(seed=3)
    comparison.begin(observation)
    cuts, types = 0, set()
    for step in range(steps):
        action = rng.integers(0, envs.single_action_space.n, NUM_ENVS)
        observation, reward, terminated, truncated, info = envs.step(action)
        comparison.add(
            action, observation, reward, terminated, truncated, final_observation=info.get("final_obs")
        )
        types.add(reward.dtype)
        cuts += int((truncated & ~terminated).sum())
        done = terminated | truncated
        if autoreset == "disabled" and done.any():
            observation, _ = envs.reset(options={"reset_mask": done})
            comparison.begin(observation[done], np.flatnonzero(done))
        if step in (10, RING - 2, RING + 2, steps - 1):
            comparison.check()
    return cuts, types


@pytest.mark.filterwarnings("error:.*stored whole:RuntimeWarning")
@pytest.mark.parametrize(
    ("kind", "autoreset", "padding"),
    [
        ("sync", "next_step", "zero"),
        ("sync", "same_step", "reset"),
        ("sync", "disabled", "zero"),
        ("async", "next_step", "reset"),
        ("async", "same_step", "zero"),
        ("async", "disabled", "zero"),
        ("ale", "next_step", "zero"),
        ("ale", "same_step", "zero"),
    ],
)
def test_real_vector_envs_match_a_plain_log(kind: str, autoreset: str, padding: str) -> None:
    """Every sampled byte, reward and discount is what the environment gave, in every mode that it has.

    Faults caught: `final_obs` as an object array refused or misread, ALE's int32 rewards refused, zeros before
    the first frame blamed on a wrapper, an episode's end in the wrong row.
    """
    envs = make_vector_env(kind, autoreset, padding)
    try:
        comparison = Comparison(
            ReplayBuffer, RING * NUM_ENVS, NUM_ENVS, n_step=3, autoreset=autoreset, seed=1
        )
        cuts, types = play(envs, comparison, autoreset, steps=2 * RING)
    finally:
        envs.close()
    assert cuts >= 3, "the stream lost its point"
    assert types == {np.dtype(np.int32 if kind == "ale" else np.float64)}
    assert comparison.buffer.stats().whole_stacks == 0
    assert min(comparison.oracle.frames_written) > RING


# What Gymnasium's info looks like, by hand ---------------------------------------------------------------------


def same_step(**options: Any) -> tuple[ReplayBuffer, dict[str, Any]]:
    replay = ReplayBuffer(40, 2, frame_shape=(2,), stack=2, autoreset="same_step", **options)
    replay.begin(np.zeros((2, 2, 2), np.uint8))
    return replay, {
        "action": np.array([4, 5]),
        "observation": np.full((2, 2, 2), 9, np.uint8),
        "reward": np.zeros(2),
        "terminated": np.array([False, True]),
        "truncated": np.zeros(2, bool),
    }


@pytest.mark.parametrize("kind", ["array", "list"])
def test_final_observations_may_be_none_where_nothing_ended(kind: str) -> None:
    replay, step = same_step()
    final: Any = [None, np.array([[0, 0], [3, 3]], np.uint8)]
    if kind == "array":
        given = np.full(2, None, object)
        given[1] = final[1]
        final = given
    replay.add(**step, final_observation=final)
    batch = replay.sample(50)
    assert (batch.next_obs[batch.row == 1] == final[1]).all()


@pytest.mark.parametrize(
    ("final", "error", "message"),
    [
        ([None, None], ValueError, r"row 1 .*None"),
        ([None], ValueError, r"2 entries"),
        ([None, np.zeros((2, 3), np.uint8)], ValueError, r"row 1 .*\(2, 2\)"),
        ([None, np.zeros((2, 2), np.float32)], TypeError, r"row 1 .*uint8"),
        ([None, "a"], TypeError, r"row 1"),
        ({"obs": 1}, TypeError, r"dict"),
    ],
)
def test_a_wrong_final_observation_is_refused_by_row(
    final: Any, error: type[Exception], message: str
) -> None:
    replay, step = same_step()
    before = replay.stats()
    with pytest.raises(error, match=rf"^final_observation.*{message}"):
        replay.add(**step, final_observation=final)
    assert replay.stats() == before


@pytest.mark.parametrize(
    "dtype", ["int8", "uint8", "int16", "int32", "int64", "uint32", "float32", "float64"]
)
def test_rewards_of_every_number_type(dtype: str) -> None:
    replay = ReplayBuffer(40, 2, frame_shape=(2,), stack=2)
    replay.begin(np.zeros((2, 2, 2), np.uint8))
    flags, zeros = np.zeros(2, bool), np.zeros((2, 2, 2), np.uint8)
    replay.add(np.zeros(2, int), zeros, np.array([7, 100], dtype), flags, flags)
    batch = replay.sample(50)
    np.testing.assert_array_equal(batch.reward, np.float32([7, 100])[batch.row])


def test_floats_go_through_a_view_of_their_bytes() -> None:
    """docs/embedding.md: with stack=1 and the bytes of each float as a frame, every bit comes back."""
    states = np.random.default_rng(0).standard_normal((12, 2, 4)).astype(np.float32)
    replay = ReplayBuffer(40, 2, frame_shape=(16,), stack=1)
    replay.begin(states[0][:, None].view(np.uint8))
    for state in states[1:]:
        flags = np.zeros(2, bool)
        replay.add(np.zeros(2, int), state[:, None].view(np.uint8), np.zeros(2), flags, flags)
    batch = replay.sample(100)
    step, env = batch.row // 2, batch.row % 2
    np.testing.assert_array_equal(batch.obs.view(np.float32)[:, 0], states[step, env])
    np.testing.assert_array_equal(batch.next_obs.view(np.float32)[:, 0], states[step + 1, env])


# Copies --------------------------------------------------------------------------------------------------------


def filled(alpha: float = 0.6) -> ReplayBuffer:
    rng = np.random.default_rng(2)
    replay = ReplayBuffer(60, 2, frame_shape=(3,), stack=2, n_step=2, alpha=alpha, seed=4)
    replay.begin(np.zeros((2, 2, 3), np.uint8))
    stack = np.zeros((2, 2, 3), np.uint8)
    for _ in range(70):
        stack = np.concatenate([stack[:, 1:], rng.integers(0, 256, (2, 1, 3), dtype=np.uint8)], axis=1)
        replay.add(rng.integers(0, 4, 2), stack, rng.random(2), np.zeros(2, bool), np.zeros(2, bool))
    replay.update_priorities(replay.sample(20).row, rng.random(20) + 0.1)
    return replay


def rows_of(replay: ReplayBuffer) -> list[Any]:
    batch = replay.sample(30, beta=0.5)
    return [batch.obs, batch.next_obs, batch.action, batch.reward, batch.discount, batch.weight, batch.row]


def assert_same(one: list[Any], other: list[Any]) -> None:
    for first, second in zip(one, other, strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, copy.copy, lambda replay: pickle.loads(pickle.dumps(replay))]
)
def test_a_copy_is_whole_and_independent(copied: Any) -> None:
    """Fault: a copy that shares frames with the original, or goes on with other draws."""
    replay, twin = filled(), filled()
    other = copied(replay)
    assert other.stats() == replay.stats()
    assert other.invariant_violation() == ""
    assert_same(rows_of(other), rows_of(twin))
    other.begin(np.full((2, 2, 3), 99, np.uint8))
    assert_same(rows_of(replay), rows_of(filled()))


def test_a_spawned_process_gets_and_gives_a_buffer() -> None:
    """Fault: a pickle that only its own process can read."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert_same(pool.apply(rows_of, (filled(),)), rows_of(filled()))
        assert_same(rows_of(pool.apply(filled)), rows_of(filled()))


@pytest.mark.long
def test_the_gymnasium_example_learns_to_balance() -> None:
    """A pole that is left to chance falls after 22 steps."""
    for name in ("torch", "gymnasium"):
        pytest.importorskip(name)
    program = "import dqn_gymnasium; print(dqn_gymnasium.train(steps=1_500))"
    folder = Path(__file__).parents[2] / "examples"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) > 40


# Stable-Baselines3 ---------------------------------------------------------------------------------------------


@pytest.mark.long
def test_the_example_makes_its_games_and_learns() -> None:
    """In a process of its own: another test's import may have registered the games already."""
    for name in ("stable_baselines3", "ale_py", "cv2"):
        pytest.importorskip(name)
    program = (
        "import sb3_buffer; m = sb3_buffer.make_model(2, 500); m.learn(112); print(m.replay_buffer.size())"
    )
    folder = Path(__file__).parents[2] / "examples"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) >= 100


@raw_is_long
def test_sb3_learns_from_what_its_own_buffer_holds() -> None:
    """Its DQN on Breakout, cut after 15 steps: every row that the example stores is one that SB3's buffer holds.

    Two calls of learn: the second resets the environments in the middle of their episodes.
    """
    pytest.importorskip("stable_baselines3")
    pytest.importorskip("cv2")
    gymnasium = pytest.importorskip("gymnasium")
    gymnasium.register_envs(pytest.importorskip("ale_py"))
    path = Path(__file__).parents[2] / "examples" / "sb3_buffer.py"
    frame_replay_buffer = runpy.run_path(str(path))["FrameReplayBuffer"]
    from stable_baselines3 import DQN
    from stable_baselines3.common import atari_wrappers, buffers, env_util, vec_env

    class Both(frame_replay_buffer):  # type: ignore[misc, valid-type]
        """The example's buffer beside SB3's own, which stores whole stacks."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.plain = buffers.ReplayBuffer(*args, n_envs=self.n_envs)

        def add(self, *args: Any) -> None:
            super().add(*args)
            self.plain.add(*args)

    def make() -> Any:
        env = gymnasium.make("BreakoutNoFrameskip-v4", max_episode_steps=60)
        return atari_wrappers.AtariWrapper(env, noop_max=5)

    envs = vec_env.VecFrameStack(env_util.make_vec_env(make, 2, seed=1), 4)
    model = DQN(
        "CnnPolicy",
        envs,
        buffer_size=300,
        learning_starts=100,
        seed=1,
        batch_size=8,
        replay_buffer_class=Both,
        policy_kwargs={"features_extractor_kwargs": {"features_dim": 8}},
    )
    model.learn(120)
    model.learn(64)
    buffer = model.replay_buffer
    plain, replay = buffer.plain, buffer.replay
    batch = replay.sample(2000)
    assert len(set(batch.row.tolist())) == len(replay) == 2 * plain.pos
    step, env = batch.row // 2, batch.row % 2
    np.testing.assert_array_equal(batch.obs, plain.observations[step, env])
    np.testing.assert_array_equal(batch.next_obs, plain.next_observations[step, env])
    np.testing.assert_array_equal(batch.action, plain.actions[step, env, 0])
    np.testing.assert_array_equal(batch.reward, plain.rewards[step, env])
    ended = plain.dones * (1 - plain.timeouts)
    np.testing.assert_array_equal(batch.discount, np.float32(0.99) * (1 - ended[step, env]))
    assert plain.timeouts.sum() >= 3
    assert replay.stats().whole_stacks == 0
    samples = buffer.sample(5)
    assert samples.observations.shape == (5, 4, 84, 84)
    assert (
        samples.actions.shape
        == samples.rewards.shape
        == samples.dones.shape
        == samples.discounts.shape
        == (5, 1)
    )
