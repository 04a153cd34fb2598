"""Environments of a few pixels, with every habit of real frame stackers, for the replay's tests."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

RESETS = ("repeat", "keep", "zero_fill", "unrelated")


def frame_pool(rng: np.random.Generator, count: int, frame_shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Few distinct frames [count, H, W], so that equal ones meet by accident; two differ in one byte only."""
    pool = rng.integers(0, 256, (count, *frame_shape), dtype=np.uint8)
    pool[1] = pool[0]
    pool[1, -1, -1] ^= 1
    return pool


class ToyEnv:
    """One environment behind a frame stacker: `reset` and `step` give stacks [stack, H, W], oldest first.

    Resets are drawn from: "repeat" the first frame (a full reset), "keep" the old frames (a lost life),
    "zero_fill" the older ones, or an "unrelated" stack. With probability `jump` a step, too, gives a stack
    that does not continue the last one, as a wrapper that skips or reorders frames does.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        pool: NDArray[np.uint8],
        stack: int,
        resets: tuple[str, ...],
        jump: float,
    ):
        self.rng, self.pool, self.resets, self.jump = rng, pool, resets, jump
        self.last = np.zeros((stack, *pool.shape[1:]), np.uint8)

    def reset(self) -> NDArray[np.uint8]:
        """The new episode's first stack."""
        kind = self.resets[self.rng.integers(len(self.resets))]
        if kind == "repeat":
            self.last = np.repeat(self._frames(1), len(self.last), axis=0)
        elif kind == "keep":
            self.last = np.concatenate([self.last[1:], self._frames(1)])
        elif kind == "zero_fill":
            self.last = np.concatenate([np.zeros_like(self.last[1:]), self._frames(1)])
        else:
            self.last = self._frames(len(self.last))
        return self.last

    def step(self) -> NDArray[np.uint8]:
        """The stack after one step."""
        if self.rng.random() < self.jump:
            self.last = self._frames(len(self.last))
        else:
            self.last = np.concatenate([self.last[1:], self._frames(1)])
        return self.last

    def _frames(self, count: int) -> NDArray[np.uint8]:
        return self.pool[self.rng.integers(len(self.pool), size=count)]


class ToyVectorEnv:
    """Several `ToyEnv` behind one of the three autoreset modes; each call steps any of them, in any order."""

    def __init__(
        self,
        seed: int,
        num_envs: int,
        *,
        stack: int,
        frame_shape: tuple[int, int],
        autoreset: str,
        resets: tuple[str, ...] = RESETS,
        jump: float = 0.0,
        frames: int = 3,
    ):
        self.rng = np.random.default_rng(seed)
        pool = frame_pool(self.rng, frames, frame_shape)
        self.envs = [ToyEnv(self.rng, pool, stack, resets, jump) for _ in range(num_envs)]
        self.autoreset = autoreset
        self.done = np.zeros(num_envs, bool)  # the last step of that env ended its episode

    def reset(self, ids: NDArray[np.int64]) -> NDArray[np.uint8]:
        """First stacks of new episodes."""
        self.done[ids] = False
        return np.stack([self.envs[i].reset() for i in ids])

    def step(self, ids: NDArray[np.int64], end: float) -> dict[str, Any]:
        """Arguments for `ReplayBuffer.add`. Each episode ends with probability `end`."""
        count = len(ids)
        resetting = self.done[ids] & (self.autoreset == "next_step")
        kind = np.where((self.rng.random(count) < end) & ~resetting, self.rng.integers(1, 4, count), 0)
        terminated, truncated = kind % 2 == 1, kind >= 2  # both at once, too
        done = terminated | truncated
        stacks = [
            self.envs[i].reset() if r else self.envs[i].step() for i, r in zip(ids, resetting, strict=True)
        ]
        call = {
            "action": self.rng.integers(0, 18, count),
            "observation": np.stack(stacks),
            "reward": self.rng.choice(np.float32([-1, 0, 0.3, 1, 7.5]), count),
            "terminated": terminated,
            "truncated": truncated,
        }
        if self.autoreset == "same_step":
            call["final_observation"] = np.stack(stacks)
            call["observation"] = np.stack(
                [self.envs[i].reset() if d else s for i, d, s in zip(ids, done, stacks, strict=True)]
            )
        self.done[ids] = done & (self.autoreset != "same_step")
        return call
