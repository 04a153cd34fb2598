"""The seeds of a run's parts and of its evaluations, none of them related to another."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Seeds(NamedTuple):
    """Seeds that a run's one seed gives, each from 0 to 2^31 - 1."""

    games: int
    actor: int
    replay: int
    network: int


def run_seeds(seed: int, rank: int = 0) -> Seeds:
    """Derive unrelated seeds: EnvPool gives its games seed, seed + 1, ..., so neighbours would share games.

    Args:
        seed: The run's.
        rank: Of several processes that train it together, each has its own.
    """
    words = np.random.SeedSequence([seed, 0, rank] if rank else [seed, 0]).generate_state(len(Seeds._fields))
    return Seeds(*(int(word >> 1) for word in words))


def evaluation_seed(seed: int, frames: int = 0, turn: int = 0) -> int:
    """Return the seed of an evaluation's games, apart from the seeds of training.

    Args:
        seed: The run's, or the user's.
        frames: Frame of training: each evaluation of a run plays games of its own.
        turn: Of several evaluations at that frame.
    """
    words = [seed, 1_000_003, frames] if frames else [seed, 1_000_003]
    if turn:
        words = [seed, 1_000_003, frames, turn]
    return int(np.random.SeedSequence(words).generate_state(1)[0] >> 1)
