"""What the presets compute, as digests: the gate that a change of shape has to pass to the bit.

    python tests/golden/make.py            # compare with figures.json; exit code 1 where a digest differs
    python tests/golden/make.py --write    # make figures.json anew: in a commit of its own that says why

For each preset: 200 eager updates on transitions that were recorded from a real game, and a short run of the
whole trainer. Floating point depends on the processor's vector width, on the library that multiplies and on
threads, so this script first asks for the plainest code of each, which is to give one result on every x86-64
processor (tried on one so far). Figures are kept by version of PyTorch and EnvPool.
"""

from __future__ import annotations

import os
import sys

# Before anything imports torch. What each library takes for "the oldest processor that you know".
PLAIN = {
    "OMP_NUM_THREADS": "1",
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_CBWR": "COMPATIBLE",
    # The C library's pow and exp have variants with fused multiply-add, whose last bit differs.
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-FMA,-FMA4,-AVX2,-AVX2_Usable,-FMA_Usable,-AVX512F",
}
if __name__ == "__main__" and any(os.environ.get(name) != value for name, value in PLAIN.items()):
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **PLAIN})

import argparse
import hashlib
import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastdqn.algorithm import layers, winograd
from fastdqn.config import Config
from fastdqn.engine.device import CpuBackend
from fastdqn.engine.feed import HostFeed
from fastdqn.engine.learner import Learner
from fastdqn.games.envs import AtariEnvs
from fastdqn.presets import PRESETS
from fastdqn.replay import ReplayBuffer
from fastdqn.runs import checkpoint
from fastdqn.runs.folder import RunFolder
from fastdqn.runs.trainer import train

FIGURES = Path(__file__).with_name("figures.json")
UPDATES = 200
TARGET_PERIOD = 60  # so that 200 updates copy the target network three times
STEPS_PLAYED = 400
"""By each of the games that batches are sampled from."""


def digest(*values: Any) -> str:
    """Return a checksum of arrays: their types, shapes and bytes."""
    sum_ = hashlib.sha256()
    for value in values:
        array = np.ascontiguousarray(value)
        sum_.update(f"{array.dtype} {array.shape} ".encode())
        sum_.update(array.tobytes())
    return sum_.hexdigest()[:32]


def by_part(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Return a checksum for each of online, target, optimizer, ..., whatever a part's tensors are called."""
    digests: dict[str, list[str]] = {}
    for name, tensor in tensors.items():
        digests.setdefault(name.partition(".")[0], []).append(digest(tensor.numpy()))
    return {part: digest(sorted(own)) for part, own in sorted(digests.items())}


def shortened(config: Config) -> Config:
    """Return the same algorithm with a target that is copied sooner, and what the plainest code can bear.

    Presets beyond the scalar head on Nature's torso would take hours: they get narrow networks and small batches.
    """
    network, rules = config.network, replace(config.learner, target_period_updates=TARGET_PERIOD)
    if rules.average_updates is not None:
        rules = replace(rules, average_updates=TARGET_PERIOD)
    if (network.head, network.torso) != ("scalar", "nature"):
        network = replace(network, width=1 / 8, quantiles=min(network.quantiles, 8))
        rules = replace(rules, batch_size=8)
    # On every CPU the same: `auto` is a rule of its instructions.
    return replace(
        config, network=network, learner=rules, pipeline=replace(config.pipeline, precision="fp32")
    )


def updates(config: Config, count: int = UPDATES) -> dict[str, str]:
    """Learn from recorded games as training does, and return what went in and what came out.

    Args:
        config: A preset; the games are played at random, so only its network, learner and sampling count.
        count: Updates.
    """
    config = shortened(config)
    rules = config.learner
    replay = ReplayBuffer(
        4_000, 8, n_step=rules.n_step, gamma=rules.gamma, alpha=config.replay.alpha, seed=12
    )
    num_actions = play(AtariEnvs("Breakout-v5", replace(config.env, num_envs=8, threads=1), seed=11), replay)
    learner = Learner(config, num_actions, seed=14)
    feed = HostFeed(replay, rules.batch_size, CpuBackend())
    learner.prepare(feed.inputs)
    batches, priorities, losses = [], [], []
    for index in range(count):
        feed.stage(config.replay.beta)
        batches.append(digest(*(part.numpy() for part in feed.inputs.tensors[0])))
        results = learner.launch(index)
        feed.report(results)
        priorities.append(results.priority[0].numpy().copy())
        losses.append(results.metrics["loss"][0].numpy().copy())
    feed.flush()
    plan = replay.plan(256, beta=0.4)  # which rows are drawn, and their weights, follow from all priorities
    return {
        **by_part(learner.state_tensors()),
        "batches": digest(batches),
        "losses": digest(losses),
        "priorities": digest(*priorities, plan.row, plan.weight),
    }


def play(envs: AtariEnvs, replay: ReplayBuffer) -> int:
    """Fill a replay with random play; return the number of actions."""
    random = np.random.default_rng(13)
    replay.begin(envs.reset())
    for _ in range(STEPS_PLAYED):
        action = random.integers(envs.num_actions, size=envs.num_envs)
        envs.send(action)
        outcome = envs.recv()
        replay.add(action, outcome.observation, outcome.reward, outcome.terminated, outcome.truncated)
    envs.close()
    return envs.num_actions


def run(config: Config, folder: Path) -> dict[str, str]:
    """Train for a moment on a real game and return what the run's folder holds, without what time decides.

    Args:
        config: A preset; its run is made short.
        folder: Where the run goes.
    """
    config = shortened(config)
    short = replace(
        config,
        game="Breakout-v5",
        total_frames=8_000,
        log_every_frames=2_000,
        env=replace(config.env, threads=1, restart_steps=1_000),
        replay=replace(config.replay, capacity=2_000, warmup_steps=1_200),
        pipeline=replace(config.pipeline, accelerate="eager"),
        exploration=replace(config.exploration, decay_frames=4_000),
        checkpoint=replace(config.checkpoint, every_frames=100_000),
    )
    finished = RunFolder.create(folder / config.preset, short)
    train(finished)
    saved = checkpoint.load(checkpoint.newest(finished.checkpoints))
    rows = [json.loads(line) for line in finished.metrics.read_text().splitlines()]
    for row in rows:
        # Bytes follow from how large the replay's own object is, which is nothing that a run computes.
        del row["timing"], row["replay_bytes"]
    clock = saved.state["clock"]
    counts = [clock["steps"], clock["updates"], saved.state["actor"]["acts"], saved.state["games"]]
    return {
        **by_part(saved.tensors),
        "counts": digest(json.dumps(counts)),
        "rows": digest(json.dumps(rows, sort_keys=True)),
    }


def make(presets: Iterable[str]) -> dict[str, dict[str, dict[str, str]]]:
    """Return the figures of these presets."""
    torch.set_num_threads(1)
    # Kernels for vectors of one width or another, which sum in an order of their own.
    winograd._HERE = layers._HAS_LINEAR = False
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in presets:
            config = PRESETS[name].config
            figures[name] = {"updates": updates(config), "run": run(config, Path(folder))}
    return figures


def versions() -> str:
    """Return what the figures depend on beside our own code."""
    return f"torch {torch.__version__.partition('+')[0]}, envpool {metadata.version('envpool')}"


def differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Return where the figures of the presets in `found` are not those wanted."""
    return [
        f"{preset}: {part}: {name}"
        for preset, parts in found.items()
        for part, digests in parts.items()
        for name in sorted({*digests, *wanted.get(preset, {}).get(part, {})})
        if digests.get(name) != wanted.get(preset, {}).get(part, {}).get(name)
    ]


def main() -> int:
    """Compare, or write; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--write", action="store_true", help="make figures.json anew")
    parser.add_argument("--presets", nargs="+", choices=list(PRESETS), default=list(PRESETS))
    arguments = parser.parse_args()
    kept = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    wanted = kept.get(versions())
    if wanted is None and not arguments.write:
        print(f"no figures for {versions()}; there are some for {'; '.join(kept) or 'nothing'}")
        return 2
    found = make(arguments.presets)
    if arguments.write:
        kept[versions()] = {**(wanted or {}), **found}
        FIGURES.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
        return 0
    wrong = differences(wanted or {}, found)
    print("\n".join(f"differs: {line}" for line in wrong) or f"{', '.join(found)}: the same to the bit")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
