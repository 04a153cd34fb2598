"""Atari's actions by name: EnvPool numbers them, and tells no names."""

from __future__ import annotations

ACTIONS = (
    *("noop", "fire", "up", "right", "left", "down"),
    *("up-right", "up-left", "down-right", "down-left"),
    *("up-fire", "right-fire", "left-fire", "down-fire"),
    *("up-right-fire", "up-left-fire", "down-right-fire", "down-left-fire"),
)
"""All 18, in the order in which the Arcade Learning Environment numbers them."""

# Which of them a game uses, as its numbers in base 18; every game that is not here uses all.
_MINIMAL: dict[str, str] = {
    "012345": "BasicMath KingKong Qbert",
    "0123456789": "Othello TicTacToe3d VideoChess",
    "0123456789abcd": "KeystoneKapers",
    "0123456789bc": "Turmoil",
    "01234567abcdef": "Asteroids",
    "012345abc": "VideoPinball",
    "012345abcd": "Amidar MrDo TimePilot WizardOfWor",
    "0123467bc": "BeamRider",
    "01234abc": "Gopher",
    "01234bc": "Assault",
    "0125": "Blackjack Casino",
    "0125ad": "Bowling Pooyan UpNDown",
    "0134": "Breakout Kaboom",
    "01345": "Tetris",
    "0134589bc": "Enduro",
    "01345bcd": "Phoenix",
    "0134bc": "AirRaid Carnival DemonAttack Galaxian NameThisGame Pong SirLancelot SpaceInvaders",
    "01bc": "Atlantis Atlantis2",
    "02345": "Frogger Pacman Surround",
    "023456789": "Asterix CrazyClimber Koolaid LostLuggage MsPacman",
    "023456789bcdefgh": "JourneyEscape",
    "0234589bcdefgh": "KungFuMaster",
    "02345abc": "Tutankham",
    "025": "Freeway",
    "034": "Skiing",
    "134": "Backgammon",
    "16789": "VideoCheckers",
}
_MINIMAL_OF = {game: digits for digits, games in _MINIMAL.items() for game in games.split()}
# The two whose joystick has no button: `full` means its nine directions.
_NO_BUTTON = ("LostLuggage", "Skiing")


def action_names(game: str, *, full: bool = False) -> list[str]:
    """Return the names of a game's actions, in the order of their numbers.

    Args:
        game: EnvPool's name, such as `Pong-v5`.
        full: The full action set instead of the game's own.
    """
    name = game.removesuffix("-v5")
    if full and name in _NO_BUTTON:
        return [action for action in ACTIONS if "fire" not in action]
    digits = "0123456789abcdefgh" if full else _MINIMAL_OF.get(name, "0123456789abcdefgh")
    return [ACTIONS[int(digit, 18)] for digit in digits]
