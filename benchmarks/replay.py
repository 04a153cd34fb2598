"""Does the replay reach its limits? Memory, sampling and adding, each beside a memcpy of the same frames.

    python benchmarks/replay.py --out benchmarks/results/replay.json

The floor is a C memcpy of the frames that must move: runs of five for the window layout, two runs of four for
separate arrays, the new frames alone for adding. It works on a store of the same size and kind of pages, with
rows as random as ours, into reused memory, in the same process; short trials of both take turns. What counts is
the share of the floor's speed, since other work on the machine slows both. A C++ compiler is needed.

Frames are noise, which costs a raw store what anything else does. Storage `delta` gets frames of Breakout, played
at random; benchmarks/storage.py has other games.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import numpy as np

from fastdqn.replay import Batch, ReplayBuffer

ENVS, STACK, FRAME = 8, 4, 84 * 84
INPUT_CALLS = 300  # 8 stacks of 4 frames each: 68 MB, more than any cache
Work = Callable[[], None]


class Floor:
    """The plain C copies, compiled on the spot."""

    def __init__(self, slots: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder) / "floor.so"
            source = Path(__file__).parent / "floor.cpp"
            subprocess.run(["g++", "-O3", "-shared", "-fPIC", "-o", library, source], check=True)
            self.library = ctypes.CDLL(str(library))
        self.library.make_store.restype = ctypes.c_void_p
        self.library.make_store.argtypes = [ctypes.c_size_t]
        self.store = ctypes.c_void_p(self.library.make_store(slots * FRAME))
        self.slots = slots
        self.random = np.random.default_rng(1)

    def offsets(self, count: int) -> np.ndarray:
        """Random places for runs of five frames, in bytes."""
        return self.random.integers(0, self.slots - STACK - 1, count) * FRAME

    def sampling(self, size: int, layout: str) -> Work:
        """One batch a call, as ours in this layout."""
        pools = [self.offsets(size) for _ in range(512)]
        frames = STACK + 1 if layout == "window" else STACK
        outs = [np.zeros(size * frames * FRAME, np.uint8) for _ in range(1 if layout == "window" else 2)]
        run, calls = ctypes.c_int64(frames * FRAME), iter(range(2**62))

        def batch() -> None:
            rows = ctypes.c_void_p(pools[next(calls) % len(pools)].ctypes.data)
            pointers = [ctypes.c_void_p(out.ctypes.data) for out in outs]
            if layout == "window":
                self.library.gather(self.store, rows, ctypes.c_int64(size), run, *pointers)
            else:
                frame = ctypes.c_int64(FRAME)
                self.library.gather_pairs(self.store, rows, ctypes.c_int64(size), run, frame, *pointers)

        return batch

    def adding(self, stacks: list[np.ndarray]) -> Work:
        """The newest frame of each environment to its place, as rings fill."""
        ring, calls = self.slots // ENVS, iter(range(2**62))

        def add() -> None:
            call = next(calls)
            to = (np.arange(ENVS) * ring + call % ring) * FRAME
            self.library.scatter(
                ctypes.c_void_p(stacks[call % len(stacks)].ctypes.data),
                ctypes.c_void_p(to.ctypes.data),
                ctypes.c_int64(ENVS),
                ctypes.c_int64(FRAME),
                self.store,
            )

        return add


def noise() -> np.ndarray:
    """Frames uint8 [INPUT_CALLS, 8, 84, 84] that share nothing."""
    return np.random.default_rng(0).integers(0, 256, (INPUT_CALLS, ENVS, 84, 84), dtype=np.uint8)


def game_frames() -> np.ndarray:
    """Frames uint8 [INPUT_CALLS, 8, 84, 84] of Breakout, played at random."""
    import envpool

    envs = envpool.make("Breakout-v5", env_type="gymnasium", num_envs=ENVS, num_threads=1, seed=1)
    random = np.random.default_rng(1)
    envs.reset()
    steps = [envs.step(random.integers(envs.action_space.n, size=ENVS))[0][:, -1] for _ in range(INPUT_CALLS)]
    return np.stack(steps)


def input_stacks(frames: np.ndarray) -> list[np.ndarray]:
    """Observations [8, 4, 84, 84] of INPUT_CALLS steps, each the shift of the one before, also around the end."""
    return [
        np.ascontiguousarray(np.stack([frames[(k + i) % INPUT_CALLS] for i in range(STACK)], axis=1))
        for k in range(INPUT_CALLS)
    ]


class Ours:
    """A full buffer whose rings have wrapped, and the calls that are timed."""

    def __init__(self, slots: int, stacks: list[np.ndarray], **options: Any) -> None:
        self.replay = ReplayBuffer(slots, ENVS, seed=1, **options)
        self.stacks, self.calls = stacks, 1
        self.action, self.reward = np.zeros(ENVS, np.int64), np.zeros(ENVS, np.float32)
        self.flags = np.zeros(ENVS, bool)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the first stacks are no copies: kept whole, once
            self.replay.begin(stacks[0])
        for _ in range(self.replay.ring + 500):
            self.add()

    def add(self) -> None:
        """One call of eight rows; every older frame is compared with what is stored."""
        observation = self.stacks[self.calls % len(self.stacks)]
        self.replay.add(self.action, observation, self.reward, self.flags, self.flags)
        self.calls += 1

    def sampling(self, size: int) -> Work:
        """One batch a call, into the same arrays."""
        out: Batch = self.replay.make_batch(size)
        return lambda: void(self.replay.sample(size, out=out))

    def prioritised(self, size: int) -> Work:
        """One batch a call, and new priorities for its rows."""
        out: Batch = self.replay.make_batch(size)
        priorities = np.random.default_rng(2).random((512, size))
        calls = iter(range(2**62))

        def sample_and_update() -> None:
            self.replay.sample(size, beta=0.5, out=out)
            self.replay.update_priorities(out.row, priorities[next(calls) % 512])

        return sample_and_update


def void(_: object) -> None:
    """Make a call an expression without a value."""


def seconds(work: Work, calls: int) -> float:
    """Time of one call, over `calls` of them.

    Processor time of this thread, which is all that works here: on a shared machine, what others are given is
    not counted.
    """
    start = time.thread_time()
    for _ in range(calls):
        work()
    return (time.thread_time() - start) / calls


def compare(ours: Work, floor: Work, calls: int, trials: int) -> dict[str, Any]:
    """Calls a second of both, and the share: the median over pairs of trials that follow each other."""
    seconds(ours, calls), seconds(floor, calls)
    pairs = []
    for first in np.random.default_rng(3).random(trials) < 0.5:
        # By turns at random: a fixed order falls into step with whatever else the machine is doing.
        early = seconds(ours if first else floor, calls)
        late = seconds(floor if first else ours, calls)
        pairs.append((early, late) if first else (late, early))
    return {
        "calls_per_second": common.spread([1 / mine for mine, _ in pairs]),
        "floor_calls_per_second": common.spread([1 / plain for _, plain in pairs]),
        "share_of_floor": statistics.median(plain / mine for mine, plain in pairs),
    }


def measure(slots: int, trials: int) -> dict[str, Any]:
    """All figures; the buffers are made one after another, so that one store and the floor's are in memory."""
    raw_stacks, delta_stacks, floor = input_stacks(noise()), input_stacks(game_frames()), Floor(slots)
    results: dict[str, Any] = {}
    for name, options in (
        ("window", {"layout": "window"}),
        ("separate", {"layout": "separate"}),
        ("prioritised window", {"layout": "window", "alpha": 0.5}),
        ("prioritised separate", {"layout": "separate", "alpha": 0.5}),
        ("window, delta", {"layout": "window", "storage": "delta"}),
        ("separate, delta", {"layout": "separate", "storage": "delta"}),
    ):
        stacks = delta_stacks if "storage" in options else raw_stacks
        ours = Ours(slots, stacks, **options)
        stats = ours.replay.stats()
        results[f"bytes per frame slot, {name}"] = stats.allocated_bytes / stats.slots
        for size in (32, 512):
            calls = max(4, 1000 // size)
            plain = floor.sampling(size, options["layout"])
            if "alpha" not in options:
                results[f"sample {size}, {name}"] = compare(ours.sampling(size), plain, calls, trials)
            else:
                results[f"sample + update {size}, {name}"] = compare(
                    ours.prioritised(size), plain, calls, trials
                )
        if name in ("window", "prioritised separate", "separate, delta"):
            adds = compare(ours.add, floor.adding(stacks), 100, trials)
            results[f"add 8, {name}"] = adds | {"rows_per_second": 8 * adds["calls_per_second"]["median"]}
        del ours
    return results


# The least share of the floor, by the beginning of a result's name; the most bytes a slot.
TARGETS = {"sample + update 32": 0.75, "sample 32": 0.9, "sample 512": 0.9}
MOST_BYTES, LEAST_ADDS, LEAST_ADD_SHARE = 7090, 200_000, 0.25


def reached(name: str, result: Any) -> bool | None:
    """Whether a figure reaches its target; None where it has none."""
    if name.endswith("delta"):
        return None  # its targets are beside the raw store: benchmarks/storage.py
    if name.startswith("bytes"):
        return bool(result <= MOST_BYTES)
    if name.startswith("add"):
        return bool(result["rows_per_second"] >= LEAST_ADDS or result["share_of_floor"] >= LEAST_ADD_SHARE)
    for prefix, share in TARGETS.items():
        if name.startswith(prefix):
            return bool(result["share_of_floor"] >= share)
    return None


def main() -> None:
    """Measure, print a line a figure, and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slots", type=int, default=100_000, help="frame slots of the store")
    parser.add_argument("--trials", type=int, default=101, help="pairs of trials")
    parser.add_argument("--out", type=Path, help="file for the figures; standard output without it")
    arguments = parser.parse_args()
    results = measure(arguments.slots, arguments.trials)
    for name, result in results.items():
        mark = {True: "reached", False: "MISSED", None: ""}[reached(name, result)]
        if isinstance(result, float):
            print(f"{name:40} {result:10.1f} {mark}")
        else:
            rate, share = result["calls_per_second"]["median"], result["share_of_floor"]
            print(f"{name:40} {rate:10.0f} calls/s, {share:.3f} of the floor {mark}")
    common.write("replay", {"slots": arguments.slots, "trials": arguments.trials}, results, arguments.out)


if __name__ == "__main__":
    main()
