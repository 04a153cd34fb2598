"""What can be wrong with what is to be trained, played or filmed; checked before anything is made."""

from __future__ import annotations

import difflib
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastdqn import torchrun
from fastdqn.algorithm.networks import STACK
from fastdqn.config import Config, differences, in_words
from fastdqn.engine import device as devices
from fastdqn.engine.compiling import resolve_accelerate
from fastdqn.errors import UserError
from fastdqn.games.envs import game_names, num_actions
from fastdqn.json_files import read_object, shown
from fastdqn.runs import checkpoint, memory
from fastdqn.runs.clock import Clock
from fastdqn.runs.ending import Progress


@dataclass(frozen=True)
class Checked:
    """A configuration that can be trained. `check` makes it, and nothing is trained without one.

    Attributes:
        config: The configuration.
        device: Where the learner is to live; `None` takes the GPU if there is one.
        weights: The file or folder of the weights that the run starts from, `None` for new ones.
        policy: What was read there.
    """

    config: Config
    device: devices.Backend | None = None
    weights: Path | None = None
    policy: checkpoint.SavedPolicy | None = None


def check(config: Config, weights: Path | None = None, *, device: devices.Backend | None = None) -> Checked:
    """Raise one error that names every problem of a configuration; cheap, and nothing is made.

    Args:
        config: What is to be trained.
        weights: The weights that it is to start from: a run, a checkpoint, or the policy's file in one.
        device: Where the learner is to live; the GPU if there is one and none is given.

    Returns:
        What `build` makes the objects of a run from.

    Raises:
        UserError: A value is out of range, the game is unknown, the replay does not fit, or the weights do not.
    """
    problems = [*_game_problems(config.game), *config.validate()]
    if not problems:
        problems = [*_ring_problems(config), *_device_problems(config, device)]
        problems += _share_problems(
            config, devices.free_gpu_bytes() if device is None else device.free_bytes()
        )
        confirms = config.confirm_stop and config.solved_return is not None
        if confirms or config.evaluation.every_frames is not None:
            problems += _protocol_problems(config)
    if problems:
        raise UserError("\n".join(problems))
    policy = None if weights is None else checkpoint.load_policy(weights)
    if policy is not None:
        check_policy(policy, config, num_actions(config.game, config.env))
    return Checked(config, device, weights, policy)


def check_played(policy: checkpoint.SavedPolicy, config: Config) -> None:
    """Raise where a policy is not for the game and the network of the run that it is to play as.

    Raises:
        UserError: The game is unknown, or the weights and config.json are not of one run.
    """
    problems = _game_problems(config.game)
    if problems:
        raise UserError("\n".join(problems))
    differing = differences(policy.network, config.network, "network.")
    if differing:
        raise UserError(
            f"{policy.source} is of another network than config.json names: {in_words(differing)}; one of the "
            "two was changed."
        )
    check_policy(policy, config, num_actions(config.game, config.env))


def check_policy(policy: checkpoint.SavedPolicy, config: Config, num_actions: int) -> None:
    """Raise where weights do not fit a configuration's network.

    Raises:
        UserError: The shape or the number of actions differs.
    """
    differing = differences(policy.network, config.network, "network.")
    if differing:
        settings = " ".join(f"`{name} = {theirs!r}`" for name, (theirs, _) in differing.items())
        raise UserError(
            f"{policy.source} is of another network than this run's: {in_words(differing)}.\n"
            f"Set {settings}, or name the preset it was trained with."
        )
    if policy.num_actions != num_actions:
        raise UserError(
            f"{policy.source} knows {policy.num_actions} actions, {config.game} has {num_actions}: it was "
            "trained on another game or action set."
        )


def check_evaluation(config: Config) -> None:
    """Raise where an evaluation's settings are out of range, or are not for the run's policy.

    Raises:
        UserError: Every problem, by the name that whoever evaluates gives it: `epsilon`, not `evaluation.epsilon`.
    """
    problems = config.validate() or _protocol_problems(config)
    if problems:
        raise UserError("\n".join(problem.removeprefix("evaluation.") for problem in problems))


def _game_problems(game: str) -> list[str]:
    """EnvPool itself answers to an unknown game with an assertion, and to another kind of game with worse."""
    names = game_names()
    if game in names:
        return []
    folded = {name.lower(): name for name in names} | {
        name.lower().removesuffix("-v5"): name for name in names
    }
    near = difflib.get_close_matches(game.lower().removesuffix("noframeskip-v4"), folded, n=1, cutoff=0.5)
    hint = f"did you mean {folded[near[0]]}?" if near else f"EnvPool has {', '.join(names[:5])}, ..."
    return [f"game = {shown(game)}: EnvPool has no such Atari game; {hint}"]


def _ring_problems(config: Config) -> list[str]:
    envs, n_step = config.env.num_envs, config.learner.n_step
    problems = []
    least = envs * (STACK + n_step)
    if config.replay.capacity < least:
        problems.append(
            f"replay.capacity = {config.replay.capacity}: at least {least} is needed, env.num_envs ({envs}) "
            f"x (stack {STACK} + learner.n_step {n_step})"
        )
    if config.replay.warmup_steps < envs * n_step:
        problems.append(
            f"replay.warmup_steps = {config.replay.warmup_steps}: at least {envs * n_step} is needed, "
            f"env.num_envs ({envs}) x learner.n_step ({n_step}), or there is nothing to sample"
        )
    return problems


def share(config: Config, ranks: int) -> Config:
    """Return what one of several ranks has of a run: its part of the games, the replay and each batch."""
    return replace(
        config,
        env=replace(config.env, num_envs=config.env.num_envs // ranks),
        # Kept as the whole would be: what people are told of it follows from the run's configuration.
        replay=replace(
            config.replay, capacity=config.replay.capacity // ranks, storage=memory.storage(config)
        ),
        learner=replace(config.learner, batch_size=config.learner.batch_size // ranks),
    )


def _share_problems(config: Config, gpu_bytes: int | None) -> list[str]:
    """Each rank needs an equal share, and the memory for it."""
    place = (torchrun.place() if config.pipeline.data_parallel else None) or torchrun.ALONE
    shared = {
        "env.num_envs": config.env.num_envs,
        "learner.batch_size": config.learner.batch_size,
        "replay.capacity": config.replay.capacity,
    }
    return [
        f"{name} = {value}: {place.count} processes cannot have equal shares of it; "
        f"try `{name} = {max(1, value // place.count) * place.count}`"
        for name, value in shared.items()
        if value % place.count
    ] or memory.problems(share(config, place.count), gpu_bytes, place.local_count)


def _protocol_problems(config: Config) -> list[str]:
    """Machado et al. 2018 have agents choose among all 18 actions; a policy knows those it was trained with.

    Its actions could be looked up among the 18, but the score would be another protocol's.
    """
    if config.evaluation.protocol != "machado" or config.env.full_action_set:
        return []
    return [
        "evaluation.protocol = machado: it is for policies that choose among all 18 actions; train one with "
        "`env.full_action_set = True`, or take the protocol training with sticky actions 0.25"
    ]


def check_compiler(config: Config) -> None:
    """Raise where a run would compile for this machine's CPU, and there is nothing to compile with.

    Args:
        config: What is to be trained here, and not on another machine.

    Raises:
        UserError: PyTorch's compiler would not find its C++ compiler.
    """
    if devices.has_cuda():
        return
    clock = Clock(config.env.frame_skip, config.replay.warmup_steps, config.learner.steps_per_update)
    planned, setting = clock.updates_planned(config.total_frames), config.pipeline.accelerate
    compiler = os.environ.get("CXX", "g++")
    if resolve_accelerate(setting, "cpu", planned) == "compile" and shutil.which(compiler) is None:
        raise UserError(
            f"pipeline.accelerate = {setting!r}: PyTorch compiles for a CPU with {compiler}, which is not there; "
            "install it, or take `pipeline.accelerate = 'eager'`, which is slower"
        )


def refuse_complete(path: Path, state: Mapping[str, Any], config: Config) -> None:
    """Raise where a run has played all that its configuration wants.

    Args:
        path: Its folder.
        state: Of its newest checkpoint.
        config: Its configuration, as it is to go on.

    Raises:
        UserError: It has.
    """
    if state["frames"] >= config.total_frames:
        raise UserError(
            f"{path} is complete: it has played its {config.total_frames:,} frames.\n"
            "Play on with a larger `total_frames`, or start anew from its weights with `weights`."
        )
    progress, wanted = Progress.of_state(state, config), config.solved_return
    if progress.complete:
        raise UserError(
            f"{path} is complete: the mean return of its last games is {progress.games.mean:.1f}, and "
            f"`stop_at_return = {wanted:g}`.\nPlay on with `stop_at_return = None`, or a larger one."
        )


def check_goes_on(path: Path, config: Config) -> None:
    """Raise where a run has played all that its new configuration wants; what cannot be read is left to resuming.

    Args:
        path: Its folder.
        config: Its configuration, as it is to go on.

    Raises:
        UserError: It has.
    """
    with suppress(OSError, ValueError, KeyError, TypeError, IndexError):
        newest = checkpoint.find(path / "checkpoints")[-1]
        refuse_complete(path, read_object(newest / "state.json"), config)


def _device_problems(config: Config, device: devices.Backend | None) -> list[str]:
    if device is not None or devices.has_cuda():
        return []
    wants = {
        "pipeline.accelerate": (config.pipeline.accelerate, "graph", "auto"),
        "pipeline.precision": (config.pipeline.precision, "tf32", "fp32"),
        "pipeline.frames_on": (config.pipeline.frames_on, "cuda", "auto"),
    }
    return [
        f"{name} = {value!r}: needs a CUDA GPU, and PyTorch sees none here (`fastdqn info` tells); "
        f"try `{name} = {instead!r}`"
        for name, (value, wanted, instead) in wants.items()
        if value == wanted
    ]
