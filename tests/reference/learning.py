"""Slow and obvious: what the learner computes, in numpy float64 and in plain PyTorch float64."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

Array = NDArray[np.float64]


def convolve(images: Array, weight: Array, bias: Array, stride: int) -> Array:
    """Cross-correlation, one output pixel at a time: [B, C, H, W] with [O, C, K, K] to [B, O, H', W']."""
    size = weight.shape[-1]
    rows, columns = ((length - size) // stride + 1 for length in images.shape[2:])
    result = np.empty((len(images), len(weight), rows, columns))
    for y in range(rows):
        for x in range(columns):
            patch = images[:, :, y * stride : y * stride + size, x * stride : x * stride + size]
            result[:, :, y, x] = np.einsum("bchw,ochw->bo", patch, weight) + bias
    return result


def layers(weights: Mapping[str, Any]) -> dict[str, Any]:
    """The network's tensors by the names of their layers, without torso and head."""
    return {name.removeprefix("torso.").removeprefix("head."): value for name, value in weights.items()}


def q_values(weights: Mapping[str, Array], obs: NDArray[np.uint8]) -> Array:
    """Action values of Mnih et al. 2015; of Wang et al. 2016, equation 9, where there is a value stream."""
    weights = layers(weights)
    features = obs / 255.0
    for layer, stride in (("conv1", 4), ("conv2", 2), ("conv3", 1)):
        convolved = convolve(features, weights[f"{layer}.weight"], weights[f"{layer}.bias"], stride)
        features = np.maximum(convolved, 0)
    flat = features.transpose(0, 2, 3, 1).reshape(len(obs), -1)
    hidden = np.maximum(flat @ weights["hidden.weight"].T + weights["hidden.bias"], 0)
    if "value.weight" not in weights:
        return hidden @ weights["advantage.weight"].T + weights["advantage.bias"]
    half = hidden.shape[1] // 2
    value = hidden[:, :half] @ weights["value.weight"].T + weights["value.bias"]
    advantage = hidden[:, half:] @ weights["advantage.weight"].T + weights["advantage.bias"]
    return value + advantage - advantage.mean(axis=1, keepdims=True)


def loss(kind: str, td_error: float) -> float:
    """One TD error's loss."""
    if kind == "squared":
        return 0.5 * td_error**2
    return 0.5 * td_error**2 if abs(td_error) <= 1 else abs(td_error) - 0.5


def td_target(kind: str, reward: float, discount: float, target: Array, online: Array) -> float:
    """One transition's target from the [A] values of the next observation."""
    action = int(np.argmax(online if kind == "double" else target))
    return reward + discount * float(target[action])


class Adam:
    """Kingma & Ba 2015, algorithm 1, for one number at a time."""

    def __init__(self, beta1: float, beta2: float, epsilon: float) -> None:
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon
        self.steps, self.mean, self.square = 0, 0.0, 0.0

    def step(self, weight: float, gradient: float, learning_rate: float) -> float:
        self.steps += 1
        self.mean = self.beta1 * self.mean + (1 - self.beta1) * gradient
        self.square = self.beta2 * self.square + (1 - self.beta2) * gradient**2
        mean = self.mean / (1 - self.beta1**self.steps)
        square = self.square / (1 - self.beta2**self.steps)
        return weight - learning_rate * mean / (math.sqrt(square) + self.epsilon)


class RMSProp:
    """The centred RMSProp of the paper's code, for one number at a time."""

    def __init__(self, decay: float, epsilon: float) -> None:
        self.decay, self.epsilon = decay, epsilon
        self.mean, self.square = 0.0, 0.0

    def step(self, weight: float, gradient: float, learning_rate: float) -> float:
        self.mean = self.decay * self.mean + (1 - self.decay) * gradient
        self.square = self.decay * self.square + (1 - self.decay) * gradient**2
        return weight - learning_rate * gradient / math.sqrt(self.square - self.mean**2 + self.epsilon)


class Adagrad:
    """Duchi et al. 2011, for one number at a time."""

    def __init__(self, epsilon: float) -> None:
        self.epsilon, self.total = epsilon, 0.0

    def step(self, weight: float, gradient: float, learning_rate: float) -> float:
        self.total += gradient**2
        return weight - learning_rate * gradient / (math.sqrt(self.total) + self.epsilon)


def torch_q_values(weights: Mapping[str, torch.Tensor], obs: torch.Tensor) -> torch.Tensor:
    """`q_values` in plain PyTorch, so that it can be differentiated."""
    weights = layers(weights)
    features = obs.double() / 255
    for layer, stride in (("conv1", 4), ("conv2", 2), ("conv3", 1)):
        features = functional.conv2d(features, weights[f"{layer}.weight"], weights[f"{layer}.bias"], stride)
        features = features.relu()
    flat = features.permute(0, 2, 3, 1).flatten(1)
    hidden = functional.linear(flat, weights["hidden.weight"], weights["hidden.bias"]).relu()
    if "value.weight" not in weights:
        return functional.linear(hidden, weights["advantage.weight"], weights["advantage.bias"])
    for_value, for_advantage = hidden.chunk(2, dim=1)
    value = functional.linear(for_value, weights["value.weight"], weights["value.bias"])
    advantage = functional.linear(for_advantage, weights["advantage.weight"], weights["advantage.bias"])
    return value + advantage - advantage.mean(dim=1, keepdim=True)
