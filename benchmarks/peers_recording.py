"""What the buffers of benchmarks/peers.py are fed with and checked against: whole stacks of EnvPool's frames.

A recording is a list of steps, each one transition of every environment. Where EnvPool begins an episode (the
row after a done, whose action it ignores) there is no transition, so those rows are left out, as EnvPool's own
adapter for Stable-Baselines3 and Tianshou's collector leave them out; `after` still has the new episode's first
observation. The action of a transition is its number in the recording. Every buffer stores actions as they
are, so a sampled row says which transition it claims to be.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

ENVS, STACK, SHAPE = 8, 4, (84, 84)

# The environments' rules in which buffers differ: whether a lost life ends an episode, and the step limit.
SETTINGS = {
    "lives": {"episodic_life": True},
    "games": {"episodic_life": False},
    "truncation": {"episodic_life": False, "max_episode_steps": 60},
}


class Step(NamedTuple):
    """One transition of every environment; N of them.

    Attributes:
        obs: uint8 [N, 4, 84, 84], where the action was taken.
        next_obs: uint8, as `obs`: what the action led to, the true last observation at an episode's end.
        after: uint8, as `obs`: where the next action is taken; another episode's first after an end.
        action: int64 [N], the transitions' numbers.
        reward: float32 [N].
        terminated: bool [N].
        truncated: bool [N].
    """

    obs: np.ndarray
    next_obs: np.ndarray
    after: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray


class Sampled(NamedTuple):
    """A sampled batch in every library's terms; B rows.

    Attributes:
        obs: uint8 [B, 4, 84, 84].
        next_obs: uint8, as `obs`.
        action: int64 [B], the rows' numbers.
        ended: bool [B], whether the library would leave out the value of `next_obs`.
    """

    obs: np.ndarray
    next_obs: np.ndarray
    action: np.ndarray
    ended: np.ndarray


def record(folder: Path, steps: int, seed: int, setting: str) -> None:
    """Play Breakout at random until each environment has made `steps` transitions, and write them to `folder`."""
    import envpool

    folder.mkdir()
    envs = envpool.make(
        "Breakout-v5",
        env_type="gymnasium",
        num_envs=ENVS,
        num_threads=1,
        seed=seed,
        stack_num=STACK,
        use_fire_reset=True,
        **SETTINGS[setting],
    )
    shape = (steps, ENVS, STACK, *SHAPE)
    obs, next_obs = (
        np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.uint8, shape)
        for name in ("obs", "next_obs")
    )
    reward = np.zeros((steps, ENVS), np.float32)
    terminated, truncated = np.zeros((2, steps, ENVS), bool)
    random, count = np.random.default_rng(seed), np.zeros(ENVS, int)
    now, _ = envs.reset()
    resetting = np.zeros(ENVS, bool)
    while count.min() < steps:
        then, rewards, ends, cuts, _ = envs.step(random.integers(envs.action_space.n, size=ENVS))
        env = np.flatnonzero(~resetting & (count < steps))
        at = count[env], env
        obs[at], next_obs[at], reward[at] = now[env], then[env], rewards[env]
        terminated[at], truncated[at] = ends[env], cuts[env] & ~ends[env]
        count[env] += 1
        now, resetting = then, ends | cuts
    envs.close()
    truncated[-1] |= ~terminated[-1]  # buffers are fed with it again and again: no episode runs on at its end
    np.savez(folder / "columns.npz", reward=reward, terminated=terminated, truncated=truncated)


class Recording:
    """A recording's steps, and what each of its transitions must look like when it is sampled.

    Args:
        folder: Where `record` wrote it. Pixels stay in the file's pages, which are not counted as a buffer's.
    """

    def __init__(self, folder: Path) -> None:
        self.obs, self.next_obs = (
            np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in ("obs", "next_obs")
        )
        with np.load(folder / "columns.npz") as columns:
            self.reward, self.terminated = columns["reward"], columns["terminated"]
            self.truncated = columns["truncated"]
        count = len(self.obs)
        action = np.arange(count * ENVS).reshape(count, ENVS)
        self.steps = [
            Step(
                self.obs[k],
                self.next_obs[k],
                self.obs[(k + 1) % count],
                action[k],
                self.reward[k],
                self.terminated[k],
                self.truncated[k],
            )
            for k in range(count)
        ]

    def step(self, index: int) -> Step:
        """Return a step; the first follows the last."""
        return self.steps[index % len(self.steps)]

    def wrong(self, batch: Sampled) -> dict[str, int]:
        """Count the rows of a batch that are not what was recorded.

        Returns:
            ``obs``: another observation. ``next_obs``: another next observation, in rows whose episode goes on
            or was truncated, so that its value counts. ``next_obs_anywhere``: in terminated rows, too.
            ``ended``: an end that was none, or none where one was. ``unknown``: a row that was never recorded,
            which counts in all of them.
        """
        unknown = (batch.action < 0) | (batch.action >= len(self.steps) * ENVS)
        at = divmod(np.where(unknown, 0, batch.action), ENVS)
        pixels = tuple(range(1, batch.obs.ndim))
        wrong_obs = (batch.obs != self.obs[at]).any(axis=pixels) | unknown
        wrong_next = (batch.next_obs != self.next_obs[at]).any(axis=pixels) | unknown
        wrong_end = (batch.ended != self.terminated[at]) | unknown
        counts = {
            "obs": wrong_obs,
            "next_obs": wrong_next & (unknown | ~self.terminated[at]),
            "next_obs_anywhere": wrong_next,
            "ended": wrong_end,
            "unknown": unknown,
        }
        return {name: int(np.count_nonzero(rows)) for name, rows in counts.items()}
