"""What can be done, a function each: train, evaluate, film, draw, export, load a policy. The commands call them.

These are the names that `fastdqn` itself has; nothing heavy is imported before one of them is called. Importing
them sets GOMP_SPINCOUNT in the environment, as the command line does (`openmp.py` says why).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from fastdqn.config import (
    HEAD_NAMES,
    RULE_NAMES,
    TORSO_NAMES,
    Config,
    EvaluationSettings,
    FilmSettings,
    OnOff,
    PolicyFormat,
    ProtocolName,
    TrackerName,
)
from fastdqn.errors import UserError
from fastdqn.openmp import looked_at, shorten_waits

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from fastdqn.algorithm.heads import Head
    from fastdqn.algorithm.targets import Rule
    from fastdqn.algorithm.torsos import Torso
    from fastdqn.config import LearnerConfig, NetworkConfig
    from fastdqn.limits import Names
    from fastdqn.runs.checkpoint import SavedPolicy
    from fastdqn.runs.checks import Checked
    from fastdqn.runs.evaluation import Evaluation
    from fastdqn.runs.metrics import Snapshot
    from fastdqn.runs.report import Summary
    from fastdqn.views.export import Exported
    from fastdqn.views.plot import Picture
    from fastdqn.views.record import Recording
    from fastdqn.views.sweep_report import Report

PathLike = str | os.PathLike[str]

if not shorten_waits():
    warnings.warn(
        "torch was imported before fastdqn's functions, so its CPU threads wait awake for each other: beside "
        "other work that can be several times slower. Import them first, as in `from fastdqn import train`, or "
        "set GOMP_SPINCOUNT=5000 in the environment.",
        stacklevel=2,
    )


def train(
    config: Config,
    run_dir: PathLike | None = None,
    *,
    weights: PathLike | None = None,
    overwrite: bool = False,
    trackers: Sequence[TrackerName] = (),
    report: Callable[[Snapshot], None] = lambda snapshot: None,
    say: Callable[[str], None] = lambda line: None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> Summary:
    """Train from the beginning; `fastdqn train` without its signals and its dashboard.

    Args:
        config: What is to be run; `fastdqn.PRESETS["quick"].config` is one to start from.
        run_dir: Folder of the run; `None` makes a new one in `runs/`.
        weights: Start from the network of this run or .safetensors file.
        overwrite: Replace the run that is in the folder.
        trackers: `wandb` and `mlflow`: where the rows of the metrics go, too.
        report: Called about four times a second with the state of the run.
        say: Called with lines for people.
        stop_requested: Asked once per step of the games; the run is saved when it says yes.

    Returns:
        How the run ended; `run` is its folder.

    Raises:
        fastdqn.errors.UserError: The configuration, the folder or the weights cannot be used.
        fastdqn.errors.RunFailedError: The run had begun and cannot go on.
    """
    source = None if weights is None else Path(weights)
    if source is not None and not source.exists():
        raise UserError(f"weights = {source}: there is no such run or file.")
    others = looked_at()
    from fastdqn.engine.data_parallel import joined, together
    from fastdqn.runs import trainer
    from fastdqn.runs.checks import check, check_compiler
    from fastdqn.runs.folder import RunFolder, default_run_path
    from fastdqn.runs.machine import with_precision, with_threads
    from fastdqn.runs.trackers import check as check_trackers

    config, told = with_threads(with_precision(config), others)
    with joined(config.pipeline.data_parallel) as ranks:
        with together(ranks):
            checked = check(config, source)  # all of it before a run that `overwrite` replaces is gone
            check_compiler(config)
            check_trackers(trackers)
            path = default_run_path(config) if run_dir is None else Path(run_dir)
            path = ranks.gather(path)[0]
            if ranks.index == 0:
                run = RunFolder.create(path, config, overwrite=overwrite, weights=source)
                if told:
                    run.log(told)
                    say(told)
            ranks.gather("it is there")
            if ranks.index > 0:
                run, trackers = RunFolder.of_rank(path, config, ranks.index), ()
        return trainer.train(
            run,
            checked,
            track=trackers,
            report=report,
            say=say,
            stop_requested=stop_requested,
            ranks=ranks,
        )


def resume_training(
    run: PathLike,
    *,
    total_frames: int | None = None,
    stop_at_return: float | Literal["auto", "same"] | None = "same",
    inexact: bool = False,
    report: Callable[[Snapshot], None] = lambda snapshot: None,
    say: Callable[[str], None] = lambda line: None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> Summary:
    """Go on from a run's newest checkpoint, with its own configuration; `fastdqn train --resume`.

    Args:
        run: Its folder.
        total_frames: Train to this many frames, counted from the run's beginning; `None` keeps its number.
            What falls or rises until the last frame (step size, beta) then does so until the new one, and steps
            back where the run goes on.
        stop_at_return: In place of the configuration's; `same` keeps that.
        inexact: Go on though packages that decide the bits of a run have other versions now, or though another
            number of processes has trained it: then replay and games start afresh.
        report: As in `train`, like the two that follow.
        say: Called with lines for people.
        stop_requested: Asked once per step of the games; the run is saved when it says yes.

    Returns:
        How the run ended.

    Raises:
        fastdqn.errors.UserError: It is not a run, or its newest checkpoint is damaged or of other versions.
        fastdqn.errors.RunFailedError: The run had gone on and cannot any further.
    """
    from fastdqn.engine.data_parallel import joined, together
    from fastdqn.runs import trainer
    from fastdqn.runs.checks import check, check_compiler, check_goes_on
    from fastdqn.runs.folder import RunFolder

    changes: dict[str, Any] = {} if total_frames is None else {"total_frames": total_frames}
    if stop_at_return != "same":
        changes["stop_at_return"] = stop_at_return
    path = Path(run)

    def check_all(config: Config) -> Checked:
        result = check(config)
        check_compiler(config)
        if changes:  # refused before they are written
            check_goes_on(path, config)
        return result

    with joined(RunFolder.open(path).config.pipeline.data_parallel) as ranks:
        with together(ranks):
            if ranks.index == 0:
                folder, checked = RunFolder.reopen(path, changes, check_all)
            ranks.gather("it is locked, and has the changes")
            if ranks.index > 0:
                config = RunFolder.open(path).config
                folder, checked = RunFolder.of_rank(path, config, ranks.index), check(config)
        return trainer.train(
            folder,
            checked,
            resume=True,
            inexact=inexact,
            report=report,
            say=say,
            stop_requested=stop_requested,
            ranks=ranks,
        )


def evaluate(
    run: PathLike,
    *,
    checkpoint: str | int = "last",
    protocol: ProtocolName | None = None,
    episodes: int | None = None,
    epsilon: float | None = None,
    max_episode_frames: int | None = None,
    noop_max: int | None = None,
    sticky_actions: float | None = None,
    network_draws: OnOff | None = None,
    seed: int = 0,
    on_episode: Callable[[int, float], None] = lambda games, score: None,
) -> Evaluation:
    """Play whole games with a checkpoint of a run; `fastdqn evaluate`.

    Args:
        run: Its folder.
        checkpoint: `last`, `best` by the evaluations while it trained, or the frames of one.
        protocol: `nature`, `machado` or `training`: of the values that are `None`; `None` is the run's.
        episodes: Games to play.
        epsilon: Probability of a random action.
        max_episode_frames: A game is cut after this many frames; its score counts.
        noop_max: At most this many frames without action at the start of a game; 1 is the least.
        sticky_actions: Probability that the emulator repeats the previous action.
        network_draws: `on` draws noise and fractions of the network's layers anew for each action, as in training;
            `off` does without, and takes a softmax policy's best action.
        seed: Decides the games and the random actions, together with the weights.
        on_episode: Called with the number of games that have ended and the last one's score.

    Returns:
        The scores, unclipped; `row()` has the usual statistics.

    Raises:
        fastdqn.errors.UserError: An argument is out of range, or the run has no checkpoint that can be read.
    """
    from fastdqn.runs.folder import RunFolder

    folder = RunFolder.open(Path(run))
    from fastdqn.runs import evaluation

    settings = EvaluationSettings(
        episodes, epsilon, max_episode_frames, noop_max, sticky_actions, network_draws
    )
    return evaluation.evaluate(
        folder, settings, which=checkpoint, protocol=protocol, seed=seed, on_episode=on_episode
    )


def record(
    run: PathLike,
    out: PathLike | None = None,
    *,
    checkpoint: str | int = "last",
    epsilon: float = 0.05,
    seed: int = 0,
    max_seconds: float = 300.0,
    gif_start: float = 0.0,
    gif_seconds: float = 10.0,
    scale: int = 3,
    on_second: Callable[[int, int], None] = lambda second, seconds: None,
) -> Recording:
    """Film the game that `evaluate(run, episodes=1)` plays with the same epsilon and seed; `fastdqn record`.

    Needs the extra `video`.

    Args:
        run: Its folder.
        out: Folder of the films; `video` in the run's if `None`.
        checkpoint: As in `evaluate`.
        epsilon: Probability of a random action.
        seed: Decides the game and the random actions, together with the weights.
        max_seconds: Longest film, in seconds of play; a game that lasts longer is cut.
        gif_start: Second of the game with which the GIF begins.
        gif_seconds: Length of the GIF.
        scale: Pixels of the mp4 per pixel of the console (160 x 210); the GIF gets one less, at least 2.
        on_second: Called with the second that was filmed and how many there will be.

    Returns:
        The films' names, and the score.

    Raises:
        fastdqn.errors.UserError: An argument is out of range, or the run has no checkpoint that can be read.
        fastdqn.errors.RunFailedError: The two emulators do not play the same game.
    """
    from fastdqn.runs.folder import RunFolder

    folder = RunFolder.open(Path(run))
    from fastdqn.views import record as films

    settings = FilmSettings(epsilon, seed, max_seconds, gif_start, gif_seconds, scale)
    path = None if out is None else Path(out)
    return films.record(folder, settings, which=checkpoint, out=path, on_second=on_second)


def plot(runs: PathLike | Sequence[PathLike], out: PathLike | None = None) -> Picture:
    """Draw the curves of one run or of several; `fastdqn plot`.

    Runs that differ in nothing but the seed become one line with a band. Needs the extra `plot`.

    Args:
        runs: Their folders.
        out: The picture, .png, .svg or .pdf; `None` is curves.png, in the run's folder where there is but one.

    Returns:
        The picture's name, and a line for each curve.

    Raises:
        fastdqn.errors.UserError: A folder is no run or has logged nothing yet, or the picture cannot be written.
    """
    from fastdqn.views import plot as pictures

    paths = [Path(runs)] if isinstance(runs, str | os.PathLike) else [Path(run) for run in runs]
    return pictures.plot(paths, None if out is None else Path(out))


def report(
    sweeps: PathLike | Sequence[PathLike], out: PathLike | None = None, *, mix_protocols: bool = False
) -> Report:
    """Work out what sweeps have come to, with intervals; `fastdqn report`. Needs the extra `plot`.

    Args:
        sweeps: Their folders.
        out: Folder of report.md, report.json and pictures; `None` is `report` in the first sweep's.
        mix_protocols: Put runs into one table that were not measured alike.

    Returns:
        The figures (`data`), the files' names (`files`); `markdown()` has the tables.

    Raises:
        fastdqn.errors.UserError: A folder is no sweep, no run has ended, protocols differ, or a file cannot be
            written.
    """
    from fastdqn.views import sweep_pictures, sweep_report

    paths = [Path(sweeps)] if isinstance(sweeps, str | os.PathLike) else [Path(sweep) for sweep in sweeps]
    result = sweep_report.report(paths, mix_protocols=mix_protocols)
    return sweep_report.write(result, paths[0] / "report" if out is None else Path(out), sweep_pictures.draw)


def export(
    run: PathLike,
    format: PolicyFormat = "safetensors",
    out: PathLike | None = None,
    *,
    checkpoint: str | int = "last",
) -> Exported:
    """Write the policy of a checkpoint to one file, once it was seen to give the same values; `fastdqn export`.

    Args:
        run: Its folder.
        format: `safetensors` (read it with `load_policy`), `pt2` (`torch.export.load(path).module()`) or
            `torchscript` (`torch.jit.load(path)`).
        out: The file; `None` is `policy` in the run's folder, with the format's usual ending.
        checkpoint: As in `evaluate`.

    Returns:
        The file's name, and by how much it differs from the run's network.

    Raises:
        fastdqn.errors.UserError: The format is unknown, the run has no checkpoint, or the file cannot be written.
        fastdqn.errors.RunFailedError: The file's values differ from those of the run's network.
    """
    from fastdqn.runs.folder import RunFolder

    folder = RunFolder.open(Path(run))
    from fastdqn.views import export as policies

    return policies.export(folder, format, None if out is None else Path(out), which=checkpoint)


def register_torso(name: str, torso: Callable[[NetworkConfig, int], Torso]) -> None:
    """Make a torso of your own known: from then on configurations can name it as `network.torso`.

    A run's folder has the name alone. So whoever resumes, evaluates, films or exports the run registers the torso
    first, in the same process.

    Args:
        name: Its name.
        torso: From the network's shape and the number of stacked frames to a `fastdqn.algorithm.torsos.Torso`;
            such as a subclass.

    Raises:
        ValueError: Another torso has that name.
    """
    from fastdqn.algorithm.torsos import TORSOS

    _register("network.torso", TORSO_NAMES, name, torso, TORSOS)


def register_head(name: str, head: Callable[[NetworkConfig, int, int], Head]) -> None:
    """Make a head of your own known, as `register_torso` does a torso; configurations name it as `network.head`.

    Args:
        name: Its name.
        head: From the network's shape, the number of features and the number of actions to a
            `fastdqn.algorithm.heads.Head`; such as a subclass.

    Raises:
        ValueError: Another head has that name.
    """
    from fastdqn.algorithm.heads import HEADS

    _register("network.head", HEAD_NAMES, name, head, HEADS)


def register_rule(name: str, rule: Callable[[LearnerConfig], Rule]) -> None:
    """Make a rule for targets of your own known, as `register_torso` does a torso; it is named as `learner.rule`.

    Args:
        name: Its name.
        rule: From the learner's settings to a `fastdqn.algorithm.targets.Rule`: a function from the values that an
            update has to the next actions of its targets.

    Raises:
        ValueError: Another rule has that name.
    """
    from fastdqn.algorithm.targets import RULES

    _register("learner.rule", RULE_NAMES, name, rule, RULES)


T = TypeVar("T")


def _register(setting: str, names: Names, name: str, part: T, known: dict[str, T]) -> None:
    if known.setdefault(name, part) is not part:
        raise ValueError(f"name: {setting} = {name!r} is another part's; give yours a name of its own")
    if name not in names.known:
        names.known.append(name)


def load_policy(path: PathLike) -> Policy:
    """Load what a run has learned.

    Args:
        path: A run's folder (its newest checkpoint is taken), a checkpoint's folder, or a .safetensors file of
            a checkpoint or of `fastdqn export`.

    Returns:
        A function from observations to action values, on the CPU.

    Raises:
        fastdqn.errors.UserError: There is nothing of the kind, or it is damaged.
    """
    from fastdqn.runs import checkpoint

    return Policy(checkpoint.load_policy(Path(path)))


class Policy:
    """A function from observations to action values. `load_policy` makes it.

    Attributes:
        num_actions: How many actions it values.
        source: File that the weights came from.
    """

    def __init__(self, weights: SavedPolicy) -> None:
        from fastdqn.runs.evaluation import policy_network

        self._network = policy_network(weights)
        self.num_actions, self.source = weights.num_actions, weights.source

    def __call__(self, obs: NDArray[np.uint8] | torch.Tensor) -> torch.Tensor:
        """Return the value of each action.

        Args:
            obs: uint8 [N, 4, 84, 84], grey levels 0 to 255, the newest frame last.

        Returns:
            float32 [N, num_actions], discounted return in units of the (clipped) reward.

        Raises:
            TypeError: The dtype is not uint8.
            ValueError: The shape is another.
        """
        import torch

        return self._network(torch.as_tensor(obs))

    def act(self, obs: NDArray[np.uint8] | torch.Tensor) -> NDArray[np.int64]:
        """Return the best action for each observation, int64 [N]; arguments and errors are those of a call."""
        actions: NDArray[np.int64] = self(obs).argmax(1).numpy()
        return actions
