"""Let a trained policy play in an environment of your own: here EnvPool's, without the trainer.

Type: python examples/load_policy.py RUN_OR_FILE [GAME] [STEPS]
"""

from __future__ import annotations

import sys

import envpool

import fastdqn


def main() -> None:
    """Play greedily and count the points."""
    policy = fastdqn.load_policy(sys.argv[1])
    game = sys.argv[2] if len(sys.argv) > 2 else "Pong-v5"
    steps = int(sys.argv[3]) if len(sys.argv) > 3 else 3_000
    env = envpool.make(game, env_type="gymnasium", num_envs=4, seed=1)
    obs, _ = env.reset()  # uint8 [4, 4, 84, 84]
    print("values of the first observations:", policy(obs))  # float32 [4, actions]
    points = 0.0
    for _ in range(steps):
        obs, reward, _, _, _ = env.step(policy.act(obs))
        points += float(reward.sum())
    print(f"{points:g} points in {steps:,} steps of four games")


if __name__ == "__main__":
    main()
