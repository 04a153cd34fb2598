"""TensorBoard events: the rows of the log, and after a resume no row twice. Speeds."""

from __future__ import annotations

import importlib.util
import json
from types import SimpleNamespace

import pytest

pytest.importorskip("torch")

from fastdqn.runs import metrics
from fastdqn.runs.metrics import JsonLines, JsonLinesAndEvents, open_rows


def row(frames: int, loss: float | None) -> dict:
    return {
        "frames": frames,
        "loss": loss,
        "returns": [1.0],
        "timing": {"fps_recent": 10.0, "phase_share": {}},
    }


def test_without_the_extra_there_are_rows_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    rows = open_rows(tmp_path / "metrics.jsonl")
    assert type(rows) is JsonLines
    rows.write(row(1, 0.5))
    rows.close()
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_events_are_the_rows_and_a_resumed_run_does_not_repeat_itself(tmp_path):
    """Fails when what was logged after the checkpoint stays among the events."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    path = tmp_path / "metrics.jsonl"
    for keep, frames in ((0, (100, 200, 300)), (200, (300, 400))):
        rows = open_rows(path, keep_frames=keep)
        assert type(rows) is JsonLinesAndEvents
        for one in frames:
            rows.write(row(one, None if one == 100 else one / 1_000 + keep))
        rows.close()
    events = EventAccumulator(str(tmp_path / "tensorboard" / "metrics"))
    events.Reload()
    assert sorted(events.Tags()["scalars"]) == ["fps_recent", "loss"]
    wanted = [(200, 0.2), (300, 200.3), (400, 200.4)]
    assert [(one.step, pytest.approx(one.value)) for one in events.Scalars("loss")] == wanted
    assert [json.loads(line)["frames"] for line in path.read_text().splitlines()] == [100, 200, 300, 400]


def test_events_go_on_where_the_folder_was_renamed_to(tmp_path):
    """Fails when TensorBoard makes the old folder anew, or writes nothing any more."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    rows = open_rows(old / "metrics.jsonl")
    rows.write(row(100, 0.5))
    old.rename(new)
    rows.move(new / "metrics.jsonl")
    rows.write(row(200, 0.25))
    rows.close()
    events = EventAccumulator(str(new / "tensorboard" / "metrics"))
    events.Reload()
    assert [(one.step, one.value) for one in events.Scalars("loss")] == [(100, 0.5), (200, 0.25)]
    assert [json.loads(line)["frames"] for line in (new / "metrics.jsonl").read_text().splitlines()] == [
        100,
        200,
    ]
    assert not old.exists()


def test_a_full_disk_costs_the_events_and_not_the_run(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    rows = metrics.JsonLinesAndEvents(tmp_path / "metrics.jsonl")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rows._events, "add_scalar", full)
    rows.write(row(100, 0.5))
    rows.close()
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["frames"] == 100


def test_an_evaluation_takes_nothing_from_the_speed_of_training(monkeypatch):
    """A hundred frames a second, and 40 s of evaluation in the middle; fails when speeds fall by them."""
    clock = SimpleNamespace(now=1_000.0)
    monkeypatch.setattr(metrics, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    speed, frames = metrics.Speed(0), 0

    def train(seconds: int) -> None:
        nonlocal frames
        for _ in range(seconds):
            clock.now, frames = clock.now + 1.0, frames + 100
            speed.mark(frames, {"learn": float(frames) / 100}, learning=True)

    train(20)
    with speed.pause():
        for _ in range(40):
            clock.now += 1.0
            speed.mark(frames, {"learn": float(frames) / 100}, learning=True)
            assert speed.recent == pytest.approx(100.0)
    train(3)
    assert speed.recent == pytest.approx(100.0)
    assert speed.final == pytest.approx(100.0)
    assert speed.phase_share == {"learn": pytest.approx(1.0)}
    assert speed.seconds == pytest.approx(63.0)
    assert speed.run == pytest.approx(2_300 / 63)
