"""The loop, from top to bottom. It composes the components and computes nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from fastdqn.engine.data_parallel import ALONE, Ranks, together
from fastdqn.errors import RunFailedError, cause_of_failure
from fastdqn.runs import resume
from fastdqn.runs.build import build
from fastdqn.runs.checkpoint import Checkpoint
from fastdqn.runs.checks import Checked, check
from fastdqn.runs.experience import Pass
from fastdqn.runs.folder import RunFolder
from fastdqn.runs.keeping import Keeping
from fastdqn.runs.machine import threads
from fastdqn.runs.metrics import RECENT_GAMES, Snapshot, takes_events, writes_events
from fastdqn.runs.report import Report, Summary


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
    ranks: Ranks = ALONE,
) -> Summary:
    """Train until the run's last frame, its `stop_at_return`, or until asked to stop; each end is saved.

    Args:
        run: Where the run lives, and its configuration. Its lock is held until the end, then given back.
        checked: What `checks.check` made of that configuration, with the weights to start from and the device; if
            `None` is given it is made here, with new weights and the GPU if there is one.
        resume: Continue from the newest checkpoint.
        inexact: Continue though other versions than those it was saved with give other bits.
        track: Trackers of a new run, `wandb` or `mlflow`; one that is continued keeps those that it has.
        report: Called a few times a second with the state of the run.
        say: Called with lines for people; they are in the run's log too.
        stop_requested: Called once per pass of the loop.
        ranks: Who trains the run together; each has a folder of its own. What is counted, and a stop, is of all.

    Raises:
        ValueError: What was checked is another configuration than the run's.
        UserError: The configuration or the checkpoint cannot be used, or another process trains the run.
        RunFailedError: The loss is not finite any more, the emulator died, memory or disk ran out; it names
            the last good checkpoint.
    """
    with threads(run.config.pipeline.threads):
        try:
            if checked is None:
                checked = check(run.config)
            if checked.config != run.config:
                raise ValueError("checked: it is of another configuration than the run's")
            with together(ranks):
                training = _Training(run, checked, resume, inexact, track, report, say, ranks)
        except BaseException:
            run.unlock()
            raise
        try:
            return training.loop(stop_requested)
        except Exception as error:
            cause = cause_of_failure(error)
            if cause is None:  # a bug: to be seen whole
                raise
            raise RunFailedError(f"{cause}\n{training.keeping.what_is_left()}") from error
        finally:
            training.close()


class _Training:
    """A run that is being trained: its components, the loop that turns them, and what reports and keeps."""

    def __init__(
        self,
        run: RunFolder,
        checked: Checked,
        resuming: bool,
        inexact: bool,
        track: Sequence[str],
        display: Callable[[Snapshot], None],
        say: Callable[[str], None],
        ranks: Ranks,
    ) -> None:
        self.run, self._say = run, say
        without_lock = run.lock()
        saved = resume.load(run, inexact=inexact, ranks=ranks) if resuming else None
        self.components = build(checked, saved, ranks)
        if without_lock:
            self.say(without_lock)
        if writes_events() and not takes_events(run.metrics):
            self.say("no TensorBoard events: it takes only paths in UTF-8")
        self.observation = self._begin(saved)
        if checked.policy:
            self.components.learner.load_online(checked.policy.online())
            self.say(f"weights from {checked.weights}")
        self.report = Report(run, self.components, track, resuming, display, self.say)
        self.keeping = Keeping(run, self.components, self.report, self.say)

    def loop(self, stop_requested: Callable[[], bool]) -> Summary:
        """Train; return how it ended."""
        clock, schedule, envs, actor, experience, learner = (
            self.components.clock,
            self.components.schedule,
            self.components.envs,
            self.components.actor,
            self.components.experience,
            self.components.learner,
        )
        report, phase, observation = self.report, self.report.phase, self.observation
        ranks = self.components.ranks
        updates = experience.inputs.updates
        with report.preparing():
            learner.prepare(experience.inputs)
            self.components.acting.prepare()
        self.components.acting.first_choice = lambda: report.compiling("acting")
        self.keeping.evaluate_if_due(stop_requested)  # where a run was stopped while it was evaluated
        while not self.keeping.progress.complete and not any(ranks.sum(stop_requested())):
            with phase("act"):
                action = actor.act(observation, schedule.epsilon(clock.frames))
            with phase("env"):
                envs.send(action)  # the emulator's threads work from here on, at first instead of this one
            with phase("store"):
                experience.store()  # the pass before
            report.write_row()
            for _ in range(clock.launches_due(updates)):
                with phase("sample"):
                    experience.stage(schedule.beta(clock.frames))
                with phase("learn"):
                    experience.report(learner.launch(clock.updates, schedule.learning_rate(clock.frames)))
                    clock.add_updates(updates)
            with phase("env"):
                outcome = envs.recv()
            observation = outcome.observation
            experience.add(Pass(action, outcome))
            steps, ended = ranks.sum(outcome.steps, len(outcome.returns))
            clock.add_steps(steps)
            if ended:
                self.components.games.add(
                    [one for of_rank in ranks.gather(outcome.returns) for one in of_rank]
                )
            if envs.restart_is_due:
                experience.store()
                observation = envs.restart()
                experience.begin(observation)
            self._after_pass(stop_requested)
        return self._finish()

    def say(self, line: str) -> None:
        """Say a line to people, and keep it in the run's log."""
        self.run.log(line)
        self._say(line)

    def close(self) -> None:
        """Close what is open, and let others train the run."""
        self.report.close()
        self.components.envs.close()
        self.run.unlock()

    def _begin(self, saved: Checkpoint | None) -> NDArray[np.uint8]:
        """Begin, or go on where a checkpoint was saved; return the games' observation, uint8 [N, 4, 84, 84]."""
        if saved:
            again = ", whose games are played again up to there" if saved.replay else ""
            self.say(f"going on from {saved.path}{again}")
            observation = resume.restore(saved, self.components)
            if observation is not None:
                return observation
            self.say(
                "it has no replay, so replay and games start afresh: the next "
                f"{self.run.config.replay.warmup_steps:,} steps fill the replay before updates go on"
            )
        observation = self.components.envs.reset()
        self.components.experience.begin(observation)
        return observation

    def _after_pass(self, stop_requested: Callable[[], bool]) -> None:
        self.report.begin_row_if_due()
        self.keeping.evaluate_if_due(stop_requested)
        self.keeping.save_if_due()
        if self.report.display_is_due:
            self.keeping.follow_folder()
            self.report.update_display()

    def _finish(self) -> Summary:
        clock, games, config = self.components.clock, self.components.games, self.run.config
        # An evaluation that was cut short is owed, also at the last frame.
        progress = self.keeping.progress
        complete = progress.complete and not any(self.components.ranks.sum(progress.evaluation_is_due))
        if complete and clock.frames < config.total_frames:
            self.say(
                f"the last {RECENT_GAMES} games of training have a mean return of {games.mean:.1f}: done "
                f"(`stop_at_return = {config.solved_return:g}`)"
            )
        self.report.display_last()
        self.keeping.follow_folder()
        if self.components.marks.evaluated == clock.frames:
            self.components.experience.flush()  # as it is where the run was saved before it was evaluated
        self.report.write_last_row(complete=complete)
        self.keeping.save_last()
        return self.report.summarize(complete=complete)
