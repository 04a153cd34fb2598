"""Deep Q-learning on Gymnasium and PyTorch that takes nothing from fastdqn but the replay buffer.

    pip install fastdqn torch "gymnasium>=1.1"
    python examples/dqn_gymnasium.py

CartPole's four numbers become a frame of four bytes, and a stack of two frames an observation, so that the buffer
sees what it sees on Atari: uint8 stacks. A double DQN with 3-step returns and priorities balances the pole within
about a minute on one core.
"""

from __future__ import annotations

import copy

import gymnasium
import numpy as np
import torch
from torch import nn

from fastdqn.replay import Batch, ReplayBuffer

ENVS, STACK = 8, 2
STEPS = 4_000  # of all environments together
LIMITS = np.array([2.4, 3.0, 0.21, 3.0], np.float32)  # position, speed, angle, angular speed


def to_frame(state: np.ndarray) -> np.ndarray:
    """Quantise states [..., 4] to bytes."""
    return np.clip((state / LIMITS + 1) * 127.5, 0, 255).astype(np.uint8)


def make_env() -> gymnasium.Env:
    """Return CartPole with stacks of byte frames; a new episode's stack repeats its first frame."""
    env = gymnasium.make("CartPole-v1")
    space = gymnasium.spaces.Box(0, 255, (4,), np.uint8)
    env = gymnasium.wrappers.TransformObservation(env, to_frame, space)
    return gymnasium.wrappers.FrameStackObservation(env, STACK)


def loss_of(batch: Batch, online: nn.Module, target: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weighted double-DQN loss, and each row's absolute error for its priority."""
    obs, next_obs, action, reward, discount, weight = (
        torch.from_numpy(array)
        for array in (batch.obs, batch.next_obs, batch.action, batch.reward, batch.discount, batch.weight)
    )
    value = online(obs).gather(1, action[:, None])[:, 0]
    with torch.no_grad():
        best = online(next_obs).argmax(1, keepdim=True)
        # The discount is gamma^m * (1 - terminated): right at full windows, short ones and truncations.
        wanted = reward + discount * target(next_obs).gather(1, best)[:, 0]
    error = wanted - value
    return (weight * nn.functional.huber_loss(value, wanted, reduction="none")).mean(), error.detach().abs()


class Network(nn.Module):
    """Two hidden layers over the stack."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(4 * STACK, 128),
            nn.ReLU(),
            nn.Linear(128, 128),
            nn.ReLU(),
            nn.Linear(128, 2),
        )

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        """Return q values [B, 2] of uint8 observations [B, STACK, 4]."""
        return self.layers(obs.float() / 127.5 - 1)


def train(steps: int = STEPS, seed: int = 0) -> float:
    """Train, and return the mean length of the last 40 episodes; 500 is perfect."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    random = np.random.default_rng(seed)
    envs = gymnasium.vector.SyncVectorEnv([make_env] * ENVS)  # autoreset: next_step
    replay = ReplayBuffer(40_000, ENVS, frame_shape=(4,), stack=STACK, n_step=3, alpha=0.5, seed=seed)
    online = Network()
    target, optimizer = copy.deepcopy(online), torch.optim.Adam(online.parameters(), lr=5e-4)

    lengths, length = [0], np.zeros(ENVS, int)
    observation, _ = envs.reset(seed=seed)
    replay.begin(observation)
    for step in range(steps):
        epsilon = max(0.02, 1 - step / 1_000)
        with torch.no_grad():
            greedy = online(torch.from_numpy(observation)).argmax(1).numpy()
        action = np.where(random.random(ENVS) < epsilon, random.integers(2, size=ENVS), greedy)
        observation, reward, terminated, truncated, _ = envs.step(action)
        replay.add(action, observation, reward, terminated, truncated)

        done, length = terminated | truncated, length + 1
        lengths += length[done].tolist()
        length[done] = -1  # the next row is the reset, not a step
        if step >= 100:
            batch = replay.sample(64, beta=0.6)
            loss, error = loss_of(batch, online, target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            replay.update_priorities(batch.row, error.numpy() + 1e-3)
        if step % 200 == 0:
            target.load_state_dict(online.state_dict())
        if step % 1_000 == 999:
            print(
                f"step {step + 1}: the last 40 episodes took {np.mean(lengths[-40:]):.0f} steps", flush=True
            )
    return float(np.mean(lengths[-40:]))


if __name__ == "__main__":
    train()
