"""`--config FILE`: between the preset and the flags."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fastdqn.cli import main
from fastdqn.presets import PRESETS
from tests.cli.fakes import FakeTrainer, refused

_TOML = """
preset = "nature"
seed = 5
learner.batch_size = 64
[replay]
alpha = 1
"""

_JSON = '{"preset": "nature", "seed": 5, "learner": {"batch_size": 64}, "replay.alpha": 1}'


@pytest.mark.parametrize(("name", "text"), [("c.toml", _TOML), ("c.json", _JSON)])
def test_the_preset_comes_first_the_file_over_it_and_flags_over_both(
    name: str, text: str, trainer: FakeTrainer
) -> None:
    Path(name).write_text(text)
    assert main(["train", "Breakout-v5", "--seed", "7", "--config", name]) == 0
    nature = PRESETS["nature"].config
    assert trainer.config == replace(
        nature,
        game="Breakout-v5",
        seed=7,
        learner=replace(nature.learner, batch_size=64),
        replay=replace(nature.replay, alpha=1.0),
    )


def test_a_runs_own_configuration_is_such_a_file(trainer: FakeTrainer) -> None:
    assert (
        main(["train", "Breakout-v5", "--run-dir", "a", "--preset", "nature", "--learner.gamma", "0.5"]) == 0
    )
    first = trainer.config
    assert main(["train", "--config", "a/config.json", "--run-dir", "b"]) == 0
    assert trainer.config == first


def test_what_a_preset_switches_on_a_flag_switches_off(trainer: FakeTrainer) -> None:
    assert PRESETS["quick"].config.confirm_stop
    assert main(["train", "Pong-v5", "--run-dir", "off", "--no-confirm-stop"]) == 0
    assert not trainer.config.confirm_stop
    assert main(["train", "Pong-v5", "--run-dir", "on", "--preset", "nature", "--confirm-stop"]) == 0
    assert trainer.config.confirm_stop


def test_a_file_without_a_preset_changes_the_flags_one(trainer: FakeTrainer) -> None:
    Path("c.toml").write_text('game = "Breakout-v5"\n[optimizer]\nmax_grad_norm = "none"\n')
    assert main(["train", "--config", "c.toml", "--preset", "dueling"]) == 0
    dueling = PRESETS["dueling"].config
    assert dueling.optimizer.max_grad_norm is not None
    optimizer = replace(dueling.optimizer, max_grad_norm=None)
    assert trainer.config == replace(dueling, game="Breakout-v5", optimizer=optimizer)


def test_a_file_names_a_game_or_the_command_line_does(
    trainer: FakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("c.json").write_text('{"seed": 3}')
    assert "train needs a game" in refused(capsys, "train", "--config", "c.json")


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        (
            "c.json",
            '{"learner": {"batch_sise": 3}}',
            "'learner.batch_sise'. Did you mean learner.batch_size?",
        ),
        ("c.toml", "[learner]\nbatch-size = 3", "Did you mean learner.batch_size?"),
        ("c.json", '{"learner": 3}', "learner = 3: an object is wanted"),
        (
            "c.toml",
            "learner.epsilon = 1\nreplay.priority_delay_launches = 2",
            "--config c.toml: it has names of an older fastdqn.\n"
            "  learner.epsilon is optimizer.epsilon now\n"
            "  replay.priority_delay_launches is pipeline.priority_lag_updates now, and it counts updates",
        ),
        ("c.json", '{"total_frames": "10M"}', "total_frames = '10M': int is wanted"),
        ("c.json", '{"learner": {"loss": "cross"}}', "must be one of huber, squared"),
        ("c.json", '{"seed": -3}', "seed = -3: must be a whole number from 0"),
        ("c.json", "[1]", "an object is wanted, not list"),
        ("c.json", "[1", "not JSON"),
        ("c.json", '{"a":' * 5_000 + "1" + "}" * 5_000, "nested too deeply"),
        ("c.toml", "a=" + "{a=" * 3_000 + "1" + "}" * 3_000, "nested too deeply"),
        ("c.toml", "seed = ", "Invalid value"),
        ("c.json", '{"preset": "natur"}', "there is no preset 'natur'. Did you mean nature?"),
        ("c.json", '{"preset": 3}', "there is no preset '3'"),
        ("c.yaml", "seed: 3", "must end in .json or .toml"),
        ("none.json", None, "there is no such file"),
        ("old", None, "Type: --config old/config.json"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(
    name: str, text: str | None, wanted: str, trainer: FakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("old").mkdir()
    Path("old/config.json").write_text("{}")
    if text is not None:
        Path(name).write_text(text)
    err = refused(capsys, "train", "Pong-v5", "--config", name)
    assert wanted in err
    assert not trainer.calls


def test_a_file_that_is_no_text_is_refused(trainer: FakeTrainer, capsys: pytest.CaptureFixture[str]) -> None:
    Path("c.toml").write_bytes(b"\xff\xfe\x00")
    assert "--config c.toml: " in refused(capsys, "train", "Pong-v5", "--config", "c.toml")


def test_a_preset_beside_a_file_that_names_another_is_refused(
    trainer: FakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("c.json").write_text('{"preset": "nature"}')
    err = refused(capsys, "train", "Pong-v5", "--config", "c.json", "--preset", "quick")
    assert "c.json says preset = 'nature'" in err
    assert "--config cannot be given" in refused(capsys, "train", "--resume", "old", "--config", "c.json")
    assert main(["train", "Pong-v5", "--config", "c.json", "--preset", "nature"]) == 0
