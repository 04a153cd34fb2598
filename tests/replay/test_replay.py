"""The replay buffer's contract call by call: arguments and their errors, layouts, plans and draws."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fastdqn.replay import COLUMNS, Batch, Plan, ReplayBuffer
from tests.reference.toy_env import ToyVectorEnv

FRAME_SHAPE = (3, 5)
NUM_ENVS, STACK = 3, 4
Call = dict[str, Any]


def make(capacity: int = 120, num_envs: int = NUM_ENVS, **options: Any) -> ReplayBuffer:
    return ReplayBuffer(capacity, num_envs, **{"frame_shape": FRAME_SHAPE, **options})


def observations(rows: int = NUM_ENVS, value: int = 0) -> NDArray[np.uint8]:
    """Stacks of copies; row r shows value + r."""
    shape = (rows, STACK, *FRAME_SHAPE)
    return np.broadcast_to(np.arange(value, value + rows, dtype=np.uint8)[:, None, None, None], shape).copy()


def step(rows: int = NUM_ENVS, **changes: Any) -> Call:
    """A good call of `add`, with some arguments replaced."""
    call: Call = {
        "action": np.arange(rows),
        "observation": observations(rows),
        "reward": np.ones(rows, np.float32),
        "terminated": np.zeros(rows, bool),
        "truncated": np.zeros(rows, bool),
    }
    return {**call, **changes}


def filled(seed: int = 0, steps: int = 60, **options: Any) -> ReplayBuffer:
    """A buffer after the same history each time: it wrapped, and env 2's next row is an autoreset row."""
    replay = make(seed=seed, **options)
    autoreset = options.get("autoreset", "next_step")
    env = ToyVectorEnv(
        3, NUM_ENVS, stack=STACK, frame_shape=FRAME_SHAPE, autoreset=autoreset, resets=("repeat",)
    )
    everyone = np.arange(NUM_ENVS)
    replay.begin(env.reset(everyone))
    for _ in range(steps):
        replay.add(**env.step(everyone, end=0.1 if autoreset != "disabled" else 0))
    replay.add(**env.step(everyone, end=0))  # past any autoreset row
    if autoreset != "same_step":
        last = env.step(np.array([2]), end=0)
        replay.add(**{**last, "truncated": np.array([True])}, env_id=np.array([2]))
    return replay


def assert_same_values(one: Any, other: Any) -> None:
    """Two batches or two plans, array for array."""
    for field in dataclasses.fields(one):
        np.testing.assert_array_equal(
            getattr(one, field.name), getattr(other, field.name), err_msg=field.name
        )


def assert_same_buffers(one: ReplayBuffer, other: ReplayBuffer) -> None:
    """Two buffers that hold the same and go on alike. Draws from both, and adds to both."""
    for _ in range(2):
        assert one.stats() == other.stats()
        assert len(one) == len(other)
        assert one.invariant_violation() == other.invariant_violation() == ""
        plans = one.plan(200), other.plan(200)
        assert_same_values(*plans)
        assert_same_values(one.gather(plans[0]), other.gather(plans[1]))
        for replay in (one, other):
            ids = np.array([2, 0, 1])
            replay.begin(observations(value=100), ids)
            added = replay.add(**step(observation=observations(value=100)), env_id=ids)
            assert len(added.slot) == NUM_ENVS


# Constructing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "value", "error"),
    [
        ("capacity", 0, ValueError),
        ("capacity", -1, ValueError),
        ("capacity", 1.5, TypeError),
        ("capacity", "10", TypeError),
        ("num_envs", 0, ValueError),
        ("num_envs", -8, ValueError),
        ("num_envs", 2.0, TypeError),
        ("frame_shape", 84, TypeError),
        ("frame_shape", None, TypeError),
        ("frame_shape", (0, 5), ValueError),
        ("frame_shape", (-3, 5), ValueError),
        ("frame_shape", (3.0, 5), TypeError),
        ("frame_shape", (2**40, 2**40), ValueError),
        ("stack", 0, ValueError),
        ("stack", -4, ValueError),
        ("stack", 4.0, TypeError),
        ("n_step", 0, ValueError),
        ("n_step", -1, ValueError),
        ("n_step", 2**40, ValueError),
        ("gamma", -0.1, ValueError),
        ("gamma", 1.1, ValueError),
        ("gamma", float("nan"), ValueError),
        ("gamma", "high", TypeError),
        ("alpha", -0.1, ValueError),
        ("alpha", 1.5, ValueError),
        ("alpha", float("nan"), ValueError),
        ("alpha", None, TypeError),
        ("autoreset", "nextstep", ValueError),
        ("autoreset", True, ValueError),
        ("layout", "windows", ValueError),
        ("guard_frames", -1, ValueError),
        ("guard_frames", 0.5, TypeError),
        ("seed", -1, ValueError),
        ("seed", 0.5, TypeError),
    ],
)
def test_a_wrong_option_is_refused_by_name(argument: str, value: Any, error: type[Exception]) -> None:
    options: dict[str, Any] = {"capacity": 120, "num_envs": NUM_ENVS, "frame_shape": FRAME_SHAPE}
    with pytest.raises(error, match=rf"^{argument}\b"):
        ReplayBuffer(**{**options, argument: value})


def test_a_window_needs_one_step_returns() -> None:
    with pytest.raises(ValueError, match=r"^layout.*n_step"):
        make(layout="window", n_step=2)


@pytest.mark.parametrize(("stack", "n_step", "guard_frames"), [(4, 1, 0), (4, 3, 0), (1, 1, 5), (4, 5, 7)])
def test_the_smallest_ring_is_stack_and_n_and_guard(stack: int, n_step: int, guard_frames: int) -> None:
    """One frame slot fewer in each env's ring is refused with the capacity that would do."""
    options = {"stack": stack, "n_step": n_step, "guard_frames": guard_frames}
    least = (stack + n_step + guard_frames) * NUM_ENVS
    assert make(least, **options).stats().slots == least
    with pytest.raises(ValueError, match=rf"^capacity.*\b{least}\b"):
        make(least - 1, **options)


def test_capacity_is_split_evenly() -> None:
    replay = make(50, num_envs=3)
    assert replay.ring == 16
    assert replay.stats().slots == 48
    assert replay.stats().capacity == 50


def test_more_memory_than_the_machine_has() -> None:
    """Refused at once with the arithmetic, instead of a process that is killed when the memory fills."""
    with pytest.raises(MemoryError, match=r"^capacity.*84|^capacity.*7056|^capacity.*1764"):
        ReplayBuffer(4 * 10**9, 8)


@pytest.mark.parametrize("alpha", [0.0, 0.6])
def test_memory_per_frame_slot(alpha: float) -> None:
    """At most 7,090 bytes for each frame of 7,056: a second copy of anything large would show."""
    stats = ReplayBuffer(8_000, 8, alpha=alpha, storage="raw").stats()
    assert 7_056 * 8_000 < stats.allocated_bytes <= 7_090 * 8_000


# Storing: what is refused, and that nothing changes then ---------------------------------------------------

BAD_STEPS: dict[str, tuple[str, type[Exception], Call]] = {
    "action float": ("action", TypeError, {"action": np.zeros(3)}),
    "action int16": ("action", TypeError, {"action": np.zeros(3, np.int16)}),
    "action uint64": ("action", TypeError, {"action": np.zeros(3, np.uint64)}),
    "action bool": ("action", TypeError, {"action": np.zeros(3, bool)}),
    "action list": ("action", TypeError, {"action": [0, 1, 2]}),
    "action None": ("action", TypeError, {"action": None}),
    "action short": ("action", ValueError, {"action": np.zeros(2, np.int64)}),
    "action 2-d": ("action", ValueError, {"action": np.zeros((3, 1), np.int64)}),
    "action scalar": ("action", ValueError, {"action": np.array(1)}),
    "action beyond 32 bits": ("action", ValueError, {"action": np.array([0, 2**31, 0])}),
    "observation float": ("observation", TypeError, {"observation": observations().astype(np.float32)}),
    "observation int8": ("observation", TypeError, {"observation": observations().astype(np.int8)}),
    "observation list": ("observation", TypeError, {"observation": observations().tolist()}),
    "observation rows": ("action|env_id|observation", ValueError, {"observation": observations(2)}),
    "observation no rows": ("observation", ValueError, {"observation": observations()[0]}),
    "observation scalar": ("observation", ValueError, {"observation": np.zeros((), np.uint8)}),
    "observation stack": ("observation", ValueError, {"observation": observations()[:, :3]}),
    "observation frame": ("observation", ValueError, {"observation": observations()[..., :4]}),
    "observation flat": ("observation", ValueError, {"observation": observations().reshape(3, -1)}),
    "reward bool": ("reward", TypeError, {"reward": np.zeros(3, bool)}),
    "reward complex": ("reward", TypeError, {"reward": np.zeros(3, complex)}),
    "reward float16": ("reward", TypeError, {"reward": np.zeros(3, np.float16)}),
    "reward list": ("reward", TypeError, {"reward": [0.0, 0.0, 0.0]}),
    "reward nan": ("reward", ValueError, {"reward": np.array([0, np.nan, 0], np.float32)}),
    "reward infinite": ("reward", ValueError, {"reward": np.array([0, -np.inf, 0])}),
    "reward beyond float32": ("reward", ValueError, {"reward": np.array([0, 1e39, 0])}),
    "reward long": ("reward", ValueError, {"reward": np.zeros(4, np.float32)}),
    "terminated int": ("terminated", TypeError, {"terminated": np.zeros(3, np.int64)}),
    "terminated uint8": ("terminated", TypeError, {"terminated": np.zeros(3, np.uint8)}),
    "terminated short": ("terminated", ValueError, {"terminated": np.zeros(2, bool)}),
    "terminated autoreset row": ("terminated", ValueError, {"terminated": np.array([False, False, True])}),
    "truncated float": ("truncated", TypeError, {"truncated": np.zeros(3)}),
    "truncated 2-d": ("truncated", ValueError, {"truncated": np.zeros((1, 3), bool)}),
    "truncated autoreset row": ("truncated", ValueError, {"truncated": np.array([False, False, True])}),
    "env_id float": ("env_id", TypeError, {"env_id": np.arange(3.0)}),
    "env_id uint8": ("env_id", TypeError, {"env_id": np.arange(3, dtype=np.uint8)}),
    "env_id list": ("env_id", TypeError, {"env_id": [0, 1, 2]}),
    "env_id short": ("env_id", ValueError, {"env_id": np.arange(2)}),
    "env_id beyond": ("env_id", ValueError, {"env_id": np.array([0, 1, 3])}),
    "env_id far beyond": ("env_id", ValueError, {"env_id": np.array([0, 1, 2**62])}),
    "env_id negative": ("env_id", ValueError, {"env_id": np.array([0, 1, -1], np.int32)}),
    "env_id repeated": ("env_id", ValueError, {"env_id": np.array([0, 1, 0])}),
    "env_id missing": ("env_id", ValueError, step(rows=2)),
    "final_observation": ("final_observation", ValueError, {"final_observation": observations()}),
    "final_observation dtype": ("final_observation", TypeError, {"final_observation": np.zeros(3)}),
}


@pytest.mark.parametrize("case", BAD_STEPS)
def test_a_refused_step_changes_nothing(case: str) -> None:
    """The error begins with the argument's name; a twin that never saw the call holds and draws the same.

    Most cases are at fault in the last row only: storing row by row while checking would keep the others.
    """
    argument, error, changes = BAD_STEPS[case]
    replay, twin = filled(), filled()
    with pytest.raises(error, match=rf"^({argument})\b"):
        replay.add(**step(**changes))
    assert_same_buffers(replay, twin)


@pytest.mark.parametrize("case", [name for name in BAD_STEPS if name.startswith(("obs", "env"))])
def test_a_refused_begin_changes_nothing(case: str) -> None:
    """As above; `begin` would also have ended the open episodes."""
    argument, error, changes = BAD_STEPS[case]
    call = {name: changes[name] for name in ("observation", "env_id") if name in changes}
    if case == "observation rows":
        argument = "env_id"
    replay, twin = filled(n_step=3), filled(n_step=3)
    with pytest.raises(error, match=rf"^({argument})\b"):
        replay.begin(**{"observation": observations(), **call})
    assert_same_buffers(replay, twin)


def test_a_channels_last_observation_gets_the_transpose() -> None:
    """The message's own expression repairs the call."""
    replay = make(num_envs=2)
    replay.begin(observations(2))
    observation = np.moveaxis(observations(2, value=7), 1, -1)
    message = r"observation.*transpose\(0, 3, 1, 2\)"
    with pytest.raises(ValueError, match=message):
        replay.begin(observation)
    with pytest.raises(ValueError, match=message):
        replay.add(**step(2, observation=observation))
    replay.add(**step(2, observation=observation.transpose(0, 3, 1, 2)))
    np.testing.assert_array_equal(np.unique(replay.sample(50).next_obs), [7, 8])


def test_an_env_that_never_began_is_refused() -> None:
    replay, twin = make(), make()
    for buffer in (replay, twin):
        buffer.begin(observations(2), np.array([0, 2]))
        buffer.add(**step(2), env_id=np.array([2, 0]))
    with pytest.raises(ValueError, match=r"^env_id.*\b1\b"):
        replay.add(**step(), env_id=np.array([2, 0, 1]))
    assert_same_buffers(replay, twin)


def test_without_autoreset_an_ended_env_waits_for_begin() -> None:
    replay, twin = filled(autoreset="disabled"), filled(autoreset="disabled")
    with pytest.raises(ValueError, match=r"^env_id.*\b2\b"):
        replay.add(**step())
    assert_same_buffers(replay, twin)
    replay.begin(observations(1), np.array([2]))
    replay.add(**step())


def test_same_step_needs_the_final_observation_where_done() -> None:
    replay, twin = filled(autoreset="same_step"), filled(autoreset="same_step")
    ends = {"terminated": np.array([False, False, True])}
    with pytest.raises(ValueError, match=r"^final_observation\b"):
        replay.add(**step(**ends))
    for final, error in (
        (observations()[:, :2], ValueError),
        (observations(2), ValueError),
        (observations().astype(np.int32), TypeError),
        (observations().tolist(), TypeError),
    ):
        with pytest.raises(error, match=r"^final_observation\b"):
            replay.add(**step(**ends, final_observation=final))
    assert_same_buffers(replay, twin)


def test_a_window_refuses_what_it_cannot_hold() -> None:
    """The next observation of a window is its observation shifted by one frame: another one is no row of it.

    A new episode may begin anywhere.
    """
    replay, twin = filled(layout="window"), filled(layout="window")
    strange = observations()
    strange[0, 1] = 77
    with pytest.raises(ValueError, match=r"^observation.*window.*separate"):
        replay.add(**step(observation=strange))
    assert_same_buffers(replay, twin)
    with pytest.warns(RuntimeWarning):
        replay.begin(strange)


def test_no_rows_at_all_is_no_step() -> None:
    """An asynchronous loop may come back with nothing."""
    replay, twin = filled(), filled()
    for dtype in (np.int64, np.int32):
        nobody = np.empty(0, dtype)
        assert len(replay.begin(observations(0), nobody).slot) == 0
        assert len(replay.add(**step(0), env_id=nobody).slot) == 0
    assert_same_buffers(replay, twin)


# Storing: what is accepted --------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the observations are noise
def test_every_accepted_dtype_and_memory_order_stores_the_same() -> None:
    """Strided, read-only, Fortran-ordered and converted arguments against plain ones."""
    rng = np.random.default_rng(1)
    call = step(
        observation=rng.integers(0, 256, (NUM_ENVS, STACK, *FRAME_SHAPE), dtype=np.uint8),
        reward=np.float32([0.1, -2, 3]),
        action=np.array([3, -1, 2**31 - 1]),
        terminated=np.array([True, False, False]),
        truncated=np.array([False, False, True]),
    )
    final = rng.integers(0, 256, call["observation"].shape, dtype=np.uint8)
    ids = np.array([1, 2, 0])
    variants: list[Callable[[NDArray[Any]], NDArray[Any]]] = [
        np.asfortranarray,
        lambda array: np.repeat(array, 2, axis=0)[::2],
        lambda array: array[::-1].copy()[::-1],
        lambda array: array.astype({"i": np.int32, "f": np.float64}.get(array.dtype.kind, array.dtype)),
    ]
    for vary in variants:
        plain, replay = make(autoreset="same_step"), make(autoreset="same_step")
        plain.begin(call["observation"], ids)
        plain.add(**call, env_id=ids, final_observation=final)
        varied = {name: vary(array) for name, array in call.items()}
        for array in varied.values():
            array.flags.writeable = False
        replay.begin(vary(call["observation"]), vary(ids))
        replay.add(**varied, env_id=vary(ids), final_observation=vary(final))
        assert_same_values(replay.sample(40), plain.sample(40))


@pytest.mark.parametrize("byte", [2, 128, 255])
def test_any_byte_of_a_flag_but_zero_is_true(byte: int, tmp_path: Path) -> None:
    """Fault: a flag's byte kept as it is: 2 for terminated becomes a truncation, 255 a file of no use."""
    replay, twin = filled(), filled()
    for k in range(40):
        flags = {
            "terminated": np.array([k % 3 == 0, 0, 0], bool),
            "truncated": np.array([0, k % 5 == 0, 0], bool),
        }
        if k % 3 == 1 or k % 5 == 1:  # after a done comes an autoreset row
            flags = {name: np.zeros(3, bool) for name in flags}
        odd = {name: (flag.view(np.uint8) * byte).view(bool) for name, flag in flags.items()}
        twin.add(**step(observation=observations(value=k), **flags))
        replay.add(**step(observation=observations(value=k), **odd))
    replay.save(tmp_path / "replay")
    assert_same_buffers(ReplayBuffer.from_file(tmp_path / "replay"), twin)


def test_the_reward_of_an_autoreset_row_is_ignored() -> None:
    """Fault: NaN refused where nothing is stored: some wrappers leave it in the rows of a reset."""
    replay = filled()
    replay.add(**step(terminated=np.array([True, False, False])))
    reward = np.array([np.nan, 0, 0])
    replay.add(**step(reward=reward))
    with pytest.raises(ValueError, match=r"^reward: row 0 \(environment 0\) has nan"):
        replay.add(**step(reward=reward))


def test_arguments_are_copied() -> None:
    """EnvPool may reuse its arrays: what is stored must not follow them."""
    replay = make(num_envs=1)
    observation = observations(1, value=5)
    replay.begin(observation)
    call = step(1, observation=observation, action=np.array([4]))
    replay.add(**call)
    for array in call.values():
        array[:] = 1
    batch = replay.sample(1)
    assert (batch.obs == 5).all()
    assert (batch.next_obs == 5).all()
    assert batch.action == 4
    assert batch.discount == np.float32(0.99)


def test_rows_are_named_by_sequence_and_env() -> None:
    """A row is sequence * num_envs + env; after many wraps the numbers go on, none is used again."""
    replay = make(capacity=3 * 8)
    replay.begin(observations())
    for i in range(100):
        replay.add(**step(action=np.array([i, i, i])))
    batch = replay.sample(500)
    np.testing.assert_array_equal(batch.row // NUM_ENVS, batch.action)
    assert set((batch.row % NUM_ENVS).tolist()) == {0, 1, 2}
    assert batch.action.min() > 90


def test_whole_stacks_are_counted_and_warned_of_once() -> None:
    replay = make(num_envs=1)
    unrelated = np.random.default_rng(0).integers(0, 256, (3, 1, STACK, *FRAME_SHAPE), dtype=np.uint8)
    replay.begin(observations(1))
    with pytest.warns(RuntimeWarning, match="whole"):
        replay.add(**step(1, observation=unrelated[0]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        replay.add(**step(1, observation=unrelated[1]))
        replay.begin(unrelated[2])
    assert replay.stats().whole_stacks == 3
    assert replay.stats().frames_written == 1 + 3 * STACK


@pytest.mark.parametrize("storage", ["raw"], indirect=True)
def test_stats_count() -> None:
    """Two envs, ring 6, next-step autoreset; every number follows from the calls."""
    replay = make(capacity=13, num_envs=2)
    assert replay.stats()._asdict() == {
        "capacity": 13,
        "slots": 12,
        "frames": 0,
        "frames_written": 0,
        "episode_frames": 0,
        "transitions": 0,
        "sampleable": 0,
        "episodes": 0,
        "whole_stacks": 0,
        "stored_bytes": 0,
        "key_frames": 0,
        "raw_frames": 0,
        "allocated_bytes": replay.stats().allocated_bytes,
    }
    replay.begin(observations(2))
    replay.add(**step(2, truncated=np.array([True, False])))
    replay.add(**step(2))  # env 0: autoreset row
    for _ in range(5):
        replay.add(**step(1, observation=observations(1, value=1)), env_id=np.array([1]))
    stats = replay.stats()
    assert (stats.frames, stats.frames_written) == (3 + 6, 3 + 8)
    assert (stats.episodes, stats.episode_frames, stats.transitions) == (3, 3, 1 + 7)
    # Env 1 holds frames 2 to 7 of 8; step k needs frames max(0, k - 3) to k: steps 5 and 6 are whole.
    assert stats.sampleable == len(replay) == 1 + 2


# Sampling -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["separate", "window"])
@pytest.mark.parametrize("alpha", [0.0, 0.6])
def test_sample_is_plan_and_gather(layout: str, alpha: float) -> None:
    """From one state both draw the same rows and deliver the same bytes, call after call."""
    one, other = filled(layout=layout, alpha=alpha), filled(layout=layout, alpha=alpha)
    for batch_size in (1, 7, 32, 500):
        assert_same_values(one.sample(batch_size), other.gather(other.plan(batch_size)))


def test_a_batch_has_the_documented_types() -> None:
    replay = filled()
    batch, plan = replay.sample(9), replay.plan(9)
    pixels, index = (9, STACK, *FRAME_SHAPE), (9, STACK)
    assert [(a.dtype, a.shape) for a in (batch.obs, batch.next_obs)] == [(np.dtype("uint8"), pixels)] * 2
    assert [(a.dtype, a.shape) for a in (plan.obs_frames, plan.next_frames)] == [
        (np.dtype("int64"), index)
    ] * 2
    documented = {
        "action": "int64",
        "reward": "float32",
        "discount": "float32",
        "weight": "float32",
        "row": "int64",
    }
    for values in (batch, plan):
        for name, dtype in documented.items():
            array = getattr(values, name)
            assert (array.dtype, array.shape) == (np.dtype(dtype), (9,)), name
    assert {name: str(dtype) for name, dtype in COLUMNS.items()} == documented
    assert batch.window is None


def test_a_batch_and_a_plan_have_the_cores_columns_beside_their_pixels() -> None:
    """Fault: a column that the core fills, and a class without it; or a field that nothing fills."""
    names = [[field.name for field in dataclasses.fields(kind)] for kind in (Batch, Plan)]
    assert names == [
        ["obs", "next_obs", *COLUMNS, "window"],
        ["obs_frames", "next_frames", *COLUMNS],
    ]


def test_a_window_is_one_block() -> None:
    """`obs` and `next_obs` are views of it, so it is copied once; and it holds what separate arrays hold."""
    window, separate = filled(layout="window").sample(100), filled().sample(100)
    assert window.window.shape == (100, STACK + 1, *FRAME_SHAPE)
    assert window.window.flags.c_contiguous
    assert np.shares_memory(window.obs, window.next_obs)
    for field in dataclasses.fields(Batch):
        if field.name != "window":
            np.testing.assert_array_equal(getattr(window, field.name), getattr(separate, field.name))


def test_the_seed_decides_the_draws() -> None:
    """Equal seeds draw alike, others and later calls differ: 64 rows of about 100 never agree by chance."""
    first, again, other = filled(seed=1), filled(seed=1), filled(seed=2)
    rows = first.sample(64).row
    np.testing.assert_array_equal(rows, again.sample(64).row)
    assert (rows != other.sample(64).row).any()
    assert (rows != first.sample(64).row).any()
    large = filled(seed=2**64 - 1)
    assert (rows != large.sample(64).row).any()


def test_draws_do_not_depend_on_the_batch_size() -> None:
    """One stream of draws: two batches of 50 are one of 100, so a seed means the same at any batch size."""
    one, other = filled(), filled()
    halves = np.concatenate([one.sample(50).row, one.sample(50).row])
    np.testing.assert_array_equal(halves, other.sample(100).row)


@pytest.mark.parametrize("lag", [1, 2, 32])
def test_draws_are_uniform_and_independent(lag: int) -> None:
    """Fault: biased rows, rows drawn without replacement, or a draw that follows from an earlier one.

    Seed 11, 10 sampleable rows, 40,000 draws; statistic: Pearson's chi-square of the pairs of draws `lag`
    apart over their 100 cells. Under the contract, with disjoint pairs, it has 99 degrees of freedom: mean
    99, standard deviation 14.1, above 170 in one of 10^5. One row drawn twice as often as the others adds
    3,000; draws that never repeat the one before empty the diagonal, which adds 2,000 at lag 1; a stream that
    restarts with every batch makes lag 32 a copy, which adds 180,000.
    """
    replay = make(capacity=14, num_envs=1, seed=11)
    replay.begin(observations(1))
    for _ in range(40):
        replay.add(**step(1))
    rows = np.concatenate([replay.sample(32).row for _ in range(1250)])
    values, drawn = np.unique(rows, return_inverse=True)
    assert len(values) == len(replay) == 10
    blocks = drawn[: len(drawn) // (2 * lag) * 2 * lag].reshape(-1, 2, lag)
    pairs = blocks[:, 0].ravel() * 10 + blocks[:, 1].ravel()
    counts = np.bincount(pairs, minlength=100)
    expected = len(pairs) / 100
    assert ((counts - expected) ** 2 / expected).sum() < 170


def test_out_is_filled_and_returned() -> None:
    """No other memory is used: the same arrays come back, with what a fresh batch would hold."""
    for layout in ("separate", "window"):
        one, other = filled(layout=layout), filled(layout=layout)
        out = one.make_batch(20)
        for _ in range(3):
            assert one.sample(20, out=out) is out
            assert_same_values(out, other.sample(20))
            assert one.gather(one.plan(20), out=out) is out
            assert_same_values(out, other.sample(20))


@pytest.mark.parametrize("call", ["sample", "gather"])
@pytest.mark.parametrize(
    "field", [field.name for field in dataclasses.fields(Batch) if field.name != "window"]
)
@pytest.mark.parametrize("fault", ["dtype", "rows", "strided", "read-only"])
def test_a_wrong_out_is_refused_by_name(call: str, field: str, fault: str) -> None:
    """Fault: an array of another type or shape filled through a temporary, and the caller's left as it was.

    A strided column may be filled, since numpy can; what must not happen is silence and old contents.
    """
    replay = filled()
    plan = replay.plan(8)
    good = replay.make_batch(8)
    array = getattr(good, field)
    wrong = {
        "dtype": array.astype(np.int16),
        "rows": np.concatenate([array, array]),
        "strided": np.repeat(array, 2, axis=-1)[..., ::2],
        "read-only": array.copy(),
    }[fault]
    wrong[:] = 99
    wrong.flags.writeable = fault != "read-only"
    out = dataclasses.replace(good, **{field: wrong})
    before = replay.stats()
    try:
        batch = replay.sample(8, out=out) if call == "sample" else replay.gather(plan, out=out)
    except (TypeError, ValueError) as error:
        assert fault == "read-only" or field in str(error)  # noqa: PT017
        assert (wrong == 99).all()
    else:
        assert fault == "strided"
        expected = filled().gather(plan)
        np.testing.assert_array_equal(getattr(batch, field), getattr(expected, field))
    assert replay.stats() == before


@pytest.mark.parametrize("call", ["sample", "gather", "plan"])
def test_arrays_of_a_batch_that_share_memory_are_refused(call: str) -> None:
    """Fault: two arrays of `out` in one piece of memory, so that one's values stand under the other's name."""
    replay, twin = filled(), filled()
    plan = filled().plan(8)
    good: Batch | Plan = plan if call == "plan" else replay.make_batch(8)
    pixels = ("obs_frames", "next_frames") if call == "plan" else ("obs", "next_obs")
    for one, other in [pixels, *itertools.permutations(COLUMNS, 2)]:
        first, second = getattr(good, one), getattr(good, other)
        # The second begins in the last eight bytes of the first.
        memory = np.zeros(first.nbytes + second.nbytes, np.uint8)
        begin = (first.nbytes - 1) // 8 * 8
        shared = {
            one: memory[: first.nbytes].view(first.dtype).reshape(first.shape),
            other: memory[begin : begin + second.nbytes].view(second.dtype).reshape(second.shape),
        }
        out = dataclasses.replace(good, **shared)
        with pytest.raises(ValueError, match=rf"^({one}|{other}): shares memory with ({one}|{other})\b"):
            getattr(replay, call)(plan if call == "gather" else 8, out=out)
        assert not memory.any()
    assert_same_buffers(replay, twin)


def test_a_batch_may_have_its_plans_arrays() -> None:
    """Fault: a column of the plan overwritten by another before it was copied."""
    replay = filled()
    plan = replay.plan(8)
    expected = replay.gather(plan)
    out = replay.make_batch(8)
    crossed = dataclasses.replace(
        out, action=plan.row, row=plan.action, reward=plan.weight, weight=plan.discount, discount=plan.reward
    )
    assert_same_values(replay.gather(plan, out=crossed), expected)


def test_window_views_must_be_views() -> None:
    """Fault: `obs` of an `out` that is not part of its window keeps old pixels."""
    replay = filled(layout="window")
    out = replay.make_batch(8)
    for name in ("obs", "next_obs"):
        with pytest.raises(ValueError, match=name):
            replay.sample(8, out=dataclasses.replace(out, **{name: getattr(out, name).copy()}))
    with pytest.raises((TypeError, ValueError), match="window"):
        replay.sample(8, out=dataclasses.replace(out, window=None))


@pytest.mark.parametrize(
    ("argument", "value", "error"),
    [
        ("batch_size", 0, ValueError),
        ("batch_size", -1, ValueError),
        ("batch_size", 2.0, TypeError),
        ("batch_size", None, TypeError),
        ("beta", -0.1, ValueError),
        ("beta", 1.5, ValueError),
        ("beta", float("nan"), ValueError),
        ("beta", "one", TypeError),
    ],
)
@pytest.mark.parametrize("call", ["sample", "plan"])
def test_a_refused_draw_changes_nothing(call: str, argument: str, value: Any, error: type[Exception]) -> None:
    """Neither the state nor the random stream: the twin draws the same afterwards."""
    replay, twin = filled(), filled()
    with pytest.raises(error, match=rf"^{argument}\b"):
        getattr(replay, call)(**{"batch_size": 4, argument: value})
    assert_same_buffers(replay, twin)


def test_what_is_no_batch_or_plan_is_refused() -> None:
    replay, twin = filled(), filled()
    with pytest.raises(TypeError, match=r"^out\b"):
        replay.sample(4, out=np.empty((4, STACK, *FRAME_SHAPE), np.uint8))
    for not_a_plan in (None, replay.make_batch(4), np.arange(4)):
        with pytest.raises(TypeError, match=r"^plan\b"):
            replay.gather(not_a_plan)
    assert_same_buffers(replay, twin)


def test_nothing_to_sample_is_an_error() -> None:
    """Before the first step, and before the first window of n closes; it costs no random numbers."""
    replay, twin = make(n_step=3), make(n_step=3)
    for call in (replay.sample, replay.plan):
        with pytest.raises(RuntimeError, match="nothing"):
            call(1)
    for buffer in (replay, twin):
        buffer.begin(observations())
        buffer.add(**step())
        buffer.add(**step())
    assert len(replay) == 0
    for call in (replay.sample, replay.plan):
        with pytest.raises(RuntimeError, match="nothing"):
            call(1)
    for buffer in (replay, twin):
        buffer.add(**step())
    assert_same_values(replay.sample(50), twin.sample(50))


def test_a_stale_plan_writes_nothing() -> None:
    """The error comes before the first byte, so that `out` is the old batch or the new one, never both."""
    replay = filled()
    plan = replay.plan(32)
    out = replay.sample(32)
    before = dataclasses.replace(out, obs=out.obs.copy(), next_obs=out.next_obs.copy(), row=out.row.copy())
    for _ in range(15):
        replay.begin(observations())
    with pytest.raises(RuntimeError, match="overwritten"):
        replay.gather(plan, out=out)
    assert_same_values(out, before)


@pytest.mark.parametrize("alpha", [0.0, 0.6])
def test_priorities_of_rows_that_left_are_dropped(alpha: float) -> None:
    """Uniform sampling takes priorities and counts the dropped ones: a loop need not know which it uses."""
    replay = make(capacity=3 * 12, alpha=alpha)
    replay.begin(observations())
    for _ in range(20):
        replay.add(**step())
    rows = replay.sample(64).row
    assert replay.update_priorities(rows, np.ones(64, np.float32)) == 0
    assert replay.update_priorities(rows[:0], np.ones(0)) == 0
    for _ in range(4):
        replay.add(**step(), env_id=np.arange(NUM_ENVS))
    gone = rows // NUM_ENVS - 3 < 25 - 12  # 25 frames written, ring 12, step k's oldest frame is k - 3
    assert 0 < gone.sum() < 64
    assert replay.update_priorities(rows, np.ones(64)) == gone.sum()
    with_duplicates = np.repeat(rows[gone][:1], 5)
    assert replay.update_priorities(with_duplicates, np.zeros(5)) == 5


@pytest.mark.parametrize(
    ("argument", "value", "error"),
    [
        ("row", np.zeros(4), TypeError),
        ("row", [0, 1, 2, 3], TypeError),
        ("row", np.zeros((2, 2), np.int64), ValueError),
        ("row", np.array([150, -1, 150, 150]), ValueError),
        ("row", np.array([150, 10**12, 150, 150]), ValueError),
        ("priority", np.ones(4, np.int64), TypeError),
        ("priority", [1.0] * 4, TypeError),
        ("priority", np.ones(3), ValueError),
        ("priority", np.array([1, np.nan, 1, 1]), ValueError),
        ("priority", np.array([1, np.inf, 1, 1], np.float32), ValueError),
        ("priority", np.array([1, -0.5, 1, 1]), ValueError),
    ],
)
@pytest.mark.parametrize("alpha", [0.0, 0.6])
def test_a_refused_priority_changes_nothing(
    argument: str, value: Any, error: type[Exception], alpha: float
) -> None:
    replay, twin = filled(alpha=alpha), filled(alpha=alpha)
    call = {"row": np.full(4, 150), "priority": np.full(4, 7.0), argument: value}
    with pytest.raises(error, match=rf"^{argument}\b"):
        replay.update_priorities(**call)
    assert_same_buffers(replay, twin)


# Together -------------------------------------------------------------------------------------------------


def test_threads_may_sample_while_another_adds() -> None:
    """Fault: a sample that sees half of a step. Every frame of step k shows k; a torn row mixes two numbers.

    Whatever the threads' timing, each batch must be consistent in itself.
    """
    replay = make(capacity=2 * 40, num_envs=2, frame_shape=(40, 40), n_step=2, gamma=1.0)

    def stacks(newest: int) -> NDArray[np.uint8]:
        numbers = np.maximum(np.arange(newest - 3, newest + 1), 0) % 251
        return np.broadcast_to(numbers.astype(np.uint8)[:, None, None], (2, STACK, 40, 40)).copy()

    def add(k: int) -> None:
        replay.add(**step(2, action=np.array([k, k]), observation=stacks(k + 1), reward=np.full(2, k * 1.0)))

    replay.begin(stacks(0))
    for k in range(3):
        add(k)
    failures: list[BaseException] = []
    finished = threading.Event()

    def read() -> None:
        try:
            while True:
                last_round = finished.is_set()
                batch = replay.sample(16)
                newest = batch.action[:, None] + np.arange(-3, 1)
                expected = (np.maximum(newest, 0) % 251)[:, :, None, None]
                expected_next = (np.maximum(newest + 2, 0) % 251)[:, :, None, None]
                np.testing.assert_array_equal(batch.obs, np.broadcast_to(expected, batch.obs.shape))
                np.testing.assert_array_equal(batch.next_obs, np.broadcast_to(expected_next, batch.obs.shape))
                np.testing.assert_array_equal(batch.reward, 2 * batch.action + 1)
                assert len(replay) > 0
                if last_round:
                    return
        except BaseException as error:
            failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for k in range(3, 1500):
        add(k)
    finished.set()
    for reader in readers:
        reader.join()
    assert not failures, failures[0]
    assert replay.invariant_violation() == ""


def test_import_needs_numpy_alone() -> None:
    """An embedding project installs neither torch nor envpool nor rich: importing must not want them."""
    program = """
import sys
absent = ("torch", "envpool", "rich", "safetensors", "tyro", "gymnasium", "gym")
for name in absent:
    sys.modules[name] = None  # importing it raises ImportError, as if it were not installed
import numpy as np
from fastdqn.replay import ReplayBuffer
replay = ReplayBuffer(8, 1, frame_shape=(2, 2))
replay.begin(np.zeros((1, 4, 2, 2), np.uint8))
ok = np.zeros(1, bool)
replay.add(np.zeros(1, np.int32), np.ones((1, 4, 2, 2), np.uint8), np.zeros(1), ok, ok)
print(len(replay), sorted(n for n in absent if sys.modules[n] is not None))
print(sorted(n for n in sys.modules if n == "fastdqn" or n.startswith("fastdqn.")))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["1 []", "['fastdqn', 'fastdqn._core', 'fastdqn.replay']"]
