"""Settings of every test."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest

# Tests use tiny networks, where a second thread costs more than it gives, above all beside other processes.
# Set before anything imports torch; it holds for the processes that tests start, too.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of Pong whose network is tiny and has learned nothing; games end after 2,000 frames."""
    pytest.importorskip("torch")
    pytest.importorskip("envpool")
    from fastdqn.config import EnvConfig, ReplayConfig
    from fastdqn.presets import PRESETS
    from fastdqn.runs.folder import RunFolder
    from fastdqn.runs.trainer import train

    quick = PRESETS["quick"].config
    config = replace(
        quick,
        total_frames=400,
        env=EnvConfig(num_envs=2, max_episode_frames=2_000),
        replay=ReplayConfig(capacity=1_000, warmup_steps=200),
        network=replace(quick.network, width=1 / 16),
        pipeline=replace(quick.pipeline, accelerate="eager", precision="fp32"),
    )
    run = RunFolder.create(tmp_path_factory.mktemp("tiny") / "run", config)
    train(run)
    return run
