"""The torso of Mnih et al. 2015 at a quarter of its width, in bfloat16 on a CPU: our extension's convolutions.

Libraries are made for many channels. Of 4, 8 and 16 their kernels leave most of a vector idle, above all backward
(docs/performance.md has what it takes in either way).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from fastdqn import _core
from fastdqn.algorithm import layers

_FILTERS = (8, 16, 16)
_MAPS = ((20, 20, 8), (9, 9, 16), (7, 7, 16))
_FEATURES = 7 * 7 * 16
_HERE = _core.has_narrow_torso()  # asked once: a compiler that traces Python cannot ask the extension

_OPERATORS = torch.library.Library("fastdqn", "FRAGMENT")  # type: ignore[no-untyped-call]
_OPERATORS.define(  # type: ignore[no-untyped-call]
    "narrow_torso(Tensor pixels, Tensor w1, Tensor b1, Tensor w2, Tensor b2, Tensor w3, Tensor b3, int networks)"
    " -> (Tensor, Tensor, Tensor)"
)
_OPERATORS.define(  # type: ignore[no-untyped-call]
    "narrow_torso_backward(Tensor gradient, Tensor pixels, Tensor map1, Tensor map2, Tensor features, Tensor w1,"
    " Tensor b1, Tensor w2, Tensor b2, Tensor w3, Tensor b3)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def is_narrow(pixels: Tensor, filters: tuple[int, ...], networks: int = 1) -> bool:
    """Return whether `narrow_torso` computes the features of some pixels.

    Args:
        pixels: [B, 4, 84, 84], what the network's `prepare` returned.
        filters: Of each of the three layers of one network.
        networks: Whose weights there are.
    """
    fits = pixels.dtype == torch.bfloat16 and layers.on_cpu(pixels) and not layers.is_plain()
    return fits and networks <= 2 and is_narrow_here(filters)


def is_narrow_here(filters: tuple[int, ...]) -> bool:
    """Return whether it computes them for one network with so many filters, in bfloat16 on this machine's CPU."""
    return filters == _FILTERS and _HERE


def narrow_torso(pixels: Tensor, parameters: tuple[Tensor, ...], networks: int) -> Tensor:
    """Return features, the ReLUs' after three convolutions.

    Products are of bfloat16, sums in float32 in a fixed order, whatever the number of threads, of rows and of
    networks. Through one network gradients flow, which are exact sums in float32 for its weights.

    Args:
        pixels: bfloat16 [B, 4, 84, 84], channels last in memory.
        parameters: float32 weight and bias of each layer; those of several networks one after the other.
        networks: 1 or 2, without gradients.

    Returns:
        bfloat16 [networks * B, 784], in the order height, width, channel.
    """
    if networks == 1:
        return cast("tuple[Tensor, ...]", _NarrowTorso.apply(pixels, *parameters))[0]  # type: ignore[no-untyped-call]
    return cast(Tensor, torch.ops.fastdqn.narrow_torso(pixels, *parameters, networks)[0])


class _NarrowTorso(torch.autograd.Function):
    """With the maps between, which the way back reads."""

    @staticmethod  # torch.compile takes no list of arguments here
    def forward(
        pixels: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, w3: Tensor, b3: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        made = torch.ops.fastdqn.narrow_torso(pixels, w1, b1, w2, b2, w3, b3, 1)
        return cast("tuple[Tensor, Tensor, Tensor]", made)

    @staticmethod
    def setup_context(
        ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]
    ) -> None:
        features, map1, map2 = output
        ctx.mark_non_differentiable(map1, map2)
        ctx.save_for_backward(inputs[0], map1, map2, features, *inputs[1:])

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # type: ignore[attr-defined]
        return None, *torch.ops.fastdqn.narrow_torso_backward(gradients[0], *saved)


def _shapes(pixels: Tensor, *rest: Tensor | int) -> tuple[Tensor, Tensor, Tensor]:
    rows, networks = pixels.shape[0], cast(int, rest[-1])
    kept = rows if networks == 1 else 0
    return (
        pixels.new_empty(networks * rows, _FEATURES),
        pixels.new_empty(kept, *_MAPS[0]),
        pixels.new_empty(kept, *_MAPS[1]),
    )


def _forward_cpu(pixels: Tensor, *rest: Tensor | int) -> tuple[Tensor, Tensor, Tensor]:
    features, map1, map2 = _shapes(pixels, *rest)
    *parameters, networks = rest
    arrays = [_innermost(cast(Tensor, one)).numpy() for one in parameters]
    if networks == 1:
        _core.narrow_torso(_bits(_innermost(pixels)), arrays, [_bits(one) for one in (map1, map2, features)])
    else:
        _core.narrow_torsos(_bits(_innermost(pixels)), arrays, _bits(features))
    return features, map1, map2


def _gradient_shapes(gradient: Tensor, *saved: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(one, memory_format=torch.contiguous_format) for one in saved[4:])


def _backward_cpu(gradient: Tensor, *saved: Tensor) -> tuple[Tensor, ...]:
    pixels, map1, map2, features, *parameters = saved
    arrays = [_innermost(one).numpy() for one in parameters]
    out = [torch.empty(one.shape) for one in arrays]
    _core.narrow_torso_backward(
        _bits(gradient.contiguous()),
        _bits(_innermost(pixels)),
        arrays,
        [_bits(one) for one in (map1, map2, features)],
        [one.numpy() for one in out],
    )
    return tuple(one.permute(0, 3, 1, 2).contiguous() if one.dim() == 4 else one for one in out)


def _innermost(tensor: Tensor) -> Tensor:
    """Return maps or weights with their channels innermost: a view, where they lie so in memory."""
    return (tensor.permute(0, 2, 3, 1) if tensor.dim() == 4 else tensor).contiguous()


def _bits(tensor: Tensor) -> object:
    return tensor.view(torch.uint16).numpy()


_OPERATORS.impl("narrow_torso", _forward_cpu, "CPU")  # type: ignore[no-untyped-call]
_OPERATORS.impl("narrow_torso_backward", _backward_cpu, "CPU")  # type: ignore[no-untyped-call]
torch.library.register_fake("fastdqn::narrow_torso", _shapes, lib=_OPERATORS)
torch.library.register_fake("fastdqn::narrow_torso_backward", _gradient_shapes, lib=_OPERATORS)
