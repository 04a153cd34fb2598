"""Configurations: every problem at once, JSON there and back, presets as the papers have them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fastdqn.config import Config, EnvConfig, LearnerConfig
from fastdqn.presets import PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_valid_and_survives_json(name):
    config = PRESETS[name].config
    assert config.validate() == []
    assert config.preset == name
    assert Config.from_json(config.to_json()) == config


def test_validate_tells_every_problem_at_once():
    config = Config(
        total_frames=0,
        env=EnvConfig(num_envs=-1),
        learner=LearnerConfig(gamma=1.5, optimizer="sgd", batch_size=0),  # type: ignore[arg-type]
    )
    problems = config.validate()
    for name in ("total_frames", "env.num_envs", "learner.gamma", "learner.optimizer", "learner.batch_size"):
        assert any(problem.startswith(name + " = ") for problem in problems), name
    assert len(problems) == 5


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0, -1e-4])
def test_a_learning_rate_that_cannot_train_is_refused(value):
    config = Config(learner=LearnerConfig(learning_rate=value))
    assert [problem.split(" = ")[0] for problem in config.validate()] == ["learner.learning_rate"]


def test_exploration_cannot_end_above_its_start():
    config = Config()
    problems = replace(config, exploration=replace(config.exploration, max=0.05)).validate()
    assert any(
        "exploration.min = 0.1" in problem and "exploration.max = 0.05" in problem for problem in problems
    )


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("{", "not JSON"),
        ("[]", "an object is wanted"),
        ('{"frames": 3}', "unknown field 'frames'"),
        ('{"learner": {"gama": 0.9}}', "unknown field 'learner.gama'"),
        ('{"total_frames": "10M"}', "total_frames = '10M': int is wanted"),
        ('{"seed": true}', "seed = True: int is wanted"),
        ('{"learner": 3}', "learner.: an object is wanted"),
    ],
)
def test_from_json_says_what_is_wrong(text, wanted):
    with pytest.raises(ValueError, match=wanted.replace("(", r"\(")):
        Config.from_json(text)


def test_a_whole_number_stands_for_a_float():
    assert Config.from_json('{"learner": {"gamma": 1}}').learner.gamma == 1.0


def test_nature_has_the_papers_numbers():
    """Mnih et al. 2015, Extended Data Table 1 (steps there are actions of 4 frames)."""
    config = PRESETS["nature"].config
    assert (config.learner.batch_size, config.learner.steps_per_update) == (32, 4)
    assert config.replay.capacity == 1_000_000
    assert config.replay.warmup_steps == 50_000
    assert config.learner.target_period_updates == 10_000
    assert (config.learner.optimizer, config.learner.learning_rate) == ("rmsprop", 0.00025)
    assert config.learner.decay == 0.95
    # The paper's loss is a sum over the batch, ours a mean.
    assert config.learner.epsilon * config.learner.batch_size**2 == 0.01
    assert (config.exploration.max, config.exploration.min) == (1.0, 0.1)
    assert config.exploration.decay_frames == 4 * 1_000_000
    assert (config.env.noop_max, config.env.frame_skip, config.learner.gamma) == (30, 4, 0.99)
