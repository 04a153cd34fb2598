"""Configurations: every problem at once, JSON there and back, presets as the papers have them."""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from dataclasses import replace
from typing import Annotated

import pytest

from fastdqn.config import Config, EnvConfig, LearnerConfig, OptimizerConfig, differences, in_words, leaves
from fastdqn.limits import Names, Pattern, Range, limit_of
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
        learner=LearnerConfig(gamma=1.5, batch_size=0),
        optimizer=OptimizerConfig(name="sgd"),  # type: ignore[arg-type]
    )
    problems = config.validate()
    for name in ("total_frames", "env.num_envs", "learner.gamma", "optimizer.name", "learner.batch_size"):
        assert any(problem.startswith(name + " = ") for problem in problems), name
    assert len(problems) == 5


def unlimited(cls) -> list[str]:
    """The values that something could be wrong with and nothing says what."""
    return [name for name, hint in leaves(cls).items() if not limited(limit_of(hint), types_in(hint))]


def limited(limit, types: set) -> bool:
    if isinstance(limit, Range):
        return {type(limit.low), type(limit.high)} <= types
    return isinstance(limit, Names | Pattern) if str in types else not types & {int, float}


def types_in(hint) -> set:
    """The types that a value may have, choices of words aside."""
    if typing.get_origin(hint) is typing.Literal:
        return set()
    return {hint}.union(*(types_in(part) for part in typing.get_args(hint)))


def test_every_number_has_a_range_and_every_text_choices_or_a_pattern():
    assert len(leaves(Config)) > 50
    assert unlimited(Config) == []


@dataclasses.dataclass
class Careless:
    """Two good fields and one choice, then every way to forget a limit."""

    good: Annotated[int, Range(1, 2)] | None = None
    switch: bool = False
    choice: typing.Literal["a", "b"] | None = None
    count: int = 1
    rate: float | None = None
    word: str = ""
    swapped: Annotated[str, Range(0, 1)] = ""
    fraction_of_a_count: Annotated[int, Range(0.5, 2)] = 1


def test_a_field_without_its_limit_is_found():
    assert unlimited(Careless) == ["count", "rate", "word", "swapped", "fraction_of_a_count"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0, -1e-4])
def test_a_learning_rate_that_cannot_train_is_refused(value):
    config = Config(optimizer=OptimizerConfig(learning_rate=value))
    assert [problem.split(" = ")[0] for problem in config.validate()] == ["optimizer.learning_rate"]


@pytest.mark.parametrize(
    ("section", "name", "values"),
    [  # beyond what EnvPool's 32 bits, the system's threads and float32 hold
        ("env", "threads", [-1, 513, 100_000, 3_000_000_000]),
        ("env", "noop_max", [0, 10_001, 3_000_000_000]),
        ("env", "max_episode_frames", [0, 2**31, 10**10]),
        ("evaluation", "noop_max", [0, 10_001]),
        ("evaluation", "max_episode_frames", [0, 3, 2**31]),
        ("replay", "capacity", [0, 2**62 + 1, 10**400]),
        ("pipeline", "priority_lag_updates", [-1, 1025, 4 * 10**18]),
        ("optimizer", "learning_rate", [1e39, 1e-39, 10**400]),
        ("optimizer", "learning_rate_final", [1e39, -1.0]),
        ("optimizer", "epsilon", [1e39, 1e-60]),
        ("optimizer", "max_grad_norm", [1e39, 0.0, math.inf]),
        ("optimizer", "beta2", [1.0, 1 - 2**-30]),
        ("learner", "batch_size", ["32", None, 32.0, True, [32], 10**5000]),
        ("optimizer", "name", ["", "sgd", 3, None, []]),
    ],
)
def test_a_value_that_something_below_cannot_take_is_refused(section, name, values):
    config = Config()
    for value in values:
        changed = replace(config, **{section: replace(getattr(config, section), **{name: value})})
        (problem,) = changed.validate()
        assert problem.startswith(f"{section}.{name} = ")
        assert len(problem) < 200


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("env", "max_episode_frames", 2**31 - 1),
        ("optimizer", "learning_rate", 3.4e38),
        ("optimizer", "learning_rate", 1.2e-38),
        ("optimizer", "learning_rate_final", 0.0),
        ("optimizer", "beta2", 0.9999999),
        ("replay", "capacity", 2**62),
    ],
)
def test_the_ends_of_the_ranges_belong_to_them(section, name, value):
    config = Config()
    assert replace(config, **{section: replace(getattr(config, section), **{name: value})}).validate() == []


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
        (
            '{"learner": {"optimizer": "adam"}, "replay": {"device": "host"}}',
            "of an older fastdqn: learner.optimizer is optimizer.name now (and 1 more)",
        ),
        ('{"total_frames": "10M"}', "total_frames = '10M': int is wanted"),
        ('{"seed": true}', "seed = True: int is wanted"),
        ('{"learner": 3}', "learner = 3: an object is wanted"),
        (
            '{"optimizer": {"name": ["adam"]}}',
            "optimizer.name = ['adam']: must be one of adam, rmsprop",
        ),
        ('{"learner": {"gamma": 1' + "0" * 400 + "}}", "learner.gamma = 1000"),
        ('{"seed": 1' + "0" * 5000 + "}", "not JSON: Exceeds the limit"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
    ],
)
def test_from_json_says_what_is_wrong(text, wanted):
    with pytest.raises(ValueError, match=re.escape(wanted)):
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
    assert (config.optimizer.name, config.optimizer.learning_rate) == ("rmsprop", 0.00025)
    assert config.optimizer.decay == 0.95
    assert (config.learner.reduction, config.optimizer.epsilon) == ("sum", 0.01)
    assert (config.exploration.max, config.exploration.min) == (1.0, 0.1)
    assert config.exploration.decay_frames == 4 * 1_000_000
    assert (config.env.noop_max, config.env.frame_skip, config.learner.gamma) == (30, 4, 0.99)


@pytest.mark.parametrize("name", ["double", "dueling", "per"])
def test_double_and_what_is_built_on_it_have_the_papers_numbers(name):
    """Van Hasselt et al. 2016, appendix, tuned version; a copy every 30,000 steps, 4 of them to an update."""
    config, nature = PRESETS[name].config, PRESETS["nature"].config
    assert config.learner.rule == "double"
    assert config.learner.target_period_updates * config.learner.steps_per_update == 30_000
    assert config.exploration == replace(nature.exploration, min=0.01)
    assert (config.learner.reduction, config.optimizer.epsilon) == ("sum", 0.01)
    assert config.env == nature.env
    assert config.total_frames == nature.total_frames


def test_dueling_clips_the_norm_of_the_summed_gradient():
    """Wang et al. 2016: 10, for a loss that is summed over the batch."""
    config = PRESETS["dueling"].config
    assert (config.network.dueling, config.network.width) == (True, 1.0)
    assert (config.learner.reduction, config.optimizer.max_grad_norm) == ("sum", 10.0)


def test_per_is_the_proportional_variant():
    """Schaul et al. 2016, appendix B.2: alpha 0.6, beta from 0.4; the step size is a quarter of the baseline's."""
    config = PRESETS["per"].config
    assert (config.replay.alpha, config.replay.beta) == (0.6, 0.4)
    assert config.optimizer.learning_rate == 0.00025 / 4


def test_constants_are_for_a_mean_where_nothing_is_said():
    config = Config.from_json('{"learner": {"batch_size": 32}, "optimizer": {"epsilon": 9.765625e-06}}')
    assert (config.learner.reduction, config.optimizer.epsilon) == ("mean", 0.01 / 32**2)


def test_two_configurations_are_told_apart_by_their_fields():
    quick = PRESETS["quick"].config
    assert differences(quick, quick) == {}
    changed = replace(quick, seed=2, optimizer=replace(quick.optimizer, max_grad_norm=10.0))
    found = differences(changed, quick)
    assert found == {"seed": (2, 1), "optimizer.max_grad_norm": (10.0, None)}
    assert in_words(found) == "seed 2 instead of 1, optimizer.max_grad_norm 10.0 instead of None"
    assert in_words(differences(PRESETS["nature"].config, quick)).endswith(" more")


def test_auto_stops_where_a_game_is_known_to_be_solved():
    quick = PRESETS["quick"].config
    assert quick.stop_at_return == "auto"
    assert quick.solved_return == 18.0
    assert replace(quick, game="Breakout-v5").solved_return is None
    assert replace(quick, stop_at_return=None).solved_return is None
    assert replace(quick, game="Breakout-v5", stop_at_return=30.0).solved_return == 30.0
    assert PRESETS["nature"].config.solved_return is None


@pytest.mark.parametrize("value", ["soon", float("nan"), 1e39, True, [18.0]], ids=repr)
def test_a_return_is_a_number_auto_or_nothing(value):
    (problem,) = replace(PRESETS["quick"].config, stop_at_return=value).validate()
    assert problem.startswith("stop_at_return = ")


@pytest.mark.parametrize("value", ["auto", 18.0, None])
def test_a_return_comes_back_from_json(value):
    config = replace(PRESETS["quick"].config, stop_at_return=value)
    assert Config.from_json(config.to_json()) == config
