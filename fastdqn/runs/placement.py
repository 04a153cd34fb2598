"""Which cores and which GPU each of the runs has that are trained at once, and whether their memory suffices."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass

from fastdqn.config import Config
from fastdqn.engine.device import Gpu
from fastdqn.errors import UserError
from fastdqn.runs import memory
from fastdqn.runs.memory import gib

PROCESS_BYTES = 480_000_000
"""What a run takes beside what its configuration decides: Python, PyTorch, EnvPool. Measured as resident memory,
PyTorch 2.13 on a CPU."""


@dataclass(frozen=True)
class Slot:
    """What one of the runs has to itself while it is trained.

    Attributes:
        cores: Numbers of the CPU cores that it is pinned to.
        gpu: Name of its GPU, `None` where there is none.
    """

    cores: tuple[int, ...]
    gpu: str | None = None


def slots(
    configs: Sequence[Config],
    *,
    jobs: int | None,
    threads: int,
    runs_per_gpu: int = 1,
    cores: Sequence[int] | None = None,
    gpus: Sequence[Gpu] = (),
    host_bytes: int | None = None,
) -> list[Slot]:
    """Divide a machine among runs.

    Each slot has as many cores as any other, one core more or less; with GPUs each has a share of one.

    Args:
        configs: Of the runs that are still to be trained.
        jobs: Runs at once; `None` takes as many as there is room for: a run for every `threads` cores, at most
            `runs_per_gpu` a GPU, and what the host's memory holds.
        threads: PyTorch's CPU threads in each run.
        runs_per_gpu: How many share a GPU.
        cores: Numbers of the cores; `None` takes those that this process may use.
        gpus: Those to be used.
        host_bytes: Memory that is to spare; `None` asks the system.

    Raises:
        UserError: There are fewer cores, GPUs or bytes than the runs need; it has the arithmetic.
    """
    cores = sorted(os.sched_getaffinity(0)) if cores is None else list(cores)
    room = max(1, len(cores) // threads)
    if gpus:
        room = min(room, len(gpus) * runs_per_gpu)
    host_bytes = memory.host_bytes() if host_bytes is None else host_bytes
    if jobs is None:
        fit = _fitting(_largest(configs, room, on_gpu=bool(gpus)), host_bytes)
        jobs = min(max(1, fit), room, len(configs))
    elif jobs * threads > len(cores):
        raise UserError(
            f"jobs = {jobs}: {jobs} runs x {threads} threads = {jobs * threads}, and this machine has "
            f"{len(cores)} cores for them; try `jobs = {room}`"
        )
    elif gpus and jobs > len(gpus) * runs_per_gpu:
        raise UserError(
            f"jobs = {jobs}: {len(gpus)} GPUs x {runs_per_gpu} runs = {len(gpus) * runs_per_gpu}; "
            f"try `runs_per_gpu = {-(-jobs // len(gpus))}`, or `jobs = {len(gpus) * runs_per_gpu}`"
        )
    jobs = min(jobs, len(configs))
    check_memory(configs, jobs, runs_per_gpu, gpus, host_bytes)
    bounds = [len(cores) * slot // jobs for slot in range(jobs + 1)] if jobs else []
    return [
        Slot(tuple(cores[start:end]), gpus[slot % len(gpus)].name if gpus else None)
        for slot, (start, end) in enumerate(itertools.pairwise(bounds))
    ]


def check_memory(
    configs: Sequence[Config], jobs: int, runs_per_gpu: int, gpus: Sequence[Gpu], host_bytes: int
) -> None:
    """Raise where the largest runs do not fit beside each other.

    Args:
        configs: Of the runs.
        jobs: Runs at once.
        runs_per_gpu: How many share a GPU.
        gpus: Those to be used.
        host_bytes: The host's memory that is to spare.

    Raises:
        UserError: It has the arithmetic, and a number that fits.
    """
    host = _largest(configs, jobs, on_gpu=bool(gpus))
    fit = _fitting(host, host_bytes)
    if fit < len(host):
        more = f"try `jobs = {fit}`" if fit else "not even one fits"
        raise UserError(
            f"jobs = {jobs}: the {len(host)} largest runs need {_sum(host)}, and this machine has "
            f"{gib(host_bytes)} to spare; {more}"
        )
    if not gpus:
        return
    share = sorted((gpu_need(config) for config in configs), reverse=True)[:runs_per_gpu]
    least = min(gpu.free_bytes for gpu in gpus)
    fit = _fitting(share, least)
    if fit < len(share):
        more = f"try `runs_per_gpu = {fit}`" if fit else "not even one fits"
        raise UserError(
            f"runs_per_gpu = {runs_per_gpu}: the {len(share)} largest runs need {_sum(share)} of a GPU, and one "
            f"has {gib(least)} free; {more}"
        )


def host_need(config: Config, on_gpu: bool) -> int:
    """Return the bytes of the host's memory that a run takes, about.

    Args:
        config: Its configuration.
        on_gpu: Whether its learner lives on a GPU.
    """
    return PROCESS_BYTES + sum(need.size for need in memory.host_needs(config, on_gpu=on_gpu))


def gpu_need(config: Config) -> int:
    """Return the bytes of a GPU that a run takes at least, about: its frames, too, where they must lie there."""
    frames = config.replay.capacity * memory.FRAME_BYTES if config.pipeline.frames_on == "cuda" else 0
    return frames + sum(need.size for need in memory.learning_needs(config))


def _largest(configs: Sequence[Config], count: int, *, on_gpu: bool) -> list[int]:
    return sorted((host_need(config, on_gpu) for config in configs), reverse=True)[:count]


def _fitting(sizes: Sequence[int], available: int) -> int:
    """Return how many of some sizes, the first ones, fit beside each other."""
    return sum(total <= available for total in itertools.accumulate(sizes))


def _sum(sizes: Sequence[int]) -> str:
    """Write a sum of sizes, equal ones as a product."""
    if len(set(sizes)) == 1:
        return f"{len(sizes)} x {gib(sizes[0])} = {gib(sum(sizes))}"
    return f"{' + '.join(gib(size) for size in sizes[:4])}{' + ...' if sizes[4:] else ''} = {gib(sum(sizes))}"
