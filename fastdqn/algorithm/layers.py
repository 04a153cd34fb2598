"""Layers of the network, and what a layer may have beside its input: random numbers and a state.

Two choices make the plain layers fast on a CPU without changing what they compute: convolutions run
channels-last (their weight gradients are up to five times faster so), and wide fully connected layers go
through oneDNN, where PyTorch would take MKL, which on processors of other makers leaves half of the speed
unused.

A layer with a method `draws(rows) -> dict[str, Draw]` takes random numbers: the module that contains it passes
them to its `forward`, under the same names (`part_of`). An exported policy passes an empty mapping, and the layer
computes without them. A layer with a method `advance(tensors) -> dict[str, Tensor]` has state that changes with
each update: from its parameters and buffers, by name, it returns the next values of its buffers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

MEMORY_FORMAT = torch.channels_last
"""Of everything that is convolved; benchmarks/gpu.py compares it with `torch.contiguous_format`."""

Draws = Mapping[str, Tensor]
"""The random numbers of one pass through a network, by name."""

NO_DRAWS: Draws = {}


class Draw(NamedTuple):
    """Random numbers that a layer takes as input in each pass.

    Attributes:
        kind: `normal` (mean 0, variance 1) or `uniform` (in [0, 1)).
        shape: Shape of the float32 tensor.
    """

    kind: Literal["normal", "uniform"]
    shape: tuple[int, ...]


def draws_of(module: nn.Module, rows: int) -> dict[str, Draw]:
    """Return what the layers of a module take for one pass of `rows` observations, by their paths."""
    return {
        f"{path}.{name}": draw
        for path, layer in module.named_modules()
        if path and hasattr(layer, "draws")
        for name, draw in layer.draws(rows).items()
    }


def part_of(draws: Draws, path: str) -> Draws:
    """Return the random numbers of the layer at `path`, by the names that its `draws` has."""
    return {
        name.removeprefix(f"{path}."): value for name, value in draws.items() if name.startswith(f"{path}.")
    }


def advanced(module: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the buffers of a module after one more update.

    Args:
        module: Its layers' `advance` is called.
        tensors: Its parameters and buffers as they are now, by name. They are not changed.
    """
    new = {name: tensors[name] for name, _ in module.named_buffers()}
    for path, layer in module.named_modules():
        if path and hasattr(layer, "advance"):
            advanced_buffers = layer.advance(part_of(tensors, path))
            new |= {f"{path}.{name}": value for name, value in advanced_buffers.items()}
    return new


_OPERATORS = torch.library.Library("fastdqn", "DEF")  # type: ignore[no-untyped-call]
_OPERATORS.define(  # type: ignore[no-untyped-call]
    "linear(Tensor input, Tensor weight, Tensor? bias) -> Tensor"
)
# Inductor lowers the oneDNN operator only for constant weights; behind an operator of ours it stays a call.
_HAS_ONEDNN = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


def _linear_cpu(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if _HAS_ONEDNN:
        result = torch.ops.mkldnn._linear_pointwise.default(rows, weight, bias, "none", [], "")
        return cast(Tensor, result)
    return functional.linear(rows, weight, bias)


def _linear_shape(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return rows.new_empty(rows.shape[0], weight.shape[0])


_OPERATORS.impl("linear", _linear_cpu, "CPU")  # type: ignore[no-untyped-call]
torch.library.register_fake("fastdqn::linear", _linear_shape, lib=_OPERATORS)


class _CpuLinear(torch.autograd.Function):
    """`functional.linear` for float32 matrices on the CPU, all three products by oneDNN."""

    @staticmethod
    def forward(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return cast(Tensor, torch.ops.fastdqn.linear(rows, weight, bias))

    @staticmethod
    def setup_context(
        ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, ...], output: Tensor
    ) -> None:
        ctx.save_for_backward(inputs[0], inputs[1])

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        (gradient,) = gradients
        product = torch.ops.fastdqn.linear
        return product(gradient, weight.t(), None), product(gradient.t(), rows.t(), None), gradient.sum(0)


_plainly = False


@contextmanager
def plain_operators() -> Iterator[None]:
    """Compute with PyTorch's own operators alone while the block runs: for programs that run without fastdqn."""
    global _plainly
    _plainly = True
    try:
        yield
    finally:
        _plainly = False


def on_cpu(tensor: Tensor) -> bool:
    """Return whether a CPU computes with a tensor: it and a GPU want other forms of the same arithmetic."""
    return tensor.device.type == "cpu"


def linear(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return `rows @ weight.T + bias`, in the type of `rows`.

    Args:
        rows: [B, in].
        weight: float32 [out, in].
        bias: float32 [out].
    """
    if on_cpu(rows) and rows.dtype == torch.float32 and not _plainly:
        return cast(Tensor, _CpuLinear.apply(rows, weight, bias))  # type: ignore[no-untyped-call]
    return functional.linear(rows, weight.to(rows.dtype), bias.to(rows.dtype))


def linear_to_one(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return `rows @ weight.T + bias` for a layer of one output, as a sum: on a GPU it joins the loops beside it.

    Args:
        rows: [B, in].
        weight: [1, in].
        bias: [1].

    Returns:
        [B, 1].
    """
    return (rows * weight).sum(1, keepdim=True) + bias


def convolve(pixels: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    """Return a convolution's output after its ReLU, channels last in memory, in the type of `pixels`.

    Args:
        pixels: [B, in, height, width].
        weight: float32 [out, in, kernel, kernel].
        bias: float32 [out].
        stride: In pixels.
    """
    weight, bias = weight.to(pixels.dtype, memory_format=MEMORY_FORMAT), bias.to(pixels.dtype)
    if on_cpu(pixels):
        return functional.relu(functional.conv2d(pixels, weight, bias, stride=stride))
    return functional.relu(biased(functional.conv2d(pixels, weight, stride=stride), bias))


def biased(maps: Tensor, bias: Tensor) -> Tensor:
    """Return `maps` with a bias for each channel, whose gradient is summed in two steps, for a GPU.

    First over each row's map, then over the rows. A compiler joins the first sum to the loop that makes the
    gradient; one sum over everything would be two kernels of its own for each layer.

    Args:
        maps: [B, channels, height, width].
        bias: [channels].
    """
    return maps + bias.expand(len(maps), -1)[:, :, None, None]


def draw_weights(layer: nn.Module, gain: float, generator: torch.Generator | None) -> None:
    """Draw a layer's weights uniformly with variance `gain / 3` over its inputs, and set its bias to zero.

    A gain of 6 is He et al. 2015's (equation 10), for a layer before a ReLU. PyTorch's own bounds shrink the
    signal by 2.4 in each of four layers. Learning then waits until the weights have grown, while the common
    drift of all values kills most filters of the first layer.
    """
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor)
    assert isinstance(bias, Tensor)
    bound = math.sqrt(gain / weight[0].numel())
    with torch.no_grad():
        weight.uniform_(-bound, bound, generator=generator)
        bias.zero_()
