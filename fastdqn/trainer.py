"""The loop, from top to bottom. It composes the parts and computes nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from fastdqn import build, checkpoint, schedules
from fastdqn.backend import Backend
from fastdqn.errors import RunFailedError, UserError
from fastdqn.learner import MEANS
from fastdqn.metrics import Games, PhaseTimer, Snapshot, Speed, open_rows
from fastdqn.run_folder import RunFolder

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
    *,
    resume: bool = False,
    weights: Path | None = None,
    report: Callable[[Snapshot], None] = lambda snapshot: None,
    say: Callable[[str], None] = lambda line: None,
    stop_requested: Callable[[], bool] = lambda: False,
    device: Backend | None = None,
) -> Summary:
    """Train until the run's last frame, or until asked to stop; either way the end is saved.

    Args:
        run: Where the run lives, and its configuration.
        resume: Continue from the newest checkpoint.
        weights: Start from the online network of another run or file.
        report: Called a few times a second with the state of the run.
        say: Called with lines for people; they are in the run's log too.
        stop_requested: Asked once per pass of the loop.
        device: Where the learner lives; the GPU if there is one and none is given.

    Raises:
        UserError: The configuration, the checkpoint or the weights cannot be used.
        RunFailedError: The loss is not finite any more.
    """
    training = _Training(run, resume, weights, report, say, device)
    try:
        return training.loop(stop_requested)
    finally:
        training.close()


class _Training:
    """The parts of a run and what is told of them while the loop turns."""

    def __init__(
        self,
        run: RunFolder,
        resume: bool,
        weights: Path | None,
        report: Callable[[Snapshot], None],
        say: Callable[[str], None],
        device: Backend | None,
    ) -> None:
        self.run, self.config = run, run.config
        self._report, self._say = report, say
        build.check(self.config, weights, device=device)
        saved = checkpoint.load(checkpoint.newest(run.checkpoints)) if resume else None
        resumed_at = saved[1]["clock"]["steps"] if saved else 0
        self.parts = build.build(self.config, resumed_at=resumed_at, device=device)
        self.clock = self.parts.clock
        self.games, self.phase = Games(), PhaseTimer()
        if saved:
            self._restore(*saved)
        if weights:
            build.load_weights(self.parts, weights)
            self.say(f"weights from {weights}")
        self.rows = open_rows(run.metrics, keep_frames=self.clock.frames)
        self.speed = Speed(self.clock.frames)
        self._reported = 0.0
        self._means: dict[str, float] | None = None
        self._read_means = self._read_reported = self.parts.learner.means()
        self._row: Snapshot | None = None
        self._logged_frames = self._saved_frames = self.clock.frames

    def loop(self, stop_requested: Callable[[], bool]) -> Summary:
        clock, envs, replay, learner, actor, feed = (
            self.clock,
            self.parts.envs,
            self.parts.replay,
            self.parts.learner,
            self.parts.actor,
            self.parts.feed,
        )
        self._warm_up()
        observation = envs.reset()
        store = partial(replay.begin, observation)
        launch = self.config.learner.updates_per_launch
        while clock.frames < self.config.total_frames and not stop_requested():
            with self.phase("act"):
                action = actor.act(observation, self.epsilon)
                envs.send(action)  # the emulator's threads work from here on
            with self.phase("store"):
                feed.store(store(), observation)  # what came back before
            self._write_row()
            for _ in range(clock.launches_due(launch)):
                with self.phase("sample"):
                    feed.stage(self.beta)
                with self.phase("learn"):
                    feed.report(learner.launch(self.learning_rate))
                    clock.add_updates(launch)
            with self.phase("env"):
                outcome = envs.recv()
            store = partial(
                replay.add,
                action,
                outcome.observation,
                outcome.reward,
                outcome.terminated,
                outcome.truncated,
            )
            observation = outcome.observation
            clock.add_steps(outcome.steps)
            self.games.add(outcome.returns)
            self._after_pass()
        return self._finish()

    @property
    def epsilon(self) -> float:
        exploration = self.config.exploration
        return schedules.epsilon(
            self.clock.frames,
            exploration.max,
            exploration.min,
            self.clock.warmup_frames,
            exploration.decay_frames,
        )

    @property
    def learning_rate(self) -> float:
        learner = self.config.learner
        if learner.learning_rate_final is None:
            return learner.learning_rate
        return schedules.linear(
            self.clock.frames, learner.learning_rate, learner.learning_rate_final, 0, self.config.total_frames
        )

    @property
    def beta(self) -> float:
        return schedules.linear(
            self.clock.frames,
            self.config.replay.beta,
            1.0,
            self.clock.warmup_frames,
            self.config.total_frames,
        )

    def say(self, line: str) -> None:
        self.run.log(line)
        self._say(line)

    def close(self) -> None:
        self.rows.close()
        self.parts.envs.close()

    def _warm_up(self) -> None:
        parts = self.parts
        device = parts.learner.backend.device
        self.say(
            f"{self.config.game}, {parts.learner.num_parameters:,} parameters, on {device}, "
            f"{parts.accelerate}, {parts.frames_on}"
        )
        if parts.accelerate != "eager":
            self._report(self._snapshot("compiling the update, half a minute or so"))
        start = time.perf_counter()
        parts.learner.bind(parts.feed.source)
        parts.best_actions.prepare()
        if parts.accelerate != "eager":
            self.say(f"compiled in {time.perf_counter() - start:.1f} s")
        self.speed = Speed(self.clock.frames)

    def _after_pass(self) -> None:
        """Tell and save what is due. Files follow frame counts alone; only the display follows the time."""
        frames = self.clock.frames
        if frames // self.config.log_every_frames > self._logged_frames // self.config.log_every_frames:
            self._begin_row()
        every = self.config.checkpoint.every_frames
        if frames // every > self._saved_frames // every and frames < self.config.total_frames:
            self._save()
        if time.perf_counter() - self._reported > REPORT_SECONDS:
            self.speed.mark(frames, self.phase.seconds, learning=self.clock.updates > 0)
            note = "" if self.clock.updates else "filling the replay before the first update"
            # What was asked for a report ago has arrived; asking for the newest would wait for it.
            self._means, self._read_reported = self._read_reported(), self.parts.learner.means()
            self._report(self._snapshot(note))
            self._reported = time.perf_counter()

    def _begin_row(self) -> None:
        """Take a row's figures; those of the learner are on their way until the next actions are there."""
        self._row = self._snapshot("", returns=self.games.take_logged())
        self._read_means = self.parts.learner.means(clear=True)
        self._logged_frames = self.clock.frames

    def _write_row(self) -> None:
        """Write the row that was begun, if one was."""
        if self._row is None:
            return
        row, self._row, self._means = self._row, None, self._read_means()
        self.rows.write(replace(row, **(self._means or dict.fromkeys(MEANS))).row())
        if self._means and not math.isfinite(self._means["loss"]):
            raise RunFailedError(
                f"the loss is {self._means['loss']} at frame {row.frames}: the run has diverged.\n"
                f"Checkpoints up to frame {self._saved_frames} are in {self.run.checkpoints}; "
                "a smaller --learner.learning-rate may help."
            )

    def _finish(self) -> Summary:
        self.speed.mark(self.clock.frames, self.phase.seconds, learning=self.clock.updates > 0)
        self._means = self.parts.learner.means()()
        self._report(self._snapshot(""))
        if self.clock.frames > self._logged_frames:
            self._begin_row()
        self._save()
        summary = Summary(
            frames=self.clock.frames,
            frames_per_second=round(self.speed.final, 1),
            updates=self.clock.updates,
            episodes=self.games.count,
            mean_return_20=self.games.mean,
            seconds=round(self.speed.seconds, 1),
            run=str(self.run.path),
            interrupted=self.clock.frames < self.config.total_frames,
        )
        self.run.write_summary(summary.row())
        return summary

    def _save(self) -> None:
        self._write_row()
        self.parts.feed.settle()
        state = {
            "clock": asdict(self.clock),
            "actor": self.parts.actor.random_state(),
            "games": {"count": self.games.count, "best": self.games.best, "recent": list(self.games.recent)},
        }
        path = checkpoint.save(
            self.run.checkpoints,
            self.clock.frames,
            self.parts.learner.state_tensors(),
            state,
            self.config.network,
            self.parts.envs.num_actions,
            self.config.checkpoint.keep,
        )
        self._saved_frames = self.clock.frames
        self.say(f"saved {path}")

    def _restore(self, tensors: dict[str, Any], state: dict[str, Any]) -> None:
        if state["clock"]["steps"] * self.clock.frame_skip >= self.config.total_frames:
            raise UserError(
                f"{self.run.path} is complete: it has played its {self.config.total_frames:,} frames.\n"
                "Play on with a larger --total-frames, or start anew from its weights with --weights."
            )
        self.parts.learner.load_state_tensors(tensors)
        self.clock.steps, self.clock.updates = state["clock"]["steps"], state["clock"]["updates"]
        self.parts.learner.updates = self.clock.updates
        self.clock.restart_warmup()
        self.parts.actor.set_random_state(state["actor"])
        self.games.count, self.games.best = state["games"]["count"], state["games"]["best"]
        self.games.recent.extend(state["games"]["recent"])
        self.say(
            f"resumed at frame {self.clock.frames:,}; the replay and the games start afresh, so the next "
            f"{self.config.replay.warmup_steps:,} steps fill the replay before updates go on"
        )

    def _snapshot(self, note: str, returns: list[float] | None = None) -> Snapshot:
        stats, fps = self.parts.replay.stats(), self.speed.recent
        means = self._means or dict.fromkeys(MEANS)
        left = self.config.total_frames - self.clock.frames
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
            epsilon=self.epsilon,
            learning_rate=self.learning_rate,
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
