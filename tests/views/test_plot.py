"""Curves: what is drawn is what the runs logged."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from fastdqn.cli import main
from fastdqn.config import Config
from fastdqn.errors import UserError
from fastdqn.presets import PRESETS
from fastdqn.runs.folder import RunFolder
from fastdqn.views.plot import EVALUATION, Curves, band, draw, group_by_configuration, plot, read
from tests.views.test_dashboard import LATE


def make_run(
    path: Path, seed: int, means: list[float], *, evaluations: tuple[float, ...] = (), preset: str = "quick"
) -> Path:
    """A run that logged a mean return every 1,000 frames."""
    run = RunFolder.create(path, replace(PRESETS[preset].config, seed=seed))
    rows = [
        replace(LATE, frames=1_000 * (i + 1), return_mean=mean, returns=[mean]).row()
        for i, mean in enumerate(means)
    ]
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if evaluations:
        rows = [
            {"frames": 2_000 * (i + 1), "mean": mean, "median": mean, "std": 1.0, "episodes": 5}
            for i, mean in enumerate(evaluations)
        ]
        (path / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def lines_of(axes) -> dict[str, np.ndarray]:
    return {line.get_label(): np.array(line.get_ydata(), float) for line in axes.get_lines()}


def test_one_run_is_a_line_and_its_games(tmp_path):
    curves = read(make_run(tmp_path / "a", 1, [-20.0, -10.0, 5.0]))
    axes = draw({"Pong-v5 quick": [curves]}).axes
    assert [one.get_title(loc="left").split(":")[0].split(",")[0] for one in axes] == [
        *("return in training", "mean value (Q) in the batches", "loss", "frames per second"),
    ]
    assert lines_of(axes[0])["Pong-v5 quick, seed 1"].tolist() == [-20.0, -10.0, 5.0]
    assert len(axes[0].get_lines()) == 2
    assert lines_of(axes[1])["Pong-v5 quick, seed 1"].tolist() == [LATE.q_mean] * 3


def test_several_seeds_are_a_mean_in_a_band(tmp_path):
    group = [
        read(make_run(tmp_path / str(seed), seed, [seed + 0.0, seed + 10.0, seed + 20.0, 99.0][: 3 + seed]))
        for seed in (0, 1)
    ]
    axes = draw({"Pong-v5 quick": group}).axes[0]
    label = "Pong-v5 quick, 2 runs (seeds 0, 1): mean, band from the lowest run to the highest"
    assert lines_of(axes)[label].tolist() == [0.5, 10.5, 20.5]  # as far as both go
    low_and_high = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (low_and_high.min(), low_and_high.max()) == (0.0, 21.0)


def test_the_band_meets_rows_at_other_frames_in_between():
    """Rows of two seeds are never at quite the same frames."""
    first = (np.array([0.0, 10.0, 20.0]), np.array([0.0, 10.0, 20.0]))
    second = (np.array([5.0, 15.0, 40.0]), np.array([1.0, 2.0, 3.0]))
    frames, values = band([first, second])
    assert frames.tolist() == [5.0, 10.0, 15.0, 20.0]
    assert values.tolist() == [[5.0, 10.0, 15.0, 20.0], [1.0, 1.5, 2.0, 2.2]]
    assert band([first, (np.array([30.0]), np.array([1.0]))]) is None


def test_evaluations_get_a_panel_where_there_are_some(tmp_path):
    curves = read(make_run(tmp_path / "a", 1, [1.0, 2.0, 3.0, 4.0], evaluations=(7.0, 8.0)))
    axes = draw({"Pong-v5 quick": [curves]}).axes
    assert axes[1].get_title(loc="left") == EVALUATION.title
    assert lines_of(axes[1])["Pong-v5 quick, seed 1"].tolist() == [7.0, 8.0]


def test_what_a_group_has_is_drawn_though_its_runs_share_nothing(tmp_path):
    """Faults: another run's games drawn, or none; no line in the legend; a point without a mark."""
    one = read(make_run(tmp_path / "b", 2, [5.0]))
    none = {**one.rows[0], "return_mean": None, "returns": []}
    empty = replace(one, config=replace(one.config, seed=1), rows=[none])
    axes = draw({"both": [empty, one]}).axes[0]
    assert [np.asarray(line.get_ydata()).tolist() for line in axes.get_lines()] == [[5.0], [5.0]]
    assert [line.get_marker() for line in axes.get_lines()] == [".", "o"]
    late = replace(one, rows=[{**one.rows[0], "frames": 9_000}])
    axes = draw({"apart": [one, late]}).axes[0]
    assert any(label.startswith("apart, 2 runs") for label in lines_of(axes))


def test_a_picture_of_no_run_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("curves.png").write_text("another")
    with pytest.raises(UserError, match="there is none to be drawn"):
        plot([])
    assert Path("curves.png").read_text() == "another"


def test_a_run_without_a_game_or_an_update_is_drawn():
    rows = [replace(LATE, updates=0, loss=None, q_mean=None, return_mean=None, returns=[]).row()]
    figure = draw({"a": [Curves(Config(), rows, [])], "b": [Curves(Config(), rows, [])] * 2})
    assert all(len(line.get_xdata()) == 0 for axes in figure.axes for line in axes.get_lines())
    figure.savefig(io.BytesIO())


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), 3.4e38, 1e-300, 1e308])
def test_figures_of_any_size_are_drawn(value):
    rows = [
        replace(LATE, frames=frames, loss=value, q_mean=value, return_mean=value, returns=[value]).row()
        for frames in (0, 2**62)
    ]
    draw({"a": [Curves(Config(), rows, [])]}).savefig(io.BytesIO())


def test_a_line_cut_short_by_a_kill_is_left_out_and_damage_is_not(tmp_path, capsys):
    run = make_run(tmp_path / "a", 1, [1.0, 2.0])
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"frames": 3000, "retu')
    assert len(read(run).rows) == 2
    text = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text("garbage\n" + text)
    assert main(["plot", str(run)]) == 2
    assert "metrics.jsonl, line 1: not JSON" in capsys.readouterr().err


def test_runs_that_differ_in_more_than_the_seed_are_no_band(tmp_path):
    """Fails where game and preset decide: a mean over two learning rates is nobody's result."""
    settings = [  # learning rate and batch size
        (5e-4, 32),
        (1e-3, 32),
        (5e-4, 32),
        (1e-3, 64),
    ]
    quick = PRESETS["quick"].config
    runs = []
    for seed, (rate, size) in enumerate(settings):
        config = replace(
            quick,
            seed=seed,
            learner=replace(quick.learner, batch_size=size),
            optimizer=replace(quick.optimizer, learning_rate=rate),
        )
        runs.append(Curves(config, [LATE.row()], []))
    # What a run took beside other programs makes no other curve of it.
    runs[2] = replace(runs[2], config=replace(runs[2].config, pipeline=replace(quick.pipeline, threads=2)))
    other = replace(PRESETS["nature"].config, seed=9)
    groups = group_by_configuration([*runs, Curves(other, [LATE.row()], [])])
    assert {name: [curves.config.seed for curves in group] for name, group in groups.items()} == {
        "Pong-v5 quick learner.batch_size=32 optimizer.learning_rate=0.0005": [0, 2],
        "Pong-v5 quick learner.batch_size=32 optimizer.learning_rate=0.001": [1],
        "Pong-v5 quick learner.batch_size=64 optimizer.learning_rate=0.001": [3],
        "Pong-v5 nature": [9],
    }


def test_the_command_draws_groups_and_names_them(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed in (1, 2):
        make_run(Path(f"quick{seed}"), seed, [1.0, 2.0])
    make_run(Path("nature"), 3, [0.0, 1.0], preset="nature")
    assert main(["plot", "quick1", "quick2", "nature"]) == 0
    out = capsys.readouterr().out
    assert "Pong-v5 quick, 2 runs (seeds 1, 2)" in out
    assert "Pong-v5 nature, seed 3" in out
    assert Path("curves.png").read_bytes().startswith(b"\x89PNG")
    assert main(["plot", "quick1"]) == 0
    assert Path("quick1/curves.png").exists()
    assert not list(Path().rglob("tmp-*"))
    assert main(["plot", "quick1", "--out", "x.svg", "quick2"]) == 0  # words need not stand together
    assert "2 runs (seeds 1, 2)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("plot", "needs the folder of a run"),
        ("plot nowhere", "nowhere is not a run"),
        ("plot RUN nowhere", "nowhere is not a run"),
        ("plot RUN --out x.gif", "must end in .png, .svg, .pdf"),
        ("plot RUN --outt x.png", "Did you mean --out?"),
        ("plot EMPTY", "has no row yet: the first is written after 20,000 frames"),
    ],
)
def test_mistakes_are_answered(words, wanted, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run, empty = make_run(tmp_path / "a", 1, [1.0]), make_run(tmp_path / "b", 1, [])
    assert main(words.replace("RUN", str(run)).replace("EMPTY", str(empty)).split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert wanted in err
    assert not list(tmp_path.rglob("*.png"))


def test_without_matplotlib_the_pip_line_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["plot", str(make_run(tmp_path / "a", 1, [1.0]))]) == 2
    assert 'pip install "fastdqn[plot]"' in capsys.readouterr().err
