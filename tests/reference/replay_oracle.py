"""The replay buffer again, slow and obvious, for the tests to compare with.

`ReplayOracle` stores the whole stacks that it was given, twice if they overlap, and searches nothing: what a
row should contain is read off a list. Only one thing cannot be read off, namely when a row leaves the buffer,
because that depends on how many frames a frame ring would have written. `_EnvLog.write` counts them by
the documented rule and stores no pixel. Priorities are a dictionary by row.

It is written from the documented contract and imports nothing from the package. It expects valid calls.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

Stack = NDArray[np.uint8]  # [stack, H, W], oldest frame first


@dataclass
class Transition:
    """One step of one environment, with both of its stacks in full."""

    obs: Stack
    next_obs: Stack
    action: int
    reward: np.float32
    terminated: bool
    truncated: bool
    oldest_frame: int  # number of the oldest frame that `obs` needs in that environment's ring

    @property
    def ends_episode(self) -> bool:
        """Whether no later transition may join an n-step window that reached this one."""
        return self.terminated or self.truncated


@dataclass
class Row:
    """What sampling one row must deliver."""

    obs: Stack
    next_obs: Stack
    action: int
    reward: float
    discount: float


@dataclass
class _EnvLog:
    """All that happened in one environment, and how many frames a ring would have written."""

    env_id: int
    stack: int
    frames_written: int = 0
    depth: int = 0  # distinct frames of the last stack before its newest one
    last_stack: Stack | None = None
    whole_stacks: int = 0
    in_episode: bool = False
    awaits_reset: bool = False
    first_sequence: int = 0
    transitions: deque[Transition] = field(default_factory=deque)

    def write(self, stack: Stack, *, first: bool = False) -> None:
        """Count the frames that storing `stack` takes: one if it continues the last one.

        Otherwise all of them but the copies that follow its oldest one. None left out: a whole stack, save in
        the `first` stack of an episode if it has two frames.
        """
        last = self.last_stack
        if last is not None and np.array_equal(stack[:-1], last[1:]):
            self.frames_written += 1
            self.depth = min(self.depth + 1, self.stack - 1)
        else:
            others = (i for i, frame in enumerate(stack) if not np.array_equal(frame, stack[0]))
            kept = 1 + self.stack - next(others, self.stack)
            self.frames_written += kept
            self.depth = kept - 1
            self.whole_stacks += kept == self.stack and self.stack > (2 if first else 1)
        self.last_stack = stack.copy()

    @property
    def oldest_frame(self) -> int:
        """Number of the oldest frame of the last stack."""
        return self.frames_written - 1 - self.depth


class ReplayOracle:
    """Same calls as `fastdqn.replay.ReplayBuffer`, without sampling: `rows()` lists what may be sampled."""

    def __init__(
        self,
        capacity: int,
        num_envs: int,
        *,
        stack: int = 4,
        n_step: int = 1,
        gamma: float = 0.99,
        alpha: float = 0.0,
        autoreset: str = "next_step",
        guard_frames: int = 0,
    ):
        self.num_envs = num_envs
        self.ring = capacity // num_envs
        self.n_step = n_step
        self.gamma = gamma
        self.alpha = alpha
        self.priorities: dict[int, float] = {}  # priority^alpha of each row that may be sampled
        self.autoreset = autoreset
        self.guard_frames = guard_frames
        self.envs = [_EnvLog(env_id, stack) for env_id in range(num_envs)]

    # -- storing -------------------------------------------------------------------------------------------

    def begin(self, observation: NDArray[np.uint8], env_id: Sequence[int] | None = None) -> None:
        """Start an episode in each env; an open one ends there, truncated at its last observation."""
        for stack, env in zip(observation, self._select(env_id), strict=True):
            if env.in_episode and env.transitions:
                # Where no step was taken since the last episode's end, its flags say so already.
                last = env.transitions[-1]
                last.truncated = last.truncated or not last.terminated
            env.write(stack, first=True)
            env.in_episode = True
            env.awaits_reset = False
            self._settle(env)

    def add(
        self,
        action: NDArray[Any],
        observation: NDArray[np.uint8],
        reward: NDArray[Any],
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        env_id: Sequence[int] | None = None,
        final_observation: NDArray[np.uint8] | None = None,
    ) -> None:
        """One step of each env: `action` was sent, the rest came back."""
        for i, env in enumerate(self._select(env_id)):
            if env.awaits_reset:
                env.write(observation[i], first=True)
                env.awaits_reset = False
                env.in_episode = True
            else:
                done = bool(terminated[i] or truncated[i])
                final = done and self.autoreset == "same_step"
                assert env.in_episode
                assert not final or final_observation is not None
                obs, oldest = env.last_stack, env.oldest_frame
                env.write(final_observation[i] if final else observation[i])
                env.transitions.append(
                    Transition(
                        obs=obs,
                        next_obs=env.last_stack,
                        action=int(action[i]),
                        reward=np.float32(reward[i]),
                        terminated=bool(terminated[i]),
                        truncated=bool(truncated[i]),
                        oldest_frame=oldest,
                    )
                )
                self._settle(env)
                if final:
                    env.write(observation[i], first=True)
                env.in_episode = not done or final
                env.awaits_reset = done and self.autoreset == "next_step"
            self._settle(env)

    def update_priorities(self, row: Sequence[int], priority: Sequence[float]) -> int:
        """Set priorities in order: the last of a repeated row counts. Returns how many were dropped."""
        dropped = 0
        for name, value in zip(row, priority, strict=True):
            if name in self.priorities:
                self.priorities[name] = value**self.alpha
            else:
                dropped += 1
        return dropped

    # -- what may be sampled -------------------------------------------------------------------------------

    def rows(self) -> dict[int, Row]:
        """Every row that may be sampled now, with its contents."""
        return {row: self._row(window) for env in self.envs for row, window in self._windows(env).items()}

    def is_overwritten(self, row: int) -> bool:
        """Whether a frame of that row's observation is gone, so that nobody can gather it any more."""
        return row // self.num_envs < self.envs[row % self.num_envs].first_sequence

    def _windows(self, env: _EnvLog) -> dict[int, list[Transition]]:
        """The rows of one env that may be sampled, with their n-step windows."""
        limit = env.frames_written - self.ring + self.guard_frames
        windows = {
            (env.first_sequence + i) * self.num_envs + env.env_id: self._window(env, i)
            for i, transition in enumerate(env.transitions)
            if transition.oldest_frame >= limit
        }
        return {row: window for row, window in windows.items() if window}

    def _window(self, env: _EnvLog, start: int) -> list[Transition]:
        """The n-step window from `start`, cut at its episode's end; empty while it is still open."""
        window: list[Transition] = []
        for i in range(start, min(start + self.n_step, len(env.transitions))):
            window.append(env.transitions[i])
            if env.transitions[i].ends_episode:
                return window
        return window if len(window) == self.n_step else []

    def _row(self, window: list[Transition]) -> Row:
        first, last = window[0], window[-1]
        return Row(
            obs=first.obs,
            next_obs=last.next_obs,
            action=first.action,
            reward=math.fsum(self.gamma**k * float(t.reward) for k, t in enumerate(window)),
            discount=0.0 if last.terminated else self.gamma ** len(window),
        )

    # -- bookkeeping ---------------------------------------------------------------------------------------

    @property
    def frames_written(self) -> list[int]:
        """Frames written so far, by env."""
        return [env.frames_written for env in self.envs]

    @property
    def whole_stacks(self) -> int:
        """Stacks that neither continued the last one nor began with copies of a frame."""
        return sum(env.whole_stacks for env in self.envs)

    def _select(self, env_id: Sequence[int] | None) -> list[_EnvLog]:
        return self.envs if env_id is None else [self.envs[int(i)] for i in env_id]

    def _settle(self, env: _EnvLog) -> None:
        """Follow a change of `env`: forget what can never come back, give new rows the largest priority."""
        while env.transitions and env.transitions[0].oldest_frame < env.frames_written - self.ring:
            env.transitions.popleft()
            env.first_sequence += 1
        windows = self._windows(env)
        for row in [r for r in self.priorities if r % self.num_envs == env.env_id and r not in windows]:
            del self.priorities[row]
        entering = max(self.priorities.values(), default=0.0) or 1.0
        for row in windows:
            self.priorities.setdefault(row, entering)


class Comparison:
    """A buffer beside its oracle: every call goes to both, `check()` compares all that can be sampled.

    Also keeps the pixels a second time in `mirror`, filled from nothing but what `begin` and `add` answer, as
    a store on another device would be: a plan's frame indices must find the same stacks there.
    """

    BETA = 0.6

    def __init__(self, make_buffer: Callable[..., Any], capacity: int, num_envs: int, **options: Any):
        self.buffer = make_buffer(capacity, num_envs, **options)
        self.frame_shape = tuple(options.pop("frame_shape", (84, 84)))
        self.layout = options.pop("layout", "separate")
        options.pop("seed", None)
        self.oracle = ReplayOracle(capacity, num_envs, **options)
        self.mirror = np.zeros((num_envs * self.oracle.ring, *self.frame_shape), np.uint8)
        self.held: deque[tuple[Any, list[Row]]] = deque()

    def begin(self, observation: NDArray[np.uint8], env_id: NDArray[Any] | None = None) -> None:
        """Begin in both."""
        before = self.oracle.frames_written
        added = self.buffer.begin(observation, env_id)
        self.oracle.begin(observation, env_id)
        self._scatter(added, before, observation, None)

    def add(
        self,
        action: NDArray[Any],
        observation: NDArray[np.uint8],
        reward: NDArray[Any],
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        env_id: NDArray[Any] | None = None,
        final_observation: NDArray[np.uint8] | None = None,
    ) -> None:
        """Add to both."""
        before = self.oracle.frames_written
        call = (action, observation, reward, terminated, truncated, env_id, final_observation)
        added = self.buffer.add(*call)
        self.oracle.add(*call)
        self._scatter(added, before, observation, final_observation)

    def update_priorities(self, row: NDArray[np.int64], priority: NDArray[Any]) -> None:
        """Update in both, which must drop the same number."""
        dropped = self.buffer.update_priorities(row, priority)
        assert dropped == self.oracle.update_priorities(row.tolist(), priority.tolist())

    def hold_plan(self, batch_size: int) -> NDArray[np.int64]:
        """Plan now, to gather later; returns the rows."""
        plan = self.buffer.plan(batch_size)
        rows = self.oracle.rows()
        self.held.append((plan, [rows[row] for row in plan.row.tolist()]))
        return plan.row

    def gather_held_plan(self) -> None:
        """Gather the oldest plan held: it is good exactly until a frame of it is overwritten."""
        plan, rows = self.held.popleft()
        if any(self.oracle.is_overwritten(row) for row in plan.row.tolist()):
            with pytest.raises(RuntimeError, match="overwritten"):
                self.buffer.gather(plan)
        else:
            batch = self.buffer.gather(plan)
            np.testing.assert_array_equal(batch.obs, [row.obs for row in rows])
            np.testing.assert_array_equal(batch.next_obs, [row.next_obs for row in rows])

    def _scatter(
        self,
        added: Any,
        before: list[int],
        observation: NDArray[np.uint8],
        final_observation: NDArray[np.uint8] | None,
    ) -> None:
        ring = self.oracle.ring
        after = self.oracle.frames_written
        written = sorted(
            env * ring + number % ring
            for env in range(self.oracle.num_envs)
            for number in range(before[env], after[env])
        )
        assert sorted(added.slot.tolist()) == written
        for slot, row, index, final in zip(
            added.slot, added.source_row, added.source_index, added.source_final, strict=True
        ):
            source = final_observation if final else observation
            assert source is not None
            self.mirror[slot] = source[row][index]  # Gymnasium's final_obs is an array of arrays

    def check(self) -> None:
        """Compare every row that may be sampled, and that no other is.

        The draws needed to see all N rows: one of probability p is missed with (1 - p)^draws, so
        (ln N + 18) / p draws, p the least, miss any with probability below e^-18. Pixels are compared once
        per row, and for 64 draws of `sample`. Importance weights show every drawn row's priority.
        """
        assert self.buffer.invariant_violation() == ""
        assert self.buffer.stats().whole_stacks == self.oracle.whole_stacks
        rows = self.oracle.rows()
        assert len(self.buffer) == len(rows)
        if not rows:
            return
        weights = {row: self.oracle.priorities[row] for row in rows}
        likely = {row for row, weight in weights.items() if weight > 0}
        if not likely:
            with pytest.raises(RuntimeError, match="zero"):
                self.buffer.plan(1)
            return
        least = min(weights[row] for row in likely) / sum(weights.values())
        plan = self.buffer.plan(math.ceil((math.log(len(rows)) + 18) / least), self.BETA)
        drawn, first = np.unique(plan.row, return_index=True)
        wrong = set(drawn.tolist()) - likely
        assert not wrong, f"drawn, but not to be sampled: {sorted(wrong)}"
        missing = likely - set(drawn.tolist())
        assert not missing, f"to be sampled, but never drawn: {sorted(missing)}"
        expected = _stacked(rows) | {"priority": np.array([weights[row] for row in sorted(rows)])}
        self._compare_values(plan, expected)
        once = type(plan)(*(getattr(plan, field.name)[first] for field in fields(plan)))
        self._compare_pixels(self.buffer.gather(once), once, expected)
        self._compare_pixels(self.buffer.sample(64, self.BETA), None, expected)

    def _compare_values(self, values: Any, expected: dict[str, NDArray[Any]]) -> NDArray[np.intp]:
        """Compare the columns of a plan or batch; returns where its rows are in `expected`."""
        at = np.searchsorted(expected["row"], values.row)
        np.testing.assert_array_equal(expected["row"].take(at, mode="clip"), values.row)
        np.testing.assert_array_equal(values.action, expected["action"][at])
        priority = expected["priority"][at]
        np.testing.assert_allclose(values.weight, (priority.min() / priority) ** self.BETA, rtol=1e-6)
        # Sums in float64 rounded to float32: the order of summation may move the last bit, no more.
        np.testing.assert_allclose(values.reward, expected["reward"][at], rtol=1.2e-7, atol=1e-12)
        np.testing.assert_allclose(values.discount, expected["discount"][at], rtol=1.2e-7)
        return at

    def _compare_pixels(self, batch: Any, plan: Any, expected: dict[str, NDArray[Any]]) -> None:
        """Compare a batch with the oracle and, where its plan is known, the mirror at the plan's slots."""
        at = self._compare_values(batch, expected)
        pairs = [(batch.obs, "obs"), (batch.next_obs, "next_obs")]
        if plan is not None:
            pairs += [(self.mirror[plan.obs_frames], "obs"), (self.mirror[plan.next_frames], "next_obs")]
        if self.layout == "window":
            pairs += [(batch.window[:, :-1], "obs"), (batch.window[:, 1:], "next_obs")]
        for pixels, name in pairs:
            np.testing.assert_array_equal(pixels, expected[name][at])


def _stacked(rows: dict[int, Row]) -> dict[str, NDArray[Any]]:
    """The rows as columns, in ascending order of row."""
    order = sorted(rows)
    columns = {
        name: np.stack([np.asarray(getattr(rows[row], name)) for row in order])
        for name in ("obs", "next_obs", "action", "reward", "discount")
    }
    return {"row": np.asarray(order, np.int64), **columns}
