"""Fuzz the replay beside its oracle: any number of random operations over seeds, the first difference ends it.

    python tests/fuzz_replay.py --operations 1000000 --seed 0

Each seed is one buffer with its own options, of the two storages in turn, and 2,000 operations: steps of some or
all environments in any order, begins, late plans and priorities, refused calls, and now and then the buffer is
saved, thrown away and restored.
The invariants are checked after every operation, everything that can be sampled after one in fifty. A difference
is repeated with `--seed N --operations 1`.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for a script, where it lies is first

from fastdqn.replay import ReplayBuffer
from tests.reference.replay_oracle import Comparison
from tests.reference.toy_env import RESETS, ToyVectorEnv

OPERATIONS_A_SEED = 2000
STORAGES = ("raw", "delta")
FRAME_SHAPE = (2, 3)


def pick(rng: np.random.Generator, *choices: Any) -> Any:
    """One of `choices`, as it is."""
    return choices[rng.integers(len(choices))]


class Fuzzer:
    """One seed: a buffer, its oracle, and operations on both."""

    def __init__(self, seed: int, folder: Path, storage: str) -> None:
        self.rng = rng = np.random.default_rng(seed)
        self.file = folder / "replay.safetensors"
        envs, stack, n_step = int(rng.integers(1, 6)), int(rng.integers(1, 6)), int(rng.integers(1, 6))
        layout = pick(rng, "separate", "separate", "window")
        n_step = 1 if layout == "window" else n_step
        guard = pick(rng, 0, 0, 1, 4)
        ring = stack + n_step + guard + pick(rng, 0, 1, 7, 40)
        options = {
            "stack": stack,
            "n_step": n_step,
            "gamma": pick(rng, 0.99, 0.5, 1.0),
            "alpha": pick(rng, 0.0, 0.5, 1.0),
            "autoreset": pick(rng, "next_step", "same_step", "disabled"),
            "guard_frames": guard,
        }
        self.comparison = Comparison(
            partial(ReplayBuffer, storage=storage),
            ring * envs,
            envs,
            frame_shape=FRAME_SHAPE,
            layout=layout,
            seed=seed,
            **options,
        )
        self.env = ToyVectorEnv(
            seed,
            envs,
            stack=stack,
            frame_shape=FRAME_SHAPE,
            autoreset=options["autoreset"],
            resets=pick(rng, ("repeat",), ("repeat", "keep"), RESETS),
            jump=0.0 if layout == "window" else pick(rng, 0.0, 0.05, 0.4),
            frames=pick(rng, 2, 3, 40),
        )
        self.begun = np.zeros(envs, bool)
        self.drawn = np.zeros(0, np.int64)

    def some(self, ids: np.ndarray) -> np.ndarray:
        """Some of `ids` in any order; sometimes all of them."""
        return self.rng.permutation(ids)[: self.rng.integers(1, len(ids) + 1)]

    def begin(self) -> None:
        """Begin some episodes, open ones included."""
        ids = self.some(np.arange(len(self.begun)))
        self.comparison.begin(self.env.reset(ids), ids)
        self.begun[ids] = True

    def step(self) -> None:
        """One step of some environments."""
        able = self.begun & ~self.env.done if self.env.autoreset == "disabled" else self.begun
        if not able.any():
            return self.begin()
        ids = self.some(np.flatnonzero(able))
        self.comparison.add(**self.env.step(ids, end=pick(self.rng, 0.0, 0.1, 0.5)), env_id=ids)
        return None

    def plan(self) -> None:
        """Draw rows now, to be gathered and updated later."""
        if any(self.comparison.oracle.priorities.values()):
            self.drawn = np.concatenate([self.drawn[-40:], self.comparison.hold_plan(4)])

    def gather(self) -> None:
        """Gather the oldest plan held."""
        if self.comparison.held:
            self.comparison.gather_held_plan()

    def update(self) -> None:
        """Priorities for rows drawn at any time, repeated ones included."""
        if len(self.drawn):
            count = int(self.rng.integers(0, 10))
            priorities = self.rng.choice(np.array([0.0, 0.25, 1.0, 3.0]), count, p=[0.1, 0.3, 0.3, 0.3])
            self.comparison.update_priorities(self.rng.choice(self.drawn, count), priorities)

    def refused(self) -> None:
        """A call whose last row has no such environment."""
        ids = np.append(np.flatnonzero(self.begun), len(self.begun))
        stacks = np.zeros((len(ids), self.comparison.buffer.stack, *FRAME_SHAPE), np.uint8)
        try:
            self.comparison.buffer.begin(stacks, ids)
        except ValueError:
            return
        raise AssertionError("a call for an environment that does not exist was accepted")

    def restore(self) -> None:
        """Save the buffer and go on with what the file holds."""
        self.comparison.buffer.save(self.file)
        self.comparison.buffer = ReplayBuffer.from_file(self.file)

    def run(self, operations: int) -> None:
        """Random operations, most of them steps."""
        names = ["step", "begin", "plan", "gather", "update", "refused", "restore"]
        share = np.array([0.69, 0.03, 0.1, 0.1, 0.06, 0.015, 0.005])
        for name in self.rng.choice(names, operations, p=share):
            getattr(self, name)()
            violation = self.comparison.buffer.invariant_violation()
            assert violation == "", violation
            if self.rng.random() < 0.02:
                self.comparison.check()
        self.comparison.check()


def main() -> None:
    """Run seeds until the operations are done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--operations", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--storage", choices=STORAGES, help="of the buffers; both in turn unless given")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", RuntimeWarning)  # whole stacks are among what is tried
    # Memory where there is such a folder: what is tried is the format, not the disk.
    home = "/dev/shm" if os.path.isdir("/dev/shm") else None
    storages = STORAGES if arguments.storage is None else (arguments.storage,)
    start, seeds = time.perf_counter(), -(-arguments.operations // OPERATIONS_A_SEED)
    with tempfile.TemporaryDirectory(dir=home) as folder:
        for seed in range(arguments.seed, arguments.seed + seeds):
            storage = storages[seed % len(storages)]
            try:
                Fuzzer(seed, Path(folder), storage).run(OPERATIONS_A_SEED)
            except BaseException:
                print(f"seed {seed} failed with storage {storage}")
                raise
    print(
        f"{seeds * OPERATIONS_A_SEED:,} operations without a difference, {time.perf_counter() - start:.0f} s"
    )


if __name__ == "__main__":
    main()
