"""What do frames take that are kept as what changes, and what does it cost? Storage `delta` beside `raw`, by game.

    python benchmarks/storage.py --policies Pong-v5=RUN --out benchmarks/results/storage.json

Each game is recorded first: eight consoles, played at random with each action held for a few steps, and once
more by a policy if there is one (epsilon 0.05). The recording is added over and over until a million frames
are stored, with lives, cuts and resets as they came. What is in a frame does not matter to raw speed, so one
raw buffer and one C memcpy of the frames that must move (benchmarks/replay.py) stand beside all games. The
three take turns; a ratio is that of neighbours in time, and of all ratios the median. The raw and the plain
store are far larger than any cache. It takes 12 GB of memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import common
import envpool
import numpy as np
import tyro
from numpy.typing import NDArray
from replay import Floor

from fastdqn.replay import ReplayBuffer, ReplayStats

ENVS = 8
FLOOR_FRAMES = 300_000  # 2.1 GB
CALLS = {"sample_32": 60, "sample_512": 4, "add": 300}  # of a turn, some milliseconds
GAMES = (
    "Pong-v5",
    "Breakout-v5",
    "Qbert-v5",
    "SpaceInvaders-v5",
    "MsPacman-v5",
    "Seaquest-v5",
    "Asteroids-v5",
    "Riverraid-v5",
    "Enduro-v5",
    "BeamRider-v5",
    "Freeway-v5",
    "MontezumaRevenge-v5",
    "Boxing-v5",
    "Atlantis-v5",
)


@dataclass(frozen=True)
class Settings:
    """Frames kept as what changes, beside raw ones."""

    games: tuple[str, ...] = GAMES
    """EnvPool's names."""
    policies: tuple[str, ...] = ()
    """GAME=RUN: a run whose policy plays the game once more."""
    frames: int = 1_000_000
    """Frames of a buffer."""
    recorded: int = 2_500
    """Steps of each console that are recorded."""
    rounds: int = 21
    """Turns of each; one more at the beginning does not count."""
    out: Path | None = None
    """File for the figures; standard output without it."""


@dataclass(frozen=True)
class Recording:
    """What eight consoles showed: for each step the stacks and whether a game ended."""

    stacks: list[NDArray[np.uint8]]
    done: list[NDArray[np.bool_]]


def record(
    game: str, steps: int, policy: Callable[[NDArray[np.uint8]], NDArray[np.int64]] | None
) -> Recording:
    """Play a game and keep every observation, uint8 [8, 4, 84, 84]."""
    envs = envpool.make(game, env_type="gymnasium", num_envs=ENVS, seed=1, episodic_life=True)
    random, stacks, ends = np.random.default_rng(1), [], []
    observation, _ = envs.reset()
    action = random.integers(envs.action_space.n, size=ENVS)
    for _ in range(steps):
        anew = random.random(ENVS) < (0.05 if policy else 0.25)
        held = policy(observation) if policy else action
        action = np.where(anew, random.integers(envs.action_space.n, size=ENVS), held)
        observation, _, terminated, truncated, _ = envs.step(action)
        stacks.append(observation.copy())
        ends.append(terminated | truncated)
    return Recording(stacks, ends)


class Store:
    """A buffer that is filled with a recording, again and again.

    Args:
        recording: What is added; it begins anew when it has ended.
        storage: `raw` or `delta`.
        frames: Capacity.
    """

    def __init__(self, recording: Recording, storage: Any, frames: int) -> None:
        self.replay = ReplayBuffer(frames, ENVS, storage=storage, seed=1)
        self._done, self._at = recording.done, 0
        self.stacks = recording.stacks
        self._action, self._reward = np.zeros(ENVS, np.int64), np.zeros(ENVS, np.float32)
        self._false = np.zeros(ENVS, bool)
        self.batches = {size: self.replay.make_batch(size) for size in (32, 512)}

    def add(self) -> None:
        """Add the next step of all consoles."""
        if self._at % len(self.stacks) == 0:
            self._at = 1
            self.replay.begin(self.stacks[0])
        stacks, done = self.stacks[self._at], self._done[self._at]
        self.replay.add(self._action, stacks, self._reward, self._false, done)
        self._at += 1

    def fill(self) -> None:
        """Add until every slot has been written, and some more."""
        while self.replay.stats().frames < 0.999 * self.replay.stats().slots:
            for _ in range(1_000):
                self.add()

    def work(self, what: str) -> Callable[[], object]:
        """Return a call: a sample of a size, or an add of eight rows."""
        if what == "add":
            return self.add
        size = int(what.removeprefix("sample_"))
        return partial(self.replay.sample, size, out=self.batches[size])


def milliseconds(work: Callable[[], object], count: int) -> float:
    """Time a call."""
    begin = time.perf_counter()
    for _ in range(count):
        work()
    return 1e3 * (time.perf_counter() - begin) / count


def compare(delta: Store, raw: Store, floor: Floor, rounds: int) -> dict[str, Any]:
    """Return the speed of `delta` over that of `raw` and of memcpy for each call."""
    result = {}
    for what, count in CALLS.items():
        plain = floor.adding(delta.stacks) if what == "add" else floor.sampling(int(what[7:]), "separate")
        over_raw, over_floor = [], []
        for turn in range(rounds + 1):
            ours, theirs = milliseconds(delta.work(what), count), milliseconds(raw.work(what), count)
            least = milliseconds(plain, count)
            if turn:
                over_raw.append(theirs / ours)
                over_floor.append(least / ours)
        result[what] = {"over_raw": common.spread(over_raw), "over_floor": common.spread(over_floor)}
    return result


def figures(stats: ReplayStats) -> dict[str, float]:
    """Return what frames take."""
    return {
        "bytes_per_frame": stats.stored_bytes / stats.frames,
        "key_share": stats.key_frames / stats.frames,
        "raw_share": stats.raw_frames / stats.frames,
    }


def line_of(row: dict[str, Any]) -> str:
    """One game for people."""
    speeds = ", ".join(f"{what} {row[what]['over_raw']['median']:.2f}" for what in CALLS)
    return f"{row['game']:22} {row['play']:7} {row['bytes_per_frame']:6.0f} B/frame, speed over raw: {speeds}"


def main(settings: Settings) -> None:
    """Measure every game, and print a line of each."""
    import fastdqn

    plays: list[tuple[str, Any]] = [(game, None) for game in settings.games]
    for word in settings.policies:
        game, _, run = word.partition("=")
        plays.append((game, fastdqn.load_policy(run)))
    raw: Store | None = None
    floor = Floor(FLOOR_FRAMES)
    rows: list[dict[str, Any]] = []
    for game, policy in plays:
        recording = record(game, settings.recorded, policy.act if policy else None)
        if raw is None:
            raw = Store(recording, "raw", settings.frames)
            raw.fill()
        delta = Store(recording, "delta", settings.frames)
        delta.fill()
        row = {"game": game, "play": "policy" if policy else "random", **figures(delta.replay.stats())}
        rows.append(row | compare(delta, raw, floor, settings.rounds))
        print(line_of(rows[-1]), flush=True)
    common.write(
        "storage", {**asdict(settings), "policies": len(settings.policies), "out": None}, rows, settings.out
    )


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
