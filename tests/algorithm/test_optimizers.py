"""Optimizers beside PyTorch's, beside the slow ones and beside sums done by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from fastdqn.algorithm.optimizers import (
    OPTIMIZERS,
    Adagrad,
    Adam,
    Optimizer,
    RMSProp,
    clip_by_norm,
    gradient_scale,
)
from fastdqn.config import LearnerConfig, OptimizerConfig
from tests.reference import learning as reference

SIZE = 64


def gradients(count: int, seed: int = 3) -> torch.Tensor:
    """Gradients over ten orders of magnitude, some exactly zero."""
    random = np.random.default_rng(seed)
    sizes = 10.0 ** random.uniform(-9, 1, size=SIZE)
    values = random.normal(size=(count, SIZE)) * sizes
    values[random.random(values.shape) < 0.2] = 0
    return torch.tensor(values, dtype=torch.float32)


def run(optimizer: Optimizer, steps: torch.Tensor, rate: float = 1e-3) -> torch.Tensor:
    weights = torch.linspace(-1, 1, SIZE)
    state, learning_rate = optimizer.initial_state(weights), torch.tensor(rate)
    for gradient in steps:
        optimizer.step(weights, gradient, state, learning_rate)
    return weights


def run_torch(make: type[torch.optim.Optimizer], steps: torch.Tensor, **options: float) -> torch.Tensor:
    weights = torch.nn.Parameter(torch.linspace(-1, 1, SIZE))
    optimizer = make([weights], **options)
    for gradient in steps:
        weights.grad = gradient.clone()
        optimizer.step()
    return weights.detach()


SLOW = {
    "adam": (Adam(0.9, 0.999, 1e-4), lambda: reference.Adam(0.9, 0.999, 1e-4)),
    "rmsprop": (RMSProp(0.95, 1e-5), lambda: reference.RMSProp(0.95, 1e-5)),
    "adagrad": (Adagrad(1e-10), lambda: reference.Adagrad(1e-10)),
}


@pytest.mark.parametrize("name", sorted(SLOW))
def test_every_weight_moves_as_in_the_slow_one(name: str) -> None:
    optimizer, make = SLOW[name]
    steps = gradients(200)
    want = np.linspace(-1, 1, SIZE)
    slow = [make() for _ in want]
    for gradient in steps.double().numpy():
        want = np.array([s.step(w, g, 1e-3) for s, w, g in zip(slow, want, gradient, strict=True)])
    # 200 steps of 1e-3 are as long as 0.2; float32 near 1 resolves 6e-8.
    np.testing.assert_allclose(run(optimizer, steps).numpy(), want, rtol=0, atol=5e-6)


def test_adam_is_that_of_pytorch() -> None:
    steps = gradients(300)
    want = run_torch(torch.optim.Adam, steps, lr=1e-3, eps=1.5e-4)
    torch.testing.assert_close(run(Adam(epsilon=1.5e-4), steps), want, rtol=0, atol=1e-6)


def test_adagrad_is_that_of_pytorch() -> None:
    steps = gradients(300)
    want = run_torch(torch.optim.Adagrad, steps, lr=1e-2, eps=1e-10)
    torch.testing.assert_close(run(Adagrad(1e-10), steps, 1e-2), want, rtol=0, atol=1e-6)


def test_the_first_step_of_rmsprop_by_hand() -> None:
    """At g = 1e-3: mean 5e-5, square 5e-8, variance 4.75e-8; with 0.01 added the root is 0.1000002375."""
    weights, optimizer = torch.zeros(1), RMSProp(decay=0.95, epsilon=0.01)
    optimizer.step(weights, torch.tensor([1e-3]), optimizer.initial_state(weights), torch.tensor(2.5e-4))
    assert weights.item() == pytest.approx(-2.5e-4 * 1e-3 / 0.1000002375, rel=1e-6)
    # With epsilon outside the root, as torch.optim.RMSprop has it, the step is nearly ten times as long.
    outside = -2.5e-4 * 1e-3 / (math.sqrt(4.75e-8) + 0.01)
    assert outside / weights.item() > 9


def test_rmsprop_on_a_mean_takes_the_steps_of_the_papers_sum() -> None:
    """The paper sums over 32 samples and adds 0.01; the mean needs 0.01 / 32^2."""
    mean, summed = RMSProp(epsilon=0.01 / 32**2), RMSProp(epsilon=0.01)
    steps = gradients(100)
    torch.testing.assert_close(run(mean, steps), run(summed, 32 * steps), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
@pytest.mark.parametrize("batch_size", [1, 7, 32, 64, 256])
def test_constants_of_a_sum_take_its_steps_on_the_mean(name: str, batch_size: int) -> None:
    """Whatever the batch size: the same weights as the optimizer with those constants on the summed gradients."""
    config, summed = OptimizerConfig(epsilon=0.01), LearnerConfig(batch_size=batch_size, reduction="sum")
    scales = [gradient_scale(rules) for rules in (replace(summed, reduction="mean"), summed)]
    on_the_sum, on_the_mean = (OPTIMIZERS[name](config, scale) for scale in scales)
    steps = gradients(100)
    want = run(on_the_sum, batch_size * steps)
    torch.testing.assert_close(run(on_the_mean, steps), want, rtol=0, atol=1e-5)


def test_rmsprop_survives_a_gradient_that_never_varies() -> None:
    weights = run(RMSProp(epsilon=1e-12), torch.full((2000, SIZE), 37.1))
    assert torch.isfinite(weights).all()


def test_adam_counts_past_what_float32_holds() -> None:
    weights, optimizer = torch.zeros(1), Adam()
    state = optimizer.initial_state(weights)
    state["step"].fill_(2.0**24)
    optimizer.step(weights, torch.ones(1), state, torch.tensor(1e-3))
    assert state["step"].item() == 2**24 + 1


def test_the_learning_rate_is_read_at_each_step() -> None:
    weights, optimizer = torch.zeros(1), Adagrad()
    state, rate = optimizer.initial_state(weights), torch.tensor(0.0)
    optimizer.step(weights, torch.ones(1), state, rate)
    assert weights.item() == 0
    rate.fill_(0.5)
    optimizer.step(weights, torch.ones(1), state, rate)
    assert weights.item() == pytest.approx(-0.5 / math.sqrt(2))


@pytest.mark.parametrize("limit", [0.5, 5.0, 1e4, math.inf])
def test_a_gradient_is_scaled_down_to_the_limit_and_never_up(limit: float) -> None:
    gradient = torch.tensor([3.0, -4.0])
    clipped, norm = clip_by_norm(gradient, limit)
    assert norm.item() == pytest.approx(5.0)
    torch.testing.assert_close(clipped, gradient * min(1.0, limit / 5))


@pytest.mark.parametrize("limit", [1.0, math.inf])
def test_a_zero_gradient_stays_zero(limit: float) -> None:
    clipped, norm = clip_by_norm(torch.zeros(3), limit)
    assert clipped.tolist() == [0, 0, 0]
    assert norm.item() == 0


def test_the_config_reaches_each_optimizer() -> None:
    config = OptimizerConfig(beta1=0.8, beta2=0.9, epsilon=0.3, decay=0.7)
    assert OPTIMIZERS["adam"](config, 1) == Adam(0.8, 0.9, 0.3)
    assert OPTIMIZERS["rmsprop"](config, 1) == RMSProp(0.7, 0.3)
    assert OPTIMIZERS["adagrad"](config, 1) == Adagrad(0.3)


def test_a_norm_by_rows_is_the_norm() -> None:
    gradient = gradients(3).double().view(-1)
    clipped, norm = clip_by_norm(gradient, 0.5, row=SIZE)
    want, plain = clip_by_norm(gradient, 0.5)
    torch.testing.assert_close(norm, plain, rtol=1e-14, atol=0)
    torch.testing.assert_close(clipped, want, rtol=1e-14, atol=0)
