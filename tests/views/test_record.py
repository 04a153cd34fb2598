"""Films: the game that is shown is the game that is played, and the files hold it."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

for package in ("torch", "envpool", "imageio_ffmpeg", "PIL"):
    pytest.importorskip(package)

import imageio_ffmpeg
from PIL import Image

from fastdqn.cli import main
from fastdqn.config import EnvConfig, EvaluationSettings, FilmSettings
from fastdqn.errors import RunFailedError
from fastdqn.games.envs import AtariEnvs, ColourGame
from fastdqn.runs import checkpoint
from fastdqn.runs.evaluation import evaluate, game_rules, playing_network
from fastdqn.runs.seeds import evaluation_seed
from fastdqn.views import record as record_module
from fastdqn.views.film import _BAR, _CHOSEN, _RANDOM, Film, Moment, densities
from fastdqn.views.record import CONSOLE_FPS, play, record, replay


def rules_of(run) -> EnvConfig:
    return game_rules(run.config, 1)


def certain(values):
    """What a network that knows values alone expects."""
    return values[:, None].astype(np.float32), np.ones((len(values), 1), np.float32)


@pytest.fixture(scope="module")
def film(tiny_run, tmp_path_factory):
    """Two seconds of film, a GIF of the second one."""
    out = tmp_path_factory.mktemp("video")
    return record(tiny_run, FilmSettings(0.3, 4, 2, gif_start=1, gif_seconds=1, scale=2), out=out)


@pytest.mark.long
def test_the_game_is_the_one_that_is_evaluated(tiny_run):
    """Fails when a recording asks for one random number more or less than an evaluation."""
    epsilon = 0.3
    result = evaluate(tiny_run, EvaluationSettings(episodes=1, epsilon=epsilon), seed=4)
    policy = checkpoint.load_policy(tiny_run.path)
    moments, over = play(
        "Pong-v5",
        rules_of(tiny_run),
        playing_network(policy, tiny_run.config, evaluation_seed(4)),
        epsilon,
        4,
        1_000,
    )
    assert over
    assert [moments[-1].score] == result.returns
    assert [len(moments) * 4] == result.lengths_frames
    greedy = [moment for moment in moments if not moment.random]
    assert 0.6 * len(moments) < len(greedy) < 0.8 * len(moments)
    assert all(moment.action == moment.values.argmax() for moment in greedy)


@pytest.mark.parametrize(("game", "sticky"), [("Breakout-v5", 0.25), ("MsPacman-v5", 0.0)])
def test_the_colours_stay_in_step_to_the_end_of_a_game(game, sticky):
    """Compares the console's memory after every step, up to the game's last."""
    rules = EnvConfig(num_envs=1, life_loss="ignore", clip_rewards=False, sticky_actions=sticky)
    envs, rng = AtariEnvs(game, rules, evaluation_seed(3)), np.random.default_rng(0)
    moments, over, score = [], False, 0.0
    envs.reset()
    while not over:
        action = int(rng.integers(envs.num_actions))
        envs.send(np.array([action]))
        outcome = envs.recv()
        score += float(outcome.reward[0])
        over = bool(outcome.returns)
        moments.append(
            Moment(np.zeros(4, np.float32), action, False, score, envs.ram[0].tobytes(), certain(np.zeros(4)))
        )
    frames = list(replay(game, rules, 3, moments))
    assert frames[-1][0] == len(moments) - 1
    assert frames[-1][2] == score > 0
    assert 4 * len(moments) - 4 < len(frames) <= 4 * len(moments)


def test_a_game_that_its_rules_cut_is_not_over(tiny_run):
    policy = checkpoint.load_policy(tiny_run.path)
    network = playing_network(policy, tiny_run.config, 1)
    rules = replace(rules_of(tiny_run), max_episode_frames=200)
    moments, over = play("Pong-v5", rules, network, 0.3, 4, 1_000)
    assert len(moments) == 50
    assert not over


def test_without_a_program_that_writes_films_no_game_is_played(tiny_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "none"))
    monkeypatch.setattr("fastdqn.views.record.play", None)
    assert main(["record", str(tiny_run.path), "--out", str(tmp_path / "v")]) == 2
    assert "IMAGEIO_FFMPEG_EXE" in capsys.readouterr().err
    assert not (tmp_path / "v").exists()


def test_a_film_that_was_not_written_whole_is_none(tiny_run, tmp_path, monkeypatch):
    """Fault: nobody asks how ffmpeg ended."""
    send = record_module._Files.add

    def lost(self, *of):
        if self.count % 2:
            self.count += 1
        else:
            send(self, *of)

    monkeypatch.setattr(record_module._Files, "add", lost)
    with pytest.raises(RunFailedError, match=r"ffmpeg has written 1\.0 of 2\.0 seconds"):
        record(tiny_run, FilmSettings(max_seconds=2, gif_seconds=1), out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_another_game_is_not_shown(tiny_run, tmp_path, monkeypatch):
    step = ColourGame.step
    monkeypatch.setattr(ColourGame, "step", lambda self, action: step(self, 5 - action))
    with pytest.raises(RunFailedError, match="has left it"):
        record(tiny_run, FilmSettings(max_seconds=2), out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_diverged_network_is_not_shown(tiny_run, tmp_path, monkeypatch):
    weights = checkpoint.load_policy(tiny_run.path)
    weights.weights["head.advantage.bias"] += float("nan")
    monkeypatch.setattr(checkpoint, "load_policy", lambda path: weights)
    with pytest.raises(RunFailedError, match="diverged"):
        record(tiny_run, FilmSettings(max_seconds=2), out=tmp_path)


def test_the_mp4_holds_every_frame_in_colour(film, tiny_run):
    reader = imageio_ffmpeg.read_frames(film.mp4)
    about = next(reader)
    frames = [np.frombuffer(data, np.uint8).reshape(420, 640, 3) for data in reader]
    assert (about["size"], about["fps"], len(frames)) == ((640, 420), CONSOLE_FPS, film.frames)
    assert film.frames == 120
    policy = checkpoint.load_policy(tiny_run.path)
    moments, _ = play(
        "Pong-v5", rules_of(tiny_run), playing_network(policy, tiny_run.config, evaluation_seed(4)), 0.3, 4, 2
    )
    shots = [picture for _, picture, _, _ in replay("Pong-v5", rules_of(tiny_run), 4, moments)]
    for i in (0, 60, 119):
        shown = frames[i][::2, :320:2].astype(int)  # a pixel of the console is two wide and two high
        assert np.abs(shown - shots[i]).mean() < 8, i  # compressed, and with half the colour resolution
    assert np.abs(shots[0].astype(int) - shots[0][:, :, ::-1]).mean() > 20  # red and blue are not alike


def test_the_gif_holds_its_second(film):
    gif = Image.open(film.gif)
    assert (gif.size, gif.n_frames, gif.info["duration"]) == ((640, 420), 20, 50)


def test_a_frame_is_the_consoles_and_the_panel_marks_the_action():
    values = np.array([0.1, 0.4, 0.2], np.float32)
    known = certain(values)
    moments = [Moment(values, 1, False, 0.0, b"", known), Moment(values, 2, True, 3.0, b"", known)]
    film = Film("Pong-v5", "quick", ["noop", "up", "down"], moments, 15.0, (210, 160), 3)
    picture = np.random.default_rng(0).integers(0, 256, (210, 160, 3), dtype=np.uint8)
    for step, colour in ((0, _CHOSEN), (1, _RANDOM)):
        frame = film.frame(picture, step, 0.0, 0)
        assert frame.shape == (630, 960, 3)
        for corner in (0, 1, 2):
            assert np.array_equal(frame[corner::3, corner:480:3], picture)
        bars = frame[186:294, 480 + 180 : 480 + 340].reshape(3, 36, -1, 3)
        lengths = [[(row == hue).all(-1).any(0).sum() for row in bars] for hue in (colour, _BAR)]
        assert lengths[0][moments[step].action] > 0
        assert sum(lengths[0]) == lengths[0][moments[step].action]  # nothing else is marked
        if step == 0:
            assert lengths[0][1] > 2 * lengths[1][2] > 0  # 0.4 is three times as far above the worst as 0.2


def test_densities_are_lines_between_atoms_and_triangles_about_quantiles():
    grid = np.linspace(-2, 2, 41)
    atoms = np.tile(np.float32([-1, 0, 1]), (2, 1)), np.float32([[0.5, 0.25, 0.25], [0, 1, 0]])
    heights = densities(atoms, grid)
    np.testing.assert_allclose(
        heights[0], np.interp(grid, [-2, -1, 0, 1, 2], [0, 0.5, 0.25, 0.25, 0]), atol=1e-6
    )
    np.testing.assert_allclose(heights[1], np.clip(1 - np.abs(grid), 0, None), atol=1e-6)
    quantiles = np.float32([[0.0, 0.0], [1.0, -1.0]]), np.full((2, 2), 0.5, np.float32)
    heights = densities(quantiles, grid)
    assert heights[0].argmax() == 20
    assert heights[0].max() == pytest.approx(1)
    assert np.flatnonzero(heights[1] > 1e-6).tolist() == [9, 10, 11, 29, 30, 31]


def test_a_distributions_panel_marks_the_action_and_stands_on_one_axis():
    """Two actions whose returns lie apart: the panel's colours do, too, and the chosen one's is its own."""
    outcomes = np.float32([[-1, -0.9, -1.1], [1, 0.9, 1.1]]), np.full((2, 3), 1 / 3, np.float32)
    values = outcomes[0].mean(axis=1)
    moments = [Moment(values, 1, False, 0.0, b"", outcomes), Moment(values, 0, True, 3.0, b"", outcomes)]
    film = Film("Pong-v5", "c51", ["up", "down"], moments, 15.0, (210, 160), 3)
    for step, colour, side in ((0, _CHOSEN, 1), (1, _RANDOM, -1)):
        frame = film.frame(np.zeros((210, 160, 3), np.uint8), step, 0.0, 0)
        panel = frame[186:258, 480 + 180 : 480 + 370]
        columns = np.flatnonzero((panel == colour).all(-1).any(0))
        middle = panel.shape[1] / 2
        assert len(columns) > 5
        assert ((columns - middle) * side > 0).all()


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("record", ["needs the folder of a run", "fastdqn record "]),
        ("record nowhere", ["nowhere is not a run"]),
        ("record RUN --epsilon 2", ["--epsilon 2.0: must be from 0 to 1"]),
        ("record RUN --seed -1", ["--seed -1: must be a whole number from 0 to 2147483647"]),
        ("record RUN --scale 1", ["--scale 1: must be a whole number from 2 to 8"]),
        ("record RUN --max-seconds nan", ["--max-seconds nan: must be from 1"]),
        ("record RUN --gif-start 50 --max-seconds 1", ["--gif-start 50: the film is over after 0.9 s"]),
        ("record RUN --gif-start 0.95 --max-seconds 1", ["--gif-start 0.95: the film is over"]),
        ("record RUN --sed 3", ["Did you mean --seed?"]),
        ("film RUN", ["fastdqn record RUN"]),
    ],
)
def test_mistakes_are_answered(words, wanted, tiny_run, capsys):
    assert main(words.replace("RUN", str(tiny_run.path)).split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    for part in wanted:
        assert part.replace("RUN", str(tiny_run.path)) in err
    assert not (tiny_run.path / "video").exists()


@pytest.mark.parametrize(("package", "name"), [("imageio_ffmpeg", "imageio-ffmpeg"), ("PIL", "pillow")])
def test_a_missing_package_is_named_with_the_pip_line(package, name, tiny_run, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["record", str(tiny_run.path)]) == 2
    err = capsys.readouterr().err
    assert f"{name} is not installed; recording needs the extra video" in err
    assert 'pip install "fastdqn[video]"' in err


def test_the_command_names_the_files(tiny_run, tmp_path, capsys):
    words = [
        "--max-seconds",
        "1",
        "--gif-seconds",
        "0.5",
        "--scale",
        "2",
        "--out",
        str(tmp_path / "new" / "x"),
    ]
    assert main(["record", str(tiny_run.path), "--json", *words]) == 0
    row = json.loads(capsys.readouterr().out)
    assert Path(row["mp4"]).stat().st_size > 1_000
    assert Path(row["gif"]).parent == tmp_path / "new" / "x"
    assert row["frames"] == 60
    assert row["game_over"] is False
