"""Named configurations, as data: a published algorithm is a row."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fastdqn.config import (
    CheckpointConfig,
    Config,
    EnvConfig,
    ExplorationConfig,
    LearnerConfig,
    NetworkConfig,
    OptimizerConfig,
    ReplayConfig,
)


@dataclass(frozen=True)
class Preset:
    """A starting point for a run.

    Attributes:
        summary: What it is, in a line.
        source: Where its values come from.
        config: The values.
    """

    summary: str
    source: str
    config: Config


# 10,000 updates is the table's wording. DeepMind's code, dqn_zoo and Dopamine copy the network every 10,000 steps,
# 2,500 updates.
_NATURE = Config(
    preset="nature",
    learner=LearnerConfig(reduction="sum", target_period_updates=10_000),
    optimizer=OptimizerConfig(epsilon=0.01),
)

# The tuned version of the paper's appendix: a copy every 30,000 steps (dqn_zoo: 120,000 frames), 4 to an update.
_DOUBLE = replace(
    _NATURE,
    preset="double",
    learner=replace(_NATURE.learner, rule="double", target_period_updates=30_000 // 4),
    exploration=replace(_NATURE.exploration, min=0.01),
)

# The paper's proportional variant; its rank-based one has alpha 0.7, beta 0.5.
_PER = replace(
    _DOUBLE,
    preset="per",
    replay=replace(_DOUBLE.replay, alpha=0.6, beta=0.4),
    optimizer=replace(_DOUBLE.optimizer, learning_rate=_DOUBLE.optimizer.learning_rate / 4),
)

# The paper takes a "slightly lower" step size than `double` and does not say which; ours is the same.
_DUELING = replace(
    _DOUBLE,
    preset="dueling",
    network=NetworkConfig(dueling=True),
    optimizer=replace(_DOUBLE.optimizer, max_grad_norm=10.0),
)

_QUICK = Config(
    preset="quick",
    total_frames=1_900_000,
    stop_at_return="auto",
    env=EnvConfig(num_envs=8),
    replay=ReplayConfig(capacity=100_000, warmup_steps=5_000, alpha=0.5, beta=0.4),
    network=NetworkConfig(width=0.5, dueling=True, centered=True),
    learner=LearnerConfig(n_step=8, rule="double", loss="huber", target_period_updates=500),
    optimizer=OptimizerConfig(name="adam", learning_rate=5e-4, learning_rate_final=5e-5, epsilon=5e-5),
    exploration=ExplorationConfig(min=0.01, decay_frames=200_000),
    checkpoint=CheckpointConfig(every_frames=200_000),
)

PRESETS: dict[str, Preset] = {
    "quick": Preset(
        "for Pong in few minutes on two CPU cores: double, dueling, n = 8, priorities, half the width, Adam",
        "no paper; what it has reached is in the README",
        _QUICK,
    ),
    "nature": Preset(
        "the paper's protocol: RMSProp, 1M frames of replay, 200M frames of play",
        "Mnih et al. 2015, Extended Data Table 1",
        _NATURE,
    ),
    "double": Preset(
        "nature with double Q-learning, epsilon to 0.01, target every 7,500 updates",
        "van Hasselt et al. 2016",
        _DOUBLE,
    ),
    "dueling": Preset(
        "double with a dueling head, the norm of the summed gradient clipped at 10",
        "Wang et al. 2016",
        _DUELING,
    ),
    "per": Preset(
        "double with proportional prioritised replay, alpha 0.6, beta 0.4 to 1, a quarter of the step size",
        "Schaul et al. 2016",
        _PER,
    ),
}
