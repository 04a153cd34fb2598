"""What the tests of the command line share."""

from __future__ import annotations

import signal
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastdqn.config import Config
from tests.cli.fakes import Evaluation, FakeTrainer, checks


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeTrainer:
    """A trainer without torch; runs go to a folder of the test."""
    monkeypatch.chdir(tmp_path)
    fake = FakeTrainer()
    for name, module in {"trainer": fake, "checks": checks()}.items():
        monkeypatch.setitem(sys.modules, f"fastdqn.runs.{name}", module)
        monkeypatch.setattr(f"fastdqn.runs.{name}", module, raising=False)
    return fake


@pytest.fixture
def evaluator(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    monkeypatch.chdir(tmp_path)
    calls: list[dict[str, Any]] = []

    def evaluate(
        run: Any, settings: Any, *, on_episode: Callable[[int, float], None], **call: Any
    ) -> Evaluation:
        calls.append({"run": run, **vars(settings), **call})
        on_episode(1, 19.0)
        on_episode(2, 21.0)
        return Evaluation()

    module = types.SimpleNamespace(evaluate=evaluate)
    monkeypatch.setitem(sys.modules, "fastdqn.runs.evaluation", module)
    monkeypatch.setattr("fastdqn.runs.evaluation", module, raising=False)
    Path("r").mkdir()
    Path("r/config.json").write_text(Config().to_json())
    return calls


@pytest.fixture(autouse=True)
def signals_are_heard() -> Iterator[None]:
    """Whoever runs the tests may ignore some: nohup does, and scripts for what they start with `&`."""
    usual = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
