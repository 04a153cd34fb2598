"""Action values of a few observations by the extension alone, without PyTorch between its kernels.

Of eight observations a third of the time of a compiled pass is PyTorch's way from one operator to the next: after
an update all of it comes from the main memory anew (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fastdqn import _core
from fastdqn.algorithm import layers
from fastdqn.algorithm.heads import ScalarHead
from fastdqn.algorithm.layers import Linear
from fastdqn.algorithm.networks import QNetwork
from fastdqn.algorithm.torsos import NatureTorso

_Rows = NDArray[np.float32]


def direct_values(
    network: QNetwork, tensors: Mapping[str, Tensor], obs: Tensor
) -> Callable[[], Tensor] | None:
    """Return what computes the action values of observations that are written to one place, or `None`.

    It is for Nature's torso where the extension convolves in float32, and a head of values, plain or dueling,
    without noise. The values are those of `network`, but for the order of the last layers' sums.

    Args:
        network: Its structure; its own tensors are not used.
        tensors: Its tensors by name, float32 and contiguous, which stay where they are.
        obs: uint8 [B, 4, 84, 84], which stays where it is, contiguous.

    Returns:
        What returns float32 [B, A], in memory that it may use again.
    """
    torso, head = network.torso, network.head
    # A subclass may do anything in its pass.
    if not (type(torso) is NatureTorso and type(head) is ScalarHead and type(head.hidden) is Linear):
        return None
    if not torso.reads_bytes(obs, network.compute_dtype) or not isinstance(head.norm, nn.Identity):
        return None
    streams = ("value", "advantage") if head.value is not None else ("advantage",)
    units = head.hidden.out_features // len(streams)
    if not (layers.takes_linear(torso.features) and layers.takes_linear(units)):
        return None
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    stacks, centered, rows = obs.numpy(), network.config.centered, len(obs)
    of_torso = [arrays[f"torso.conv{layer}.{kind}"] for layer in (1, 2, 3) for kind in ("weight", "bias")]
    map1, map2, features = (
        np.empty((rows, size), np.float32)
        for size in (400 * torso.conv1.out_channels, 81 * torso.conv2.out_channels, torso.features)
    )
    maps, parallel_for = [map1, map2, features], layers.PARALLEL_FOR
    hidden = {
        stream: (
            arrays["head.hidden.weight"][at * units : (at + 1) * units],
            arrays["head.hidden.bias"][at * units : (at + 1) * units],
            np.empty((rows, units), np.float32),
        )
        for at, stream in enumerate(streams)
    }
    last: dict[str, tuple[_Rows, _Rows, _Rows]] = {}
    for stream in streams:
        weight, bias = (arrays[f"head.{stream}.{kind}"] for kind in ("weight", "bias"))
        last[stream] = weight, bias, np.empty((rows, len(bias)), np.float32)

    def values() -> Tensor:
        threads = torch.get_num_threads()
        _core.winograd_torso(stacks, centered, of_torso, maps, threads, parallel_for)
        for stream in streams:
            weight, bias, made = hidden[stream]
            _core.linear(features, weight, bias, made, threads, parallel_for)
            np.maximum(made, 0.0, out=made)
            _core.linear(made, *last[stream], 1, parallel_for)
        advantage = last["advantage"][2]
        if len(streams) == 1:
            return torch.from_numpy(advantage)
        return torch.from_numpy(last["value"][2] + advantage - advantage.mean(1, keepdims=True))

    return values
