"""Layers of the network, and what a layer may have beside its input: random numbers and a state.

Three choices make the plain layers fast on a CPU without changing what they compute: convolutions run
channels-last (their weight gradients are up to five times faster so); wide fully connected layers of few rows are
our extension's, others oneDNN's, where PyTorch would take MKL, which on processors of other makers leaves half of
the speed unused; and bytes become numbers in our extension, in a fifth of the time that a compiler's loops take.
Nature's torso is the extension's altogether where it can be (`winograd.py`, `narrow.py`).

A layer with a method `draws(rows) -> dict[str, Draw]` takes random numbers: the module that contains it passes
them to its `forward`, under the same names (`part_of`). An exported policy passes an empty mapping, and the layer
computes without them. A layer with a method `advance(tensors) -> dict[str, Tensor]` has state that changes with
each update: from its parameters and buffers, by name, it returns the next values of its buffers.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastdqn import _core
from fastdqn.config import NetworkConfig

MEMORY_FORMAT = torch.channels_last
"""Of everything that is convolved; benchmarks/gpu.py compares it with `torch.contiguous_format`."""

Draws = Mapping[str, Tensor]
"""The random numbers of one pass through a network, by name."""

NO_DRAWS: Draws = {}


class Draw(NamedTuple):
    """Random numbers that a layer takes as input in each pass.

    Attributes:
        kind: `normal` (mean 0, variance 1), `truncated` (the same, cut at -2 and 2) or `uniform` (in [0, 1)).
        shape: Shape of the float32 tensor.
    """

    kind: Literal["normal", "truncated", "uniform"]
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


def _address_of_parallel_for() -> int:
    """Return where PyTorch's loop over its threads is, of its stable C interface; 0 where it has none."""
    function = getattr(ctypes.CDLL(torch._C.__file__), "torch_parallel_for", None)
    return ctypes.cast(function, ctypes.c_void_p).value or 0 if function is not None else 0


PARALLEL_FOR = _address_of_parallel_for()
"""What our extension takes PyTorch's threads by: a second pool of them would compete for the same cores."""

_OPERATORS = torch.library.Library("fastdqn", "DEF")  # type: ignore[no-untyped-call]
_OPERATORS.define(  # type: ignore[no-untyped-call]
    "linear(Tensor input, Tensor weight, Tensor? bias) -> Tensor"
)
# Inductor lowers the oneDNN operator only for constant weights; behind an operator of ours it stays a call.
_HAS_ONEDNN = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


_HAS_LINEAR = _core.has_linear()
_FEW_ROWS, _MANY_INPUTS = 128, 512
"""Up to and from as many our extension is faster than oneDNN, which arranges the weights anew each time."""


def takes_linear(inputs: int) -> bool:
    """Return whether our extension computes a fully connected layer of so many inputs on this CPU."""
    return _HAS_LINEAR and inputs % 16 == 0


def _linear_cpu(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    count, inputs = rows.shape
    as_they_lie = rows.is_contiguous() and weight.is_contiguous() and (bias is None or bias.is_contiguous())
    if as_they_lie and count <= _FEW_ROWS and inputs >= _MANY_INPUTS and takes_linear(inputs):
        out = _linear_shape(rows, weight, bias)
        biases = None if bias is None else bias.numpy()
        threads = torch.get_num_threads()
        _core.linear(rows.numpy(), weight.numpy(), biases, out.numpy(), threads, PARALLEL_FOR)
        return out
    if _HAS_ONEDNN:
        result = torch.ops.mkldnn._linear_pointwise.default(rows, weight, bias, "none", [], "")
        return cast(Tensor, result)
    return functional.linear(rows, weight, bias)


def _linear_shape(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return rows.new_empty(rows.shape[0], weight.shape[0])


_OPERATORS.impl("linear", _linear_cpu, "CPU")  # type: ignore[no-untyped-call]
torch.library.register_fake("fastdqn::linear", _linear_shape, lib=_OPERATORS)


_OPERATORS.define("grey_levels(Tensor obs, bool centered, ScalarType dtype) -> Tensor")  # type: ignore[no-untyped-call]


def _grey_levels_cpu(obs: Tensor, centered: bool, dtype: torch.dtype) -> Tensor:
    pixels = _grey_levels_shape(obs, centered, dtype)
    out = pixels.permute(0, 2, 3, 1)
    _core.grey_levels(
        obs.numpy(), centered, (out if dtype == torch.float32 else out.view(torch.uint16)).numpy()
    )
    return pixels


def _grey_levels_shape(obs: Tensor, centered: bool, dtype: torch.dtype) -> Tensor:
    return torch.empty_like(obs, dtype=dtype, memory_format=MEMORY_FORMAT)


_OPERATORS.impl("grey_levels", _grey_levels_cpu, "CPU")  # type: ignore[no-untyped-call]
torch.library.register_fake("fastdqn::grey_levels", _grey_levels_shape, lib=_OPERATORS)


class _CpuLinear(torch.autograd.Function):
    """`functional.linear` for float32 matrices on the CPU, none of its three products by MKL."""

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


def is_plain() -> bool:
    """Return whether a block of `plain_operators` runs."""
    return _plainly


def on_cpu(tensor: Tensor) -> bool:
    """Return whether a CPU computes with a tensor: it and a GPU want other forms of the same arithmetic."""
    return tensor.device.type == "cpu"


def grey_levels(obs: Tensor, dtype: torch.dtype, *, centered: bool) -> Tensor:
    """Return grey levels as a torso reads them, channels last in memory; no gradient flows through.

    Args:
        obs: uint8 [B, stack, height, width].
        dtype: float32 or bfloat16.
        centered: Whether each row's mean, rounded to a whole grey level, is subtracted.

    Returns:
        [B, stack, height, width], 0 to 255 or, where centered, -255 to 255: whole numbers.
    """
    if on_cpu(obs) and dtype in (torch.float32, torch.bfloat16) and not _plainly:
        return cast(Tensor, torch.ops.fastdqn.grey_levels(obs, centered, dtype))
    pixels = obs.to(dtype, memory_format=MEMORY_FORMAT)
    if not centered:
        return pixels
    # By frames first, each of which a GPU's processors can sum apart.
    total = obs.sum(dim=(2, 3), keepdim=True, dtype=torch.float32).sum(dim=1, keepdim=True)
    return pixels - (total / math.prod(obs.shape[1:])).round().to(dtype)


def linear(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return `rows @ weight.T + bias`, in the type of `rows`.

    Args:
        rows: [B, in].
        weight: float32 [out, in].
        bias: float32 [out].
    """
    if on_cpu(rows) and rows.dtype == torch.float32 and not _plainly:
        if torch.compiler.is_compiling():
            # Dynamo does not know that torch.func's leaves need a gradient, and leaves out a backward pass that no
            # other argument needs: where rows have none, the weight's would be zero. Of a view it knows.
            weight = weight.view_as(weight)
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


def convolve(pixels: Tensor, weight: Tensor, bias: Tensor, stride: int, groups: int = 1) -> Tensor:
    """Return a convolution's output after its ReLU, channels last in memory, in the type of `pixels`.

    Args:
        pixels: [B, in * groups, height, width].
        weight: float32 [out * groups, in, kernel, kernel].
        bias: float32 [out * groups].
        stride: In pixels.
        groups: Convolutions side by side, each of which reads channels of its own.
    """
    weight, bias = weight.to(pixels.dtype, memory_format=MEMORY_FORMAT), bias.to(pixels.dtype)
    if on_cpu(pixels):
        return functional.relu(functional.conv2d(pixels, weight, bias, stride=stride, groups=groups))
    return functional.relu(biased(functional.conv2d(pixels, weight, stride=stride, groups=groups), bias))


def biased(maps: Tensor, bias: Tensor) -> Tensor:
    """Return `maps` with a bias for each channel, whose gradient is summed in two steps, for a GPU.

    First over each row's map, then over the rows. A compiler joins the first sum to the loop that makes the
    gradient; one sum over everything would be two kernels of its own for each layer.

    Args:
        maps: [B, channels, height, width].
        bias: [channels].
    """
    return maps + bias.expand(len(maps), -1)[:, :, None, None]


def convolve_3x3(pixels: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return a 3x3 convolution of the same height and width, without ReLU.

    Args:
        pixels: [B, in, height, width].
        weight: float32 [out, in, 3, 3].
        bias: float32 [out].
    """
    weight = weight.to(pixels.dtype, memory_format=MEMORY_FORMAT)
    return functional.conv2d(pixels, weight, bias.to(pixels.dtype), padding=1)


class Linear(nn.Linear):
    """A fully connected layer whose weights may differ from pass to pass."""

    gain = 6.0
    """Of the initial weights before a ReLU: He et al. 2015."""

    def weights(self, draws: Draws) -> tuple[Tensor, Tensor]:
        """Return weight and bias of a pass.

        Args:
            draws: The layer's random numbers; without any the layer is deterministic.
        """
        return self.weight, self.bias

    def initialize(self, gain: float, generator: torch.Generator | None) -> None:
        """Draw the initial weights as `draw_weights` does."""
        draw_weights(self, gain, generator)


class NoisyLinear(Linear):
    """A fully connected layer with factorised Gaussian noise (Fortunato et al. 2018, equations 10 and 11).

    weight + weight_sigma * f(e_out) f(e_in), bias + bias_sigma * f(e_out), with f(x) = sign(x) sqrt |x|. One draw
    is shared by the batch. Without draws the means alone are the layer.

    Args:
        inputs: Numbers that go in.
        outputs: Numbers that come out.
        noise: `normal`, or `truncated` for draws between -2 and 2 (dqn_zoo's).
        sigma: Size of the noise at the start, times 1 / sqrt(inputs).
        streams: Layers side by side in this one, `outputs / streams` rows each, whose inputs' noise is separate.
    """

    gain = 1.0
    """As Fortunato et al. 2018, section 3.2, so that sigma is as large beside the means as there."""

    def __init__(
        self, inputs: int, outputs: int, noise: Literal["normal", "truncated"], sigma: float, streams: int = 1
    ) -> None:
        super().__init__(inputs, outputs)
        self.weight_sigma = nn.Parameter(torch.empty(outputs, inputs))
        self.bias_sigma = nn.Parameter(torch.empty(outputs))
        self.noise, self.streams, self.sigma = noise, streams, sigma

    def draws(self, rows: int) -> dict[str, Draw]:
        """Return what a pass takes: a number for each input of each stream, and for each output."""
        return {
            "inputs": Draw(self.noise, (self.streams, self.in_features)),
            "outputs": Draw(self.noise, (self.out_features,)),
        }

    def weights(self, draws: Draws) -> tuple[Tensor, Tensor]:
        """Return weight and bias of a pass: [outputs, inputs] and [outputs]."""
        if not draws:
            return self.weight, self.bias
        of_input, of_output = (_signed_root(draws[name]) for name in ("inputs", "outputs"))
        noise = of_output.view(self.streams, -1, 1) * of_input.unsqueeze(1)
        weight = self.weight + self.weight_sigma * noise.view(self.weight.shape)
        return weight, self.bias + self.bias_sigma * of_output

    def initialize(self, gain: float, generator: torch.Generator | None) -> None:
        """Draw the means, and set every sigma to its start."""
        super().initialize(gain, generator)
        with torch.no_grad():
            for sigma in (self.weight_sigma, self.bias_sigma):
                sigma.fill_(self.sigma / math.sqrt(self.in_features))


def _signed_root(numbers: Tensor) -> Tensor:
    return numbers.sign() * numbers.abs().sqrt()


def _noisy(
    noise: Literal["normal", "truncated"],
) -> Callable[[NetworkConfig, int, int, int], Linear]:
    return lambda config, inputs, outputs, streams: NoisyLinear(
        inputs, outputs, noise, config.noise_sigma, streams
    )


LINEARS: dict[str, Callable[[NetworkConfig, int, int, int], Linear]] = {
    "none": lambda config, inputs, outputs, streams: Linear(inputs, outputs),
    "normal": _noisy("normal"),
    "truncated": _noisy("truncated"),
}
"""Fully connected layers by `network.noise`: from the network's shape, inputs, outputs and streams."""


class Convolution(nn.Conv2d):
    """A 3x3 convolution of the same height and width, without ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)

    def forward(self, pixels: Tensor, scale: float = 1.0) -> Tensor:
        """Return [B, outputs, height, width] in the type of `pixels`, which count `scale` times."""
        assert self.bias is not None
        return convolve_3x3(pixels, self.weight * scale, self.bias)

    def initialize(self, generator: torch.Generator | None) -> None:
        """Draw the initial weights with PyTorch's bound, as IMPALA's and BTR's code."""
        draw_weights(self, 1.0, generator)


class SpectralConvolution(Convolution):
    """The same by its weight over its largest singular value (Miyato et al. 2018, algorithm 1).

    `u` and `v`, [out] and [in * 9], come near that value's singular vectors by one step of the power iteration an
    update, and none while acting or in the target network. The value is u' W v, through which the gradient flows.
    """

    u: Tensor
    v: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.register_buffer("u", torch.zeros(outputs))
        self.register_buffer("v", torch.zeros(inputs * 9))

    def forward(self, pixels: Tensor, scale: float = 1.0) -> Tensor:
        """Return [B, outputs, height, width] in the type of `pixels`, which count `scale` times."""
        assert self.bias is not None
        largest = torch.dot(self.u, torch.mv(self.weight.flatten(1), self.v))
        return convolve_3x3(pixels, self.weight * (scale / largest), self.bias)

    def advance(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return `u` and `v` after one step of the power iteration."""
        matrix = tensors["weight"].flatten(1)
        v = functional.normalize(torch.mv(matrix.t(), tensors["u"]), dim=0, eps=1e-12)
        return {"u": functional.normalize(torch.mv(matrix, v), dim=0, eps=1e-12), "v": v}

    def initialize(self, generator: torch.Generator | None) -> None:
        """Draw the initial weights, and take 15 steps of the power iteration, as `torch.nn.utils` does."""
        super().initialize(generator)
        with torch.no_grad():
            self.u.normal_(generator=generator)
            for _ in range(_FIRST_POWER_STEPS):
                for name, value in self.advance({"weight": self.weight, "u": self.u}).items():
                    getattr(self, name).copy_(value)


_FIRST_POWER_STEPS = 15

CONVOLUTIONS: dict[str, Callable[[int, int], Convolution]] = {
    "none": Convolution,
    "spectral": SpectralConvolution,
}
"""Convolutions of a residual block by `network.normalization`."""


class LayerNorm(nn.Module):
    """Layer normalisation (Ba et al. 2016) over the last dimension.

    Args:
        units: Size of that dimension.
        streams: Layers side by side in it, normalised each by itself.
    """

    def __init__(self, units: int, streams: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(units))
        self.bias = nn.Parameter(torch.zeros(units))
        self.streams = streams

    def forward(self, values: Tensor) -> Tensor:
        """Return the normalised values, in their shape and type; the arithmetic is in the parameters' type."""
        apart = values.to(self.weight.dtype).view(*values.shape[:-1], self.streams, -1)
        normal = functional.layer_norm(apart, apart.shape[-1:], eps=_NORM_EPSILON).flatten(-2)
        return (normal * self.weight + self.bias).to(values.dtype)


_NORM_EPSILON = 1e-6
"""Added to the variance: flax's, which purejaxql has; PyTorch's is 1e-5."""

NORMS: dict[str, Callable[[int, int], nn.Module]] = {
    "none": lambda units, streams: nn.Identity(),
    "spectral": lambda units, streams: nn.Identity(),
    "layer": LayerNorm,
}
"""What stands before a ReLU by `network.normalization`: from the units and their streams."""


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
