"""The extension's torso by Winograd's filtering, against float64 and against PyTorch's own float32."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor
from torch.nn import functional

from fastdqn import _core
from fastdqn.algorithm import layers, torsos, winograd
from fastdqn.algorithm.layers import grey_levels
from fastdqn.algorithm.networks import QNetwork
from fastdqn.algorithm.torsos import NatureTorso
from fastdqn.algorithm.winograd import is_filtered, winograd_torso
from fastdqn.config import Config, LearnerConfig, NetworkConfig
from fastdqn.engine.acting import ActingNetwork
from fastdqn.engine.learner import Learner

needs_cpu = pytest.mark.skipif(not _core.has_winograd_torso(), reason="this CPU has no AVX2")
both_widths = pytest.mark.parametrize("width", [1.0, 0.5])
both_means = pytest.mark.parametrize("centered", [False, True])


def observations(rows: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (rows, 4, 84, 84), dtype=torch.uint8, generator=generator)


def parameters(width: float = 1.0, seed: int = 1) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    narrow, wide = round(32 * width), round(64 * width)
    shapes = [(narrow, 4, 8, 8), (narrow,), (wide, narrow, 4, 4), (wide,), (wide, wide, 3, 3), (wide,)]
    scales = [0.1, 0.1, 0.05, 0.1, 0.05, 0.1]
    return tuple(
        torch.randn(*shape, generator=generator) * scale for shape, scale in zip(shapes, scales, strict=True)
    )


def let_through(obs: Tensor, weights: tuple[Tensor, ...], *, centered: bool) -> list[Tensor]:
    """Which of each layer's numbers pass its ReLU: where one is about zero, rounding decides it."""
    features, map1, map2 = torch.ops.fastdqn.winograd_torso(obs, centered, *weights)
    maps = (map1, map2, features.view(len(obs), 7, 7, -1))
    return [(one > 0).permute(0, 3, 1, 2) for one in maps]


def plainly(
    obs: Tensor, *weights: Tensor, passes: list[Tensor], centered: bool, dtype: torch.dtype
) -> Tensor:
    maps = grey_levels(obs, torch.float32, centered=centered).to(dtype) / 255
    for layer, (stride, passed) in enumerate(zip((4, 2, 1), passes, strict=True)):
        kernel, bias = (one.to(dtype) for one in weights[2 * layer : 2 * layer + 2])
        maps = functional.conv2d(maps, kernel, bias, stride=stride)
        assert ((maps > 0) != passed).sum() < 1e-5 * passed.numel() + 1
        maps = maps * passed
    return maps.permute(0, 2, 3, 1).flatten(1)


@needs_cpu
@both_widths
@both_means
@pytest.mark.parametrize("rows", [1, 7, 32])
def test_features_and_gradients_are_about_as_near_float64_as_pytorchs(width, centered, rows):
    obs, weights = observations(rows), parameters(width)
    towards = torch.randn(rows, round(49 * 64 * width), generator=torch.Generator().manual_seed(2)).double()

    def told(features_of):
        def objective(*own: Tensor) -> tuple[Tensor, Tensor]:
            features = features_of(*own).double()
            return (features * towards).sum(), features

        gradients, features = torch.func.grad(objective, argnums=tuple(range(6)), has_aux=True)(*weights)
        return [features, *gradients]

    passes = let_through(obs, weights, centered=centered)
    plain = partial(plainly, obs, passes=passes, centered=centered)
    exact, theirs = (told(partial(plain, dtype=dtype)) for dtype in (torch.float64, torch.float32))
    ours = told(lambda *own: winograd_torso(obs, own, centered=centered))
    for want, other, got in zip(exact, theirs, ours, strict=True):
        assert got.shape == want.shape
        error, allowed = (((one - want).norm() / want.norm()).item() for one in (got, other))
        assert error < 4e-6
        assert error < 6 * allowed


@needs_cpu
def test_a_compiler_finds_all_gradients():
    """Of parameters alone Dynamo finds no gradient that is needed; it must not leave the way back out."""
    obs, weights = observations(5), parameters(0.5)

    def objective(*own: Tensor) -> Tensor:
        return (winograd_torso(obs, own, centered=True) ** 2).sum()

    gradient = torch.func.grad(objective, argnums=tuple(range(6)))
    want, got = gradient(*weights), torch.compile(gradient, fullgraph=True, backend="aot_eager")(*weights)
    for one, other in zip(want, got, strict=True):
        assert one.abs().max() > 0
        assert torch.equal(one, other)


@needs_cpu
def test_rows_and_threads_change_no_bit_of_the_features():
    obs, weights = observations(13), parameters()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = winograd_torso(obs, weights, centered=True)
        torch.set_num_threads(3)
        assert torch.equal(winograd_torso(obs, weights, centered=True), alone)
        assert torch.equal(winograd_torso(obs[4:5], weights, centered=True), alone[4:5])
    finally:
        torch.set_num_threads(threads)


@needs_cpu
def test_pytorch_finds_the_operators_in_order():
    """Their shapes, their strides, and that they change none of their arguments."""
    obs, weights = observations(2), parameters(0.5)
    tests = ("test_schema", "test_faketensor")
    forward, backward = torch.ops.fastdqn.winograd_torso, torch.ops.fastdqn.winograd_torso_backward
    torch.library.opcheck(forward.default, (obs, True, *weights), test_utils=tests)
    features, map1, map2 = forward(obs, True, *weights)
    given = (torch.ones_like(features), obs, True, map1, map2, features, *weights)
    torch.library.opcheck(backward.default, given, test_utils=tests)


@needs_cpu
@both_widths
@both_means
def test_a_network_takes_it_where_it_computes_in_float32(monkeypatch, width, centered):
    config, obs = NetworkConfig(width=width, centered=centered), observations(6)
    network = QNetwork(config, 5, generator=torch.Generator().manual_seed(3))
    taken = []
    monkeypatch.setattr(
        torsos, "winograd_torso", lambda *given, **how: taken.append(1) or winograd_torso(*given, **how)
    )
    with torch.no_grad():
        ours = network.q_values(obs)
        assert taken == [1]
        with layers.plain_operators():
            plain = network.q_values(obs)
        monkeypatch.setattr(winograd, "_HERE", False)
        torch.testing.assert_close(network.q_values(obs), ours, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(plain, ours, rtol=1e-5, atol=1e-5)
        monkeypatch.undo()
        QNetwork(config, 5, compute_dtype=torch.bfloat16).q_values(obs)
    assert taken == [1]


@needs_cpu
@pytest.mark.parametrize("width", [0.495, 0.505, 0.995, 1.005])
def test_widths_that_round_to_natures_filters_learn_and_act(width):
    config = Config(network=NetworkConfig(width=width, dueling=True), learner=LearnerConfig(batch_size=4))
    learner = Learner(config, 3)
    acting = ActingNetwork(learner, 2, lambda: 0)
    acting.prepare()
    assert len(acting(observations(2).numpy(), 0)) == 2


@needs_cpu
def test_what_is_filtered():
    obs = observations(1)
    assert is_filtered(obs, (32, 64, 64), torch.float32)
    assert is_filtered(obs, (16, 32, 32), torch.float32)
    assert not is_filtered(obs, (8, 16, 16), torch.float32)
    assert not is_filtered(obs, (32, 64, 64), torch.bfloat16)
    assert not is_filtered(obs.to("meta"), (32, 64, 64), torch.float32)
    assert not NatureTorso(NetworkConfig(width=0.25), 4).reads_bytes(obs, torch.float32)


@needs_cpu
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stacks": np.zeros((1, 4, 84, 84), np.float32)}, "stacks: dtype must be uint8, not float32"),
        ({"stacks": np.zeros((1, 84, 84, 4), np.uint8)}, r"stacks: shape must be \(B, 4, 84, 84\)"),
        ({"layers": []}, "layers: must be 6 arrays"),
        ({"layers": [np.zeros(3, np.float32)] * 6}, "layers: must be 8192 contiguous numbers"),
        ({"maps": []}, "maps: must be 3 arrays"),
        ({"maps": [np.zeros(3, np.float32)] * 3}, "maps: must be 12800 contiguous numbers"),
        ({"threads": 0}, "threads: must be 1 or more"),
    ],
)
def test_the_core_refuses_what_does_not_fit(change, message):
    given = {
        "stacks": observations(1).numpy(),
        "centered": False,
        "layers": [one.numpy() for one in parameters()],
        "maps": [np.zeros(size, np.float32) for size in (12_800, 5_184, 3_136)],
        "threads": 1,
        "parallel_for": 0,
    }
    _core.winograd_torso(**given)
    with pytest.raises((TypeError, ValueError), match=message):
        _core.winograd_torso(**{**given, **change})


@needs_cpu
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": np.zeros((2, 17), np.float32)}, r"shapes must be \(B, I\) and \(O, I\), not \(2, 17\) and"),
        ({"rows": np.zeros((2, 16))}, "rows: dtype must be float32, not float64"),
        ({"biases": np.zeros(4, np.float32)}, "biases: must be 3 contiguous numbers"),
        ({"out": np.zeros((3, 2), np.float32).T[:1]}, "out: must be 6 contiguous numbers"),
        (
            {"rows": np.zeros((2, 15), np.float32), "weights": np.zeros((3, 15), np.float32)},
            "rows: I must be a multiple of 16, not 15",
        ),
    ],
)
def test_the_core_refuses_a_linear_layer_that_does_not_fit(change, message):
    given = {
        "rows": np.zeros((2, 16), np.float32),
        "weights": np.zeros((3, 16), np.float32),
        "biases": np.zeros(3, np.float32),
        "out": np.zeros((2, 3), np.float32),
        "threads": 1,
        "parallel_for": 0,
    }
    _core.linear(**given)
    with pytest.raises((TypeError, ValueError), match=message):
        _core.linear(**{**given, **change})
