"""The learner: an online network, a target network and an optimizer; no environment, file or console.

One update is one pure function of tensors that are allocated once and changed in place. Acceleration is a
wrapper round that function: none (eager, the reference) or `torch.compile`.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value

from fastdqn.config import LearnerConfig, NetworkConfig
from fastdqn.networks import FRAME_SIZE, QNetwork
from fastdqn.objectives import BOOTSTRAPS, LOSSES, td_target, weighted_mean
from fastdqn.optimizers import OPTIMIZERS, clip_by_norm

# The names and numbers of <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

_UPDATES_THAT_REPAY_COMPILING = {"cpu": 5_000, "cuda": 50_000}


@dataclass(frozen=True)
class Batch:
    """Transitions on the learner's device.

    The memory layout (strides) must be the same in every batch of a run: compiled code is made for one.

    Attributes:
        obs: uint8 [B, stack, 84, 84].
        action: int64 [B].
        reward: float32 [B], the n-step return up to the bootstrap.
        discount: float32 [B], gamma^m * (1 - terminated) for the m steps that were taken.
        next_obs: uint8 [B, stack, 84, 84], the observation m steps later.
        weight: float32 [B], importance of each sample; 1 where sampling is uniform.
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    discount: Tensor
    next_obs: Tensor
    weight: Tensor


class UpdateResult(NamedTuple):
    """What an update tells; tensors on the learner's device, so that asking for them does not wait.

    Attributes:
        loss: float32, the weighted mean of the losses.
        q_mean: float32, mean over batch and actions of the online network's values, before the step.
        grad_norm: float32, Euclidean norm of the whole gradient before it is clipped.
        td_error: float32 [B], target minus prediction, before the step.
    """

    loss: Tensor
    q_mean: Tensor
    grad_norm: Tensor
    td_error: Tensor


class _FlatLayout:
    """Where each parameter of a module lies in one flat buffer."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.shapes = {name: value.shape for name, value in module.named_parameters()}
        self._sizes = [shape.numel() for shape in self.shapes.values()]
        self.size = sum(self._sizes)

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """Return the parameters as views of `flat`."""
        parts = flat.split(self._sizes)  # type: ignore[no-untyped-call]
        return {
            name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def join(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Return a new flat buffer that holds the parameters."""
        return torch.cat([parts[name].reshape(-1) for name in self.shapes])


class Learner:
    """Q-learning from batches.

    Two learners of the same arguments that see the same batches on the same machine hold the same bits.

    Args:
        network: The network's shape.
        config: The update's rules.
        num_actions: Number of actions.
        device: Where all tensors live.
        seed: Decides the initial weights.
        accelerate: `eager`, or `compile` for `torch.compile`; `resolve_accelerate` turns `auto` into one.

    Attributes:
        updates: Updates done so far; set it when a run is resumed, for the target network's period.
        num_parameters: Weights and biases of one network.
    """

    def __init__(
        self,
        network: NetworkConfig,
        config: LearnerConfig,
        num_actions: int,
        *,
        device: str | torch.device = "cpu",
        seed: int = 0,
        accelerate: Literal["eager", "compile"] = "eager",
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        module = QNetwork(num_actions, width=network.width, dueling=network.dueling, generator=generator)
        self._layout = _FlatLayout(module)
        self._online = self._layout.join(dict(module.named_parameters())).detach().to(device)
        self._target = self._online.clone()
        optimizer = OPTIMIZERS[config.optimizer](config)
        self._slots = optimizer.initial_state(self._online)
        self._learning_rate = torch.tensor(config.learning_rate, dtype=torch.float32, device=device)
        self._module = module.to(device).requires_grad_(False)
        self._period = config.target_period_updates
        self.num_parameters = self._layout.size
        self.updates = 0
        _keep_freed_memory()
        wrap = _WRAPPERS[accelerate]
        self._step = wrap(self._make_step(config))
        self._fast_values = wrap(self._values)
        self._fast_rows = 0

    def update(self, batch: Batch, learning_rate: float | None = None) -> UpdateResult:
        """Do one update; after every `target_period_updates` of them copy the online to the target network.

        Args:
            batch: Transitions, of the same size and strides at each call.
            learning_rate: From this update on; none keeps the last one.

        Returns:
            Metrics and TD errors.

        Raises:
            TypeError: An observation is not uint8.
            ValueError: An observation has another shape.
        """
        if learning_rate is not None:
            self._learning_rate.fill_(learning_rate)
        result = UpdateResult(*self._run_step(batch))
        self.updates += 1
        if self.updates % self._period == 0:
            self._target.copy_(self._online)
        return result

    def q_values(self, obs: Tensor) -> Tensor:
        """Return the online network's action values, without gradient.

        In compile mode the first number of rows is compiled for, every other one runs eagerly.

        Args:
            obs: uint8 [N, stack, 84, 84] on the learner's device.

        Returns:
            float32 [N, A].

        Raises:
            TypeError: `obs` is not uint8.
            ValueError: `obs` has another shape.
        """
        self._fast_rows = self._fast_rows or obs.shape[0]
        values = self._fast_values if obs.shape[0] == self._fast_rows else self._values
        return values(self._online, obs.contiguous())

    def warm_up(self, batch_size: int, rows: int | None = None, *, window: bool = False) -> None:
        """Compile what a run will call, half a minute at worst, and leave all state as it was.

        Args:
            batch_size: Transitions per update.
            rows: Observations per call of `q_values`; none leaves that uncompiled.
            window: Whether obs and next_obs of a batch are views of one block [B, stack + 1, 84, 84], as the
                replay's layout `window` gives them; else each is contiguous.
        """
        saved = {name: value.clone() for name, value in self._all_state().items()}
        self._run_step(_blank_batch(batch_size, self._module.stack, window, self._online.device))
        for name, value in self._all_state().items():
            value.copy_(saved[name])
        if rows is not None:
            shape = (rows, self._module.stack, FRAME_SIZE, FRAME_SIZE)
            self.q_values(torch.zeros(shape, dtype=torch.uint8, device=self._online.device))

    def state_tensors(self) -> dict[str, Tensor]:
        """Return the live tensors of the state, contiguous, in the shapes of the module's own.

        Returns:
            `online.<parameter>`, `target.<parameter>`, `optimizer.<slot>.<parameter>`, and `optimizer.<slot>`
            for a slot without dimensions. Changing one changes the learner.
        """
        result: dict[str, Tensor] = {}
        for prefix, value in self._all_state().items():
            if value.dim() == 0:
                result[prefix] = value
            else:
                parts = self._layout.split(value)
                result.update((f"{prefix}.{name}", part) for name, part in parts.items())
        return result

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy a saved state into this one; nothing changes unless all of it fits.

        Args:
            tensors: What `state_tensors` gave, on any device.

        Raises:
            KeyError: A tensor is missing or is not one of ours.
            ValueError: A tensor has another shape or dtype.
        """
        own = self.state_tensors()
        _check_same(own, tensors)
        for name, value in own.items():
            value.copy_(tensors[name])

    def load_online(self, tensors: Mapping[str, Tensor]) -> None:
        """Start from trained weights: copy the tensors `online.*` into both networks, leave the optimizer.

        Args:
            tensors: A saved state; what is not named `online.*` is not read.

        Raises:
            KeyError: A tensor `online.*` is missing or is not one of ours.
            ValueError: A tensor `online.*` has another shape or dtype.
        """
        own = {name: value for name, value in self.state_tensors().items() if name.startswith("online.")}
        given = {name: value for name, value in tensors.items() if name.startswith("online.")}
        _check_same(own, given)
        for name, value in own.items():
            value.copy_(given[name])
        self._target.copy_(self._online)

    def _all_state(self) -> dict[str, Tensor]:
        slots = {f"optimizer.{name}": value for name, value in self._slots.items()}
        return {"online": self._online, "target": self._target, **slots}

    def _run_step(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        result: tuple[Tensor, Tensor, Tensor, Tensor] = self._step(
            self._online,
            self._target,
            self._slots,
            self._learning_rate,
            batch.obs,
            batch.action,
            batch.reward,
            batch.discount,
            batch.next_obs,
            batch.weight,
        )
        return result

    def _values(self, flat: Tensor, obs: Tensor) -> Tensor:
        with torch.no_grad():
            return self._apply(self._layout.split(flat), self._module.prepare(obs))

    def _apply(self, weights: dict[str, Tensor], pixels: Tensor) -> Tensor:
        return cast(Tensor, functional_call(self._module, weights, (pixels,), {"prepared": True}))

    def _make_step(self, config: LearnerConfig) -> _Step:
        bootstrap, loss_of = BOOTSTRAPS[config.bootstrap], LOSSES[config.loss]
        optimizer = OPTIMIZERS[config.optimizer](config)
        limit = math.inf if config.max_grad_norm is None else config.max_grad_norm
        layout, apply, prepare = self._layout, self._apply, self._module.prepare

        def step(
            online: Tensor,
            target: Tensor,
            slots: dict[str, Tensor],
            learning_rate: Tensor,
            obs: Tensor,
            action: Tensor,
            reward: Tensor,
            discount: Tensor,
            next_obs: Tensor,
            weight: Tensor,
        ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            frozen, following = layout.split(online), layout.split(target)
            pixels, next_pixels = prepare(obs), prepare(next_obs)
            next_value = bootstrap(next_pixels, lambda o: apply(frozen, o), lambda o: apply(following, o))
            goal = td_target(reward, discount, next_value)

            def objective(weights: dict[str, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
                values = apply(weights, pixels)
                td_error = goal - values.gather(1, action.unsqueeze(1)).squeeze(1)
                return weighted_mean(loss_of(td_error), weight), (values.mean(), td_error)

            # torch.func differentiates inside the trace: forward, backward and optimizer are one graph.
            gradients, (loss, (q_mean, td_error)) = grad_and_value(objective, has_aux=True)(frozen)
            gradient, norm = clip_by_norm(layout.join(gradients), limit)
            optimizer.step(online, gradient, slots, learning_rate)
            return loss, q_mean, norm, td_error

        return step


def resolve_accelerate(
    setting: Literal["auto", "eager", "compile"], device: str | torch.device, planned_updates: int
) -> Literal["eager", "compile"]:
    """Return how a run computes its updates.

    `auto` is a rule of the device and the run's length, never a timing, so that a run can be repeated:
    compiling takes up to half a minute and must be repaid by the updates that follow.

    Args:
        setting: What the user asked for.
        device: Where the learner lives.
        planned_updates: Updates of the whole run.
    """
    if setting != "auto":
        return setting
    needed = _UPDATES_THAT_REPAY_COMPILING[torch.device(device).type]
    return "compile" if planned_updates >= needed else "eager"


_Step = Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]


def _compile(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, fullgraph=True, dynamic=False)


_WRAPPERS: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    "eager": lambda function: function,
    "compile": _compile,
}


def _keep_freed_memory() -> None:
    """Have the C library keep what is freed, up to 1 GiB, instead of returning it to the system.

    An update allocates and frees tens of megabytes; getting those pages anew each time costs a third of it.
    Without glibc nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, 1 << 30)
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)


def _blank_batch(size: int, stack: int, window: bool, device: torch.device) -> Batch:
    """Return a batch of zeros with the strides of the replay's layouts."""
    shape = (size, stack + 1 if window else 2 * stack, FRAME_SIZE, FRAME_SIZE)
    frames = torch.zeros(shape, dtype=torch.uint8, device=device)
    pair = (frames[:, :stack], frames[:, -stack:])
    obs, next_obs = pair if window else (part.contiguous() for part in pair)
    zero = torch.zeros(size, device=device)
    action = torch.zeros(size, dtype=torch.int64, device=device)
    return Batch(obs, action, zero, zero.clone(), next_obs, zero.clone())


def _check_same(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Raise unless `given` has exactly the names, shapes and dtypes of `own`."""
    for name, value in own.items():
        if name not in given:
            raise KeyError(f"{name}: missing; shape {list(value.shape)} is wanted")
        other = given[name]
        if other.shape != value.shape:
            raise ValueError(f"{name}: shape {list(value.shape)} is wanted, not {list(other.shape)}")
        if other.dtype != value.dtype:
            raise ValueError(f"{name}: dtype {value.dtype} is wanted, not {other.dtype}")
    foreign = sorted(set(given) - set(own))
    if foreign:
        raise KeyError(
            f"{foreign[0]}: not a tensor of this learner; its shape is {list(given[foreign[0]].shape)}"
        )
