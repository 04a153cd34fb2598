"""Sets of games that results are reported on, by the names that papers give them."""

from __future__ import annotations

from collections.abc import Sequence

from fastdqn.games.scores import RANDOM_AND_HUMAN

ATARI_5 = ("BattleZone", "DoubleDunk", "NameThisGame", "Phoenix", "Qbert")
"""Aitchison et al. 2022, "Atari-5": the five whose scores best predict the median of all 57."""

ATARI_26 = (
    *("Alien", "Amidar", "Assault", "Asterix", "BankHeist", "BattleZone", "Boxing", "Breakout"),
    *("ChopperCommand", "CrazyClimber", "DemonAttack", "Freeway", "Frostbite", "Gopher", "Hero", "Jamesbond"),
    *("Kangaroo", "Krull", "KungFuMaster", "MsPacman", "Pong", "PrivateEye", "Qbert", "RoadRunner"),
    *("Seaquest", "UpNDown"),
)
"""Kaiser et al. 2019 (SimPLe), known as Atari 100k."""

SUITES: dict[str, Sequence[str]] = {
    name: [f"{game}-v5" for game in games]
    for name, games in {
        "atari5": ATARI_5,
        "atari26": ATARI_26,
        "atari57": tuple(RANDOM_AND_HUMAN),
    }.items()
}
"""The games of each, under EnvPool's names."""
