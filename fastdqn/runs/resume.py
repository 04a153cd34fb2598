"""What a run is made of at one moment: gathered for a checkpoint, and put back into new objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastdqn.algorithm.update import METRICS
from fastdqn.config import CheckpointConfig, Config, EvaluationConfig, differences, in_words
from fastdqn.engine.data_parallel import ALONE, Ranks
from fastdqn.errors import RunFailedError, UserError
from fastdqn.json_files import checked, read_object, shown
from fastdqn.runs import checkpoint, checkpoint_folder
from fastdqn.runs.build import Components
from fastdqn.runs.checkpoint import Checkpoint
from fastdqn.runs.checks import refuse_complete
from fastdqn.runs.clock import Clock, Marks
from fastdqn.runs.ending import Progress
from fastdqn.runs.folder import RunFolder, versions
from fastdqn.runs.metrics import Games

_STATE: dict[str, Any] = {
    "config": Config,
    "clock": Clock,
    "actor": dict[str, int],
    "generation": int,
    "games": Games,
    "updates_in_means": int,
    "marks": Marks,
}
"""The fields of state.json that `save` writes."""

DECIDING = ("fastdqn", "torch", "envpool")
"""Packages whose version decides the bits of a run; docs/pythons.md has what was tried."""


def save(
    run: RunFolder,
    components: Components,
    say: Callable[[str], None],
    replaces_older: Callable[[], bool] = lambda: True,
) -> Path:
    """Write a checkpoint of a run whose experience was flushed. What all ranks share, rank 0 alone writes.

    Args:
        run: Where to.
        components: The objects of the run.
        say: Called with a line for each old checkpoint that cannot be removed.
        replaces_older: As for `checkpoint.save`.

    Returns:
        The checkpoint's folder.

    Raises:
        RunFailedError: A weight is not finite: such a checkpoint would be of no use.
        OSError: The disk is full or failed.
    """
    tensors = components.learner.state_tensors()
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise RunFailedError(
                f"{name} is not finite at frame {components.clock.frames}: the run has diverged."
            )
    sums, count = components.learner.means.state()
    actions, observation = components.envs.played()
    loop = {"loop.sums": sums}
    if components.keeps_replay:  # the games are of use only with the replay that belongs to them
        loop["loop.actions"] = torch.from_numpy(actions.copy())
        loop["loop.observation"] = torch.from_numpy(observation)
    state = {
        "config": asdict(run.config),
        "versions": dict(versions()),
        "clock": asdict(components.clock),
        "actor": components.actor.random_state(),
        "generation": components.envs.generation,
        "games": components.games.state(),
        "updates_in_means": count,
        "marks": asdict(components.marks),
        "ranks": components.ranks.count,
    }
    return checkpoint.save(
        run.checkpoints,
        components.clock.frames,
        {**tensors, **loop},
        state,
        run.config.network,
        components.envs.num_actions,
        run.config.checkpoint.keep,
        components.experience.save if components.keeps_replay else None,
        say,
        parts=_parts(components.ranks, averages=run.config.learner.average_updates is not None),
        replaces_older=replaces_older,
    )


def _parts(ranks: Ranks, *, averages: bool = False) -> Sequence[str]:
    """Return which tensors a rank's checkpoints have, by whether an average is kept."""
    if ranks.index:
        return ("loop",)
    return (*checkpoint_folder.PARTS, checkpoint_folder.AVERAGE) if averages else checkpoint_folder.PARTS


def load(run: RunFolder, *, inexact: bool = False, ranks: Ranks = ALONE) -> Checkpoint:
    """Read the newest checkpoint of a run that is to go on, of several ranks the newest that all have.

    Args:
        run: The run.
        inexact: Take it though packages that decide the bits of a run have other versions now, or though another
            number of ranks has trained it, whose replays and games are of no use.
        ranks: Who goes on.

    Raises:
        UserError: There is none, it is damaged or of a run of another configuration, the run is complete, or it
            was saved by other versions or by another number of ranks and going on would not be exact.
    """
    saved = _load_newest(run, ranks, inexact)
    try:
        of = _check_state(saved.state)
    except ValueError as error:
        raise UserError(f"{saved.path / 'state.json'} cannot be read: {error}") from None
    saved.state["marks"] = ranks.gather(saved.state["marks"])[0]  # what is due is due for all
    differing = differences(_essence(of), _essence(run.config))
    if differing:
        raise UserError(
            f"{saved.path} is of a run with another configuration than {run.path / 'config.json'}: "
            f"{in_words(differing)}.\n"
            f"Start a new run from its weights: `train(..., weights={str(saved.path)!r})`"
        )
    if not any(ranks.gather(evaluation_is_owed(run.whole, saved.state, run.config))):
        refuse_complete(run.whole, saved.state, run.config)
    if saved.replay and not inexact:  # without the replay other games follow anyway
        _check_versions(run, saved)
    _forget_other_division(run, saved, ranks)
    return saved


def _forget_other_division(run: RunFolder, saved: Checkpoint, ranks: Ranks) -> None:
    """Remove a rank's part of checkpoints by another number of ranks, once all of these have accepted to go on."""
    if saved.state.get("ranks", 1) == ranks.count:
        return
    ranks.gather("accepted")
    if ranks.index > 0:
        for path in checkpoint.find(run.checkpoints):
            checkpoint_folder.remove(path, run.log)


def evaluation_is_owed(path: Path, state: Mapping[str, Any], config: Config) -> bool:
    """Whether a run was stopped in an evaluation, and has not ended since.

    Args:
        path: Its folder.
        state: Of its newest checkpoint.
        config: Its configuration.
    """
    with suppress(OSError, ValueError):
        if read_object(path / "summary.json").get("interrupted") is False:
            return False
    return Progress.of_state(state, config).evaluation_is_due


def _load_newest(run: RunFolder, ranks: Ranks, inexact: bool) -> Checkpoint:
    """Read the checkpoint that all go on from. Newer ones, which a kill has left with some ranks, are removed."""
    there = checkpoint.find(run.checkpoints)
    newest = None if ranks.index else checkpoint.load(checkpoint.newest(run.checkpoints))
    state = ranks.gather(newest.state if newest else {})[0]
    were = state.get("ranks", 1)
    if were != ranks.count and not inexact:
        raise UserError(
            f"{run.whole} was trained by {were} processes together, and here are {ranks.count}: each has a part "
            "of replay and games.\nGo on with as many, or have replay and games start afresh:\n"
            f"`resume_training({str(run.whole)!r}, inexact=True)`"
        )
    if were != ranks.count:
        if newest is not None:
            return replace(newest, replay=None)
        sums = torch.zeros(len(METRICS), dtype=torch.float64)  # rank 0's follow, as do the weights
        return Checkpoint(run.checkpoints, {"loop.sums": sums}, state, None)
    if newest is not None and ranks.count == 1:
        return newest
    names = ranks.gather([path.name for path in there])
    common = [path for path in there if all(path.name in of_rank for of_rank in names)]
    if not common:
        raise UserError(f"{run.whole} has no checkpoint that all {were} processes have: train it again.")
    for path in there[there.index(common[-1]) + 1 :]:
        checkpoint_folder.remove(path, run.log)
    saved = newest if newest and newest.path == common[-1] else checkpoint.load(common[-1], _parts(ranks))
    return saved if all(ranks.gather(saved.replay is not None)) else replace(saved, replay=None)


def _check_versions(run: RunFolder, saved: Checkpoint) -> None:
    """Raise where a package that decides the bits of a run has another version than when it was saved."""
    then = saved.state.get("versions", {})  # a checkpoint that names none is from before they were kept
    if not isinstance(then, Mapping):
        raise UserError(
            f"{saved.path / 'state.json'} cannot be read: versions = {shown(then)}: an object is wanted"
        )
    now = versions()
    changed = [name for name in DECIDING if name in then and then[name] != now[name]]
    if changed:
        was, has = (", ".join(f"{name} {of[name]}" for name in changed) for of in (then, now))
        raise UserError(
            f"{saved.path} was saved with {was}; here is {has}.\n"
            "The run would not go on as it would have there. Install what it was saved with, or go on all the "
            f"same:\n`resume_training({str(run.whole)!r}, inexact=True)`"
        )


def _check_state(state: dict[str, Any]) -> Config:
    """Return the configuration in a state that could be one that `save` wrote.

    Raises:
        ValueError: A field is missing, of another type, or beyond what a run can come to.
    """
    values = {name: checked(state.get(name), hint, name) for name, hint in _STATE.items()}
    clock: Clock = values["clock"]
    counts = {
        **{f"clock.{name}": value for name, value in asdict(clock).items()},
        **{f"actor.{name}": value for name, value in values["actor"].items()},
        **{
            f"marks.{name}": value
            for name, value in asdict(values["marks"]).items()
            if name != "evaluated_bound"
        },
        **{name: values[name] for name in ("generation", "updates_in_means")},
        "games.count": values["games"].count,
    }
    for name, value in counts.items():
        if not 0 <= value <= 2**62:
            raise ValueError(f"{name} = {shown(value)}: must be 0 or above, and at most 2^62")
    config: Config = values["config"]
    if clock.frame_skip != config.env.frame_skip or clock.frames != state["frames"]:
        raise ValueError(f"clock: {clock.frames} frames, and it is the checkpoint of frame {state['frames']}")
    if (
        clock.steps_per_update < 1
        or clock.updates_due() > config.env.num_envs + config.pipeline.updates_per_launch
    ):
        raise ValueError("clock: steps and updates do not belong together")
    return config


def restore(saved: Checkpoint, components: Components) -> NDArray[np.uint8] | None:
    """Put a checkpoint into the objects that `build` made for it.

    Returns:
        The last observation of the games, which go on; `None` where the checkpoint has no replay, so that
        replay and games start afresh.

    Raises:
        UserError: It does not fit, or the games go another way than they did.
    """
    state, tensors = saved.state, saved.tensors
    try:
        learned = {name: value for name, value in tensors.items() if not name.startswith("loop.")}
        if components.ranks.index == 0:  # whose state the others take when they are prepared
            components.learner.load_state_tensors(learned)
        for name, value in state["clock"].items():
            setattr(components.clock, name, value)
        for name, value in state["marks"].items():
            setattr(components.marks, name, value)
        components.actor.set_random_state(state["actor"])
        components.games.set_state(state["games"])
        components.learner.means.set_state(tensors["loop.sums"], state["updates_in_means"])
        if saved.replay is None:
            components.clock.restart_warmup()
            return None
        played = tensors["loop.actions"].numpy(), tensors["loop.observation"].numpy()
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{saved.path} does not fit this fastdqn: {error}") from None
    return components.envs.restore(*played)


def _essence(config: Config) -> Config:
    """Return what must not differ between a checkpoint and the run that goes on from it."""
    return replace(
        config,
        preset="",
        total_frames=1,
        stop_at_return=None,
        confirm_stop=False,
        log_every_frames=1,
        checkpoint=CheckpointConfig(),
        evaluation=EvaluationConfig(),
    )
