"""The three ways in which Gymnasium's vector environments start episodes, each with the loop that fits it.

python tests/embed/autoreset.py

It needs numpy alone: `Counter` is an environment with the interface and the three modes of Gymnasium's, whose
frames show the episode and the step, so that every sampled row can be checked at sight.
"""

from __future__ import annotations

import numpy as np

from fastdqn.replay import Batch, ReplayBuffer

ENVS, STACK = 3, 4


class Counter:
    """Environments of 5 and more steps; a frame is [episode, step], a stack the last four of the episode."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.episode = np.zeros(ENVS, np.uint8)
        self.stacks = np.zeros((ENVS, STACK, 2), np.uint8)
        self.over = np.zeros(ENVS, bool)

    def start(self, env: int) -> None:
        """Begin the next episode of one environment."""
        self.episode[env] += 1
        self.stacks[env] = (self.episode[env], 0)
        self.over[env] = False

    def reset(self, options: dict[str, np.ndarray] | None = None) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Begin an episode in all environments, or in those of options["reset_mask"]."""
        mask = np.ones(ENVS, bool) if options is None else options["reset_mask"]
        for env in np.flatnonzero(mask):
            self.start(env)
        return self.stacks.copy(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, ...]:
        """Step every environment; what follows an episode's end depends on the mode."""
        info: dict[str, np.ndarray] = {}
        reward, done = np.zeros(ENVS), np.zeros(ENVS, bool)
        for env in range(ENVS):
            if self.over[env] and self.mode == "next_step":
                self.start(env)
                continue
            step = self.stacks[env, -1, 1] + 1
            self.stacks[env, :-1] = self.stacks[env, 1:].copy()
            self.stacks[env, -1] = (self.episode[env], step)
            reward[env], done[env] = action[env], step >= 5 + 2 * env
        self.over |= done
        if self.mode == "same_step" and done.any():
            info["final_obs"] = self.stacks.copy()
            for env in np.flatnonzero(done):
                self.start(env)
        return self.stacks.copy(), reward, done, np.zeros(ENVS, bool), info


def make(autoreset: str) -> tuple[Counter, ReplayBuffer, np.random.Generator]:
    """Return the parts of a loop."""
    replay = ReplayBuffer(90, ENVS, frame_shape=(2,), autoreset=autoreset)  # type: ignore[arg-type]
    return Counter(autoreset), replay, np.random.default_rng(0)


def next_step(steps: int) -> ReplayBuffer:
    """Gymnasium's default and EnvPool's way: nothing to do, the row after a done is known to be a reset."""
    envs, replay, random = make("next_step")
    observation, _ = envs.reset()
    replay.begin(observation)
    for _ in range(steps):
        action = random.integers(1, 9, ENVS)
        observation, reward, terminated, truncated, _ = envs.step(action)
        replay.add(action, observation, reward, terminated, truncated)
    return replay


def same_step(steps: int) -> ReplayBuffer:
    """The done row brings the next episode already: the true last observation is passed beside it."""
    envs, replay, random = make("same_step")
    observation, _ = envs.reset()
    replay.begin(observation)
    for _ in range(steps):
        action = random.integers(1, 9, ENVS)
        observation, reward, terminated, truncated, info = envs.step(action)
        final = info.get("final_obs")
        replay.add(action, observation, reward, terminated, truncated, final_observation=final)
    return replay


def disabled(steps: int) -> ReplayBuffer:
    """The caller resets: `begin` for the environments that are done."""
    envs, replay, random = make("disabled")
    observation, _ = envs.reset()
    replay.begin(observation)
    for _ in range(steps):
        action = random.integers(1, 9, ENVS)
        observation, reward, terminated, truncated, _ = envs.step(action)
        replay.add(action, observation, reward, terminated, truncated)
        done = terminated | truncated
        if done.any():
            observation, _ = envs.reset(options={"reset_mask": done})
            replay.begin(observation[done], env_id=np.flatnonzero(done))
    return replay


def check(batch: Batch) -> None:
    """Every row is one step of one episode, and rewarded by its action; the last one of an episode ends it."""
    env = batch.row % ENVS
    newest, following = batch.obs[:, -1].astype(int), batch.next_obs[:, -1].astype(int)
    assert (following[:, 0] == newest[:, 0]).all(), "a row crosses episodes"
    assert (following[:, 1] == newest[:, 1] + 1).all(), "a row is no step"
    assert (batch.reward == batch.action).all(), "an action without its reward"
    assert ((batch.discount == 0) == (following[:, 1] == 5 + 2 * env)).all(), "an end in the wrong row"


def main() -> None:
    """Run the three loops."""
    for loop in (next_step, same_step, disabled):
        replay = loop(steps=500)
        check(replay.sample(1000))
        assert replay.invariant_violation() == ""
        print(f"autoreset {replay.autoreset}: {replay.stats().transitions} transitions, all of them right")


if __name__ == "__main__":
    main()
