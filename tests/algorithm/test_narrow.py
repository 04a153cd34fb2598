"""The narrow torso of the extension, against float64 and against PyTorch's own bfloat16."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor
from torch.nn import functional

from fastdqn import _core
from fastdqn.algorithm import layers, narrow, torsos
from fastdqn.algorithm.narrow import is_narrow, narrow_torso
from fastdqn.algorithm.torsos import NatureTorso
from fastdqn.config import NetworkConfig

needs_cpu = pytest.mark.skipif(not _core.has_narrow_torso(), reason="this CPU has no AVX-512 with bfloat16")


def pixels(rows: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    levels = torch.randint(-255, 256, (rows, 4, 84, 84), generator=generator)
    return levels.to(torch.bfloat16, memory_format=torch.channels_last)


def parameters(networks: int = 1, seed: int = 1) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(8, 4, 8, 8), (8,), (16, 8, 4, 4), (16,), (16, 16, 3, 3), (16,)]
    scales = [0.1 / 255, 0.1, 0.1, 0.1, 0.1, 0.1]
    return tuple(
        torch.randn(networks * shape[0], *shape[1:], generator=generator) * scale
        for shape, scale in zip(shapes, scales, strict=True)
    )


def plainly(obs: Tensor, *weights: Tensor, dtype: torch.dtype) -> Tensor:
    maps = obs.to(dtype)
    for layer, stride in enumerate((4, 2, 1)):
        kernel, bias = (one.to(dtype) for one in weights[2 * layer : 2 * layer + 2])
        maps = functional.relu(functional.conv2d(maps, kernel, bias, stride=stride))
    return maps.permute(0, 2, 3, 1).flatten(1)


@needs_cpu
def test_features_and_gradients_are_as_near_float64_as_pytorchs_bfloat16():
    obs, weights = pixels(32), parameters()
    towards = torch.randn(32, 784, generator=torch.Generator().manual_seed(2)).double()

    def told(features_of):
        def objective(*own: Tensor) -> tuple[Tensor, Tensor]:
            features = features_of(*own).double()
            return (features * towards).sum(), features

        gradients, features = torch.func.grad(objective, argnums=tuple(range(6)), has_aux=True)(*weights)
        return [features, *gradients]

    exact = told(lambda *own: plainly(obs, *own, dtype=torch.float64))
    theirs = told(lambda *own: plainly(obs, *own, dtype=torch.bfloat16))
    ours = told(lambda *own: narrow_torso(obs, own, 1))
    for want, other, got in zip(exact, theirs, ours, strict=True):
        assert got.shape == want.shape
        error, allowed = ((one - want).norm() / want.norm() for one in (got, other))
        assert error < 1.2 * allowed
        assert allowed < 0.2


@needs_cpu
def test_networks_rows_and_threads_change_no_bit():
    obs, both = pixels(5), parameters(networks=2)
    each = [tuple(one.chunk(2)[network] for one in both) for network in range(2)]
    alone = [narrow_torso(obs, own, 1) for own in each]
    assert torch.equal(narrow_torso(obs, both, 2), torch.cat(alone))
    assert not torch.equal(*alone)
    assert torch.equal(narrow_torso(obs[2:3], each[0], 1), alone[0][2:3])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(narrow_torso(obs, each[0], 1), alone[0])
    finally:
        torch.set_num_threads(threads)


@needs_cpu
@pytest.mark.parametrize("networks", [1, 2])
def test_pytorch_finds_the_operator_in_order(networks):
    """Its shapes, its strides, and that it changes none of its arguments."""
    torch.library.opcheck(
        torch.ops.fastdqn.narrow_torso.default,
        (pixels(2), *parameters(networks), networks),
        test_utils=("test_schema", "test_faketensor"),
    )


@needs_cpu
def test_pytorch_finds_the_operator_of_the_gradient_in_order():
    obs, weights = pixels(2), parameters()
    features, map1, map2 = torch.ops.fastdqn.narrow_torso(obs, *weights, 1)
    torch.library.opcheck(
        torch.ops.fastdqn.narrow_torso_backward.default,
        (torch.ones_like(features), obs, map1, map2, features, *weights),
        test_utils=("test_schema", "test_faketensor"),
    )


@needs_cpu
def test_a_torso_of_a_quarter_of_the_width_takes_it_and_no_other_does(monkeypatch):
    taken = []
    monkeypatch.setattr(
        torsos, "narrow_torso", lambda *given: taken.append(len(given[0])) or narrow_torso(*given)
    )
    torso, obs = NatureTorso(NetworkConfig(width=0.25), 4), pixels(6)
    torso.initialize(torch.Generator().manual_seed(3))
    with torch.no_grad():
        ours = torso(obs, {})
        assert taken == [6]
        with layers.plain_operators():
            plain = torso(obs, {})
        torch.testing.assert_close(ours.float(), plain.float(), rtol=0.02, atol=0.02)
        NatureTorso(NetworkConfig(width=0.5), 4)(obs, {})
        monkeypatch.setattr(narrow, "_HERE", False)
        torso(obs, {})
    assert taken == [6]


@needs_cpu
def test_what_is_narrow():
    assert is_narrow(pixels(1), (8, 16, 16))
    assert is_narrow(pixels(1), (8, 16, 16), networks=2)
    assert not is_narrow(pixels(1), (8, 16, 16), networks=3)
    assert not is_narrow(pixels(1), (16, 32, 32))
    assert not is_narrow(pixels(1).float(), (8, 16, 16))


@needs_cpu
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda given: {"pixels": given["pixels"].astype("float32")}, "pixels: dtype must be uint16"),
        (lambda given: {"layers": []}, "layers: must be 6 arrays"),
        (lambda given: {"maps": []}, "maps: must be 3 arrays"),
        (
            lambda given: {"maps": [*given["maps"][:2], given["maps"][2][:-1]]},
            "maps: must be 784 contiguous numbers",
        ),
    ],
)
def test_the_core_refuses_what_does_not_fit(change, message):
    given = {
        "pixels": pixels(1).permute(0, 2, 3, 1).contiguous().view(torch.uint16).numpy(),
        "layers": [
            one.permute(0, 2, 3, 1).contiguous().numpy() if one.dim() == 4 else one.numpy()
            for one in parameters()
        ],
        "maps": [torch.zeros(size, dtype=torch.uint16).numpy() for size in (3200, 1296, 784)],
    }
    _core.narrow_torso(**given)
    with pytest.raises((TypeError, ValueError), match=message):
        _core.narrow_torso(**{**given, **change(given)})
