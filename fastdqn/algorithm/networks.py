"""The Q-network: a torso and a head, on the CPU and the GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fastdqn.algorithm import layers
from fastdqn.algorithm.heads import HEADS
from fastdqn.algorithm.layers import NO_DRAWS, Draws, part_of
from fastdqn.algorithm.torsos import TORSOS, NatureTorso
from fastdqn.config import NetworkConfig

FRAME_SIZE = 84
"""Height and width of a frame in pixels."""

STACK = 4
"""Frames per observation."""

_VECTOR = 16
"""Numbers of float32 in a vector of AVX-512."""


class QNetwork(nn.Module):
    """Action values of a stack of frames.

    Weights start as He et al. 2015 draw them (equation 10, uniform), smaller in the last layers, and within
    1 / sqrt(inputs) in noisy layers and impala's convolutions; biases start at zero. The papers name no initial
    weights.

    Args:
        config: Its shape.
        num_actions: A, the number of actions.
        compute_dtype: float32, or bfloat16 for everything between the pixels and the last layers; weights, last
            layers and action values stay float32.
        generator: Source of the initial weights; `None` is PyTorch's global one.
    """

    def __init__(
        self,
        config: NetworkConfig,
        num_actions: int,
        *,
        compute_dtype: torch.dtype = torch.float32,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.config, self.num_actions, self.compute_dtype = config, num_actions, compute_dtype
        with torch.random.fork_rng(devices=[]):  # the weights that constructors draw are overwritten below
            self.torso = TORSOS[config.torso](config, STACK)
            self.head = HEADS[config.head](config, self.torso.features, num_actions)
        self.torso.initialize(generator)
        self.head.initialize(generator)

    def forward(self, obs: Tensor, draws: Draws = NO_DRAWS, *, prepared: bool = False) -> Tensor:
        """Return the head's output for each action.

        Args:
            obs: uint8 [B, 4, 84, 84], grey levels 0 to 255; they are scaled to [0, 1] inside.
            draws: The random numbers of the pass, as `layers.draws_of` lists them.
            prepared: Whether `obs` is the result of `prepare` instead, which several passes can share.

        Returns:
            z, float32 [B, A, N].

        Raises:
            TypeError: The dtype is not uint8.
            ValueError: The shape is another.
        """
        pixels = obs if prepared else self.prepare(obs)
        features = self.torso(pixels, part_of(draws, "torso"))
        return cast(Tensor, self.head(features, part_of(draws, "head")))

    def q_values(self, obs: Tensor, draws: Draws = NO_DRAWS) -> Tensor:
        """Return the value of each action, float32 [B, A]: discounted return in units of the (clipped) reward.

        Arguments and errors are those of `forward`.
        """
        return self.head.q(self(obs, draws))

    @property
    def is_faster_in_pairs(self) -> bool:
        """Whether this CPU computes two networks' z of the same observations faster by `z_of_each`.

        So it is where the first layer has fewer filters than a vector of AVX-512 has numbers
        (docs/performance.md).
        """
        if torch.backends.cpu.get_cpu_capability() != "AVX512":
            return False
        return type(self.torso) is NatureTorso and self.torso.conv1.out_channels < _VECTOR

    def z_of_each(self, pixels: Tensor, passes: Sequence[tuple[Mapping[str, Tensor], Draws]]) -> list[Tensor]:
        """Return z by the weights of several networks, whose filters are convolved side by side.

        Args:
            pixels: What `prepare` returned.
            passes: The tensors of each network, by name, and the random numbers of its pass.

        Returns:
            float32 [B, A, N] of each.
        """
        torsos = [part_of(tensors, "torso") for tensors, _ in passes]
        joined = {name: torch.cat([tensors[name] for tensors in torsos]) for name in torsos[0]}
        features = cast(Tensor, functional_call(self.torso, joined, (pixels, NO_DRAWS, len(passes))))
        return [
            cast(
                Tensor,
                functional_call(self.head, dict(part_of(tensors, "head")), (own, part_of(draws, "head"))),
            )
            for own, (tensors, draws) in zip(features.chunk(len(passes)), passes, strict=True)
        ]

    def prepare(self, obs: Tensor) -> Tensor:
        """Return the grey levels as the torso reads them.

        Args:
            obs: uint8 [B, 4, 84, 84].

        Returns:
            [B, 4, 84, 84] of `compute_dtype`, 0 to 255 or, where centered, -255 to 255; channels last in
            memory. `obs` itself, where the torso reads that.

        Raises:
            TypeError: The dtype is not uint8.
            ValueError: The shape is another.
        """
        _check(obs)
        if self.torso.reads_bytes(obs, self.compute_dtype):
            return obs
        # A bright background is one large input that all weights of a filter share: under Adam they move
        # together, and some dozens of steps in one direction silence the filter for good. The mean is rounded
        # to a whole grey level: so it does not depend on the order of the sum, and bfloat16 holds every
        # difference.
        return layers.grey_levels(obs, self.compute_dtype, centered=self.config.centered)


def count_parameters(config: NetworkConfig, num_actions: int) -> int:
    """Return how many numbers a network's parameters and buffers have, without taking memory for them."""
    with torch.device("meta"):
        torso = TORSOS[config.torso](config, STACK)
        head = HEADS[config.head](config, torso.features, num_actions)
    return sum(tensor.numel() for part in (torso, head) for tensor in part.state_dict().values())


def _check(obs: Tensor) -> None:
    if obs.dtype != torch.uint8:
        raise TypeError(f"obs: uint8 grey levels are wanted, not {obs.dtype}")
    if obs.dim() != 4 or obs.shape[1:] != (STACK, FRAME_SIZE, FRAME_SIZE):
        raise ValueError(f"obs: shape [B, {STACK}, 84, 84] is wanted, not {list(obs.shape)}")
