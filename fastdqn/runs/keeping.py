"""What a run keeps: checkpoints to go on from, and the policy that did best in its evaluations."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from fastdqn.errors import RunFailedError, UserError
from fastdqn.runs import checkpoint, resume
from fastdqn.runs.build import Components
from fastdqn.runs.ending import Progress
from fastdqn.runs.evaluation import Evaluation, evaluate_learner
from fastdqn.runs.folder import RunFolder
from fastdqn.runs.report import Report


class Keeping:
    """Evaluates and saves whenever so many frames have been played.

    Args:
        run: Where it is kept.
        components: What is kept.
        report: Whose rows a checkpoint has to have on disk.
        say: Called with lines for people.
    """

    def __init__(
        self, run: RunFolder, components: Components, report: Report, say: Callable[[str], None]
    ) -> None:
        self._run, self._components, self._report, self._say = run, components, report, say
        self._saved = self._written

    def evaluate_if_due(self, stop_requested: Callable[[], bool]) -> None:
        """Evaluate, and save the policy if none did better.

        Args:
            stop_requested: Called once per step of the games; an evaluation that is cut short is played again by
                whoever resumes.
        """
        if not self.progress.evaluation_is_due:
            return
        ranks, marks = self._components.ranks, self._components.marks
        policy = result = again = bound = None
        done = False
        if ranks.index == 0:  # all have the same weights
            with self._report.evaluating():
                policy, result = self._evaluate(stop_requested)
                done = result is not None
                if result is not None and self._may_end(result):
                    # A policy that loses one game in thirty by far wins thirty in a row one time in three.
                    _, again = self._evaluate(stop_requested, turn=1)
                    done = again is not None
                    if again is not None:
                        bound = min(result.bound, again.bound)
        done, bound = ranks.gather((done, bound))[0]
        if not done:
            return
        marks.evaluated, marks.evaluated_bound = self._components.clock.frames, bound
        marks.evaluated_games = self._components.games.count
        if policy is not None and result is not None:
            self._report.write_evaluation(result.scores())
            self._say(f"evaluated at frame {marks.evaluated:,}: {result}")
            if again is not None:
                self._say(f"evaluated again, in other games: {again}")
            self._keep_best(policy, result)
            self._say_if_not_confirmed(result.bound if bound is None else bound)

    def _evaluate(
        self, stop_requested: Callable[[], bool], turn: int = 0
    ) -> tuple[checkpoint.SavedPolicy, Evaluation | None]:
        what = "evaluating again" if turn else "evaluating"
        return evaluate_learner(
            self._components,
            self._run.config,
            lambda game: self._report.display(f"{what}: {game} games have ended"),
            stop_requested,
            turn,
        )

    def _may_end(self, result: Evaluation) -> bool:
        """Whether another evaluation as good as this one would end the run."""
        return not self.progress.complete and self.progress.is_confirmed_by(result.bound)

    @property
    def progress(self) -> Progress:
        """How far the run is."""
        parts = self._components
        return Progress(parts.clock.frames, parts.games, parts.marks, self._run.config)

    def save_if_due(self) -> None:
        """Save a checkpoint; that of the last frame is left to `save_last`."""
        clock, config = self._components.clock, self._run.config
        due = clock.passed(config.checkpoint.every_frames, since=self._components.marks.saved)
        if due and clock.frames < config.total_frames:
            self._save()

    def save_last(self) -> None:
        """Save a checkpoint of this frame, unless there is one, and no row or evaluation was written since.

        Raises:
            OSError: The disk does not take it.
        """
        there = checkpoint.exists(self._run.checkpoints, self._components.clock.frames)
        if any(self._components.ranks.sum(not there or self._saved != self._written)):
            self._save(final=True)

    def follow_folder(self) -> None:
        """Go with the run's folder where it is renamed.

        Raises:
            RunFailedError: It was removed; the run is saved beside it, if that can be.
        """
        try:
            if self._run.follow():
                self._report.move()
                self._say(f"the run's folder has another name now: {self._run.path}")
        except RunFailedError:
            if self._components.ranks.count == 1:  # several would have to do it together
                with suppress(UserError, OSError):
                    self._run.move_beside(f"-rescued-{self._components.clock.frames}")
                    self._save(final=True)
            raise

    def what_is_left(self) -> str:
        """Name the last good checkpoint, and what to type."""
        left = checkpoint.find(self._run.checkpoints)
        if not left:
            return "No checkpoint had been saved."
        return (
            f"The last good checkpoint is {left[-1]}; to go on from it:\n"
            f"`resume_training({str(self._run.whole)!r})`"
        )

    def _save(self, final: bool = False) -> None:
        self.follow_folder()
        self._report.write_row()
        self._components.experience.flush()
        self._components.marks.saved = self._components.clock.frames
        ranks = self._components.ranks
        try:
            self._report.sync()
            path = resume.save(self._run, self._components, self._say, lambda: not any(ranks.sum(0)))
        except OSError as error:
            if isinstance(error, FileNotFoundError) and self._has_moved():  # while it was written
                self._save(final)
                return
            ranks.sum(1)  # the others keep what is older, too: all can go on from that alone
            left = checkpoint.find(self._run.checkpoints)
            if final or not left:
                raise
            self._say(
                f"NOT SAVED: {error.strerror or error}. Training goes on; the last checkpoint is {left[-1]}"
            )
            return
        self._saved = self._written
        self._say(f"saved {path}")

    @property
    def _written(self) -> tuple[int, int]:
        """The frames of the last row and of the last evaluation, which a checkpoint has to know of."""
        marks = self._components.marks
        return marks.logged, marks.evaluated

    def _has_moved(self) -> bool:
        """Whether the folder of a run without other ranks has another name than it had a moment ago."""
        before = self._run.path
        if self._components.ranks.count == 1:
            self.follow_folder()
        return self._run.path != before

    def _say_if_not_confirmed(self, bound: float) -> None:
        wanted = self._run.config.solved_return
        if wanted is None or self.progress.complete:
            return
        if self._components.games.solved(wanted):
            self._say(
                f"not done: that mean less three standard errors is {bound:.1f}, and `stop_at_return = {wanted:g}`"
            )

    def _keep_best(self, policy: checkpoint.SavedPolicy, result: Evaluation) -> None:
        """Save the policy if none did better."""
        self.follow_folder()
        try:
            best = checkpoint.best_mean(self._run.checkpoints)
        except UserError as error:  # damaged, and to be replaced
            self._say(str(error).splitlines()[0])
            best = None
        if best is not None and result.scores()["mean"] <= best:
            return
        try:
            path = checkpoint.save_best(self._run.checkpoints, policy, result.row(), self._say)
            self._say(f"best so far: {path}")
        except OSError as error:
            self._say(f"NOT SAVED as the best: {error.strerror or error}. Training goes on")
