"""TD targets and losses beside the slow ones, with gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastdqn.objectives import BOOTSTRAPS, LOSSES, td_target, weighted_mean
from tests.reference import learning as reference

ERRORS = [-1e3, -1.5, -1.0, -0.999, -0.25, 0.0, 1e-4, 0.5, 1.0, 1.001, 7.0]


@pytest.mark.parametrize("kind", sorted(LOSSES))
def test_a_loss_is_that_of_the_slow_one(kind: str) -> None:
    got = LOSSES[kind](torch.tensor(ERRORS, dtype=torch.float64))
    want = [reference.loss(kind, error) for error in ERRORS]
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-14, atol=1e-300)


def test_the_gradient_of_huber_is_the_clipped_error_and_of_squared_the_error() -> None:
    errors = torch.tensor(ERRORS, requires_grad=True)
    (huber,) = torch.autograd.grad(LOSSES["huber"](errors).sum(), errors)
    (squared,) = torch.autograd.grad(LOSSES["squared"](errors).sum(), errors)
    torch.testing.assert_close(huber, errors.detach().clamp(-1, 1), rtol=1e-6, atol=0)
    torch.testing.assert_close(squared, errors.detach(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", sorted(BOOTSTRAPS))
def test_a_target_is_that_of_the_slow_one(kind: str) -> None:
    random = np.random.default_rng(5)
    target, online = random.normal(size=(2, 64, 6))
    reward, discount = random.normal(size=64), 0.97 * (random.random(64) < 0.7)
    next_obs = torch.arange(64)
    next_value = BOOTSTRAPS[kind](
        next_obs, lambda rows: torch.from_numpy(online)[rows], lambda rows: torch.from_numpy(target)[rows]
    )
    got = td_target(torch.from_numpy(reward), torch.from_numpy(discount), next_value)
    want = [reference.td_target(kind, *row) for row in zip(reward, discount, target, online, strict=True)]
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-14)


def test_max_and_double_differ_where_the_networks_disagree() -> None:
    online, target = torch.tensor([[0.0, 1.0]]), torch.tensor([[5.0, 3.0]])
    values = {
        kind: BOOTSTRAPS[kind](online, lambda _: online, lambda _: target).item() for kind in BOOTSTRAPS
    }
    assert values == {"max": 5.0, "double": 3.0}


def test_max_does_not_ask_the_online_network() -> None:
    def refuse(_: torch.Tensor) -> torch.Tensor:
        raise AssertionError("one forward pass too many")

    BOOTSTRAPS["max"](torch.zeros(1), refuse, lambda _: torch.zeros(1, 3))


def test_equal_values_go_to_the_first_action() -> None:
    online, target = torch.tensor([[2.0, 2.0, 1.0]]), torch.tensor([[7.0, 8.0, 9.0]])
    assert BOOTSTRAPS["double"](online, lambda _: online, lambda _: target).item() == 7.0


def test_a_terminal_transition_is_worth_its_reward() -> None:
    next_value = torch.tensor([1e6, -1e6])
    torch.testing.assert_close(
        td_target(torch.tensor([1.0, -1.0]), torch.zeros(2), next_value), torch.tensor([1.0, -1.0])
    )


def test_the_loss_is_the_weighted_mean_over_the_batch() -> None:
    losses, weight = torch.tensor([1.0, 2.0, 6.0]), torch.tensor([1.0, 0.0, 0.5])
    assert weighted_mean(losses, weight).item() == pytest.approx(4 / 3)
