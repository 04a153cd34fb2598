"""Stand-ins for what takes seconds or a network, and how the tests of the command line talk to it."""

from __future__ import annotations

import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from fastdqn.cli import main
from fastdqn.config import Config
from fastdqn.errors import UserError
from tests.views.test_dashboard import LATE


@dataclass(frozen=True)
class Summary:
    """What the trainer returns."""

    frames: int = 1000
    frames_per_second: float = 500.0
    updates: int = 10
    episodes: int = 2
    mean_return_20: float | None = -20.5
    seconds: float = 2.0
    run: str = ""
    interrupted: bool = False

    def row(self) -> dict[str, Any]:
        return asdict(self)


class FakeTrainer:
    """Stands where torch and the emulator are; keeps what it was asked for."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.during: Callable[[dict[str, Any]], None] = lambda call: None
        self.stopped = False

    def train(
        self, run: Any, checked: Any = None, *, resume: bool = False, inexact: bool = False, **call: Any
    ) -> Summary:
        call |= {"run": run, "weights": checked.weights, "resume": resume, "inexact": inexact}
        self.calls.append(call)
        try:
            call["say"]("compiling")
            call["report"](LATE)
            self.during(call)
            self.stopped = call["stop_requested"]()
        finally:
            run.unlock()
        return Summary(run=str(run.path), interrupted=self.stopped)

    @property
    def config(self) -> Config:
        config = self.calls[-1]["run"].config
        assert isinstance(config, Config)
        return config


def check(config: Config, weights: Path | None = None) -> types.SimpleNamespace:
    """Stands for the checks that need torch or the emulator."""
    problems = config.validate()
    if weights and weights.stat().st_size == 0:
        problems.append(f"{weights} is cut short")
    if problems:
        raise UserError("\n".join(problems))
    return types.SimpleNamespace(config=config, weights=weights)


def checks() -> types.SimpleNamespace:
    """Stands for `fastdqn.runs.checks`."""
    none = dict.fromkeys(("check_compiler", "check_goes_on"), lambda *of: None)
    return types.SimpleNamespace(check=check, **none)


@dataclass(frozen=True)
class Evaluation:
    """What the evaluation returns."""

    game: str = "Pong-v5"
    episodes: int = 2
    epsilon: float = 0.05
    seed: int = 0
    protocol: str = "nature"

    def row(self) -> dict[str, Any]:
        scores = {
            "human_normalized": 1.153,
            "mean": 20.0,
            "median": 20.0,
            "std": 1.0,
            "min": 19.0,
            "max": 21.0,
            "returns": [19.0, 21.0],
        }
        return {**asdict(self), "weights": "r/online.safetensors", **scores}


def refused(capsys: pytest.CaptureFixture[str], *words: str, code: int = 2) -> str:
    """Run a command line that must fail, and return what stderr got."""
    assert main(words) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert err.startswith("fastdqn")
    return err


def python(code: str, *, cwd: Path | None = None, **streams: Any) -> subprocess.CompletedProcess[str]:
    streams = streams or {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.run([sys.executable, "-c", code], text=True, cwd=cwd, timeout=60, **streams)


def raising(error: BaseException) -> Callable[[Any], None]:
    def during(_: Any) -> None:
        raise error

    return during


FAKE_TRAINER = """
import sys, time, types
import fastdqn.runs
from tests.cli.fakes import FakeTrainer, checks
fake = FakeTrainer()
for name, module in {"trainer": fake, "checks": checks()}.items():
    sys.modules["fastdqn.runs." + name] = module
    setattr(fastdqn.runs, name, module)
from fastdqn.cli import main
"""
"""Puts a trainer without torch into a process of its own."""
