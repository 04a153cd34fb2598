"""What is answered to words that are not ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fastdqn.cli import mistakes
from fastdqn.cli.arguments import flags_of
from fastdqn.cli.flags import ALIASES
from fastdqn.cli.train import TrainArguments
from fastdqn.config import MOVED, Config
from tests.cli.fakes import FakeTrainer, refused


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (
            "trian",
            [
                "'trian'",
                "Did you mean train?",
                "evaluate, record, plot, report, export, games, presets, info",
            ],
        ),
        ("test RUN --json", ["fastdqn evaluate RUN --json"]),
        ("resume RUN", ["fastdqn train --resume RUN"]),
        ("Pong-v5 --seed 3", ["fastdqn train Pong-v5 --seed 3"]),
        ("--seed 3", ["fastdqn train GAME --seed 3"]),
        ("train", ["needs a game", "fastdqn train Pong-v5"]),
        ("train Pong-v5 Breakout-v5", ["'Breakout-v5' is a word too many"]),
        (
            "train Pong-v5 --preset natur",
            ["'natur'", "Did you mean nature?", "quick, quick-rainbow, nature, double, dueling"],
        ),
        (
            "train Pong-v5 --preset agent57",
            ["'agent57'", "quick, quick-rainbow, nature, double, dueling", "fastdqn presets"],
        ),
        ("train Pong-v5 --totalframes 3", ["--totalframes", "Did you mean --total-frames?"]),
        ("train Pong-v5 --learner.batchsize 3", ["Did you mean --learner.batch-size?"]),
        ("train Pong-v5 --xyzzy", ["no flag --xyzzy", "--help"]),
        ("train Pong-v5 -n 3", ["no flag -n"]),
        ("train Pong-v5 --seed", ["--seed stands without a value"]),
        ("train Pong-v5 --seed --overwrite", ["--seed stands without a value"]),
        ("train Pong-v5 --seed=", ["--seed", "a whole number is wanted"]),
        ("train Pong-v5 --seed 1.5", ["--seed 1.5", "a whole number is wanted", "10M"]),
        ("train Pong-v5 --total-frames 10X", ["--total-frames 10X", "a whole number is wanted"]),
        ("train Pong-v5 --learner.gamma much", ["--learner.gamma much", "a number is wanted"]),
        (
            "train Pong-v5 --optimizer.max-grad-norm no",
            ["--optimizer.max-grad-norm no", "a number is wanted"],
        ),
        ("train Pong-v5 --optimizer.name adm", ["adam, rmsprop, adagrad", "did you mean adam?"]),
        ("train Pong-v5 --progress loud", ["auto, live, plain, json, none"]),
        ("train Pong-v5 --stop-at-return soon", ["--stop-at-return soon", "a number", "auto", "none"]),
        ("train Pong-v5 --stop-at-return nan", ["--stop-at-return nan: must be a number from -1e9 to 1e9"]),
        ("train Pong-v5 --network.dueling True", ["takes no value", "--network.no-dueling"]),
        ("train Pong-v5 --env.no-clip-rewards=yes", ["takes no value", "--env.clip-rewards"]),
        ("train Pong-v5 --confirm-stop False", ["takes no value", "--confirm-stop or --no-confirm-stop"]),
        ("train Pong-v5 --overwrite=yes", ["--overwrite takes no value"]),
        ("train Pong-v5 --run-dir=", ["--run-dir", "a value is wanted"]),
        ("train Pong-v5 --weights nowhere", ["--weights nowhere", "no such run or file"]),
        ("train Pong-v5 --weights none", ["--weights none", "no such run or file"]),
        ("train Pong-v5 --total-frames 0 --seed -1", ["--total-frames 0: must be", "--seed -1: must be"]),
        ("train Pong-v5 --exploration-max 2", ["--exploration-max 2.0: must be"]),
        ("train Pong-v5 --optimizer.learning-rate nan", ["--optimizer.learning-rate nan: must be"]),
        ("evaluate", ["needs the folder of a run", "fastdqn evaluate RUN"]),
        ("evaluate r --episodes many", ["--episodes many", "a whole number is wanted"]),
        ("evaluate r --protocol x", ["--protocol x: one of nature, machado, training is wanted"]),
        ("evaluate r --protocol matchado", ["did you mean machado?"]),
        ("evaluate r --episode 3", ["Did you mean --episodes?"]),
        ("evaluate r --total-timesteps 3", ["no flag --total-timesteps"]),
        ("evaluate r r", ["a word too many"]),
        ("presets quick", ["a word too many"]),
        ("info --jsn", ["Did you mean --json?"]),
    ],
)
def test_mistakes_are_answered(
    words: str, wanted: list[str], trainer: FakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    err = refused(capsys, *words.split())
    for part in wanted:
        assert part in err, err
    assert not trainer.calls
    assert not list(Path().iterdir()), "a mistake leaves nothing behind"


@pytest.mark.parametrize(
    ("words", "ours"),
    [
        ("--total-timesteps 10000000", "Type: --total-frames 40M"),
        ("--total_timesteps=2.5M", "Type: --total-frames 10M"),
        ("--total-timesteps", "N, with N 4 times your number"),
        ("--env-id Pong-v5", "Type: fastdqn train Pong-v5"),
        ("--env-id ALE/Pong-v5", "Type: fastdqn train Pong-v5"),
        ("--env BreakoutNoFrameskip-v4", "Type: fastdqn train Breakout-v5"),
        ("--env", "Type: fastdqn train Pong-v5"),
        ("--learning-rate 1e-4", "Type: --optimizer.learning-rate 1e-4"),
        ("--lr=1e-4", "Type: --optimizer.learning-rate 1e-4"),
        ("--batch-size 64", "Type: --learner.batch-size 64"),
        ("--gamma 0.9", "Type: --learner.gamma 0.9"),
        ("--buffer-size 100k", "Type: --replay.capacity 100k"),
        ("--num-envs 4", "Type: --env.num-envs 4"),
        ("--learning-starts 80000", "Type: --replay.warmup-steps 80000"),
        ("--train-frequency 4", "Type: --learner.steps-per-update 4"),
        ("--target-network-frequency 1000", "divided by --learner.steps-per-update"),
        ("--start-e 1", "Type: --exploration.max 1"),
        ("--exploration-fraction 0.1", "Type: --exploration.decay-frames N"),
        ("--epsilon 0.1", "--exploration.min"),
        ("--device cuda", "fastdqn info"),
        ("--optimizer adam", "Type: --optimizer.name adam"),
        ("--torch-compile", "Type: --pipeline.accelerate compile"),
        ("--learner.learning-rate 1e-4", "Type: --optimizer.learning-rate 1e-4"),
        ("--learner.optimizer adam", "Type: --optimizer.name adam"),
        ("--learner.max_grad_norm", "Type: --optimizer.max-grad-norm VALUE"),
        ("--replay.device=host", "Type: --pipeline.frames-on host"),
        ("--replay.priority-delay-launches 2", "Type: --pipeline.priority-lag-updates N"),
        ("--replay.priority-delay-launches 2", "it counts updates: launches times"),
    ],
)
def test_foreign_words_are_answered_with_ours(
    words: str, ours: str, trainer: FakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    err = refused(capsys, "train", "Pong-v5", *words.split())
    assert f"there is no flag {words.partition(' ')[0].partition('=')[0]}" in err
    assert ours in err


def test_the_unit_is_explained(trainer: FakeTrainer, capsys: pytest.CaptureFixture[str]) -> None:
    assert "a timestep (one action) is 4 of them" in refused(capsys, "train", "X", "--total-timesteps", "1")


def test_every_answer_to_a_foreign_word_names_flags_that_exist() -> None:
    flags = {*flags_of(TrainArguments), *ALIASES}
    for name, (ours, why) in mistakes._FOREIGN.items():
        for word in f"{ours} {why}".replace("(", " ").replace(")", " ").split():
            if word.startswith("--"):
                assert word.rstrip(".,") in flags, (name, word)
        assert f"--{name}" not in flags - {"--game"}, name  # GAME stands without a flag


def test_every_older_name_has_a_newer_one_and_is_gone() -> None:
    flat = Config().flat()
    assert {new for new, _ in MOVED.values()} <= set(flat)
    assert not set(MOVED) & set(flat)


def test_messages_of_several_lines_are_indented(
    trainer: FakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    err = refused(capsys, "train", "Pong-v5", "--total-frames", "0", "--seed", "-1", "--env.num-envs", "0")
    first, *more = err.splitlines()
    assert first.startswith("fastdqn train: ")
    assert all(line.startswith("  ") for line in more)
    assert len(more) == 2


def test_what_is_quoted_is_cut_short(trainer: FakeTrainer, capsys: pytest.CaptureFixture[str]) -> None:
    err = refused(capsys, "train", "x" * 50_000)
    assert len(err) < 1500
    err = refused(capsys, "train", "Pong-v5", "--seed", "1" * 5000)
    assert "at most 19 digits" in err
    assert len(err) < 1500


@pytest.mark.parametrize(
    "command", [["train", "trian", "--total-timesteps", "5"], ["evaluate", "/nowhere"], ["nonsense"]]
)
def test_mistakes_end_a_real_process_with_2_and_no_traceback(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fastdqn", *command], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("fastdqn")
    assert "Traceback" not in done.stderr
