"""W&B and MLflow: the real packages without a network hold the rows, and nothing that they do ends a run."""

from __future__ import annotations

import json
import shutil
import struct
import threading
from dataclasses import asdict, replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("envpool")

from fastdqn.config import EvaluationConfig
from fastdqn.errors import UserError
from fastdqn.runs import trackers
from fastdqn.runs.folder import RunFolder, versions
from fastdqn.runs.metrics import JsonLines
from fastdqn.runs.trackers import Tracker
from fastdqn.runs.trainer import train
from tests.runs.test_resume import tiny


class Client:
    """A tracker in memory, which fails or waits when it is told to."""

    def __init__(self, fails: bool = False, waits_for: threading.Event | None = None) -> None:
        self.fails, self.waits_for = fails, waits_for
        self.rows: list[tuple[dict, int]] = []
        self.ended: list[tuple[dict, str]] = []

    def start(self, run, known):
        if self.fails:
            raise ConnectionError("no route\nto host")
        return {"id": known.get("id", "new")}

    def log(self, values, frames):
        if self.waits_for:
            self.waits_for.wait(60)
        if self.fails:
            raise ConnectionError("no route\nto host")
        self.rows.append((dict(values), frames))

    def finish(self, summary, ending):
        self.ended.append((dict(summary), ending))


def stop_after(passes: int):
    left = iter(range(10**9))
    return lambda: next(left) >= passes


def sent_to_wandb(path: Path) -> list:
    """Read W&B's file: blocks of 32 KiB, in them pieces (checksum, length, kind: whole, first, middle, last)."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, record, records = path.read_bytes(), 7, b"", []
    while at < len(data):
        if (room := 32_768 - at % 32_768) < 7:
            at += room
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            records.append(Record.FromString(record))
            record = b""
    return records


def history_of(record) -> dict:
    """Return the values of a row that W&B holds."""
    items = record.history.item
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def memory(monkeypatch) -> Client:
    """A tracker `wandb` that is in memory."""
    client = Client()
    monkeypatch.setitem(trackers._CLIENTS, "wandb", lambda: client)
    monkeypatch.setattr(trackers, "check", lambda names: None)
    return client


@pytest.mark.long
def test_rows_evaluations_and_the_end_are_sent_once_though_the_run_was_resumed(memory, tmp_path):
    """What came after a checkpoint is lost, as after a kill: it is computed again, and not sent again."""
    evaluation = EvaluationConfig(every_frames=1_500, episodes=1, max_episode_frames=400)
    run = RunFolder.create(tmp_path / "r", tiny(total_frames=4_000, evaluation=evaluation))
    train(run, track=["wandb"], stop_requested=stop_after(100))
    shutil.copytree(run.checkpoints, tmp_path / "saved")
    train(RunFolder.open(run.path), resume=True, stop_requested=stop_after(200))
    shutil.rmtree(run.checkpoints)
    (tmp_path / "saved").rename(run.checkpoints)
    summary = train(RunFolder.open(run.path), resume=True)
    assert [ending for _, ending in memory.ended] == ["stopped", "stopped", "finished"]
    assert memory.ended[-1][0] == summary.row()
    for group, name in (("metrics", "epsilon"), ("evaluations", "mean")):
        sent = [(frames, row[f"{group}/{name}"]) for row, frames in memory.rows if f"{group}/{name}" in row]
        assert sent == [(row["frames"], row[name]) for row in rows_of(run.path / f"{group}.jsonl")]
        assert len(sent) > 1
    timing = rows_of(run.metrics)[-1]["timing"]
    assert [row["metrics/fps_run"] for row, _ in memory.rows if "metrics/fps_run" in row][-1] == timing[
        "fps_run"
    ]


def test_rows_that_were_dropped_from_a_file_are_not_told_again(tmp_path):
    path, told = tmp_path / "metrics.jsonl", []
    path.write_text('{"frames": 1}\n{"frames": 2}\n{"frames": 3}\n{"fra')
    rows = JsonLines(path, keep_frames=1, also=told.append)
    for frames in (2, 3, 4):
        rows.write({"frames": frames})
    rows.close()
    assert told == [{"frames": 4}]
    assert [row["frames"] for row in rows_of(path)] == [1, 2, 3, 4]


def test_a_tracker_that_fails_is_told_of_once_and_ends_no_run(memory, tmp_path):
    said: list[str] = []
    memory.start = lambda run, known: {}
    memory.fails = True
    run = RunFolder.create(tmp_path / "r", tiny(total_frames=1_600))
    assert train(run, track=["wandb"], say=said.append).frames >= 1_600
    assert [line for line in said if "wandb" in line] == [
        "wandb does not take everything (no route); metrics.jsonl has it"
    ]
    assert memory.ended[0][1] == "finished"
    RunFolder.create(run.path, run.config, overwrite=True)
    assert not (run.path / trackers.FILE).exists()


def test_a_server_that_does_not_answer_holds_up_nothing(monkeypatch):
    """Fails when a row, or the end of a run, waits for a server."""
    monkeypatch.setattr(trackers, "FINISH_SECONDS", 0.05)
    answers, said = threading.Event(), []
    client = Client(waits_for=answers)
    tracker = Tracker("wandb", client, said.append)
    for frames in range(100):
        tracker.write("metrics", {"frames": frames, "loss": 1.0})
    tracker.finish({}, "finished")
    assert client.rows == []
    assert len(said) == 1
    assert "wandb has not taken everything" in said[0]
    answers.set()
    tracker._thread.join(60)
    assert client.rows == [({"metrics/loss": 1.0}, frames) for frames in range(100)]
    assert client.ended == [({}, "finished")]


def test_a_new_run_is_refused_where_its_tracker_does_not_start_and_an_old_one_goes_on(memory, tmp_path):
    run = RunFolder.create(tmp_path / "r", tiny(total_frames=1_600))
    memory.fails = True
    with pytest.raises(UserError, match=r"^wandb cannot be started: no route$"):
        train(run, track=["wandb"])
    memory.fails = False
    train(run, track=["wandb"], stop_requested=stop_after(100))
    known = json.loads((run.path / trackers.FILE).read_text())
    assert known == {"wandb": {"id": "new"}}
    memory.fails, said = True, []
    assert train(RunFolder.open(run.path), resume=True, say=said.append).frames >= 1_600
    assert "wandb cannot be started: no route; going on without" in said
    assert json.loads((run.path / trackers.FILE).read_text()) == known


def test_a_run_that_fails_is_ended_as_failed(memory, tmp_path):
    config = tiny(total_frames=3_000)
    config = replace(
        config,
        learner=replace(config.learner, loss="squared"),
        optimizer=replace(config.optimizer, learning_rate=1e30),
    )
    with pytest.raises(Exception, match="not finite"):
        train(RunFolder.create(tmp_path / "r", config), track=["wandb"])
    assert [ending for _, ending in memory.ended] == ["failed"]


@pytest.mark.parametrize(
    "text", ["[]", "3", '{"wandb": 3}', '{"comet": {}}', '{"wandb": {"id": 3}}', "{", "\x00", "[" * 100_000]
)
def test_a_bad_trackers_file_is_refused(text, memory, tmp_path):
    run = RunFolder.create(tmp_path / "r", tiny())
    (run.path / trackers.FILE).write_text(text)
    with pytest.raises(UserError, match=r"trackers\.json cannot be read.*Remove it"):
        trackers.start(run, [], print, resuming=True)


def test_what_is_missing_is_named(monkeypatch):
    with pytest.raises(UserError, match="'comet': must be one of wandb, mlflow"):
        trackers.check(["comet"])
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'mlflow is not installed.\n  Type: pip install "fastdqn\[mlflow\]"'):
        trackers.check(["mlflow"])


def test_wandb_without_a_key_is_refused_and_not_asked_for(monkeypatch, tmp_path):
    wandb = pytest.importorskip("wandb", reason='needs pip install "fastdqn[wandb]"')
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    wandb.teardown()
    try:
        with pytest.raises(UserError, match=r"(?s)wandb has no key.*wandb login.*WANDB_MODE=offline"):
            trackers.check(["wandb"])
        monkeypatch.setenv("WANDB_MODE", "offline")
        wandb.teardown()
        trackers.check(["wandb"])
    finally:
        wandb.teardown()


@pytest.mark.long
def test_mlflow_holds_the_rows_the_configuration_and_the_end(tmp_path, monkeypatch):
    """The real package on a database of its own: a run that is stopped and resumed is one run there."""
    mlflow = pytest.importorskip("mlflow", reason='needs pip install "fastdqn[mlflow]"')
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "atari")
    mlflow.set_tracking_uri(None)
    config = tiny(total_frames=3_200)
    run = RunFolder.create(tmp_path / "r", config)
    train(run, track=["mlflow"], stop_requested=stop_after(200))
    client = mlflow.MlflowClient()
    run_id = json.loads((run.path / trackers.FILE).read_text())["mlflow"]["run_id"]
    assert client.get_run(run_id).info.status == "KILLED"
    summary = train(RunFolder.open(run.path), resume=True)
    found = client.get_run(run_id)
    assert [one.info.run_id for one in client.search_runs([found.info.experiment_id])] == [run_id]
    assert client.get_experiment(found.info.experiment_id).name == "atari"
    assert (found.info.status, found.info.run_name) == ("FINISHED", "r")
    assert found.data.params == {name: str(value) for name, value in config.flat().items()}
    assert found.data.params["learner.gamma"] == str(config.learner.gamma)
    assert found.data.tags["versions.torch"] == torch.__version__
    assert found.data.tags["summary.frames"] == str(summary.frames)
    written = [(row["frames"], row["epsilon"]) for row in rows_of(run.metrics)]
    assert [(one.step, one.value) for one in client.get_metric_history(run_id, "metrics/epsilon")] == written


@pytest.mark.long
def test_wandb_holds_the_rows_the_configuration_and_the_end(tmp_path, monkeypatch):
    """The real package without a network: what `wandb sync` would send, of one run though it was resumed."""
    wandb = pytest.importorskip("wandb", reason='needs pip install "fastdqn[wandb]"')
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_PROJECT", "atari")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    wandb.teardown()
    config = tiny(total_frames=3_200)
    run = RunFolder.create(tmp_path / "r", config)
    train(run, track=["wandb"], stop_requested=stop_after(200))
    summary = train(RunFolder.open(run.path), resume=True)
    wandb.teardown()
    known = json.loads((run.path / trackers.FILE).read_text())["wandb"]
    files = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert [file.name for file in files] == [f"run-{known['id']}.wandb"] * 2
    records = [record for file in files for record in sent_to_wandb(file)]
    begun = next(record for record in records if record.WhichOneof("record_type") == "run")
    assert known["project"] == "atari"
    told = {one.key: json.loads(one.value_json) for one in begun.run.config.update}
    assert {name: told[name] for name in asdict(config)} == json.loads(json.dumps(asdict(config)))
    assert told["versions"] == dict(versions())
    written = [(row["frames"], row["epsilon"]) for row in rows_of(run.metrics)]
    rows = [history_of(record) for record in records if record.WhichOneof("record_type") == "history"]
    assert [(row["frames"], row["metrics/epsilon"]) for row in rows] == written
    last = {}
    for record in records:
        last |= {one.key: one.value_json for one in record.summary.update}
    assert json.loads(last["summary/frames"]) == summary.frames
    assert [one.exit.exit_code for one in records if one.WhichOneof("record_type") == "exit"] == [255, 0]
