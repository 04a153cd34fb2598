"""What a new run takes from the machine that it starts on: how many of PyTorch's threads, and the precision."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from fastdqn.algorithm.torsos import is_convolved_here
from fastdqn.config import Config
from fastdqn.engine.compiling import resolve_precision
from fastdqn.engine.device import gpu_name
from fastdqn.openmp import OtherPrograms, busy_note, threads_beside

_MOST = 512
"""What `pipeline.threads` may be."""

_SMALL_BATCH = 32
"""Up to which it was measured (docs/performance.md)."""


def with_threads(config: Config, others: OtherPrograms) -> tuple[Config, str]:
    """Return a new run's configuration with the number of PyTorch's threads, where it is to be chosen here.

    Args:
        config: As it was given, with the precision of `with_precision`.
        others: What was seen of other programs so far.

    Returns:
        The configuration, and a line for people where others take cores.
    """
    if config.pipeline.threads or "OMP_NUM_THREADS" in os.environ or gpu_name() is not None:
        return config, ""
    if config.pipeline.data_parallel:  # ranks on several machines would choose each for itself
        return config, ""
    most = min(torch.get_num_threads(), _MOST)
    if _is_fastest_with_one(config):
        most = 1
    count, busy = threads_beside(others, most)
    told = (
        f"{busy_note(busy)}: computing with {count} of {most} threads, which is faster beside them "
        f"(`pipeline.threads = {most}` takes all)"
    )
    chosen = replace(config, pipeline=replace(config.pipeline, threads=count))
    return chosen, told if count < most else ""


def _is_fastest_with_one(config: Config) -> bool:
    """Return whether the extension leaves so little to PyTorch that a second thread costs more than it saves."""
    little = config.learner.batch_size <= _SMALL_BATCH and config.network.head == "scalar"
    precision = config.pipeline.precision
    return little and precision == "bf16" and is_convolved_here(config.network, precision)


def with_precision(config: Config) -> Config:
    """Return a new run's configuration with what its products are computed in, where that is to be chosen here."""
    pipeline = config.pipeline
    if pipeline.precision != "auto":
        return config
    device = "cpu" if gpu_name() is None else "cuda"
    # Ranks on several machines would choose each for itself.
    precision = "fp32" if pipeline.data_parallel else resolve_precision("auto", device, config.network)
    return replace(config, pipeline=replace(pipeline, precision=precision))


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Have PyTorch compute with as many threads while the block runs; 0 leaves it as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
