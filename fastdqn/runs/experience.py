"""What a run learns from: passes of the loop go in, the batches of launches come out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fastdqn.engine.feed import Feed
from fastdqn.engine.learner import LaunchInputs, LaunchResults
from fastdqn.games.envs import Outcome
from fastdqn.replay import ReplayBuffer


@dataclass(frozen=True)
class Pass:
    """One step of all games.

    Attributes:
        action: int64 [N], what was sent.
        outcome: What came back.
    """

    action: NDArray[np.int64]
    outcome: Outcome


class ExperienceStats(NamedTuple):
    """What an experience holds.

    Attributes:
        transitions: Transitions that can be sampled.
        fill: Share of the room that is in use, 0 to 1.
        allocated_bytes: Memory on the host: when it is full, or what it takes now where frames are kept as what
            changes from one to the next.
        frame_bytes: What a frame takes on the host, on the mean; 0 before there is one.
        device_bytes: Memory of the learner's device for frames, 0 where they stay on the host.
    """

    transitions: int
    fill: float
    allocated_bytes: int
    frame_bytes: float
    device_bytes: int


def of_all(ranks: Sequence[ExperienceStats]) -> ExperienceStats:
    """Return what several ranks hold together: sums, and of the shares and sizes of one frame the mean."""
    total = ExperienceStats(*(sum(column) for column in zip(*ranks, strict=True)))
    count = len(ranks)
    return total._replace(fill=total.fill / count, frame_bytes=total.frame_bytes / count)


class Experience(Protocol):
    """What the loop needs of whatever the learner learns from.

    A pass is taken with `add` and stored with `store`: the loop stores while the emulator works on the next one,
    where the time costs nothing. Stored or not, a pass is part of what `flush` completes and `save` writes.

    Attributes:
        inputs: Where the batches of a launch will lie; what the learner is prepared for.
    """

    inputs: LaunchInputs

    def begin(self, observation: NDArray[np.uint8]) -> None:
        """Begin games, cutting the episodes that are open.

        Args:
            observation: uint8 [N, 4, 84, 84], the first of each game.
        """
        ...

    def add(self, last: Pass) -> None:
        """Take a pass, which `store` stores."""
        ...

    def store(self) -> None:
        """Store the pass that was added last, should it not be stored yet."""
        ...

    def stage(self, beta: float) -> None:
        """Choose the batches of the next launch and queue their way into the inputs' memory.

        Args:
            beta: Exponent of the importance weights; without effect where no sample is preferred.
        """
        ...

    def report(self, results: LaunchResults) -> None:
        """Take note of what the launch of the batches staged last says of each transition."""
        ...

    def flush(self) -> None:
        """Complete what was put off: priorities on their way back, and the pass that is not stored yet."""
        ...

    def save(self, path: Path) -> None:
        """Write all that `load` needs to a file; to be called after `flush`.

        Raises:
            OSError: The disk is full or failed.
        """
        ...

    def load(self, path: Path) -> None:
        """Go on from what `save` wrote.

        Raises:
            ValueError: The file is damaged, or of an experience of another shape.
        """
        ...

    def stats(self) -> ExperienceStats:
        """Return what it holds now."""
        ...


class ReplayedExperience:
    """Transitions that are kept in a replay buffer, and sampled from it again and again.

    Args:
        replay: The buffer.
        feed: Brings its batches to the learner.
    """

    def __init__(self, replay: ReplayBuffer, feed: Feed) -> None:
        self.inputs = feed.inputs
        self._replay, self._feed = replay, feed
        self._last: Pass | None = None

    def begin(self, observation: NDArray[np.uint8]) -> None:
        """Begin games: `Experience.begin`."""
        self.store()
        self._feed.store(self._replay.begin(observation), observation)

    def add(self, last: Pass) -> None:
        """Take a pass: `Experience.add`."""
        self.store()
        self._last = last

    def store(self) -> None:
        """Store the pass added last: in the replay, and with the feed what the replay took of it."""
        if self._last is None:
            return
        action, outcome = self._last.action, self._last.outcome
        self._last = None
        added = self._replay.add(
            action, outcome.observation, outcome.reward, outcome.terminated, outcome.truncated
        )
        self._feed.store(added, outcome.observation)

    def stage(self, beta: float) -> None:
        """Sample the batches of the next launch: `Experience.stage`."""
        self._feed.stage(beta)

    def report(self, results: LaunchResults) -> None:
        """Give the rows of the launch just queued their new priorities: `Experience.report`."""
        self._feed.report(results)

    def flush(self) -> None:
        """Apply the priorities on their way, then store: `Experience.flush`."""
        self._feed.flush()
        self.store()

    def save(self, path: Path) -> None:
        """Write the replay: `Experience.save`."""
        self._replay.save(path)

    def load(self, path: Path) -> None:
        """Read the replay, and have the feed begin anew: `Experience.load`."""
        self._replay.load(path)
        self._feed.refill()

    def stats(self) -> ExperienceStats:
        """Return what the replay holds."""
        stats = self._replay.stats()
        return ExperienceStats(
            transitions=stats.sampleable,
            fill=stats.frames / stats.capacity,
            allocated_bytes=stats.allocated_bytes,
            frame_bytes=round(stats.stored_bytes / stats.frames, 1) if stats.frames else 0.0,
            device_bytes=self._feed.device_bytes,
        )
