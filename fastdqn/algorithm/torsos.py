"""Torsos: from frames to features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastdqn.algorithm.layers import (
    CONVOLUTIONS,
    MEMORY_FORMAT,
    Convolution,
    Draws,
    LayerNorm,
    convolve,
    draw_weights,
)
from fastdqn.algorithm.narrow import is_narrow, is_narrow_here, narrow_torso
from fastdqn.algorithm.winograd import is_filtered, is_filtered_here, winograd_torso
from fastdqn.config import NetworkConfig

GREY_LEVELS = 255
"""The largest grey level: features are made of pixels between 0 and 1."""


class Torso(nn.Module, ABC):
    """From frames to features; a new torso is a subclass in `TORSOS`.

    Args:
        config: The network's shape.
        stack: Frames per observation, the channels of the input.

    Attributes:
        features: Numbers that `forward` returns for an observation.
    """

    features: int

    @abstractmethod
    def forward(self, pixels: Tensor, draws: Draws) -> Tensor:
        """Return the features of observations.

        Args:
            pixels: [B, stack, 84, 84], 0 to 255 or, where the network is centred, -255 to 255, not yet scaled;
                float32 or bfloat16, channels last in memory. Where `reads_bytes` says so the observations
                themselves, uint8.
            draws: The random numbers that its layers take, by path.

        Returns:
            [B, features] in the type of `pixels`; float32, where those are bytes.
        """

    def reads_bytes(self, obs: Tensor, dtype: torch.dtype) -> bool:
        """Return whether the torso makes grey levels of observations itself, where it computes in a type."""
        return False

    def initialize(self, generator: torch.Generator | None) -> None:
        """Draw the initial weights, layer by layer."""
        for layer in self.children():
            draw_weights(layer, 6.0, generator)


class _ThreeConvolutions(Torso):
    """The layers of Mnih et al. 2015: 32 filters 8x8 stride 4, 64 of 4x4 stride 2, 64 of 3x3 stride 1.

    The features are in the order height, width, channel (the order in memory); weights from a network that
    flattens channel, height, width need that permutation.
    """

    def __init__(self, config: NetworkConfig, stack: int) -> None:
        super().__init__()
        narrow, wide = _channels(config)
        self.conv1 = nn.Conv2d(stack, narrow, 8, stride=4)
        self.conv2 = nn.Conv2d(narrow, wide, 4, stride=2)
        self.conv3 = nn.Conv2d(wide, wide, 3)
        self.features = 7 * 7 * wide


class NatureTorso(_ThreeConvolutions):
    """Three convolutions, each with its ReLU (Mnih et al. 2015)."""

    def __init__(self, config: NetworkConfig, stack: int) -> None:
        super().__init__(config, stack)
        self._centered, self._filters = config.centered, _filters(config)

    def reads_bytes(self, obs: Tensor, dtype: torch.dtype) -> bool:
        """Return whether the extension convolves observations in a type by Winograd's filtering."""
        # A subclass may do anything with its pixels.
        return type(self) is NatureTorso and is_filtered(obs, self._filters, dtype)

    def forward(self, pixels: Tensor, draws: Draws, networks: int = 1) -> Tensor:
        """Return the features of observations.

        Of several networks, whose weights lie one after the other in each parameter, those by the first come
        first: [networks * B, features]. Filter by filter the arithmetic is that of each network alone.
        """
        conv1, conv2, conv3 = self.conv1, self.conv2, self.conv3
        others = cast("tuple[Tensor, ...]", (conv1.bias, conv2.weight, conv2.bias, conv3.weight, conv3.bias))
        if pixels.dtype == torch.uint8:
            return winograd_torso(pixels, (conv1.weight, *others), centered=self._centered)
        # Scaling the weight, in float32, is less work than scaling the pixels; 0 to 255 is exact in every float
        # type, and a 255th is not.
        weight = conv1.weight * (1 / GREY_LEVELS)
        if is_narrow(pixels, self._filters, networks):
            return narrow_torso(pixels, (weight, *others), networks)
        maps = convolve(pixels, weight, cast(Tensor, conv1.bias), 4)
        maps = convolve(maps, conv2.weight, cast(Tensor, conv2.bias), 2, networks)
        maps = convolve(maps, conv3.weight, cast(Tensor, conv3.bias), 1, networks)
        # Channels-last memory makes this order a view; flattening channels first would copy.
        by_network = maps.permute(0, 2, 3, 1).chunk(networks, dim=3)
        return (
            by_network[0].flatten(1) if networks == 1 else torch.cat([own.flatten(1) for own in by_network])
        )


def is_convolved_here(config: NetworkConfig, precision: str) -> bool:
    """Return whether on this CPU the extension does a network's convolutions: in bfloat16 with one thread."""
    if config.torso != "nature" or config.normalization in _NATURES:
        return False
    here = {"bf16": is_narrow_here, "fp32": is_filtered_here}.get(precision)
    return here is not None and here(_filters(config))


class LayerNormTorso(_ThreeConvolutions):
    """Nature's with layer normalisation before each ReLU, over the channels of each pixel.

    So has purejaxql's `pqn_atari`; CleanRL's normalises over channels, height and width together.
    """

    def __init__(self, config: NetworkConfig, stack: int) -> None:
        super().__init__(config, stack)
        narrow, wide = _channels(config)
        self.norm1, self.norm2, self.norm3 = LayerNorm(narrow), LayerNorm(wide), LayerNorm(wide)

    def initialize(self, generator: torch.Generator | None) -> None:
        """Draw the convolutions' initial weights."""
        for layer in (self.conv1, self.conv2, self.conv3):
            draw_weights(layer, 6.0, generator)

    def forward(self, pixels: Tensor, draws: Draws) -> Tensor:
        """Return the features of observations."""
        maps, scale = pixels, 1 / GREY_LEVELS
        layers = ((self.conv1, self.norm1, 4), (self.conv2, self.norm2, 2), (self.conv3, self.norm3, 1))
        for conv, norm, stride in layers:
            weight, scale = (conv.weight * scale).to(maps.dtype, memory_format=MEMORY_FORMAT), 1.0
            maps = functional.conv2d(maps, weight, cast(Tensor, conv.bias).to(maps.dtype), stride=stride)
            maps = functional.relu(norm(maps.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        return maps.permute(0, 2, 3, 1).flatten(1)


class Residual(nn.Module):
    """x + conv(relu(conv(relu(x)))) (Espeholt et al. 2018, figure 3)."""

    def __init__(self, config: NetworkConfig, channels: int) -> None:
        super().__init__()
        make = CONVOLUTIONS[config.normalization]
        self.conv1, self.conv2 = make(channels, channels), make(channels, channels)

    def forward(self, maps: Tensor) -> Tensor:
        """Return [B, channels, height, width]."""
        inner = self.conv1(functional.relu(maps))
        return maps + cast(Tensor, self.conv2(functional.relu(inner)))


class Block(nn.Module):
    """A convolution, a maximum over 3x3 pixels in steps of 2, and two residual blocks."""

    def __init__(self, config: NetworkConfig, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = Convolution(inputs, outputs)
        self.residual1, self.residual2 = Residual(config, outputs), Residual(config, outputs)

    def forward(self, maps: Tensor, scale: float = 1.0) -> Tensor:
        """Return [B, outputs, height / 2, width / 2], rounded up, of maps that count `scale` times."""
        return cast(Tensor, self.residual2(self.residual1(halved(self.conv(maps, scale)))))


class ImpalaTorso(Torso):
    """The large network of IMPALA (Espeholt et al. 2018, figure 3) as Beyond the Rainbow has it.

    Three blocks of 32, 64, 64 channels, twice the paper's; a maximum over 3x3 pixels in steps of 2 brings the
    last maps from 11x11 to 6x6, where BTR's code has `AdaptiveMaxPool2d(6)`: the same values and gradients, by a
    backward pass that a CPU does in a fixed order. The residual blocks' convolutions may be
    spectrally normalised, the first of a block is not. Features are in the order height, width, channel.
    """

    def __init__(self, config: NetworkConfig, stack: int) -> None:
        super().__init__()
        narrow, wide = _channels(config)
        self.block1 = Block(config, stack, narrow)
        self.block2, self.block3 = Block(config, narrow, wide), Block(config, wide, wide)
        self.features = 6 * 6 * wide

    def initialize(self, generator: torch.Generator | None) -> None:
        """Draw the initial weights, convolution by convolution."""
        for layer in self.modules():
            if isinstance(layer, Convolution):
                layer.initialize(generator)

    def forward(self, pixels: Tensor, draws: Draws) -> Tensor:
        """Return the features of observations."""
        maps = self.block3(self.block2(self.block1(pixels, 1 / GREY_LEVELS)))
        return halved(functional.relu(maps)).permute(0, 2, 3, 1).flatten(1)


def halved(maps: Tensor) -> Tensor:
    """Return the maximum over 3x3 pixels in steps of 2, nothing beyond the edge: 84, 42, 21, 11, 6."""
    return functional.max_pool2d(maps, 3, stride=2, padding=1)


def _filters(config: NetworkConfig) -> tuple[int, int, int]:
    narrow, wide = _channels(config)
    return narrow, wide, wide


def _channels(config: NetworkConfig) -> tuple[int, int]:
    narrow, wide = (max(1, round(config.width * channels)) for channels in (32, 64))
    return narrow, wide


_NATURES: dict[str, Callable[[NetworkConfig, int], Torso]] = {"layer": LayerNormTorso}

TORSOS: dict[str, Callable[[NetworkConfig, int], Torso]] = {
    "nature": lambda config, stack: _NATURES.get(config.normalization, NatureTorso)(config, stack),
    "impala": ImpalaTorso,
}
