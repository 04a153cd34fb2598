"""Torsos: from frames to features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from fastdqn.algorithm.layers import Draws, convolve, draw_weights
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
                float32 or bfloat16, channels last in memory.
            draws: The random numbers that its layers take, by path.

        Returns:
            [B, features] in the type of `pixels`.
        """

    def initialize(self, generator: torch.Generator | None) -> None:
        """Draw the initial weights, layer by layer."""
        for layer in self.children():
            draw_weights(layer, 6.0, generator)


class NatureTorso(Torso):
    """Three convolutions (Mnih et al. 2015): 32 filters 8x8 stride 4, 64 of 4x4 stride 2, 64 of 3x3 stride 1.

    The features are in the order height, width, channel (the order in memory); weights from a network that
    flattens channel, height, width need that permutation.
    """

    def __init__(self, config: NetworkConfig, stack: int) -> None:
        super().__init__()
        narrow, wide = (max(1, round(config.width * channels)) for channels in (32, 64))
        self.conv1 = nn.Conv2d(stack, narrow, 8, stride=4)
        self.conv2 = nn.Conv2d(narrow, wide, 4, stride=2)
        self.conv3 = nn.Conv2d(wide, wide, 3)
        self.features = 7 * 7 * wide

    def forward(self, pixels: Tensor, draws: Draws) -> Tensor:
        """Return the features of observations."""
        conv1, conv2, conv3 = self.conv1, self.conv2, self.conv3
        # Scaling the weight, in float32, is less work than scaling the pixels; 0 to 255 is exact in every float
        # type, and a 255th is not.
        maps = convolve(pixels, conv1.weight * (1 / GREY_LEVELS), cast(Tensor, conv1.bias), 4)
        maps = convolve(maps, conv2.weight, cast(Tensor, conv2.bias), 2)
        maps = convolve(maps, conv3.weight, cast(Tensor, conv3.bias), 1)
        # Channels-last memory makes this order a view; flattening channels first would copy.
        return maps.permute(0, 2, 3, 1).flatten(1)


TORSOS: dict[str, Callable[[NetworkConfig, int], Torso]] = {"nature": NatureTorso}
