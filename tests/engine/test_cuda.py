"""What only a GPU can show; skipped without one.

On a machine without registries: `python -m pytest tests/engine/test_cuda.py` after the steps in docs/gpu.md.
"""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("envpool")
if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

from fastdqn.algorithm.update import Transitions
from fastdqn.config import PipelineConfig
from fastdqn.engine.acting import ActingNetwork
from fastdqn.engine.device import CudaBackend
from fastdqn.engine.feed import DeviceFeed, Queueing
from fastdqn.engine.learner import LaunchInputs, Learner
from fastdqn.replay import ReplayBuffer
from tests.engine.test_graph import loop, plain_loop, play, play_numbers
from tests.engine.test_learner import (
    ACTIONS,
    ALL,
    FEW,
    NARROW,
    PlainLearner,
    assert_same_bits,
    batch,
    copy_of,
    learner,
    sizes,
    update,
)
from tests.runs.test_trainer import equal, small

pytestmark = pytest.mark.cuda


@pytest.fixture(scope="module")
def gpu() -> CudaBackend:
    return CudaBackend()


@pytest.fixture(autouse=True)
def _settle(gpu):
    torch.compiler.reset()
    yield
    gpu.synchronize()


def on_device(rows: Transitions) -> Transitions:
    return Transitions(
        **{field.name: getattr(rows, field.name).cuda() for field in dataclasses.fields(Transitions)}
    )


def put(inputs: LaunchInputs, batches: list[Transitions]) -> None:
    for places, rows in zip(inputs.tensors, batches, strict=True):
        for place, field in zip(places, dataclasses.fields(Transitions), strict=True):
            place.copy_(getattr(rows, field.name))
    torch.cuda.synchronize()


def make(gpu, rules=FEW[2], accelerate="graph", **changes) -> Learner:
    config = replace(learner(rules)._config, **changes)
    return Learner(config, ACTIONS, backend=gpu, accelerate=accelerate)


class Uncaptured(CudaBackend):
    """A GPU on which a capture is the function itself: the same compiled code, launched kernel by kernel."""

    def capture(self, work, outputs, stream):
        return work


def device_inputs() -> LaunchInputs:
    return LaunchInputs([tuple(vars(on_device(batch(0))).values())], Transitions)


def run(one: Learner, updates: int) -> list[torch.Tensor]:
    """Prepare and launch on fresh data, with a new rate every ten; return the losses."""
    inputs = device_inputs()
    one.prepare(inputs)
    losses = []
    for count in range(updates):
        put(inputs, [batch(count)])
        results = one.launch(count, 1e-3 / (1 + count // 10))
        one.backend.synchronize()
        losses.append(results.metrics["loss"].clone())
        torch.cuda.synchronize()  # the next launch writes what is cloned here, on another stream
    return losses


@pytest.mark.parametrize("rules", FEW, ids=str)
def test_captured_is_the_same_callable_uncaptured_bit_for_bit(gpu, rules):
    """Fifty updates with fresh data, target copies and five learning rates: weights, state, every loss."""
    captured, plain = make(gpu, rules), make(Uncaptured(), rules)
    got, want = run(captured, 50), run(plain, 50)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert_same_bits(captured.state_tensors(), plain.state_tensors())
    assert len({float(loss) for loss in got}) == 50


@pytest.mark.parametrize("rules", ALL, ids=str)
def test_compiled_on_the_gpu_is_eager_on_the_cpu_within_the_bound(gpu, rules):
    one, cpu = make(gpu, rules, "compile"), learner(rules)
    for seed in range(5):
        got, want = update(one, on_device(batch(seed))), update(cpu, batch(seed))
        torch.testing.assert_close(got["priority"].cpu(), want["priority"], rtol=1e-4, atol=1e-4)
    for name, value in cpu.state_tensors().items():
        torch.testing.assert_close(one.state_tensors()[name].cpu(), value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-5), ("tf32", 5e-3), ("bf16", 0.06)])
def test_each_precision_is_within_its_bound_of_float64(precision, bound):
    rules = ("huber", "double", "adam", True, None)
    one = make(CudaBackend(precision), rules, "eager", pipeline=PipelineConfig(precision=precision))
    plain = PlainLearner(learner(rules), rules)
    rows = batch(0, rows=32)
    got = update(one, on_device(rows))
    loss, _, norm, error = plain.update(rows, 1e-3)
    assert got["loss"].item() == pytest.approx(loss, rel=bound)
    assert got["grad_norm"].item() == pytest.approx(norm, rel=bound)
    assert got["priority"].tolist() == pytest.approx(sizes(error), abs=bound * max(map(abs, error)))
    CudaBackend()  # back to strict float32


def test_a_restored_state_is_what_the_graph_goes_on_from(gpu):
    first, second = make(gpu), make(gpu)
    run(first, 20)
    middle = copy_of(first.state_tensors())
    run(second, 5)
    second.load_state_tensors(middle)
    for one in (first, second):
        inputs = device_inputs()
        one.prepare(inputs)
        put(inputs, [batch(77)])
        one.launch(20, 1e-3)
    gpu.synchronize()
    assert_same_bits(first.state_tensors(), second.state_tensors())


def test_the_target_and_the_learning_rate_react_after_the_capture(gpu):
    one = make(gpu)
    run(one, 2)
    before = copy_of(one.state_tensors())
    gpu.synchronize()
    one.launch(2, 0.0)  # the third: the target's period
    after = copy_of(one.state_tensors())
    for name, value in before.items():
        if name.startswith("online."):
            assert torch.equal(after[name], value), name
            assert torch.equal(after[name.replace("online.", "target.")], value), name


@pytest.mark.parametrize("frames", ["host", "cuda"])
@pytest.mark.parametrize(
    "changes", [{}, {"updates_per_launch": 4}, {"alpha": 0.5}, {"acting_lag_updates": 6}], ids=str
)
def test_two_runs_of_one_seed_are_one_run(tmp_path, changes, frames):
    """With device frames or whole batches, too: the same updates in the same order."""
    changes = {"accelerate": "graph", **changes}
    first = loop(tmp_path / "1", small(), CudaBackend(), frames_on=frames, **changes)
    second = loop(tmp_path / "2", small(), CudaBackend(), frames_on="host", **changes)
    assert first[0] == second[0]
    assert equal(first[1], second[1])


def test_the_loop_begins_as_the_cpus_does(tmp_path, tmp_path_factory):
    """The first row with a loss has the sum of few updates, before rounding has led the games apart."""
    got = loop(tmp_path / "g", small(), CudaBackend(), accelerate="graph", frames_on="cuda")[0]
    want = plain_loop(tmp_path_factory)[0]
    ours, plain = (next(row for row in rows if row["loss"] is not None) for rows in (got, want))
    assert ours["frames"] == plain["frames"]
    assert ours["loss"] == pytest.approx(plain["loss"], rel=1e-2)


@pytest.mark.parametrize("lag", [0, 50])
def test_nothing_in_the_loop_synchronises(gpu, lag):
    """The only wait is for an event behind the actions; everything else would raise here."""
    rng = np.random.default_rng(0)
    replay = ReplayBuffer(4_000, 8, seed=1)
    feed = DeviceFeed(replay, 32, gpu, Queueing(updates=2, in_flight=4))
    one = Learner(replace(learner()._config, network=NARROW), ACTIONS, backend=gpu, accelerate="graph")
    updates = 0
    best = ActingNetwork(one, 8, lambda: updates, lag_updates=lag)
    observation = np.repeat(rng.integers(256, size=(8, 1, 84, 84), dtype=np.uint8), 4, axis=1)
    feed.store(replay.begin(observation), observation)
    no = np.zeros(8, np.bool_)

    def step(observation):
        frame = rng.integers(256, size=(8, 1, 84, 84), dtype=np.uint8)
        following = np.concatenate([observation[:, 1:], frame], axis=1)
        action = best(observation, 0)
        feed.store(replay.add(action, following, np.ones(8), no, no), following)
        return following

    for _ in range(20):
        observation = step(observation)
    one.prepare(feed.inputs)
    best.prepare()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(30):
            observation = step(observation)
            feed.stage(1.0)
            feed.report(one.launch(updates, 1e-3))
            updates += 2
        means = one.means.read(clear=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert means() is not None


def test_a_store_above_2_2_gb_is_gathered_right(gpu):
    """Slots past 2^31 / 7056 = 304,348 are reached by 64-bit arithmetic alone."""
    free = gpu.free_bytes()
    if free < 3 * 2**30:
        pytest.skip(f"needs 3 GiB of GPU memory, {free / 2**30:.1f} are free")
    replay = ReplayBuffer(320_000, 1, seed=1)
    feed = DeviceFeed(replay, 64, gpu)
    play_numbers(replay, feed, 319_990)
    one = Learner(replace(learner()._config, network=NARROW), ACTIONS, backend=gpu, accelerate="graph")
    one.prepare(feed.inputs)
    seen_high = False
    for index in range(20):
        feed.stage(1.0)
        one.launch(index, 0.0)
        gpu.synchronize()
        tensors = feed.inputs.tensors[0]
        got = feed.inputs.batch(*tensors)
        numbers = tensors[1].cpu()
        seen_high |= bool((numbers > 304_348).any())
        assert torch.equal(got.obs[:, :, 0, 0].cpu(), (numbers % 251).to(torch.uint8))
    assert seen_high


def test_mirrored_frames_are_the_replays(gpu):
    replay = ReplayBuffer(90, 3, frame_shape=(6, 5), seed=1)
    feed = DeviceFeed(replay, 16, gpu)
    play(replay, feed, 200, seed=1)
    gpu.synchronize()
    stored = replay.read_frames(0, np.zeros((replay.ring * 3, 6, 5), np.uint8))
    assert np.array_equal(feed.frames.cpu().numpy(), stored)
