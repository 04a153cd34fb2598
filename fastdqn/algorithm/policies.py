"""Policies: which action is taken of those that a network has valued; B is the batch, A the number of actions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from fastdqn.algorithm.layers import Draw, Draws
from fastdqn.config import Config


class Policy(Protocol):
    """What a policy has; random numbers are its input, as they are a layer's."""

    def draws(self, rows: int, num_actions: int) -> dict[str, Draw]:
        """Return what it takes for one choice in each of `rows` observations."""
        ...

    def __call__(self, q: Tensor, draws: Draws) -> Tensor:
        """Return an action for each row, int64 [B].

        Args:
            q: float32 [B, A], action values.
            draws: What `draws` lists.
        """
        ...


class Greedy:
    """The action of the largest value, the first among equal ones."""

    def draws(self, rows: int, num_actions: int) -> dict[str, Draw]:
        """Return nothing."""
        return {}

    def __call__(self, q: Tensor, draws: Draws) -> Tensor:
        """Return int64 [B]."""
        return q.argmax(1)


GREEDY = Greedy()


@dataclass(frozen=True)
class Softmax:
    """An action drawn with the probabilities softmax(q / temperature).

    Drawn as the largest of q / temperature + g with Gumbel's g = -log(-log(u)), so that the random numbers are an
    input (Maddison et al. 2014). Without draws it is greedy.

    Attributes:
        temperature: Of the softmax.
    """

    temperature: float

    def draws(self, rows: int, num_actions: int) -> dict[str, Draw]:
        """Return a uniform number for each action."""
        return {"uniform": Draw("uniform", (rows, num_actions))}

    def __call__(self, q: Tensor, draws: Draws) -> Tensor:
        """Return int64 [B]."""
        if not draws:
            return q.argmax(1)
        return (q / self.temperature - (-draws["uniform"].log()).log()).argmax(1)


POLICIES: dict[str, Callable[[Config], Policy]] = {
    "greedy": lambda config: GREEDY,
    "softmax": lambda config: Softmax(config.learner.temperature),
}
"""By `exploration.policy`."""
