"""What a run of a sweep costs before it is trained: frames, updates, memory, disk; time where a speed is known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fastdqn.algorithm.networks import count_parameters
from fastdqn.runs.build import keeps_replay
from fastdqn.runs.clock import Clock
from fastdqn.runs.memory import replay_bytes
from fastdqn.runs.placement import host_need
from fastdqn.runs.sweep import PlannedRun, is_done, last_row

_NETWORKS = 4  # of a checkpoint: online, target, and the optimizer's two at most
_MOST_ACTIONS = 18


@dataclass(frozen=True)
class Cost:
    """What is left to be paid for a run.

    Attributes:
        name: The run's.
        frames_left: Emulator frames to be played, by its last row of metrics; 0 where it has ended.
        updates_left: Optimizer steps to be done.
        memory_bytes: What it takes of the host's memory while it is trained, with its learner on the CPU; about.
        disk_bytes: What its checkpoints take at most.
        seconds_left: Time at its speed, an estimate; `None` where no speed is known.
    """

    name: str
    frames_left: int
    updates_left: int
    memory_bytes: int
    disk_bytes: int
    seconds_left: float | None


def cost(run: PlannedRun, folder: Path, fps: float | None = None) -> Cost:
    """Return what a run costs.

    Args:
        run: It.
        folder: Its folder, which need not exist.
        fps: Frames per second; `None` takes what the run has measured.
    """
    config, row = run.config, last_row(folder)
    done = is_done(folder, config)
    clock = Clock(config.env.frame_skip, config.replay.warmup_steps, config.learner.steps_per_update)
    frames = 0 if done else max(0, config.total_frames - int(row.get("frames") or 0))
    updates = 0 if done else max(0, clock.updates_planned(config.total_frames) - int(row.get("updates") or 0))
    if fps is None:
        fps = (row.get("timing") or {}).get("fps_run")
    weights = 4 * count_parameters(config.network, _MOST_ACTIONS)
    networks = _NETWORKS + (config.learner.average_updates is not None)
    replay = replay_bytes(config) if keeps_replay(config) else 0
    return Cost(
        run.name,
        frames,
        updates,
        host_need(config, on_gpu=False),
        config.checkpoint.keep * networks * weights + replay,
        frames / fps if fps else None,
    )
