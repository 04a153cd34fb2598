"""`fastdqn evaluate`: what reaches the evaluation, and how its scores are shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fastdqn.cli import main
from tests.cli.fakes import Evaluation, refused


def test_evaluate_as_json(evaluator: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "r", "--episodes", "2", "--epsilon", "0.01", "--seed", "3", "--json"]) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 1
    assert json.loads(out) == Evaluation().row()
    assert "game 2: 21" in err
    call = evaluator[0]
    assert (call["episodes"], call["epsilon"], call["seed"], call["run"].path) == (2, 0.01, 3, Path("r"))


def test_evaluate_as_a_table(evaluator: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "r"]) == 0
    out = capsys.readouterr().out
    assert "Pong-v5: 2 games, epsilon 0.05, seed 0" in out
    assert ["mean", "20.0"] in [line.split() for line in out.splitlines()]
    assert "human       115.3%" in out
    assert "Wang et al. 2016" in out
    call = evaluator[0]
    assert (call["which"], call["protocol"], call["episodes"], call["epsilon"]) == ("last", None, None, None)


def test_evaluate_takes_a_checkpoint_and_a_protocol(evaluator: list[dict[str, Any]]) -> None:
    assert main(["evaluate", "r", "--checkpoint", "1.2M", "--protocol", "machado", "--noop-max", "3"]) == 0
    assert main(["evaluate", "r", "--checkpoint", "best", "--sticky-actions", "0.5"]) == 0
    assert [call["which"] for call in evaluator] == [1_200_000, "best"]
    assert [call["protocol"] for call in evaluator] == ["machado", None]
    assert (evaluator[0]["noop_max"], evaluator[1]["sticky_actions"]) == (3, 0.5)


def test_evaluate_refuses_a_checkpoint_that_is_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    assert "last, best or a number of frames" in refused(capsys, "evaluate", "r", "--checkpoint", "newest")
