"""TD targets and losses beside the slow ones, with gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastdqn.algorithm.heads import ScalarHead
from fastdqn.algorithm.losses import LOSSES, weighted_mean
from fastdqn.algorithm.targets import RULES, Next, Values
from fastdqn.algorithm.update import is_action, of_action, of_actions
from fastdqn.config import LearnerConfig, NetworkConfig
from tests.reference import learning as reference

GREEDY = ("max", "double")  # the soft one is held against its formula in test_family.py
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


class Networks:
    """What a rule may ask for; it is noted what it asked for."""

    def __init__(self, target, online, action=None) -> None:
        self.asked: list[str] = []
        self.values = Values(
            target_next=lambda: self.answer("target_next", target),
            online_next=lambda: self.answer("online_next", online),
            target_now=lambda: self.answer("target_now", target),
            online_now=lambda: self.answer("online_now", online),
            action=torch.zeros(len(target), dtype=torch.int64) if action is None else action,
        )

    def answer(self, name, value):
        self.asked.append(name)
        return value


def target_of(kind: str, reward, discount, target, online) -> torch.Tensor:
    """The target of a scalar head, as the update makes it."""
    head = ScalarHead(NetworkConfig(width=1 / 32), 1, target.shape[1])
    next_actions = RULES[kind](LearnerConfig())(Networks(target, online).values)
    return head.goal(
        of_actions(target.unsqueeze(2), next_actions.action),
        next_actions,
        reward + next_actions.bonus,
        discount,
    )


@pytest.mark.parametrize("kind", GREEDY)
def test_a_target_is_that_of_the_slow_one(kind: str) -> None:
    random = np.random.default_rng(5)
    target, online = random.normal(size=(2, 64, 6))
    reward, discount = random.normal(size=64), 0.97 * (random.random(64) < 0.7)
    got = target_of(kind, *map(torch.from_numpy, (reward, discount, target, online)))
    want = [reference.td_target(kind, *row) for row in zip(reward, discount, target, online, strict=True)]
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-14)


def test_max_and_double_differ_where_the_networks_disagree() -> None:
    online, target = torch.tensor([[0.0, 1.0]]), torch.tensor([[5.0, 3.0]])
    values = {kind: target_of(kind, torch.zeros(1), torch.ones(1), target, online).item() for kind in GREEDY}
    assert values == {"max": 5.0, "double": 3.0}


@pytest.mark.parametrize(("kind", "asked"), [("max", ["target_next"]), ("double", ["online_next"])])
def test_a_rule_asks_for_what_it_needs_alone(kind: str, asked: list[str]) -> None:
    networks = Networks(torch.zeros(1, 3), torch.zeros(1, 3))
    RULES[kind](LearnerConfig())(networks.values)
    assert networks.asked == asked


def test_equal_values_go_to_the_first_action() -> None:
    online, target = torch.tensor([[2.0, 2.0, 1.0]]), torch.tensor([[7.0, 8.0, 9.0]])
    assert target_of("double", torch.zeros(1), torch.ones(1), target, online).item() == 7.0


def test_a_terminal_transition_is_worth_its_reward() -> None:
    values = torch.tensor([[1e6], [-1e6]])
    reward = torch.tensor([1.0, -1.0])
    torch.testing.assert_close(target_of("max", reward, torch.zeros(2), values, values), reward)


def test_a_soft_target_is_the_weighted_sum_of_values_less_penalties() -> None:
    """What a rule with a weight for each action makes of three values, by hand."""
    head = ScalarHead(NetworkConfig(width=1 / 32), 1, 3)
    next_actions = Next(
        action=torch.tensor([[0, 1, 2]]),
        weight=torch.tensor([[0.5, 0.25, 0.25]]),
        penalty=torch.tensor([[1.0, 0.0, 2.0]]),
        bonus=torch.tensor([0.125]),
    )
    z = torch.tensor([[[3.0], [8.0], [6.0]]])
    goal = head.goal(
        of_actions(z, next_actions.action),
        next_actions,
        torch.tensor([1.0]) + next_actions.bonus,
        torch.tensor([0.5]),
    )
    assert goal.item() == 1.0 + 0.125 + 0.5 * (0.5 * (3 - 1) + 0.25 * 8 + 0.25 * (6 - 2))


def test_the_loss_is_the_weighted_mean_over_the_batch() -> None:
    losses, weight = torch.tensor([1.0, 2.0, 6.0]), torch.tensor([1.0, 0.0, 0.5])
    assert weighted_mean(losses, weight).item() == pytest.approx(4 / 3)


@pytest.mark.parametrize("numbers", [1, 3])
def test_the_output_for_one_action_is_what_a_gather_gives(numbers: int) -> None:
    """Values and gradients to the bit, with other actions' values that are not finite."""
    z = torch.randn(6, 4, numbers, generator=torch.Generator().manual_seed(0))
    action = torch.tensor([0, 3, 1, 1, 2, 0])
    z[1, 0], z[2, 2] = float("inf"), float("nan")
    z.requires_grad_()
    weight = torch.arange(1.0, 6 * numbers + 1).view(6, numbers)
    got, want = of_action(z, is_action(action, z.shape[1])), of_actions(z, action.unsqueeze(1)).squeeze(1)
    assert torch.equal(got, want)
    ours, theirs = (torch.autograd.grad((values * weight).sum(), z)[0] for values in (got, want))
    assert torch.equal(ours, theirs)
