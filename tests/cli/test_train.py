"""`fastdqn train`: what of the command line reaches the trainer, and what is done with the run's folder."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest

from fastdqn.cli import main
from fastdqn.cli.arguments import flags_of
from fastdqn.cli.train import TrainArguments
from fastdqn.config import Config
from fastdqn.errors import UserError
from fastdqn.presets import PRESETS
from fastdqn.runs.machine import with_precision
from tests.cli.fakes import FakeTrainer, refused


def test_the_preset_is_chosen_first_and_flags_change_it(trainer: FakeTrainer) -> None:
    words = [
        "--learner.batch-size",
        "64",
        "Breakout-v5",
        "--seed=7",
        "--total-frames",
        "10M",
        "--preset",
        "nature",
    ]
    assert main(["train", *words, "--env.life-loss", "ignore", "--optimizer.max_grad_norm", "10"]) == 0
    config, nature = trainer.config, PRESETS["nature"].config
    assert (config.game, config.preset, config.seed, config.total_frames) == (
        "Breakout-v5",
        "nature",
        7,
        10_000_000,
    )
    assert config.learner.batch_size == 64
    assert config.optimizer.max_grad_norm == 10.0
    assert config.env.life_loss == "ignore"
    assert config.optimizer.name == nature.optimizer.name
    assert config.replay == nature.replay


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_without_flags_is_the_preset(preset: str, trainer: FakeTrainer) -> None:
    assert main(["train", "Pong-v5", "--preset", preset]) == 0
    assert trainer.config == with_precision(PRESETS[preset].config)


def test_the_default_preset_is_quick(trainer: FakeTrainer) -> None:
    main(["train", "Pong-v5"])
    assert trainer.config == with_precision(PRESETS["quick"].config)


def test_none_can_be_written(trainer: FakeTrainer) -> None:
    main(["train", "Pong-v5", "--preset", "dueling", "--optimizer.max-grad-norm", "none"])
    assert trainer.config.optimizer.max_grad_norm is None


@pytest.mark.parametrize("flag", ["--exploration-max", "--exploration.max", "--exploration_max"])
def test_weights_and_the_exploration_maximum(flag: str, trainer: FakeTrainer, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_text("weights")
    assert main(["train", "Pong-v5", "--weights", "w.safetensors", flag, "0.1"]) == 0
    assert trainer.config.exploration.max == 0.1
    assert trainer.calls[0]["weights"] == Path("w.safetensors")
    assert trainer.calls[0]["resume"] is False


def test_the_frames_between_evaluations_have_a_short_name(trainer: FakeTrainer) -> None:
    assert main(["train", "Pong-v5", "--evaluate-every-frames", "1M", "--progress", "none"]) == 0
    assert trainer.config.evaluation.every_frames == 1_000_000


def test_every_field_of_the_config_has_a_flag() -> None:
    def leaves(value: dict[str, Any], prefix: str = "--") -> list[str]:
        found = []
        for name, inner in value.items():
            flag = prefix + name.replace("_", "-")
            found += leaves(inner, f"{flag}.") if isinstance(inner, dict) else [flag]
        return found

    assert set(leaves(asdict(Config()))) <= set(flags_of(TrainArguments))
    assert {field.name for field in fields(Config)} <= {field.name for field in fields(TrainArguments)}


def test_a_run_folder_that_exists_is_refused(
    trainer: FakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["train", "Pong-v5", "--run-dir", "r"])
    capsys.readouterr()
    err = refused(capsys, "train", "Pong-v5", "--run-dir", "r")
    assert "--resume r" in err
    assert main(["train", "Pong-v5", "--run-dir", "r", "--overwrite"]) == 0


@pytest.mark.parametrize("words", [["--resume", "r"], ["Pong-v5", "--run-dir", "r", "--overwrite"]])
def test_a_run_that_is_being_trained_is_refused_in_one_line(
    words: list[str], trainer: FakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    def again(call: dict[str, Any]) -> None:
        capsys.readouterr()  # what the first one has said
        err = refused(capsys, "train", *words)
        assert err.count("\n") == 1
        assert f"r is being trained by process {os.getpid()} on" in err

    trainer.during = again
    assert main(["train", "Pong-v5", "--run-dir", "r"]) == 0
    trainer.during = lambda call: None
    assert main(["train", *words]) == 0


def test_overwrite_keeps_the_old_run_when_the_new_one_cannot_start(
    trainer: FakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["train", "Pong-v5", "--run-dir", "r", "--seed", "5"])
    capsys.readouterr()
    Path("bad.safetensors").touch()
    words = ["train", "Pong-v5", "--run-dir", "r", "--overwrite", "--weights", "bad.safetensors"]
    assert "bad.safetensors is cut short" in refused(capsys, *words)
    assert json.loads(Path("r/config.json").read_text())["seed"] == 5


def test_resume_takes_the_runs_own_configuration(trainer: FakeTrainer) -> None:
    main(["train", "Seaquest-v5", "--preset", "double", "--seed", "5", "--run-dir", "r"])
    assert main(["train", "--resume", "r", "--progress", "none"]) == 0
    first, second = trainer.calls
    assert second["resume"] is True
    assert second["run"].config == first["run"].config


def test_resume_can_make_a_run_longer_and_the_run_remembers(trainer: FakeTrainer) -> None:
    main(["train", "Pong-v5", "--run-dir", "r", "--total-frames", "1M"])
    assert main(["train", "--resume", "r", "--total-frames", "2M"]) == 0
    assert trainer.config.total_frames == 2_000_000
    main(["train", "--resume", "r"])
    assert trainer.config.total_frames == 2_000_000


def test_resume_refuses_a_bad_length_and_keeps_the_configuration(
    trainer: FakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["train", "Pong-v5", "--run-dir", "r", "--total-frames", "1M"])
    capsys.readouterr()
    assert "--total-frames 0: must be" in refused(capsys, "train", "--resume", "r", "--total-frames", "0")
    assert json.loads(Path("r/config.json").read_text())["total_frames"] == 1_000_000


@pytest.mark.parametrize(
    "words",
    [
        ["Pong-v5"],
        ["--seed", "3"],
        ["--learner.batch-size", "8"],
        ["--weights", "x"],
        ["--preset", "quick"],
        ["--overwrite"],
    ],
)
def test_resume_takes_nothing_else(
    words: list[str], trainer: FakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    err = refused(capsys, "train", "--resume", "r", *words)
    assert words[0] in err
    assert "fastdqn train --resume r" in err
    assert not trainer.calls


def test_inexact_goes_with_resume_alone(trainer: FakeTrainer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "Pong-v5", "--run-dir", "r", "--progress", "none"]) == 0
    assert main(["train", "--resume", "r", "--inexact", "--progress", "none"]) == 0
    assert [call["inexact"] for call in trainer.calls] == [False, True]
    capsys.readouterr()
    assert "--resume RUN --inexact" in refused(capsys, "train", "Pong-v5", "--inexact")


def test_resume_of_nothing(trainer: FakeTrainer, capsys: pytest.CaptureFixture[str]) -> None:
    assert "does not exist" in refused(capsys, "train", "--resume", "nowhere")


def test_trackers_are_handed_on_and_refused_before_a_run_is_replaced(
    trainer: FakeTrainer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []
    monkeypatch.setattr("fastdqn.runs.trackers.check", asked.append)
    words = ["train", "Pong-v5", "--run-dir", "r", "--trackers"]
    assert main([*words, "wandb,mlflow", "--seed", "7"]) == 0
    assert asked == [["wandb", "mlflow"]] == [trainer.calls[-1]["track"]]

    def refuse(names: list[str]) -> None:
        raise UserError(f"{names[0]} is not installed.")

    monkeypatch.setattr("fastdqn.runs.trackers.check", refuse)
    capsys.readouterr()
    assert "wandb is not installed" in refused(capsys, *words, "wandb", "--overwrite")
    assert json.loads(Path("r/config.json").read_text())["seed"] == 7
    assert len(trainer.calls) == 1
