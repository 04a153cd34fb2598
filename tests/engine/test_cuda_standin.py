"""CudaBackend itself on a stand-in of torch.cuda: no race, the plain loop's bits; planted faults are seen."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("envpool")
if torch.cuda.is_available():
    pytest.skip("there is a GPU: nothing has to stand in for it", allow_module_level=True)

from fastdqn.algorithm import layers
from fastdqn.algorithm.layers import plain_operators
from fastdqn.algorithm.update import WeightsLayout
from fastdqn.engine import device
from fastdqn.engine import learner as learners
from fastdqn.engine.acting import ActingNetwork
from fastdqn.engine.data_parallel import ALONE, Ranks
from fastdqn.engine.device import CpuBackend, CudaBackend
from fastdqn.engine.feed import DeviceFeed, HostFeed, Queueing
from fastdqn.engine.learner import Learner
from fastdqn.replay import ReplayBuffer
from fastdqn.runs.checks import check
from fastdqn.runs.folder import RunFolder
from fastdqn.runs.trainer import train
from tests.engine.cuda_standin import installed
from tests.engine.test_data_parallel import Twins
from tests.engine.test_graph import loop
from tests.engine.test_learner import ACTIONS, NARROW, learner
from tests.runs.test_trainer import equal, rows, small, weights

ROOT = Path(__file__).parents[2]


@pytest.fixture
def machine():
    with installed() as machine:
        yield machine


# The stand-in -----------------------------------------------------------------------------------------------


def test_an_event_orders_two_streams_and_without_it_there_is_a_race(machine):
    gpu = CudaBackend()
    tensor = torch.zeros(3, device="cuda")
    gpu.synchronize()
    gpu.learn.submit(lambda: tensor.add_(1))
    gpu.act.wait(gpu.learn.record())
    gpu.act.submit(lambda: tensor.mul_(2))
    machine.check()
    gpu.learn.submit(lambda: tensor.add_(1))  # nothing says that the product is done
    with pytest.raises(AssertionError, match=r"stream 2: aten\.mul_.* \| stream 1: aten\.add_"):
        machine.check()


def test_the_host_waits_for_what_it_reads_and_writes(machine):
    gpu = CudaBackend()
    host, tensor = gpu.host_memory(3, dtype=torch.float32), torch.zeros(3, device="cuda")
    gpu.synchronize()
    gpu.copy.submit(lambda: tensor.copy_(host, non_blocking=True))
    event = gpu.copy.record()
    event.wait()
    host.numpy()[:] = 1
    machine.check()
    gpu.copy.submit(lambda: tensor.copy_(host, non_blocking=True))
    host.numpy()[:] = 2
    with pytest.raises(AssertionError, match=r"stream 3: copy_ .* \| host: numpy"):
        machine.check()


def test_memory_that_is_freed_under_another_streams_hands_is_a_race(machine):
    gpu = CudaBackend()
    tensor = torch.zeros(3, device="cuda")
    gpu.synchronize()
    gpu.learn.submit(partial(torch.Tensor.add_, tensor, 1))
    del tensor
    with pytest.raises(AssertionError, match="freed on stream 0"):
        machine.check()


def test_a_capture_does_nothing_and_a_replay_does_it_in_the_same_memory(machine):
    gpu = CudaBackend()
    number, results, runs = torch.zeros(2, device="cuda"), [], 0

    def work():
        nonlocal runs
        runs += 1
        number.add_(1)
        results.append(number * 10 + runs)

    replay = gpu.capture(work, [], gpu.learn)
    assert number.tolist() == [3, 3]  # the runs before the capture
    assert results[-1].isnan().all()
    for expected in (4, 5):
        gpu.learn.submit(replay)
        gpu.synchronize()
        assert number.tolist() == [expected, expected]
        assert results[-1].tolist() == [10 * expected + 4] * 2  # Python's counter is frozen
    assert runs == 4


@pytest.mark.parametrize(
    ("planted", "message"),
    [
        (lambda t, h: t.add_(1) if t.sum() > 0 else t.sub_(1), "_local_scalar_dense"),
        (lambda t, h: t[t > 0], "aten.index"),
        (lambda t, h: t.copy_(torch.ones(3)), "pageable"),
        (lambda t, h: torch.cuda.synchronize(), "synchronize"),
        (lambda t, h: h.copy_(t), "pageable"),
        (lambda t, h: torch.zeros(1, pin_memory=True), "page-locking"),
    ],
    ids=["branch", "mask", "pageable", "synchronize", "blocking", "pin"],
)
def test_what_a_capture_forbids_raises(machine, planted, message):
    gpu = CudaBackend()
    tensor, host = torch.zeros(3, device="cuda"), torch.zeros(3)
    gpu.synchronize()
    with pytest.raises(RuntimeError, match=message), torch.cuda.graph(torch.cuda.CUDAGraph()):
        planted(tensor, host)


@pytest.mark.parametrize(
    "planted",
    [
        lambda t: t.item(),
        lambda t: t.cpu(),
        lambda t: bool(t > 0),
        lambda t: t.tolist(),
        lambda t: t.cuda().to("cpu"),
    ],
    ids=["item", "cpu", "bool", "tolist", "to"],
)
def test_hidden_synchronisation_raises(machine, planted):
    tensor = torch.zeros((), device="cuda")
    planted(tensor)
    torch.cuda.set_sync_debug_mode("error")
    with pytest.raises(RuntimeError, match="called a synchronizing CUDA operation"):
        planted(tensor)


def test_the_memories_of_host_and_device_do_not_mix(machine):
    tensor = torch.zeros(3, device="cuda")
    assert tensor.device.type == "cuda"
    with pytest.raises(RuntimeError, match="expected all tensors to be on the same device"):
        tensor + torch.zeros(3)
    with pytest.raises(TypeError, match="numpy"):
        tensor.numpy()


# The package ------------------------------------------------------------------------------------------------


def passes(gpu, kind=DeviceFeed, lag: int = 0, count: int = 12, **queueing) -> None:
    """Act, store, stage, learn, as the trainer does, on random frames, and without waiting at the start."""
    rng = np.random.default_rng(0)
    replay = ReplayBuffer(400, 4, alpha=0.5, seed=1)
    feed = kind(replay, 8, gpu, Queueing(**queueing))
    one = Learner(replace(learner()._config, network=NARROW), ACTIONS, backend=gpu, accelerate="graph")
    updates = 0
    best = ActingNetwork(one, 4, lambda: updates, lag_updates=lag)
    observation = np.repeat(rng.integers(256, size=(4, 1, 84, 84), dtype=np.uint8), 4, axis=1)
    feed.store(replay.begin(observation), observation)
    no = np.zeros(4, np.bool_)
    for number in range(count):
        action = best(observation, number)
        frame = rng.integers(256, size=(4, 1, 84, 84), dtype=np.uint8)
        observation = np.concatenate([observation[:, 1:], frame], axis=1)
        feed.store(replay.add(action, observation, np.ones(4), no, no), observation)
        if number == 5:
            one.prepare(feed.inputs)
            best.prepare()
        if number > 5:
            feed.stage(1.0)
            feed.report(one.launch(updates, 1e-3))
            updates += feed.inputs.updates
    feed.flush()
    gpu.synchronize()


@pytest.mark.parametrize("kind", [HostFeed, DeviceFeed])
@pytest.mark.parametrize(("lag", "priority_lag"), [(0, 0), (0, 4), (2, 4)])
def test_there_is_no_race(machine, kind, lag, priority_lag):
    """From the constructors on: what they allocate is filled on the default stream and used on others.

    Where no priorities are awaited, acting alone waits for the weights: lags of 0 and 4.
    """
    passes(CudaBackend(), kind, lag, updates=2, in_flight=3, priority_lag_updates=priority_lag)
    assert machine.calls["replay"] > 6
    machine.check()


@pytest.mark.parametrize(("priority_lag", "spins"), [(0, 18), (4, 12)])
def test_the_host_sleeps_where_the_device_has_more_to_do(machine, priority_lag, spins):
    """Twelve acts, and six launches whose priorities the next batch needs. Fault: a core lost to the emulator."""
    passes(CudaBackend(), updates=2, in_flight=1, priority_lag_updates=priority_lag)
    assert machine.calls["Event.synchronize"] == spins
    assert machine.calls["Event.synchronize, blocking"] > 0


FAULTS = {
    "constructors that do not wait": (CudaBackend, "synchronize", lambda self: None),
    "streams that do not wait for events": (device._CudaStream, "wait", lambda self, event: None),
    "slots that are used again too early": (device._CudaEvent, "wait", lambda self: None),
}


@pytest.mark.parametrize("kind", [HostFeed, DeviceFeed])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_a_race(machine, monkeypatch, fault, kind):
    monkeypatch.setattr(*FAULTS[fault])
    passes(CudaBackend(), kind, 2, updates=2, in_flight=1, priority_lag_updates=2)
    with pytest.raises(AssertionError, match="races"):
        machine.check()


KINDS = [
    {},
    {"updates_per_launch": 4},
    {"alpha": 0.5},
    {"alpha": 0.5, "updates_per_launch": 4, "priority_lag_updates": 8},
    {"acting_lag_updates": 6},
]


@pytest.mark.parametrize(
    ("changes", "frames"),
    [
        # The fullest one runs in a minute or so; all of them take five.
        pytest.param(
            changes,
            frames,
            marks=pytest.mark.long if len(changes) == 3 and frames == "cuda" else pytest.mark.slow,
        )
        for changes in KINDS
        for frames in ("host", "cuda")
    ],
    ids=str,
)
def test_the_loop_on_the_stand_in_is_the_plain_loop(tmp_path, changes, frames):
    """Weights and every row, bit for bit, and no race."""
    assert_same_loop(tmp_path, frames, ALONE, **changes)


@pytest.mark.slow
@pytest.mark.parametrize("frames", ["host", "cuda"])
def test_the_loop_of_two_ranks_on_the_stand_in_is_the_plain_loop(tmp_path, frames):
    """A rank has half of the games, the replay and each batch; the sum is recorded, and no launch calls it."""
    ranks = Twins()
    lags = {"updates_per_launch": 4, "priority_lag_updates": 8, "acting_lag_updates": 6}
    assert_same_loop(tmp_path, frames, ranks, alpha=0.5, **lags)
    assert 0 < ranks.sums < 40


def assert_same_loop(folder: Path, frames: str, ranks: Ranks, **changes) -> None:
    """The captured loop on the stand-in is the eager one on a CPU, with ranks of the same kind."""
    plain_ranks = type(ranks)()
    with pytest.MonkeyPatch.context() as patch, plain_operators():
        # The form of the arithmetic that a GPU's path has, whose operators are the CPU's on the stand-in.
        patch.setattr(
            learners, "WeightsLayout", lambda module, arranged: WeightsLayout(module, arranged=True)
        )
        patch.setattr(layers, "on_cpu", lambda tensor: False)
        plain_rows, plain_weights = loop(folder / "p", small(), CpuBackend(), ranks=plain_ranks, **changes)
    with installed() as machine:
        got_rows, got_weights = loop(
            folder / "s",
            small(),
            CudaBackend(),
            accelerate="graph",
            frames_on=frames,
            ranks=ranks,
            **changes,
        )
        assert machine.calls["replay"] > 40
        machine.check()
    assert got_rows == plain_rows
    assert equal(got_weights, plain_weights)


@pytest.mark.long
@pytest.mark.parametrize(("frames", "lag"), [("host", 0), ("cuda", 0), ("cuda", 4)])
def test_a_run_that_goes_on_in_the_middle_is_the_one_that_was_not_stopped(tmp_path, machine, frames, lag):
    """With a lag it acts by the newest weights at once: it is then another that was stopped there, too."""
    config = small(total_frames=3_200, log_every_frames=600)
    config = replace(
        config,
        replay=replace(config.replay, alpha=0.5),
        pipeline=replace(
            config.pipeline,
            accelerate="graph",
            frames_on=frames,
            updates_per_launch=2,
            acting_lag_updates=lag,
        ),
    )

    def played(name: str, *, stopped: bool) -> RunFolder:
        run, turns = RunFolder.create(tmp_path / name, config), iter(range(10**9))
        train(run, check(config, device=CudaBackend()), stop_requested=lambda: stopped and next(turns) > 130)
        machine.check()
        if stopped:
            train(run, check(config, device=CudaBackend()), resume=True)
            machine.check()
        return run

    halves, other = played("halves", stopped=True), played("other", stopped=lag > 0)
    assert rows(halves) == rows(other)
    assert equal(weights(halves), weights(other))


@pytest.mark.slow
def test_what_is_tested_on_a_gpu_passes_on_the_stand_in():
    """All but the store of 2.2 GB, whose 64-bit arithmetic is the compiler's. Fault: a test that must fail."""
    command = [sys.executable, "-m", "pytest", "-p", "tests.engine.cuda_standin", "tests/engine/test_cuda.py"]
    done = subprocess.run(
        [*command, "-k", "not 2_2_gb"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "skipped" not in done.stdout
