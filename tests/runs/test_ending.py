"""When a run ends, and when it is evaluated: by known cases, and in real runs that are stopped and go on."""

from __future__ import annotations

import json
import math
import shutil
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("envpool")

import fastdqn
from fastdqn.config import Config, EvaluationConfig
from fastdqn.errors import UserError
from fastdqn.runs import checkpoint, keeping
from fastdqn.runs.clock import Marks
from fastdqn.runs.ending import Progress
from fastdqn.runs.evaluation import Evaluation
from fastdqn.runs.folder import RunFolder
from fastdqn.runs.metrics import Games
from fastdqn.runs.seeds import evaluation_seed
from fastdqn.runs.sweep import is_done
from fastdqn.runs.trainer import train
from tests.runs.test_resume import differences, outcome
from tests.runs.test_trainer import rows, short_games

WANTED = 18.0


def progress(frames: int = 1_000, mean: float = 18.0, count: int = 20, **marks) -> Progress:
    games = Games()
    games.add([mean] * count)
    config = Config(game="Pong-v5", total_frames=2_000, stop_at_return=WANTED, confirm_stop=True)
    return Progress(frames, games, Marks(**marks), config)


def unconfirmed(of: Progress) -> Progress:
    return replace(of, config=replace(of.config, confirm_stop=False))


def evaluated(returns: Sequence[float]) -> Evaluation:
    return Evaluation(
        "Pong-v5", "the run", 1, "nature", len(returns), 0.01, 1, list(returns), [1] * len(returns)
    )


@pytest.mark.parametrize(
    ("at", "complete", "due"),
    [
        (progress(mean=17.9), False, False),
        (progress(count=19), False, False),
        (progress(), False, True),
        (progress(evaluated=1_000, evaluated_bound=18.0, evaluated_games=20), True, False),
        (progress(evaluated=1_000, evaluated_bound=17.9, evaluated_games=20), False, False),
        (progress(evaluated=996, evaluated_bound=20.0, evaluated_games=20), False, False),  # of other weights
        (progress(count=29, evaluated=500, evaluated_bound=17.0, evaluated_games=20), False, False),
        (progress(count=30, evaluated=500, evaluated_bound=17.0, evaluated_games=20), False, True),
        (progress(count=30, evaluated=500, evaluated_bound=20.0, evaluated_games=20), False, True),
        (progress(frames=2_000), True, False),
        (unconfirmed(progress()), True, False),
        (unconfirmed(progress(mean=17.9)), False, False),
    ],
)
def test_a_run_ends_once_an_evaluation_has_confirmed_it(at, complete, due):
    assert (at.complete, at.evaluation_is_due) == (complete, due)
    state = {"frames": at.frames, "games": at.games.state(), "marks": asdict(at.marks)}
    again = Progress.of_state(json.loads(json.dumps(state)), at.config)
    assert (again.complete, again.evaluation_is_due) == (complete, due)


def test_evaluations_that_are_due_anyway_confirm_too():
    at = progress(evaluated=400, evaluated_bound=17.0, evaluated_games=15)
    assert not at.evaluation_is_due
    every = replace(at, config=replace(at.config, evaluation=EvaluationConfig(every_frames=500)))
    assert every.evaluation_is_due
    assert not every.complete
    # The end of a run that is not confirmed is evaluated all the same, once.
    end = replace(every, frames=2_000)
    assert end.complete
    assert end.evaluation_is_due
    assert not replace(end, marks=Marks(evaluated=2_000, evaluated_bound=3.0)).evaluation_is_due


def test_the_bound_is_the_mean_less_three_standard_errors():
    returns = [21.0, 20.0, 18.0, 21.0, 9.0]
    error = statistics.stdev(returns) / math.sqrt(5)
    assert evaluated(returns).bound == pytest.approx(17.8 - 3 * error)
    assert evaluated([20.0] * 7).bound == 20.0
    assert evaluated([20.0]).bound == 20.0


def test_each_evaluation_plays_games_of_its_own():
    seeds = {evaluation_seed(3, frames, turn) for frames in (0, 400, 800) for turn in (0, 1)}
    assert len(seeds) == 6
    assert evaluation_seed(3, 400) == evaluation_seed(3, 400, 0) == 1_314_453_815


def playing(results: list[Sequence[float]], cut: Callable[[], bool] = lambda: False):
    """The real evaluation, with these returns in place of those that it had."""
    real = keeping.evaluate_learner

    def play(components, config, on_episode, stop_requested, turn):
        policy, result = real(components, config, on_episode, lambda: cut() or stop_requested(), turn)
        return policy, result and replace(result, returns=list(results.pop(0)))

    return play


UNSURE, SURE = [-90.0, -90.0, 100.0], [-90.0, -91.0, -90.0]
"""The first has the higher mean, and says little of it."""


def confirmed() -> Config:
    config = short_games(
        stop_at_return=-100.0,
        evaluation=EvaluationConfig(episodes=3, epsilon=0.5, max_episode_frames=200),
    )
    return replace(config, total_frames=20_000, log_every_frames=1_900)  # no row where an evaluation is due


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[RunFolder, list[str]]:
    """Its first evaluation is unsure; its second is sure, but not in other games; its third is sure in both."""
    run, said = RunFolder.create(tmp_path_factory.mktemp("whole") / "r", confirmed()), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keeping, "evaluate_learner", playing([UNSURE, SURE, UNSURE, SURE, SURE]))
        train(run, say=said.append)
    return run, said


def evaluations(run: RunFolder) -> list[dict]:
    return [json.loads(line) for line in run.evaluations.read_text().splitlines()]


@pytest.mark.long
def test_a_run_goes_on_until_an_evaluation_is_sure(whole):
    run, said = whole
    first, second, third = evaluations(run)
    last = checkpoint.load(checkpoint.newest(run.checkpoints)).state
    assert last["frames"] == third["frames"] < run.config.total_frames
    for before, after in ((first, second), (second, third)):
        assert 8 * 200 < after["frames"] - before["frames"] <= 12 * 200  # ten games more, of four at once
    assert last["games"]["count"] >= last["marks"]["evaluated_games"] >= 40
    assert sum(line.startswith("not done: that mean less three standard errors is -2") for line in said) == 2
    assert sum(line.startswith("evaluated again, in other games: mean -") for line in said) == 2
    assert any(line.endswith("done (`stop_at_return = -100`)") for line in said)
    assert is_done(run.path, run.config)
    with pytest.raises(UserError, match="is complete"):
        fastdqn.resume_training(run.path)


@pytest.mark.long
@pytest.mark.parametrize("which", [1, 2, 3, 4, 5])
def test_a_confirmation_that_was_cut_short_is_owed(whole, which, tmp_path, monkeypatch):
    """Fails when the run counts as done without it, when it is skipped, or another run comes out."""
    run, calls = RunFolder.create(tmp_path / "r", confirmed()), []

    def cut() -> bool:
        return len(calls) == which

    results = [UNSURE, SURE, UNSURE, SURE, SURE]
    play = playing(results, cut)

    def counting(*arguments):
        calls.append(1)
        before = list(results)
        policy, result = play(*arguments)
        if result is None and arguments[-1]:  # both are played again
            results[:] = [SURE, *before]
        return policy, result

    monkeypatch.setattr(keeping, "evaluate_learner", counting)
    assert train(run, stop_requested=cut).interrupted
    assert len(evaluations(run) if run.evaluations.exists() else []) == which // 2
    assert not is_done(run.path, run.config)
    assert not train(RunFolder.open(run.path), resume=True).interrupted
    assert evaluations(run) == evaluations(whole[0])
    assert differences(outcome(run), outcome(whole[0])) == []
    (run.path / "summary.json").unlink()  # killed before it
    assert is_done(run.path, run.config)
    with pytest.raises(UserError, match="is complete"):
        fastdqn.resume_training(run.path)
    # Both go on alike, with another end.
    frames, ends = outcome(run)["state"]["frames"] + 3_000, []
    for name, ended in (("one", run), ("other", whole[0])):
        shutil.copytree(ended.path, tmp_path / name)
        fastdqn.resume_training(tmp_path / name, stop_at_return=None, total_frames=frames)
        ends.append(RunFolder.open(tmp_path / name))
    assert differences(*map(outcome, ends)) == []
    assert evaluations(ends[0]) == evaluations(ends[1])


@pytest.mark.long
@pytest.mark.parametrize("wanted", [-100.0, 50.0])
def test_the_evaluation_of_the_last_frame_is_one_and_ends_no_longer_run(wanted, tmp_path, monkeypatch):
    """However good it was, and whether the games of training were: fails where a run that is resumed is done."""
    plain = RunFolder.create(tmp_path / "plain", replace(confirmed(), confirm_stop=False))
    frames = train(plain).frames  # at which twenty games have ended
    turns, real = [], keeping.evaluate_learner

    def counting(*arguments):
        turns.append(arguments[-1])
        policy, result = real(*arguments)
        return policy, replace(result, returns=SURE)

    monkeypatch.setattr(keeping, "evaluate_learner", counting)
    evaluation = replace(confirmed().evaluation, every_frames=frames)
    config = replace(confirmed(), total_frames=frames, stop_at_return=wanted, evaluation=evaluation)
    run = RunFolder.create(tmp_path / "r", config)
    assert train(run).frames == frames
    assert turns == [0]
    longer = fastdqn.resume_training(run.path, total_frames=2 * frames - 4, stop_at_return=-100.0)
    assert frames < longer.frames < 2 * frames - 4
    assert turns == [0, 0, 1]


@pytest.mark.long
def test_a_run_that_is_told_of_no_confirmation_is_the_same_up_to_there(whole, tmp_path):
    """Fails when evaluating changes what is learned."""
    plain = RunFolder.create(tmp_path / "r", replace(confirmed(), stop_at_return=None))
    train(plain)
    end = checkpoint.load(checkpoint.newest(whole[0].checkpoints)).state["frames"]
    kept = [[row for row in rows(run) if row["frames"] < end] for run in (whole[0], plain)]
    assert kept[0] == kept[1]
    assert kept[0]
