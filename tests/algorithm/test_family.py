"""The value-based family beside the papers' formulas in numpy float64, part by part and as whole updates."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.func import functional_call

from fastdqn.algorithm import layers, torsos
from fastdqn.algorithm.heads import HEADS, PRIORITY_FLOOR, Head
from fastdqn.algorithm.layers import NO_DRAWS, LayerNorm, NoisyLinear, SpectralConvolution, draws_of, part_of
from fastdqn.algorithm.losses import huber
from fastdqn.algorithm.networks import QNetwork
from fastdqn.algorithm.policies import POLICIES, Softmax
from fastdqn.algorithm.targets import RULES, Next, scaled_log_softmax
from fastdqn.algorithm.update import of_actions
from fastdqn.config import Config, LearnerConfig, NetworkConfig
from fastdqn.engine.acting import ActingNetwork, PolicyNetwork
from fastdqn.engine.draws import DrawBuffer
from fastdqn.engine.learner import Learner
from fastdqn.presets import PRESETS
from tests.algorithm.test_targets import Networks
from tests.engine.strict_twin import StrictTwin
from tests.engine.test_learner import (
    ACTIONS,
    ROWS,
    assert_same_bits,
    batch,
    copy_of,
    update,
    updates_of,
)
from tests.reference import family as reference
from tests.reference import learning

FAMILY = ("noisy", "c51", "qrdqn", "iqn", "m-dqn", "m-iqn", "rainbow", "btr")
BTR = pytest.param("btr", marks=pytest.mark.long)  # a third of a minute each on the twin
DISTRIBUTIONS = ("categorical", "quantile", "implicit")
SHAPE = NetworkConfig(width=1 / 32, atoms=11, v_min=-10.0, v_max=10.0, quantiles=5, cosines=6)


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    """PyTorch refuses after eight versions of one function."""
    torch.compiler.reset()


def head_of(name: str, actions: int = 3, **options: Any) -> Head:
    return HEADS[name](replace(SHAPE, head=name, **options), 8, actions).double()


def oracle_of(name: str) -> Any:
    if name == "categorical":
        return reference.Categorical(SHAPE.atoms, SHAPE.v_min, SHAPE.v_max)
    return reference.Scalar() if name == "scalar" else reference.Quantile()


def numbers(name: str) -> int:
    return {"scalar": 1, "categorical": SHAPE.atoms}.get(name, SHAPE.quantiles)


# Reward and discount: ordinary; terminal; windows of n = 3 that end after one and two steps; beyond either end of
# the returns; exactly onto returns (returns are 2 apart), where nothing is to be shared; cut, so that it goes on.
CASES = [
    (0.3, 0.97),
    (-1.0, 0.0),
    (1.0, 0.99),
    (1.99, 0.99**2),
    (2.97, 0.99**3),
    (30.0, 0.9),
    (-30.0, 0.9),
    (2.0, 1.0),
    (0.0, 1.0),
]


@pytest.mark.parametrize("actions", [1, 3])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("name", ["scalar", *DISTRIBUTIONS])
def test_values_and_targets_are_those_of_the_paper(name: str, soft: bool, actions: int) -> None:
    random = np.random.default_rng(3)
    z = random.normal(size=(len(CASES), actions, numbers(name)))
    z[-1] = 0.25  # equal numbers everywhere
    weight = random.dirichlet(np.ones(actions), len(CASES)) if soft else np.ones((len(CASES), 1))
    penalty = random.normal(size=weight.shape) if soft else np.zeros(weight.shape)
    head, oracle = head_of(name, actions), oracle_of(name)
    reward, discount = (torch.tensor(column, dtype=torch.float64) for column in zip(*CASES, strict=True))
    next_z = torch.from_numpy(z) if soft else torch.from_numpy(z[:, :1])
    rows = torch.zeros(len(CASES), weight.shape[1], dtype=torch.int64)
    next_actions = Next(rows, torch.from_numpy(weight), torch.from_numpy(penalty), reward)
    got = head.goal(next_z, next_actions, reward, discount).numpy().reshape(len(CASES), -1)
    for i, (r, g) in enumerate(CASES):
        want = oracle.goal(next_z[i].numpy(), weight[i], penalty[i], r, g)
        np.testing.assert_allclose(got[i], want, rtol=0, atol=1e-12)
    values = head.q(torch.from_numpy(z)).numpy()
    np.testing.assert_allclose(values, [oracle.q(row) for row in z], rtol=0, atol=1e-12)
    if name == "categorical":
        np.testing.assert_allclose(got.sum(1), 1, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_losses_priorities_and_gradients_are_those_of_the_paper(name: str) -> None:
    """The gradient beside central differences of the slow loss, in float64: to seven digits."""
    random = np.random.default_rng(4)
    head, oracle, rows = head_of(name), oracle_of(name), 6
    z = random.normal(size=(rows, numbers(name))) * np.linspace(0.1, 4, rows)[:, None]
    # With as many quantiles on either side a sum over one and a mean over the other could be the wrong way round.
    goal = random.normal(size=(rows, numbers(name) + 2 * (name != "categorical"))) * 2
    fractions = np.tile((np.arange(SHAPE.quantiles) + 0.5) / SHAPE.quantiles, (rows, 1))
    draws: dict[str, torch.Tensor] = {}
    if name == "categorical":
        goal = reference.softmax(goal)
        goal[0], z[0] = np.eye(1, SHAPE.atoms, 2), np.linspace(0, 150, SHAPE.atoms)[::-1]
        z[0, 2] = -150.0  # a cross entropy above 100
    if name == "implicit":
        fractions = random.random((rows, SHAPE.quantiles))
        draws["fractions"] = torch.from_numpy(fractions)
    given = torch.from_numpy(z).requires_grad_()
    losses, priority = head.loss(given, torch.from_numpy(goal), draws, huber)
    (gradient,) = torch.autograd.grad(losses.sum(), given)
    want = [oracle.loss(*row) for row in zip(z, goal, fractions, strict=True)]
    np.testing.assert_allclose(losses.detach().numpy(), [loss for loss, _ in want], rtol=1e-12)
    np.testing.assert_allclose(priority.numpy(), [size for _, size in want], rtol=1e-12)
    for i in range(rows):
        slope = reference.derivative(lambda row, i=i: oracle.loss(row, goal[i], fractions[i])[0], z[i])
        np.testing.assert_allclose(gradient[i].numpy(), slope, rtol=1e-6, atol=1e-7)
    if name == "categorical":
        assert losses[0] > priority[0] == 100.0


def test_a_quantile_that_meets_its_goal_is_not_above_it() -> None:
    """All equal: no loss, no gradient, the least priority; a little below and above, the two weights."""
    head = head_of("quantile")
    same = torch.full((1, SHAPE.quantiles), 0.5, dtype=torch.float64, requires_grad=True)
    losses, priority = head.loss(same, same.detach().clone(), NO_DRAWS, huber)
    (gradient,) = torch.autograd.grad(losses.sum(), same)
    assert losses.item() == 0.0
    assert priority.item() == PRIORITY_FLOOR
    assert gradient.abs().max() == 0.0
    fractions = (torch.arange(SHAPE.quantiles) + 0.5).double() / SHAPE.quantiles
    for side, weight in ((0.01, fractions), (-0.01, 1 - fractions)):
        losses, _ = head.loss(same, same.detach() + side, NO_DRAWS, huber)
        torch.testing.assert_close(losses, (weight * 0.5 * side**2).sum()[None], rtol=1e-9, atol=0)


@pytest.mark.parametrize("network", ["target", "online"])
@pytest.mark.parametrize("actions", [1, 4])
def test_the_munchausen_rule_is_its_formula(actions: int, network: str) -> None:
    """Also where values are equal, where a temperature of 0.03 makes one sure, and far apart."""
    random = np.random.default_rng(6)
    following, now = random.normal(size=(2, 7, actions)) * np.array([0, 0.01, 0.1, 1, 10, 100, 1e4])[:, None]
    action = random.integers(actions, size=7)
    networks = Networks(torch.from_numpy(following), None, torch.from_numpy(action))
    asked = {"target_next": following, f"{network}_now": now}
    networks.answer = lambda name, _: torch.from_numpy(
        asked[name]
    )  # KeyError for what it has no business with
    config = LearnerConfig(rule="munchausen", munchausen_network=network)
    result = RULES["munchausen"](config)(networks.values)
    for i in range(7):
        log_pi = reference.log_policy(following[i], 0.03)
        np.testing.assert_allclose(result.weight[i].numpy(), np.exp(log_pi), rtol=0, atol=1e-9)
        np.testing.assert_allclose(result.penalty[i].numpy(), 0.03 * log_pi, rtol=1e-9, atol=1e-9)
        want = reference.munchausen_bonus(now[i], action[i], 0.9, 0.03, -1.0)
        assert result.bonus[i].item() == pytest.approx(want, abs=1e-9)
    assert result.action.tolist() == [list(range(actions))] * 7
    assert bool(scaled_log_softmax(torch.tensor([[1e8, 0.0, -1e8]]), 1e-6).isfinite().all())
    # In float32 large values near each other keep their differences: dividing them first would lose five digits.
    near = torch.tensor([[1000.0, 1000.03125, 999.9375]])
    want = 0.03 * reference.log_policy(near[0].double().numpy(), 0.03)
    np.testing.assert_allclose(scaled_log_softmax(near, 0.03)[0].numpy(), want, rtol=0, atol=1e-7)
    networks = Networks(near, None, torch.zeros(1, dtype=torch.int64))
    networks.answer = lambda name, _: near
    weight = RULES["munchausen"](LearnerConfig(rule="munchausen"))(networks.values).weight
    np.testing.assert_allclose(weight[0].numpy(), np.exp(want / 0.03), rtol=1e-5)


def test_dueling_is_over_each_atoms_logits() -> None:
    head = head_of("categorical", dueling=True)
    head.initialize(torch.Generator().manual_seed(1))
    features = torch.randn(4, 8, generator=torch.Generator().manual_seed(2)).double()
    hidden = (features @ head.hidden.weight.t() + head.hidden.bias).relu()
    half = hidden.shape[1] // 2
    state = hidden[:, :half] @ head.value.weight.t()
    advantage = (hidden[:, half:] @ head.advantage.weight.t()).view(4, 3, SHAPE.atoms)
    want = state[:, None] + advantage - advantage.mean(1, keepdim=True)
    torch.testing.assert_close(head(features, NO_DRAWS), want)


def drawn(module: torch.nn.Module, rows: int, seed: int) -> dict[str, torch.Tensor]:
    buffer = DrawBuffer({"pass": draws_of(module, rows)}, seed=seed)
    buffer.fill(0)
    return buffer.parts[0]["pass"]


@pytest.mark.parametrize("streams", [1, 2])
def test_a_noisy_layer_is_the_papers_and_its_means_without_draws(streams: int) -> None:
    layer = NoisyLinear(5, 4, "normal", 0.5, streams).double()
    layer.initialize(1.0, torch.Generator().manual_seed(1))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    weights = {name: value.detach().numpy() for name, value in layer.named_parameters()}
    draws = {name: torch.randn(draw.shape).double() for name, draw in layer.draws(3).items()}
    rows = np.random.default_rng(3).normal(size=(3, 5))
    weight, bias = layer.weights(draws)
    got = torch.nn.functional.linear(torch.from_numpy(rows), weight, bias).detach().numpy()
    for stream in range(streams):
        part = slice(stream * 4 // streams, (stream + 1) * 4 // streams)
        own = {name: value[part] for name, value in weights.items()}
        want = reference.noisy(own, rows, draws["inputs"][stream].numpy(), draws["outputs"][part].numpy())
        np.testing.assert_allclose(got[:, part], want, rtol=1e-12)
    assert layer.weights(NO_DRAWS) == (layer.weight, layer.bias)


def test_noise_begins_at_sigma_over_the_root_of_the_inputs() -> None:
    layer = NoisyLinear(16, 3, "truncated", 0.1)
    layer.initialize(1.0, torch.Generator().manual_seed(1))
    assert torch.equal(layer.weight_sigma, torch.full((3, 16), 0.1 / 4))
    assert torch.equal(layer.bias_sigma, torch.full((3,), 0.1 / 4))
    assert 0.9 * 0.25 < layer.weight.abs().max() <= 0.25


def test_spectral_normalisation_comes_to_the_largest_singular_value() -> None:
    layer = SpectralConvolution(3, 6).double()
    layer.initialize(torch.Generator().manual_seed(1))
    matrix = layer.weight.detach().flatten(1).numpy()
    u, v = layer.u.numpy(), layer.v.numpy()
    again = layer.advance({"weight": layer.weight.detach(), "u": layer.u, "v": layer.v})
    want = matrix.T @ u
    want /= math.sqrt(sum(x * x for x in want))
    np.testing.assert_allclose(again["v"].numpy(), want, rtol=1e-10)
    np.testing.assert_allclose(again["u"].numpy(), matrix @ want / np.linalg.norm(matrix @ want), rtol=1e-10)
    assert u @ matrix @ v == pytest.approx(np.linalg.svd(matrix)[1][0], rel=1e-2)
    pixels = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(2)).double()
    weight = layer.weight.detach().numpy() / (u @ matrix @ v)
    slow = reference.convolve_same(pixels.numpy(), weight, layer.bias.detach().numpy())
    np.testing.assert_allclose(layer(pixels).detach().numpy(), slow, rtol=0, atol=1e-12)
    # The gradient flows through the value, not through u and v: at right angles to the weight.
    (gradient,) = torch.autograd.grad(layer(pixels).square().sum(), layer.weight)
    assert abs((gradient * layer.weight).sum().item()) < 1e-9 * gradient.abs().max().item()


def test_layer_normalisation_is_over_each_stream_by_itself() -> None:
    norm = LayerNorm(8, 2).double()
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2, generator=torch.Generator().manual_seed(1))
        norm.bias.uniform_(-1, 1, generator=torch.Generator().manual_seed(2))
    rows = np.random.default_rng(3).normal(size=(3, 8))
    weight, bias = norm.weight.detach().numpy(), norm.bias.detach().numpy()
    halves = [
        reference.normalized(rows[:, part], weight[part], bias[part]) for part in (slice(0, 4), slice(4, 8))
    ]
    got = norm(torch.from_numpy(rows)).detach().numpy()
    np.testing.assert_allclose(got, np.concatenate(halves, axis=1), rtol=1e-12, atol=1e-12)


def frames(rows: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, 256, (rows, 4, 84, 84), dtype=torch.uint8, generator=generator)


def network_of(**options: Any) -> QNetwork:
    config = replace(SHAPE, **{"width": 1 / 16, **options})
    return QNetwork(
        config, 3, generator=torch.Generator().manual_seed(1), compute_dtype=torch.float64
    ).double()


def arrays(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("normalization", ["none", "spectral"])
def test_impala_is_the_slow_one(normalization: str) -> None:
    torso = network_of(torso="impala", normalization=normalization).torso
    want = reference.impala_features(arrays(torso), frames(2).numpy())
    got = torso(frames(2).double().to(memory_format=torch.channels_last), NO_DRAWS).detach().numpy()
    assert got.shape == (2, torso.features)
    assert np.abs(want).max() > 1e-2
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-9)


def test_impala_has_btrs_size() -> None:
    """2.91 million weights with four actions where noise has none of its own (its means); 12 normalised layers."""
    network = replace(PRESETS["btr"].config.network, noise="none")
    module = QNetwork(network, ACTIONS)
    assert module.torso.features == 2304
    assert sum(value.numel() for value in module.parameters()) == pytest.approx(2.91e6, rel=5e-3)
    assert sum(isinstance(layer, SpectralConvolution) for layer in module.modules()) == 12


def test_the_last_maximum_is_the_adaptive_one() -> None:
    """Values, gradients and ties: pixels of few grey levels, so that maxima meet."""
    maps = torch.randint(0, 4, (3, 5, 11, 11), generator=torch.Generator().manual_seed(1)).float()
    grads = []
    for pool in (torsos.halved, torch.nn.AdaptiveMaxPool2d(6)):
        given = maps.clone().requires_grad_()
        out = pool(given)
        (out * torch.arange(out.numel()).view(out.shape)).sum().backward()
        grads.append((out.detach(), given.grad))
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_layer_normalisation_is_of_channels_and_of_hidden_units_before_the_relu() -> None:
    module = network_of(normalization="layer", dueling=True)
    weights = arrays(module)
    maps = frames(2).numpy() / 255.0
    for i, stride in ((1, 4), (2, 2), (3, 1)):
        conv, norm = f"torso.conv{i}", f"torso.norm{i}"
        maps = learning.convolve(maps, weights[f"{conv}.weight"], weights[f"{conv}.bias"], stride)
        pixels = maps.transpose(0, 2, 3, 1)
        pixels = reference.normalized(pixels, weights[f"{norm}.weight"], weights[f"{norm}.bias"])
        maps = np.maximum(pixels, 0).transpose(0, 3, 1, 2)
    got = module.torso(module.prepare(frames(2)), NO_DRAWS).detach().numpy()
    features = maps.transpose(0, 2, 3, 1).reshape(2, -1)
    np.testing.assert_allclose(got, features, rtol=0, atol=1e-9)
    hidden = features @ weights["head.hidden.weight"].T + weights["head.hidden.bias"]
    value, advantage = (
        np.maximum(reference.normalized(*parts), 0) @ weights[f"head.{last}.weight"].T
        + weights[f"head.{last}.bias"]
        for last, *parts in zip(
            ("value", "advantage"),
            np.split(hidden, 2, axis=1),
            np.split(weights["head.norm.weight"], 2),
            np.split(weights["head.norm.bias"], 2),
            strict=True,
        )
    )
    got = module(frames(2)).detach().numpy()[:, :, 0]
    want = value + advantage - advantage.mean(1, keepdims=True)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-9)


@pytest.mark.parametrize("with_draws", [True, False])
def test_an_implicit_head_describes_fractions_by_cosines(with_draws: bool) -> None:
    """Without draws the fractions are the middles of equal ones."""
    module = network_of(head="implicit")
    obs = frames(2)
    draws = {name: value.double() for name, value in drawn(module, 2, 5).items()} if with_draws else {}
    even = np.tile((np.arange(5) + 0.5) / 5, (2, 1))
    fractions = draws["head.fractions"].numpy() if with_draws else even
    got = module(obs, draws).detach().numpy()
    features = module.torso(module.prepare(obs), NO_DRAWS).detach().numpy()
    w = arrays(module.head)
    for i in range(2):
        rows = reference.described(features[i], fractions[i], w["embedding.weight"], w["embedding.bias"])
        hidden = np.maximum(rows @ w["hidden.weight"].T + w["hidden.bias"], 0)
        want = hidden @ w["advantage.weight"].T + w["advantage.bias"]
        np.testing.assert_allclose(got[i], want.T, rtol=0, atol=1e-10)


def test_the_whole_networks_gradient_is_that_of_differences() -> None:
    """All parts at once in float64: impala, spectral, implicit, dueling, noisy; seven digits of 40 parameters."""
    module = network_of(
        torso="impala", normalization="spectral", head="implicit", dueling=True, noise="normal"
    )
    draws = {name: value.double() for name, value in drawn(module, 2, 5).items()}
    goal = torch.randn(2, 4, generator=torch.Generator().manual_seed(3)).double()

    def loss() -> torch.Tensor:
        z = of_actions(module(frames(2), draws), torch.tensor([[1], [2]])).squeeze(1)
        return module.head.loss(z, goal, part_of(draws, "head"), huber)[0].sum()

    loss().backward()
    random = np.random.default_rng(1)
    for name, parameter in module.named_parameters():
        assert parameter.grad.abs().max() > 0 or "bias" in name, name
        at = tuple(int(random.integers(size)) for size in parameter.shape)
        with torch.no_grad():
            values = []
            for step in (1e-6, -2e-6, 1e-6):
                parameter[at] += step
                values.append(loss().item())
        slope = (values[0] - values[1]) / 2e-6
        assert parameter.grad[at].item() == pytest.approx(slope, rel=1e-4, abs=1e-7), name


# Whole updates


def small(preset: str) -> Config:
    """A preset on a narrow network and batches of eight, whose target is copied at every third update."""
    config = PRESETS[preset].config
    return replace(
        config,
        network=replace(config.network, width=1 / 16, quantiles=min(config.network.quantiles, 7)),
        learner=replace(config.learner, batch_size=ROWS, target_period_updates=3),
        optimizer=replace(config.optimizer, learning_rate=1e-3, epsilon=1e-3),
        pipeline=replace(config.pipeline, precision="fp32"),
    )


def learner_of(preset: str, machine: Any = None, accelerate: str = "eager") -> Learner:
    return Learner(small(preset), ACTIONS, seed=3, backend=machine, accelerate=accelerate)


@pytest.mark.parametrize("preset", PRESETS)
def test_an_update_of_a_preset_has_the_papers_loss_and_priorities(preset: str) -> None:
    """From the networks' outputs, each with the draws of its own pass, by numpy: to five digits of float32."""
    config, one = small(preset), learner_of(preset)
    for seed in (0, 1):  # the second, so that online and target differ
        rows, before = batch(seed), copy_of(one.state_tensors())
        results = update(one, rows)
    parts = one._draws.parts[0]
    own = {
        which: {name.removeprefix(f"{which}."): v for name, v in before.items() if name.startswith(which)}
        for which in ("online", "target")
    }
    own["online"] |= layers.advanced(one.network, own["online"])
    state = one.state_tensors()
    for name, _ in one.network.named_buffers():  # u and v, which an update moves by one step
        torch.testing.assert_close(state[f"online.{name}"], own["online"][name], rtol=0, atol=1e-6)
        assert not torch.equal(state[f"online.{name}"], before[f"online.{name}"])
    rule, sampled = config.learner, one.network.head.samples and config.learner.fresh_quantiles

    def z_of(which: str, obs: torch.Tensor, name: str) -> np.ndarray:
        return functional_call(one.network, own[which], (obs, parts[name])).double().numpy()

    oracle: Any = {"scalar": reference.Scalar(), "categorical": reference.Categorical(51, -10, 10)}.get(
        config.network.head, reference.Quantile()
    )
    z, next_z = (
        z_of("online", rows.obs, "online"),
        z_of("target", rows.next_obs, "target_next"),
    )
    if rule.rule == "double":
        chosen = z_of("online", rows.next_obs, "online_next")
    else:
        chosen = z_of("target", rows.next_obs, "target_choice") if sampled else next_z
    fractions = parts["online"].get("head.fractions")
    losses, priorities = [], []
    for i in range(ROWS):
        q, action, reward = oracle.q(chosen[i]), int(rows.action[i]), float(rows.reward[i])
        if rule.rule == "munchausen":
            now = z_of(rule.munchausen_network, rows.obs, f"{rule.munchausen_network}_now")
            log_pi = reference.log_policy(q, 0.03)
            weight, penalty, following = np.exp(log_pi), 0.03 * log_pi, next_z[i]
            reward += reference.munchausen_bonus(oracle.q(now[i]), action, 0.9, 0.03, -1.0)
        else:
            weight, penalty, following = np.ones(1), np.zeros(1), next_z[i][[int(q.argmax())]]
        goal = oracle.goal(following, weight, penalty, reward, float(rows.discount[i]))
        count = z.shape[2]
        own_fractions = (
            (np.arange(count) + 0.5) / count if fractions is None else fractions[i].double().numpy()
        )
        loss, priority = oracle.loss(z[i][action], goal, own_fractions)
        losses.append(loss * float(rows.weight[i]))
        priorities.append(priority)
    np.testing.assert_allclose(results["priority"].numpy(), priorities, rtol=2e-5, atol=2e-5)
    assert results["loss"].item() == pytest.approx(float(np.mean(losses)), rel=2e-5)


@pytest.mark.parametrize("preset", [*FAMILY[:-1], BTR])
def test_captured_is_eager_and_a_restored_state_goes_on_the_same(preset: str) -> None:
    plain, captured = learner_of(preset), learner_of(preset, StrictTwin(), "graph")
    kept: dict[str, torch.Tensor] = {}
    for seed in range(5):
        want, got = update(plain, batch(seed)), update(captured, batch(seed))
        assert all(torch.equal(got[name], value) for name, value in want.items())
        if seed == 2:
            kept = copy_of(plain.state_tensors())
    assert_same_bits(captured.state_tensors(), plain.state_tensors())
    again = learner_of(preset)
    again.load_state_tensors(kept)
    for seed in range(3, 5):
        update(again, batch(seed), index=seed)
    assert_same_bits(again.state_tensors(), plain.state_tensors())


@pytest.mark.parametrize(
    "preset",
    [pytest.param(name, marks=pytest.mark.long if name == "iqn" else pytest.mark.slow) for name in FAMILY],
)
def test_compiled_is_eager_within_the_bound(preset: str) -> None:
    eager, compiled = learner_of(preset), learner_of(preset, accelerate="compile")
    for seed in range(4):
        want, got = update(eager, batch(seed)), update(compiled, batch(seed))
        for name, value in want.items():
            torch.testing.assert_close(got[name], value, rtol=1e-4, atol=1e-4)
    state = compiled.state_tensors()
    for name, value in eager.state_tensors().items():
        torch.testing.assert_close(state[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("preset", ["double", "quick", "noisy", "rainbow"])
def test_networks_in_pairs_make_the_same_update(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found, pairs = [], []
    z_of_each = QNetwork.z_of_each

    def noted(self: QNetwork, *given: Any) -> Any:
        pairs.append(given)
        return z_of_each(self, *given)

    monkeypatch.setattr(QNetwork, "z_of_each", noted)
    for in_pairs in (False, True):
        monkeypatch.setattr(QNetwork, "is_faster_in_pairs", in_pairs)
        one = learner_of(preset)
        found.append([update(one, batch(seed)) for seed in range(4)])
        found[-1].append(one.state_tensors())
        assert bool(pairs) == in_pairs
    for apart, together in zip(*found, strict=True):
        torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("preset", ["noisy", "iqn", "rainbow", BTR])
def test_replays_passes_and_layers_draw_anew(preset: str) -> None:
    """Fails where a graph freezes its noise (pytorch/rl#3002), or layers share theirs (dopamine#222)."""
    one = learner_of(preset, StrictTwin(), "graph")
    first, second = update(one, batch(0), 0.0), update(one, batch(0), 0.0)
    assert not torch.equal(first["priority"], second["priority"])
    noises = {f"{name}.{at}": v for name, draws in one._draws.parts[0].items() for at, v in draws.items()}
    assert len(noises) >= 3
    heads = {at: value.flatten()[:3].tolist() for at, value in noises.items() if value.numel() >= 3}
    assert len({tuple(values) for values in heads.values()}) == len(heads)
    streams = one.network.head.hidden
    if isinstance(streams, NoisyLinear) and streams.streams == 2:
        both = noises["online.head.hidden.inputs"]
        assert not torch.equal(both[0], both[1])


@pytest.mark.parametrize("preset", ["nature", "double", *FAMILY])
def test_what_is_drawn_is_what_is_read(preset: str) -> None:
    """Fails where an update has random numbers drawn that no pass reads: most of iqn's would be."""

    class Noted(dict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            read.add(name)
            return super().__getitem__(name)

    read: set[str] = set()
    one = learner_of(preset)
    update(one, batch(0))
    one._draws.parts[0] = Noted(one._draws.parts[0])
    update(one, batch(1))
    assert read == set(one._draws.parts[0])


@pytest.mark.parametrize("preset", ["rainbow", "m-iqn", BTR])
def test_acting_captured_is_acting_at_once_and_draws_anew(preset: str) -> None:
    taken = []
    for machine, accelerate in ((None, "eager"), (StrictTwin(), "graph")):
        one = learner_of(preset, machine, accelerate)
        policy = POLICIES[small(preset).exploration.policy](small(preset))
        acting = ActingNetwork(one, 6, lambda one=one: updates_of(one), seed=5, policy=policy)
        update(one, batch(0))
        acting.prepare()
        before = copy_of(one.state_tensors())
        taken.append([acting(batch(100, rows=6).obs.numpy(), act).tolist() for act in range(12)])
        assert_same_bits(one.state_tensors(), before)
    assert taken[0] == taken[1]
    assert len({tuple(actions) for actions in taken[0]}) > 1


def test_a_softmax_policy_takes_actions_as_often_as_it_should() -> None:
    """20,000 draws, seed 1: each frequency within 5 standard errors; an action is never taken that cannot be."""
    q = torch.tensor([0.0, 0.03, 0.06, -10.0])
    uniform = torch.rand(20_000, 4, generator=torch.Generator().manual_seed(1))
    uniform[0] = 0.0
    chosen = Softmax(0.03)(q.expand(20_000, 4), {"uniform": uniform})
    share = torch.bincount(chosen, minlength=4) / 20_000
    want = (q / 0.03).softmax(0)
    assert bool(((share - want).abs() <= 5 * (want * (1 - want) / 20_000).sqrt() + 1e-9).all())
    assert Softmax(0.03)(q[None], NO_DRAWS).item() == 2


def test_whoever_acts_draws_by_the_policy() -> None:
    """A softmax so hot that all actions are alike, of a network that has no random numbers itself."""
    one, obs = learner_of("m-dqn"), batch(0).obs
    acting = ActingNetwork(one, ROWS, lambda: 0, seed=5, policy=Softmax(1e6))
    acting.prepare()
    taken = [acting(obs.numpy(), act).tolist() for act in range(10)]
    network = QNetwork(small("m-dqn").network, ACTIONS, generator=torch.Generator().manual_seed(1))
    evaluated = PolicyNetwork(network, seed=1, policy=Softmax(1e6))
    played = [evaluated.chosen_actions(obs.numpy(), act).tolist() for act in range(10)]
    for actions in (taken, played):
        assert {action for row in actions for action in row} == set(range(ACTIONS))
        assert len({tuple(row) for row in actions}) == 10
    assert acting(obs.numpy(), 3).tolist() == taken[3]


def test_without_a_seed_a_policy_is_its_means_and_even_fractions() -> None:
    network = QNetwork(small("btr").network, ACTIONS, generator=torch.Generator().manual_seed(1))
    obs = batch(0).obs
    still, drawing = PolicyNetwork(network), PolicyNetwork(network, seed=1)
    assert torch.equal(still(obs, 0), still(obs, 1))
    assert not torch.equal(drawing(obs, 0), drawing(obs, 1))
    assert torch.equal(still(obs), network.q_values(obs))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (Config(network=NetworkConfig(normalization="spectral")), "network.normalization = 'spectral'"),
        (Config(network=NetworkConfig(torso="impala", normalization="layer")), "layer for nature"),
        (Config(network=NetworkConfig(v_min=1.0, v_max=1.0)), "network.v_min = 1.0: must be below"),
        (Config(network=NetworkConfig(v_min=1e9, v_max=1e9 - 1)), "must be below"),
        (
            Config(network=NetworkConfig(v_min=1e9 - 1, v_max=1e9)),
            "too near each other for 51 returns in float32",
        ),
        (Config(network=NetworkConfig(v_min=0.0, v_max=1e-38)), "too near each other, in float32"),
        (Config(network=NetworkConfig(width=1 / 32, normalization="layer")), "makes all pixels alike"),
        (
            Config(network=NetworkConfig(head="quantile"), learner=LearnerConfig(loss="squared")),
            "learner.loss = 'squared': must be huber where network.head = 'quantile'",
        ),
    ],
)
def test_what_does_not_go_together_is_said_in_a_line(config: Config, words: str) -> None:
    (problem,) = config.validate()
    assert words in problem
