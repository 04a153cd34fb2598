"""Weights & Biases and MLflow beside metrics.jsonl: the same rows, the configuration, the summary.

A tracker decides nothing in a run and ends none. It is started before the first step, where a mistake can be
reported; from then on it works in a thread of its own, so that a slow or dead server holds up no training, and
what it does not take is in metrics.jsonl.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Protocol

from fastdqn.errors import UserError
from fastdqn.json_files import checked, read_object, shown
from fastdqn.runs.folder import RunFolder, versions, write_text
from fastdqn.runs.metrics import scalars

Ending = Literal["finished", "stopped", "failed"]

FILE = "trackers.json"
"""In the folder of a run: the trackers that it was started with, and the name that each gave to it."""
PROJECT = "fastdqn"
"""W&B's project and MLflow's experiment where the environment names none."""
FINISH_SECONDS = 60.0
"""How long the end of a run waits for what is still on its way."""


class Client(Protocol):
    """A tracker's own client. All but `start` is called from one thread that is not the main one."""

    def start(self, run: RunFolder, known: Mapping[str, str]) -> Mapping[str, str]:
        """Begin to track a run, or go on where `known` is what this returned when it began.

        Raises:
            Exception: Whatever the package raises.
        """

    def log(self, values: Mapping[str, float], frames: int) -> None:
        """Send the values of one row."""

    def finish(self, summary: Mapping[str, Any], ending: Ending) -> None:
        """Send how the run ended, and wait until all is sent."""


class Tracker:
    """A client with its thread.

    Args:
        name: What it is called.
        client: It, started.
        say: Called with a line where it fails: once, however many rows follow.
    """

    def __init__(self, name: str, client: Client, say: Callable[[str], None]) -> None:
        self._name, self._client, self._say = name, client, say
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._failed = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def write(self, group: str, row: Mapping[str, Any]) -> None:
        """Send a row, named `group/...`; returns at once."""
        values = {f"{group}/{name}": value for name, value in scalars(row).items()}
        self._calls.put(lambda: self._client.log(values, row["frames"]))

    def finish(self, summary: Mapping[str, Any], ending: Ending) -> None:
        """Send how the run ended, and wait for all that is on its way, a minute at most."""
        self._calls.put(lambda: self._client.finish(summary, ending))
        self._calls.put(None)
        self._thread.join(FINISH_SECONDS)
        if self._thread.is_alive():
            self._say(
                f"{self._name} has not taken everything within {FINISH_SECONDS:.0f} s; metrics.jsonl has it"
            )

    def _work(self) -> None:
        for call in iter(self._calls.get, None):
            try:
                call()
            except Exception as error:
                if not self._failed:
                    self._failed = True
                    self._say(f"{self._name} does not take everything ({_line(error)}); metrics.jsonl has it")


class Trackers:
    """The trackers of a run.

    Args:
        trackers: They.
    """

    def __init__(self, trackers: Sequence[Tracker] = ()) -> None:
        self._trackers = trackers

    def write(self, group: str, row: Mapping[str, Any]) -> None:
        """Send a row to all, named `group/...`; returns at once."""
        for tracker in self._trackers:
            tracker.write(group, row)

    def finish(self, summary: Mapping[str, Any], ending: Ending) -> None:
        """End all; a second time does nothing."""
        trackers, self._trackers = self._trackers, ()
        for tracker in trackers:
            tracker.finish(summary, ending)


def check(names: Sequence[str]) -> None:
    """Raise where a tracker could not be started, as far as that can be seen without a server.

    Raises:
        UserError: A name is not known, its package is not installed, or W&B has no key.
    """
    for name in names:
        if name not in _CLIENTS:
            raise UserError(f"trackers = {name!r}: must be one of {', '.join(_CLIENTS)}")
        if importlib.util.find_spec(name) is None:
            raise UserError(f'{name} is not installed.\n  Type: pip install "fastdqn[{name}]"')
    if "wandb" in names:
        _check_key()


def start(
    run: RunFolder, names: Sequence[str], say: Callable[[str], None], *, resuming: bool = False
) -> Trackers:
    """Start the trackers of a new run, or those that a run was started with before.

    Args:
        run: The run.
        names: The trackers of a new run.
        say: Called with lines for people.
        resuming: The run goes on: with the trackers that it had, under the names that they gave to it; one that
            cannot be started is reported and left out.

    Raises:
        UserError: A tracker of a new run cannot be started, or trackers.json cannot be read.
    """
    path = run.path / FILE
    known = _read(path) if resuming else {name: {} for name in names}
    started: list[Tracker] = []
    for name, its in known.items():
        client = _CLIENTS[name]()
        try:
            check([name])
            known[name] = client.start(run, its)
        except Exception as error:
            if not resuming:
                raise (
                    error if isinstance(error, UserError) else UserError(_not_started(name, error))
                ) from error
            say(
                f"{_line(error) if isinstance(error, UserError) else _not_started(name, error)}; going on without"
            )
            continue
        started.append(Tracker(name, client, say))
    if known:
        write_text(path, json.dumps(known, indent=2) + "\n")
    return Trackers(started)


def _read(path: Path) -> dict[str, Mapping[str, str]]:
    """Read trackers.json: an object of objects of strings."""
    if not path.exists():
        return {}
    try:
        known: dict[str, Mapping[str, str]] = checked(
            read_object(path), dict[str, dict[str, str]], "the trackers"
        )
        for name in known:
            if name not in _CLIENTS:
                raise ValueError(f"{shown(name)}: must be one of {', '.join(_CLIENTS)}")
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read: {error}. Remove it to go on without trackers.") from None
    return known


def _not_started(name: str, error: Exception) -> str:
    return f"{name} cannot be started: {_line(error)}"


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


class _Wandb:
    """Weights & Biases. The project, the key and the mode (WANDB_MODE=offline) are the environment's."""

    def start(self, run: RunFolder, known: Mapping[str, str]) -> Mapping[str, str]:
        wandb: Any = importlib.import_module("wandb")
        config = run.config
        self._run = wandb.init(
            project=known.get("project") or os.environ.get("WANDB_PROJECT", PROJECT),
            entity=known.get("entity") or None,
            id=known.get("id"),
            resume="allow",
            name=run.path.name,
            config={**asdict(config), "versions": dict(versions())},
            tags=[config.game, config.preset],
            # The terminal is the dashboard's, and the end of a run is not to hang on a dead network.
            settings=wandb.Settings(console="off", silent=True, finish_timeout=FINISH_SECONDS),
        )
        self._run.define_metric("*", step_metric="frames")
        found = {"id": self._run.id, "project": self._run.project, "entity": self._run.entity}
        return {name: value for name, value in found.items() if value}

    def log(self, values: Mapping[str, float], frames: int) -> None:
        self._run.log({"frames": frames, **values})

    def finish(self, summary: Mapping[str, Any], ending: Ending) -> None:
        self._run.summary.update({f"summary/{name}": value for name, value in summary.items()})
        self._run.finish(exit_code={"finished": 0, "stopped": 255, "failed": 1}[ending])


def _check_key() -> None:
    """Raise where W&B would prompt for a key in the middle of a dashboard."""
    wandb: Any = importlib.import_module("wandb")
    if wandb.setup().settings.mode != "online" or wandb.login(prompt=False, verify=False):
        return
    raise UserError(
        "wandb has no key.\n  Type: wandb login\n"
        "  Or keep the run on this disk with WANDB_MODE=offline, for `wandb sync` to send."
    )


class _MLflow:
    """MLflow. MLFLOW_TRACKING_URI names the server, MLFLOW_EXPERIMENT_NAME the experiment."""

    def start(self, run: RunFolder, known: Mapping[str, str]) -> Mapping[str, str]:
        for logger in ("mlflow", "alembic"):  # they report a database on stderr, the dashboard's
            logging.getLogger(logger).setLevel(logging.WARNING)
        mlflow: Any = importlib.import_module("mlflow")
        self._entities: Any = importlib.import_module("mlflow.entities")
        self._client = mlflow.MlflowClient()
        if "run_id" in known:
            self._id = known["run_id"]
            self._client.update_run(self._id, status="RUNNING")
            return known
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._client.create_experiment(name)
        tags = {f"versions.{package}": str(version) for package, version in versions().items()}
        self._id = self._client.create_run(number, run_name=run.path.name, tags=tags).info.run_id
        params = [self._entities.Param(name, str(value)) for name, value in run.config.flat().items()]
        self._client.log_batch(self._id, params=params)
        return {"run_id": self._id}

    def log(self, values: Mapping[str, float], frames: int) -> None:
        now = int(time.time() * 1_000)
        metrics = [self._entities.Metric(name, value, now, frames) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def finish(self, summary: Mapping[str, Any], ending: Ending) -> None:
        tags = [self._entities.RunTag(f"summary.{name}", str(value)) for name, value in summary.items()]
        self._client.log_batch(self._id, tags=tags)
        status = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}[ending]
        self._client.set_terminated(self._id, status=status)


_CLIENTS: dict[str, type[_Wandb] | type[_MLflow]] = {"wandb": _Wandb, "mlflow": _MLflow}
