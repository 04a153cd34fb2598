"""Stable-Baselines3's DQN with this replay buffer: an eighth of the memory, n-step returns, exact truncations.

pip install fastdqn "stable-baselines3>=2.9" ale-py opencv-python-headless
python examples/sb3_buffer.py
"""

import numpy as np
from stable_baselines3 import DQN
from stable_baselines3.common import buffers, env_util, type_aliases, vec_env

from fastdqn.replay import ReplayBuffer


class FrameReplayBuffer(buffers.ReplayBuffer):
    """Stacked uint8 frames, channels first, each kept once; `options` are those of `ReplayBuffer`."""

    def __init__(
        self,
        size,
        obs_space,
        action_space,
        device="auto",
        n_envs=1,
        *_,
        optimize_memory_usage=False,
        **options,
    ):
        buffers.BaseBuffer.__init__(self, size, obs_space, action_space, device, n_envs)
        options = {"stack": obs_space.shape[0], "frame_shape": obs_space.shape[1:], **options}
        self.replay = ReplayBuffer(size, n_envs, autoreset="disabled", **options)
        self.done, self.last = np.ones(n_envs, bool), np.zeros((n_envs, *obs_space.shape), np.uint8)

    def add(self, obs, next_obs, action, reward, done, infos):
        """Store a step of each environment; what does not go on from the last one begins an episode."""
        fresh = self.done | (obs != self.last).any(axis=(1, 2, 3))
        self.replay.begin(obs[fresh], np.flatnonzero(fresh))
        timeout = np.array([info.get("TimeLimit.truncated", False) for info in infos])
        self.replay.add(action.reshape(-1), next_obs, reward, done & ~timeout, done & timeout)
        self.done, self.last = done, next_obs  # where done, SB3 has put terminal_observation into next_obs

    def size(self):
        """Return the number of transitions that can be sampled."""
        return len(self.replay)

    def sample(self, batch_size, env=None):
        """Draw a batch; the discount says where the value of the next observation counts, and how much."""
        batch = self.replay.sample(batch_size)
        columns = (batch.action, batch.next_obs, 0 * batch.discount, batch.reward, batch.discount)
        shaped = [column if column.ndim > 1 else column[:, None] for column in (batch.obs, *columns)]
        return type_aliases.ReplayBufferSamples(*map(self.to_torch, shaped))


def make_model(num_envs=8, buffer_size=100_000):
    """Return a DQN on Pong with 3-step returns."""
    envs = vec_env.VecFrameStack(env_util.make_atari_env("ale_py:PongNoFrameskip-v4", num_envs), 4)
    options = {"replay_buffer_class": FrameReplayBuffer, "replay_buffer_kwargs": {"n_step": 3}}
    return DQN("CnnPolicy", envs, buffer_size=buffer_size, verbose=1, **options)


if __name__ == "__main__":
    make_model().learn(1_000_000)
