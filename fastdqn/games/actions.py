"""Atari's actions by name: EnvPool numbers them, and gives no names."""

from __future__ import annotations

ACTIONS = (
    *("noop", "fire", "up", "right", "left", "down"),
    *("up-right", "up-left", "down-right", "down-left"),
    *("up-fire", "right-fire", "left-fire", "down-fire"),
    *("up-right-fire", "up-left-fire", "down-right-fire", "down-left-fire"),
)
"""All 18, in the order in which the Arcade Learning Environment numbers them."""

# Which of them a game uses, as its numbers in base 18.
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
    "0123456789abcdefgh": (
        "Adventure Alien BankHeist BattleZone Berzerk Boxing Centipede ChopperCommand Crossbow "
        "Darkchambers Defender DonkeyKong DoubleDunk Earthworld ElevatorAction Entombed Et "
        "FishingDerby FlagCapture Frostbite Gravitar Hangman HauntedHouse Hero HumanCannonball "
        "IceHockey Jamesbond Kangaroo Klax Krull LaserGates MarioBros MiniatureGolf MontezumaRevenge "
        "Pitfall Pitfall2 PrivateEye Riverraid RoadRunner Robotank Seaquest Solaris SpaceWar "
        "StarGunner Superman Tennis Trondead Venture VideoCube WordZapper YarsRevenge Zaxxon "
    ),
}
_MINIMAL_OF = {game: digits for digits, games in _MINIMAL.items() for game in games.split()}
# The two whose joystick has no button.
_NO_BUTTON = ("LostLuggage", "Skiing")


def known_games() -> list[str]:
    """Return the games whose actions are listed here, sorted: all that EnvPool 1.2 can play."""
    return sorted(f"{game}-v5" for game in _MINIMAL_OF)


def minimal_actions(game: str) -> list[str] | None:
    """Return the names of the actions that a game uses, in the order of their numbers; `None` if it is not known.

    Args:
        game: EnvPool's name, such as `Pong-v5`.
    """
    digits = _MINIMAL_OF.get(game.removesuffix("-v5"))
    return None if digits is None else [ACTIONS[int(digit, 18)] for digit in digits]


def full_actions(game: str) -> list[str]:
    """Return the names of a game's full action set: all 18, but for two games that know no button."""
    if game.removesuffix("-v5") in _NO_BUTTON:
        return [action for action in ACTIONS if "fire" not in action]
    return list(ACTIONS)


def action_names(game: str, *, full: bool, count: int) -> list[str]:
    """Return the names of the actions that a network values; numbers where they are not known.

    Args:
        game: EnvPool's name, such as `Pong-v5`.
        full: Whether it was trained on the full action set.
        count: How many there are.
    """
    names = full_actions(game) if full else minimal_actions(game)
    return names if names and len(names) == count else [f"action {i}" for i in range(count)]
