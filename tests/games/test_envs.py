"""The emulator's episode ends, against EnvPool's own numbers."""

from __future__ import annotations

import weakref
from dataclasses import replace

import numpy as np
import pytest

envpool = pytest.importorskip("envpool")

from fastdqn.config import EnvConfig
from fastdqn.errors import RunFailedError, UserError
from fastdqn.games.envs import AtariEnvs, game_names


def play(envs: AtariEnvs, passes: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    envs.reset()
    for _ in range(passes):
        envs.send(rng.integers(envs.num_actions, size=envs.num_envs))
        yield envs.recv()


def test_atari_games_are_listed_and_no_others():
    names = game_names()
    assert {"Pong-v5", "Breakout-v5", "SpaceInvaders-v5"} <= set(names)
    assert "Ant-v5" not in names


def test_a_lost_life_ends_the_episode_and_not_the_game():
    envs = AtariEnvs("Breakout-v5", EnvConfig(num_envs=4), seed=3)
    ends = games = 0
    for outcome in play(envs, 600):
        ends += int(outcome.terminated.sum())
        games += len(outcome.returns)
        assert not outcome.truncated.any()
    assert games >= 4
    assert ends == pytest.approx(5 * games, abs=5 * 4)  # five lives a game, games under way left out
    assert ends >= 5 * games


def test_lives_that_fall_to_0_end_the_episode_while_the_game_goes_on():
    """Bank Heist's last life is numbered 0; EnvPool ends no episode there, DeepMind's code does."""
    envs = AtariEnvs("BankHeist-v5", EnvConfig(num_envs=1), seed=7)
    lives = 4
    for outcome in play(envs, 600):
        fell, lives = envs._lives[0] < lives, int(envs._lives[0])
        assert outcome.terminated[0] == (fell or bool(outcome.returns))
        if lives == 0 and fell:
            break
    assert not envs._resetting[0]  # EnvPool goes on, and so does the game
    assert outcome.returns == []


class ScriptedPool:
    """EnvPool with one game: rows of reward, done, over, lives, elapsed step, is the stack one frame."""

    def __init__(self, *rows):
        self.rows = iter(rows)

    def send(self, action):
        pass

    def recv(self):
        reward, done, over, lives, elapsed, fresh = next(self.rows)
        observation = np.zeros((1, 4, 84, 84), np.uint8)
        if not fresh:
            observation[0, 3] = 1
        info = {"reward": reward, "terminated": over, "lives": lives, "elapsed_step": elapsed}
        info = {name: np.array([value]) for name, value in info.items()}
        info["ram"] = np.zeros((1, 128), np.uint8)
        cut = done and elapsed >= 100
        return observation, np.float32([reward]), np.array([done and not cut]), np.array([cut]), info


def scripted(*rows, life_loss="reset"):
    """What AtariEnvs makes of rows of a game of 3 lives: terminated, truncated, steps, returns, game_frames."""
    config = EnvConfig(num_envs=1, max_episode_frames=400, life_loss=life_loss)
    envs = AtariEnvs("Pong-v5", config, seed=1)
    envs._pool.close()
    envs._pool, envs._lives = ScriptedPool(*rows), np.array([3])
    for _ in rows:
        envs.send(np.zeros(1, np.int64))
        told = envs.recv()
        yield bool(told.terminated[0]), bool(told.truncated[0]), told.steps, told.returns, told.game_frames


END, ON, RESET = (True, False, 1, [], []), (False, False, 1, [], []), (False, False, 0, [], [])


def test_a_game_that_restarts_during_no_ops_is_closed_in_that_row():
    told = list(
        scripted(
            (7, True, False, 1, 40, False), (0, False, False, 3, 40, True), (5, True, True, 0, 41, False)
        )
    )
    assert told == [END, (False, False, 0, [7.0], [4]), (True, False, 1, [5.0], [4])]


@pytest.mark.parametrize(("lives", "fresh"), [(3, False), (2, True), (1, True)])
def test_a_game_that_goes_on_after_no_ops_is_not_closed(lives, fresh):
    """Fails when lives alone (points of the no-ops bring one), or a screen that stands still alone, decide."""
    reset = (0, False, False, lives, 40, fresh)
    told = list(scripted((7, True, False, 2, 40, False), reset, (5, True, True, 0, 41, False)))
    assert told == [END, RESET, (True, False, 1, [12.0], [8])]


def test_a_game_that_was_told_as_over_is_not_closed_again():
    reset = (0, False, False, 3, 0, True)
    told = list(scripted((7, True, True, 0, 40, False), reset, (1, False, False, 3, 1, False)))
    assert told == [(True, False, 1, [7.0], [4]), RESET, ON]


@pytest.mark.parametrize("gap", [0, 1, 2])
@pytest.mark.parametrize("cut", [False, True])
def test_after_lives_fell_to_0_a_row_only_begins(gap, cut):
    """Lives fall to 0, and `gap` steps after the row that begins an episode the game ends.

    An end in that row itself is told one row later: the replay refuses a beginning that is an end.
    """
    last = (2, True, not cut, 0, 100 if cut else 60, False)
    rows = [(1, False, False, 0, 50, False), *[(0, False, False, 0, 51, False)] * gap, last]
    told = list(scripted(*rows, (0, False, False, 3, 0, True), (1, False, False, 3, 1, False)))
    over = [3.0], [4 * (gap + 2)]
    if gap == 0:
        assert told == [END, (False, False, 1, *over), (True, False, 0, [], []), ON]
    else:
        assert told == [END, *[ON] * gap, (not cut, cut, 1, *over), RESET, ON]


@pytest.mark.parametrize("life_loss", ["terminal", "ignore"])
def test_a_lost_life_may_end_the_return_and_not_the_game(life_loss):
    """The row after it is a step of the same game, which the learner takes for a beginning."""
    rows = [(1, False, False, 2, 1, False), (1, False, False, 2, 2, False), (1, False, False, 2, 3, False)]
    last = [(1, True, True, 0, 4, False), (0, False, False, 3, 0, True)]
    told = list(scripted(*rows, *last, life_loss=life_loss))
    first = END if life_loss == "terminal" else ON
    assert told == [first, ON, ON, (True, False, 1, [4.0], [16]), RESET]


def test_a_life_lost_in_the_row_that_begins_an_episode_ends_none():
    """Fault: an end to be told one row later, which waited for the next row in which anything happened."""
    lost = [(1, False, False, 2, 1, False), (1, False, False, 1, 2, False)]
    cut = [(1, False, False, 1, 3, False), (1, True, False, 1, 100, False)]
    told = list(scripted(*lost, *cut, life_loss="terminal"))
    assert told == [END, ON, ON, (False, True, 1, [4.0], [16])]


def test_games_go_on_after_lost_lives_without_no_ops():
    """Breakout, 4 games: with terminal, frames follow each other after a lost life, as they do with ignore."""
    games = {
        life_loss: list(
            play(AtariEnvs("Breakout-v5", EnvConfig(num_envs=4, life_loss=life_loss), seed=3), 300)
        )
        for life_loss in ("terminal", "ignore")
    }
    lost = 0
    for one, other in zip(games["terminal"], games["ignore"], strict=True):
        assert np.array_equal(one.observation, other.observation)
        assert one.game_env == other.game_env
        assert not (other.terminated & ~one.terminated).any()
        lost += int((one.terminated & ~other.terminated).sum())
    assert lost > 3


def test_where_lost_lives_are_ignored_every_end_is_a_games():
    envs = AtariEnvs("Breakout-v5", EnvConfig(num_envs=4, life_loss="ignore"), seed=3)
    for outcome in play(envs, 600):
        assert np.flatnonzero(outcome.terminated).tolist() == outcome.game_env


def test_a_cut_game_is_truncated_and_its_return_counted():
    config = EnvConfig(num_envs=3, max_episode_frames=160)
    envs = AtariEnvs("Pong-v5", config, seed=1)
    outcomes = list(play(envs, 41))
    assert not any(outcome.truncated.any() for outcome in outcomes[:39])
    assert outcomes[39].truncated.all()
    assert outcomes[39].game_frames == [160, 160, 160]
    assert outcomes[39].steps == 3
    assert outcomes[40].steps == 0  # the row that resets is no step


def test_a_life_lost_exactly_at_the_limit_is_an_end(monkeypatch):
    """EnvPool calls it a truncation; fails when its `truncated` is passed on as it is."""
    free = AtariEnvs("Breakout-v5", EnvConfig(num_envs=1), seed=3)
    lost_at = next(i for i, outcome in enumerate(play(free, 400)) if outcome.terminated[0])
    config = EnvConfig(num_envs=1, max_episode_frames=4 * (lost_at + 1))
    cut = AtariEnvs("Breakout-v5", config, seed=3)
    last = list(play(cut, lost_at + 1))[-1]
    assert last.terminated[0]
    assert not last.truncated[0]
    assert len(last.returns) == 1  # and the game is over all the same


def test_returns_are_unclipped_and_whole():
    """Space Invaders pays 5 to 30 points: a clipped return would be a count of hits."""
    envs = AtariEnvs("SpaceInvaders-v5", EnvConfig(num_envs=4), seed=2)
    learned, returns = 0.0, []
    for outcome in play(envs, 900):
        assert set(np.unique(outcome.reward)) <= {-1.0, 0.0, 1.0}
        learned += float(outcome.reward.sum())
        returns += outcome.returns
    assert len(returns) >= 3
    assert all(value % 5 == 0 and value >= 5 for value in returns)
    assert sum(returns) > 5 * learned / 2


@pytest.mark.parametrize("threads", [pytest.param(1, marks=pytest.mark.long), 2])
def test_games_follow_the_seed_and_not_the_threads(threads):
    def run(seed, threads):
        config = replace(EnvConfig(), num_envs=4, threads=threads)
        outcomes = list(play(AtariEnvs("Pong-v5", config, seed), 60))
        return np.stack([outcome.observation for outcome in outcomes])

    assert np.array_equal(run(7, threads), run(7, 1))
    assert not np.array_equal(run(8, threads), run(7, 1))


def test_played_again_is_the_same_game_to_the_last_byte_of_state():
    """Lives, resets and cuts fall in between; fails when any of what AtariEnvs counts is not brought back."""
    config = EnvConfig(num_envs=3, max_episode_frames=700)
    one, other = (AtariEnvs("Breakout-v5", config, seed=3, generation=2) for _ in range(2))
    games = sum(len(outcome.returns) for outcome in play(one, 230))
    assert games >= 3
    actions, observation = one.played()
    assert actions.shape == (230, 3)
    assert np.array_equal(other.restore(actions, observation), observation)
    rng = np.random.default_rng(9)
    for _ in range(200):
        action = rng.integers(one.num_actions, size=3)
        outcomes = []
        for envs in (one, other):
            envs.send(action)
            outcomes.append(envs.recv())
        for name in ("observation", "reward", "terminated", "truncated"):
            assert np.array_equal(getattr(outcomes[0], name), getattr(outcomes[1], name)), name
        for name in ("steps", "returns", "game_env", "game_frames"):
            assert getattr(outcomes[0], name) == getattr(outcomes[1], name), name


@pytest.mark.parametrize(("game", "passes"), [("RoadRunner-v5", 635), ("BankHeist-v5", 505)])
def test_games_are_played_on_from_between_an_end_and_what_follows(game, passes):
    """Before the row that closes a game; before the one that begins an episode though it is a step."""
    one, other = (AtariEnvs(game, EnvConfig(num_envs=1), seed=7) for _ in range(2))
    last = list(play(one, passes))[-1]
    assert last.terminated[0]
    assert not last.returns
    other.restore(*one.played())
    for _ in range(2):
        outcomes = []
        for envs in (one, other):
            envs.send(np.zeros(1, np.int64))
            outcomes.append(envs.recv())
        assert outcomes[0].returns == outcomes[1].returns
        assert outcomes[0].terminated[0] == outcomes[1].terminated[0]
        for name in ("_begins", "_late", "_return", "_game_steps"):
            assert np.array_equal(getattr(one, name), getattr(other, name)), name


@pytest.mark.parametrize("change", ["action", "observation", "envs", "illegal"])
def test_games_that_went_another_way_are_refused(change):
    envs = AtariEnvs("Breakout-v5", EnvConfig(num_envs=2), seed=3)
    for _ in play(envs, 60):
        pass
    actions, observation = (array.copy() for array in envs.played())
    if change == "action":
        actions[5:, 0] = (actions[5:, 0] + 1) % 4
    elif change == "observation":
        observation[1, 2, 30, 30] ^= 1
    elif change == "envs":
        actions = actions.reshape(-1, 1)
    else:
        actions[7, 1] = 200
    again = AtariEnvs("Breakout-v5", EnvConfig(num_envs=2), seed=3)
    with pytest.raises(UserError, match="does not arrive where"):
        again.restore(actions, observation)


def test_the_old_emulator_is_gone_before_the_new_one_comes(monkeypatch):
    """Fails when both live at once: over hundreds of times the process grew by as many holes."""
    envs = AtariEnvs("Pong-v5", EnvConfig(num_envs=2), seed=5)
    envs.reset()
    old, make, alive = weakref.ref(envs._pool), envpool.make, []

    def watched(*words, **options):
        alive.append(old() is not None)
        return make(*words, **options)

    monkeypatch.setattr(envpool, "make", watched)
    envs.restart()
    assert alive == [False]


def test_restarted_games_are_others_and_start_afresh():
    """Pong's first screen is always the same; what follows is not."""
    envs = AtariEnvs("Pong-v5", EnvConfig(num_envs=2, restart_steps=40), seed=5)
    last = []
    envs.reset()
    for generation in (0, 1, 2):
        assert envs.generation == generation
        assert len(envs.played()[0]) == 0
        for _ in range(20):
            assert not envs.restart_is_due
            envs.send(np.full(2, 2))
            outcome = envs.recv()
        assert envs.restart_is_due
        last.append(outcome.observation.tobytes())
        assert envs.restart().shape == (2, 4, 84, 84)
    assert len(set(last)) == 3


def test_a_dead_emulator_is_told():
    envs = AtariEnvs("Pong-v5", EnvConfig(num_envs=1), seed=5)
    envs.reset()
    envs._pool = None
    with pytest.raises(RunFailedError, match="emulator"):
        envs.send(np.zeros(1, np.int64))
    with pytest.raises(RunFailedError, match="emulator died"):
        envs.recv()
