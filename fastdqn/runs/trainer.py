"""The loop, from top to bottom. It composes the parts and computes nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdqn.algorithm.update import METRICS
from fastdqn.errors import RunFailedError, UserError, cause_of_failure
from fastdqn.replay import Added
from fastdqn.runs import build, checkpoint, resume, trackers
from fastdqn.runs.checks import Checked, check
from fastdqn.runs.evaluation import Evaluation, evaluate_learner
from fastdqn.runs.folder import RunFolder
from fastdqn.runs.metrics import (
    Games,
    JsonLines,
    PhaseTimer,
    Snapshot,
    Speed,
    open_rows,
    takes_events,
    writes_events,
)
from fastdqn.runs.trackers import Trackers

REPORT_SECONDS = 0.25


@dataclass(frozen=True)
class Summary:
    """How a run ended.

    Attributes:
        frames: Emulator frames played, of the whole run.
        frames_per_second: After learning started, over the last 60 s or all, of this process.
        updates: Optimizer steps, of the whole run.
        episodes: Whole games finished.
        mean_return_20: Mean unclipped return of the last 20 games, none where no game ended.
        seconds: Wall time of this process.
        run: The run's folder.
        interrupted: It was asked to stop before its last frame.
    """

    frames: int
    frames_per_second: float
    updates: int
    episodes: int
    mean_return_20: float | None
    seconds: float
    run: str
    interrupted: bool

    def row(self) -> dict[str, Any]:
        """Return the fields, for JSON."""
        return asdict(self)


def train(
    run: RunFolder,
    checked: Checked | None = None,
    *,
    resume: bool = False,
    inexact: bool = False,
    track: Sequence[str] = (),
    report: Callable[[Snapshot], None] = lambda snapshot: None,
    say: Callable[[str], None] = lambda line: None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> Summary:
    """Train until the run's last frame, or until asked to stop; either way the end is saved.

    Args:
        run: Where the run lives, and its configuration. Its lock is held until the end, then given back.
        checked: What `checks.check` made of that configuration, with the weights to start from and the device; if
            none is given it is made here, with new weights and the GPU if there is one.
        resume: Continue from the newest checkpoint.
        inexact: Continue though other versions than those it was saved with give other bits.
        track: Trackers of a new run, `wandb` or `mlflow`; one that is continued keeps those that it has.
        report: Called a few times a second with the state of the run.
        say: Called with lines for people; they are in the run's log too.
        stop_requested: Asked once per pass of the loop.

    Raises:
        ValueError: What was checked is another configuration than the run's.
        UserError: The configuration or the checkpoint cannot be used, or another process trains the run.
        RunFailedError: The loss is not finite any more, the emulator died, memory or disk ran out; it names
            the last good checkpoint.
    """
    try:
        if checked is None:
            checked = check(run.config)
        if checked.config != run.config:
            raise ValueError("checked: it is of another configuration than the run's")
        training = _Training(run, checked, resume, inexact, track, report, say)
    except BaseException:
        run.unlock()
        raise
    try:
        return training.loop(stop_requested)
    except Exception as error:
        cause = cause_of_failure(error)
        if cause is None:  # a bug: to be seen whole
            raise
        raise RunFailedError(f"{cause}\n{training.what_is_left()}") from error
    finally:
        training.close()


class _Training:
    """The parts of a run and what is told of them while the loop turns."""

    def __init__(
        self,
        run: RunFolder,
        checked: Checked,
        resuming: bool,
        inexact: bool,
        track: Sequence[str],
        report: Callable[[Snapshot], None],
        say: Callable[[str], None],
    ) -> None:
        self.run, self.config = run, run.config
        self._report, self._say = report, say
        without_lock = run.lock()
        saved = resume.load(run, inexact=inexact) if resuming else None
        self.parts = build.build(checked, saved)
        self.clock = self.parts.clock
        self.games, self.phase = Games(), PhaseTimer()
        self.marks = {"logged": 0, "evaluated": 0, "saved": 0}
        if without_lock:
            self.say(without_lock)
        if writes_events() and not takes_events(run.metrics):
            self.say("no TensorBoard events: it takes only paths in UTF-8")
        self._observation, self._store = self._begin(saved)
        if checked.policy:
            self.parts.learner.load_online(checked.policy.online())
            self.say(f"weights from {checked.weights}")
        self.trackers = Trackers()
        self.rows = self._open_rows(run.metrics)
        self.evaluations = self._open_rows(run.evaluations)
        self.speed = Speed(self.clock.frames)
        self._reported = 0.0
        self._means: dict[str, float] | None = None
        self._read_means = self._read_reported = self.parts.learner.means()
        self._row: Snapshot | None = None
        self.trackers = trackers.start(run, track, self.say, resuming=resuming)

    def loop(self, stop_requested: Callable[[], bool]) -> Summary:
        clock, schedule, envs, replay, learner, actor, feed = (
            self.clock,
            self.parts.schedule,
            self.parts.envs,
            self.parts.replay,
            self.parts.learner,
            self.parts.actor,
            self.parts.feed,
        )
        self._warm_up()
        observation = self._observation
        launch = self.config.pipeline.updates_per_launch
        self._evaluate_if_due(stop_requested)  # where a run was stopped while it was evaluated
        while clock.frames < self.config.total_frames and not stop_requested():
            with self.phase("act"):
                action = actor.act(observation, schedule.epsilon(clock.frames))
                envs.send(action)  # the emulator's threads work from here on
            with self.phase("store"):
                self._store()  # what came back before
            self._write_row()
            for _ in range(clock.launches_due(launch)):
                with self.phase("sample"):
                    feed.stage(schedule.beta(clock.frames))
                with self.phase("learn"):
                    feed.report(learner.launch(schedule.learning_rate(clock.frames)))
                    clock.add_updates(launch)
            with self.phase("env"):
                outcome = envs.recv()
            observation = outcome.observation
            self._store = self._storing(
                observation,
                partial(
                    replay.add, action, observation, outcome.reward, outcome.terminated, outcome.truncated
                ),
            )
            clock.add_steps(outcome.steps)
            self.games.add(outcome.returns)
            if envs.worn:
                self._store()
                observation = envs.renew()
                # Cuts the episodes that are open.
                self._store = self._storing(observation, partial(replay.begin, observation))
            self._after_pass(stop_requested)
        return self._finish()

    def say(self, line: str) -> None:
        self.run.log(line)
        self._say(line)

    def close(self) -> None:
        self.rows.close()
        self.evaluations.close()
        self.trackers.finish({}, "failed")  # nothing, where it has ended well
        self.parts.envs.close()
        self.run.unlock()

    def _warm_up(self) -> None:
        parts = self.parts
        device = parts.learner.backend.device
        self.say(
            f"{self.config.game}, {parts.learner.num_parameters:,} parameters, on {device}, "
            f"{parts.accelerate}, {parts.frames_on}"
        )
        self.say(build.replay_note(self.config))
        if parts.accelerate != "eager":
            self._report(self._snapshot("compiling the update, half a minute or so"))
        start = time.perf_counter()
        parts.learner.prepare(parts.feed.inputs)
        parts.acting.prepare()
        if parts.accelerate != "eager":
            self.say(f"compiled in {time.perf_counter() - start:.1f} s")
        self.speed = Speed(self.clock.frames)

    def _after_pass(self, stop_requested: Callable[[], bool]) -> None:
        """Tell and save what is due. Files follow frame counts alone; only the display follows the time."""
        frames = self.clock.frames
        if self._is_due("logged", self.config.log_every_frames):
            self._begin_row()
        self._evaluate_if_due(stop_requested)
        if self._is_due("saved", self.config.checkpoint.every_frames) and frames < self.config.total_frames:
            self._save()
        if time.perf_counter() - self._reported > REPORT_SECONDS:
            self._follow_folder()
            self.speed.mark(frames, self.phase.seconds, learning=self.clock.updates > 0)
            note = "" if self.clock.updates else "filling the replay before the first update"
            # What was asked for a report ago has arrived; asking for the newest would wait for it.
            self._means, self._read_reported = self._read_reported(), self.parts.learner.means()
            self._report(self._snapshot(note))
            self._reported = time.perf_counter()

    def _is_due(self, mark: str, every_frames: int) -> bool:
        return self.clock.frames // every_frames > self.marks[mark] // every_frames

    def _begin_row(self) -> None:
        """Take a row's figures; those of the learner are on their way until the next actions are there."""
        self._row = self._snapshot("", returns=self.games.take_logged())
        self._read_means = self.parts.learner.means(clear=True)
        self.marks["logged"] = self.clock.frames

    def _write_row(self) -> None:
        """Write the row that was begun, if one was."""
        if self._row is None:
            return
        row, self._row, self._means = self._row, None, self._read_means()
        self.rows.write(replace(row, **(self._means or dict.fromkeys(METRICS))).row())
        if self._means and not math.isfinite(self._means["loss"]):
            raise RunFailedError(
                f"the loss is {self._means['loss']} at frame {row.frames}: the run has diverged.\n"
                "A smaller --optimizer.learning-rate may help."
            )

    def _evaluate_if_due(self, stop_requested: Callable[[], bool]) -> None:
        if not self._is_due("evaluated", self.parts.evaluate_every_frames):
            return
        policy, result = evaluate_learner(self.parts, self.config, self._report_game, stop_requested)
        if result is None:  # asked to stop; whoever resumes plays it again
            return
        self.marks["evaluated"] = self.clock.frames
        self.evaluations.write(result.scores())
        self.say(f"evaluated at frame {self.clock.frames:,}: {result}")
        self._keep_best(policy, result)

    def _report_game(self, game: int) -> None:
        self._report(self._snapshot(f"evaluating: {game} games have ended"))

    def _keep_best(self, policy: checkpoint.Policy, result: Evaluation) -> None:
        """Save the policy if none did better."""
        self._follow_folder()
        try:
            best = checkpoint.best_mean(self.run.checkpoints)
        except UserError as error:  # damaged, and to be replaced
            self.say(str(error).splitlines()[0])
            best = None
        if best is not None and result.scores()["mean"] <= best:
            return
        try:
            path = checkpoint.save_best(self.run.checkpoints, policy, result.row(), self.say)
            self.say(f"best so far: {path}")
        except OSError as error:
            self.say(f"NOT SAVED as the best: {error.strerror or error}. Training goes on")

    def _finish(self) -> Summary:
        self.speed.mark(self.clock.frames, self.phase.seconds, learning=self.clock.updates > 0)
        self._means = self.parts.learner.means()()
        self._report(self._snapshot(""))
        complete = self.clock.frames >= self.config.total_frames
        self._follow_folder()
        if complete and self.clock.frames > self.marks["logged"]:  # else the row is filled after resuming
            self._begin_row()
        self._write_row()
        if not checkpoint.exists(self.run.checkpoints, self.clock.frames):
            self._save(final=True)
        summary = Summary(
            frames=self.clock.frames,
            frames_per_second=round(self.speed.final, 1),
            updates=self.clock.updates,
            episodes=self.games.count,
            mean_return_20=self.games.mean,
            seconds=round(self.speed.seconds, 1),
            run=str(self.run.path),
            interrupted=not complete,
        )
        self.run.write_summary(summary.row())
        self.trackers.finish(summary.row(), "finished" if complete else "stopped")
        return summary

    def _open_rows(self, path: Path) -> JsonLines:
        """Open a file of rows that the trackers are told, too."""
        return open_rows(path, self.clock.frames, also=lambda row: self.trackers.write(path.stem, row))

    def _begin(self, saved: checkpoint.Checkpoint | None) -> tuple[Any, Callable[[], Any]]:
        """Return the first observation, and what is yet to be stored of it."""
        observation = None
        if saved:
            self.marks |= saved.state["marks"]
            again = ", whose games are played again up to there" if saved.replay else ""
            self.say(f"going on from {saved.path}{again}")
            observation = resume.restore(saved, self.parts, self.games)
            if observation is not None:
                return observation, _nothing
            self.say(
                "it has no replay, so replay and games start afresh: the next "
                f"{self.config.replay.warmup_steps:,} steps fill the replay before updates go on"
            )
        observation = self.parts.envs.reset()
        return observation, self._storing(observation, partial(self.parts.replay.begin, observation))

    def _storing(self, observation: NDArray[np.uint8], store: Callable[[], Added]) -> Callable[[], None]:
        """Return what stores a pass: in the replay, and with the feed what the replay took of it."""
        return lambda: self.parts.feed.store(store(), observation)

    def _follow_folder(self) -> None:
        """Go with the run's folder where it is renamed; where it is removed, save beside it and stop."""
        try:
            if self.run.follow():
                self.rows.move(self.run.metrics)
                self.evaluations.move(self.run.evaluations)
                self.say(f"the run's folder has another name now: {self.run.path}")
        except RunFailedError:
            with suppress(UserError, OSError):
                self.run = self.run.beside(f"-rescued-{self.clock.frames}")
                self._save(final=True)
            raise

    def _save(self, final: bool = False) -> None:
        self._follow_folder()
        self._write_row()
        self.parts.feed.settle()
        self._store()  # what the next pass would have stored
        self._store = _nothing
        self.marks["saved"] = self.clock.frames
        try:
            self.rows.sync()
            self.evaluations.sync()
            path = resume.save(self.run, self.parts, self.games, self.marks, self.say)
        except OSError as error:
            left = checkpoint.find(self.run.checkpoints)
            if final or not left:
                raise
            self.say(
                f"NOT SAVED: {error.strerror or error}. Training goes on; the last checkpoint is {left[-1]}"
            )
            return
        self.say(f"saved {path}")

    def what_is_left(self) -> str:
        """Name the last good checkpoint, and what to type."""
        left = checkpoint.find(self.run.checkpoints)
        if not left:
            return "No checkpoint had been saved."
        return (
            f"The last good checkpoint is {left[-1]}; to go on from it, type:\n"
            f"fastdqn train --resume {self.run.path}"
        )

    def _snapshot(self, note: str, returns: list[float] | None = None) -> Snapshot:
        stats, fps = self.parts.replay.stats(), self.speed.recent
        means = self._means or dict.fromkeys(METRICS)
        left = max(0, self.config.total_frames - self.clock.frames)  # the last pass may play a few too many
        return Snapshot(
            frames=self.clock.frames,
            total_frames=self.config.total_frames,
            steps=self.clock.steps,
            updates=self.clock.updates,
            episodes=self.games.count,
            returns=self.games.since_logged if returns is None else returns,
            return_mean=self.games.mean,
            return_best=self.games.best,
            loss=means["loss"],
            q_mean=means["q_mean"],
            grad_norm=means["grad_norm"],
            epsilon=self.parts.schedule.epsilon(self.clock.frames),
            learning_rate=self.parts.schedule.learning_rate(self.clock.frames),
            replay_transitions=stats.sampleable,
            replay_fill=stats.frames / stats.capacity,
            replay_bytes=stats.allocated_bytes,
            seconds=self.speed.seconds,
            fps_recent=fps,
            fps_run=self.speed.run,
            eta_seconds=left / fps if fps else None,
            phase_share=self.speed.phase_share,
            note=note,
        )


def _nothing() -> None:
    """Store nothing: all is stored."""
