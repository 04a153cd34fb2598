"""Slow and obvious: heads, rules and layers of the value-based family as in their papers, in numpy float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.reference.learning import convolve

Array = NDArray[np.float64]


def softmax(logits: Array) -> Array:
    """Over the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def project(probability: Array, moved: Array, returns: Array) -> Array:
    """Bellemare et al. 2017, algorithm 1: the moved distribution on the returns; one return at a time."""
    target, step = np.zeros(len(returns)), returns[1] - returns[0]
    for p, value in zip(probability, moved, strict=True):
        place = (min(returns[-1], max(returns[0], value)) - returns[0]) / step
        low, high = math.floor(place), math.ceil(place)
        if low == high:  # which the paper's algorithm forgets: both of its shares are 0
            target[low] += p
        else:
            target[low] += p * (high - place)
            target[high] += p * (place - low)
    return target


class Categorical:
    """C51: logits [A, N] to values, targets, losses and priorities of one transition."""

    def __init__(self, atoms: int, v_min: float, v_max: float) -> None:
        self.returns = np.array([v_min + i * (v_max - v_min) / (atoms - 1) for i in range(atoms)])

    def q(self, z: Array) -> Array:
        return np.array([sum(p * x for p, x in zip(row, self.returns, strict=True)) for row in softmax(z)])

    def goal(self, z: Array, weight: Array, penalty: Array, reward: float, discount: float) -> Array:
        """A mixture: each next action's distribution, moved by its own penalty, has its weight."""
        return sum(
            w * project(softmax(row), reward + discount * (self.returns - lost), self.returns)
            for row, w, lost in zip(z, weight, penalty, strict=True)
        )

    def loss(self, z: Array, goal: Array, fractions: Array) -> tuple[float, float]:
        """Cross entropy; as priority clipped at 100 (dqn_zoo's Rainbow), above zero."""
        entropy = -sum(m * math.log(p) for m, p in zip(goal, softmax(z), strict=True))
        return entropy, min(max(entropy, 1e-6), 100.0)


class Quantile:
    """QR-DQN and IQN: quantiles [A, N] to the same."""

    def q(self, z: Array) -> Array:
        return np.array([sum(row) / len(row) for row in z])

    def goal(self, z: Array, weight: Array, penalty: Array, reward: float, discount: float) -> Array:
        """Quantile by quantile (Vieillard et al. 2020, their IQN's code)."""
        value = [
            sum(w * (row[j] - lost) for row, w, lost in zip(z, weight, penalty, strict=True))
            for j in range(z.shape[1])
        ]
        return reward + discount * np.array(value)

    def loss(self, z: Array, goal: Array, fractions: Array) -> tuple[float, float]:
        """Dabney et al. 2018a, equations 9 and 10, kappa 1: summed over z's, a mean over the goal's."""
        loss = priority = 0.0
        for quantile, tau in zip(z, fractions, strict=True):
            for wanted in goal:
                u = wanted - quantile
                huber = 0.5 * u * u if abs(u) <= 1 else abs(u) - 0.5
                loss += abs(tau - (1.0 if u < 0 else 0.0)) * huber / len(goal)
                priority += abs(u) / len(goal)
        return loss, priority + 1e-6


class Scalar:
    """One value, [A, 1]."""

    def q(self, z: Array) -> Array:
        return z[:, 0]

    def goal(self, z: Array, weight: Array, penalty: Array, reward: float, discount: float) -> Array:
        return np.array([reward + discount * sum(weight * (z[:, 0] - penalty))])

    def loss(self, z: Array, goal: Array, fractions: Array) -> tuple[float, float]:
        u = float(goal[0] - z[0])
        return (0.5 * u * u if abs(u) <= 1 else abs(u) - 0.5), abs(u) + 1e-6


def log_policy(q: Array, temperature: float) -> Array:
    """Log softmax(q / temperature), by the definition."""
    scaled = [value / temperature for value in q]
    return np.array(scaled) - np.logaddexp.reduce(scaled)


def munchausen_bonus(q: Array, action: int, alpha: float, temperature: float, floor: float) -> float:
    """Vieillard et al. 2020, equation 2: alpha * [tau log pi(a|s)] from the floor to 0."""
    return alpha * min(0.0, max(floor, temperature * float(log_policy(q, temperature)[action])))


def derivative(function: Callable[[Array], float], at: Array, step: float = 1e-6) -> Array:
    """The gradient by central differences, one number at a time."""
    result = np.empty_like(at)
    for index in np.ndindex(at.shape):
        up, down = at.copy(), at.copy()
        up[index] += step
        down[index] -= step
        result[index] = (function(up) - function(down)) / (2 * step)
    return result


def noisy(layer: Mapping[str, Array], rows: Array, of_input: Array, of_output: Array) -> Array:
    """Fortunato et al. 2018, equations 9 to 11, one output at a time.

    Args:
        layer: weight, weight_sigma [out, in], bias, bias_sigma [out].
        rows: [B, in].
        of_input: Noise of the inputs, [in].
        of_output: Noise of the outputs, [out].
    """

    def f(x: float) -> float:
        return math.copysign(math.sqrt(abs(x)), x)

    result = np.empty((len(rows), len(of_output)))
    for j, e_out in enumerate(of_output):
        noise = np.array([f(e_in) * f(e_out) for e_in in of_input])
        weight = layer["weight"][j] + layer["weight_sigma"][j] * noise
        result[:, j] = rows @ weight + layer["bias"][j] + layer["bias_sigma"][j] * f(e_out)
    return result


def normalized(rows: Array, weight: Array, bias: Array, epsilon: float = 1e-6) -> Array:
    """Ba et al. 2016, equation 4, over the last axis."""
    mean = rows.mean(axis=-1, keepdims=True)
    variance = ((rows - mean) ** 2).mean(axis=-1, keepdims=True)
    return (rows - mean) / np.sqrt(variance + epsilon) * weight + bias


def largest_of_3x3(images: Array) -> Array:
    """The maximum over 3x3 pixels in steps of 2; pixels beyond the edge are no pixels."""
    side = (images.shape[2] + 1) // 2
    result = np.empty((*images.shape[:2], side, side))
    for y in range(side):
        for x in range(side):
            rows = slice(max(0, 2 * y - 1), 2 * y + 2)
            columns = slice(max(0, 2 * x - 1), 2 * x + 2)
            result[:, :, y, x] = images[:, :, rows, columns].max(axis=(2, 3))
    return result


def convolve_same(images: Array, weight: Array, bias: Array) -> Array:
    """A 3x3 convolution of zeros around the images."""
    return convolve(np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1))), weight, bias, 1)


def impala_features(weights: Mapping[str, Any], obs: NDArray[np.uint8]) -> Array:
    """Espeholt et al. 2018, figure 3, and BTR's last maximum; a convolution with u and v over u' W v.

    Args:
        weights: By name, such as `block1.residual2.conv1.weight`.
        obs: uint8 [B, 4, 84, 84].
    """

    def conv(name: str, images: Array) -> Array:
        weight = weights[f"{name}.weight"]
        if f"{name}.u" in weights:
            u, v = weights[f"{name}.u"], weights[f"{name}.v"]
            weight = weight / (u @ weight.reshape(len(weight), -1) @ v)
        return convolve_same(images, weight, weights[f"{name}.bias"])

    maps = obs / 255.0
    for block in ("block1", "block2", "block3"):
        maps = largest_of_3x3(conv(f"{block}.conv", maps))
        for residual in ("residual1", "residual2"):
            inner = conv(f"{block}.{residual}.conv1", np.maximum(maps, 0))
            maps = maps + conv(f"{block}.{residual}.conv2", np.maximum(inner, 0))
    return largest_of_3x3(np.maximum(maps, 0)).transpose(0, 2, 3, 1).reshape(len(obs), -1)


def described(features: Array, fractions: Sequence[float], weight: Array, bias: Array) -> Array:
    """Dabney et al. 2018b, equation 4 with i from 1, for one observation: [features] to [N, features]."""
    rows = []
    for tau in fractions:
        cosines = [math.cos(math.pi * i * tau) for i in range(1, weight.shape[1] + 1)]
        rows.append(features * np.maximum(weight @ np.array(cosines) + bias, 0))
    return np.array(rows)
