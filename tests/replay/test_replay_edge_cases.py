"""The edge cases that replay buffers get wrong, one test each, with streams that can be read.

A frame is one number in all its bytes, so `[7, 7, 8, 9]` is a whole stack. These tests use neither the oracle
nor random data; `tests/mutations/run.py` takes each fix out of the core and demands that its test fails.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from fastdqn.replay import ReplayBuffer

FRAME_SHAPE = (2, 3)


class Sampled(NamedTuple):
    """One sampled row in readable form."""

    obs: list[int]
    next_obs: list[int]
    action: int
    reward: float
    discount: float


def make(capacity: int = 64, num_envs: int = 1, **options: Any) -> ReplayBuffer:
    return ReplayBuffer(capacity, num_envs, frame_shape=FRAME_SHAPE, **options)


def stacks(*frames: list[int]) -> NDArray[np.uint8]:
    """Observations [N, stack, H, W] of constant frames."""
    return np.ones((1, 1, *FRAME_SHAPE), np.uint8) * np.asarray(frames, np.uint8)[:, :, None, None]


def begin(replay: ReplayBuffer, *frames: list[int], env_id: list[int] | None = None) -> None:
    replay.begin(stacks(*frames), None if env_id is None else np.asarray(env_id))


def add(
    replay: ReplayBuffer,
    action: int,
    frames: list[int],
    *,
    reward: float = 0.0,
    terminated: bool = False,
    truncated: bool = False,
    env: int = 0,
    final: list[int] | None = None,
) -> None:
    """One step of one env."""
    replay.add(
        np.array([action]),
        stacks(frames),
        np.array([reward], np.float32),
        np.array([terminated]),
        np.array([truncated]),
        np.array([env]),
        None if final is None else stacks(final),
    )


def sampled(replay: ReplayBuffer, draws: int = 4000) -> dict[int, Sampled]:
    """All that is ever drawn in `draws` draws, by row. Checks that a row's content is always the same.

    Fewer than 100 rows: each is missed with probability below 0.99^4000 = 4e-18.
    """
    batch = replay.sample(draws)
    for pixels in (batch.obs, batch.next_obs):
        assert (pixels == pixels[..., :1, :1]).all(), "bytes of two frames were mixed"
    found: dict[int, Sampled] = {}
    for i, row in enumerate(batch.row.tolist()):
        content = Sampled(
            batch.obs[i, :, 0, 0].tolist(),
            batch.next_obs[i, :, 0, 0].tolist(),
            int(batch.action[i]),
            float(batch.reward[i]),
            float(batch.discount[i]),
        )
        assert found.setdefault(row, content) == content
    assert len(found) == len(replay)
    return found


def actions(replay: ReplayBuffer) -> list[int]:
    """The actions of all sampled rows, in order of row: each stream numbers its steps by them."""
    return [content.action for _, content in sorted(sampled(replay).items())]


def by_action(replay: ReplayBuffer) -> dict[int, Sampled]:
    return {content.action: content for content in sampled(replay).values()}


# 1 --------------------------------------------------------------------------------------------------------


def test_case_1_autoreset_row_is_never_sampled() -> None:
    """Fault: the row that EnvPool sends after a done (its action ignored, reward 0) stored as a transition.

    It would lead from one episode's end into the next one's start, after a lost life as after a game over.
    """
    replay = make()
    begin(replay, [1, 1, 1, 1])
    add(replay, 10, [1, 1, 1, 2])
    add(replay, 11, [1, 1, 2, 3], terminated=True)
    add(replay, 99, [50, 50, 50, 50])  # autoreset after a game over: a fresh stack
    add(replay, 12, [50, 50, 50, 51])
    add(replay, 13, [50, 50, 51, 52], truncated=True)
    add(replay, 99, [50, 51, 52, 53])  # autoreset after a lost life: the old frames stay
    add(replay, 14, [51, 52, 53, 54])
    assert actions(replay) == [10, 11, 12, 13, 14]
    assert by_action(replay)[12].obs == [50, 50, 50, 50]
    assert by_action(replay)[14].obs == [50, 51, 52, 53]


def test_case_1_autoreset_row_belongs_to_the_env_that_was_done() -> None:
    """Fault: the reset row looked for at a position in the call, or in the next call, not by env id."""
    replay = make(num_envs=3)
    begin(replay, [1, 1, 1, 1], [101, 101, 101, 101], [201, 201, 201, 201])
    flags = {"reward": np.zeros(3, np.float32), "terminated": np.zeros(3, bool)}
    replay.add(
        np.array([20, 10, 30]),
        stacks([101, 101, 101, 102], [1, 1, 1, 2], [201, 201, 201, 202]),
        truncated=np.array([True, False, False]),  # env 1, first in this call
        env_id=np.array([1, 0, 2]),
        **flags,
    )
    add(replay, 11, [1, 1, 2, 3], env=0)  # the next call is of another env
    replay.add(
        np.array([31, 12, 99]),
        stacks([201, 201, 202, 203], [1, 2, 3, 4], [150, 150, 150, 150]),
        truncated=np.zeros(3, bool),
        env_id=np.array([2, 0, 1]),  # env 1's reset row, last in this one
        **flags,
    )
    add(replay, 21, [150, 150, 150, 151], env=1)
    assert sorted(actions(replay)) == [10, 11, 12, 20, 21, 30, 31]


# 2 --------------------------------------------------------------------------------------------------------


def test_case_2_stacks_at_boundaries_are_the_ones_given() -> None:
    """Fault: stacks rebuilt at an episode's start by zero fill, or by repeating a frame at every done.

    A full reset repeats its first frame. A lost life keeps the old frames, though the episode ended.
    """
    replay = make()
    begin(replay, [1, 1, 1, 1])
    add(replay, 10, [1, 1, 1, 2])
    add(replay, 11, [1, 1, 2, 3])
    add(replay, 12, [1, 2, 3, 4], terminated=True)  # a lost life
    add(replay, 99, [2, 3, 4, 5])
    add(replay, 13, [3, 4, 5, 6])
    add(replay, 14, [4, 5, 6, 7], terminated=True)  # a game over
    add(replay, 99, [8, 8, 8, 8])
    add(replay, 15, [8, 8, 8, 9])
    add(replay, 16, [8, 8, 9, 10])
    found = by_action(replay)
    assert {action: (row.obs, row.next_obs) for action, row in found.items()} == {
        10: ([1, 1, 1, 1], [1, 1, 1, 2]),
        11: ([1, 1, 1, 2], [1, 1, 2, 3]),
        12: ([1, 1, 2, 3], [1, 2, 3, 4]),
        13: ([2, 3, 4, 5], [3, 4, 5, 6]),
        14: ([3, 4, 5, 6], [4, 5, 6, 7]),
        15: ([8, 8, 8, 8], [8, 8, 8, 9]),
        16: ([8, 8, 8, 9], [8, 8, 9, 10]),
    }


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_case_2_stacks_of_any_wrapper_are_kept_as_given() -> None:
    """Fault: a stack assumed to continue the last one because its env did, whatever its older frames say.

    Zero-filled resets, another order of frames, a stack that differs in one older frame: all as given.
    """
    replay = make()
    begin(replay, [0, 0, 0, 1])
    add(replay, 10, [0, 0, 1, 2])
    add(replay, 11, [2, 1, 0, 3])
    add(replay, 12, [1, 0, 3, 4])
    add(replay, 13, [0, 7, 4, 5])
    add(replay, 14, [9, 9, 9, 9])
    add(replay, 15, [9, 9, 9, 8])
    found = by_action(replay)
    assert [found[action].obs for action in range(10, 16)] == [
        [0, 0, 0, 1],
        [0, 0, 1, 2],
        [2, 1, 0, 3],
        [1, 0, 3, 4],
        [0, 7, 4, 5],
        [9, 9, 9, 9],
    ]
    assert found[15].next_obs == [9, 9, 9, 8]


@pytest.mark.filterwarnings("error")  # no wrapper is to blame
@pytest.mark.parametrize("stack", [1, 2, 3, 4, 7])
def test_case_2_padded_first_stacks_cost_one_frame_more(stack: int) -> None:
    """Fault: a first stack with zeros in front (Stable-Baselines3, ALE) stored whole, or as copies of its frame.

    Episodes of five steps in a ring that holds two of them and a half, so that the padding lies at every slot.
    """
    cost = 6 if stack == 1 else 7
    replay = make(capacity=18, gamma=0.5, stack=stack)
    expected: dict[int, Sampled] = {}
    for episode in range(40):
        frames = [0] * (stack - 1) + [10 + episode * 5 + k for k in range(6)]
        seen = [frames[k : k + stack] for k in range(6)]
        if episode == 0:
            begin(replay, seen[0])
        else:
            add(replay, 999, seen[0])
        for k in range(5):
            action = episode * 5 + k
            add(replay, action, seen[k + 1], truncated=k == 4)
            expected[action] = Sampled(seen[k], seen[k + 1], action, 0.0, 0.5)
        assert replay.stats().frames_written == cost * (episode + 1)
        found = by_action(replay)
        assert found == {action: expected[action] for action in found}
        assert len(found) >= min(5 * (episode + 1), 18 - 2 * (cost - 5) - stack)
        assert replay.invariant_violation() == ""
    assert replay.stats().whole_stacks == 0


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_case_2_only_copies_in_front_are_padding() -> None:
    """Fault: copies that follow another frame, or one frame of several, left out."""
    replay = make()
    for frames, cost in (
        ([6, 7, 6, 8], 4),
        ([3, 4, 4, 4], 4),
        ([5, 5, 6, 6], 3),
        ([9, 9, 9, 9], 1),
        ([2, 2, 2, 1], 2),
    ):
        before = replay.stats().frames_written
        begin(replay, frames)
        assert replay.stats().frames_written == before + cost
        add(replay, frames[-1], [*frames[1:], 20])
        assert by_action(replay)[frames[-1]].obs == frames
    assert replay.stats().whole_stacks == 2


# 3 --------------------------------------------------------------------------------------------------------


def test_case_3_truncation_bootstraps_from_the_true_last_observation() -> None:
    """Fault: a truncated row's next observation taken from the reset or from itself, or its value cut."""
    replay = make(gamma=0.5)
    begin(replay, [1, 1, 1, 1])
    add(replay, 10, [1, 1, 1, 2])
    add(replay, 11, [1, 1, 2, 3], truncated=True)
    add(replay, 99, [60, 60, 60, 60])
    add(replay, 12, [60, 60, 60, 61])
    assert by_action(replay)[11] == Sampled([1, 1, 1, 2], [1, 1, 2, 3], 11, 0.0, 0.5)


def test_case_3_same_step_truncation_bootstraps_from_the_final_observation() -> None:
    """Fault: with same-step autoreset the new episode's first observation taken for the old one's last."""
    replay = make(gamma=0.5, autoreset="same_step")
    begin(replay, [1, 1, 1, 1])
    add(replay, 10, [1, 1, 1, 2])
    add(replay, 11, [60, 60, 60, 60], truncated=True, final=[1, 1, 2, 3])
    add(replay, 12, [60, 60, 60, 61])
    found = by_action(replay)
    assert found[11] == Sampled([1, 1, 1, 2], [1, 1, 2, 3], 11, 0.0, 0.5)
    assert found[12] == Sampled([60, 60, 60, 60], [60, 60, 60, 61], 12, 0.0, 0.5)


def test_case_3_begin_on_an_open_episode_truncates_it() -> None:
    """Fault: an episode that the caller abandons joined to the next one, or its last steps lost."""
    replay = make(gamma=0.5, n_step=2)
    begin(replay, [1, 1, 1, 1])
    add(replay, 10, [1, 1, 1, 2], reward=1)
    add(replay, 11, [1, 1, 2, 3], reward=2)
    add(replay, 12, [1, 2, 3, 4], reward=4)
    begin(replay, [60, 60, 60, 60])
    add(replay, 13, [60, 60, 60, 61], reward=64)
    add(replay, 14, [60, 60, 61, 62], reward=64)
    found = by_action(replay)
    assert found[11] == Sampled([1, 1, 1, 2], [1, 2, 3, 4], 11, 4.0, 0.25)
    assert found[12] == Sampled([1, 1, 2, 3], [1, 2, 3, 4], 12, 4.0, 0.5)
    assert sorted(found) == [10, 11, 12, 13]


@pytest.mark.parametrize("n_step", [1, 3])
def test_case_3_game_over_at_the_step_limit_is_terminal(n_step: int) -> None:
    """Fault: a row that is both terminated and truncated bootstraps, as if the limit alone had ended it."""
    replay = make(gamma=0.5, n_step=n_step)
    begin(replay, [1, 1, 1, 1])
    add(replay, 10, [1, 1, 1, 2], reward=1)
    add(replay, 11, [1, 1, 2, 3], reward=2, terminated=True, truncated=True)
    assert by_action(replay)[11] == Sampled([1, 1, 1, 2], [1, 1, 2, 3], 11, 2.0, 0.0)


# 4 --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_step", [1, 2, 3, 5])
def test_case_4_open_windows_are_not_sampled(n_step: int) -> None:
    """Fault: the newest n - 1 rows sampled before their rewards are known; for n = 1 the newest withheld."""
    replay = make(n_step=n_step, gamma=1.0)
    begin(replay, [1, 1, 1, 1])
    stack = [1, 1, 1, 1]
    for step in range(9):
        stack = [*stack[1:], step + 2]
        add(replay, step, stack, reward=2.0**step)
        closed = max(0, step + 2 - n_step)
        assert len(replay) == closed
        if closed:
            assert actions(replay) == list(range(closed))
            newest = by_action(replay)[closed - 1]
            assert newest.reward == sum(2.0**k for k in range(closed - 1, closed - 1 + n_step))
            assert newest.next_obs == stack


# 5 --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("guard_frames", [0, 3])
def test_case_5_rows_leave_before_their_frames_are_overwritten(n_step: int, guard_frames: int) -> None:
    """Fault: past the ring's end a stack, or a window's end, mixes frames with the ones that replaced them.

    One endless episode in a ring of 16: what is in the buffer after each step can be counted by hand. Step k
    leads from the stack of frames k-3..k to that of k-2..k+1.
    """
    ring = 16
    replay = make(capacity=ring, n_step=n_step, guard_frames=guard_frames)
    frame = {-3: 1, -2: 1, -1: 1} | {k: k + 1 for k in range(100)}
    begin(replay, [1, 1, 1, 1])
    for step in range(60):
        add(replay, step, [frame[k] for k in range(step - 2, step + 2)])
        written = step + 2
        oldest_kept = written - ring + guard_frames
        start = [k for k in range(step + 1) if max(k - 3, 0) >= oldest_kept]
        expected = {
            k: (
                [frame[i] for i in range(k - 3, k + 1)],
                [frame[i] for i in range(k + n_step - 3, k + n_step + 1)],
            )
            for k in start
            if k + n_step <= step + 1
        }
        assert len(replay) == len(expected)
        if expected:
            found = by_action(replay)
            assert {k: (row.obs, row.next_obs) for k, row in found.items()} == expected


def test_case_5_a_plan_outlived_by_its_frames_is_refused() -> None:
    """Fault: pixels gathered for a plan after a frame of it was overwritten.

    `guard_frames` is how many more frames an env may write between plan and gather; one more is refused.
    """
    replay = make(capacity=12, guard_frames=3)
    begin(replay, [1, 1, 1, 1])
    for step in range(30):
        add(replay, step, [max(1, k + 1) for k in range(step - 2, step + 2)])
    plan = replay.plan(500)
    assert set(plan.action.tolist()) == {25, 26, 27, 28, 29}  # 31 frames written: 22 is the oldest allowed
    for step in range(30, 33):
        add(replay, step, [k + 1 for k in range(step - 2, step + 2)])
        batch = replay.gather(plan)
        np.testing.assert_array_equal(batch.obs[:, 0, 0, 0], plan.action - 2)
        np.testing.assert_array_equal(batch.next_obs[:, 3, 0, 0], plan.action + 2)
    add(replay, 33, [32, 33, 34, 35])
    with pytest.raises(RuntimeError, match="overwritten"):
        replay.gather(plan)


# 6 --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("terminated", [True, False])
def test_case_6_n_step_windows_at_an_episode_end(terminated: bool) -> None:
    """Fault: at an episode's end starts dropped, windows that run on into the next episode, gamma^n for all.

    n = 3, gamma = 1/2, rewards 1, 2, 4, 8: every start is kept, with its own rewards and its own discount.
    """
    replay = make(n_step=3, gamma=0.5)
    begin(replay, [1, 1, 1, 1])
    add(replay, 10, [1, 1, 1, 2], reward=1)
    add(replay, 11, [1, 1, 2, 3], reward=2)
    add(replay, 12, [1, 2, 3, 4], reward=4)
    assert actions(replay) == [10]
    add(replay, 13, [2, 3, 4, 5], reward=8, terminated=terminated, truncated=not terminated)
    bootstrap = 0.0 if terminated else 1.0
    end_of_episode = {
        10: Sampled([1, 1, 1, 1], [1, 2, 3, 4], 10, 1 + 2 / 2 + 4 / 4, 0.125),
        11: Sampled([1, 1, 1, 2], [2, 3, 4, 5], 11, 2 + 4 / 2 + 8 / 4, 0.125 * bootstrap),
        12: Sampled([1, 1, 2, 3], [2, 3, 4, 5], 12, 4 + 8 / 2, 0.25 * bootstrap),
        13: Sampled([1, 2, 3, 4], [2, 3, 4, 5], 13, 8, 0.5 * bootstrap),
    }
    assert by_action(replay) == end_of_episode
    add(replay, 99, [9, 9, 9, 9], reward=1024)
    for action in (14, 15, 16):
        add(replay, action, [9, 9, 9, 9], reward=1024)
    found = by_action(replay)
    assert {action: found[action] for action in end_of_episode} == end_of_episode
    assert sorted(found) == [10, 11, 12, 13, 14]


def test_case_6_an_episode_shorter_than_n() -> None:
    """Fault: an episode that ends before n steps leaves nothing, or waits for the next one's steps."""
    replay = make(n_step=5, gamma=0.5)
    begin(replay, [1, 1, 1, 1])
    add(replay, 10, [1, 1, 1, 2], reward=1, truncated=True)
    assert by_action(replay) == {10: Sampled([1, 1, 1, 1], [1, 1, 1, 2], 10, 1.0, 0.5)}


# 7 --------------------------------------------------------------------------------------------------------


def test_case_7_a_priority_for_an_overwritten_row_is_dropped() -> None:
    """Fault: a late priority given to the row that meanwhile took the slot of the one that was sampled.

    Two batches in flight: both are drawn before either's priorities come back, as in an asynchronous learner.
    With beta 1 and alpha 1 the importance weights show the priorities, which must be as if the late calls
    had never come.
    """
    ring = 8
    replay = make(capacity=ring, alpha=1.0)
    begin(replay, [1, 1, 1, 1])
    for step in range(ring):
        add(replay, step, [1, 1, 1, 1])
    first, second = replay.sample(200).row, replay.sample(200).row
    for step in range(ring, 2 * ring):
        add(replay, step, [1, 1, 1, 1])
    assert replay.update_priorities(first, np.full(200, 1000.0)) == 200
    assert replay.update_priorities(second, np.zeros(200)) == 200
    batch = replay.sample(4000)
    assert set(batch.weight.tolist()) == {1.0}
    assert len(set(batch.row.tolist())) == len(replay)
    assert replay.invariant_violation() == ""


# 8 --------------------------------------------------------------------------------------------------------


def test_case_8_one_valid_row_fills_any_batch() -> None:
    """Fault: sampling that needs as many rows as it draws, or that tries slots until one is good, and hangs.

    Only one env of eight has begun, and only one of its rows has a closed window.
    """
    replay = make(capacity=8 * 100, num_envs=8, n_step=3)
    begin(replay, [1, 1, 1, 1], env_id=[5])
    with pytest.raises(RuntimeError, match="nothing can be sampled"):
        replay.sample(1)
    for step in range(3):
        add(replay, step, [1, 1, 1, 1], env=5)
    batch = replay.sample(1000)
    assert batch.row.tolist() == [5] * 1000
    assert batch.action.tolist() == [0] * 1000


# 9 --------------------------------------------------------------------------------------------------------


def prioritised(steps: int = 100, **options: Any) -> ReplayBuffer:
    """One env in one long episode; rows 0 to steps - 1 may be sampled, all with priority 1."""
    replay = make(capacity=128, **{"alpha": 1.0, **options})
    begin(replay, [1, 1, 1, 1])
    for step in range(steps):
        add(replay, step % 18, [1, 1, 1, 1])
    return replay


def test_case_9_draws_are_in_proportion_to_priority_to_the_alpha() -> None:
    """Fault: alpha left out or applied twice, a biased tree, draws that are not independent.

    Seed 3, 100 rows of priority 1 to 100, alpha 0.5, 100,000 draws; statistic: Pearson's chi-square against
    p^alpha, 99 degrees of freedom: mean 99, standard deviation 14.1, outside 45 to 170 in one of 10^5. Alpha
    left out gives 6,600, alpha twice 3,900, uniform draws 24,800, stratified ones nearly 0.
    """
    replay = prioritised(alpha=0.5, seed=3)
    replay.update_priorities(np.arange(100), np.arange(1.0, 101.0))
    batch = replay.sample(100_000, beta=0.4)
    share = np.sqrt(np.arange(1.0, 101.0))
    expected = 100_000 * share / share.sum()
    drawn = np.bincount(batch.row, minlength=100)
    assert 45 < ((drawn - expected) ** 2 / expected).sum() < 170
    np.testing.assert_allclose(
        batch.weight, share[batch.row] ** -0.4, rtol=1e-6
    )  # row 0 is in: its weight is 1


def test_case_9_zero_priority_is_never_drawn() -> None:
    """Fault: rounding at a sum's end, or a fallback, that hands out a row of priority zero.

    Zeros at both ends, in runs and alone; all zero is an error, and one new row makes it sampleable again.
    """
    replay = prioritised()
    live = np.array([17, 18, 50, 81])
    priority = np.zeros(100)
    priority[live] = [1e-3, 1e3, 1, 1e-3]
    assert replay.update_priorities(np.arange(100), priority) == 0
    assert set(replay.sample(200_000).row.tolist()) <= set(live.tolist())
    replay.update_priorities(live, np.zeros(4))
    assert len(replay) == 100
    with pytest.raises(RuntimeError, match="zero"):
        replay.sample(1)
    add(replay, 0, [1, 1, 1, 1])
    assert set(replay.sample(100).row.tolist()) == {100}


def test_case_9_the_last_of_a_repeated_row_counts() -> None:
    """Fault: a row that occurs twice in one update added twice to the sums, or its first value kept."""
    replay = prioritised(steps=3)
    replay.update_priorities(np.array([1, 0, 1, 1, 2]), np.array([9.0, 2.0, 0.0, 4.0, 8.0]))
    batch = replay.sample(1000)
    np.testing.assert_array_equal(batch.weight, np.float32([1, 0.5, 0.25])[batch.row])
    assert replay.invariant_violation() == ""


def test_case_9_sums_do_not_drift() -> None:
    """Fault: sums kept by adding differences, which lose small priorities beside large ones for good.

    2,000 updates of 100 rows between 1e-12 and 1e12, then all 1: the draws are uniform again. The invariant
    compares every node with one built afresh. Seed 5, 100,000 draws, chi-square as above.
    """
    rng = np.random.default_rng(5)
    replay = prioritised(seed=5)
    for _ in range(2_000):
        replay.update_priorities(rng.integers(0, 100, 100), 10.0 ** rng.uniform(-12, 12, 100))
    assert replay.invariant_violation() == ""
    replay.update_priorities(np.arange(100), np.ones(100))
    batch = replay.sample(100_000)
    assert set(batch.weight.tolist()) == {1.0}
    assert ((np.bincount(batch.row, minlength=100) - 1000) ** 2 / 1000).sum() < 170


def test_case_9_the_largest_priority_can_fall() -> None:
    """Fault: a maximum that only grows, so that one outlier gives every later row its priority for ever.

    A new row enters with the largest priority there is: after an outlier is updated, and after one is
    overwritten, that is the next largest again.
    """
    replay = prioritised(steps=3)
    replay.update_priorities(np.array([0, 1, 2]), np.array([1.0, 2.0, 1024.0]))
    add(replay, 3, [1, 1, 1, 1])
    replay.update_priorities(np.array([2, 3]), np.array([4.0, 4.0]))
    add(replay, 4, [1, 1, 1, 1])
    batch = replay.sample(500)
    np.testing.assert_array_equal(batch.weight, np.float32([1, 0.5, 0.25, 0.25, 0.25])[batch.row])
    replay.update_priorities(np.array([0]), np.array([1024.0]))
    for step in range(5, 160):  # rows 0 to 4 leave one after another from step 127 on
        add(replay, step % 18, [1, 1, 1, 1])
        if step < 140:
            replay.update_priorities(np.array([step]), np.array([2.0]))
    assert set(replay.sample(4000).weight.tolist()) == {1.0}


# 10 -------------------------------------------------------------------------------------------------------


def test_case_10_a_lagging_env_is_sampled_by_its_rows() -> None:
    """Fault: an env chosen first, then a row of it: rows of an env that lags behind are drawn too often.

    Env 0 has 300 rows, env 1 has 20, env 2 none. Seed 7, 64,000 draws; statistic: Pearson's chi-square of the
    320 rows against uniform, mean 319 and standard deviation 25 under the contract. A uniform choice of env
    gives each row of env 1 eight times its share and a statistic above 190,000.
    """
    replay = make(capacity=3 * 400, num_envs=3, seed=7)
    begin(replay, [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1])
    for env, steps in ((0, 300), (1, 20)):
        for step in range(steps):
            add(replay, step % 18, [1, 1, 1, 1], env=env)
    rows = replay.sample(64_000).row
    drawn = np.bincount(rows, minlength=900).astype(float)
    possible = np.r_[np.arange(300) * 3, np.arange(20) * 3 + 1]
    assert drawn[possible].sum() == 64_000
    statistic = float(((drawn[possible] - 200) ** 2 / 200).sum())
    assert 319 - 5 * 25 < statistic < 319 + 5 * 25
