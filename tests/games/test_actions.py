"""Every game that EnvPool has: that it runs, that its actions are named rightly, and that the settings act."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("envpool")

from fastdqn.cli import main
from fastdqn.config import Config, EnvConfig
from fastdqn.games.actions import ACTIONS, action_names, full_actions, known_games, minimal_actions
from fastdqn.games.envs import AtariEnvs, game_names, num_actions

CONFIG = EnvConfig(num_envs=2, threads=1)


def run(game: str, config: EnvConfig, actions: np.ndarray, seed: int = 5) -> np.ndarray:
    """Play one game with given actions; return the console's memory after each, uint8 [T, 128]."""
    envs = AtariEnvs(game, replace(config, num_envs=1), seed)
    envs.reset()
    memory = []
    for action in actions:
        envs.send(np.array([action]))
        envs.recv()
        memory.append(envs.ram[0].copy())
    envs.close()
    return np.stack(memory)


def check_runs(game: str) -> None:
    """Make the games, reset them, take 50 random steps."""
    envs, random = AtariEnvs(game, CONFIG, 1), np.random.default_rng(0)
    observation = envs.reset()
    assert envs.num_actions == len(minimal_actions(game))
    seen = np.zeros(2, np.bool_)  # Elevator Action shows nothing in its first seven steps
    for step in range(51):
        assert (observation.shape, observation.dtype) == ((2, 4, 84, 84), np.uint8), game
        seen |= observation.any(axis=(1, 2, 3))
        if step == 50:
            break
        envs.send(random.integers(envs.num_actions, size=2))
        outcome = envs.recv()
        observation = outcome.observation
        assert (outcome.reward.shape, outcome.reward.dtype) == ((2,), np.float32), game
        assert set(np.unique(outcome.reward)) <= {-1.0, 0.0, 1.0}, game
        for flag in (outcome.terminated, outcome.truncated):
            assert (flag.shape, flag.dtype) == ((2,), np.bool_), game
        assert envs.ram.shape == (2, 128), game
    assert seen.all(), game
    envs.close()


def check_names(game: str) -> None:
    """The game's own numbering and the full one must play the same game, action by action."""
    names, full = minimal_actions(game), full_actions(game)
    random = np.random.default_rng(0).integers(len(names), size=120)
    own = run(game, EnvConfig(fire_reset=False), random)
    same = run(
        game, EnvConfig(fire_reset=False, full_action_set=True), [full.index(names[i]) for i in random]
    )
    assert np.array_equal(own, same), game


@pytest.mark.parametrize("game", ["Pong-v5", "Freeway-v5", "Skiing-v5"])
def test_a_game_runs_and_its_actions_are_named_rightly(game):
    check_runs(game)
    check_names(game)


@pytest.mark.slow
@pytest.mark.parametrize("game", game_names())
def test_every_game_runs_and_its_actions_are_named_rightly(game):
    check_runs(game)
    check_names(game)
    for full, names in ((False, minimal_actions(game)), (True, full_actions(game))):
        assert num_actions(game, EnvConfig(full_action_set=full)) == len(names)


def test_a_wrong_name_is_noticed(monkeypatch):
    monkeypatch.setattr(
        f"{__name__}.minimal_actions", lambda game: ["noop", "fire", "left", "right", "up", "down"]
    )
    with pytest.raises(AssertionError):
        check_names("Pong-v5")


def test_actions_without_a_name_are_numbered():
    assert action_names("New-v5", full=False, count=3) == ["action 0", "action 1", "action 2"]
    assert action_names("Pong-v5", full=False, count=4) == ["action 0", "action 1", "action 2", "action 3"]
    assert action_names("Pong-v5", full=True, count=18) == list(ACTIONS)
    assert action_names("Breakout-v5", full=False, count=4) == ["noop", "fire", "right", "left"]


def test_sticky_actions_repeat_the_last_action():
    actions = np.random.default_rng(0).integers(6, size=100)
    plain = run("Pong-v5", EnvConfig(), actions)
    assert np.array_equal(run("Pong-v5", EnvConfig(), actions), plain)
    assert not np.array_equal(run("Pong-v5", EnvConfig(sticky_actions=0.25), actions), plain)
    # Always repeating means that no action but the first ever acts: all sequences are one.
    stuck = EnvConfig(sticky_actions=1.0)
    assert np.array_equal(run("Pong-v5", stuck, actions), run("Pong-v5", stuck, 5 - actions))


def test_the_full_action_set_has_18_actions():
    assert AtariEnvs("Pong-v5", replace(CONFIG, full_action_set=True), 1).num_actions == 18
    assert AtariEnvs("Pong-v5", CONFIG, 1).num_actions == 6


@pytest.mark.long
def test_no_ops_make_starts_differ():
    def starts(noop_max: int) -> int:
        return len({run("Pong-v5", EnvConfig(noop_max=noop_max), [0], seed).tobytes() for seed in range(8)})

    assert starts(30) > 4
    assert starts(1) == 1


def test_fire_starts_a_game_that_waits_for_it():
    """Breakout shows no ball before FIRE: without it nothing happens however long one waits."""

    def moves(fire: bool) -> bool:
        envs = AtariEnvs("Breakout-v5", EnvConfig(num_envs=1, fire_reset=fire, noop_max=1), 3)
        envs.reset()
        pictures = []
        for _ in range(30):
            envs.send(np.array([0]))
            pictures.append(envs.recv().observation[0, -1].copy())
        return any(not np.array_equal(one, pictures[0]) for one in pictures)

    assert moves(True)
    assert not moves(False)


def test_how_many_games_have_fire_is_as_the_documents_say():
    """The names themselves are held against the emulator above."""
    assert sum("fire" in minimal_actions(game) for game in game_names()) == 91
    assert sum("fire" in full_actions(game) for game in game_names()) == 102


def test_a_lost_life_ends_an_episode_only_where_it_is_told_to():
    def ends(life_loss: str) -> int:
        envs = AtariEnvs("Breakout-v5", EnvConfig(num_envs=1, life_loss=life_loss), 3)
        envs.reset()
        count = 0
        for _ in range(120):
            envs.send(np.array([0]))
            count += int(envs.recv().terminated[0])
        return count

    assert ends("reset") > ends("ignore")
    assert ends("terminal") > ends("ignore")


def test_every_setting_of_a_game_is_a_flag_that_the_help_explains(capsys):
    assert main(["train", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for flag, words in {
        "--env.sticky-actions": "Probability that the emulator repeats the previous action",
        "--env.full-action-set": "All 18 actions instead of those that the game uses",
        "--env.life-loss": "What a lost life is. reset: the end of an episode",
        "--env.fire-reset": "Make the last of noop_max's frames FIRE where the action set has it",
        "--env.noop-max": "At most this many frames without action",
    }.items():
        assert flag in shown
        assert words in shown.replace("│ ", "").replace(" │", ""), flag
        assert hasattr(Config().env, flag.removeprefix("--env.").replace("-", "_"))


def test_the_games_that_are_listed_without_envpool_are_those_that_it_has():
    assert known_games() == game_names()


def test_the_command_lists_every_game(capsys):
    assert main(["games"]) == 0
    out = capsys.readouterr().out
    assert all(game in out for game in game_names())
    assert max(len(line) for line in out.splitlines()) <= 80
    assert "Pong-v5                  6   18  noop, fire, right, left, right-fire, left-fire" in out
    assert main(["games", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert sorted(rows) == game_names()
    assert rows["Skiing-v5"] == {
        "actions": ["noop", "right", "left"],
        "full_actions": full_actions("Skiing-v5"),
    }
    assert main(["games", "pong"]) == 2
    assert "a word too many" in capsys.readouterr().err
