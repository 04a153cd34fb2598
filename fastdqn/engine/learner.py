"""The learner: an online network, a target network, an optimizer, and the launches that change them.

Where it is wanted, an average of the online network's weights beside them, for who plays without learning.

One update is a pure function (`algorithm.update`) of tensors that are allocated once and changed in place.
Acceleration is a wrapper round that function: none (eager, the reference), `torch.compile`, or the compiled
function captured in a CUDA graph, several updates a launch.
"""

from __future__ import annotations

import functools
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
    Transitions,
    Weights,
    WeightsLayout,
    advance_buffers,
    average_weights,
    copy_weights,
    make_gradient,
    make_step,
    make_update,
    passes_of,
)
from fastdqn.config import Config
from fastdqn.engine.compiling import (
    Acceleration,
    compiling,
    keep_freed_memory,
    resolve_precision,
    without_guards,
    wrapper,
)
from fastdqn.engine.data_parallel import ALONE, Ranks
from fastdqn.engine.device import Backend, CpuBackend, Work
from fastdqn.engine.draws import DrawBuffer

_READS_IN_FLIGHT = 4
"""For so many the memory is there from the beginning: page-locking it in the loop would stop the device."""

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

    @classmethod
    def zeros(cls, updates: int, batch_size: int, device: torch.device) -> LaunchResults:
        """Return new ones, each at a place that compiled code on a GPU need not copy to an aligned one."""
        step, columns = _ALIGNED, len(METRICS)
        width = step * (columns + -(-batch_size // step))
        flat = torch.zeros(updates, width, device=device)
        metrics = {name: flat[:, step * column] for column, name in enumerate(METRICS)}
        return cls(metrics, flat[:, step * columns :][:, :batch_size])

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The metrics and the priorities, in the order in which an update returns them."""
        return *self.metrics.values(), self.priority


class Means:
    """Means of what updates report: summed on the device, read without waiting for it.

    Args:
        backend: Where the updates run.

    Attributes:
        sums: float64 [len(METRICS)] on the device; each update adds to it.
        count: Updates queued since they were last cleared.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.sums = torch.zeros(len(METRICS), dtype=torch.float64, device=backend.device)
        self.count = 0
        self._free = [self._new_host() for _ in range(_READS_IN_FLIGHT)]

    def read(self, *, clear: bool = False) -> Callable[[], dict[str, float] | None]:
        """Queue a reading.

        Args:
            clear: Begin the next means after this reading.

        Returns:
            What waits for the reading and returns `METRICS`, or `None` if there was no update. Until it is called
            it keeps its memory, however many readings are queued after it.
        """
        learn, count = self._backend.learn, self.count
        host = self._free.pop() if self._free else self._new_host()
        learn.submit(lambda: host.copy_(self.sums, non_blocking=True))
        if clear:
            learn.submit(self.sums.zero_)
            self.count = 0
        event = learn.record(blocking=True)

        @functools.cache
        def read() -> dict[str, float] | None:
            event.wait()
            sums = host.tolist()
            self._free.append(host)
            return {name: value / count for name, value in zip(METRICS, sums, strict=True)} if count else None

        return read

    def state(self) -> tuple[Tensor, int]:
        """Return what is divided, for a checkpoint: the sums on the host, and the updates in them."""
        self._backend.synchronize()
        return self.sums.cpu(), self.count

    def set_state(self, sums: Tensor, count: int) -> None:
        """Go on from what `state` returned.

        Raises:
            ValueError: The shape or the dtype is another.
        """
        check_same({"sums": self.sums}, {"sums": sums})
        self.sums.copy_(sums)
        self.count = count
        self._backend.synchronize()

    def _new_host(self) -> Tensor:
        return self._backend.host_memory(len(METRICS), dtype=torch.float64)


class Learner:
    """Q-learning from batches.

    Two learners of the same arguments that see the same batches on the same machine hold the same bits. All
    tensors of the state are allocated here, once; only the backend's stream `learn` changes them. How many
    updates there were is the run's to count: each launch is given its place among them.

    Args:
        config: Its groups `network`, `learner` and `optimizer`, and the pipeline's precision, decide.
        num_actions: Number of actions.
        backend: Where all tensors live; the CPU if none is given.
        seed: Decides the initial weights, and the random numbers of layers that take some.
        ranks: Who learns together: each update averages its gradient over them. They begin with the state of
            rank 0, and so hold the same one from then on. `learner.batch_size` is that of all ranks.
        accelerate: `eager`, `compile` for `torch.compile`, or `graph` for the compiled update captured by the
            backend: what `resolve_accelerate` makes of the pipeline's.

    Attributes:
        backend: As given.
        accelerate: How updates are run, as given.
        precision: Of the network's products: what `resolve_precision` makes of the pipeline's.
        captured: Whether launches are captured by the backend.
        wrap: What is put round a function that is to be run as the updates are.
        network: The network's structure; its own tensors are not used.
        layout: Where its tensors lie in `weights`.
        weights: The online network, live.
        num_parameters: Weights and biases of one network.
        means: Of what the updates report.
    """

    def __init__(
        self,
        config: Config,
        num_actions: int,
        *,
        backend: Backend | None = None,
        seed: int = 0,
        accelerate: Acceleration = "eager",
        ranks: Ranks = ALONE,
    ) -> None:
        self.backend = backend or CpuBackend()
        self._ranks = ranks
        device = self.backend.device
        self.precision = resolve_precision(config.pipeline.precision, device, config.network)
        dtype = _COMPUTE_DTYPES[self.precision]
        module = QNetwork(
            config.network, num_actions, compute_dtype=dtype, generator=torch.Generator().manual_seed(seed)
        )
        self.layout = WeightsLayout(module, arranged=device.type == "cuda")
        self.weights = Weights(*(part.to(device) for part in self.layout.join(module)))
        self._target = self.weights.clone()
        self._averaged_updates = config.learner.average_updates or 0
        # What plays: the average, or the newest weights where none is kept.
        self._played = self.weights.clone() if self._averaged_updates else self.weights
        optimizer = OPTIMIZERS[config.optimizer.name](config.optimizer, gradient_scale(config.learner))
        self._slots = optimizer.initial_state(self.weights.parameters)
        self._rate = config.optimizer.learning_rate
        self._learning_rate = torch.full((), self._rate, dtype=torch.float32, device=device)
        self.network = module.to(device).requires_grad_(False)
        self._config, self._seed = config, seed
        self.accelerate = accelerate
        self.captured = accelerate == "graph"
        compiled = self.backend.compiles_captures if self.captured else accelerate == "compile"
        self.wrap = wrapper(compiled, device)
        self.means = Means(self.backend)
        self.num_parameters = self.layout.parameters.size
        keep_freed_memory()
        self.backend.synchronize()  # the memory was filled on another stream than those that will use it

    def prepare(self, inputs: LaunchInputs) -> None:
        """Make ready to launch updates: compile and capture, a minute at worst.

        The state stays as it is, to the bit, though every operation is tried on it; of several ranks it is that
        of rank 0.

        Args:
            inputs: Batches of zeros will do, at the places where those to come will lie.
        """
        self.backend.synchronize()  # the batches' frames may still be on their way
        count, rows = inputs.updates, len(inputs.batch(*inputs.tensors[0]).action)
        self._count_per_launch = count
        names = passes_of(self.network, self._config.learner)
        passes = dict.fromkeys(names, draws_of(self.network, rows))
        self._draws = DrawBuffer(passes, self.backend.device, self._seed, copies=count)
        self._results = LaunchResults.zeros(count, rows, self.backend.device)
        self._launch: Work = self._launch_of(inputs)
        changed = (*self.weights, *self._slots.values(), self.means.sums)
        for value in (*changed, *self._target, *(self._played if self._averaged_updates else ())):
            self._ranks.broadcast(value)
        saved = [value.clone() for value in changed]
        self.backend.synchronize()  # what was allocated and cloned so far was written on another stream
        with compiling():
            if self.captured:
                # The gather and the outputs' copies are inside: a launch is nothing but the graph.
                self._launch = self.backend.capture(self._launch, self._results.tensors, self.backend.learn)
            else:
                self.backend.learn.submit(self._launch)
                self._launch = self.settled(self._launch)
        self.backend.synchronize()
        for value, before in zip(changed, saved, strict=True):
            value.copy_(before)
        self.backend.synchronize()

    def settled(self, work: Work) -> Work:
        """Return work that has run, and calls what `wrap` returned with the same tensors each time."""
        return without_guards(work) if self.accelerate == "compile" else work

    def launch(self, index: int, learning_rate: float | None = None) -> LaunchResults:
        """Queue one update on each batch of the inputs, then the target's copy where its period has passed.

        Where an average of the weights is wanted, they enter it after each launch: of the first `average_updates`
        all alike, after that exponentially (Tarvainen and Valpola 2017).

        Args:
            index: Number of the launch's first update in the run, counted from 0: the layers' random numbers, the
                target's copies and the weights' shares of their average follow from it.
            learning_rate: From this launch on; `None` keeps the last one.

        Returns:
            What the updates report once they are done, in memory that the next launch uses again.
        """
        learn, period = self.backend.learn, self._config.learner.target_period_updates
        if learning_rate is not None and learning_rate != self._rate:
            self._rate = learning_rate
            learn.submit(lambda: self._learning_rate.fill_(learning_rate))
        learn.submit(lambda: self._draws.fill(index))
        learn.submit(self._launch)
        count = self._count_per_launch
        self.means.count += count
        if (index + count) // period > index // period:
            learn.submit(lambda: copy_weights(self.weights, self._target))
        if self._averaged_updates:
            share = min(1.0, count / min(index + count, self._averaged_updates))
            learn.submit(lambda: average_weights(self.weights, self._played, share))
        return self._results

    def state_tensors(self) -> dict[str, Tensor]:
        """Return the live tensors of the state in the shapes of the module's own.

        Returns:
            `online.<name>` and `target.<name>` for the network's parameters and buffers, `average.<name>` where
            one is kept, `optimizer.<slot>.<parameter>`, and `optimizer.<slot>` for a slot without
            dimensions. Changing one changes the learner, once queued updates are done.
        """
        self.backend.synchronize()
        result: dict[str, Tensor] = {}
        networks = {"online": self.weights, "target": self._target}
        if self._averaged_updates:
            networks["average"] = self._played
        for prefix, weights in networks.items():
            result.update((f"{prefix}.{name}", part) for name, part in self.layout.split(weights).items())
        for slot, value in self._slots.items():
            if value.dim() == 0:
                result[f"optimizer.{slot}"] = value
            else:
                parts = self.layout.parameters.split(value)
                result.update((f"optimizer.{slot}.{name}", part) for name, part in parts.items())
        return result

    def policy_tensors(self) -> dict[str, Tensor]:
        """Return the live tensors that are to play, by the module's names."""
        self.backend.synchronize()
        return self.layout.split(self._played)

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
        """Start from trained weights: copy the tensors `online.*` into online, target and average.

        Args:
            tensors: A saved state; what is not named `online.*` is not read.

        Raises:
            KeyError: A tensor `online.*` is missing or is not one of ours.
            ValueError: A tensor `online.*` has another shape or dtype.
        """
        given = {name: value for name, value in tensors.items() if name.startswith("online.")}
        own = {name: value for name, value in self.state_tensors().items() if not name.startswith("online.")}
        self.load_state_tensors({**own, **given})
        copy_weights(self.weights, self._target)
        if self._averaged_updates:
            copy_weights(self.weights, self._played)
        self.backend.synchronize()

    def _launch_of(self, inputs: LaunchInputs) -> Work:
        """Return what does the updates of one launch, each as one function that can be compiled."""
        if self._ranks.count > 1:
            return self._launch_of_ranks(inputs)
        config, batch_of = self._config, inputs.batch
        update = make_update(self.network, self.layout, config.learner, config.optimizer)

        def step(
            online: Weights,
            target: Weights,
            slots: dict[str, Tensor],
            learning_rate: Tensor,
            sums: Tensor,
            results: tuple[Tensor, ...],
            tensors: tuple[Tensor, ...],
            draws: Mapping[str, Mapping[str, Tensor]],
        ) -> None:
            metrics, priority = update(online, target, slots, learning_rate, batch_of(*tensors), draws)
            sums.add_(torch.stack([metrics[name] for name in METRICS]))
            for kept, value in zip(results, (*metrics.values(), priority), strict=True):
                kept.copy_(value)

        step, slots = self.wrap(step), self._slots_of_launches()
        results = [tuple(value[index] for value in self._results.tensors) for index in range(inputs.updates)]

        def launch() -> None:
            for own, tensors, draws in zip(results, inputs.tensors, self._draws.parts, strict=True):
                step(
                    self.weights,
                    self._target,
                    slots,
                    self._learning_rate,
                    self.means.sums,
                    own,
                    tensors,
                    draws,
                )

        return launch

    def _slots_of_launches(self) -> dict[str, Tensor]:
        """Return the optimizer's slots as the updates take them.

        Of a float64 number without dimensions on a CPU, Adam's count, Dynamo makes a symbol, finds at the end of
        its trace that nobody reads it, and traces all once more, a fifth of the time that compiling takes.
        """
        if self.accelerate != "compile":
            return self._slots
        return {name: value if value.dim() else value.view(1) for name, value in self._slots.items()}

    def _launch_of_ranks(self, inputs: LaunchInputs) -> Work:
        """Return the same of several ranks: each update is two functions, and a sum over the ranks between them.

        Loss and mean value travel with the gradient, so that every rank reports those of the whole batch.
        """
        config, batch_of, count = self._config, inputs.batch, self._ranks.count
        gradient_of = make_gradient(self.network, self.layout, config.learner)
        take_step = make_step(self.layout, config.learner, config.optimizer)
        size = self.weights.parameters.numel()
        shared = torch.zeros(size + 2, device=self.backend.device)

        def first(
            online: Weights,
            target: Weights,
            shared: Tensor,
            priority: Tensor,
            tensors: tuple[Tensor, ...],
            draws: Mapping[str, Mapping[str, Tensor]],
        ) -> None:
            found = gradient_of(online, target, batch_of(*tensors), draws)
            shared.copy_(torch.cat([found.gradient, torch.stack([found.loss, found.q_mean])]) / count)
            priority.copy_(found.priority)
            advance_buffers(self.layout, online, found.buffers)

        def second(
            online: Weights,
            slots: dict[str, Tensor],
            learning_rate: Tensor,
            sums: Tensor,
            results: tuple[Tensor, ...],
            shared: Tensor,
        ) -> None:
            norm = take_step(online, slots, learning_rate, shared[:size])
            metrics = (shared[size], shared[size + 1], norm)
            sums.add_(torch.stack(metrics))
            for kept, value in zip(results, metrics, strict=True):
                kept.copy_(value)

        first, second, slots = self.wrap(first), self.wrap(second), self._slots_of_launches()
        metrics = [tuple(value[i] for value in self._results.metrics.values()) for i in range(inputs.updates)]

        def launch() -> None:
            for own, priority, tensors, draws in zip(
                metrics, self._results.priority, inputs.tensors, self._draws.parts, strict=True
            ):
                first(self.weights, self._target, shared, priority, tensors, draws)
                self._ranks.all_reduce(shared)
                second(self.weights, slots, self._learning_rate, self.means.sums, own, shared)

        return launch
