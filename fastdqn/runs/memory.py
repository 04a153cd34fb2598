"""What a configuration takes of memory, by setting, held against what there is."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Literal

from fastdqn.algorithm.networks import STACK, count_parameters
from fastdqn.config import Config
from fastdqn.replay import available_memory_bytes

FRAME_BYTES = 84 * 84
SLOT_BYTES = {"raw": FRAME_BYTES + 34, "delta": FRAME_BYTES // 4 + 39}
"""A frame slot of the replay by storage: the pixels and what is kept beside them. At most where frames are raw;
where they are kept as what changes, more than any game that was measured needs (docs/replay.md)."""

MOST_SAVED_BYTES = 2_000_000_000
"""Where the configuration leaves it open: a replay whose raw frames would take more is kept as what changes, and
one that takes more even so is left out of checkpoints."""

_MOST_ACTIONS = 18
# Measured as resident memory at its highest, PyTorch 2.13 on a CPU, eager; compiled updates take less.
_GAME_BYTES = 1_300_000  # 256 games against 2
_TRANSITION_BYTES = {
    "nature": 800_000,
    "impala": 10_000_000,
}  # at width 1: mostly activations, their gradients
# Bytes of each pair of quantiles, of each pair of atoms, and of each number of an implicit head's maps.
_QUANTILE_PAIR_BYTES, _ATOM_PAIR_BYTES, _IMPLICIT_BYTES = 80, 20, 12
_NETWORK_COPIES = 18  # at width 4: both networks, the optimizer's two, and what an update holds of their size


@dataclass(frozen=True)
class Need:
    """Memory that one setting decides.

    Attributes:
        setting: Its name.
        value: What the bytes grow with: its value, or what that comes to in this run.
        how: What is multiplied, for people.
        size: Bytes, about.
        power: With which power of `value` the bytes grow.
    """

    setting: str
    value: float
    how: str
    size: int
    power: int = 1

    def fitting(self, available: int) -> str:
        """Return a value that would fit, as people would write it."""
        fits = self.value * (available * 0.9 / self.size) ** (1 / self.power)
        if isinstance(self.value, float):
            return f"{fits:.2g}"
        return str(int(fits) // 1000 * 1000 if fits >= 1000 else max(1, int(fits)))


def storage(config: Config) -> Literal["raw", "delta"]:
    """Return how the frames of a run's replay lie in memory: a rule of the configuration, on every machine."""
    if config.replay.storage != "auto":
        return config.replay.storage
    return "delta" if config.replay.capacity * SLOT_BYTES["raw"] > MOST_SAVED_BYTES else "raw"


def replay_bytes(config: Config) -> int:
    """Return what a run's replay takes when it is full."""
    return config.replay.capacity * SLOT_BYTES[storage(config)]


def problems(config: Config, gpu_bytes: int | None = None, processes: int = 1) -> list[str]:
    """Return what does not fit: each setting that alone is too much, else the sum where that is.

    Args:
        config: Values that `Config.validate` let pass.
        gpu_bytes: Free memory of the GPU that the learner is to live on, `None` where it lives in the host's.
        processes: How many this machine is to have that need as much.
    """
    on_host, available = host_needs(config, on_gpu=gpu_bytes is not None), host_bytes()
    where = "this machine"
    if processes > 1:
        where = f"each of {processes} processes"
        available //= processes
    found = _too_much(config, on_host, available, where)
    if gpu_bytes is not None:
        found += _too_much(config, learning_needs(config), gpu_bytes, "the GPU")
    return found


def host_needs(config: Config, *, on_gpu: bool) -> list[Need]:
    """Return what a run takes of the host's memory.

    Args:
        config: Values that `Config.validate` let pass.
        on_gpu: Whether the learner lives on a GPU.
    """
    if on_gpu:
        return [*_of_play(config), *_of_batches(config, launches_in_flight(config))]
    return [*_of_play(config), *_of_batches(config, 1), *learning_needs(config)]


def host_bytes() -> int:
    """Return the memory that can be had without swapping, within `ulimit -v`, a container's limit or a job's."""
    available = available_memory_bytes()
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return available
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    return min(available, max(0, limit - taken))


def launches_in_flight(config: Config) -> int:
    """Return how many launches may be queued on a GPU: one pass' while the next one's are prepared."""
    steps = config.learner.steps_per_update * config.pipeline.updates_per_launch
    return max(3, 2 * -(-config.env.num_envs // steps))


def _of_play(config: Config) -> list[Need]:
    capacity, games = config.replay.capacity, config.env.num_envs
    slot = SLOT_BYTES[storage(config)]
    record = min(config.env.restart_steps, config.total_frames // config.env.frame_skip) + games
    return [
        Need("replay.capacity", capacity, f"{capacity:,} frames x {slot:,} bytes", capacity * slot),
        Need("env.num_envs", games, f"{games:,} games x {_GAME_BYTES:,} bytes", games * _GAME_BYTES),
        Need(
            "env.restart_steps", record, f"a record of {record:,} actions, twice in a checkpoint", 3 * record
        ),
    ]


def _of_batches(config: Config, slots: int) -> list[Need]:
    """What waits for its turn. Priorities on their way back are nothing beside it: 12 bytes a transition."""
    updates, batch = config.pipeline.updates_per_launch, config.learner.batch_size
    pixels = 2 * STACK * FRAME_BYTES
    return [
        Need(
            "pipeline.updates_per_launch",
            updates,
            f"{slots:,} launches x {updates:,} batches x {batch:,} transitions x {pixels:,} bytes",
            slots * updates * batch * pixels,
        ),
    ]


def transition_bytes(config: Config, num_actions: int = _MOST_ACTIONS) -> int:
    """Return what an update takes for each transition of its batch; benchmarks/memory.py measures it.

    Args:
        config: Values that `Config.validate` let pass.
        num_actions: A, at most where they are not known.
    """
    network = config.network
    torso = _TRANSITION_BYTES.get(network.torso, _TRANSITION_BYTES["nature"]) * max(1.0, network.width)
    head = 0.0
    if network.head in ("quantile", "implicit"):  # each TD error
        head += network.quantiles**2 * _QUANTILE_PAIR_BYTES
    if network.head == "implicit":  # features and hidden units of each fraction
        head += network.quantiles * network.width * (3 * 3_136 + 2 * 512) * _IMPLICIT_BYTES
    if network.head == "categorical":  # each pair of returns, of each next action
        actions = num_actions if config.learner.rule == "munchausen" else 1
        head += actions * network.atoms**2 * _ATOM_PAIR_BYTES
    return int(torso + head)


def learning_needs(config: Config) -> list[Need]:
    """Return what the learner takes of the memory that it lives in."""
    width, batch = config.network.width, config.learner.batch_size
    each, weights = transition_bytes(config), count_parameters(config.network, _MOST_ACTIONS)
    copies = _NETWORK_COPIES + (config.learner.average_updates is not None)
    return [
        Need("learner.batch_size", batch, f"{batch:,} transitions x {each:,} bytes", batch * each),
        Need(
            "network.width",
            float(width),
            f"{weights:,} weights x 4 bytes x {copies} copies while learning",
            weights * 4 * copies,
            power=2,
        ),
    ]


def _too_much(config: Config, needs: Sequence[Need], available: int, where: str) -> list[str]:
    if sum(need.size for need in needs) <= available:
        return []
    there = f"and {where} has {gib(available)} to spare"
    alone = [
        f"{_as_set(config, need)}: {need.how} = {gib(need.size)}, {there}; "
        f"try `{need.setting} = {need.fitting(available)}`"
        for need in needs
        if need.size > available
    ]
    if alone:
        return alone
    largest = sorted(needs, key=lambda need: need.size, reverse=True)[:3]
    parts = " + ".join(f"{gib(need.size)} for {_as_set(config, need)}" for need in largest)
    return [f"memory: {parts} = {gib(sum(need.size for need in largest))}, {there}; make one of them smaller"]


def _as_set(config: Config, need: Need) -> str:
    return f"{need.setting} = {attrgetter(need.setting)(config):,}"


def gib(size: int) -> str:
    """Return a size for people."""
    return f"{size / 2**30:,.1f} GiB"
