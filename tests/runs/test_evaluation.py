"""Evaluation: protocols to the letter, no favour to short games, and no trace in the run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("envpool")

from fastdqn.algorithm.networks import QNetwork
from fastdqn.config import Config, EvaluationConfig, EvaluationSettings, NetworkConfig
from fastdqn.errors import UserError
from fastdqn.games import scores
from fastdqn.games.envs import Outcome, game_names
from fastdqn.runs import checkpoint, evaluation, keeping
from fastdqn.runs.clock import Marks
from fastdqn.runs.evaluation import PROTOCOLS, resolve
from fastdqn.runs.folder import RunFolder
from fastdqn.runs.sweep import is_done
from fastdqn.runs.trainer import train
from tests.runs.test_resume import differences, outcome, tiny


class KnownGames:
    """Environments whose games have lengths that are known beforehand; the score is the length in steps."""

    def __init__(self, lengths: list[list[int]]) -> None:
        self.lengths = lengths
        self.game = [0] * len(lengths)
        self.step = [0] * len(lengths)

    def reset(self) -> np.ndarray:
        return np.zeros((len(self.lengths), 1), np.uint8)

    def send(self, action: np.ndarray) -> None:
        pass

    def recv(self) -> Outcome:
        envs = range(len(self.lengths))
        ended = []
        for env in envs:
            self.step[env] += 1
            if self.step[env] == self.lengths[env][self.game[env]]:
                ended.append(env)
        returns = [float(self.step[env]) for env in ended]
        frames = [4 * self.step[env] for env in ended]
        for env in ended:
            self.step[env], self.game[env] = 0, self.game[env] + 1
        none = np.zeros(len(envs))
        return Outcome(self.reset(), none, none, none, len(envs), returns, ended, frames)


class NoActor:
    """Does nothing."""

    def act(self, observation: np.ndarray, epsilon: float) -> np.ndarray:
        return np.zeros(len(observation), np.int64)


def test_short_games_are_not_favoured():
    """Fails for the rule "the first 30 games to end": here it gives less than half of the true mean.

    Environments 0 to 3 play games of 10 steps, the others of 1,000: the mean of a fixed number from each of
    16 environments is 752.5.
    """
    lengths = [[10] * 400 if env < 4 else [1000] * 4 for env in range(16)]
    quota = evaluation._quotas(32, 16)
    assert quota == [2] * 16
    games = evaluation._play(KnownGames(lengths), NoActor(), quota, 0.0)
    assert sorted(value for value, _ in games) == [10.0] * 8 + [1000.0] * 24
    assert all(frames == 4 * value for value, frames in games)
    first_to_end = sorted(10 * (game + 1) for _ in range(4) for game in range(400))[:32]
    assert max(first_to_end) < 1000  # that rule would have stopped before any long game ended


@pytest.mark.parametrize(("episodes", "envs"), [(1, 1), (30, 30), (100, 32), (33, 32)])
def test_quotas_add_up_and_differ_by_one_at_most(episodes, envs):
    quota = evaluation._quotas(episodes, envs)
    assert sum(quota) == episodes
    assert max(quota) - min(quota) <= 1


def test_the_protocols_are_what_they_say():
    nature, machado = PROTOCOLS["nature"], PROTOCOLS["machado"]
    assert (nature.episodes, nature.epsilon, nature.noop_max, nature.sticky_actions) == (30, 0.05, 30, 0.0)
    assert nature.max_episode_frames == 5 * 60 * 60
    assert (machado.sticky_actions, machado.noop_max, machado.max_episode_frames) == (0.25, 1, 18_000)
    config = tiny()
    config = replace(config, env=replace(config.env, sticky_actions=0.1, noop_max=7))
    for protocol in ("nature", "machado"):
        settings, name = resolve(replace(config, evaluation=EvaluationConfig(protocol=protocol)))
        assert (settings, name) == (PROTOCOLS[protocol], protocol)
    own, name = resolve(replace(config, evaluation=EvaluationConfig(protocol="training")))
    assert (own.sticky_actions, own.noop_max, own.max_episode_frames) == (0.1, 7, 1_000)
    # Fault: runs of other games taken for one protocol, and compared.
    assert name == "training, max_episode_frames 1000, noop_max 7, sticky_actions 0.1"
    own = EvaluationConfig(protocol="training", noop_max=1, epsilon=0.0)
    name = resolve(replace(config, evaluation=own))[1]
    assert name == "training, max_episode_frames 1000, noop_max 1, sticky_actions 0.1, epsilon 0"
    changed = EvaluationConfig(episodes=5, epsilon=0.05, noop_max=1)
    assert resolve(replace(config, evaluation=changed))[1] == "nature, episodes 5, noop_max 1"
    rules = evaluation.game_rules(config, 3)
    assert rules.life_loss == "ignore"
    assert not rules.clip_rewards


def test_the_human_scale_goes_from_random_to_human():
    assert scores.human_normalized("Pong-v5", -20.7) == 0.0
    assert scores.human_normalized("Pong-v5", 14.6) == 1.0
    assert scores.human_normalized("Breakout-v5", 401.2) == pytest.approx(13.87, abs=0.01)
    assert scores.human_normalized("Tetris-v5", 1.0) is None
    assert len(scores.RANDOM_AND_HUMAN) == 57
    assert {f"{name}-v5" for name in scores.RANDOM_AND_HUMAN} <= set(game_names())
    assert all(random < human for random, human in scores.RANDOM_AND_HUMAN.values())


QUICK = EvaluationConfig(every_frames=1_300, episodes=3, epsilon=0.5, max_episode_frames=400)


def rows(run: RunFolder) -> list[dict]:
    return [json.loads(line) for line in run.evaluations.read_text().splitlines()]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory) -> RunFolder:
    run = RunFolder.create(tmp_path_factory.mktemp("evaluated") / "r", tiny(evaluation=QUICK))
    train(run)
    return run


@pytest.mark.long
def test_a_run_that_is_evaluated_is_the_run_that_is_not(evaluated, tmp_path):
    """Fails when an evaluation draws on a random stream of the run, or touches its games or weights."""
    plain = RunFolder.create(tmp_path / "plain", tiny())
    train(plain)
    one, other = outcome(evaluated), outcome(plain)
    for state in (one["state"], other["state"]):
        del state["marks"], state["config"]
    assert differences(one, other) == []


@pytest.mark.long
def test_evaluations_are_written_and_the_best_is_kept(evaluated):
    written = rows(evaluated)
    assert [row["frames"] // 1_300 for row in written] == [1, 2, 3, 4]
    keys = ["frames", "mean", "median", "std", "episodes", "protocol", "human_normalized"]
    assert all(list(row) == keys for row in written)
    assert written[0]["protocol"] == "nature, episodes 3, epsilon 0.5, max_episode_frames 400"
    means = [row["mean"] for row in written]
    best = checkpoint.choose(evaluated.checkpoints, "best")
    policy = checkpoint.load_policy(best)
    assert policy.frames == written[means.index(max(means))]["frames"]
    assert json.loads((best / "evaluation.json").read_text())["mean"] == max(means)
    again = evaluation.evaluate(evaluated, EvaluationSettings(episodes=1, epsilon=0.0), which="best")
    assert again.frames == policy.frames


def test_a_runs_end_is_evaluated_too(tmp_path):
    """Faults: the last evaluation is of another network than the checkpoint's policy, or there is none at all."""
    config = tiny(total_frames=800, evaluation=replace(QUICK, every_frames=10**6, episodes=1))
    config = replace(config, learner=replace(config.learner, average_updates=50))
    run = RunFolder.create(tmp_path / "r", config)
    frames = train(run).frames
    (row,) = rows(run)
    assert row["frames"] == frames >= 800
    evaluated, saved = (checkpoint.choose_policy(run.checkpoints, which) for which in ("best", "last"))
    assert saved.source.name == "average.safetensors"
    for name, value in saved.weights.items():
        assert torch.equal(evaluated.weights[name], value)
    newest = checkpoint.load_policy(saved.source.with_name("online.safetensors"))
    assert not all(torch.equal(newest.weights[name], value) for name, value in saved.weights.items())
    assert is_done(run.path, config)
    with pytest.raises(UserError, match="is complete"):
        train(RunFolder.open(run.path), resume=True)
    assert len(rows(run)) == 1


@pytest.mark.long
def test_an_evaluation_that_was_stopped_is_played_again(evaluated, tmp_path, monkeypatch):
    """Stopped in the middle of the second evaluation; fails when it is skipped, or written half."""
    run = RunFolder.create(tmp_path / "r", tiny(evaluation=QUICK))
    real, calls = keeping.evaluate_learner, []

    def stop_in_the_second(components, config, on_episode, stop_requested, turn):
        calls.append(components.clock.frames)
        return real(components, config, on_episode, lambda: len(calls) == 2, turn)

    monkeypatch.setattr(keeping, "evaluate_learner", stop_in_the_second)
    summary = train(run, stop_requested=lambda: len(calls) == 2)
    assert summary.interrupted
    assert len(rows(run)) == 1
    train(RunFolder.open(run.path), resume=True)
    assert calls[1] == calls[2]
    assert rows(run) == rows(evaluated)
    assert differences(outcome(run), outcome(evaluated)) == []


@pytest.mark.long
def test_an_evaluation_that_was_stopped_at_the_end_is_owed(evaluated, tmp_path, monkeypatch):
    """The last of them: fails when the run counts as complete without it, or when it is written twice."""
    config = tiny(evaluation=QUICK)
    last = rows(evaluated)[-1]["frames"]
    assert last >= config.total_frames
    run = RunFolder.create(tmp_path / "r", config)
    real, ends = keeping.evaluate_learner, []

    def stopping(components, config, on_episode, stop_requested, turn):
        ends.append(components.clock.frames == last)
        return real(components, config, on_episode, lambda: ends[-1], turn)

    monkeypatch.setattr(keeping, "evaluate_learner", stopping)
    summary = train(run, stop_requested=lambda: bool(ends) and ends[-1])
    assert summary.interrupted
    assert summary.frames == last
    assert rows(run) == rows(evaluated)[:-1]
    assert not is_done(run.path, config)
    monkeypatch.setattr(keeping, "evaluate_learner", real)
    assert not train(RunFolder.open(run.path), resume=True).interrupted
    assert rows(run) == rows(evaluated)
    assert is_done(run.path, config)
    with pytest.raises(UserError, match="is complete"):
        train(RunFolder.open(run.path), resume=True)
    assert differences(outcome(run), outcome(evaluated)) == []  # the checkpoint knows of the evaluation
    (run.path / "summary.json").unlink()  # killed before it
    assert is_done(run.path, config)
    with pytest.raises(UserError, match="is complete"):
        train(RunFolder.open(run.path), resume=True)
    assert rows(run) == rows(evaluated)


@pytest.mark.long
def test_evaluation_follows_its_seed(evaluated):
    def play(seed):
        return evaluation.evaluate(evaluated, EvaluationSettings(3, 0.5, 2_000), seed=seed)

    assert play(1) == play(1)
    assert play(1).returns != play(2).returns or play(1).lengths_frames != play(2).lengths_frames
    assert max(play(1).lengths_frames) <= 2_000


@pytest.mark.long
def test_machado_is_for_policies_of_all_18_actions(evaluated, tmp_path):
    """Fails when a policy of four actions is scored under a protocol of eighteen."""
    with pytest.raises(UserError, match=r"^protocol = machado.*all 18 actions"):
        evaluation.evaluate(evaluated, protocol="machado")
    config = tiny(evaluation=replace(QUICK, protocol="machado"))
    with pytest.raises(UserError, match=r"evaluation\.protocol = machado"):
        train(RunFolder(tmp_path / "none", config))
    config = replace(config, env=replace(config.env, full_action_set=True), total_frames=1_400)
    run = RunFolder.create(Path(tmp_path / "r"), config)
    train(run)
    assert rows(run)[0]["protocol"] == "machado, episodes 3, epsilon 0.5, max_episode_frames 400"
    assert checkpoint.load_policy(run.path).num_actions == 18


def test_networks_draw_where_the_evaluation_says_so():
    """Fault: the two taken for each other, so that a noisy network is evaluated without its noise."""
    shape = NetworkConfig(width=1 / 32, noise="normal")
    network = QNetwork(shape, 4, generator=torch.Generator().manual_seed(1))
    policy = checkpoint.SavedPolicy(dict(network.state_dict()), shape, 4, Path("here"))
    frames = torch.from_numpy(np.random.default_rng(2).integers(256, size=(3, 4, 84, 84), dtype=np.uint8))
    played = {}
    for draws in ("on", "off"):
        config = replace(Config(), network=shape, evaluation=EvaluationConfig(network_draws=draws))
        played[draws] = [evaluation.playing_network(policy, config, 5)(frames, act) for act in (0, 1, 0)]
    assert all(torch.equal(values, network.q_values(frames)) for values in played["off"])
    first, second, again = played["on"]
    assert torch.equal(first, again)
    assert not torch.allclose(first, second)


def test_a_best_policy_that_cannot_be_kept_ends_no_run(tmp_path, monkeypatch):
    """Its evaluation is damaged, and is replaced; then the disk is full."""
    run, said = RunFolder.create(tmp_path / "r", tiny()), []
    components = SimpleNamespace(ranks=SimpleNamespace(count=1), marks=Marks())
    kept = keeping.Keeping(run, components, None, said.append)
    policy = checkpoint.SavedPolicy({"w": torch.zeros(2)}, NetworkConfig(), 6, tmp_path, 40)

    def result(mean: float) -> SimpleNamespace:
        return SimpleNamespace(scores=lambda: {"mean": mean}, row=lambda: {"mean": mean, "frames": 40})

    kept._keep_best(policy, result(1.0))
    assert checkpoint.best_mean(run.checkpoints) == 1.0
    kept._keep_best(policy, result(0.5))
    assert checkpoint.best_mean(run.checkpoints) == 1.0
    (checkpoint.best(run.checkpoints) / "evaluation.json").write_text("{")
    kept._keep_best(replace(policy, frames=44), result(0.5))
    assert checkpoint.best_mean(run.checkpoints) == 0.5

    def full(*of, **named):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_best", full)
    kept._keep_best(replace(policy, frames=48), result(2.0))
    assert said[-1] == "NOT SAVED as the best: No space left on device. Training goes on"
    assert checkpoint.best_mean(run.checkpoints) == 0.5
