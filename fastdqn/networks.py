"""The Q-network of Mnih et al. 2015, plain or dueling, on the CPU and the GPU.

Two choices make it fast on a CPU without changing what it computes: convolutions run channels-last (their
weight gradients are up to five times faster so), and the wide fully connected layer goes through oneDNN,
where PyTorch would take MKL, which on processors of other makers leaves half of the speed unused.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

FRAME_SIZE = 84
"""Height and width of a frame in pixels."""

MEMORY_FORMAT = torch.channels_last
"""Of everything that is convolved; benchmarks/gpu.py compares it with `torch.contiguous_format`."""

_OPERATORS = torch.library.Library("fastdqn", "DEF")  # type: ignore[no-untyped-call]
_OPERATORS.define(  # type: ignore[no-untyped-call]
    "linear(Tensor input, Tensor weight, Tensor? bias) -> Tensor"
)
# Inductor lowers the oneDNN operator only for constant weights; behind a name of our own it stays a call.
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


def _linear(rows: Tensor, layer: nn.Linear) -> Tensor:
    if rows.device.type == "cpu" and rows.dtype == torch.float32:
        product = _CpuLinear.apply(rows, layer.weight, layer.bias)  # type: ignore[no-untyped-call]
        return cast(Tensor, product)
    return functional.linear(rows, layer.weight.to(rows.dtype), layer.bias.to(rows.dtype))


def _convolve(pixels: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    weight = weight.to(pixels.dtype, memory_format=MEMORY_FORMAT)
    bias = None if bias is None else bias.to(pixels.dtype)
    return functional.relu(functional.conv2d(pixels, weight, bias, stride=stride))


class QNetwork(nn.Module):
    """Action values of a stack of frames (Mnih et al. 2015, "Methods"; Wang et al. 2016, equation 9).

    Convolutions of 32 filters 8x8 stride 4, 64 of 4x4 stride 2, 64 of 3x3 stride 1, a fully connected layer
    of 512, and one value per action; ReLU between. Dueling: two such layers of 512, one ends in the state's
    value, one in an advantage per action, whose mean over the actions is subtracted. The two layers are one
    matrix here, `hidden`: the rows of its first half belong to the value.

    The fully connected layer reads the last convolution's output in the order height, width, channel (the
    order in memory); weights from a network that flattens channel, height, width need that permutation.

    Weights start as He et al. 2015 draw them (equation 10, uniform), smaller in the heads; biases start at zero.
    The paper names no initial weights.

    Args:
        num_actions: Number of actions.
        stack: Frames per observation, the channels of the input.
        width: Multiplies the paper's channels and hidden units (rounded, at least 1 each).
        dueling: Whether value and advantages have streams of their own.
        centered: Whether each observation's mean grey level is subtracted from it.
        compute_dtype: float32, or bfloat16 for everything between the pixels and the heads; weights, heads and
            action values stay float32.
        generator: Source of the initial weights; PyTorch's global one if none is given.
    """

    def __init__(
        self,
        num_actions: int,
        *,
        stack: int = 4,
        width: float = 1.0,
        dueling: bool = False,
        centered: bool = False,
        compute_dtype: torch.dtype = torch.float32,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        narrow, wide, hidden = (max(1, round(width * units)) for units in (32, 64, 512))
        self.num_actions = num_actions
        self.stack = stack
        self.dueling = dueling
        self.centered = centered
        self.compute_dtype = compute_dtype
        with torch.random.fork_rng(devices=[]):  # their own initial weights are drawn for nothing
            self.conv1 = nn.Conv2d(stack, narrow, 8, stride=4)
            self.conv2 = nn.Conv2d(narrow, wide, 4, stride=2)
            self.conv3 = nn.Conv2d(wide, wide, 3)
            self.hidden = nn.Linear(7 * 7 * wide, hidden * (2 if dueling else 1))
            self.value = nn.Linear(hidden, 1) if dueling else None
            self.advantage = nn.Linear(hidden, num_actions)
        self._initialize(generator)

    def _initialize(self, generator: torch.Generator | None) -> None:
        """Draw He et al. 2015's uniform weights before a ReLU, and less in the heads.

        PyTorch's own bounds shrink the signal by 2.4 in each of four layers. Learning then waits until the
        weights have grown, while the common drift of all values kills most filters of the first layer.
        """
        heads = {id(self.value), id(self.advantage)}
        with torch.no_grad():
            for layer in self.children():
                weight, bias = layer.weight, layer.bias
                assert isinstance(weight, Tensor)
                assert isinstance(bias, Tensor)
                gain = 1.0 if id(layer) in heads else 6.0
                bound = math.sqrt(gain / weight[0].numel())
                weight.uniform_(-bound, bound, generator=generator)
                bias.zero_()

    def forward(self, obs: Tensor, *, prepared: bool = False) -> Tensor:
        """Return the value of each action.

        Args:
            obs: uint8 [B, stack, 84, 84], grey levels 0 to 255; they are scaled to [0, 1] inside.
            prepared: Whether `obs` is the result of `prepare` instead, which several networks can share.

        Returns:
            float32 [B, num_actions], discounted return in units of the (clipped) reward.

        Raises:
            TypeError: The dtype is not uint8.
            ValueError: The shape is another.
        """
        pixels = obs if prepared else self.prepare(obs)
        # Scaling the weight, in float32, is less work than scaling the pixels; 0 to 255 is exact in every float
        # type, and a 255th is not.
        features = _convolve(pixels, self.conv1.weight * (1 / 255), self.conv1.bias, 4)
        features = _convolve(features, self.conv2.weight, self.conv2.bias, 2)
        features = _convolve(features, self.conv3.weight, self.conv3.bias, 1)
        # Channels-last memory makes this order a view; flattening channels first would copy.
        hidden = functional.relu(_linear(features.permute(0, 2, 3, 1).flatten(1), self.hidden))
        return self._head(hidden.to(self.advantage.weight.dtype))

    def prepare(self, obs: Tensor) -> Tensor:
        """Return the grey levels as the first convolution reads them.

        Args:
            obs: uint8 [B, stack, 84, 84].

        Returns:
            [B, stack, 84, 84] of `compute_dtype`, 0 to 255 or, where centered, -255 to 255; channels last in
            memory.

        Raises:
            TypeError: The dtype is not uint8.
            ValueError: The shape is another.
        """
        self._check(obs)
        pixels = obs.to(self.compute_dtype, memory_format=MEMORY_FORMAT)
        if not self.centered:
            return pixels
        # A bright background is one large input that all weights of a filter share: under Adam they move
        # together, and some dozens of steps in one direction silence the filter for good. The mean is rounded
        # to a whole grey level: so it does not depend on the order of the sum, and bfloat16 holds every
        # difference.
        total = obs.sum(dim=(1, 2, 3), keepdim=True, dtype=torch.float32)
        return pixels - (total / obs[0].numel()).round().to(self.compute_dtype)

    def _head(self, hidden: Tensor) -> Tensor:
        if self.value is None:
            return cast(Tensor, self.advantage(hidden))
        for_value, for_advantage = hidden.chunk(2, dim=1)
        advantage = self.advantage(for_advantage)
        return cast(Tensor, self.value(for_value) + advantage - advantage.mean(dim=1, keepdim=True))

    def _check(self, obs: Tensor) -> None:
        if obs.dtype != torch.uint8:
            raise TypeError(f"obs: uint8 grey levels are wanted, not {obs.dtype}")
        wanted = (self.stack, FRAME_SIZE, FRAME_SIZE)
        if obs.dim() != 4 or obs.shape[1:] != wanted:
            raise ValueError(f"obs: shape [B, {self.stack}, 84, 84] is wanted, not {list(obs.shape)}")
