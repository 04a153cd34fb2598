"""What a run is: frozen dataclasses with units in their names, one `validate` that reports every problem at once.

Words used throughout: a *frame* is an emulator frame (60 a second on the console), a *step* is one action of
one environment (`frame_skip` frames), an *update* is one optimizer step on one batch.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, cast

from fastdqn.json_files import checked, parse_object, shown
from fastdqn.limits import (
    Count,
    Fraction,
    Name,
    Names,
    Natural,
    NotNegative,
    Positive,
    Probability,
    Range,
    limit_of,
)

Accelerate = Literal["auto", "eager", "compile", "graph"]
Precision = Literal["auto", "fp32", "tf32", "bf16"]
FramesOn = Literal["auto", "host", "cuda"]
OptimizerName = Literal["adam", "rmsprop", "adagrad"]
Loss = Literal["huber", "squared"]
Reduction = Literal["mean", "sum"]
OnOff = Literal["on", "off"]
KeepReplay = Literal["auto", "on", "off"]
ProtocolName = Literal["nature", "machado", "training"]
TrackerName = Literal["wandb", "mlflow"]
PolicyFormat = Literal["safetensors", "pt2", "torchscript"]

GAME_RULES = ("max_episode_frames", "noop_max", "sticky_actions")
"""Settings of the games that an evaluation's protocol may leave to those that the run was trained with."""

LifeLoss = Literal["reset", "terminal", "ignore"]
Noise = Literal["none", "normal", "truncated"]
Normalization = Literal["none", "spectral", "layer"]
EpsilonSchedule = Literal["linear", "exponential"]
ActingPolicy = Literal["greedy", "softmax"]
WhichNetwork = Literal["target", "online"]

TORSO_NAMES = Names(["nature", "impala"])
HEAD_NAMES = Names(["scalar", "categorical", "quantile", "implicit"])
RULE_NAMES = Names(["max", "double", "munchausen"])

SOLVED_RETURNS = {"Pong-v5": 18.0}
"""The mean return of training games at which `stop_at_return = 'auto'` takes a game as solved."""

Return = Annotated[float, Range(-1e9, 1e9, "a number from -1e9 to 1e9", "-1e9..1e9")]
NoopFrames = Annotated[int, Range(1, 10_000)]
Seed = Annotated[int, Range(0, 2**31 - 1)]
GameFrames = Annotated[int, Range(1, 2**31 - 1)]  # EnvPool counts in 32 bits


@dataclass(frozen=True)
class EnvConfig:
    """The batched Atari emulator and its preprocessing (84x84 grey frames, stacks of 4, maximum of two frames)."""

    num_envs: Annotated[int, Range(1, 4096)] = 8
    """Games played side by side, one action each per pass of the loop."""
    threads: Annotated[int, Range(0, 512)] = 0
    """Emulator threads; 0 takes one per CPU core, at most one per game."""
    frame_skip: Annotated[int, Range(1, 60)] = 4
    """Emulator frames per action."""
    life_loss: LifeLoss = "reset"
    """What a lost life is. reset: the end of an episode, and no-ops begin the next; terminal: the end of the
    return for the learner, while the game goes on; ignore: nothing."""
    clip_rewards: bool = True
    """Learn from the sign of each reward. Reported returns are never clipped."""
    noop_max: NoopFrames = 30
    """At most this many frames without action, 1 or more, begin a game and follow a lost life. They are counted
    nowhere, and points won in them are in no score."""
    fire_reset: bool = True
    """Make the last of noop_max's frames FIRE where the action set has it: in 91 of 104 games, in 102 with all
    actions."""
    sticky_actions: Probability = 0.0
    """Probability that the emulator repeats the previous action (Machado et al. 2018 use 0.25)."""
    full_action_set: bool = False
    """All 18 actions instead of those that the game uses."""
    max_episode_frames: GameFrames = 108_000
    """A game is cut (a truncation, not an end) after this many frames: half an hour of play."""
    restart_steps: Count = 1_000_000
    """Make all games anew after this many actions, cutting those under way: resuming plays these actions again."""


@dataclass(frozen=True)
class ReplayConfig:
    """Experience replay: every frame is kept once."""

    capacity: Count = 1_000_000
    """Frame slots, divided evenly over the environments; 7.1 kB each in raw storage, 0.1 to 1.2 kB in delta."""
    storage: Literal["auto", "raw", "delta"] = "auto"
    """How frames lie in memory, which changes nothing that is learned. raw: as they are; delta: as what changes
    from one to the next, a little slower to sample; auto: delta where raw ones would take above 2 GB."""
    warmup_steps: Count = 50_000
    """Steps before the first update."""
    alpha: Probability = 0.0
    """Exponent of the priorities (Schaul et al. 2016); 0 samples uniformly."""
    beta: Probability = 0.4
    """Exponent of the importance weights at the start. Without effect where alpha is 0."""
    beta_final: Probability = 1.0
    """The same at the end of the run; it is reached linearly."""


@dataclass(frozen=True)
class NetworkConfig:
    """The Q-network, by default that of Mnih et al. 2015: three convolutions, two fully connected layers."""

    torso: Annotated[str, TORSO_NAMES] = "nature"
    """What makes features of frames. nature: the paper's three convolutions; impala: 15 convolutions in residual
    blocks (Espeholt et al. 2018), twice their width."""
    head: Annotated[str, HEAD_NAMES] = "scalar"
    """What the network says of each action. scalar: its value; categorical: the probability of each of some
    returns (C51); quantile: quantiles of the return (QR-DQN); implicit: those at random fractions (IQN)."""
    width: Annotated[float, Range(1 / 32, 16.0)] = 1.0
    """Multiplies the paper's 32, 64, 64 channels (impala's are as many) and 512 hidden units."""
    dueling: bool = False
    """Two streams, state value and advantages (Wang et al. 2016)."""
    centered: bool = False
    """Subtract each observation's mean grey level. On a bright background (Pong's) large steps of the optimizer
    then leave the first layer's filters alive."""
    atoms: Annotated[int, Range(2, 1000)] = 51
    """Returns that a categorical head gives a probability to, evenly from v_min to v_max."""
    v_min: Return = -10.0
    """Lowest return of a categorical head; what lies beyond counts as this. Without clip_rewards in points."""
    v_max: Return = 10.0
    """Highest return of a categorical head."""
    quantiles: Annotated[int, Range(1, 1000)] = 64
    """Quantiles for each action: where a quantile head has them, or how many fractions an implicit one samples."""
    cosines: Annotated[int, Range(1, 1000)] = 64
    """Cosines that an implicit head describes a fraction by."""
    noise: Noise = "none"
    """Noise in the fully connected layers (Fortunato et al. 2018), by which a run explores. normal: factorised;
    truncated: the same of draws between -2 and 2."""
    noise_sigma: Positive = 0.5
    """Size of that noise at the start, times 1 / sqrt(a layer's inputs)."""
    normalization: Normalization = "none"
    """spectral: weights of impala's residual blocks over their largest singular value; layer: activations of
    nature and of the hidden layer, over the channels, before each ReLU."""


@dataclass(frozen=True)
class LearnerConfig:
    """What an update learns from: how often, which batch, which targets, which loss."""

    batch_size: Annotated[int, Range(1, 65_536)] = 32
    """Transitions per update."""
    steps_per_update: Count = 4
    """Steps of the environments, all together, per update."""
    gamma: Annotated[float, Range(0.0, 1.0)] = 0.99
    """Discount per step."""
    n_step: Annotated[int, Range(1, 100)] = 1
    """Steps of reward before the target network takes over."""
    rule: Annotated[str, RULE_NAMES] = "max"
    """max: the target network chooses and values the next action; double: the online network chooses; munchausen:
    the target network's softmax values all, and its logarithm is added to the reward."""
    fresh_quantiles: bool = True
    """Where an implicit head's target network chooses, let it choose by fractions (and noise) of their own, at the
    price of a pass, instead of those that make the target."""
    munchausen_alpha: Probability = 0.9
    """Share of the log policy that the munchausen rule adds to the reward."""
    munchausen_floor: Annotated[float, Range(-1e9, 0.0)] = -1.0
    """Lowest temperature * log policy that it adds a share of."""
    munchausen_network: WhichNetwork = "target"
    """Whose policy that is."""
    temperature: Annotated[float, Range(1e-6, 1e9)] = 0.03
    """Of the softmax over action values, in the munchausen rule and where a run acts by one."""
    loss: Loss = "huber"
    """huber clips the gradient of the TD error to [-1, 1], and quantiles need it. C51 has neither."""
    reduction: Reduction = "mean"
    """Whether epsilon and max_grad_norm are given for the mean of a batch's losses or, as in DeepMind's code and
    papers, for their sum; with sum they fit every batch size. Loss and gradient are reported as the mean's."""
    target_period_updates: Count = 10_000
    """Updates between copies of the online network to the target network. Papers and code often count steps:
    divide by steps_per_update."""
    average_updates: Count | None = None
    """Keep an average of the online network's weights over about so many updates, and evaluate, record and export
    that one. Learning and its games use the newest weights all the same; none: so does everything else."""


@dataclass(frozen=True)
class OptimizerConfig:
    """From a gradient to a step. Epsilon and max_grad_norm are for the loss that learner.reduction names."""

    name: OptimizerName = "rmsprop"
    """adam, rmsprop (centred, epsilon inside the root, as in the paper), adagrad."""
    learning_rate: Positive = 2.5e-4
    """Step size at frame 0."""
    learning_rate_final: NotNegative | None = None
    """Step size to which it falls linearly from frame 0, so that it has fallen a little when learning starts; none
    keeps it constant."""
    learning_rate_fraction: Annotated[float, Range(0.0, 1.0)] = 1.0
    """Part of the run over which it falls, to stay there. Without effect where learning_rate_final is none."""
    epsilon: Positive = 0.01 / 32**2
    """The optimizer's epsilon (not the exploration's), in units of the gradient, rmsprop's of its square. The
    default is what Mnih et al. 2015's 0.01, which is for a sum, becomes for a mean over 32."""
    beta1: Fraction = 0.9
    """Adam: decay of the gradient's mean."""
    beta2: Fraction = 0.999
    """Adam: decay of the squared gradient's mean."""
    decay: Fraction = 0.95
    """RMSProp: decay of the gradient's mean and of the squared gradient's mean."""
    max_grad_norm: Positive | None = None
    """Scale the gradient down to this global norm; none never does."""


@dataclass(frozen=True)
class PipelineConfig:
    """How updates are computed and queued; a lag is what that costs, in updates that acting and sampling miss."""

    accelerate: Accelerate = "auto"
    """eager, compile (torch.compile), graph (compiled and captured in a CUDA graph), or auto: eager for a run too
    short to repay the compiler, else graph on a GPU and compile on a CPU."""
    threads: Annotated[int, Range(0, 512)] = 0
    """PyTorch's CPU threads, by whose number sums round. 0: OMP_NUM_THREADS, or without it, on a CPU, one per core
    that no other program is using at the start (one for quick's network in bf16), which config.json then has."""
    precision: Precision = "fp32"
    """Of the network's products: fp32, tf32 (a GPU's tensor cores, factors rounded to 10 bits), bf16, or auto:
    bf16 on a CPU with avx512_bf16 (`fastdqn info` tells), else fp32, and so for Nature's torso at width 1 or 0.5,
    where bf16 is no faster; config.json then has which."""
    frames_on: FramesOn = "auto"
    """Where the learner reads frames: host sends whole batches; cuda keeps a copy of all frames in the GPU's
    memory and sends frame numbers; auto takes cuda where it fits in half of the memory that is free."""
    updates_per_launch: Annotated[int, Range(1, 1024)] = 1
    """Updates that one CUDA graph does, and the granularity in which they are done everywhere else. 1 is the
    faithful mode; more matters under priorities, which are then that many updates old, and draws other noise."""
    acting_lag_updates: Natural = 0
    """Actions may come from weights this many updates old, so that a GPU can act and learn at once. 0: the
    newest, and acting waits for them."""
    priority_lag_updates: Annotated[int, Range(0, 1024)] = 0
    """Updates that may be queued before the priorities of a launch are back, a multiple of updates_per_launch. 0
    waits for each launch; without effect where replay.alpha is 0."""
    data_parallel: bool = False
    """Divide games, replay and each batch over the processes that torchrun has started, and average gradients;
    everything else counts over all of them."""


@dataclass(frozen=True)
class ExplorationConfig:
    """Epsilon-greedy, from max to min; both 0 where noise in the network explores alone."""

    max: Probability = 1.0
    """Probability of a random action at the start."""
    min: Probability = 0.1
    """Probability of a random action at the end."""
    decay_frames: Count = 4_000_000
    """Frames over which epsilon falls."""
    schedule: EpsilonSchedule = "linear"
    """linear: max during warm-up, then a line; exponential: from the first frame on, the distance to min falls to
    1/e in each decay_frames."""
    off_frames: Count | None = None
    """Epsilon is 0 from this frame on; none: never."""
    policy: ActingPolicy = "greedy"
    """What is done otherwise. greedy: the best action; softmax: one drawn by learner.temperature."""


@dataclass(frozen=True)
class CheckpointConfig:
    """What is kept on disk while training."""

    every_frames: Count = 1_000_000
    """Frames between checkpoints; the last frame always has one."""
    keep: Count = 3
    """The newest checkpoints that are kept, beside the best by evaluation."""
    replay: KeepReplay = "auto"
    """Save the replay, too (the newest checkpoint has it), so that resuming is exact; auto: up to 2 GB."""


@dataclass(frozen=True)
class EvaluationSettings:
    """How whole games are played. What is None is the protocol's."""

    episodes: Annotated[int, Range(1, 100_000)] | None = None
    """Games of an evaluation."""
    epsilon: Probability | None = None
    """Probability of a random action."""
    max_episode_frames: GameFrames | None = None
    """A game is cut after this many frames; its score counts."""
    noop_max: NoopFrames | None = None
    """At most this many frames without action at the start of a game; 1 is the least."""
    sticky_actions: Probability | None = None
    """Probability that the emulator repeats the previous action."""
    network_draws: OnOff | None = None
    """Whether each action draws noise and fractions anew, as in training; off: no noise, even fractions, and of a
    softmax policy the best action."""


@dataclass(frozen=True)
class EvaluationConfig(EvaluationSettings):
    """Whole games while a run trains, scores unclipped, on environments of their own."""

    every_frames: Count | None = None
    """Frames of training between evaluations, the last at the end; none: only where confirm_stop wants one."""
    protocol: ProtocolName = "nature"
    """nature: Mnih et al. 2015; machado: Machado et al. 2018; training: the run's own settings."""


@dataclass(frozen=True)
class Config:
    """Everything that decides what a run computes."""

    game: Name = "Pong-v5"
    """An Atari game under EnvPool's name."""
    preset: Name = "quick"
    """The preset that the values started from."""
    total_frames: Count = 200_000_000
    """Length of the run in emulator frames."""
    stop_at_return: Return | Literal["auto"] | None = None
    """End the run before that once the last 20 games of training have this mean return, unclipped. auto: 18 in
    Pong, never in other games."""
    confirm_stop: bool = False
    """End it so only where two evaluations, in other games each, then have that mean less three standard errors;
    else train on, and evaluate again after 10 games or more."""
    seed: Seed = 1
    """Decides network weights, games, exploration and sampling."""
    log_every_frames: Count = 20_000
    """Frames between rows of metrics."""
    env: EnvConfig = field(default_factory=EnvConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    pipeline: PipelineConfig = field(default_factory=PipelineConfig)
    exploration: ExplorationConfig = field(default_factory=ExplorationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    @property
    def solved_return(self) -> float | None:
        """What `stop_at_return` comes to in this game; `None` where the run has its whole length."""
        auto = self.stop_at_return == "auto"
        return SOLVED_RETURNS.get(self.game) if auto else cast("float | None", self.stop_at_return)

    def validate(self) -> list[str]:
        """Return every problem of the values, each as `name = value: what is wanted`; empty when all is well.

        Whether the game exists and whether the memory suffices is checked where it is known, in `runs/checks.py`.
        """
        return problems_of(self) or self._conflicts()

    def _conflicts(self) -> list[str]:
        """Return the problems of values that are good by themselves but not together."""
        problems: list[str] = []
        if self.exploration.min > self.exploration.max:
            problems.append(
                f"exploration.min = {self.exploration.min}: must not be above "
                f"exploration.max = {self.exploration.max}"
            )
        launch = self.pipeline.updates_per_launch
        for name in ("learner.target_period_updates", "pipeline.priority_lag_updates"):
            updates = _lookup(self, name)
            if updates % launch:
                problems.append(f"pipeline.updates_per_launch = {launch}: must divide {name} = {updates}")
        for name in ("env.max_episode_frames", "evaluation.max_episode_frames"):
            limit = _lookup(self, name)
            if limit is not None and limit < self.env.frame_skip:
                problems.append(
                    f"{name} = {limit}: must hold at least one step, env.frame_skip = {self.env.frame_skip} frames"
                )
        return problems + self._network_conflicts()

    def _network_conflicts(self) -> list[str]:
        """Return where parts of the network, or what it learns by, do not go together."""
        network, learner, problems = self.network, self.learner, []
        if network.v_min >= network.v_max:
            problems.append(f"network.v_min = {network.v_min}: must be below network.v_max = {network.v_max}")
        elif network.v_max - network.v_min < 1e-6 * network.atoms * max(
            abs(network.v_min), abs(network.v_max)
        ):
            problems.append(
                f"network.v_min = {network.v_min}, network.v_max = {network.v_max}: too near each other for "
                f"{network.atoms} returns in float32; take ends further apart or nearer 0"
            )
        elif network.atoms / (network.v_max - network.v_min) > 1e38:
            problems.append(
                f"network.v_min = {network.v_min}, network.v_max = {network.v_max}: too near each other, "
                "in float32"
            )
        unnormalized = {("nature", "spectral"), ("impala", "layer")}
        if (network.torso, network.normalization) in unnormalized:
            problems.append(
                f"network.normalization = {network.normalization!r}: the torso {network.torso} has no such; "
                "spectral is for impala, layer for nature"
            )
        if network.normalization == "layer" and round(32 * network.width) < 2:
            problems.append(
                f"network.width = {network.width:g}: leaves the first convolution one channel, and layer "
                "normalization over one makes all pixels alike; take 0.0625 or more"
            )
        if network.head in ("quantile", "implicit") and learner.loss != "huber":
            problems.append(
                f"learner.loss = {learner.loss!r}: must be huber where network.head = {network.head!r}; "
                "squared errors estimate expectiles, not quantiles"
            )
        return problems

    def flat(self) -> dict[str, Any]:
        """Return every value under its dotted name, such as `learner.batch_size`."""
        return flatten(dataclasses.asdict(self))

    def to_json(self) -> str:
        """Return the config as indented JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Config:
        """Read what `to_json` wrote.

        Raises:
            OlderConfigError: It has names of an older version.
            ValueError: The text is no JSON object, has a field that is not known, or a value of another type.
        """
        values = parse_object(text)
        older = moved(flatten(values))
        if older:
            more = f" (and {len(older) - 1} more)" if older[1:] else ""
            raise OlderConfigError(f"this is a configuration of an older fastdqn: {older[0]}{more}")
        result = checked(values, cls, "")
        assert isinstance(result, cls)
        return result


@dataclass(frozen=True)
class FilmSettings:
    """How a game is filmed. It is no part of a run."""

    epsilon: Probability = 0.05
    """Probability of a random action."""
    seed: Seed = 0
    """Decides the game and the random actions."""
    max_seconds: Annotated[float, Range(1.0, 86_400.0)] = 300.0
    """Longest film, in seconds of play; a game that lasts longer is cut."""
    gif_start: Annotated[float, Range(0.0, 86_400.0)] = 0.0
    """Second of the game with which the GIF begins."""
    gif_seconds: Annotated[float, Range(0.1, 86_400.0)] = 10.0
    """Length of the GIF."""
    scale: Annotated[int, Range(2, 8)] = 3
    """Pixels of the mp4 per pixel of the console (160 x 210); the GIF gets one less, at least 2."""


MOVED: dict[str, tuple[str, str]] = {
    "learner.optimizer": ("optimizer.name", ""),
    **{
        f"learner.{name}": (f"optimizer.{name}", "")
        for name in (
            *("learning_rate", "learning_rate_final", "epsilon"),
            *("beta1", "beta2", "decay", "max_grad_norm"),
        )
    },
    **{
        f"learner.{name}": (f"pipeline.{name}", "")
        for name in ("accelerate", "precision", "updates_per_launch")
    },
    "env.renew_steps": ("env.restart_steps", ""),
    "env.episodic_life": ("env.life_loss", "True is 'reset', False is 'ignore'"),
    "learner.staleness_updates": ("pipeline.acting_lag_updates", ""),
    "learner.bootstrap": ("learner.rule", ""),
    "replay.device": ("pipeline.frames_on", ""),
    "replay.priority_delay_launches": (
        "pipeline.priority_lag_updates",
        "it counts updates: launches times pipeline.updates_per_launch",
    ),
}
"""Names of older versions: what each is called now, and what else is different."""


class OlderConfigError(ValueError):
    """A configuration has names of an older version."""


def moved(names: Iterable[str]) -> list[str]:
    """Return, for each of the names that older versions had, a sentence with the new one."""
    found = [(name, *MOVED[name]) for name in names if name in MOVED]
    return [f"{old} is {new} now" + (f", and {note}" if note else "") for old, new, note in found]


def leaves(cls: type[Any], prefix: str = "") -> dict[str, Any]:
    """Return the dotted names of a dataclass' values, those inside it included, each with its type and limit."""
    found: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        inner = dataclasses.is_dataclass(hint)
        found |= leaves(hint, f"{prefix}{name}.") if inner else {prefix + name: hint}
    return found


def problems_of(settings: Any) -> list[str]:
    """Return every problem of the values of one of these dataclasses, each by itself."""
    found = (_problem(name, _lookup(settings, name), hint) for name, hint in leaves(type(settings)).items())
    return [problem for problem in found if problem]


def _problem(name: str, value: Any, hint: Any) -> str | None:
    """Return what is wrong with a value, `None` if nothing is."""
    limit = limit_of(hint)
    try:
        checked(value, hint, name)
    except ValueError as error:
        return str(error)
    # Beside a number a choice of words may stand, which `checked` knows: `float | Literal["auto"]`.
    word_for_number = isinstance(limit, Range) and isinstance(value, str)
    if limit is None or value is None or word_for_number or limit.allows(value):
        return None
    return f"{name} = {shown(value)}: must be {limit.wanted}"


def _lookup(settings: Any, name: str) -> Any:
    value = settings
    for part in name.split("."):
        value = getattr(value, part)
    return value


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested mappings under their dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def differences(one: Any, other: Any, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Return where two of one of these dataclasses differ: under each dotted name both values.

    Args:
        one: Its values come first.
        other: Of the same class.
        prefix: What the names begin with, such as `network.` where two groups are compared.
    """
    ours, theirs = (flatten(dataclasses.asdict(values), prefix) for values in (one, other))
    return {name: (value, theirs[name]) for name, value in ours.items() if value != theirs[name]}


def in_words(found: dict[str, tuple[Any, Any]]) -> str:
    """Return differences for people, the first five of them."""
    parts = [f"{name} {one} instead of {other}" for name, (one, other) in found.items()]
    return ", ".join(parts[:5]) + (f", and {len(parts) - 5} more" if parts[5:] else "")
