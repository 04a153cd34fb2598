"""What a run is: frozen dataclasses with units in their names, one `validate` that tells every problem at once.

Words used throughout: a *frame* is an emulator frame (60 a second on the console), a *step* is one action of
one environment (`frame_skip` frames), an *update* is one optimizer step on one batch.
"""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Accelerate = Literal["auto", "eager", "compile", "graph"]
Precision = Literal["fp32", "tf32", "bf16"]
Optimizer = Literal["adam", "rmsprop", "adagrad"]
Loss = Literal["huber", "squared"]
Reduction = Literal["mean", "sum"]
Bootstrap = Literal["max", "double"]
KeepReplay = Literal["auto", "on", "off"]
Protocol = Literal["nature", "machado", "own"]


@dataclass(frozen=True)
class EnvConfig:
    """The batched Atari emulator and its preprocessing (84x84 grey frames, stacks of 4, maximum of two frames)."""

    num_envs: int = 8
    """Games played side by side, one action each per pass of the loop."""
    threads: int = 0
    """Emulator threads; 0 takes one per CPU core, at most one per game."""
    frame_skip: int = 4
    """Emulator frames per action."""
    episodic_life: bool = True
    """End an episode for the learner when a life is lost (the game itself goes on)."""
    clip_rewards: bool = True
    """Learn from the sign of each reward. Reported returns are never clipped."""
    noop_max: int = 30
    """At most this many frames without action at the start of a game; the last is FIRE in games that wait for it.
    1 is the least that EnvPool can do."""
    fire_reset: bool = True
    """Press FIRE at the start of a game that waits for it."""
    sticky_actions: float = 0.0
    """Probability that the emulator repeats the previous action (Machado et al. 2018 use 0.25)."""
    full_action_set: bool = False
    """All 18 actions instead of those that the game uses."""
    max_episode_frames: int = 108_000
    """A game is cut (a truncation, not an end) after this many frames: half an hour of play."""
    renew_steps: int = 1_000_000
    """Make all games anew after this many actions, cutting those under way: resuming plays these actions again."""


@dataclass(frozen=True)
class ReplayConfig:
    """Experience replay: every frame is kept once."""

    capacity: int = 1_000_000
    """Frame slots, divided evenly over the environments; about 7.1 kB each."""
    warmup_steps: int = 50_000
    """Steps before the first update."""
    alpha: float = 0.0
    """Exponent of the priorities (Schaul et al. 2016); 0 samples uniformly."""
    beta: float = 0.4
    """Exponent of the importance weights at the start; it grows linearly to 1 over the run. Without effect
    where alpha is 0."""
    priority_delay_launches: int = 0
    """Launches that may be queued before a launch's priorities are back. 0 waits for each; without effect where
    alpha is 0."""
    device: Literal["auto", "host", "cuda"] = "auto"
    """Where the learner reads frames: host sends whole batches; cuda keeps a copy of all frames in the GPU's
    memory and sends frame numbers; auto takes cuda where it fits in half of the memory that is free."""


@dataclass(frozen=True)
class NetworkConfig:
    """The Q-network of Mnih et al. 2015: three convolutions, two fully connected layers."""

    width: float = 1.0
    """Multiplies the paper's 32, 64, 64 channels and 512 hidden units."""
    dueling: bool = False
    """Two streams, state value and advantages (Wang et al. 2016)."""
    centered: bool = False
    """Subtract each observation's mean grey level. On a bright background (Pong's) large steps of the optimizer
    then leave the first layer's filters alive."""


@dataclass(frozen=True)
class LearnerConfig:
    """One update: a batch, a TD loss, an optimizer step."""

    accelerate: Accelerate = "auto"
    """eager, compile (torch.compile), graph (compiled and captured in a CUDA graph), or auto: eager for a run too
    short to repay the compiler, else graph on a GPU and compile on a CPU."""
    updates_per_launch: int = 1
    """Updates that one CUDA graph does, and the granularity in which they are done everywhere else. 1 is the
    faithful mode; more matters only under priorities, which are then that many updates old."""
    staleness_updates: int = 0
    """Actions may come from weights this many updates old, so that a GPU can act and learn at once. 0: the
    newest, and acting waits for them."""
    precision: Precision = "fp32"
    """Of the network's products: fp32, tf32 (a GPU's tensor cores, factors rounded to 10 bits), or bf16."""
    batch_size: int = 32
    """Transitions per update."""
    steps_per_update: int = 4
    """Steps of the environments, all together, per update."""
    gamma: float = 0.99
    """Discount per step."""
    n_step: int = 1
    """Steps of reward before the target network takes over."""
    bootstrap: Bootstrap = "max"
    """max: the target network chooses and values the next action; double: the online network chooses."""
    loss: Loss = "huber"
    """huber clips the gradient of the TD error to [-1, 1]."""
    reduction: Reduction = "mean"
    """Whether epsilon and max_grad_norm are given for the mean of a batch's losses or, as in DeepMind's code and
    papers, for their sum; with sum they fit every batch size. Loss and gradient are reported as the mean's."""
    optimizer: Optimizer = "rmsprop"
    """adam, rmsprop (centred, epsilon inside the root, as in the paper), adagrad."""
    learning_rate: float = 2.5e-4
    """Step size at frame 0."""
    learning_rate_final: float | None = None
    """Step size at the end of the run, reached linearly from frame 0, so that it has fallen a little when learning
    starts; none keeps it constant."""
    epsilon: float = 0.01 / 32**2
    """The optimizer's epsilon (not the exploration's), in units of the gradient, rmsprop's of its square. The
    default is what Mnih et al. 2015's 0.01, which is for a sum, becomes for a mean over 32."""
    beta1: float = 0.9
    """Adam: decay of the gradient's mean."""
    beta2: float = 0.999
    """Adam: decay of the squared gradient's mean."""
    decay: float = 0.95
    """RMSProp: decay of the gradient's mean and of the squared gradient's mean."""
    max_grad_norm: float | None = None
    """Scale the gradient down to this global norm; none never does."""
    target_period_updates: int = 10_000
    """Updates between copies of the online network to the target network. Papers and code often count steps:
    divide by steps_per_update."""


@dataclass(frozen=True)
class ExplorationConfig:
    """Epsilon-greedy: max during warm-up, then falling linearly to min."""

    max: float = 1.0
    """Probability of a random action at the start."""
    min: float = 0.1
    """Probability of a random action at the end."""
    decay_frames: int = 4_000_000
    """Frames after warm-up over which epsilon falls."""


@dataclass(frozen=True)
class CheckpointConfig:
    """What is kept on disk while training."""

    every_frames: int = 1_000_000
    """Frames between checkpoints; the last frame always has one."""
    keep: int = 3
    """The newest checkpoints that are kept, beside the best by evaluation."""
    replay: KeepReplay = "auto"
    """Save the replay, too (the newest checkpoint has it), so that resuming is exact; auto: up to 2 GB."""


@dataclass(frozen=True)
class EvaluationConfig:
    """Whole games, scores unclipped, on environments of their own. What is none is the protocol's."""

    every_frames: int | None = None
    """Frames of training between evaluations; none evaluates never."""
    protocol: Protocol = "nature"
    """nature: Mnih et al. 2015; machado: Machado et al. 2018; own: the run's own settings."""
    episodes: int | None = None
    """Games of an evaluation."""
    epsilon: float | None = None
    """Probability of a random action."""
    max_episode_frames: int | None = None
    """A game is cut after this many frames; its score counts."""
    noop_max: int | None = None
    """As env.noop-max."""
    sticky_actions: float | None = None
    """Probability that the emulator repeats the previous action."""


@dataclass(frozen=True)
class Config:
    """Everything that decides what a run computes."""

    game: str = "Pong-v5"
    """An Atari game under EnvPool's name."""
    preset: str = "quick"
    """The preset that the values started from."""
    total_frames: int = 200_000_000
    """Length of the run in emulator frames."""
    seed: int = 1
    """Decides network weights, games, exploration and sampling."""
    log_every_frames: int = 20_000
    """Frames between rows of metrics."""
    env: EnvConfig = field(default_factory=EnvConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    exploration: ExplorationConfig = field(default_factory=ExplorationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def validate(self) -> list[str]:
        """Return every problem of the values, each as `name = value: what is wanted`; empty when all is well.

        Whether the game exists and whether the memory suffices is asked where it is known, in `build.py`.
        """
        problems: list[str] = []
        for name, (low, high, wanted) in _RANGES.items():
            value = _lookup(self, name)
            if value is not None and not (low <= value <= high and math.isfinite(value)):
                problems.append(f"{name} = {value}: must be {wanted}")
        for name, choices in _CHOICES.items():
            if _lookup(self, name) not in choices:
                problems.append(f"{name} = {_lookup(self, name)!r}: must be one of {', '.join(choices)}")
        if self.exploration.min > self.exploration.max:
            problems.append(
                f"exploration.min = {self.exploration.min}: must not be above "
                f"exploration.max = {self.exploration.max}"
            )
        period, launch = self.learner.target_period_updates, self.learner.updates_per_launch
        if launch > 0 and period % launch:
            problems.append(
                f"learner.updates_per_launch = {launch}: must divide learner.target_period_updates = {period}"
            )
        if self.env.frame_skip > 0 and 0 < self.env.max_episode_frames < self.env.frame_skip:
            problems.append("env.max_episode_frames: must hold at least one step (env.frame_skip frames)")
        return problems

    def to_json(self) -> str:
        """Return the config as indented JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Config:
        """Read what `to_json` wrote.

        Raises:
            ValueError: The text is no JSON object, has a field that is not known, or a value of another type.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"not JSON: {error}") from None
        result = _from_mapping(cls, data, "")
        assert isinstance(result, cls)
        return result


_COUNT = (1, 2**62, "a whole number above 0")
_NATURAL = (0, 2**62, "0 or a whole number above it")
_PROBABILITY = (0.0, 1.0, "from 0 to 1")
_POSITIVE = (math.ulp(0.0), math.inf, "above 0")
_FRACTION = (0.0, 1.0 - 2**-53, "at least 0 and below 1")

_RANGES: dict[str, tuple[float, float, str]] = {
    "total_frames": _COUNT,
    "seed": (0, 2**31 - 1, "a whole number from 0 to 2147483647"),
    "log_every_frames": _COUNT,
    "env.num_envs": (1, 4096, "a whole number from 1 to 4096"),
    "env.threads": _NATURAL,
    "env.frame_skip": (1, 60, "a whole number from 1 to 60"),
    "env.noop_max": _COUNT,
    "env.sticky_actions": _PROBABILITY,
    "env.max_episode_frames": _COUNT,
    "env.renew_steps": _COUNT,
    "replay.capacity": _COUNT,
    "replay.warmup_steps": _COUNT,
    "replay.alpha": _PROBABILITY,
    "replay.beta": _PROBABILITY,
    "replay.priority_delay_launches": _NATURAL,
    "network.width": (1 / 32, 16, "from 0.03125 to 16"),
    "learner.batch_size": (1, 65_536, "a whole number from 1 to 65536"),
    "learner.steps_per_update": _COUNT,
    "learner.updates_per_launch": (1, 1024, "a whole number from 1 to 1024"),
    "learner.staleness_updates": _NATURAL,
    "learner.gamma": (0.0, 1.0, "from 0 to 1"),
    "learner.n_step": (1, 100, "a whole number from 1 to 100"),
    "learner.learning_rate": _POSITIVE,
    "learner.learning_rate_final": (0.0, math.inf, "0 or above"),
    "learner.epsilon": _POSITIVE,
    "learner.beta1": _FRACTION,
    "learner.beta2": _FRACTION,
    "learner.decay": _FRACTION,
    "learner.max_grad_norm": _POSITIVE,
    "learner.target_period_updates": _COUNT,
    "exploration.max": _PROBABILITY,
    "exploration.min": _PROBABILITY,
    "exploration.decay_frames": _COUNT,
    "checkpoint.every_frames": _COUNT,
    "checkpoint.keep": _COUNT,
    "evaluation.every_frames": _COUNT,
    "evaluation.episodes": (1, 100_000, "a whole number from 1 to 100000"),
    "evaluation.epsilon": _PROBABILITY,
    "evaluation.max_episode_frames": _COUNT,
    "evaluation.noop_max": _COUNT,
    "evaluation.sticky_actions": _PROBABILITY,
}

_CHOICES: dict[str, tuple[str, ...]] = {
    "learner.accelerate": typing.get_args(Accelerate),
    "learner.precision": typing.get_args(Precision),
    "replay.device": ("auto", "host", "cuda"),
    "learner.optimizer": typing.get_args(Optimizer),
    "learner.loss": typing.get_args(Loss),
    "learner.reduction": typing.get_args(Reduction),
    "learner.bootstrap": typing.get_args(Bootstrap),
    "checkpoint.replay": typing.get_args(KeepReplay),
    "evaluation.protocol": typing.get_args(Protocol),
}


def _lookup(config: Config, name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _from_mapping(cls: type[Any], data: object, path: str) -> Any:
    if not isinstance(data, Mapping):
        raise ValueError(f"{path or 'config'}: an object is wanted, not {type(data).__name__}")
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(data) - set(hints))
    if unknown:
        raise ValueError(f"unknown field {path + unknown[0]!r}")
    values: dict[str, Any] = {}
    for name, value in data.items():
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            values[name] = _from_mapping(typing.cast("type[Any]", hint), value, f"{path}{name}.")
        else:
            values[name] = _checked(value, hint, path + name)
    return cls(**values)


def _checked(value: object, hint: Any, name: str) -> object:
    """Return `value` if JSON's type fits the field's, whole numbers standing for floats."""
    if typing.get_origin(hint) is Literal:
        allowed: tuple[type, ...] = (str,)
    else:
        allowed = typing.get_args(hint) or (hint,)
    if float in allowed and type(value) is int:
        return float(value)
    if type(value) not in allowed:
        raise ValueError(f"{name} = {value!r}: {' or '.join(t.__name__ for t in allowed)} is wanted")
    return value
