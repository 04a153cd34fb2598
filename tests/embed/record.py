"""Make recording.npz: Breakout by EnvPool, tiny frames, lives on and a short step limit. It needs envpool.

python tests/embed/record.py
"""

from __future__ import annotations

from pathlib import Path

import envpool
import numpy as np

STEPS, ENVS = 400, 2


def main() -> None:
    """Play at random and store what `step` returned."""
    envs = envpool.make(
        "Breakout-v5",
        env_type="gymnasium",
        num_envs=ENVS,
        seed=3,
        img_height=18,
        img_width=18,
        stack_num=4,
        episodic_life=True,
        use_fire_reset=True,
        max_episode_steps=90,
    )
    random = np.random.default_rng(3)
    observation, _ = envs.reset()
    observations, columns = [observation], []
    for _ in range(STEPS):
        action = random.integers(envs.action_space.n, size=ENVS)
        observation, reward, terminated, truncated, _ = envs.step(action)
        observations.append(observation)
        columns.append((action, reward, terminated, truncated))
    action, reward, terminated, truncated = (np.array(column) for column in zip(*columns, strict=True))
    np.savez_compressed(
        Path(__file__).parent / "recording.npz",
        observation=np.array(observations),
        action=action.astype(np.int8),
        reward=reward.astype(np.float32),
        terminated=terminated,
        truncated=truncated,
    )


if __name__ == "__main__":
    main()
