"""The update beside plain float64 PyTorch; compiled beside eager; bits, target copies, state in place."""

from __future__ import annotations

import dataclasses
import itertools
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.func import functional_call
from torch.nn import functional

from fastdqn.algorithm import layers
from fastdqn.algorithm.heads import PRIORITY_FLOOR
from fastdqn.algorithm.losses import LOSSES
from fastdqn.algorithm.update import Transitions, WeightsLayout
from fastdqn.config import Config, LearnerConfig, NetworkConfig, OptimizerConfig, PipelineConfig
from fastdqn.engine import learner as learners
from fastdqn.engine.acting import ActingNetwork
from fastdqn.engine.compiling import resolve_accelerate, resolve_precision
from fastdqn.engine.learner import LaunchInputs, Learner
from fastdqn.runs.machine import with_precision
from tests.reference import learning as reference

ACTIONS = 4
ROWS = 8
NARROW = NetworkConfig(width=0.125)

# Each value of loss, rule, optimizer, head and norm limit is in at least one of them.
FEW = [
    ("huber", "max", "rmsprop", False, None),
    ("squared", "double", "adagrad", True, 0.05),
    ("huber", "double", "adam", True, 0.05),
]
ALL = [
    (loss, rule, optimizer, rule == "double", limit)
    for loss, rule, optimizer, limit in itertools.product(
        ["huber", "squared"], ["max", "double"], ["adam", "rmsprop", "adagrad"], [0.05]
    )
]
Rules = tuple[str, str, str, bool, float | None]


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    """Each learner's step is compiled anew; PyTorch refuses after eight versions of one function."""
    torch.compiler.reset()


def batch(seed: int, rows: int = ROWS, *, window: bool = False) -> Transitions:
    """Random transitions, a quarter of them terminal, with weights."""
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (rows, 8, 84, 84), dtype=torch.uint8, generator=generator)
    obs, next_obs = frames[:, :4], frames[:, 1:5]
    if not window:
        obs, next_obs = obs.contiguous(), next_obs.contiguous()
    going = torch.rand(rows, generator=generator) < 0.75
    return Transitions(
        obs=obs,
        action=torch.randint(0, ACTIONS, (rows,), generator=generator),
        reward=3 * torch.randn(rows, generator=generator),
        discount=0.97 * going.float(),
        next_obs=next_obs,
        weight=torch.rand(rows, generator=generator) + 0.1,
    )


def fields(rows: Transitions) -> tuple[torch.Tensor, ...]:
    """The batch as a source of whole batches gives it, in memory of its own."""
    return tuple(getattr(rows, field.name).clone() for field in dataclasses.fields(Transitions))


def learner(
    rules: Rules = FEW[2],
    accelerate: str = "eager",
    *,
    seed: int = 0,
    period: int = 3,
    reduction: str = "mean",
    average: int | None = None,
) -> Learner:
    loss, rule, optimizer, dueling, limit = rules
    config = Config(
        network=dataclasses.replace(NARROW, dueling=dueling),
        learner=LearnerConfig(
            loss=loss,  # type: ignore[arg-type]
            rule=rule,
            reduction=reduction,  # type: ignore[arg-type]
            batch_size=ROWS,
            target_period_updates=period,
            average_updates=average,
        ),
        optimizer=OptimizerConfig(
            name=optimizer,  # type: ignore[arg-type]
            learning_rate=1e-3,
            epsilon=1e-4,
            max_grad_norm=limit,
        ),
    )
    return Learner(config, ACTIONS, seed=seed, accelerate=accelerate)  # type: ignore[arg-type]


_PREPARED: weakref.WeakKeyDictionary[Learner, LaunchInputs] = weakref.WeakKeyDictionary()
_UPDATED: weakref.WeakKeyDictionary[Learner, int] = weakref.WeakKeyDictionary()


def updates_of(one: Learner) -> int:
    """How many updates `update` did."""
    return _UPDATED.get(one, 0)


def update(
    one: Learner, rows: Transitions, rate: float | None = None, index: int | None = None
) -> dict[str, torch.Tensor]:
    """One launch of one update on a batch of one's own: its metrics, and the priorities.

    It is the one after the learner's last, or that of an index.
    """
    if one not in _PREPARED:
        places = tuple(
            torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=one.backend.device).zero_()
            for t in vars(rows).values()
        )
        _PREPARED[one] = LaunchInputs([places], Transitions)
        one.prepare(_PREPARED[one])
    one.backend.synchronize()  # the last batch's readers
    for place, tensor in zip(_PREPARED[one].tensors[0], vars(rows).values(), strict=True):
        place.copy_(tensor)
    one.backend.synchronize()  # they were filled on another stream than the updates'
    index = updates_of(one) if index is None else index
    _UPDATED[one] = index + 1
    results = one.launch(index, rate)
    one.backend.synchronize()
    told = {**results.metrics, "priority": results.priority}
    return {name: value[0].clone() for name, value in told.items()}


def values_of(one: Learner, obs: torch.Tensor) -> torch.Tensor:
    """The online network's action values, eagerly."""
    network, tensors = one.network, one.state_tensors()
    own = {
        name.removeprefix("online."): value for name, value in tensors.items() if name.startswith("online.")
    }
    return network.head.q(functional_call(network, own, (obs,)))


def copy_of(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in state.items()}


def assert_same_bits(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def differs(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], prefix: str) -> bool:
    names = [name for name in first if name.startswith(prefix)]
    assert names
    return any(not torch.equal(first[name], second[name]) for name in names)


def sizes(error: list[float]) -> list[float]:
    """Priorities of TD errors."""
    return [abs(value) + PRIORITY_FLOOR for value in error]


class PlainLearner:
    """The same rules in plain float64 PyTorch, weight tensor by weight tensor."""

    def __init__(self, like: Learner, rules: Rules, reduction: str = "mean") -> None:
        self.loss, self.rule, optimizer, _, self.limit = rules
        self.reduction = reduction
        state = like.state_tensors()
        self.online = self._part(state, "online.")
        self.target = self._part(state, "target.")
        self.optimizer = optimizer
        self.slots: dict[str, dict[str, torch.Tensor]] = {
            name: {slot: torch.zeros_like(value) for slot in ("mean", "square")}
            for name, value in self.online.items()
        }
        self.steps = 0

    @staticmethod
    def _part(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
        return {n.removeprefix(prefix): v.double() for n, v in state.items() if n.startswith(prefix)}

    def update(self, rows: Transitions, rate: float) -> tuple[float, float, float, list[float]]:
        weights = {name: value.clone().requires_grad_() for name, value in self.online.items()}
        values = reference.torch_q_values(weights, rows.obs)
        targets = [
            reference.td_target(self.rule, r, d, t, o)
            for r, d, t, o in zip(
                rows.reward.tolist(),
                rows.discount.tolist(),
                reference.torch_q_values(self.target, rows.next_obs).numpy(),
                reference.torch_q_values(self.online, rows.next_obs).numpy(),
                strict=True,
            )
        ]
        error = torch.tensor(targets).double() - values[torch.arange(len(targets)), rows.action]
        pure = {"huber": functional.huber_loss, "squared": lambda d, z, reduction: 0.5 * (d - z) ** 2}
        losses = pure[self.loss](error, torch.zeros_like(error), reduction="none")
        weighted = losses * rows.weight.double()
        loss = weighted.sum() if self.reduction == "sum" else weighted.mean()
        loss.backward()
        gradients = {name: value.grad for name, value in weights.items() if value.grad is not None}
        norm = float(torch.cat([g.flatten() for g in gradients.values()]).norm())
        scale = 1.0 if self.limit is None else min(1.0, self.limit / norm)
        self.steps += 1
        for name, gradient in gradients.items():
            self._step(name, scale * gradient, rate)
        return loss.item(), values.mean().item(), norm, error.tolist()

    def _step(self, name: str, g: torch.Tensor, rate: float) -> None:
        slot, epsilon = self.slots[name], 1e-4
        first, second = {"adam": (0.9, 0.999), "rmsprop": (0.95, 0.95), "adagrad": (0, 1)}[self.optimizer]
        slot["mean"] = first * slot["mean"] + (1 - first) * g
        slot["square"] = second * slot["square"] + (1 - second if second < 1 else 1) * g**2
        mean, square = slot["mean"], slot["square"]
        move = {
            "adam": lambda: (
                mean / (1 - first**self.steps) / ((square / (1 - second**self.steps)).sqrt() + epsilon)
            ),
            "rmsprop": lambda: g / (square - mean**2 + epsilon).sqrt(),
            "adagrad": lambda: g / (square.sqrt() + epsilon),
        }[self.optimizer]()
        self.online[name] = self.online[name] - rate * move


@pytest.mark.parametrize("rules", ALL + FEW, ids=str)
def test_eager_updates_are_those_of_plain_pytorch(rules: Rules) -> None:
    ours = learner(rules, period=10**6)
    plain = PlainLearner(ours, rules)
    before = copy_of(ours.state_tensors())
    for seed in range(4):
        rows = batch(seed)
        got = update(ours, rows)
        loss, q_mean, norm, error = plain.update(rows, 1e-3)
        # Weights of 0.1 to 0.5 that have moved by up to 4e-3, so that values agree to a few 1e-6.
        assert got["loss"].item() == pytest.approx(loss, rel=1e-5)
        assert got["q_mean"].item() == pytest.approx(q_mean, abs=1e-5)
        assert got["grad_norm"].item() == pytest.approx(norm, rel=1e-4)
        assert got["priority"].tolist() == pytest.approx(sizes(error), abs=3e-5)
    after = ours.state_tensors()
    assert differs(before, after, "online.")
    for name, want in plain.online.items():
        moved = (want - before[f"online.{name}"].double()).abs().max()
        torch.testing.assert_close(after[f"online.{name}"].double(), want, rtol=0, atol=0.01 * moved.item())


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop", "adagrad"])
def test_constants_of_a_sum_take_the_steps_of_a_summed_loss(optimizer: str) -> None:
    """The norm limit, too: 0.4 for the sum is 0.05 for the mean, below the gradients here."""
    rules = ("huber", "double", optimizer, True, 0.4)
    ours = learner(rules, period=10**6, reduction="sum")
    plain = PlainLearner(ours, rules, "sum")
    before = copy_of(ours.state_tensors())
    for seed in range(4):
        got = update(ours, batch(seed))
        loss, _, norm, _ = plain.update(batch(seed), 1e-3)
        assert norm > 0.4
        assert got["loss"].item() == pytest.approx(loss / ROWS, rel=1e-5)
        assert got["grad_norm"].item() == pytest.approx(norm / ROWS, rel=1e-4)
    after = ours.state_tensors()
    for name, want in plain.online.items():
        moved = (want - before[f"online.{name}"].double()).abs().max()
        torch.testing.assert_close(after[f"online.{name}"].double(), want, rtol=0, atol=0.01 * moved.item())


def check_compiled_equals_eager(rules: Rules) -> None:
    """The bound: weights within 1e-5 of eager after five updates that moved them by about 1e-3 each."""
    eager, compiled = learner(rules), learner(rules, "compile")
    for seed in range(5):
        want, got = update(eager, batch(seed)), update(compiled, batch(seed))
        for name, value in want.items():
            torch.testing.assert_close(got[name], value, rtol=2e-5, atol=2e-5)
    for name, value in eager.state_tensors().items():
        torch.testing.assert_close(compiled.state_tensors()[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("rules", FEW[:2], ids=str)
def test_compiled_equals_eager(rules: Rules) -> None:
    check_compiled_equals_eager(rules)


@pytest.mark.slow
@pytest.mark.parametrize("rules", ALL, ids=str)
def test_compiled_equals_eager_for_every_rule(rules: Rules) -> None:
    check_compiled_equals_eager(rules)


@pytest.fixture
def with_guards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every call of compiled code check what a run checks the first time alone."""
    monkeypatch.setattr("fastdqn.engine.learner.without_guards", lambda work: work)


@pytest.mark.long
@pytest.mark.usefixtures("with_guards")
def test_one_compilation_serves_a_whole_run() -> None:
    """Rates, target copies and restored states need no other compilation, so that the check can be left out.

    Two learners hold the same bits, and choose the same actions as an eager one.
    """
    rules = FEW[2]
    first = learner(rules, "compile")
    before = copy_of(first.state_tensors())
    eager, second = learner(rules), learner(rules, "compile")
    for one in (first, second):
        update(one, batch(0))
        one.load_state_tensors(before)
    best = [ActingNetwork(one, ROWS, lambda: 0) for one in (first, eager)]
    for acting in best:
        acting.prepare()
        acting(batch(8).obs.numpy(), 0)  # compiles
    with torch.compiler.set_stance("fail_on_recompile"):
        for seed in range(5):
            rate = 1e-3 / (1 + seed)
            for one in (first, second, eager):
                update(one, batch(seed), rate, seed)
        first.load_state_tensors(copy_of(first.state_tensors()))
        for act in range(3):
            actions = [acting(batch(9 + act).obs.numpy(), act).tolist() for acting in best]
            assert actions[0] == actions[1]
    assert_same_bits(first.state_tensors(), second.state_tensors())
    assert differs(before, first.state_tensors(), "online.")
    for name, value in eager.state_tensors().items():
        torch.testing.assert_close(first.state_tensors()[name], value, rtol=1e-4, atol=1e-5)


def test_the_window_layout_gives_the_same_update() -> None:
    apart, window = learner(), learner()
    for seed in range(3):
        first = batch(seed)
        second = batch(seed, window=True)
        assert second.obs.stride() != first.obs.stride()
        torch.testing.assert_close(update(window, second), update(apart, first))


def test_the_same_seed_and_batches_give_the_same_bits_and_another_seed_does_not() -> None:
    first, second, other = learner(seed=1), learner(seed=1), learner(seed=2)
    assert differs(first.state_tensors(), other.state_tensors(), "online.")
    for seed in range(4):
        results = [update(one, batch(seed))["priority"] for one in (first, second)]
        assert torch.equal(*results)
    assert_same_bits(first.state_tensors(), second.state_tensors())


def test_preparing_leaves_all_state_as_it_was() -> None:
    one = learner()
    update(one, batch(0))
    before = copy_of(one.state_tensors())
    one.prepare(LaunchInputs([fields(batch(1))], Transitions))
    assert_same_bits(before, one.state_tensors())
    assert one.means.count == 1


@pytest.mark.parametrize("period", [1, 2, 5])
def test_the_target_is_copied_after_exactly_the_period(period: int) -> None:
    one = learner(period=period)
    for count in range(1, 11):
        before = copy_of(one.state_tensors())
        update(one, batch(count))
        after = one.state_tensors()
        same_as_online = all(
            torch.equal(value, after[name.replace("target.", "online.")])
            for name, value in after.items()
            if name.startswith("target.")
        )
        assert same_as_online == (count % period == 0)
        assert differs(before, after, "target.") == (count % period == 0)


def test_a_resumed_count_keeps_the_targets_rhythm() -> None:
    one = learner(period=5)
    before = copy_of(one.state_tensors())
    update(one, batch(0), index=3)
    assert not differs(before, one.state_tensors(), "target.")
    update(one, batch(1), index=4)
    assert differs(before, one.state_tensors(), "target.")


def part(one: Learner, name: str) -> dict[str, torch.Tensor]:
    """Copies of the tensors of `online`, `average`, ... by the module's names."""
    state = copy_of(one.state_tensors()).items()
    return {key.removeprefix(f"{name}."): value for key, value in state if key.startswith(f"{name}.")}


@pytest.mark.parametrize("first", [0, 3, 100])
def test_the_average_is_the_mean_of_the_first_weights_then_exponential(first: int) -> None:
    """Beside float64, also where a run goes on; learning is the same to the bit as without one."""
    one, plain, wanted = learner(average=4), learner(), {}
    for name, value in part(one, "average").items():
        assert torch.equal(value, part(one, "online")[name])
        wanted[name] = value.double()
    for index in range(first, first + 9):
        update(one, batch(index), index=index)
        update(plain, batch(index), index=index)
        for name, value in part(one, "online").items():
            share = 1 / (index + 1) if index < 4 else 1 / 4
            wanted[name] = (1 - share) * wanted[name] + share * value.double()
    for name, value in part(one, "average").items():
        torch.testing.assert_close(value.double(), wanted[name], rtol=1e-6, atol=1e-7)
        assert torch.equal(one.policy_tensors()[name], value)
    learned = {name: value for name, value in one.state_tensors().items() if not name.startswith("average.")}
    assert_same_bits(plain.state_tensors(), learned)
    assert_same_bits(plain.policy_tensors(), part(plain, "online"))


def test_a_saved_average_continues_with_the_same_bits() -> None:
    whole, half, resumed = learner(average=3), learner(average=3), learner(average=3, seed=77)
    for seed in range(5):
        update(whole, batch(seed))
        if seed < 2:
            update(half, batch(seed))
    resumed.load_state_tensors(copy_of(half.state_tensors()))
    for seed in (2, 3, 4):
        update(resumed, batch(seed), index=seed)
    assert_same_bits(whole.state_tensors(), resumed.state_tensors())


def test_trained_weights_go_into_the_average_too() -> None:
    one, trained = learner(seed=1, average=3), learner(seed=2)
    one.load_online(trained.state_tensors())
    assert_same_bits(one.policy_tensors(), part(trained, "online"))


def test_a_saved_state_continues_with_the_same_bits(tmp_path: Path) -> None:
    whole, half = learner(), learner()
    for seed in range(4):
        update(whole, batch(seed))
        if seed < 2:
            update(half, batch(seed))
    save_file(half.state_tensors(), tmp_path / "state.safetensors")
    resumed = learner(seed=77)
    resumed.load_state_tensors(load_file(tmp_path / "state.safetensors"))
    for seed in (2, 3):
        update(resumed, batch(seed), index=seed)
    assert_same_bits(whole.state_tensors(), resumed.state_tensors())


def test_state_tensors_are_live_contiguous_and_named_after_the_module() -> None:
    one = learner()
    state = one.state_tensors()
    assert all(value.is_contiguous() for value in state.values())
    assert tuple(state["online.torso.conv2.weight"].shape) == (8, 4, 4, 4)
    assert {name.split(".")[0] for name in state} == {"online", "target", "optimizer"}
    obs = batch(0).obs
    state["online.head.advantage.bias"][0] += 1000
    assert (values_of(one, obs).argmax(dim=1) == 0).all()
    online = sum(value.numel() for name, value in state.items() if name.startswith("online."))
    assert one.num_parameters == online


def three_updates(rules: Rules) -> tuple[Learner, list[dict[str, torch.Tensor]]]:
    one = learner(rules, period=2)
    return one, [update(one, batch(seed)) for seed in range(3)]


@pytest.mark.parametrize("rules", FEW + ALL, ids=str)
def test_a_gpus_form_of_an_update_computes_what_a_cpus_does(
    rules: Rules, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the CPU: layout of the weights, biases, the layer of one output, the sum of squares."""
    cpu, want = three_updates(rules)
    kinds = set()
    monkeypatch.setattr(
        learners, "WeightsLayout", lambda module, arranged: WeightsLayout(module, arranged=True)
    )
    monkeypatch.setattr(layers, "on_cpu", lambda tensor: kinds.add(tensor.device.type) is not None)
    gpu, got = three_updates(rules)
    assert kinds == {"cpu"}
    assert gpu.layout.parameters.row
    for ours, theirs in zip(got, want, strict=True):
        for name, value in theirs.items():
            torch.testing.assert_close(ours[name], value, rtol=2e-5, atol=2e-5)
    for name, value in cpu.state_tensors().items():
        torch.testing.assert_close(gpu.state_tensors()[name], value, rtol=1e-4, atol=1e-5)
    gpu.load_state_tensors(cpu.state_tensors())
    assert_same_bits(gpu.state_tensors(), cpu.state_tensors())


def test_loading_copies_in_place() -> None:
    one, other = learner(seed=1), learner(seed=2)
    places = {name: value.data_ptr() for name, value in one.state_tensors().items()}
    one.load_state_tensors(other.state_tensors())
    assert {name: value.data_ptr() for name, value in one.state_tensors().items()} == places
    assert_same_bits(one.state_tensors(), other.state_tensors())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda s: s.pop("optimizer.step"), KeyError, r"optimizer\.step: missing"),
        (
            lambda s: s.update({"online.extra": torch.zeros(2)}),
            KeyError,
            r"online\.extra: not a tensor .*\[2\]",
        ),
        (
            lambda s: s.update({"target.head.value.bias": torch.zeros(3)}),
            ValueError,
            r"target\.head\.value\.bias: shape \[1\] is wanted, not \[3\]",
        ),
        (
            lambda s: s.update({"online.head.value.bias": torch.zeros(1).double()}),
            ValueError,
            r"online\.head\.value\.bias: dtype torch\.float32 is wanted, not torch\.float64",
        ),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(change, error, message) -> None:  # type: ignore[no-untyped-def]
    one = learner()
    before, given = copy_of(one.state_tensors()), copy_of(learner(seed=2).state_tensors())
    change(given)
    with pytest.raises(error, match=message):
        one.load_state_tensors(given)
    assert_same_bits(before, one.state_tensors())


def test_trained_weights_go_into_both_networks_and_nowhere_else() -> None:
    one, trained = learner(seed=1), learner(seed=2)
    update(trained, batch(0))
    before, given = copy_of(one.state_tensors()), trained.state_tensors()
    one.load_online(given)
    after = one.state_tensors()
    for name, value in given.items():
        if name.startswith("online."):
            assert torch.equal(after[name], value)
            assert torch.equal(after[name.replace("online.", "target.")], value)
    assert not differs(before, after, "optimizer.")


def test_trained_weights_of_another_network_change_nothing() -> None:
    one = learner()
    before = copy_of(one.state_tensors())
    with pytest.raises(
        ValueError, match=r"online\.head\.hidden\.weight: shape \[128, 392\] is wanted, not \[64, 392\]"
    ):
        one.load_online(learner(FEW[0]).state_tensors())
    assert_same_bits(before, one.state_tensors())


def test_the_learning_rate_is_that_of_the_call_or_the_last_one() -> None:
    one = learner()
    before = copy_of(one.state_tensors())
    update(one, batch(0), 0.0)
    update(one, batch(1))
    assert not differs(before, one.state_tensors(), "online.")
    update(one, batch(2), 1e-3)
    assert differs(before, one.state_tensors(), "online.")


def test_results_are_values_without_gradient_of_the_stated_shape() -> None:
    result = update(learner(), batch(0))
    assert {name: value.shape for name, value in result.items()} == {
        "loss": (),
        "q_mean": (),
        "grad_norm": (),
        "priority": (ROWS,),
    }
    assert all(value.dtype == torch.float32 and not value.requires_grad for value in result.values())


def test_a_batch_that_is_not_uint8_is_refused_and_not_counted() -> None:
    one = learner()
    with pytest.raises(TypeError, match="uint8"):
        update(one, dataclasses.replace(batch(0), obs=batch(0).obs.float()))
    assert one.means.count == 0


def test_auto_is_a_rule_of_device_and_length() -> None:
    assert resolve_accelerate("auto", "cpu", 4_999) == "eager"
    assert resolve_accelerate("auto", "cpu", 5_000) == "compile"
    assert resolve_accelerate("auto", "cuda:0", 19_999) == "eager"
    assert resolve_accelerate("auto", "cuda", 20_000) == "graph"
    assert resolve_accelerate("eager", "cpu", 10**9) == "eager"
    assert resolve_accelerate("compile", "cpu", 1) == "compile"


@pytest.mark.parametrize(
    ("flags", "on_cpu"),
    [
        ("flags : fpu avx512f avx512_bf16", "bf16"),
        ("flags : fpu avx512_bf16 amx_bf16", "bf16"),
        ("Features : fp bf16", "fp32"),  # Arm's: nobody has measured it
        ("flags : fpu avx2 avx512f", "fp32"),
        ("", "fp32"),
    ],
)
def test_auto_precision_is_a_rule_of_the_cpu_and_the_network(
    flags: str, on_cpu: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    narrow, whole = NetworkConfig(width=0.25), NetworkConfig()
    monkeypatch.setattr("fastdqn.engine.device.has_cuda", lambda: False)
    monkeypatch.setattr("fastdqn.cpu.CPU_INFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text(flags)
    assert resolve_precision("auto", "cpu", narrow) == on_cpu
    assert resolve_precision("auto", "cuda", narrow) == "fp32"
    for setting in ("fp32", "tf32", "bf16"):
        assert resolve_precision(setting, "cpu", narrow) == setting
    for here, wanted in ((True, "fp32"), (False, on_cpu)):  # where the extension convolves in float32
        monkeypatch.setattr("fastdqn.algorithm.winograd._HERE", here)
        for shape in (whole, NetworkConfig(width=0.5, dueling=True, head="categorical")):
            assert resolve_precision("auto", "cpu", shape) == wanted
        assert resolve_precision("auto", "cpu", NetworkConfig(normalization="layer")) == on_cpu
        assert resolve_precision("auto", "cpu", NetworkConfig(torso="impala")) == on_cpu
    config = Config(network=narrow, pipeline=PipelineConfig(precision="auto"))
    assert Learner(config, ACTIONS).precision == on_cpu
    assert with_precision(config).pipeline.precision == on_cpu
    assert with_precision(Config()).pipeline.precision == "fp32"
    shared = Config(network=narrow, pipeline=PipelineConfig(precision="auto", data_parallel=True))
    assert with_precision(shared).pipeline.precision == "fp32"  # on each of its machines


@pytest.mark.long
def test_compiled_learners_of_one_process_stay_apart() -> None:
    """Fails when what runs without its check takes the code that was compiled for another."""
    eager, compiled = [learner(rules) for rules in FEW], [learner(rules, "compile") for rules in FEW]
    for seed in range(3):
        for one, other in zip(eager, compiled, strict=True):
            want, got = update(one, batch(seed), index=seed), update(other, batch(seed), index=seed)
            torch.testing.assert_close(got["loss"], want["loss"], rtol=2e-5, atol=2e-5)


def test_every_loss_is_compared() -> None:
    assert {rules[0] for rules in FEW} == set(LOSSES)


@pytest.mark.long
def test_a_compiled_update_is_traced_once_and_kept_for_the_next_process() -> None:
    """Fault: Adam's count as a number without dimensions, of which Dynamo makes a symbol that nobody reads."""
    counted = torch._dynamo.utils.counters["aot_autograd"]
    before, passed_by = counted["total"], counted["autograd_cache_bypass"]
    one = learner(("huber", "double", "adam", True, None), "compile")
    update(one, batch(1))
    assert counted["total"] == before + 1
    assert counted["autograd_cache_bypass"] == passed_by, "compiled anew in each process"
    assert one.state_tensors()["optimizer.step"].shape == ()
    assert one.state_tensors()["optimizer.step"] == 1
