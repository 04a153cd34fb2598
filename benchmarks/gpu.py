"""What a GPU makes of it, in parts, the most telling first.

    python benchmarks/gpu.py --part first --out benchmarks/results/gpu-first.json

benchmarks/gpu.sh does all of them. The file is written after every measurement, and what it already has is not
measured again: a part that was cut short goes on where it stopped.

`--rehearse` does all of a part on a CPU, with small sizes, on the tests' stand-in of torch.cuda: it shows that
every line runs and that no two streams race. Its figures mean nothing, its JSON says that it is a rehearsal,
and it is not written into benchmarks/results. docs/gpu.md says how to take the project to a GPU machine that
reaches no package registry.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import common
import gpu_profile
import numpy as np
import torch
import torch._inductor.config
import torch._inductor.utils
import tyro
from train import Window, figures

from fastdqn.algorithm import layers
from fastdqn.algorithm.update import Transitions
from fastdqn.config import Config, LearnerConfig, NetworkConfig, OptimizerConfig, PipelineConfig, Precision
from fastdqn.engine.acting import ActingNetwork
from fastdqn.engine.compiling import Acceleration
from fastdqn.engine.device import Backend, CudaBackend
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
CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
HERE = Path(__file__).resolve()


@dataclass(frozen=True)
class Settings:
    """Measurements on a GPU."""

    part: Literal["first", "micro", "ready", "end-to-end", "profile", "learn"] = "first"
    """first: cuDNN's kernels, and updates per second however they are run. micro: larger batches, acting and
    transfers by themselves. ready: seconds to compile and capture in this process. end-to-end: frames per
    second of real training at Nature's ratio. profile: each kernel beside its floor, idle time, host time.
    learn: Pong to 18, and five minutes of Breakout."""
    rehearse: bool = False
    """On the tests' stand-in for a GPU, small: figures that mean nothing."""
    seed: int = 1
    """Of the runs of `learn`."""
    out: Path | None = None
    """File for the figures, written after each; standard output without it."""


class Record:
    """The figures so far, on disk after each; those of an earlier call are kept."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        if settings.rehearse and settings.out and HERE.parent / "results" in settings.out.resolve().parents:
            raise SystemExit(
                "benchmarks/results has figures of GPUs: a rehearsal's --out is to lie elsewhere."
            )
        self.results: dict[str, Any] = {
            "rehearsal": settings.rehearse,
            "device": torch.cuda.get_device_name(),
            "torch_cuda": torch.version.cuda,
        }
        if settings.out and settings.out.exists():
            earlier = json.loads(settings.out.read_text())["results"]
            same = {name: earlier.get(name) for name in self.results} == self.results
            self.results = earlier if same else self.results

    def measure(self, name: str, measurement: Callable[[], Any]) -> None:
        """Take a figure that is not there yet, and write the file."""
        if name in self.results:
            return
        self.results[name] = measurement()
        print(f"{name}: {self.results[name]}", flush=True)
        if self._settings.out:
            self.write()

    def write(self) -> None:
        """Write the file."""
        common.write("gpu", {**asdict(self._settings), "out": None}, self.results, self._settings.out)


def main(settings: Settings) -> None:
    """Do one part."""
    with ExitStack() as stack:
        if settings.rehearse:
            sys.path.insert(0, str(HERE.parents[1]))  # for a script, where it lies is first
            from tests.engine.cuda_standin import installed

            stack.callback(stack.enter_context(installed()).check)
        elif not torch.cuda.is_available():
            raise SystemExit("benchmarks/gpu.py needs a CUDA GPU; --rehearse tries the script out on a CPU.")
        record = Record(settings)
        PARTS[settings.part](settings, record)
        if settings.out is None:
            record.write()


# micro ------------------------------------------------------------------------------------------------------


class Bench:
    """A store of random frames with updates that read it."""

    def __init__(self, small: bool, frames: int = 1_000_000) -> None:
        self.small = small
        slots = 2_000 if small else frames
        self.replay = ReplayBuffer(slots, 8, n_step=1, seed=1)
        self.backend: Backend = CudaBackend()
        self.feed = DeviceFeed(self.replay, 32, self.backend)
        self._fill(slots // 8)

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
        device.compiles_captures = compiled
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

    def updates(self, batch_size: int, updates: int, accelerate: Acceleration, **how: Any) -> dict[str, Any]:
        """Return microseconds per update, the seconds to get ready, the layouts of convolutions, and the floor."""
        torch.compiler.reset()
        learner = self.learner(accelerate, **how)
        inputs = self.inputs(batch_size, updates)
        start = time.perf_counter()
        _, codes = torch._inductor.utils.run_and_get_code(lambda: learner.prepare(inputs))
        ready = time.perf_counter() - start
        indices = itertools.count(step=updates)
        spent = self.microseconds(lambda: learner.launch(next(indices)), updates, learner.backend)
        return {
            "microseconds": spent,
            "updates_per_second": 1e6 / spent,
            "seconds_to_get_ready": ready,
            "layouts": layouts("\n".join(codes)),
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


def layouts(code: str) -> dict[str, int]:
    """Count the layouts of the results of convolutions in the code that Inductor generated.

    The settings alone say nothing: its layout optimisation overrides a tensor's own.
    """
    found: Counter[str] = Counter()
    for name in re.findall(r"(\w+) = (?:extern_kernels\.convolution|torch\.ops\.\S*convolution\S*)\(", code):
        check = re.search(rf"assert_size_stride\({name}, \(([\d, ]+)\), \(([\d, ]+)\)", code)
        if check:
            sizes, strides = ([int(number) for number in part.split(",")] for part in check.groups())
            found["channels_last" if strides[1] == 1 and sizes[1] > 1 else "contiguous"] += 1
    return dict(found)


@contextmanager
def memory_format(name: Literal["channels_last", "contiguous_format"]) -> Iterator[None]:
    """Have convolutions run in this layout, in compiled code, too."""
    with torch._inductor.config.patch(layout_optimization=name == "channels_last"):
        layers.MEMORY_FORMAT = getattr(torch, name)
        try:
            yield
        finally:
            layers.MEMORY_FORMAT = torch.channels_last


KINDS: dict[str, dict[str, Any]] = {
    "eager": {"accelerate": "eager"},
    "compiled": {"accelerate": "compile"},
    "captured": {"accelerate": "graph"},
    "eager_captured": {"accelerate": "graph", "compiled": False},
}


def first(settings: Settings, record: Record) -> None:
    """What matters most, in three minutes: which kernels run, and updates per second."""
    bench = Bench(settings.rehearse, frames=20_000)
    size = 8 if settings.rehearse else 32
    record.measure("kernels_eager", lambda: kernels(bench, "eager", size))
    record.measure("update_captured_1", lambda: bench.updates(size, 1, "graph"))
    record.measure("kernels_captured", lambda: kernels(bench, "graph", size))
    # These are compiled already: the compiler's cache has them.
    for name in ("eager", "compiled"):
        record.measure(f"update_{name}", lambda name=name: bench.updates(size, 1, **KINDS[name]))
    for count in (2,) if settings.rehearse else (4, 8, 16):
        record.measure(f"update_captured_{count}", lambda count=count: bench.updates(size, count, "graph"))
    for layout, precision in itertools.product(
        ("channels_last", "contiguous_format"), ("tf32", "bf16", "fp32")
    ):
        if (layout, precision) != ("channels_last", "fp32"):  # that is `update_captured_1`
            record.measure(
                f"update_{precision}_{layout}", lambda p=precision, f=layout: in_layout(bench, p, f, size)
            )
    record.measure("correctness", lambda: correctness(bench))


def in_layout(bench: Bench, precision: Precision, layout: Any, size: int) -> dict[str, Any]:
    """Measure the captured update of one precision with one layout."""
    with memory_format(layout):
        row = bench.updates(size, 1, "graph", precision=precision, backend=CudaBackend(precision))
    CudaBackend()  # back to strict float32
    return row


def micro(settings: Settings, record: Record) -> None:
    """What is around an update, then larger batches."""
    bench = Bench(settings.rehearse)
    record.measure("host_cost", lambda: host_cost(bench))
    record.measure("acting", lambda: acting(bench))
    record.measure("bandwidth", lambda: bandwidths(bench))
    record.measure(
        "store", lambda: {"frames": bench.replay.stats().frames, "bytes": bench.feed.frames.nbytes}
    )
    record.measure("ready_in_a_new_process", lambda: compile_seconds(settings))
    for size in (8,) if settings.rehearse else (128, 512):
        for name, how in KINDS.items():
            record.measure(f"update_{name}_batch_{size}", lambda h=how, s=size: bench.updates(s, 1, **h))
        for count in (2,) if settings.rehearse else (4, 8):
            row = f"update_captured_{count}_batch_{size}"
            record.measure(row, lambda c=count, s=size: bench.updates(s, c, "graph"))
    record.measure("peak_bytes", torch.cuda.max_memory_allocated)


def ready(settings: Settings, record: Record) -> None:
    """Seconds until an update is compiled and captured, in this process with its caches."""
    bench = Bench(settings.rehearse, frames=2_000)
    size = 8 if settings.rehearse else 32
    record.measure("seconds", lambda: bench.updates(size, 1, "graph")["seconds_to_get_ready"])


def bandwidths(bench: Bench) -> dict[str, float]:
    """Return GB/s of copies within the device and across, and the time of a tiny kernel in a graph."""
    size = 1 << (20 if bench.small else 28)
    device = bench.backend.device
    one, two = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))
    host = bench.backend.host_memory(size, dtype=torch.uint8)
    learn, tiny = bench.backend.learn, torch.zeros(1, device=device)
    bench.backend.synchronize()  # what was allocated was filled on another stream
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
    plain = bench.learner("compile")
    plain.prepare(inputs)

    def state_of(one: Learner) -> dict[str, torch.Tensor]:
        copies = {name: value.clone() for name, value in one.state_tensors().items()}
        one.backend.synchronize()  # the next update must not begin before they are made
        return copies

    def after(one: Learner, updates: int) -> dict[str, torch.Tensor]:
        for index in range(updates):
            one.launch(index)
        return state_of(one)

    start = state_of(captured)

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


def kernels(bench: Bench, accelerate: Acceleration, batch_size: int) -> dict[str, Any]:
    """Return the kernels of one update, in their order, each with its microseconds."""
    torch.compiler.reset()
    learner = bench.learner(accelerate)
    learner.prepare(bench.inputs(batch_size, 1))
    learner.launch(0)
    bench.backend.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        with torch.profiler.profile() as profile:
            learner.launch(1)
            bench.backend.synchronize()
        profile.export_chrome_trace(str(path))
        found = gpu_profile.Trace.read(path).kernels
    return {
        "count": len(found),
        "microseconds": sum(kernel.microseconds for kernel in found),
        "kernels": [{"name": kernel.name[:120], "microseconds": kernel.microseconds} for kernel in found],
    }


def compile_seconds(settings: Settings) -> dict[str, float]:
    """Return seconds until a captured update is ready, in a new process with empty caches and with full ones.

    A process of its own each time: the caches' places are read once, and much is kept in memory besides.
    """
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {name: str(Path(folder) / name) for name in CACHES}
        for name in ("cold", "warm"):
            out = Path(folder) / f"{name}.json"
            command = [sys.executable, str(HERE), "--part", "ready", "--out", str(out)]
            command += ["--rehearse"] * settings.rehearse
            subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
            seconds[name] = json.loads(out.read_text())["results"]["seconds"]
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


def end_to_end(settings: Settings, record: Record) -> None:
    """Frames per second of training at Nature's ratio.

    With all the updates of a pass in one launch and no lag the learner idles while the host stores and samples:
    few updates a launch, and acting one or two passes behind, are the rows beside it. Priorities that have to
    be back before the next batch is drawn are serial: a lag of one launch is the row beside them.
    """
    for game in ("Pong-v5", "Breakout-v5"):
        for count in (4,) if settings.rehearse else (128, 64, 256):
            per_pass = count // 4
            for launch, passes in ((4, 1), (8, 1), (8, 2), (4, 0), (per_pass, 0)):
                launch = min(launch, per_pass)
                pipeline = {"updates_per_launch": launch, "acting_lag_updates": passes * per_pass}
                name = f"{game}_{count}_envs_{launch}_a_launch_{passes}_passes_behind"
                config = nature_on_a_gpu(game, count, settings.rehearse, **pipeline)
                record.measure(name, lambda config=config: window_of(config, settings))
            for lag in (1, 0):
                config = nature_on_a_gpu(game, count, settings.rehearse, priority_lag_updates=lag)
                config = replace(config, replay=replace(config.replay, alpha=0.6))
                name = f"{game}_{count}_envs_priorities_{lag}_behind"
                record.measure(name, lambda config=config: window_of(config, settings))


def nature_on_a_gpu(
    game: str, num_envs: int, small: bool, updates_per_launch: int = 1, **pipeline: Any
) -> Config:
    """Return `nature` with a short warm-up."""
    config, launch = PRESETS["nature"].config, updates_per_launch
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
            precision="tf32",
            **pipeline,
        ),
    )
    if not small:
        return config
    return replace(
        config,
        replay=replace(config.replay, capacity=2_000),
        network=replace(config.network, width=1 / 16),
        learner=replace(config.learner, batch_size=4),
        pipeline=replace(config.pipeline, accelerate="graph"),
    )


def window_of(config: Config, settings: Settings) -> dict[str, Any]:
    """Train until a window is full and return what it shows."""
    window = Window(Windows(0.5, 0.1) if settings.rehearse else Windows(20.0, 3.0))
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder.create(Path(folder) / "run", config)
        train(
            run,
            check(config),
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
            confirm_stop=False,
        )
        if settings.rehearse:
            seconds = 1.0
            config = replace(
                config,
                env=replace(config.env, num_envs=4),
                replay=replace(config.replay, capacity=2_000, warmup_steps=200),
                network=replace(config.network, width=1 / 16),
                learner=replace(config.learner, batch_size=4),
            )
        record.measure(game, lambda c=config, s=seconds, g=goal: learned(c, s, g))


def learned(config: Config, seconds: float, goal: float | None) -> dict[str, Any]:
    """Train for so long, or to the goal."""
    curve = Curve(seconds, goal)
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder.create(Path(folder) / "run", config)
        summary = train(run, check(config), report=curve.report, stop_requested=curve.over)
    return {"summary": summary.row(), "curve": curve.points, "config": asdict(config)}


# profile ----------------------------------------------------------------------------------------------------


def profile(settings: Settings, record: Record) -> None:
    """Each kernel of an update beside its floor; of the loop the learner's idle time, and the host's."""
    bench = Bench(settings.rehearse, frames=20_000)
    peaks = gpu_profile.Peaks(bandwidths(bench)["device_gigabytes_per_second"], **gpu_profile.H100_FLOPS)
    size = 8 if settings.rehearse else 32
    record.measure("update", lambda: profile_update(bench, size, peaks, settings))
    record.measure("loop", lambda: profile_loop(settings))


def trace_path(settings: Settings, name: str) -> Path:
    """Return where a Chrome trace goes: beside the figures."""
    return (settings.out.parent if settings.out else Path(tempfile.mkdtemp())) / f"trace-{name}.json"


def profile_update(
    bench: Bench, batch_size: int, peaks: gpu_profile.Peaks, settings: Settings
) -> list[dict[str, Any]]:
    """Return a row for each kernel of a compiled update. It is not captured: so operators have shapes."""
    torch.compiler.reset()
    learner = bench.learner("compile", precision="tf32", backend=CudaBackend("tf32"))
    learner.prepare(bench.inputs(batch_size, 1))
    path = trace_path(settings, "update")
    with torch.profiler.profile(record_shapes=True) as profiler:
        learner.launch(0)
        learner.backend.synchronize()
    profiler.export_chrome_trace(str(path))
    rows = gpu_profile.kernel_rows(gpu_profile.Trace.read(path), peaks)
    print(gpu_profile.table(rows))
    CudaBackend()  # back to strict float32
    return rows


def profile_loop(settings: Settings) -> dict[str, Any]:
    """Return idle and host times of some passes of real training."""
    config = nature_on_a_gpu("Pong-v5", 4 if settings.rehearse else 128, settings.rehearse)
    skip, count = (50, 5) if settings.rehearse else (300, 50)
    passes, path = itertools.count(), trace_path(settings, "loop")
    profiler = torch.profiler.profile()
    mark: Any = None

    def one_more() -> bool:
        """Called once a pass: begin the trace, mark the passes in it, stop."""
        nonlocal mark
        number = next(passes)
        if mark is not None:
            mark.__exit__(None, None, None)
            mark = None
        if number == skip:
            profiler.start()
        if skip <= number < skip + count:
            mark = torch.profiler.record_function(gpu_profile.PASS).__enter__()
        return number >= skip + count

    with tempfile.TemporaryDirectory() as folder:
        train(RunFolder.create(Path(folder) / "run", config), check(config), stop_requested=one_more)
    profiler.stop()
    profiler.export_chrome_trace(str(path))
    return gpu_profile.loop_figures(gpu_profile.Trace.read(path))


PARTS: dict[str, Callable[[Settings, Record], None]] = {
    "first": first,
    "micro": micro,
    "ready": ready,
    "end-to-end": end_to_end,
    "profile": profile,
    "learn": learn,
}


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
