"""The replay buffer: stacked uint8 frames, each kept once, sampled fast.

It needs numpy and nothing else. Every observation that it returns equals, byte for byte, the one that was
added, whatever the vector environment does at the ends of episodes::

    replay = ReplayBuffer(1_000_000, num_envs=8)
    observation, _ = envs.reset()
    replay.begin(observation)
    while True:
        action = act(observation)
        observation, reward, terminated, truncated, _ = envs.step(action)
        replay.add(action, observation, reward, terminated, truncated)
        batch = replay.sample(32)

A *frame* is one image of `frame_shape`; an *observation* is a stack of them, oldest first. A *row* names one
transition for ever: ``row = sequence * num_envs + env``, where `sequence` counts that environment's
transitions from 0.

Threads: every method takes the buffer's one lock, so any of them may be called from any thread; the GIL is
released while pixels are compared and copied. The arrays of a call must not be changed by others while it
runs.

Errors: a wrong argument is a ValueError (value, shape) or TypeError (type, dtype) whose message begins with
its name, and leaves the buffer as it was.
"""

from __future__ import annotations

import math
import operator
import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, SupportsIndex, TypeAlias

import numpy as np
import numpy.typing as npt

from fastdqn import _core

__all__ = ["Added", "Batch", "Plan", "ReplayBuffer", "ReplayStats"]

Bools: TypeAlias = npt.NDArray[np.bool_]
Bytes: TypeAlias = npt.NDArray[np.uint8]
Floats: TypeAlias = npt.NDArray[np.float32]
Integers: TypeAlias = npt.NDArray[np.int64]

COLUMNS: Mapping[str, np.dtype[Any]] = {name: np.dtype(kind) for name, kind in _core.COLUMNS.items()}
"""The columns of a batch and of a plan, one value a transition: names and dtypes, as the core lists them."""

# As the core numbers them.
_AUTORESET = ("next_step", "same_step", "disabled")
_LAYOUT = ("separate", "window")
_STORAGE = ("raw", "delta")
_MOST_AXES = 32  # with those of the batch and the stack still an array of numpy 1


def available_memory_bytes() -> int:
    """Return how many bytes can be filled without swapping: what a buffer's size is held against.

    A container's limit, or a job's, counts (cgroups); where nobody says, it is the largest number there is.
    """
    return _core.available_memory_bytes()


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Sampled transitions; B is the batch size.

    Attributes:
        obs: uint8 [B, stack, *frame_shape].
        next_obs: uint8, as `obs`: the observation that `discount` multiplies the value of.
        action: int64 [B].
        reward: float32 [B], the n-step return of the window's rewards.
        discount: float32 [B], gamma^m * (1 - terminated); m <= n is the window's true length in steps.
        weight: float32 [B], importance weights, the largest of the batch 1; all 1 under uniform sampling.
        row: int64 [B], the rows' names.
        window: uint8 [B, stack + 1, *frame_shape], of which `obs` and `next_obs` are views; `None` under
            ``layout="separate"``.
    """

    obs: Bytes
    next_obs: Bytes
    action: Integers
    reward: Floats
    discount: Floats
    weight: Floats
    row: Integers
    window: Bytes | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A batch without pixels: the same fields as `Batch`, with frame slots in place of frames.

    Attributes:
        obs_frames: int64 [B, stack], the global slots (env * ring + slot) of the observation's frames, oldest
            first.
        next_frames: int64 [B, stack], of the next observation's.
        action: int64 [B].
        reward: float32 [B].
        discount: float32 [B].
        weight: float32 [B].
        row: int64 [B].
    """

    obs_frames: Integers
    next_frames: Integers
    action: Integers
    reward: Floats
    discount: Floats
    weight: Floats
    row: Integers


class Added(NamedTuple):
    """The frames that one call stored, in the order in which they were written; K of them.

    With ``source = final_observation if source_final[k] else observation``, slot ``slot[k]`` now holds
    ``source[source_row[k], source_index[k]]``. A mirror of the store that applies this in order stays equal
    to it.

    Attributes:
        slot: int64 [K], global slots: env * ring + slot.
        source_row: int64 [K], rows of the call.
        source_index: int64 [K], indices in the stack.
        source_final: bool [K], whether the frame came from `final_observation`.
    """

    slot: Integers
    source_row: Integers
    source_index: Integers
    source_final: Bools


class ReplayStats(NamedTuple):
    """What a buffer holds.

    Attributes:
        capacity: frame slots that were asked for.
        slots: frame slots in all: ring * num_envs.
        frames: slots that are filled.
        frames_written: frames ever stored.
        episode_frames: of those, the ones that first observations of episodes cost.
        transitions: transitions ever added.
        sampleable: transitions that can be sampled now.
        episodes: episodes ever begun.
        whole_stacks: observations that did not continue the one before and had to be stored whole; first
            ones of two frames, which may be padded, are not counted.
        stored_bytes: what the frames take now, with what finds them.
        key_frames: kept without the frame before; all of them in raw storage. In delta storage the oldest group of
            an environment counts whole, here and in `stored_bytes`, until its last frame goes.
        raw_frames: of those, kept as they are.
        allocated_bytes: memory reserved; the system hands it out as it fills.
    """

    capacity: int
    slots: int
    frames: int
    frames_written: int
    episode_frames: int
    transitions: int
    sampleable: int
    episodes: int
    whole_stacks: int
    stored_bytes: int
    key_frames: int
    raw_frames: int
    allocated_bytes: int


class ReplayBuffer:
    """A replay buffer of stacked frames over several environments.

    A transition can be sampled once its n-step window is closed (n steps from it on were added, or its
    episode ended) and until the oldest frame of its observation is within `guard_frames` frames of being
    overwritten. Sampling is uniform over all such transitions, or with ``alpha > 0`` in proportion to
    priority^alpha; always with replacement.

    Args:
        capacity: Frame slots over all environments, split evenly: each has a ring of ``capacity //
            num_envs``. A transition costs one slot, and each episode one more: two where its first stack is
            padded in front, as with zeros.
        num_envs: Number of environments; they are named 0 to num_envs - 1.
        frame_shape: Shape of one frame, uint8.
        stack: Frames of an observation, 1 to 255.
        n_step: Steps of a return.
        gamma: Discount per step, 0 to 1.
        alpha: Exponent of the priorities, 0 to 1; 0 samples uniformly, more draws in proportion to
            ``priority ** alpha`` (Schaul et al. 2016), with independent draws. A transition enters with the
            largest priority among those that can be sampled, or 1 where that is zero.
        autoreset: What the vector environment does after an episode ends, by Gymnasium's names.
            ``"next_step"`` (EnvPool): the next row brings the new episode's first observation, its action is
            ignored. ``"same_step"``: the same row does, and the true last observation is passed as
            `final_observation`. ``"disabled"``: `begin` is called.
        layout: ``"separate"`` gives `obs` and `next_obs` as two arrays; ``"window"`` (n_step 1 only) as views
            of one array of stack + 1 frames, which is less to copy. A window can hold no transition whose
            next observation does not shift its observation by one frame: `add` refuses one with a ValueError.
        storage: How frames lie in memory, which changes nothing that is sampled. ``"raw"``: as they are.
            ``"delta"``: as what changes from one to the next, losslessly: for games a fifth to a seventieth of
            the bytes, a little slower. `capacity` counts frames all the same: however well they shrink,
            as many live. Frames that do not shrink, such as noise, take 2 % more than raw ones.
        guard_frames: Frames that each environment may still store before the frames of anything sampled or
            planned are lost: for readers that gather later.
        seed: Seed of the sampling, 0 to 2^64 - 1.

    Raises:
        ValueError: An argument is out of its range; a ring below stack + n_step + guard_frames names
            `capacity`.
        MemoryError: The arrays would not fit the memory that is available.
    """

    def __init__(
        self,
        capacity: int,
        num_envs: int,
        *,
        frame_shape: Sequence[int] = (84, 84),
        stack: int = 4,
        n_step: int = 1,
        gamma: float = 0.99,
        alpha: float = 0.0,
        autoreset: Literal["next_step", "same_step", "disabled"] = "next_step",
        layout: Literal["separate", "window"] = "separate",
        storage: Literal["raw", "delta"] = "raw",
        guard_frames: int = 0,
        seed: int = 0,
    ) -> None:
        self.capacity = _integer("capacity", capacity, 1)
        self.num_envs = _integer("num_envs", num_envs, 1, 2**31 - 1)
        _instance("frame_shape", frame_shape, Sequence)
        self.frame_shape = tuple(_integer("frame_shape", extent, 1) for extent in frame_shape)
        if len(self.frame_shape) > _MOST_AXES:
            raise ValueError(
                f"frame_shape: {len(self.frame_shape)} axes, and at most {_MOST_AXES} are possible"
            )
        _integer("frame_shape", math.prod(self.frame_shape), 1, 2**31 - 1)
        self.stack = _integer("stack", stack, 1, 255)
        self.n_step = _integer("n_step", n_step, 1, 2**31 - 1)
        self.gamma = _number("gamma", gamma)
        self.alpha = _number("alpha", alpha)
        self.autoreset = autoreset
        self.layout = layout
        self.storage = storage
        self.guard_frames = _integer("guard_frames", guard_frames, 0, 2**31 - 1)
        self.seed = _integer("seed", seed, 0)
        self._warned = False
        self._core = self._make_core()

    def _make_core(self) -> _core.Replay:
        return _core.Replay(
            capacity=self.capacity,
            num_envs=self.num_envs,
            frame_shape=self.frame_shape,
            stack=self.stack,
            n_step=self.n_step,
            gamma=self.gamma,
            alpha=self.alpha,
            autoreset=_choice("autoreset", self.autoreset, _AUTORESET),
            layout=_choice("layout", self.layout, _LAYOUT),
            storage=_choice("storage", self.storage, _STORAGE),
            guard_frames=self.guard_frames,
            seed=self.seed,
        )

    @property
    def ring(self) -> int:
        """Frame slots of each environment."""
        return self._core.ring

    def __len__(self) -> int:
        """Return the number of transitions that can be sampled now."""
        return len(self._core)

    def begin(self, observation: Bytes, env_id: npt.NDArray[Any] | None = None) -> Added:
        """Begin an episode in each row's environment: store what ``reset()`` gave.

        An episode that is still open ends here, truncated at its last observation.

        Args:
            observation: uint8 [R, stack, *frame_shape].
            env_id: int32 or int64 [R] without repetition; `None` means all environments in order, R = num_envs.

        Returns:
            The frames that were stored.
        """
        return self._added(self._core.begin(observation, env_id))

    def add(
        self,
        action: npt.NDArray[Any],
        observation: Bytes,
        reward: npt.NDArray[Any],
        terminated: Bools,
        truncated: Bools,
        env_id: npt.NDArray[Any] | None = None,
        final_observation: Bytes | npt.NDArray[np.object_] | Sequence[Bytes | None] | None = None,
    ) -> Added:
        """Store one step of each row's environment: the action sent and what came back.

        The action was taken at the observation that the environment gave before. The row after a done, under
        ``autoreset="next_step"``, only begins the next episode: its action and reward are ignored.

        Args:
            action: int32 or int64 [R]; values of 32 bits.
            observation: uint8 [R, stack, *frame_shape].
            reward: float32, float64 or any integers [R], finite; stored as float32.
            terminated: bool [R], the episode ended by itself. It wins where both flags are set. A byte other than
                0 and 1, which an array viewed as bool may have, counts as true.
            truncated: bool [R], it was cut off: the value of its last observation still counts.
            env_id: As in `begin`.
            final_observation: As `observation`, or R arrays [stack, *frame_shape] as a list or as the object array
                of Gymnasium's ``info.get("final_obs")``, with `None` where nothing ended. Read in the done rows
                alone; for ``autoreset="same_step"`` only, which needs it in any call with a done row.

        Returns:
            The frames that were stored.

        Raises:
            ValueError: Also for an environment without an open episode (names `env_id`), for an autoreset row
                that is done itself, for a reward that is NaN, infinite or beyond float32, and for what
                ``layout="window"`` cannot hold.
        """
        if isinstance(reward, np.ndarray) and reward.dtype.kind in "iu":
            reward = reward.astype(np.float64)
        if _is_ragged(final_observation):
            final_observation = self._final_stacks(final_observation, observation, terminated, truncated)
        return self._added(
            self._core.add(action, observation, reward, terminated, truncated, env_id, final_observation)
        )

    def sample(self, batch_size: int, beta: float = 1.0, out: Batch | None = None) -> Batch:
        """Draw transitions with replacement.

        Args:
            batch_size: Number of transitions, B.
            beta: Exponent of the importance weights, 0 to 1.
            out: A batch from `make_batch` (or any of the right arrays, none sharing memory with another) to
                fill and return; reusing one is faster than allocating.

        Returns:
            The batch: `out` if it was given.

        Raises:
            RuntimeError: Nothing can be sampled yet, or all priorities are zero.
        """
        batch_size = _integer("batch_size", batch_size, 1)
        beta = _number("beta", beta)
        batch = self.make_batch(batch_size) if out is None else out
        _instance("out", batch, Batch)
        self._core.sample(batch_size, beta, batch)
        return batch

    def plan(self, batch_size: int, beta: float = 1.0, out: Plan | None = None) -> Plan:
        """Draw the transitions that `sample` would, and return where their frames are.

        Args:
            batch_size: Number of transitions, B.
            beta: Exponent of the importance weights, 0 to 1.
            out: A plan of the same size to fill and return.

        Returns:
            The plan. Its frames stay in their slots until the environment stores `guard_frames` more of them.

        Raises:
            RuntimeError: Nothing can be sampled yet, or all priorities are zero.
        """
        batch_size = _integer("batch_size", batch_size, 1)
        slots = (batch_size, self.stack)
        plan = out or Plan(np.empty(slots, np.int64), np.empty(slots, np.int64), **_columns(batch_size))
        _instance("out", plan, Plan)
        self._core.plan(batch_size, _number("beta", beta), plan)
        return plan

    def gather(self, plan: Plan, out: Batch | None = None) -> Batch:
        """Fetch the pixels of a plan.

        Args:
            plan: What `plan` returned; its rows are what counts.
            out: As in `sample`.

        Returns:
            The batch that `sample` would have returned in place of the plan.

        Raises:
            RuntimeError: A frame of it was overwritten since; nothing was written to `out`.
        """
        _instance("plan", plan, Plan)
        batch = self.make_batch(len(plan.row)) if out is None else out
        _instance("out", batch, Batch)
        # Copies, because a batch may have the plan's own arrays, under other names, too.
        pairs = [(getattr(batch, name), getattr(plan, name).copy()) for name in COLUMNS]
        for name, (target, source) in zip(COLUMNS, pairs, strict=True):
            if target.shape != source.shape or target.dtype != source.dtype:
                raise ValueError(f"out: {name} must be {source.dtype} {source.shape}")
        self._core.gather(plan.row, batch)
        for target, source in pairs:
            np.copyto(target, source)
        return batch

    def read_frames(self, first_slot: int, out: Bytes) -> Bytes:
        """Copy the frames of consecutive global slots: to fill a mirror of the store as a whole.

        Args:
            first_slot: The first global slot, env * ring + slot.
            out: uint8 [K, *frame_shape], filled with slots first_slot to first_slot + K - 1; those that were
                never written are zero.

        Returns:
            `out`.
        """
        self._core.read_frames(_integer("first_slot", first_slot, 0), out)
        return out

    def update_priorities(self, row: Integers, priority: npt.NDArray[Any]) -> int:
        """Set the priorities of rows that were sampled.

        With ``alpha=0`` this checks its arguments and changes nothing.

        Args:
            row: int64 [K], as sampled, however long ago. Where a row repeats, its last priority counts.
            priority: float32 or float64 [K], 0 to 1e100. A row of priority 0 is not drawn.

        Returns:
            How many rows were dropped because they can no longer be sampled.
        """
        return self._core.update_priorities(row, priority)

    def make_batch(self, batch_size: int) -> Batch:
        """Allocate a batch for `out`, zeroed so that its pages are mapped before they are timed.

        Args:
            batch_size: Number of transitions, B.

        Returns:
            A batch whose arrays fit this buffer.
        """
        batch_size = _integer("batch_size", batch_size, 1)
        columns = _columns(batch_size)
        if self.layout == "window":
            window = np.zeros((batch_size, self.stack + 1, *self.frame_shape), np.uint8)
            return Batch(window[:, :-1], window[:, 1:], **columns, window=window)
        shape = (batch_size, self.stack, *self.frame_shape)
        return Batch(np.zeros(shape, np.uint8), np.zeros(shape, np.uint8), **columns)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the whole state to a file: contents, priorities and the state of the sampling.

        The file has the safetensors layout and appears whole or not at all. Pixels are written from where they
        are, without a copy; the other methods wait meanwhile.

        Args:
            path: The file; one that exists is replaced. Until it is whole it has a name of its own beside this
                one, with 16 digits and `.partial` at its end, which only a killed process leaves behind.

        Raises:
            ValueError: The path is something else than a regular file: a link is not followed and not replaced.
            OSError: What the system reports.
        """
        self._core.save(os.fsencode(path))

    def load(self, path: str | os.PathLike[str]) -> None:
        """Read a file of `save` into this buffer, which then gives the batches that the saved one would have.

        The file is read twice, so that a bad one is found before anything changes.

        Args:
            path: A file that a buffer with the same options wrote.

        Raises:
            ValueError: The file is truncated, foreign, damaged, newer than this version, of a buffer with other
                options, or no regular file; the buffer is unchanged.
            OSError: What the system reports. If the disk fails in the second reading the buffer is empty.
        """
        self._core.load(os.fsencode(path))

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> ReplayBuffer:
        """Make the buffer that a file of `save` holds.

        Args:
            path: The file.

        Returns:
            A buffer with the options and the state of the one that was saved.

        Raises:
            ValueError: As in `load`; also for a file of the format's first version, whose options no checksum
                covers: `load` reads it into a buffer that was made with them.
            OSError: As in `load`.
            MemoryError: The buffer would not fit the memory that is available.
        """
        options = _core.saved_options(os.fsencode(path))
        options["autoreset"] = _AUTORESET[options["autoreset"]]
        options["layout"] = _LAYOUT[options["layout"]]
        options["storage"] = _STORAGE[options["storage"]]
        replay = cls(**options)
        replay.load(path)
        return replay

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes and, as bytes, the file that `save` would write: for pickle and copies.

        It costs that file in the folder for temporary files and once more in memory; `save` costs neither.
        ``copy.copy`` and ``copy.deepcopy`` both give a buffer that shares nothing with this one.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "replay"
            self.save(path)
            return {**self.__dict__, "_core": path.read_bytes()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._core = self._make_core()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "replay"
            path.write_bytes(state["_core"])
            self.load(path)

    def stats(self) -> ReplayStats:
        """Return what the buffer holds. Costs microseconds, under `delta` more: by what is kept whole."""
        return ReplayStats(capacity=self.capacity, **self._core.stats())

    def invariant_violation(self) -> str:
        """Return an empty string if the whole state is consistent, else what is not.

        For tests and debugging: it visits every transition.
        """
        return self._core.invariant_violation()

    def _final_stacks(self, final: Any, observation: Any, terminated: Any, truncated: Any) -> Bytes:
        """Return the done rows' stacks in one array; arguments that the core will refuse are left to it."""
        if len(final) != len(observation):
            raise ValueError(f"final_observation: must have {len(observation)} entries, not {len(final)}")
        stacks = np.zeros((len(final), self.stack, *self.frame_shape), np.uint8)
        flags = [np.asarray(flag) for flag in (terminated, truncated)]
        if any(flag.dtype != bool or flag.shape != (len(final),) for flag in flags):
            return stacks
        for row in np.flatnonzero(flags[0] | flags[1]).tolist():
            stack = final[row]
            if stack is None:
                raise ValueError(f"final_observation: row {row} is done, but has None")
            if not isinstance(stack, np.ndarray) or stack.dtype != np.uint8:
                raise TypeError(f"final_observation: row {row} must be a uint8 array, not {stack!r:.80}")
            if stack.shape != stacks.shape[1:]:
                raise ValueError(
                    f"final_observation: row {row} must have shape {stacks.shape[1:]}, not {stack.shape}"
                )
            stacks[row] = stack
        return stacks

    def _added(self, result: tuple[Integers, Integers, Integers, Bools, int]) -> Added:
        slot, source_row, source_index, source_final, whole = result
        if whole and not self._warned:
            self._warned = True
            warnings.warn(
                f"{whole} observation(s) did not continue the one before and are stored whole, {self.stack} "
                "frames each. What is sampled is right all the same, but if it happens often (see "
                "stats().whole_stacks) memory holds less: find the wrapper that changes frames "
                "after stacking them.",
                RuntimeWarning,
                stacklevel=3,
            )
        return Added(slot, source_row, source_index, source_final)


def _is_ragged(final: object) -> bool:
    """Whether final observations come one by one, as Gymnasium and lists have them."""
    return isinstance(final, list | tuple) or (isinstance(final, np.ndarray) and final.dtype == object)


def _columns(batch_size: int) -> dict[str, npt.NDArray[Any]]:
    return {name: np.empty(batch_size, dtype) for name, dtype in COLUMNS.items()}


def _integer(name: str, value: SupportsIndex, least: int, most: int = 2**64 - 1) -> int:
    try:
        integer = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: must be an integer, not {value!r}") from None
    if not least <= integer <= most:
        raise ValueError(f"{name}: must be at least {least} and at most {most}, not {integer}")
    return integer


def _instance(name: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{name}: must be a {kind.__name__}, not {value!r:.80}")


def _number(name: str, value: float) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: must be a number, not {value!r}") from None


def _choice(name: str, value: str, choices: tuple[str, ...]) -> int:
    if value not in choices:
        raise ValueError(f"{name}: must be one of {', '.join(choices)}, not {value!r}")
    return choices.index(value)
