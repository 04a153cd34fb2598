"""The torso of Mnih et al. 2015, whole or half as wide, in float32 on a CPU: our extension's minimal filtering.

Winograd's filtering computes several outputs of a convolution at once with two fifths of the products (Lavin and
Gray 2016); a GPU's libraries do it so, too. PyTorch's for a CPU do not, and it is most of an update
(docs/performance.md has what it takes in either way). Rounding errors are about those of plain sums.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from fastdqn import _core
from fastdqn.algorithm import layers

_FILTERS = ((32, 64, 64), (16, 32, 32))
_HERE = _core.has_winograd_torso()  # asked once: a compiler that traces Python cannot ask the extension

_OPERATORS = torch.library.Library("fastdqn", "FRAGMENT")  # type: ignore[no-untyped-call]
_OPERATORS.define(  # type: ignore[no-untyped-call]
    "winograd_torso(Tensor stacks, bool centered, Tensor w1, Tensor b1, Tensor w2, Tensor b2, Tensor w3,"
    " Tensor b3) -> (Tensor, Tensor, Tensor)"
)
_OPERATORS.define(  # type: ignore[no-untyped-call]
    "winograd_torso_backward(Tensor gradient, Tensor stacks, bool centered, Tensor map1, Tensor map2,"
    " Tensor features, Tensor w1, Tensor b1, Tensor w2, Tensor b2, Tensor w3, Tensor b3)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def is_filtered(stacks: Tensor, filters: tuple[int, ...], dtype: torch.dtype) -> bool:
    """Return whether `winograd_torso` computes the features of some observations.

    Args:
        stacks: uint8 [B, 4, 84, 84].
        filters: Of each of the three layers.
        dtype: What the network computes in.
    """
    fits = dtype == torch.float32 and layers.on_cpu(stacks) and not layers.is_plain()
    return fits and is_filtered_here(filters)


def is_filtered_here(filters: tuple[int, ...]) -> bool:
    """Return whether it computes them for a network with so many filters, in float32 on this machine's CPU."""
    return filters in _FILTERS and _HERE


def winograd_torso(stacks: Tensor, parameters: tuple[Tensor, ...], *, centered: bool) -> Tensor:
    """Return features, the ReLUs' after three convolutions; gradients flow to the parameters.

    All is in float32, in an order that is fixed for each row whatever the number of threads and of rows; the
    weights' gradients are sums over each thread's rows, and then over the threads.

    Args:
        stacks: uint8 [B, 4, 84, 84]; the torso reads 255ths of what `layers.grey_levels` would make of it.
        parameters: float32 weight and bias of each layer.
        centered: As for `layers.grey_levels`.

    Returns:
        float32 [B, 49 * filters of the third layer], in the order height, width, channel.
    """
    if torch.compiler.is_compiling():
        # As in `layers.linear`: of leaves alone Dynamo does not know that they need a gradient.
        parameters = tuple(one.view_as(one) for one in parameters)
    made = _WinogradTorso.apply(stacks, centered, *parameters)  # type: ignore[no-untyped-call]
    return cast("tuple[Tensor, ...]", made)[0]


class _WinogradTorso(torch.autograd.Function):
    """With the maps between, which the way back reads."""

    @staticmethod  # torch.compile takes no list of arguments here
    def forward(
        stacks: Tensor, centered: bool, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, w3: Tensor, b3: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        made = torch.ops.fastdqn.winograd_torso(stacks, centered, w1, b1, w2, b2, w3, b3)
        return cast("tuple[Tensor, Tensor, Tensor]", made)

    @staticmethod
    def setup_context(
        ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Any, ...], output: tuple[Tensor, ...]
    ) -> None:
        features, map1, map2 = output
        ctx.mark_non_differentiable(map1, map2)
        ctx.centered = inputs[1]  # type: ignore[attr-defined]
        ctx.save_for_backward(inputs[0], map1, map2, features, *inputs[2:])

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        stacks, *saved = ctx.saved_tensors  # type: ignore[attr-defined]
        centered = ctx.centered  # type: ignore[attr-defined]
        back = torch.ops.fastdqn.winograd_torso_backward
        return None, None, *back(gradients[0], stacks, centered, *saved)


def _shapes(stacks: Tensor, centered: bool, *parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    rows, (narrow, wide) = stacks.shape[0], (parameters[i].shape[0] for i in (1, 3))
    return (
        parameters[0].new_empty(rows, 7 * 7 * wide),
        parameters[0].new_empty(rows, 20, 20, narrow),
        parameters[0].new_empty(rows, 9, 9, wide),
    )


def _forward_cpu(stacks: Tensor, centered: bool, *parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    features, map1, map2 = _shapes(stacks, centered, *parameters)
    _core.winograd_torso(
        stacks.numpy(),
        centered,
        [one.contiguous().numpy() for one in parameters],
        [map1.numpy(), map2.numpy(), features.numpy()],
        torch.get_num_threads(),
        layers.PARALLEL_FOR,
    )
    return features, map1, map2


def _gradient_shapes(gradient: Tensor, stacks: Tensor, centered: bool, *saved: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(one, memory_format=torch.contiguous_format) for one in saved[3:])


def _backward_cpu(gradient: Tensor, stacks: Tensor, centered: bool, *saved: Tensor) -> tuple[Tensor, ...]:
    map1, map2, features, *parameters = saved
    out = _gradient_shapes(gradient, stacks, centered, *saved)
    _core.winograd_torso_backward(
        gradient.contiguous().numpy(),
        stacks.numpy(),
        centered,
        [one.contiguous().numpy() for one in parameters],
        [map1.numpy(), map2.numpy(), features.numpy()],
        [one.numpy() for one in out],
        torch.get_num_threads(),
        layers.PARALLEL_FOR,
    )
    return out


_OPERATORS.impl("winograd_torso", _forward_cpu, "CPU")  # type: ignore[no-untyped-call]
_OPERATORS.impl("winograd_torso_backward", _backward_cpu, "CPU")  # type: ignore[no-untyped-call]
torch.library.register_fake("fastdqn::winograd_torso", _shapes, lib=_OPERATORS)
torch.library.register_fake("fastdqn::winograd_torso_backward", _gradient_shapes, lib=_OPERATORS)
