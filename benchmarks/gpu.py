"""What a GPU makes of it, in three parts of less than ten minutes each.

    python benchmarks/gpu.py --part micro --out benchmarks/results/gpu-micro.json
    python benchmarks/gpu.py --part end-to-end --out benchmarks/results/gpu-end-to-end.json
    python benchmarks/gpu.py --part learn --out benchmarks/results/gpu-learn.json

The file is written after every measurement, so that a run that is cut short keeps what it has. `--small` does
all of a part on a CPU in a fraction of a minute: it shows that the script works, and its figures mean nothing.
docs/gpu.md says how to take the project to a GPU machine that reaches no package registry.
"""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import common
import numpy as np
import torch
import tyro
from train import Window, figures

from fastdqn.algorithm import layers
from fastdqn.algorithm.update import Transitions
from fastdqn.config import Config, LearnerConfig, NetworkConfig, OptimizerConfig, PipelineConfig, Precision
from fastdqn.engine.acting import ActingNetwork
from fastdqn.engine.compiling import Acceleration
from fastdqn.engine.device import Backend, CpuBackend, CudaBackend
from fastdqn.engine.feed import PLANNED, DeviceFeed, gather_batch
from fastdqn.engine.learner import LaunchInputs, Learner
from fastdqn.presets import PRESETS
from fastdqn.replay import ReplayBuffer
from fastdqn.runs.checks import check
from fastdqn.runs.folder import RunFolder
from fastdqn.runs.metrics import Snapshot
from fastdqn.runs.trainer import train

ACTIONS = 6
CONV1 = 400 * 32 * 256
CACHE = "TORCHINDUCTOR_CACHE_DIR"


@dataclass(frozen=True)
class Settings:
    """Measurements on a GPU."""

    part: Literal["micro", "end-to-end", "learn"] = "micro"
    """micro: updates, acting and transfers by themselves. end-to-end: frames per second of real training at
    Nature's ratio. learn: Pong to 18, and five minutes of Breakout."""
    small: bool = False
    """A fraction of a minute on a CPU, to keep the script alive."""
    seed: int = 1
    """Of the runs of `learn`."""
    out: Path | None = None
    """File for the figures, written after each; standard output without it."""


class Record:
    """The figures so far, on disk after each."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.results: dict[str, Any] = {"device": _device_name(), "torch_cuda": torch.version.cuda}

    def add(self, name: str, value: Any) -> None:
        """Add a figure and write the file."""
        self.results[name] = value
        print(f"{name}: {value}", flush=True)
        if self._settings.out:
            self.write()

    def write(self) -> None:
        """Write the file."""
        common.write("gpu", {**asdict(self._settings), "out": None}, self.results, self._settings.out)


def _device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def main(settings: Settings) -> None:
    """Do one part."""
    if not torch.cuda.is_available() and not settings.small:
        raise SystemExit("benchmarks/gpu.py needs a CUDA GPU; --small tries the script out on a CPU.")
    record = Record(settings)
    parts: dict[str, Callable[[Settings, Record], None]] = {
        "micro": micro,
        "end-to-end": end_to_end,
        "learn": learn,
    }
    parts[settings.part](settings, record)
    if settings.out is None:
        record.write()


# micro ------------------------------------------------------------------------------------------------------


class Bench:
    """A store of random frames with updates that read it."""

    def __init__(self, small: bool) -> None:
        self.small = small
        self.cuda = torch.cuda.is_available()
        slots = 2_000 if small else 1_000_000
        self.replay = ReplayBuffer(slots, 8, n_step=1, seed=1)
        self.backend = self.new_backend()
        self.feed = DeviceFeed(self.replay, 32, self.backend)
        self._fill(slots // 8)

    def new_backend(self, precision: str = "fp32") -> Backend:
        """Return the GPU, or the tests' double of one."""
        if self.cuda:
            return CudaBackend(precision)
        sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for a script, where it lies is first
        from tests.engine.strict_twin import StrictTwin

        return StrictTwin()

    def _fill(self, steps: int) -> None:
        rng = np.random.default_rng(1)
        frames = rng.integers(256, size=(64, 8, 1, 84, 84), dtype=np.uint8)
        stack = np.repeat(frames[0], 4, axis=1)
        no, zero = np.zeros(8, np.bool_), np.zeros(8, np.float32)
        self.feed.store(self.replay.begin(stack), stack)
        for step in range(steps):
            stack = np.concatenate([stack[:, 1:], frames[step % 64]], axis=1)
            action = rng.integers(ACTIONS, size=8)
            self.feed.store(self.replay.add(action, stack, zero, no, no), stack)
        self.backend.synchronize()

    def inputs(self, batch_size: int, updates: int) -> LaunchInputs:
        """Return planned batches that lie on the device: updates alone, nothing is staged."""
        tensors = []
        for _ in range(updates):
            plan = self.replay.plan(batch_size)
            columns = [getattr(plan, PLANNED.get(name, name)) for name in Transitions.__annotations__]
            tensors.append(
                (self.feed.frames, *(torch.from_numpy(c).to(self.backend.device) for c in columns))
            )
        return LaunchInputs(tensors, gather_batch)

    def learner(
        self,
        accelerate: Acceleration,
        *,
        backend: Backend | None = None,
        precision: Precision = "fp32",
        compiled: bool = True,
    ) -> Learner:
        """Return Nature's double dueling network under Adam."""
        device = backend or self.backend
        device.compiles_captures = compiled and self.cuda
        config = Config(
            network=NetworkConfig(width=1 / 16 if self.small else 1.0, dueling=True),
            learner=LearnerConfig(rule="double"),
            optimizer=OptimizerConfig(name="adam", learning_rate=1e-4),
            pipeline=PipelineConfig(precision=precision),
        )
        return Learner(config, ACTIONS, backend=device, accelerate=accelerate)

    def microseconds(
        self, work: Callable[[], object], per_call: int = 1, backend: Backend | None = None
    ) -> float:
        """Return the median time of one of `per_call` things that `work` queues; the device is waited for."""
        device = backend or self.backend
        calls, rounds = (2, 2) if self.small else (200, 7)
        work()
        times = []
        for _ in range(rounds):
            device.synchronize()
            start = time.perf_counter()
            for _ in range(calls):
                work()
            device.synchronize()
            times.append(1e6 * (time.perf_counter() - start) / calls / per_call)
        return float(np.median(times))

    def updates(
        self, batch_size: int, updates: int, accelerate: Acceleration, **how: Any
    ) -> dict[str, float]:
        """Return microseconds per update, the seconds to get ready, and the floor."""
        torch.compiler.reset()
        learner = self.learner(accelerate, **how)
        start = time.perf_counter()
        learner.prepare(self.inputs(batch_size, updates))
        ready = time.perf_counter() - start
        indices = itertools.count(step=updates)
        return {
            "microseconds": self.microseconds(
                lambda: learner.launch(next(indices)), updates, learner.backend
            ),
            "seconds_to_get_ready": ready,
            **floor(learner.num_parameters, batch_size),
        }


def forward_products() -> int:
    """Return the products of one observation's way through the network at full width."""
    return CONV1 + 81 * 64 * 512 + 49 * 64 * 576 + 3136 * 1024 + 512 * (ACTIONS + 1)


def floor(parameters: int, batch_size: int) -> dict[str, float]:
    """Return what an update has to compute and to move at the least, at full width.

    Multiplications and additions: three forward passes (double Q-learning) and a backward pass of twice one
    less the first layer's input. Bytes: weights, target, gradient and Adam's two means, read and written where
    they change, and the frames.
    """
    # The input of the first layer needs no gradient.
    per_sample = 2 * (5 * forward_products() - CONV1)
    frames = 10 * 84 * 84 * batch_size
    return {"gigaflop": 1e-9 * per_sample * batch_size, "megabytes": 1e-6 * (4 * 8 * parameters + frames)}


def micro(settings: Settings, record: Record) -> None:
    """Nine measurements, the cheap and the telling ones first."""
    bench = Bench(settings.small)
    record.add("1_bandwidth", bandwidths(bench))
    record.add("2_correctness", correctness(bench))
    kinds: dict[str, dict[str, Any]] = {
        "eager": {"accelerate": "eager"},
        "eager_captured": {"accelerate": "graph", "compiled": False},
        "compiled": {"accelerate": "compile"} if bench.cuda else {"accelerate": "eager"},
        "captured": {"accelerate": "graph"},
    }
    sizes = (32, 128, 512) if not settings.small else (8,)
    for size in sizes:
        for name, how in kinds.items():
            record.add(f"3_update_{name}_batch_{size}", bench.updates(size, 1, **how))
        for count in (4, 8, 16) if not settings.small else (2,):
            record.add(f"3_update_captured_{count}_batch_{size}", bench.updates(size, count, "graph"))
    for precision in ("fp32", "tf32", "bf16"):
        if precision == "tf32" and not bench.cuda:
            continue
        for name in ("channels_last", "contiguous_format"):
            layers.MEMORY_FORMAT = getattr(torch, name)
            device = bench.new_backend(precision)
            row = bench.updates(sizes[0], 1, "graph", precision=precision, backend=device)
            record.add(f"4_precision_{precision}_{name}", row)
        layers.MEMORY_FORMAT = torch.channels_last
    bench.new_backend()  # back to strict float32
    if bench.cuda:
        record.add("5_kernels", kernels(bench))
    record.add("6_host_cost", host_cost(bench))
    record.add("7_acting", acting(bench))
    record.add("8_store", {"frames": bench.replay.stats().frames, "bytes": bench.feed.frames.numel()})
    record.add("9_compile", compile_seconds(bench, sizes[0]))
    if bench.cuda:
        record.add("9_peak_bytes", torch.cuda.max_memory_allocated())


def bandwidths(bench: Bench) -> dict[str, float]:
    """Return GB/s of copies within the device and across, and the time of a tiny kernel in a graph."""
    size = 1 << (20 if bench.small else 28)
    device = bench.backend.device
    one, two = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))
    host = bench.backend.host_memory(size, dtype=torch.uint8)
    learn, tiny = bench.backend.learn, torch.zeros(1, device=device)
    replay = bench.backend.capture(lambda: [tiny.add_(1) for _ in range(100)], [], learn)

    def rate(work: Callable[[], object], size: int) -> float:
        return size / bench.microseconds(lambda: learn.submit(work)) / 1e3

    return {
        "device_gigabytes_per_second": rate(lambda: two.copy_(one), 2 * size),
        "to_device_gigabytes_per_second": rate(lambda: one.copy_(host, non_blocking=True), size),
        "from_device_gigabytes_per_second": rate(lambda: host.copy_(one, non_blocking=True), size),
        "tiny_kernel_microseconds": bench.microseconds(lambda: learn.submit(replay), 100),
    }


def correctness(bench: Bench) -> dict[str, bool]:
    """Return whether captured equals uncaptured, and whether a restored state goes on the same way."""
    torch.compiler.reset()
    inputs = bench.inputs(32, 1)
    captured = bench.learner("graph")
    captured.prepare(inputs)
    plain = bench.learner("compile" if bench.cuda else "eager")
    plain.prepare(inputs)
    start = {name: value.clone() for name, value in captured.state_tensors().items()}

    def after(one: Learner, updates: int) -> dict[str, torch.Tensor]:
        for index in range(updates):
            one.launch(index)
        return {name: value.clone() for name, value in one.state_tensors().items()}

    first, second = after(captured, 50), after(plain, 50)
    captured.load_state_tensors(start)
    again = after(captured, 50)
    return {
        "captured_is_uncaptured_after_50": all(torch.equal(first[n], second[n]) for n in first),
        "restored_goes_on_the_same": all(torch.equal(first[n], again[n]) for n in first),
        "weights_moved": not torch.equal(
            first["online.torso.conv1.weight"], start["online.torso.conv1.weight"]
        ),
    }


def kernels(bench: Bench) -> dict[str, Any]:
    """Return how many kernels one captured update has, and the fifteen that take longest."""
    torch.compiler.reset()
    learner = bench.learner("graph")
    learner.prepare(bench.inputs(32, 1))
    learner.launch(0)
    bench.backend.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        learner.launch(1)
        bench.backend.synchronize()
    events = [event for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    longest = sorted(events, key=lambda event: -event.device_time)[:15]
    return {
        "count": len(events),
        "microseconds": sum(event.device_time for event in events),
        "longest": [{"name": event.name[:100], "microseconds": event.device_time} for event in longest],
    }


def compile_seconds(bench: Bench, batch_size: int) -> dict[str, float]:
    """Return seconds until a captured update is ready, with an empty compiler cache and with a full one."""
    found = os.environ.get(CACHE)
    with tempfile.TemporaryDirectory() as folder:
        os.environ[CACHE] = folder
        seconds = {
            name: bench.updates(batch_size, 1, "graph")["seconds_to_get_ready"] for name in ("cold", "warm")
        }
    del os.environ[CACHE]
    if found is not None:
        os.environ[CACHE] = found
    return seconds


def host_cost(bench: Bench) -> dict[str, float]:
    """Return microseconds of the host alone for planning and staging, and for queueing a launch."""
    torch.compiler.reset()
    learner = bench.learner("graph")
    learner.prepare(bench.feed.inputs)
    calls = 2 if bench.small else 300
    spent = {"stage": 0.0, "launch": 0.0}
    for index in range(calls):
        start = time.perf_counter()
        bench.feed.stage(1.0)
        middle = time.perf_counter()
        learner.launch(index)
        spent["stage"] += middle - start
        spent["launch"] += time.perf_counter() - middle
        bench.backend.synchronize()
    indices = itertools.count(calls)
    whole = bench.microseconds(lambda: (bench.feed.stage(1.0), learner.launch(next(indices))))
    return {
        **{f"{name}_microseconds": 1e6 * s / calls for name, s in spent.items()},
        "both_and_device": whole,
    }


def acting(bench: Bench) -> dict[str, Any]:
    """Return microseconds of one act, alone and with updates queued that it need not wait for."""
    result = {}
    for games in (64, 128, 256) if not bench.small else (4,):
        torch.compiler.reset()
        learner = bench.learner("graph")
        updates = 4 if not bench.small else 1
        learner.prepare(bench.inputs(32, updates))
        best = ActingNetwork(learner, games, lambda: 0, lag_updates=10**9)
        best.prepare()
        observation = np.zeros((games, 4, 84, 84), np.uint8)

        alone = bench.microseconds(lambda best=best, seen=observation: best(seen, 0))
        busy, indices = [], itertools.count(step=updates)
        for _ in range(2 if bench.small else 50):
            for _ in range(4):
                learner.launch(next(indices))
            start = time.perf_counter()
            best(observation, 0)
            busy.append(1e6 * (time.perf_counter() - start))
            bench.backend.synchronize()
        result[str(games)] = {
            "alone_microseconds": alone,
            "beside_updates_microseconds": float(np.median(busy)),
            "gigaflop": 1e-9 * 2 * forward_products() * games,
            "megabytes": 1e-6 * (4 * learner.num_parameters + observation.nbytes),
        }
    return result


# end-to-end -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Windows:
    """How long each run is looked at, for `train.Window`."""

    window_seconds: float
    settle_seconds: float


def device_of(settings: Settings) -> Backend | None:
    """Return the CPU where there is no GPU."""
    return None if torch.cuda.is_available() else CpuBackend()


def end_to_end(settings: Settings, record: Record) -> None:
    """Frames per second of training at Nature's ratio."""
    counts = (64, 128, 256) if not settings.small else (4,)
    for game in ("Pong-v5", "Breakout-v5") if not settings.small else ("Pong-v5",):
        for count in counts:
            config = nature_on_a_gpu(game, count, settings.small)
            record.add(f"{game}_{count}_envs", window_of(config, settings))


def nature_on_a_gpu(game: str, num_envs: int, small: bool) -> Config:
    """Return `nature`, with all the updates of a pass in one launch and a short warm-up."""
    config = PRESETS["nature"].config
    launch = max(1, num_envs // config.learner.steps_per_update)
    config = replace(
        config,
        game=game,
        total_frames=2**40,
        env=replace(config.env, num_envs=num_envs),
        replay=replace(config.replay, warmup_steps=40 * num_envs),
        exploration=replace(config.exploration, decay_frames=8_000),  # acting costs what it does later on
        learner=replace(config.learner, target_period_updates=-(-10_000 // launch) * launch),
        pipeline=replace(
            config.pipeline,
            updates_per_launch=launch,
            precision="tf32" if torch.cuda.is_available() else "fp32",
        ),
    )
    if not small:
        return config
    return replace(
        config,
        replay=replace(config.replay, capacity=2_000),
        network=replace(config.network, width=1 / 16),
        learner=replace(config.learner, batch_size=4),
        pipeline=replace(config.pipeline, accelerate="eager"),
    )


def window_of(config: Config, settings: Settings) -> dict[str, Any]:
    """Train until a window is full and return what it shows."""
    window = Window(Windows(0.5, 0.1) if settings.small else Windows(60.0, 3.0))
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder.create(Path(folder) / "run", config)
        train(
            run,
            check(config, device=device_of(settings)),
            report=window.report,
            stop_requested=window.over,
        )
    return {
        **figures(window),
        "batch_size": config.learner.batch_size,
        "steps_per_update": config.learner.steps_per_update,
        "updates_per_launch": config.pipeline.updates_per_launch,
        "num_envs": config.env.num_envs,
        "precision": config.pipeline.precision,
    }


# learn ------------------------------------------------------------------------------------------------------


class Curve:
    """Returns over wall time, and when to stop."""

    def __init__(self, seconds: float, goal: float | None) -> None:
        self._end, self._goal = seconds, goal
        self.points: list[dict[str, float | None]] = []

    def report(self, snapshot: Snapshot) -> None:
        """Keep a point a second."""
        if self.points and snapshot.seconds - (self.points[-1]["seconds"] or 0.0) < 1.0:
            return
        self.points.append(
            {
                "seconds": round(snapshot.seconds, 2),
                "frames": snapshot.frames,
                "updates": snapshot.updates,
                "return_mean": snapshot.return_mean,
            }
        )

    def over(self) -> bool:
        """Whether time is up or the goal is reached."""
        if not self.points:
            return False
        last = self.points[-1]
        reached = self._goal is not None and (last["return_mean"] or -99.0) >= self._goal
        return reached or (last["seconds"] or 0.0) >= self._end


def learn(settings: Settings, record: Record) -> None:
    """Pong until 20 games have a mean of 18, for four minutes at most; then five minutes of Breakout."""
    for game, seconds, goal in (("Pong-v5", 240.0, 18.0), ("Breakout-v5", 300.0, None)):
        config = replace(PRESETS["quick"].config, game=game, seed=settings.seed, total_frames=200_000_000)
        config = replace(
            config,
            env=replace(config.env, num_envs=64),
            replay=replace(config.replay, capacity=400_000, warmup_steps=10_000),
            network=replace(config.network, width=1.0),
            optimizer=replace(config.optimizer, learning_rate_final=None),
            pipeline=replace(config.pipeline, updates_per_launch=4, accelerate="graph"),
        )
        if settings.small:
            seconds = 1.0
            config = replace(
                config,
                env=replace(config.env, num_envs=4),
                replay=replace(config.replay, capacity=2_000, warmup_steps=200),
                network=replace(config.network, width=1 / 16),
                learner=replace(config.learner, batch_size=4),
                pipeline=replace(config.pipeline, accelerate="eager"),
            )
        curve = Curve(seconds, goal)
        with tempfile.TemporaryDirectory() as folder:
            run = RunFolder.create(Path(folder) / "run", config)
            summary = train(
                run,
                check(config, device=device_of(settings)),
                report=curve.report,
                stop_requested=curve.over,
            )
        record.add(game, {"summary": summary.row(), "curve": curve.points, "config": asdict(config)})


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
