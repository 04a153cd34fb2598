"""Named configurations, as data: a published algorithm is a row."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fastdqn.config import (
    CheckpointConfig,
    Config,
    EnvConfig,
    EvaluationConfig,
    ExplorationConfig,
    LearnerConfig,
    NetworkConfig,
    OptimizerConfig,
    PipelineConfig,
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
    total_frames=2_400_000,
    stop_at_return="auto",
    confirm_stop=True,
    env=EnvConfig(num_envs=8),
    replay=ReplayConfig(capacity=30_000, warmup_steps=2_500, alpha=0.5, beta=0.4),
    network=NetworkConfig(width=0.25, dueling=True, centered=True),
    learner=LearnerConfig(
        n_step=8,
        rule="double",
        loss="huber",
        target_period_updates=500,
        average_updates=5_000,
    ),
    optimizer=OptimizerConfig(
        name="adam", learning_rate=5e-4, learning_rate_final=5e-5, learning_rate_fraction=0.6, epsilon=5e-5
    ),
    exploration=ExplorationConfig(min=0.01, decay_frames=200_000),
    checkpoint=CheckpointConfig(every_frames=200_000),
    evaluation=EvaluationConfig(epsilon=0.01),
    pipeline=PipelineConfig(precision="auto"),
)

# `quick` with what `rainbow` has beyond it: C51's distribution, and noise instead of epsilon. Adam's epsilon and
# the gradient's limit are `rainbow`'s, too: both have a cross entropy. Length and end, replay, width,
# the step size's fall and weights that play are those that `quick` had when this one's runs were made; others were
# not tried.
_QUICK_RAINBOW = replace(
    _QUICK,
    preset="quick-rainbow",
    total_frames=1_900_000,
    confirm_stop=False,
    replay=replace(_QUICK.replay, capacity=100_000, warmup_steps=5_000),
    network=replace(_QUICK.network, width=0.5, head="categorical", noise="truncated", noise_sigma=0.1),
    learner=replace(_QUICK.learner, average_updates=None),
    optimizer=replace(_QUICK.optimizer, learning_rate_fraction=1.0, epsilon=0.005 / 32, max_grad_norm=10.0),
    exploration=ExplorationConfig(max=0.0, min=0.0),
    evaluation=EvaluationConfig(epsilon=0.0),
)

# No zoo has it: `double` with NoisyNet-DQN's layers, whose paper (3.1, 3.2) has factorised noise of sigma 0.5 and
# no epsilon, and evaluates with noise.
_NOISY = replace(
    _DOUBLE,
    preset="noisy",
    network=NetworkConfig(noise="normal", noise_sigma=0.5),
    exploration=replace(_DOUBLE.exploration, max=0.0, min=0.0),
    evaluation=EvaluationConfig(epsilon=0.0),
)

# What these agents of dqn_zoo have in common (its processors.atari and run_atari.py): a lost life is a discount of
# zero, no FIRE at a reset, the mean of a batch's losses, a target copied every 40,000 frames = 2,500 updates,
# epsilon to 0.01 over 4 million frames, 0.001 in evaluations on training's games. Learning begins with 0.05 of the
# replay, IQN's and Rainbow's with 0.02.
_ZOO = Config(
    preset="c51",
    env=EnvConfig(life_loss="terminal", fire_reset=False),
    learner=LearnerConfig(reduction="mean", target_period_updates=40_000 // 16),
    optimizer=OptimizerConfig(name="adam", epsilon=0.01 / 32, max_grad_norm=10.0),
    exploration=ExplorationConfig(min=0.01, decay_frames=4_000_000),
    evaluation=EvaluationConfig(protocol="training", epsilon=0.001),
)

_C51 = replace(
    _ZOO,
    network=NetworkConfig(head="categorical", atoms=51, v_min=-10.0, v_max=10.0),
    optimizer=replace(_ZOO.optimizer, learning_rate=2.5e-4),
)

_QRDQN = replace(
    _ZOO,
    preset="qrdqn",
    network=NetworkConfig(head="quantile", quantiles=201),
    optimizer=replace(_ZOO.optimizer, learning_rate=5e-5),
)

_IQN = replace(
    _ZOO,
    preset="iqn",
    replay=replace(_ZOO.replay, warmup_steps=20_000),
    network=NetworkConfig(head="implicit", quantiles=64, cosines=64),
    optimizer=replace(_ZOO.optimizer, learning_rate=5e-5, max_grad_norm=None),
)

# munchausen_rl's configs/atari.gin, on Dopamine: sticky actions instead of no-ops (noop_max 1 leaves one frame),
# lives ignored, copies every 8,000 steps = 2,000 updates, epsilon over 250,000 steps.
_M_DQN = Config(
    preset="m-dqn",
    env=EnvConfig(life_loss="ignore", fire_reset=False, noop_max=1, sticky_actions=0.25),
    replay=ReplayConfig(warmup_steps=20_000),
    learner=LearnerConfig(
        rule="munchausen",
        munchausen_alpha=0.9,
        temperature=0.03,
        munchausen_floor=-1.0,
        target_period_updates=8_000 // 4,
    ),
    optimizer=OptimizerConfig(name="adam", learning_rate=5e-5, epsilon=3.125e-4),
    exploration=ExplorationConfig(min=0.01, decay_frames=4 * 250_000),
    evaluation=EvaluationConfig(protocol="training", epsilon=0.001),
)

# Of its 64, 64 and 32 fractions the 32, by which it acts and chooses, are 64 here. Its agent can act by the
# softmax policy, but train.py has it act by epsilon and the best action (`--interact greedy`).
_M_IQN = replace(_M_DQN, preset="m-iqn", network=NetworkConfig(head="implicit", quantiles=64, cosines=64))

# dqn_zoo's run_atari.py for Rainbow. Its last layers have no mean bias, and its sampler draws one transition in
# 1,000 uniformly; ours have one, and it does not.
_RAINBOW = replace(
    _ZOO,
    preset="rainbow",
    replay=ReplayConfig(warmup_steps=20_000, alpha=0.5, beta=0.4),
    network=NetworkConfig(head="categorical", dueling=True, noise="truncated", noise_sigma=0.1),
    learner=replace(_ZOO.learner, n_step=3, rule="double", target_period_updates=32_000 // 16),
    optimizer=replace(_ZOO.optimizer, learning_rate=2.5e-4 / 4, epsilon=0.005 / 32),
    exploration=ExplorationConfig(max=0.0, min=0.0),
    evaluation=EvaluationConfig(protocol="training", epsilon=0.0),
)

# The code of its ICML paper (main.py, Agent.py, PER.py, networks.py); where paper and code differ is in
# docs/btr.md. Epsilon falls by a share of 1 / 2M each step, and is off from half of 200M frames on. Games begin
# by up to 30 no-ops, the default of the wrapper that it took from Gymnasium, and nothing presses FIRE.
_BTR = Config(
    preset="btr",
    env=EnvConfig(num_envs=64, life_loss="ignore", fire_reset=False, sticky_actions=0.25),
    replay=ReplayConfig(capacity=2**20, warmup_steps=200_000, alpha=0.2, beta=0.2, beta_final=0.2),
    network=NetworkConfig(
        torso="impala",
        head="implicit",
        quantiles=8,
        cosines=64,
        dueling=True,
        noise="normal",
        noise_sigma=0.5,
        normalization="spectral",
    ),
    learner=LearnerConfig(
        batch_size=256,
        steps_per_update=64,
        gamma=0.997,
        n_step=3,
        rule="munchausen",
        fresh_quantiles=False,
        munchausen_alpha=0.9,
        temperature=0.03,
        munchausen_floor=-1.0,
        munchausen_network="online",
        target_period_updates=500,
    ),
    optimizer=OptimizerConfig(name="adam", learning_rate=1e-4, epsilon=0.005 / 256, max_grad_norm=10.0),
    exploration=ExplorationConfig(
        min=0.01, decay_frames=4 * 2_000_000, schedule="exponential", off_frames=100_000_000
    ),
    evaluation=EvaluationConfig(protocol="training", episodes=100, epsilon=0.01, network_draws="off"),
)

PRESETS: dict[str, Preset] = {
    "quick": Preset(
        "for Pong in few minutes on two CPU cores: double, dueling, n = 8, priorities, a quarter of the width",
        "no paper, what it has reached is in the README",
        _QUICK,
    ),
    "quick-rainbow": Preset(
        "quick with a distribution over 51 returns, noise for epsilon; in Pong it takes twice as long as quick",
        "no paper",
        _QUICK_RAINBOW,
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
    "noisy": Preset(
        "double that explores by noise in its fully connected layers, without epsilon",
        "Fortunato et al. 2018, on double",
        _NOISY,
    ),
    "c51": Preset(
        "a distribution over 51 returns from -10 to 10, Adam",
        "Bellemare et al. 2017, constants of dqn_zoo",
        _C51,
    ),
    "qrdqn": Preset(
        "201 quantiles of the return",
        "Dabney et al. 2018a, constants of dqn_zoo",
        _QRDQN,
    ),
    "iqn": Preset(
        "quantiles of the return at 64 random fractions",
        "Dabney et al. 2018b, constants of dqn_zoo",
        _IQN,
    ),
    "m-dqn": Preset(
        "a softmax policy's target, its log added to the reward; sticky actions",
        "Vieillard et al. 2020, constants of munchausen_rl",
        _M_DQN,
    ),
    "m-iqn": Preset(
        "the same on iqn's head",
        "Vieillard et al. 2020, constants of munchausen_rl",
        _M_IQN,
    ),
    "rainbow": Preset(
        "c51, double, dueling, noise, priorities and n = 3",
        "Hessel et al. 2018, constants of dqn_zoo",
        _RAINBOW,
    ),
    "btr": Preset(
        "impala, iqn, munchausen, dueling, noise, spectral norm, priorities, n = 3, 64 games, batch 256",
        "Clark et al. 2024, constants of the code of Beyond the Rainbow",
        _BTR,
    ),
}
