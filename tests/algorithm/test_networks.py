"""The network beside a slow one in numpy, its shape, its initial weights and its errors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from fastdqn import _core
from fastdqn.algorithm import layers
from fastdqn.algorithm.networks import QNetwork
from fastdqn.config import NetworkConfig
from fastdqn.engine.draws import DrawBuffer
from tests.reference import learning as reference


def frames(rows: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (rows, 4, 84, 84), dtype=torch.uint8, generator=generator)


def network(seed: int = 1, **options: float | bool) -> QNetwork:
    generator = torch.Generator().manual_seed(seed)
    return QNetwork(NetworkConfig(**options), 5, generator=generator)  # type: ignore[arg-type]


@pytest.mark.parametrize("dueling", [False, True])
def test_values_are_those_of_the_slow_network(dueling: bool) -> None:
    module = network(width=0.25, dueling=dueling)
    weights = {name: value.detach().double().numpy() for name, value in module.named_parameters()}
    obs = frames(3)
    want = reference.q_values(weights, obs.numpy())
    assert np.abs(want).max() > 1e-2
    np.testing.assert_allclose(module.q_values(obs).detach().numpy(), want, rtol=0, atol=2e-6)


def test_centering_subtracts_each_observations_own_mean_level() -> None:
    """Beside the slow network on pixels that numpy centred; brightness as a whole changes nothing."""
    module = network(width=0.25, centered=True)
    weights = {name: value.detach().double().numpy() for name, value in module.named_parameters()}
    obs = frames(3) // 2
    obs[1] += 40
    level = np.rint(obs.numpy().mean(axis=(1, 2, 3), keepdims=True))
    assert level[1] > level[0] + 30
    want = reference.q_values(weights, obs.numpy() - level)
    values = module.q_values(obs).detach().numpy()
    np.testing.assert_allclose(values, want, rtol=0, atol=2e-6)
    np.testing.assert_allclose(module.q_values(obs + 20).detach().numpy(), values, rtol=0, atol=1e-7)
    assert np.abs(network(width=0.25).q_values(obs).detach().numpy() - values).max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("centered", [False, True])
def test_our_operator_makes_of_grey_levels_what_pytorchs_make(centered: bool, dtype: torch.dtype) -> None:
    """To the bit and with the same strides, compiled too; means that lie between two levels, and odd memory."""
    between = torch.zeros(256, 4, 84, 84, dtype=torch.uint8)
    between[:] = torch.arange(256).view(256, 1, 1, 1)
    between[:255, :2] += 1  # means of 0.5, 1.5, ..., 254.5
    odd = frames(6).flatten()[1 : 1 + 5 * 4 * 84 * 84].view(5, 4, 84, 84)
    batches = [
        frames(3),
        between,
        odd,
        frames(8)[::2],
        frames(4).to(memory_format=torch.channels_last),
        odd[:0],
    ]

    def levels(obs: torch.Tensor) -> torch.Tensor:
        return layers.grey_levels(obs, dtype, centered=centered)

    for obs in batches:
        with layers.plain_operators():
            want = levels(obs)
        for found in (levels(obs), torch.compile(levels, fullgraph=True)(obs) if len(obs) == 3 else want):
            assert found.dtype == want.dtype == dtype
            assert torch.equal(found, want)
            assert found.stride() == want.stride()
    assert not levels(frames(1)).requires_grad
    torch.library.opcheck(torch.ops.fastdqn.grey_levels, (frames(2), centered, dtype))


@pytest.mark.parametrize(
    ("stacks", "out", "error", "message"),
    [
        ([1], ((1, 84, 84, 4), "f4"), TypeError, "stacks: must be a numpy array, not list"),
        (((2, 4, 3, 5), "f4"), ((2, 3, 5, 4), "f4"), TypeError, "stacks: dtype must be uint8, not float32"),
        (((2, 3, 3, 5), "u1"), ((2, 3, 5, 4), "f4"), ValueError, r"stacks: shape must be \(B, 4, H, W\)"),
        (((2, 4, 3), "u1"), ((2, 3, 4), "f4"), ValueError, r"stacks: shape must be .*, not \(2, 4, 3\)"),
        (((2, 4, 3, 5), "u1"), ((2, 3, 5, 4), "f8"), TypeError, "out: dtype must be float32, not float64"),
        (((2, 4, 3, 5), "u1"), ((2, 4, 3, 5), "f4"), ValueError, r"out: shape must be \(2, 3, 5, 4\)"),
        (((2, 4, 3, 5), "u1"), ((2, 4, 3, 5), "u2"), ValueError, r"out: shape must be \(2, 3, 5, 4\)"),
    ],
)
def test_the_extension_refuses_memory_that_it_would_overrun(
    stacks: Any, out: tuple[tuple[int, ...], str], error: type[Exception], message: str
) -> None:
    given = np.zeros(*stacks) if isinstance(stacks, tuple) else stacks
    with pytest.raises(error, match=message):
        _core.grey_levels(given, True, np.zeros(*out))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("options", [{}, {"dueling": True, "noise": "normal"}, {"head": "implicit"}], ids=str)
@pytest.mark.parametrize("seeds", [(1, 2), (1, 2, 3)], ids=len)
def test_networks_side_by_side_are_each_itself(
    seeds: tuple[int, ...], options: dict[str, Any], dtype: torch.dtype
) -> None:
    config, passes, wanted = NetworkConfig(width=0.25, **options), [], []
    for seed in seeds:
        one = QNetwork(
            config, 5, compute_dtype=dtype, generator=torch.Generator().manual_seed(seed)
        ).requires_grad_(False)
        pixels = one.prepare(frames(4))
        buffer = DrawBuffer({"pass": layers.draws_of(one, 4)}, seed=seed)
        buffer.fill(0)
        draws = buffer.parts[0]["pass"]
        passes.append((dict(one.named_parameters()), draws))
        wanted.append(one(pixels, draws, prepared=True))
    bound = {torch.float32: 2e-6, torch.bfloat16: 2e-2}[dtype]
    for got, want in zip(one.z_of_each(pixels, passes), wanted, strict=True):
        assert want.abs().max() > 1e-1
        torch.testing.assert_close(got, want, rtol=0, atol=bound)
    assert (wanted[0] - wanted[1]).abs().max() > 10 * bound


def test_networks_go_in_pairs_where_one_leaves_half_of_a_vector_unused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for capability in ("AVX512", "AVX2", "DEFAULT"):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda found=capability: found)
        assert network(width=0.25).is_faster_in_pairs == (capability == "AVX512")
        assert not network(width=0.5).is_faster_in_pairs
        for options in ({"torso": "impala"}, {"normalization": "layer"}):
            assert not network(width=0.25, **options).is_faster_in_pairs  # type: ignore[arg-type]


@pytest.mark.parametrize("dueling", [False, True])
def test_gradients_are_those_of_plain_pytorch(dueling: bool) -> None:
    """In float64 PyTorch without channels-last or operators of our own."""
    module, obs = network(width=0.25, dueling=dueling), frames(4)
    weights = {n: v.detach().double().requires_grad_() for n, v in module.named_parameters()}
    target = torch.linspace(-1, 2, 20).view(4, 5)
    module.q_values(obs).mul(target).sum().backward()
    reference.torch_q_values(weights, obs).mul(target.double()).sum().backward()
    for name, value in module.named_parameters():
        want, got = weights[name].grad, value.grad
        assert want is not None
        assert got is not None
        assert want.abs().max() > 0
        torch.testing.assert_close(got.double(), want, rtol=0, atol=1e-5 * want.abs().max().item())


def test_the_papers_network_has_the_papers_layers() -> None:
    shapes = {name: tuple(value.shape) for name, value in network().named_parameters()}
    assert shapes == {
        "torso.conv1.weight": (32, 4, 8, 8),
        "torso.conv1.bias": (32,),
        "torso.conv2.weight": (64, 32, 4, 4),
        "torso.conv2.bias": (64,),
        "torso.conv3.weight": (64, 64, 3, 3),
        "torso.conv3.bias": (64,),
        "head.hidden.weight": (512, 3136),
        "head.hidden.bias": (512,),
        "head.advantage.weight": (5, 512),
        "head.advantage.bias": (5,),
    }


def test_dueling_has_two_streams_and_width_multiplies_all() -> None:
    shapes = {n: tuple(v.shape) for n, v in network(width=0.5, dueling=True).named_parameters()}
    assert shapes["torso.conv1.weight"] == (16, 4, 8, 8)
    assert shapes["head.hidden.weight"] == (2 * 256, 49 * 32)
    assert shapes["head.value.weight"] == (1, 256)
    assert shapes["head.advantage.weight"] == (5, 256)


def test_the_narrowest_network_still_has_a_unit_everywhere() -> None:
    assert network(width=1 / 1024).q_values(frames(2)).shape == (2, 5)


def test_a_dueling_networks_mean_value_is_the_states_value() -> None:
    module = network(width=0.25, dueling=True)
    assert module.head.value is not None
    before = module.q_values(frames(2)).mean(dim=1)
    with torch.no_grad():
        module.head.value.bias += 2.0
        module.head.advantage.bias += 3.0
    torch.testing.assert_close(module.q_values(frames(2)).mean(dim=1), before + 2.0, rtol=0, atol=1e-5)


def test_initial_weights_follow_the_generator_and_the_bound() -> None:
    first, again = network(), network()
    other = network(2)
    for (name, a), b, c in zip(first.named_parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert not torch.equal(a, c) or name.endswith("bias"), name
    bound = math.sqrt(6 / (64 * 9))
    assert 0.99 * bound < first.torso.conv3.weight.abs().max() <= bound
    assert first.torso.conv3.bias.count_nonzero() == 0


def test_initial_weights_keep_the_size_of_a_signal() -> None:
    """Seed 1: mean square of noise after four layers, within a factor of 3; PyTorch's bounds lose 1000fold."""
    module = network()
    signal = torch.randn(8, 4, 84, 84, generator=torch.Generator().manual_seed(2))
    before = signal.square().mean()
    for layer in (module.torso.conv1, module.torso.conv2, module.torso.conv3):
        signal = layer(signal).relu()
    hidden = module.head.hidden(signal.permute(0, 2, 3, 1).flatten(1)).relu()
    assert 1 / 3 < hidden.square().mean() / before < 3


def test_building_a_network_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    want = torch.rand(3)
    torch.manual_seed(0)
    network()
    assert torch.equal(torch.rand(3), want)


@pytest.mark.parametrize("strided", ["window", "transposed", "sliced"])
def test_strides_do_not_change_values(strided: str) -> None:
    module, obs = network(width=0.25), frames(2)
    views = {
        "window": torch.cat([obs, obs[:, :1]], dim=1)[:, :4],
        "transposed": obs.transpose(2, 3).contiguous().transpose(2, 3),
        "sliced": torch.stack([obs, obs], dim=1)[:, 1],
    }
    assert torch.equal(views[strided], obs)
    torch.testing.assert_close(module.q_values(views[strided]), module.q_values(obs), rtol=0, atol=1e-6)


def test_frames_that_are_not_uint8_are_refused() -> None:
    with pytest.raises(TypeError, match=r"obs: uint8 grey levels are wanted, not torch.float32"):
        network()(frames(1).float())


@pytest.mark.parametrize("shape", [(4, 84, 84), (1, 3, 84, 84), (1, 4, 84, 83), (1, 84, 84, 4)])
def test_frames_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"obs: shape \[B, 4, 84, 84\] is wanted, not \["):
        network()(torch.zeros(shape, dtype=torch.uint8))


@pytest.mark.parametrize(("height", "width"), [(20, 20), (9, 9), (7, 7)])
def test_a_bias_in_two_steps_is_a_bias(height: int, width: int) -> None:
    """Values to the bit, gradients in float64; maps of Nature's sizes."""
    random = torch.Generator().manual_seed(height)
    maps = torch.randn(3, 5, height, width, dtype=torch.float64, generator=random)
    maps = maps.to(memory_format=torch.channels_last)
    bias = torch.randn(5, dtype=torch.float64, generator=random).requires_grad_()
    weight = torch.randn(maps.shape, dtype=torch.float64, generator=random)
    got, want = layers.biased(maps, bias), maps + bias[:, None, None]
    assert torch.equal(got, want)
    assert got.stride() == maps.stride()
    (ours,) = torch.autograd.grad((got * weight).sum(), bias)
    (theirs,) = torch.autograd.grad((want * weight).sum(), bias)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_a_layer_of_one_output_as_a_sum_is_that_layer() -> None:
    layer = torch.nn.Linear(7, 1, dtype=torch.float64)
    rows = torch.randn(4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layers.linear_to_one(rows, layer.weight, layer.bias), layer(rows))


@pytest.mark.parametrize("accelerate", ["eager", "compiled"])
def test_a_linear_layer_has_its_gradient_on_rows_that_have_none(accelerate: str) -> None:
    """Beside PyTorch's own. Fault: a compiler that leaves the layer's backward pass out, and zeros come back."""
    random = torch.Generator().manual_seed(0)
    rows, weight, bias = (torch.randn(shape, generator=random) for shape in ((8, 6), (5, 6), (5,)))

    def gradient(linear: Any) -> Any:
        return torch.func.grad(lambda own: linear(rows, *own).square().sum())

    torch.compiler.reset()
    ours = gradient(layers.linear)
    if accelerate == "compiled":
        ours = torch.compile(ours, fullgraph=True, dynamic=False, backend="aot_eager")
    want = gradient(torch.nn.functional.linear)((weight, bias))
    torch.testing.assert_close(ours((weight, bias)), want)


@pytest.mark.parametrize("rows", [1, 32, 128, 129])
@pytest.mark.parametrize("inputs", [512, 500, 64])
@pytest.mark.parametrize("has_bias", [True, False])
def test_a_linear_layer_is_pytorchs_whoever_computes_it(rows: int, inputs: int, has_bias: bool) -> None:
    """Of few rows the extension, else oneDNN: so it is, too, of weights that do not lie as they are read."""
    random = torch.Generator().manual_seed(0)
    own, weight = (torch.randn(shape, generator=random) for shape in ((rows, inputs), (37, inputs)))
    bias = torch.randn(37, generator=random) if has_bias else None
    want = torch.nn.functional.linear(own, weight, bias)
    for one in (weight, weight.t().contiguous().t()):
        torch.testing.assert_close(torch.ops.fastdqn.linear(own, one, bias), want, rtol=1e-5, atol=1e-4)
