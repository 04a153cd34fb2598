"""The learner: an online network, a target network, an optimizer, and the launches that change them.

One update is a pure function (`algorithm.update`) of tensors that are allocated once and changed in place.
Acceleration is a wrapper round that function: none (eager, the reference), `torch.compile`, or the compiled
function captured in a CUDA graph, several updates a launch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastdqn.algorithm.layers import draws_of
from fastdqn.algorithm.networks import QNetwork
from fastdqn.algorithm.optimizers import OPTIMIZERS, gradient_scale
from fastdqn.algorithm.parameters import check_same
from fastdqn.algorithm.update import (
    METRICS,
    PASSES,
    Transitions,
    Weights,
    WeightsLayout,
    copy_weights,
    make_update,
)
from fastdqn.config import Config
from fastdqn.engine.compiling import WRAPPERS, Acceleration, keep_freed_memory
from fastdqn.engine.device import Backend, CpuBackend, Work
from fastdqn.engine.draws import DrawBuffer

_READS_IN_FLIGHT = 4
_ALIGNED = 16  # float32 numbers: 64 bytes
_COMPUTE_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class LaunchInputs:
    """The batches of a launch, in memory that stays where it is.

    Attributes:
        tensors: For each update of a launch, what `batch` takes.
        batch: From those to the batch, by tensor operations alone: it becomes a part of the compiled update.
    """

    tensors: Sequence[tuple[Tensor, ...]]
    batch: Callable[..., Transitions]

    @property
    def updates(self) -> int:
        """Updates of a launch, K."""
        return len(self.tensors)


@dataclass(frozen=True)
class LaunchResults:
    """What the K updates of a launch report; float32 on the learner's device.

    Attributes:
        metrics: [K] each, by the names in `algorithm.update.METRICS`.
        priority: [K, B], of each transition of each batch.
    """

    metrics: Mapping[str, Tensor]
    priority: Tensor


class Learner:
    """Q-learning from batches.

    Two learners of the same arguments that see the same batches on the same machine hold the same bits. All
    tensors of the state are allocated here, once; only the backend's stream `learn` changes them.

    Args:
        config: Its groups `network`, `learner` and `optimizer`, and the pipeline's precision, decide.
        num_actions: Number of actions.
        backend: Where all tensors live; the CPU if none is given.
        seed: Decides the initial weights, and the random numbers of layers that take some.
        accelerate: `eager`, `compile` for `torch.compile`, or `graph` for the compiled update captured by the
            backend: what `resolve_accelerate` makes of the pipeline's.

    Attributes:
        updates: Updates queued so far; set it when a run is resumed.
        accelerate: How updates are run, as given.
        network: The network's structure; its own tensors are not used.
        weights: The online network, live.
        num_parameters: Weights and biases of one network.
    """

    def __init__(
        self,
        config: Config,
        num_actions: int,
        *,
        backend: Backend | None = None,
        seed: int = 0,
        accelerate: Acceleration = "eager",
    ) -> None:
        self.backend = backend or CpuBackend()
        device = self.backend.device
        dtype = _COMPUTE_DTYPES[config.pipeline.precision]
        module = QNetwork(
            config.network, num_actions, compute_dtype=dtype, generator=torch.Generator().manual_seed(seed)
        )
        self._layout = WeightsLayout(module)
        self.weights = Weights(*(part.to(device) for part in self._layout.join(module)))
        self._target = self.weights.clone()
        optimizer = OPTIMIZERS[config.optimizer.name](config.optimizer, gradient_scale(config.learner))
        self._slots = optimizer.initial_state(self.weights.parameters)
        self._rate = config.optimizer.learning_rate
        self._learning_rate = torch.tensor(self._rate, dtype=torch.float32, device=device)
        self.network = module.to(device).requires_grad_(False)
        self._config, self._seed = config, seed
        self.accelerate = accelerate
        self.captured = accelerate == "graph"
        compiled = self.backend.compiles_captures if self.captured else accelerate == "compile"
        self.wrap = WRAPPERS[compiled]
        self._totals = torch.zeros(len(METRICS), dtype=torch.float64, device=device)
        self._read_totals = [
            self.backend.host_memory(len(METRICS), dtype=torch.float64) for _ in range(_READS_IN_FLIGHT)
        ]
        self._counted = self._reads = 0
        self.num_parameters = self._layout.parameters.size
        self.updates = 0
        keep_freed_memory()

    def prepare(self, inputs: LaunchInputs) -> None:
        """Make ready to launch updates: compile and capture, a minute at worst.

        The state stays as it is, to the bit, though every operation is tried on it.

        Args:
            inputs: Batches of zeros will do, at the places where those to come will lie.
        """
        count, rows = inputs.updates, len(inputs.batch(*inputs.tensors[0]).action)
        self._count_per_launch = count
        passes = dict.fromkeys(PASSES, draws_of(self.network, rows))
        self._draws = DrawBuffer(passes, self.backend.device, self._seed, copies=count)
        self._results = self._new_results(count, rows)
        self._launch: Work = self._launch_of(inputs)
        saved = {name: value.clone() for name, value in self._changed_by_updates().items()}
        self.backend.synchronize()  # what was allocated and cloned so far was written on another stream
        if self.captured:
            # The gather and the outputs' copies are inside: a launch is nothing but the graph.
            outputs = [*self._results.metrics.values(), self._results.priority]
            self._launch = self.backend.capture(self._launch, outputs, self.backend.learn)
        else:
            self.backend.learn.submit(self._launch)
        self.backend.synchronize()
        for name, value in self._changed_by_updates().items():
            value.copy_(saved[name])
        self.backend.synchronize()

    def launch(self, learning_rate: float | None = None) -> LaunchResults:
        """Queue one update on each batch of the inputs, then the target's copy where its period has passed.

        Args:
            learning_rate: From this launch on; `None` keeps the last one.

        Returns:
            What the updates report once they are done, in memory that the next launch uses again.
        """
        learn, index = self.backend.learn, self.updates
        if learning_rate is not None and learning_rate != self._rate:
            self._rate = learning_rate
            learn.submit(lambda: self._learning_rate.fill_(learning_rate))
        learn.submit(lambda: self._draws.fill(index))
        learn.submit(self._launch)
        self._counted += self._count_per_launch
        self.updates += self._count_per_launch
        period = self._config.learner.target_period_updates
        if self.updates // period > index // period:
            learn.submit(lambda: copy_weights(self.weights, self._target))
        return self._results

    def means(self, *, clear: bool = False) -> Callable[[], dict[str, float] | None]:
        """Queue a reading of the updates' means since they were last cleared.

        Args:
            clear: Begin the next means after this reading.

        Returns:
            What waits for the reading and returns `METRICS`, or `None` if there was no update. To be called within
            the next few readings: the memory is used again.
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
            return {name: float(host[i]) / count for i, name in enumerate(METRICS)} if count else None

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

    def state_tensors(self) -> dict[str, Tensor]:
        """Return the live tensors of the state, contiguous, in the shapes of the module's own.

        Returns:
            `online.<name>` and `target.<name>` for the network's parameters and buffers,
            `optimizer.<slot>.<parameter>`, and `optimizer.<slot>` for a slot without dimensions. Changing one
            changes the learner, once queued updates are done.
        """
        self.backend.synchronize()
        result: dict[str, Tensor] = {}
        for prefix, weights in (("online", self.weights), ("target", self._target)):
            result.update((f"{prefix}.{name}", part) for name, part in self._layout.split(weights).items())
        for slot, value in self._slots.items():
            if value.dim() == 0:
                result[f"optimizer.{slot}"] = value
            else:
                parts = self._layout.parameters.split(value)
                result.update((f"optimizer.{slot}.{name}", part) for name, part in parts.items())
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
        copy_weights(self.weights, self._target)
        self.backend.synchronize()

    def _changed_by_updates(self) -> dict[str, Tensor]:
        return {
            **self._slots,
            "parameters": self.weights.parameters,
            "buffers": self.weights.buffers,
            "totals": self._totals,
        }

    def _new_results(self, updates: int, batch_size: int) -> LaunchResults:
        """Allocate results, each at a place that compiled code on a GPU need not copy to an aligned one."""
        step, columns = _ALIGNED, len(METRICS)
        width = step * (columns + -(-batch_size // step))
        flat = torch.zeros(updates, width, device=self.backend.device)
        metrics = {name: flat[:, step * column] for column, name in enumerate(METRICS)}
        return LaunchResults(metrics, flat[:, step * columns :][:, :batch_size])

    def _launch_of(self, inputs: LaunchInputs) -> Work:
        """Return what does the updates of one launch, each as one function that can be compiled."""
        config, batch_of = self._config, inputs.batch
        update = make_update(self.network, config.learner, config.optimizer)

        def step(
            online: Weights,
            target: Weights,
            slots: dict[str, Tensor],
            learning_rate: Tensor,
            totals: Tensor,
            results: tuple[Tensor, ...],
            tensors: tuple[Tensor, ...],
            draws: Mapping[str, Mapping[str, Tensor]],
        ) -> None:
            metrics, priority = update(online, target, slots, learning_rate, batch_of(*tensors), draws)
            totals.add_(torch.stack([metrics[name] for name in METRICS]))
            for kept, value in zip(results, (*metrics.values(), priority), strict=True):
                kept.copy_(value)

        step = self.wrap(step)
        results = [
            (*(value[index] for value in self._results.metrics.values()), self._results.priority[index])
            for index in range(inputs.updates)
        ]

        def launch() -> None:
            for own, tensors, draws in zip(results, inputs.tensors, self._draws.parts, strict=True):
                step(
                    self.weights,
                    self._target,
                    self._slots,
                    self._learning_rate,
                    self._totals,
                    own,
                    tensors,
                    draws,
                )

        return launch
