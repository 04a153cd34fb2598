"""The replay buffer on what EnvPool really sends: Breakout, beside the oracle, before and after wraps.

EnvPool resets on the step after a done. A full reset repeats the first frame, a reset after a lost life keeps
the old ones; short step limits give truncations. One seed and one sequence of actions give one stream.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from fastdqn.replay import ReplayBuffer
from tests.reference.replay_oracle import Comparison
from tests.replay.conftest import raw_is_long

envpool = pytest.importorskip("envpool")

NUM_ENVS, RING = 3, 80


def breakout(steps: int, *, episodic_life: bool, limit: int) -> Iterator[dict[str, Any]]:
    """The first observation, then the arguments of `add` for each step under random actions.

    `info["terminated"]` is game over even where the step limit arrives with it; with `episodic_life` a lost
    life ends an episode, too. What else is done is a truncation.
    """
    env = envpool.make(
        "Breakout-v5",
        env_type="gymnasium",
        num_envs=NUM_ENVS,
        num_threads=2,
        stack_num=4,
        episodic_life=episodic_life,
        max_episode_steps=limit,
        seed=5,
    )
    rng = np.random.default_rng(5)
    observation, info = env.reset()
    yield {"observation": observation}
    for _ in range(steps):
        lives = info["lives"]
        action = rng.integers(0, env.action_space.n, NUM_ENVS).astype(np.int32)
        observation, reward, ended, cut, info = env.step(action)
        game_over = info["terminated"].astype(bool)
        done = ended | cut
        terminated = game_over | (done & episodic_life & (info["lives"] < lives))
        yield {
            "action": action,
            "observation": observation,
            "reward": reward,
            "terminated": terminated,
            "truncated": done & ~terminated,
        }
    env.close()


@raw_is_long
@pytest.mark.parametrize(
    ("episodic_life", "limit", "n_step", "layout", "expected"),
    [
        (True, 40, 1, "window", {"terminated", "truncated"}),
        pytest.param(True, 60, 3, "separate", {"terminated", "truncated"}, marks=pytest.mark.long),
        (True, 27_000, 1, "separate", {"terminated"}),
        pytest.param(False, 50, 1, "separate", {"truncated"}, marks=pytest.mark.long),
        pytest.param(False, 300, 5, "separate", {"terminated"}, marks=pytest.mark.long),
    ],
)
def test_breakout_matches_the_oracle(
    episodic_life: bool, limit: int, n_step: int, layout: str, expected: set[str]
) -> None:
    """Every row that may be sampled has the observations that EnvPool sent, byte for byte.

    Faults caught: autoreset rows stored, zero fill or repeat at a lost life, a cut episode that bootstraps
    from the reset frame, stacks that reach over the ring's end. No row needs a whole stack: EnvPool's stacks
    always continue or repeat.
    """
    comparison = Comparison(
        ReplayBuffer, RING * NUM_ENVS, NUM_ENVS, n_step=n_step, layout=layout, guard_frames=4, seed=1
    )
    stream = breakout(480, episodic_life=episodic_life, limit=limit)
    comparison.begin(next(stream)["observation"])
    seen: Counter[str] = Counter()
    for i, call in enumerate(stream):
        comparison.add(**call)
        seen["terminated"] += int(call["terminated"].sum())
        seen["truncated"] += int(call["truncated"].sum())
        # Before the ring is full, around its end, and after it went round several times.
        if i in (2, 45, RING - 6, RING - 1, RING + 1, 160, 301, 479):
            comparison.check()
    assert min(comparison.oracle.frames_written) > 5 * RING
    assert all(seen[kind] >= 3 for kind in expected), f"the stream lost its point: {seen}"
    assert comparison.oracle.whole_stacks == 0
