"""The learner: an online network, a target network and an optimizer; no environment, file or console.

One update is one pure function of tensors that are allocated once and changed in place. Acceleration is a
wrapper round that function: none (eager, the reference), `torch.compile`, or the compiled function captured
in a CUDA graph, several updates a launch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value

from fastdqn.acceleration import WRAPPERS, Acceleration, keep_freed_memory
from fastdqn.backend import Backend, CpuBackend, Work
from fastdqn.config import LearnerConfig, NetworkConfig
from fastdqn.flat import FlatLayout, check_same
from fastdqn.networks import QNetwork
from fastdqn.objectives import BOOTSTRAPS, LOSSES, td_target, weighted_mean
from fastdqn.optimizers import OPTIMIZERS, clip_by_norm, gradient_scale


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


MEANS = ("loss", "q_mean", "grad_norm")
"""What `Learner.means` tells."""

_READS_IN_FLIGHT = 4
_ALIGNED = 16  # float32 numbers: 64 bytes
_FIELDS = ("obs", "action", "reward", "discount", "next_obs", "weight")


@dataclass(frozen=True)
class Source:
    """The batches of a launch, in memory that stays where it is.

    Attributes:
        inputs: For each update of a launch, the tensors that `batch` takes.
        batch: From those to the batch, by tensor operations alone: it becomes a part of the compiled update.
    """

    inputs: Sequence[tuple[Tensor, ...]]
    batch: Callable[..., Batch]


class UpdateResult(NamedTuple):
    """What an update tells; tensors on the learner's device. Those of a launch have a leading axis of its updates.

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


class Learner:
    """Q-learning from batches.

    Two learners of the same arguments that see the same batches on the same machine hold the same bits. All
    tensors of the state are allocated here, once; only the backend's stream `learn` changes them.

    Args:
        network: The network's shape.
        config: The update's rules.
        num_actions: Number of actions.
        backend: Where all tensors live; the CPU if none is given.
        seed: Decides the initial weights.
        accelerate: `eager`, `compile` for `torch.compile`, or `graph` for the compiled update captured by the
            backend; `resolve_accelerate` turns `auto` into one.
        block_targets: Whether the target network values all batches of a launch in one pass, which is the same
            but for rounding: it is not copied within a launch. Until a GPU has shown that it pays, only
            benchmarks/gpu.py asks for it.

    Attributes:
        updates: Updates queued so far; set it when a run is resumed, for the target network's period.
        num_parameters: Weights and biases of one network.
    """

    def __init__(
        self,
        network: NetworkConfig,
        config: LearnerConfig,
        num_actions: int,
        *,
        backend: Backend | None = None,
        seed: int = 0,
        accelerate: Acceleration = "eager",
        block_targets: bool = False,
    ) -> None:
        self.backend = backend or CpuBackend()
        device = self.backend.device
        generator = torch.Generator().manual_seed(seed)
        module = QNetwork(
            num_actions,
            width=network.width,
            dueling=network.dueling,
            centered=network.centered,
            compute_dtype=torch.bfloat16 if config.precision == "bf16" else torch.float32,
            generator=generator,
        )
        self._layout = FlatLayout(module)
        self._online = self._layout.join(dict(module.named_parameters())).detach().to(device)
        self._target = self._online.clone()
        self._slots = OPTIMIZERS[config.optimizer](config).initial_state(self._online)
        self._learning_rate = torch.tensor(config.learning_rate, dtype=torch.float32, device=device)
        self._rate = config.learning_rate
        self._module = module.to(device).requires_grad_(False)
        self._config = config
        self._graph = accelerate == "graph"
        compiled = self.backend.compiles_captures if self._graph else accelerate == "compile"
        self._wrap = WRAPPERS[compiled]
        self._block_targets = block_targets
        self._values_ahead = self._wrap(self._target_values)
        self._steps: dict[Callable[..., Batch], Callable[..., None]] = {}
        self._fast_values = self._wrap(self._values)
        self._fast_rows = 0
        self._totals = torch.zeros(len(MEANS), dtype=torch.float64, device=device)
        self._read_totals = [
            self.backend.host_memory(len(MEANS), dtype=torch.float64) for _ in range(_READS_IN_FLIGHT)
        ]
        self._counted = self._reads = 0
        self._source: Source | None = None
        self._results: UpdateResult | None = None
        self.num_parameters = self._layout.size
        self.updates = 0
        keep_freed_memory()

    def update(self, batch: Batch, learning_rate: float | None = None) -> UpdateResult:
        """Do one update now; after every `target_period_updates` of them copy the online to the target network.

        For whoever has batches of their own. A run binds a source of batches and launches instead.

        Args:
            batch: Transitions, of the same size and strides at each call.
            learning_rate: From this update on; none keeps the last one.

        Returns:
            Metrics and TD errors.

        Raises:
            TypeError: An observation is not uint8.
            ValueError: An observation has another shape.
        """
        given = tuple(getattr(batch, name) for name in _FIELDS)
        if self._graph:
            if self._source is None:
                self.bind(Source([tuple(tensor.clone() for tensor in given)], Batch))
            assert self._source is not None
            self.backend.synchronize()  # of the last batch's readers, and of whoever made this one
            for static, tensor in zip(self._source.inputs[0], given, strict=True):
                static.copy_(tensor)
            self.backend.synchronize()
            results = self.launch(learning_rate)
        else:
            self._set_learning_rate(learning_rate)
            results = self._new_results(1, len(batch.action))
            # The zeros, and the batch of whoever made it, were written on another stream.
            self.backend.synchronize()
            self.backend.learn.submit(lambda: self._run_block([given], Batch, results))
            self._count(1)
        self.backend.synchronize()
        return UpdateResult(*(value[0].clone() for value in results))

    def bind(self, source: Source) -> None:
        """Make ready to launch updates on a source: compile and capture, a minute at worst.

        The state stays as it is, to the bit, though every operation is tried on it.

        Args:
            source: Batches of zeros will do, at the places where those to come will lie.
        """
        self._source = source
        batch = source.batch(*source.inputs[0])
        results = self._results = self._new_results(len(source.inputs), len(batch.action))
        self._launch: Work = lambda: self._run_block(source.inputs, source.batch, results)
        saved = {name: value.clone() for name, value in self._touched().items()}
        self.backend.synchronize()  # what was allocated and cloned so far was written on another stream
        if self._graph:
            # The gather and the outputs' copies are inside: a launch is nothing but the graph.
            self._launch = self.backend.capture(self._launch, results, self.backend.learn)
        else:
            self.backend.learn.submit(self._launch)
        self.backend.synchronize()
        for name, value in self._touched().items():
            value.copy_(saved[name])
        self.backend.synchronize()

    def launch(self, learning_rate: float | None = None) -> UpdateResult:
        """Queue one update on each batch of the source, then the target's copy where its period has passed.

        Args:
            learning_rate: From this launch on; none keeps the last one.

        Returns:
            What the updates tell once they are done, in memory that the next launch uses again.
        """
        assert self._source is not None, "bind comes first"
        assert self._results is not None
        self._set_learning_rate(learning_rate)
        self.backend.learn.submit(self._launch)
        self._count(len(self._source.inputs))
        return self._results

    def means(self, *, clear: bool = False) -> Callable[[], dict[str, float] | None]:
        """Queue a reading of the updates' means since they were last cleared.

        Args:
            clear: Begin the next means after this reading.

        Returns:
            What waits for the reading and returns loss, q_mean and grad_norm, or none if there was no update.
            Ask within the next few readings: the memory is used again.
        """
        learn, count = self.backend.learn, self._counted
        host = self._read_totals[self._reads % _READS_IN_FLIGHT]
        self._reads += 1
        learn.submit(lambda: host.copy_(self._totals, non_blocking=True))
        if clear:
            learn.submit(self._totals.zero_)
            self._counted = 0
        event = learn.record()

        def read() -> dict[str, float] | None:
            event.wait()
            return {name: float(host[i]) / count for i, name in enumerate(MEANS)} if count else None

        return read

    def sums(self) -> tuple[Tensor, int]:
        """Return what `means` divides, for a checkpoint: float64 sums on the host, and the updates in them."""
        self.backend.synchronize()
        return self._totals.cpu(), self._counted

    def set_sums(self, totals: Tensor, count: int) -> None:
        """Go on from what `sums` returned.

        Raises:
            ValueError: The shape or the dtype is another.
        """
        check_same({"sums": self._totals}, {"sums": totals})
        self._totals.copy_(totals)
        self._counted = count
        self.backend.synchronize()

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
        return self.q_values_of(self._online, obs)

    def q_values_of(self, weights: Tensor, obs: Tensor) -> Tensor:
        """Return the action values of any weights, as `q_values` does.

        Args:
            weights: float32 [num_parameters]: `weights`, or a copy of an earlier state of it.
            obs: As in `q_values`.
        """
        self._fast_rows = self._fast_rows or obs.shape[0]
        values = self._fast_values if obs.shape[0] == self._fast_rows else self._values
        return values(weights, obs.contiguous())

    @property
    def weights(self) -> Tensor:
        """The online network, float32 [num_parameters], live."""
        return self._online

    def state_tensors(self) -> dict[str, Tensor]:
        """Return the live tensors of the state, contiguous, in the shapes of the module's own.

        Returns:
            `online.<parameter>`, `target.<parameter>`, `optimizer.<slot>.<parameter>`, and `optimizer.<slot>`
            for a slot without dimensions. Changing one changes the learner, once queued updates are done.
        """
        self.backend.synchronize()
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
        check_same(own, tensors)
        for name, value in own.items():
            value.copy_(tensors[name])
        self.backend.synchronize()

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
        check_same(own, given)
        for name, value in own.items():
            value.copy_(given[name])
        self._target.copy_(self._online)
        self.backend.synchronize()

    def _all_state(self) -> dict[str, Tensor]:
        slots = {f"optimizer.{name}": value for name, value in self._slots.items()}
        return {"online": self._online, "target": self._target, **slots}

    def _touched(self) -> dict[str, Tensor]:
        """All that an update changes."""
        return {**self._all_state(), "totals": self._totals}

    def _set_learning_rate(self, learning_rate: float | None) -> None:
        if learning_rate is not None and learning_rate != self._rate:
            self._rate = learning_rate
            self.backend.learn.submit(lambda: self._learning_rate.fill_(learning_rate))

    def _count(self, updates: int) -> None:
        """Count updates; copy the target where they reach its period."""
        before, self.updates = self.updates, self.updates + updates
        self._counted += updates
        if self.updates // self._config.target_period_updates > before // self._config.target_period_updates:
            self.backend.learn.submit(lambda: self._target.copy_(self._online))

    def _new_results(self, updates: int, batch_size: int) -> UpdateResult:
        """Allocate results, each at a place that compiled code on a GPU need not copy to an aligned one."""
        step, columns = _ALIGNED, len(MEANS)
        width = step * (columns + -(-batch_size // step))
        flat = torch.zeros(updates, width, device=self.backend.device)
        loss, q_mean, grad_norm = (flat[:, step * column] for column in range(columns))
        return UpdateResult(loss, q_mean, grad_norm, flat[:, step * columns :][:, :batch_size])

    def _run_block(
        self, inputs: Sequence[tuple[Tensor, ...]], batch_of: Callable[..., Batch], results: UpdateResult
    ) -> None:
        if batch_of not in self._steps:
            self._steps[batch_of] = self._wrap(self._make_step(batch_of))
        step = self._steps[batch_of]
        ahead = self._values_ahead(batch_of, inputs) if self._block_targets else None
        for index, tensors in enumerate(inputs):
            step(
                self._online,
                self._target,
                self._slots,
                self._learning_rate,
                self._totals,
                tuple(value[index] for value in results),
                tensors,
                None if ahead is None else ahead[index],
            )

    def _target_values(
        self, batch_of: Callable[..., Batch], inputs: Sequence[tuple[Tensor, ...]]
    ) -> tuple[Tensor, ...]:
        """Return the target network's values of each batch's next observations, [B, A]."""
        following = [batch_of(*tensors).next_obs for tensors in inputs]
        return torch.split(self._values(self._target, torch.cat(following)), len(following[0]))

    def _values(self, flat: Tensor, obs: Tensor) -> Tensor:
        with torch.no_grad():
            return self._apply(self._layout.split(flat), self._module.prepare(obs))

    def _apply(self, weights: dict[str, Tensor], pixels: Tensor) -> Tensor:
        return cast(Tensor, functional_call(self._module, weights, (pixels,), {"prepared": True}))

    def _make_step(self, batch_of: Callable[..., Batch]) -> Callable[..., None]:
        config = self._config
        bootstrap, loss_of = BOOTSTRAPS[config.bootstrap], LOSSES[config.loss]
        optimizer = OPTIMIZERS[config.optimizer](config)
        limit = math.inf if config.max_grad_norm is None else config.max_grad_norm / gradient_scale(config)
        layout, apply, prepare = self._layout, self._apply, self._module.prepare

        def step(
            online: Tensor,
            target: Tensor,
            slots: dict[str, Tensor],
            learning_rate: Tensor,
            totals: Tensor,
            results: tuple[Tensor, ...],
            inputs: tuple[Tensor, ...],
            target_values: Tensor | None,
        ) -> None:
            batch = batch_of(*inputs)
            frozen, following = layout.split(online), layout.split(target)
            pixels, next_pixels = prepare(batch.obs), prepare(batch.next_obs)
            next_value = bootstrap(
                next_pixels,
                lambda o: apply(frozen, o),
                lambda o: apply(following, o) if target_values is None else target_values,
            )
            goal = td_target(batch.reward, batch.discount, next_value)

            def objective(weights: dict[str, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
                values = apply(weights, pixels)
                td_error = goal - values.gather(1, batch.action.unsqueeze(1)).squeeze(1)
                return weighted_mean(loss_of(td_error), batch.weight), (values.mean(), td_error)

            # torch.func differentiates inside the trace: forward, backward and optimizer are one graph.
            gradients, (loss, (q_mean, td_error)) = grad_and_value(objective, has_aux=True)(frozen)
            gradient, norm = clip_by_norm(layout.join(gradients), limit)
            optimizer.step(online, gradient, slots, learning_rate)
            totals.add_(torch.stack([loss, q_mean, norm]))
            for kept, value in zip(results, (loss, q_mean, norm, td_error), strict=True):
                kept.copy_(value)

        return step
