"""Reports: scores and tables by hand, what is left out, and protocols that are not mixed."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from fastdqn.cli import main
from fastdqn.errors import UserError
from fastdqn.games.scores import human_normalized
from fastdqn.presets import PRESETS
from fastdqn.runs import folder
from fastdqn.runs.sweep import Sweep, grid, opened
from fastdqn.views.sweep_pictures import aggregates, curves
from fastdqn.views.sweep_report import efficiency, report
from tests.cli.fakes import refused

SCORES = {"Pong-v5": (-20.0, 10.0), "Breakout-v5": (2.0, 30.0), "Qbert-v5": (200.0, 5000.0)}


@pytest.fixture(autouse=True)
def _no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"python": "3", "fastdqn": "0.0", "torch": "2.0"}
    monkeypatch.setattr(folder, "versions", lambda: versions)
    monkeypatch.setattr(folder, "_gpu", lambda: None)


def make_sweep(
    path: Path,
    *,
    games: tuple[str, ...] = ("Pong-v5", "Breakout-v5"),
    seeds: int = 3,
    presets: tuple[str, ...] = ("quick",),
    evaluated: bool = True,
    better: float = 0.0,
    protocol: str = "nature",
) -> Sweep:
    """A sweep whose runs have ended: three evaluations each, the second one the best, more by a point a seed."""
    bases = [replace(PRESETS[name].config, total_frames=3_000) for name in presets]
    every = 1_000 if evaluated else None
    bases = [replace(base, evaluation=replace(base.evaluation, every_frames=every)) for base in bases]
    with opened(path, grid(bases, games, range(1, seeds + 1), {}), threads=1) as sweep:
        for run in sweep.runs:
            low, high = SCORES[run.config.game]
            shift = run.config.seed + better + presets.index(run.config.preset)
            means = [low, high + shift, (low + high) / 2 + shift]
            its = sweep.folder(run)
            its.mkdir()
            rows = [{"frames": 1_000 * (i + 1), "return_mean": mean - 1} for i, mean in enumerate(means)]
            (its / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            if evaluated:
                more = {"protocol": protocol, "episodes": 5}
                rows = [{"frames": 1_000 * (i + 1), "mean": mean, **more} for i, mean in enumerate(means)]
                (its / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            (its / "summary.json").write_text('{"interrupted": false}')
            (its / "meta.json").write_text(json.dumps(folder.machine_and_versions()))
    return sweep


def test_scores_of_last_and_best_checkpoints_are_apart(tmp_path):
    make_sweep(tmp_path / "s")
    data = report([tmp_path / "s"]).data
    pong = data["methods"]["quick"]["games"]["Pong-v5"]
    assert pong["seeds"] == [1, 2, 3]
    assert pong["last"]["runs"] == [-4.0, -3.0, -2.0]
    assert pong["best"] == {
        "runs": [11.0, 12.0, 13.0],
        "mean": 12.0,
        "median": 12.0,
        "human_normalized": human_normalized("Pong-v5", 12.0),
    }
    breakout = [human_normalized("Breakout-v5", 16.0 + seed) for seed in (1, 2, 3)]
    both = sorted([human_normalized("Pong-v5", -5.0 + seed) for seed in (1, 2, 3)] + breakout)
    value, low, high = data["methods"]["quick"]["aggregate"]["last"]["IQM"]
    assert value == pytest.approx(np.mean(both[1:-1]))
    assert both[0] < low < value < high < both[-1]


def test_runs_that_were_never_evaluated_are_scored_by_their_training(tmp_path):
    make_sweep(tmp_path / "s", evaluated=False)
    result = report([tmp_path / "s"])
    assert result.data["methods"]["quick"]["games"]["Pong-v5"]["last"]["runs"] == [-5.0, -4.0, -3.0]
    rules = "max_episode_frames 108000, noop_max 30, sticky_actions 0"
    assert f"mean return of the last 20 games of training, {rules}; 3,000 frames" in result.about[0]


def test_evaluations_that_only_confirm_an_end_are_no_scores(tmp_path):
    """Fault: one sweep with two kinds of scores, since a run that is never done has no evaluation."""
    sweep = make_sweep(tmp_path / "s", evaluated=False)
    row = {"frames": 2_000, "mean": 19.0, "protocol": "nature", "episodes": 30}
    (sweep.folder(sweep.runs[0]) / "evaluations.jsonl").write_text(json.dumps(row) + "\n")
    result = report([tmp_path / "s"])
    assert result.data["methods"]["quick"]["games"]["Pong-v5"]["last"]["runs"] == [-5.0, -4.0, -3.0]


def test_runs_of_other_games_are_not_compared(tmp_path):
    """`m-dqn` has sticky actions, `quick` no-ops."""
    make_sweep(tmp_path / "s", presets=("quick", "m-dqn"), evaluated=False)
    with pytest.raises(UserError, match=r"noop_max 1, sticky_actions 0\.25"):
        report([tmp_path / "s"])


def test_one_seed_has_no_interval(tmp_path):
    """Fault: one of no width, which looks like certainty."""
    make_sweep(tmp_path / "_s", seeds=1)
    make_sweep(tmp_path / "b$1$", seeds=1)
    result = report([tmp_path / "_s", tmp_path / "b$1$"])
    method = result.data["methods"]["_s: quick"]
    assert method["aggregate"]["last"]["IQM"][1:] == [None, None]
    for curve in (method["profile"], method["efficiency"]):
        assert (curve["low"], curve["high"]) == (None, None)
    axes = curves(result.data).axes
    assert [len(one.collections) for one in axes] == [0, 0]
    # Fault: a first `_` hides a label, two dollars make a formula of it.
    assert [line.get_label() for line in axes[0].get_lines()] == [" _s: quick", r"b\$1\$: quick"]
    aggregates(result.data)


def test_protocols_are_not_mixed_without_being_told(tmp_path):
    make_sweep(tmp_path / "a")
    make_sweep(tmp_path / "b", protocol="machado", better=3)
    make_sweep(tmp_path / "c", evaluated=False)
    with pytest.raises(UserError) as error:
        report([tmp_path / name for name in "abc"])
    said = str(error.value)
    assert "6 runs: evaluations while training, nature, 5 games; 3,000 frames" in said
    assert "6 runs: evaluations while training, machado" in said
    assert "`mix_protocols = True`" in said
    mixed = report([tmp_path / name for name in "abc"], mix_protocols=True)
    assert "(MIXED)" in mixed.about[0]
    assert list(mixed.data["methods"]) == ["a: quick", "b: quick", "c: quick"]


def test_improvement_between_two_sweeps(tmp_path):
    make_sweep(tmp_path / "a")
    make_sweep(tmp_path / "b", better=100)
    (one,) = report([tmp_path / "b", tmp_path / "a"]).data["improvement"]
    assert one == {"method": "b: quick", "over": "a: quick", "probability": 1.0, "low": 1.0, "high": 1.0}


def test_runs_that_ended_early_are_named(tmp_path):
    """Their last score is what they were stopped for."""
    sweep = make_sweep(tmp_path / "s", games=("Pong-v5",))
    assert report([tmp_path / "s"]).data["ended_early"] == []
    rows = sweep.folder(sweep.runs[1]) / "metrics.jsonl"
    rows.write_text("".join(line + "\n" for line in rows.read_text().splitlines()[:2]))
    result = report([tmp_path / "s"])
    assert result.data["ended_early"] == [f"s/{sweep.runs[1].name}"]
    assert any(line.startswith("ended before their frames") and "1 runs" in line for line in result.about)


def test_sweeps_of_one_name_are_two_methods_and_one_sweep_counts_once(tmp_path):
    for parent in ("a", "b"):
        (tmp_path / parent).mkdir()
        make_sweep(tmp_path / parent / "s")
    found = report([tmp_path / "a/s", tmp_path / "b/s"])
    assert list(found.methods) == [f"{tmp_path}/a/s: quick", f"{tmp_path}/b/s: quick"]
    with pytest.raises(UserError, match="a/s stands there twice"):
        report([tmp_path / "a/s", tmp_path / "b/../a/s"])


def test_presets_are_methods_and_what_has_not_ended_is_left_out(tmp_path):
    sweep = make_sweep(tmp_path / "s", presets=("quick", "rainbow"), seeds=2)
    (sweep.folder(sweep.runs[0]) / "summary.json").write_text('{"interrupted": true}')
    result = report([tmp_path / "s"])
    assert list(result.methods) == ["quick", "rainbow"]
    assert result.data["left_out"] == [f"s/{sweep.runs[0].name}"]
    assert "1 to 2 seeds each" in result.about[1]
    # One run of a game has no interval.
    assert result.data["methods"]["quick"]["aggregate"]["last"]["IQM"][1:] == [None, None]
    for run in sweep.runs:
        (sweep.folder(run) / "summary.json").unlink()
    with pytest.raises(UserError, match="no run has ended"):
        report([tmp_path / "s"])


def test_games_without_a_human_or_a_method_are_no_part_of_the_aggregates(tmp_path, monkeypatch):
    make_sweep(tmp_path / "a")
    make_sweep(tmp_path / "b", games=("Pong-v5", "Qbert-v5"))
    result = report([tmp_path / "a", tmp_path / "b"])
    assert result.data["games_in_aggregates"] == ["Pong-v5"]
    assert any("Breakout-v5, Qbert-v5" in line for line in result.about)
    monkeypatch.setattr("fastdqn.views.sweep_report.RANDOM_AND_HUMAN", {})
    alone = report([tmp_path / "a"])
    assert alone.data["improvement"] == []
    assert "No aggregates" in alone.markdown()


def test_the_sample_efficiency_curve_is_the_iqm_at_each_frame(tmp_path):
    make_sweep(tmp_path / "s")
    result = report([tmp_path / "s"])
    line = efficiency(result.methods["quick"], ["Pong-v5"])
    assert line
    assert (line["frames"][0], line["frames"][-1]) == (1_000.0, 3_000.0)
    assert line["IQM"][0] == pytest.approx(human_normalized("Pong-v5", -20.0))
    assert line["IQM"][-1] == pytest.approx(human_normalized("Pong-v5", -3.0))
    assert line["low"][-1] < line["IQM"][-1] < line["high"][-1]


def test_the_command_writes_tables_json_and_pictures(tmp_path, capsys):
    make_sweep(tmp_path / "s", presets=("quick", "rainbow"))
    assert main(["report", str(tmp_path / "s")]) == 0
    out = capsys.readouterr().out
    rows = re.findall(r"^\| (\S+) \| (\S+) \| 3 \| (\S+) \| (\S+) \|", out, re.MULTILINE)
    assert ("Pong-v5", "quick", "-3.0", "-3.0") in rows
    assert ("Breakout-v5", "rainbow", "19.0", "19.0") in rows
    names = {path.name for path in (tmp_path / "s/report").iterdir()}
    assert names == {"report.md", "report.json", "aggregates.png", "curves.png"}
    assert (tmp_path / "s/report/curves.png").read_bytes().startswith(b"\x89PNG")
    written = json.loads((tmp_path / "s/report/report.json").read_text())
    assert main(["report", str(tmp_path / "s"), "--json", "--out", str(tmp_path / "r")]) == 0
    assert json.loads(capsys.readouterr().out) == written
    assert "![curves](curves.png)" in (tmp_path / "r/report.md").read_text()


def test_the_pictures_show_the_figures(tmp_path):
    make_sweep(tmp_path / "s", presets=("quick", "rainbow"))
    data = report([tmp_path / "s"]).data
    profile, line = curves(data).axes
    assert [one.get_label() for one in profile.get_lines()] == ["quick", "rainbow"]
    assert profile.get_lines()[1].get_ydata().tolist() == data["methods"]["rainbow"]["profile"]["share"]
    assert line.get_lines()[0].get_ydata().tolist() == data["methods"]["quick"]["efficiency"]["IQM"]
    assert not line.texts
    for method in data["methods"].values():
        method["efficiency"] = None
    (told,) = curves(data).axes[1].texts
    assert "log_every_frames" in told.get_text()
    panels = aggregates(data).axes
    assert [axes.get_title(loc="left") for axes in panels] == ["IQM", "median", "mean", "optimality gap"]
    drawn = [value for one in panels[0].get_lines() for value in one.get_xdata()]
    assert set(data["methods"]["quick"]["aggregate"]["best"]["IQM"]) <= set(drawn)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "needs the folder of a sweep"),
        (["nowhere"], "nowhere is not a sweep"),
        (["."], "has no sweep.json"),
    ],
)
def test_mistakes_are_told(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert said in refused(capsys, "report", *words)


def test_a_damaged_file_is_named(tmp_path, capsys):
    sweep = make_sweep(tmp_path / "s")
    (sweep.folder(sweep.runs[0]) / "evaluations.jsonl").write_text('{"frames": "x"}\n')
    assert "evaluations.jsonl: frames = 'x': int is wanted" in refused(capsys, "report", str(tmp_path / "s"))
