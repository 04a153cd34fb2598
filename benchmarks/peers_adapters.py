"""One face for our buffer and the others' in benchmarks/peers.py, each set up as its own documentation has it.

`capacity` counts transitions over all environments (frame slots in ours). `add` takes one step of all of them,
`sample` is the library's own call for a batch, and `unpack` shows a batch to the oracle; it is not timed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
from peers_recording import ENVS, SHAPE, STACK, Sampled, Step

ALPHA, BETA = 0.5, 0.4


class UnavailableError(Exception):
    """A part of a library that does not work here; its text says why."""


class Buffer(Protocol):
    """What is measured."""

    def __len__(self) -> int:
        """Return the number of transitions that can be sampled."""

    def add(self, step: Step) -> None:
        """Store one transition of each environment."""

    def sample(self, size: int) -> Any:
        """Draw a batch, pixels of both observations included."""

    def unpack(self, batch: Any) -> Sampled:
        """Return what `sample` gave in the oracle's terms."""

    def sample_and_update(self, size: int, priority: np.ndarray) -> None:
        """Draw a batch and give its rows new priorities, float64 [size]."""


class Fastdqn:
    """Ours. EnvPool's steps come as same-step autoreset, so that all libraries are fed with the same rows."""

    def __init__(
        self,
        capacity: int,
        prioritised: bool,
        layout: Any = "separate",
        storage: Any = "raw",
        reuse: bool = True,
    ) -> None:
        from fastdqn.replay import Batch, ReplayBuffer

        alpha = ALPHA if prioritised else 0.0
        self.replay = ReplayBuffer(
            capacity, ENVS, alpha=alpha, autoreset="same_step", layout=layout, storage=storage
        )
        self.reuse, self.out, self.begun = reuse, dict[int, Batch](), False

    def __len__(self) -> int:
        return len(self.replay)

    def add(self, step: Step) -> None:
        if not self.begun:
            self.replay.begin(step.obs)
            self.begun = True
        ends = step.terminated, step.truncated
        self.replay.add(step.action, step.after, step.reward, *ends, final_observation=step.next_obs)

    def sample(self, size: int) -> Any:
        if not self.reuse:
            return self.replay.sample(size, BETA)
        if size not in self.out:
            self.out[size] = self.replay.make_batch(size)
        return self.replay.sample(size, BETA, out=self.out[size])

    def unpack(self, batch: Any) -> Sampled:
        return Sampled(batch.obs, batch.next_obs, batch.action, batch.discount == 0.0)

    def sample_and_update(self, size: int, priority: np.ndarray) -> None:
        self.replay.update_priorities(self.sample(size).row, priority)


class Cpprb:
    """cpprb with both observations stored whole, which works for any number of environments."""

    def __init__(self, capacity: int, prioritised: bool) -> None:
        import cpprb

        kind = cpprb.PrioritizedReplayBuffer if prioritised else cpprb.ReplayBuffer
        columns = {"act": {"dtype": np.int32}, "rew": {}, "done": {"dtype": np.bool_}}
        options = {"alpha": ALPHA} if prioritised else {}
        self.beta = {"beta": BETA} if prioritised else {}
        self.buffer = kind(capacity, self.frames() | columns, **options, **self.compression())

    def frames(self) -> dict[str, Any]:
        """Return the entries of the observations."""
        frames = {"shape": (STACK, *SHAPE), "dtype": np.uint8}
        return {"obs": frames, "next_obs": frames}

    def compression(self) -> dict[str, str]:
        """Return the options for storing less."""
        return {}

    def __len__(self) -> int:
        return self.buffer.get_stored_size()

    def add(self, step: Step) -> None:
        self.buffer.add(
            obs=step.obs, next_obs=step.next_obs, act=step.action, rew=step.reward, done=step.terminated
        )

    def sample(self, size: int) -> Any:
        return self.buffer.sample(size, **self.beta)

    def unpack(self, batch: Any) -> Sampled:
        return Sampled(
            batch["obs"], batch["next_obs"], batch["act"][:, 0].astype(np.int64), batch["done"][:, 0]
        )

    def sample_and_update(self, size: int, priority: np.ndarray) -> None:
        self.buffer.update_priorities(self.sample(size)["indexes"], priority)


class CpprbCompressed(Cpprb):
    """cpprb with next_of and stack_compress, which keep a frame once.

    Its rows must be a sliding window over one stream, with the stack in the last dimension, and `on_episode_end`
    is called wherever the stream breaks off. So rows wait until their episode ends or there are PIECE of them, as
    its examples with several explorers collect in local buffers first. Rows that wait are kept by reference,
    without a copy.
    """

    PIECE = 64

    def __init__(self, capacity: int, prioritised: bool) -> None:
        super().__init__(capacity, prioritised)
        self.waiting: list[list[Step]] = [[] for _ in range(ENVS)]

    def frames(self) -> dict[str, Any]:
        """Return the entry of the observation, the next one's being implied."""
        return {"obs": {"shape": (*SHAPE, STACK), "dtype": np.uint8}}

    def compression(self) -> dict[str, str]:
        """Return the options for storing a frame once."""
        return {"next_of": "obs", "stack_compress": "obs"}

    def add(self, step: Step) -> None:
        ends = step.terminated | step.truncated
        for env, steps in enumerate(self.waiting):
            steps.append(step)
            if ends[env] or len(steps) == self.PIECE:
                self._add_piece(steps, env)
                steps.clear()

    def _add_piece(self, steps: list[Step], env: int) -> None:
        obs, next_obs = (
            np.stack([np.moveaxis(pixels[env], 0, -1) for pixels in observations])
            for observations in ([step.obs for step in steps], [step.next_obs for step in steps])
        )
        act, rew, done = (
            [column[env] for column in columns]
            for columns in zip(*((step.action, step.reward, step.terminated) for step in steps), strict=True)
        )
        self.buffer.add(obs=obs, next_obs=next_obs, act=act, rew=rew, done=done)
        self.buffer.on_episode_end()

    def unpack(self, batch: Any) -> Sampled:
        plain = super().unpack(batch)
        return plain._replace(obs=np.moveaxis(plain.obs, -1, 1), next_obs=np.moveaxis(plain.next_obs, -1, 1))


class StableBaselines:
    """Stable-Baselines3 as its DQN makes it for Atari, on the processor; it has no priorities.

    `optimize_memory_usage` excludes `handle_timeout_termination` (its documentation says to switch it off).
    """

    def __init__(self, capacity: int, prioritised: bool, optimize_memory_usage: bool = False) -> None:
        from gymnasium import spaces
        from stable_baselines3.common.buffers import ReplayBuffer

        if prioritised:
            raise UnavailableError("Stable-Baselines3 has no prioritised replay")
        self.buffer = ReplayBuffer(
            capacity,
            spaces.Box(0, 255, (STACK, *SHAPE), np.uint8),
            spaces.Discrete(4),
            device="cpu",
            n_envs=ENVS,
            optimize_memory_usage=optimize_memory_usage,
            handle_timeout_termination=not optimize_memory_usage,
        )

    def __len__(self) -> int:
        return self.buffer.size() * ENVS

    def add(self, step: Step) -> None:
        infos = [{"TimeLimit.truncated": bool(cut)} for cut in step.truncated]
        ends = step.terminated | step.truncated
        self.buffer.add(step.obs, step.next_obs, step.action, step.reward, ends, infos)

    def sample(self, size: int) -> Any:
        return self.buffer.sample(size)

    def unpack(self, batch: Any) -> Sampled:
        return Sampled(
            batch.observations.numpy(),
            batch.next_observations.numpy(),
            batch.actions.numpy()[:, 0],
            batch.dones.numpy()[:, 0] != 0,
        )

    def sample_and_update(self, size: int, priority: np.ndarray) -> None:
        raise UnavailableError("Stable-Baselines3 has no prioritised replay")


class Tianshou:
    """Tianshou as its Atari examples have it: of each stack the newest frame is kept, the rest found by index."""

    def __init__(self, capacity: int, prioritised: bool) -> None:
        from tianshou.data import Batch, PrioritizedVectorReplayBuffer, VectorReplayBuffer

        options: dict[str, Any] = {
            "stack_num": STACK,
            "ignore_obs_next": True,
            "save_only_last_obs": True,
        }
        self.batch_type = Batch
        if prioritised:
            self.buffer = PrioritizedVectorReplayBuffer(capacity, ENVS, alpha=ALPHA, beta=BETA, **options)
        else:
            self.buffer = VectorReplayBuffer(capacity, ENVS, **options)

    def __len__(self) -> int:
        return len(self.buffer)

    def add(self, step: Step) -> None:
        self.buffer.add(
            self.batch_type(
                obs=step.obs,
                act=step.action,
                rew=step.reward,
                terminated=step.terminated,
                truncated=step.truncated,
                obs_next=step.next_obs,
            )
        )

    def sample(self, size: int) -> Any:
        return self.buffer.sample(size)

    def unpack(self, batch: Any) -> Sampled:
        rows, _ = batch
        return Sampled(rows.obs, rows.obs_next, rows.act, rows.terminated)

    def sample_and_update(self, size: int, priority: np.ndarray) -> None:
        _, rows = self.buffer.sample(size)
        self.buffer.update_weight(rows, priority)


class TorchRL:
    """torchrl's buffer of tensor dictionaries over LazyTensorStorage, both observations stored whole.

    Its documentation's way to store less, a collector's `compact_obs`, belongs to its own collectors.
    """

    def __init__(self, capacity: int, prioritised: bool) -> None:
        import torch
        from tensordict import TensorDict
        from torchrl.data import (
            LazyTensorStorage,
            TensorDictPrioritizedReplayBuffer,
            TensorDictReplayBuffer,
        )

        torch.set_num_threads(1)
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        self.dictionary, self.tensor = TensorDict, torch.from_numpy
        storage = LazyTensorStorage(capacity)
        if not prioritised:
            self.buffer = TensorDictReplayBuffer(storage=storage)
            return
        from torchrl.data.replay_buffers.samplers import prioritized

        if prioritized.SumSegmentTreeFp32 is None:
            raise UnavailableError(
                f"torchrl's sum tree, a C++ extension, does not load beside torch {torch.__version__}"
            )
        self.buffer = TensorDictPrioritizedReplayBuffer(alpha=ALPHA, beta=BETA, storage=storage)

    def __len__(self) -> int:
        return len(self.buffer)

    def add(self, step: Step) -> None:
        tensor = self.tensor
        following = {
            "pixels": tensor(step.next_obs),
            "reward": tensor(step.reward),
            "terminated": tensor(step.terminated),
            "done": tensor(step.terminated | step.truncated),
        }
        rows = {"pixels": tensor(step.obs), "action": tensor(step.action), "next": following}
        self.buffer.extend(self.dictionary(rows, batch_size=[ENVS]))

    def sample(self, size: int) -> Any:
        return self.buffer.sample(size)

    def unpack(self, batch: Any) -> Sampled:
        pixels = batch["pixels"].numpy(), batch["next", "pixels"].numpy()
        return Sampled(*pixels, batch["action"].numpy(), batch["next", "terminated"].numpy())

    def sample_and_update(self, size: int, priority: np.ndarray) -> None:
        batch = self.buffer.sample(size)
        batch["td_error"] = self.tensor(priority)
        self.buffer.update_tensordict_priority(batch)


class Library(NamedTuple):
    """One line of the comparison.

    Attributes:
        title: Its name in the table.
        module: What must be importable.
        make: Makes the buffer from `capacity` and `prioritised`.
    """

    title: str
    module: str
    make: Callable[[int, bool], Buffer]


LIBRARIES = {
    "fastdqn-window": Library("fastdqn, window", "fastdqn", partial(Fastdqn, layout="window")),
    "fastdqn": Library("fastdqn, separate", "fastdqn", Fastdqn),
    "fastdqn-delta": Library("fastdqn, separate, delta", "fastdqn", partial(Fastdqn, storage="delta")),
    "fastdqn-new": Library("fastdqn, separate, new arrays", "fastdqn", partial(Fastdqn, reuse=False)),
    "cpprb": Library("cpprb", "cpprb", Cpprb),
    "cpprb-compressed": Library("cpprb, next_of + stack_compress", "cpprb", CpprbCompressed),
    "sb3": Library("Stable-Baselines3", "stable_baselines3", StableBaselines),
    "sb3-optimized": Library(
        "Stable-Baselines3, optimize_memory_usage",
        "stable_baselines3",
        partial(StableBaselines, optimize_memory_usage=True),
    ),
    "tianshou": Library("Tianshou", "tianshou", Tianshou),
    "torchrl": Library("torchrl, LazyTensorStorage", "torchrl", TorchRL),
}
