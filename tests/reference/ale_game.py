"""A game of `AtariEnvs` played again by ale-py, frame by frame: what happens in the no-ops, too.

EnvPool's noises are known: the emulator has the seed of the environment, and the number of no-ops is drawn from a
Mersenne Twister of the same seed. So both consoles' memories can be compared after every step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import envpool
import numpy as np
from ale_py import Action, ALEInterface, LoggerMode
from numpy.typing import NDArray

NOOP_MAX = 30
FRAME_SKIP = 4


@dataclass
class Game:
    """One game from its first frame to its last, or to where it was cut.

    Attributes:
        points: Won by actions.
        noop_points: Won during the no-ops after lost lives.
        steps: Actions.
        noop_frames: Frames of no-ops and of FIRE at their end.
    """

    points: float = 0.0
    noop_points: float = 0.0
    steps: int = 0
    noop_frames: int = 0


class AleGame:
    """The first environment of `AtariEnvs(game, EnvConfig(), seed)`, with episodic lives.

    Args:
        game: EnvPool's name.
        seed: EnvPool's of this environment.
        max_steps: A game is cut after so many actions, counted from EnvPool's last whole reset.

    Attributes:
        games: Those that are over, in order; then the one under way.
        silent_ends: Games that ended during no-ops.
        ended: Whether the last step lost a life or ended the game.
        last_life_is_0: Whether lives have fallen to 0 while the game went on.
    """

    def __init__(self, game: str, seed: int, max_steps: int = 27_000) -> None:
        ALEInterface.setLoggerMode(LoggerMode.Error)
        settings = envpool.make_spec(game).config
        self._ale = ALEInterface()
        self._ale.setFloat("repeat_action_probability", 0.0)
        self._ale.setInt("random_seed", seed)
        self._ale.loadROM(Path(settings.base_path) / "atari" / "roms" / f"{settings.task}.bin")
        self.actions = self._ale.getMinimalActionSet()
        self.has_fire = Action.FIRE in self.actions
        self._draws = _draws(seed)
        self._max_steps, self._elapsed = max_steps, 0
        self._done = True
        self.games = [Game()]
        self.silent_ends = 0
        self.ended = self.last_life_is_0 = False
        self._reset(whole=True)

    @property
    def ram(self) -> NDArray[np.uint8]:
        """The console's memory, uint8 [128]."""
        return self._ale.getRAM()

    def step(self, action: int) -> float:
        """Do what EnvPool does with an action: a step, or after a done a reset. Return the points of a step."""
        if self._done:
            self.ended = False
            self._reset(whole=self._ale.game_over() or self._elapsed >= self._max_steps)
            return 0.0
        lives, points = self._ale.lives(), 0.0
        for _ in range(FRAME_SKIP):
            points += self._ale.act(self.actions[action])
            if self._ale.game_over():
                break
        self._elapsed += 1
        self.games[-1].points += points
        self.games[-1].steps += 1
        over, left = self._ale.game_over(), self._ale.lives()
        self.ended = over or left < lives
        self.last_life_is_0 |= left == 0 < lives and not over
        self._done = over or 0 < left < lives
        if over or self._elapsed >= self._max_steps:
            self._done = True
            self.games.append(Game())
        return points

    def _reset(self, whole: bool) -> None:
        self._done = False
        if whole:
            self._ale.reset_game()
            self._elapsed = 0
        for _ in range(next(self._draws) + 1 - self.has_fire):
            self._noop(Action.NOOP)
            if self._ale.game_over():
                self.silent_ends += 1
                self.games.append(Game())
                self._ale.reset_game()
        if self.has_fire:
            self._noop(Action.FIRE)

    def _noop(self, action: Action) -> None:
        self.games[-1].noop_points += self._ale.act(action)
        self.games[-1].noop_frames += 1


def _draws(seed: int) -> Iterator[int]:
    """Yield what `std::uniform_int_distribution(0, 29)` of libstdc++ draws from `std::mt19937(seed)`."""
    bits = np.random.RandomState(seed)._bit_generator
    while True:
        product = int(bits.random_raw()) * NOOP_MAX
        while product % 2**32 < 2**32 % NOOP_MAX:  # Lemire 2019, algorithm 5
            product = int(bits.random_raw()) * NOOP_MAX
        yield product >> 32
