"""Random operations on the replay buffer and on its oracle, compared after every one of them.

Hypothesis derives its examples from the test itself (`derandomize`), so two runs do the same. The frames are
a few bytes drawn from three pictures, so that stacks often continue each other, or are all copies, by
accident.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from fastdqn.replay import ReplayBuffer
from tests.reference.replay_oracle import Comparison
from tests.reference.toy_env import RESETS, ToyVectorEnv

FRAME_SHAPE = (3, 5)


class ReplayMachine(RuleBasedStateMachine):
    """Steps, subsets, orders, begins, held plans and refused calls, in any order."""

    @initialize(
        num_envs=st.integers(1, 4),
        stack=st.integers(1, 4),
        n_step=st.integers(1, 5),
        slack=st.sampled_from([0, 1, 5, 12, 25]),
        uneven=st.integers(0, 3),
        guard_frames=st.sampled_from([0, 0, 1, 3]),
        gamma=st.sampled_from([0.99, 0.5, 1.0]),
        autoreset=st.sampled_from(["next_step", "same_step", "disabled"]),
        layout=st.sampled_from(["separate", "separate", "separate", "window"]),
        resets=st.sampled_from([("repeat",), ("repeat", "keep"), RESETS]),
        jump=st.sampled_from([0.0, 0.0, 0.05, 0.4]),
        alpha=st.sampled_from([0.0, 0.0, 0.5, 1.0]),
        seed=st.integers(0, 2**32 - 1),
    )
    def start(
        self,
        num_envs: int,
        stack: int,
        n_step: int,
        slack: int,
        uneven: int,
        guard_frames: int,
        gamma: float,
        autoreset: str,
        layout: str,
        resets: tuple[str, ...],
        jump: float,
        alpha: float,
        seed: int,
    ) -> None:
        if layout == "window":
            n_step, jump = 1, 0.0  # one block holds both stacks only where the second continues the first
        ring = stack + n_step + guard_frames + slack
        self.comparison = Comparison(
            ReplayBuffer,
            ring * num_envs + min(uneven, num_envs - 1),
            num_envs,
            frame_shape=FRAME_SHAPE,
            stack=stack,
            n_step=n_step,
            gamma=gamma,
            alpha=alpha,
            autoreset=autoreset,
            layout=layout,
            guard_frames=guard_frames,
            seed=seed,
        )
        self.env = ToyVectorEnv(
            seed,
            num_envs,
            stack=stack,
            frame_shape=FRAME_SHAPE,
            autoreset=autoreset,
            resets=resets,
            jump=jump,
        )
        self.rng = np.random.default_rng(seed + 1)
        self.begun = np.zeros(num_envs, bool)
        self.drawn = np.empty(0, np.int64)  # rows that were drawn once, now overwritten or not

    @rule(partly=st.booleans())
    def begin(self, partly: bool) -> None:
        """Begin some episodes, open ones included."""
        ids = self._choose(np.arange(len(self.begun)), partly)
        self.comparison.begin(self.env.reset(ids), ids if partly or not self._everything(ids) else None)
        self.begun[ids] = True
        self.comparison.check()

    @precondition(lambda self: self.begun.any())
    @rule(times=st.integers(1, 10), end=st.sampled_from([0.0, 0.1, 0.4]))
    def step_all(self, times: int, end: float) -> None:
        """Several steps of all envs that can step."""
        self._step(times, end, partly=False)

    @precondition(lambda self: self.begun.any())
    @rule(times=st.integers(1, 10), end=st.sampled_from([0.0, 0.1, 0.4]))
    def step_some(self, times: int, end: float) -> None:
        """Several steps, each of some envs in some order."""
        self._step(times, end, partly=True)

    def _step(self, times: int, end: float, partly: bool) -> None:
        for _ in range(times):
            blocked = self.env.done if self.env.autoreset == "disabled" else np.zeros_like(self.begun)
            able = np.flatnonzero(self.begun & ~blocked)
            if not len(able):
                return  # every env waits for begin
            ids = self._choose(able, partly)
            call = self.env.step(ids, end)
            self.comparison.add(**call, env_id=None if self._everything(ids) else ids)
            self.comparison.check()

    @precondition(lambda self: any(self.comparison.oracle.priorities.values()))
    @rule(batch_size=st.integers(1, 9))
    def hold_plan(self, batch_size: int) -> None:
        """Plan now, gather later."""
        self.drawn = np.concatenate([self.drawn[-50:], self.comparison.hold_plan(batch_size)])

    @precondition(lambda self: len(self.drawn))
    @rule(count=st.integers(0, 30), zeros=st.booleans())
    def update_priorities(self, count: int, zeros: bool) -> None:
        """New priorities for rows drawn earlier: repeated ones, ones that left, all in one call."""
        rows = self.rng.choice(self.drawn, count)
        priorities = self.rng.choice(np.float32([0, 0.25, 1, 3] if zeros else [0.25, 1, 3]), count)
        self.comparison.update_priorities(rows, priorities)
        self.comparison.check()

    @precondition(lambda self: self.comparison.oracle.alpha and self.comparison.oracle.priorities)
    @rule()
    def forget_all_priorities(self) -> None:
        """Nothing may be drawn until a new row enters."""
        rows = np.array(list(self.comparison.oracle.priorities))
        self.comparison.update_priorities(rows, np.zeros(len(rows)))
        self.comparison.check()

    @precondition(lambda self: self.comparison.held)
    @rule()
    def gather_held_plan(self) -> None:
        """A plan stays good exactly until a frame of it is overwritten."""
        self.comparison.gather_held_plan()

    @precondition(lambda self: self.begun.all())
    @rule(fault=st.sampled_from(["repeated", "beyond", "negative", "done", "final"]))
    def refused_call(self, fault: str) -> None:
        """A call whose last row is at fault changes nothing: later comparisons would show it."""
        num_envs = len(self.begun)
        ids = np.arange(num_envs)
        assume(not self.env.done.any() or self.env.autoreset == "next_step")
        call: dict[str, Any] = {
            "action": np.ones(num_envs, np.int64),
            "observation": np.full((num_envs, self._stack, *FRAME_SHAPE), 9, np.uint8),
            "reward": np.ones(num_envs, np.float32),
            "terminated": np.zeros(num_envs, bool),
            "truncated": np.zeros(num_envs, bool),
        }
        if fault == "repeated":
            assume(num_envs > 1)
            ids[-1] = ids[0]
        elif fault == "beyond":
            ids[-1] = num_envs
        elif fault == "negative":
            ids[-1] = -1
        elif fault == "done":
            assume(self.env.autoreset == "next_step" and self.env.done[-1])
            call["truncated"][-1] = True
        else:
            assume(self.env.autoreset == "same_step")
            call["terminated"][-1] = True
        with pytest.raises(ValueError, match=r"terminated|truncated|final_observation|env_id"):
            self.comparison.buffer.add(**call, env_id=ids)
        if fault not in ("done", "final"):
            with pytest.raises(ValueError, match="env_id"):
                self.comparison.buffer.begin(call["observation"], ids)
        self.comparison.check()

    @property
    def _stack(self) -> int:
        return len(self.env.envs[0].last)

    def _choose(self, ids: np.ndarray, partly: bool) -> np.ndarray:
        """All of `ids`, or some of them in any order. Higher ids come rarely: those envs lag behind."""
        if not partly:
            return ids
        weight = 0.5**ids / np.sum(0.5**ids)
        return self.rng.choice(ids, self.rng.integers(1, len(ids) + 1), replace=False, p=weight)

    def _everything(self, ids: np.ndarray) -> bool:
        return np.array_equal(ids, np.arange(len(self.begun)))


def _run(examples: int, steps: int) -> None:
    run_state_machine_as_test(
        ReplayMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            derandomize=True,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # whole stacks are what this test is about
def test_random_operations_match_the_oracle() -> None:
    """Fault caught: any row, byte, reward or discount that differs after any sequence of calls."""
    _run(examples=12, steps=40)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_more_random_operations_match_the_oracle() -> None:
    """The same, ten times as long."""
    _run(examples=120, steps=40)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_many_random_operations_match_the_oracle() -> None:
    """The same, longer."""
    _run(examples=1500, steps=60)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("autoreset", ["next_step", "same_step", "disabled"])
@pytest.mark.parametrize("n_step", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("jump", [0.0, 0.05])
def test_long_streams_wrap_many_times(autoreset: str, n_step: int, jump: float) -> None:
    """Ten wraps of every mode and n, with env ids in random order, envs that lag, late plans and priorities.

    The machine above draws short runs; here every combination surely meets the end of its ring.
    """
    num_envs, stack, ring = 3, 4, 24
    comparison = Comparison(
        ReplayBuffer,
        ring * num_envs,
        num_envs,
        frame_shape=FRAME_SHAPE,
        stack=stack,
        n_step=n_step,
        gamma=0.9,
        alpha=0.7 if n_step % 2 else 0.0,
        autoreset=autoreset,
        guard_frames=2,
        seed=n_step,
    )
    env = ToyVectorEnv(
        n_step, num_envs, stack=stack, frame_shape=FRAME_SHAPE, autoreset=autoreset, jump=jump, frames=40
    )
    rng = np.random.default_rng(n_step)
    everyone = np.arange(num_envs)
    comparison.begin(env.reset(everyone))
    late: deque[np.ndarray] = deque()  # rows whose priorities come back some plans later
    while min(comparison.oracle.frames_written) < 10 * ring:
        ids = rng.permutation(everyone)[: rng.integers(1, num_envs + 1)]
        if autoreset == "disabled" and env.done[ids].any():
            ids = ids[env.done[ids]]
            comparison.begin(env.reset(ids), ids)
        elif rng.random() < 0.02:
            comparison.begin(env.reset(ids), ids)
        else:
            comparison.add(**env.step(ids, end=0.1), env_id=ids)
        if rng.random() < 0.3 and len(comparison.buffer):
            late.append(comparison.hold_plan(4))
        if len(late) > rng.integers(6):
            comparison.gather_held_plan()
            comparison.update_priorities(late.popleft(), rng.uniform(0.5, 2, 4))
        if rng.random() < 0.2:
            comparison.check()
    comparison.check()
