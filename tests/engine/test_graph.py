"""Captured updates, launches of several, device frames and the acting stream, against the plain loop.

The strict twin stands for the GPU: it replays traced operations and does all work as late as the waits allow.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("envpool")

from fastdqn.algorithm.update import Transitions
from fastdqn.engine import device as devices
from fastdqn.engine.acting import ActingNetwork
from fastdqn.engine.data_parallel import ALONE
from fastdqn.engine.device import CpuBackend
from fastdqn.engine.feed import DeviceFeed, HostFeed, Queueing
from fastdqn.engine.learner import LaunchInputs, Learner
from fastdqn.errors import UserError
from fastdqn.replay import ReplayBuffer
from fastdqn.runs import build, checks, report
from fastdqn.runs.checks import Checked
from tests.engine.strict_twin import StrictTwin
from tests.engine.test_learner import (
    ACTIONS,
    ALL,
    FEW,
    NARROW,
    assert_same_bits,
    batch,
    copy_of,
    fields,
    learner,
    part,
    sizes,
    update,
    with_guards,  # noqa: F401  # a fixture
)
from tests.runs.test_trainer import equal, go, rows, small, weights

ROWS = 8


def twin_of(plain: Learner) -> Learner:
    """The same learner, captured by the twin."""
    return Learner(plain._config, ACTIONS, seed=0, backend=StrictTwin(), accelerate="graph")


def put(inputs: LaunchInputs, batches: list[Transitions]) -> None:
    for places, rows_ in zip(inputs.tensors, batches, strict=True):
        for place, tensor in zip(places, fields(rows_), strict=True):
            place.copy_(tensor)


def blank(updates: int) -> LaunchInputs:
    return LaunchInputs([fields(batch(99)) for _ in range(updates)], Transitions)


@pytest.mark.parametrize("rules", FEW + ALL, ids=str)
def test_a_replay_is_the_function(rules):
    """Fifteen rules, each over a target copy, a change of the learning rate and a restored state."""
    plain = learner(rules)
    captured = twin_of(plain)
    middle = None
    for seed in range(6):
        rate = 1e-3 / (1 + seed // 2)
        want, got = update(plain, batch(seed), rate), update(captured, batch(seed), rate)
        for name, value in want.items():
            assert torch.equal(got[name], value), name
        if seed == 2:
            middle = copy_of(plain.state_tensors())
    assert_same_bits(captured.state_tensors(), plain.state_tensors())
    assert middle is not None
    for one in (plain, captured):
        one.load_state_tensors(middle)
        update(one, batch(7))
    assert_same_bits(captured.state_tensors(), plain.state_tensors())


def test_an_average_of_captured_updates_is_that_of_plain_ones():
    plain = learner(average=3)
    captured = twin_of(plain)
    for seed in range(5):
        update(plain, batch(seed))
        update(captured, batch(seed))
    assert any(name.startswith("average.") for name in plain.state_tensors())
    assert_same_bits(captured.state_tensors(), plain.state_tensors())


@pytest.mark.parametrize("accelerate", ["eager", "graph"])
@pytest.mark.parametrize(("updates", "shares"), [(8, [1, 2 / 4, 2 / 6, 2 / 8, 2 / 8]), (1, [1, 1])])
def test_an_average_takes_the_weights_once_a_launch(accelerate, updates, shares):
    """Of two updates a launch has two shares; one that is longer than the average is all of it."""
    one = learner(average=updates, period=2)
    one = one if accelerate == "eager" else twin_of(one)
    inputs = blank(2)
    one.prepare(inputs)
    wanted = part(one, "average")
    for launch, share in enumerate(shares):
        put(inputs, [batch(2 * launch), batch(2 * launch + 1)])
        one.launch(2 * launch)
        for name, value in part(one, "online").items():
            wanted[name] = torch.lerp(wanted[name], value, share)
    assert_same_bits(part(one, "average"), wanted)


@pytest.mark.parametrize("accelerate", ["eager", "graph"])
def test_a_launch_of_four_is_four_updates(accelerate):
    """Bit for bit: weights, optimizer, target copies, every number that is told, and their means."""
    singles = learner(period=4)
    block = learner(period=4) if accelerate == "eager" else twin_of(singles)
    inputs = blank(4)
    block.prepare(inputs)
    for launch in range(3):
        batches = [batch(4 * launch + i) for i in range(4)]
        put(inputs, batches)
        got = block.launch(4 * launch, 1e-3)
        block.backend.synchronize()
        for i, one in enumerate(batches):
            want = update(singles, one, 1e-3)
            assert torch.equal(got.priority[i], want.pop("priority"))
            for name, value in want.items():
                assert torch.equal(got.metrics[name][i], value), name
    assert_same_bits(block.state_tensors(), singles.state_tensors())
    assert block.means.count == singles.means.count == 12
    assert block.means.read()() == singles.means.read()()


@pytest.mark.slow
@pytest.mark.usefixtures("with_guards")
def test_a_compiled_launch_of_three_is_three_updates_by_one_compilation():
    """Within the bound of compiled code; fails when each batch of a launch is compiled for."""
    torch.compiler.reset()
    singles, block = learner(), learner(FEW[2], "compile")
    inputs = blank(3)
    block.prepare(inputs)
    with torch.compiler.set_stance("fail_on_recompile"):
        for launch in range(3):
            batches = [batch(3 * launch + i) for i in range(3)]
            put(inputs, batches)
            got = block.launch(3 * launch, 1e-3)
            for i, one in enumerate(batches):
                want = update(singles, one, 1e-3)
                torch.testing.assert_close(got.priority[i], want["priority"], rtol=2e-5, atol=2e-5)
    for name, value in singles.state_tensors().items():
        torch.testing.assert_close(block.state_tensors()[name], value, rtol=1e-4, atol=1e-5)


def test_means_are_of_what_was_queued_before_and_start_over_when_cleared():
    one = twin_of(learner())
    assert one.means.read()() is None
    losses = [update(one, batch(seed))["loss"].item() for seed in range(3)]
    first = one.means.read(clear=True)
    update(one, batch(5))
    assert first() == pytest.approx({**first(), "loss": sum(losses) / 3})
    second = one.means.read()()
    assert second is not None
    assert second["loss"] != pytest.approx(sum(losses) / 3)


def test_a_reading_keeps_its_memory_until_it_is_read():
    """Fault: a ring that more frequent readings overrun, as rows do the display's."""
    one = twin_of(learner())
    first_loss = update(one, batch(0))["loss"].item()
    first = one.means.read()
    for seed in range(1, 7):
        update(one, batch(seed))
        one.means.read()()
    assert first() == pytest.approx({**first(), "loss": first_loss})
    held = [one.means.read() for _ in range(6)]
    assert len({tuple(read().values()) for read in held}) == 1


def test_sums_go_on_from_a_checkpoint():
    whole, half, rest = learner(), learner(), twin_of(learner())
    for seed in range(4):
        update(whole, batch(seed))
    for seed in range(2):
        update(half, batch(seed))
    rest.load_state_tensors(half.state_tensors())
    rest.means.set_state(*half.means.state())
    for seed in (2, 3):
        update(rest, batch(seed), index=seed)
    assert rest.means.read()() == whole.means.read()()
    with pytest.raises(ValueError, match="sums: shape"):
        rest.means.set_state(torch.zeros(2, dtype=torch.float64), 1)


def loop(path, config, machine, alpha=0.0, ranks=ALONE, **changes):
    """Run the loop with these settings of the pipeline and the replay; return its rows and its weights."""
    config = replace(
        config,
        total_frames=3_200,
        log_every_frames=600,
        replay=replace(config.replay, alpha=alpha),
        # Steps large enough to turn best actions from update to update, which a lag of acting shows in.
        optimizer=replace(config.optimizer, learning_rate=5e-3, learning_rate_final=None),
        pipeline=replace(config.pipeline, **changes),
    )
    run = go(path, config, device=machine, ranks=ranks)
    return rows(run), weights(run)


PLAIN_LOOPS = {}


def plain_loop(tmp_path_factory, **changes):
    key = tuple(sorted(changes.items()))
    if key not in PLAIN_LOOPS:
        PLAIN_LOOPS[key] = loop(tmp_path_factory.mktemp("plain") / "r", small(), CpuBackend(), **changes)
    return PLAIN_LOOPS[key]


@pytest.mark.parametrize("frames", [pytest.param("host", marks=pytest.mark.long), "cuda"])
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, marks=pytest.mark.long),
        pytest.param({"updates_per_launch": 4}, marks=pytest.mark.long),
        pytest.param({"alpha": 0.5}, marks=pytest.mark.long),
        {"alpha": 0.5, "updates_per_launch": 4, "priority_lag_updates": 8},
        pytest.param({"acting_lag_updates": 6}, marks=pytest.mark.long),
    ],
    ids=str,
)
def test_the_loop_through_the_twin_is_the_plain_loop(tmp_path, tmp_path_factory, changes, frames):
    """Weights and every row, bit for bit. `cuda` is the twin's own memory here."""
    plain_rows, plain_weights = plain_loop(tmp_path_factory, **changes)
    assert plain_rows[-1]["updates"] > 120
    assert len({row["loss"] for row in plain_rows}) > 3
    twin_rows, twin_weights = loop(
        tmp_path / "t", small(), StrictTwin(), accelerate="graph", frames_on=frames, **changes
    )
    assert twin_rows == plain_rows
    assert equal(twin_weights, plain_weights)


@pytest.mark.long
def test_launches_priorities_and_lags_are_different_runs(tmp_path_factory):
    """Fails when one of these settings reaches nothing."""
    kinds = [
        {},
        {"alpha": 0.5},
        {"alpha": 0.5, "updates_per_launch": 4, "priority_lag_updates": 8},
        {"acting_lag_updates": 6},
    ]
    runs = [plain_loop(tmp_path_factory, **kind)[1] for kind in kinds]
    assert not any(equal(a, b) for a, b in itertools.combinations(runs, 2))


@pytest.mark.long
def test_the_twins_loop_shows_an_update_that_does_not_wait_for_its_batch(
    tmp_path, tmp_path_factory, monkeypatch
):
    changes = {
        "alpha": 0.5,
        "updates_per_launch": 4,
        "priority_lag_updates": 8,
    }  # a plain loop there is already
    plain_rows, plain_weights = plain_loop(tmp_path_factory, **changes)
    twin = StrictTwin()
    monkeypatch.setattr(twin.learn, "wait", lambda event: None)
    twin_rows, twin_weights = loop(
        tmp_path / "t", small(), twin, accelerate="graph", frames_on="host", **changes
    )
    assert twin_rows != plain_rows
    assert not equal(twin_weights, plain_weights)


def actions(machine: devices.Backend, lag: int) -> list[list[int]]:
    """The best actions between updates so large that they turn each time."""
    captured = isinstance(machine, StrictTwin)
    accelerate = "graph" if captured else "eager"
    one = Learner(replace(learner()._config, network=NARROW), ACTIONS, backend=machine, accelerate=accelerate)
    count = 0
    best = ActingNetwork(one, 6, lambda: count, lag_updates=lag)
    inputs = blank(1)
    one.prepare(inputs)
    best.prepare()
    taken = []
    for index in range(20):
        machine.learn.submit(partial(put, inputs, [batch(index)]))
        one.launch(index, 0.3)
        count = index + 1
        taken.append(best(batch(100 + index, rows=6).obs.numpy(), index).tolist())
    return taken


@pytest.mark.parametrize("lag", [0, 3])
def test_acting_on_the_twin_is_acting_at_once(lag):
    plain = actions(CpuBackend(), lag)
    assert len({tuple(action) for action in plain}) > 2
    assert actions(StrictTwin(), lag) == plain


@pytest.mark.parametrize("lag", [0, 3])
def test_the_twin_shows_an_act_that_does_not_wait_for_its_weights(monkeypatch, lag):
    twin = StrictTwin()
    monkeypatch.setattr(twin.act, "wait", lambda event: None)
    assert actions(twin, lag) != actions(CpuBackend(), lag)


def play(replay: ReplayBuffer, feed, passes: int, seed: int) -> None:
    """Random stacks with ends of episodes, told to the feed."""
    rng = np.random.default_rng(seed)
    stack = np.repeat(rng.integers(256, size=(3, 1, 6, 5), dtype=np.uint8), 4, axis=1)
    feed.store(replay.begin(stack), stack)
    done = np.zeros(3, np.bool_)
    for _ in range(passes):
        frame = rng.integers(256, size=(3, 1, 6, 5), dtype=np.uint8)
        stack = np.concatenate([stack[:, 1:], frame], axis=1)
        stack[done] = frame[done]  # a new game: its first frame, four times
        ended = (rng.random(3) < 0.1) & ~done
        added = replay.add(rng.integers(4, size=3), stack, rng.random(3), ended, np.zeros(3, np.bool_))
        feed.store(added, stack)
        done = ended


@pytest.mark.parametrize("storage", ["raw", "delta"])
@pytest.mark.parametrize("device", [CpuBackend, StrictTwin])
def test_the_devices_frames_are_the_replays(device, storage):
    """After several turns of the ring, and again after a restore into an empty mirror."""
    replay = ReplayBuffer(90, 3, frame_shape=(6, 5), storage=storage, seed=1)
    feed = DeviceFeed(replay, 16, device())
    play(replay, feed, 200, seed=1)
    feed._backend.synchronize()
    slots = replay.ring * 3
    stored = replay.read_frames(0, np.zeros((slots, 6, 5), np.uint8))
    assert np.array_equal(feed.frames.numpy(), stored)
    other = DeviceFeed(replay, 16, device())
    other.refill()
    assert np.array_equal(other.frames.numpy(), stored)


@pytest.mark.slow
def test_frames_past_two_gigabytes_are_gathered_right():
    """Slots past 2^31 / 7056 = 304,348 are reached by 64-bit arithmetic alone. Takes 5 GB."""
    replay = ReplayBuffer(320_000, 1, seed=1)
    feed = DeviceFeed(replay, 64, StrictTwin())
    play_numbers(replay, feed, 319_990)
    highest = 0
    for _ in range(20):
        feed.stage(1.0)
        feed._backend.synchronize()
        got, numbers = feed.inputs.batch(*feed.inputs.tensors[0]), feed.inputs.tensors[0][1]
        highest = max(highest, int(numbers.max()))
        assert torch.equal(got.obs[:, :, 0, 0], (numbers % 251).to(torch.uint8))
    assert highest > 304_348


def play_numbers(replay: ReplayBuffer, feed, steps: int) -> None:
    """Make every frame one value, its number modulo 251: the ring does not wrap, so the number is its slot."""
    stack = np.zeros((1, 4, 84, 84), np.uint8)
    feed.store(replay.begin(stack), stack)
    no, zero = np.zeros(1, np.bool_), np.zeros(1)
    for number in range(1, steps):
        stack = np.roll(stack, -1, axis=1)
        stack[:, -1] = number % 251
        feed.store(replay.add(np.zeros(1, np.int64), stack, zero, no, no), stack)


@pytest.mark.parametrize("device", [CpuBackend, StrictTwin])
@pytest.mark.parametrize("n_step", [1, 3])
def test_both_feeds_give_the_replays_batches(device, n_step):
    """Two batches a launch, many launches queued before one is read: each is what the replay would sample."""

    def filled():
        return ReplayBuffer(90, 3, frame_shape=(6, 5), n_step=n_step, alpha=0.5, seed=3)

    class Mute:
        def store(self, added, observation):
            pass

    oracle = filled()
    play(oracle, Mute(), 60, seed=2)
    for kind in (HostFeed, DeviceFeed):
        replay, machine = filled(), device()
        feed = kind(replay, 8, machine, Queueing(updates=2))
        play(replay, feed, 60, seed=2)
        seen = []
        for _ in range(9):
            feed.stage(0.4)
            for tensors in feed.inputs.tensors:
                machine.learn.submit(partial(keep, seen, feed.inputs.batch, tensors))
        machine.synchronize()
        again = filled()
        play(again, Mute(), 60, seed=2)
        for got in seen:
            want = again.sample(8, beta=0.4)
            for name, value in got.items():
                assert np.array_equal(value, getattr(want, name)), (kind, name)


def keep(seen: list, batch_of, tensors: tuple) -> None:
    """Copy the batch that an update would see at this moment."""
    seen.append({name: value.clone().numpy() for name, value in vars(batch_of(*tensors)).items()})


@pytest.mark.parametrize("device", [CpuBackend, StrictTwin])
@pytest.mark.parametrize("lag", [0, 1, 4, 7])
def test_acting_is_at_most_as_stale_as_allowed(device, lag):
    """Every act's weights are those of some count of updates, not older than allowed."""
    captured = device is StrictTwin
    one = Learner(
        replace(learner()._config, network=NARROW),
        ACTIONS,
        backend=device(),
        accelerate="graph" if captured else "eager",
    )
    count = 0
    best = ActingNetwork(one, 5, lambda: count, lag_updates=lag)
    inputs = blank(1)
    one.prepare(inputs)
    best.prepare()
    observation = batch(3, rows=5).obs.numpy()
    history, ages = [one.weights.parameters.clone()], []
    for count in range(1, 25):
        put(inputs, [batch(count)])
        one.launch(count - 1)
        if count % 2:
            best(observation, count)
            one.backend.synchronize()
            history.append(one.weights.parameters.clone())
            used = [
                age
                for age, kept in enumerate(reversed(history))
                if torch.equal(kept, best._weights.parameters)
            ]
            ages.append(used[0])
            assert used[0] <= lag
        else:
            one.backend.synchronize()
            history.append(one.weights.parameters.clone())
    assert (max(ages) > 0) == (lag > 0)


def test_a_resumed_learner_acts_on_its_restored_weights():
    first = twin_of(learner())
    best = ActingNetwork(first, 5, lambda: 0, lag_updates=50)
    first.prepare(blank(1))
    best.prepare()
    captured = best._run
    with torch.no_grad():
        first.weights.parameters[-ACTIONS:] = torch.tensor([0.0, 0.0, 1000.0, 0.0])
    best.prepare()
    assert best._run is captured
    assert (best(batch(1, rows=5).obs.numpy(), 0) == 2).all()


# The bounds: relative to the largest value, after one update from the same weights.
PRECISIONS = {"fp32": 1e-5, "bf16": 0.06}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_each_precision_is_within_its_bound_of_float64(precision):
    from tests.engine.test_learner import PlainLearner

    config = learner(("huber", "double", "adam", True, None))._config
    ours = Learner(replace(config, pipeline=replace(config.pipeline, precision=precision)), ACTIONS)
    plain = PlainLearner(ours, ("huber", "double", "adam", True, None))
    rows_ = batch(0, rows=32)
    got = update(ours, rows_)
    loss, q_mean, norm, error = plain.update(rows_, 1e-3)
    bound, largest = PRECISIONS[precision], max(abs(value) for value in error)
    assert got["loss"].item() == pytest.approx(loss, rel=bound)
    assert got["grad_norm"].item() == pytest.approx(norm, rel=bound)
    assert got["priority"].tolist() == pytest.approx(sizes(error), abs=bound * largest)
    assert got["q_mean"].item() == pytest.approx(q_mean, abs=bound * largest)
    if precision == "bf16":  # it must really have been computed so
        assert got["priority"].tolist() != pytest.approx(sizes(error), abs=1e-5 * largest)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("accelerate", "graph"), ("precision", "tf32"), ("frames_on", "cuda")],
)
def test_what_needs_a_gpu_is_refused_without_one(monkeypatch, setting, value):
    monkeypatch.setattr(devices, "has_cuda", lambda: False)
    config = small()
    config = replace(config, pipeline=replace(config.pipeline, **{setting: value}))
    with pytest.raises(UserError, match=f"pipeline.{setting} = '{value}': needs a CUDA GPU"):
        checks.check(config)


@pytest.mark.parametrize(
    ("accelerate", "found", "refused"),
    [("compile", False, True), ("compile", True, False), ("eager", False, False), ("auto", False, False)],
)
def test_what_needs_a_compiler_is_refused_without_one(monkeypatch, accelerate, found, refused):
    """`auto` is eager in a run as short as this."""
    monkeypatch.setattr(devices, "has_cuda", lambda: False)
    monkeypatch.setenv("CXX", "c++-17")
    monkeypatch.setattr(checks.shutil, "which", lambda name: {"c++-17": "/bin/x" if found else None}[name])
    config = small()
    config = replace(config, total_frames=1_000, pipeline=replace(config.pipeline, accelerate=accelerate))
    if refused:
        with pytest.raises(UserError, match=r"accelerate = 'compile': .* with c\+\+-17, which is not there"):
            checks.check_compiler(config)
    else:
        checks.check_compiler(config)


class Roomy(StrictTwin):
    """A twin with memory of its own, in bytes."""

    def __init__(self, free: int) -> None:
        super().__init__()
        self.free = free

    def free_bytes(self) -> int:
        return self.free


@pytest.mark.parametrize(
    ("free", "setting", "resident"),
    [(10**9, "auto", True), (10**6, "auto", False), (10**9, "host", False), (25_000_000, "cuda", True)],
)
def test_frames_go_where_they_fit_and_that_is_said(free, setting, resident):
    config = small()
    config = replace(config, pipeline=replace(config.pipeline, frames_on=setting))
    components = build.build(Checked(config, Roomy(free)))
    components.envs.close()
    stats = components.experience.stats()
    assert stats.device_bytes == resident * 3_000 * 84 * 84
    assert report.frames_note(stats) == (
        "0.02 GiB of frames on the device" if resident else "frames on the host"
    )


def test_frames_that_do_not_fit_are_refused():
    config = small()
    config = replace(config, pipeline=replace(config.pipeline, frames_on="cuda"))
    with pytest.raises(UserError, match=r"the GPU has 0\.0 GiB free; try `pipeline\.frames_on = 'host'`"):
        build.build(Checked(config, Roomy(10**6)))


def test_a_runs_acting_follows_the_updates_of_its_clock():
    """Fails when the weights' age is counted by anything else: they would never be taken over."""
    config = small()
    config = replace(config, pipeline=replace(config.pipeline, acting_lag_updates=4))
    components = build.build(Checked(config, CpuBackend()))
    components.envs.close()
    acting, weights = components.acting, components.learner.weights.parameters
    acting.prepare()
    start = weights.clone()
    observation = np.zeros((config.env.num_envs, 4, 84, 84), np.uint8)
    for updates, used in ((4, start), (1, start + 1)):  # at the fifth those of the fourth
        weights.add_(1.0)
        components.clock.add_updates(updates)
        acting(observation, 0)
        assert torch.equal(acting._weights.parameters, used)
