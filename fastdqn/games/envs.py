"""The emulator: the one importer of EnvPool, with documented dtypes and honest episode ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import envpool
import envpool.atari.registration
import numpy as np
from envpool.registration import registry
from numpy.typing import NDArray

from fastdqn.config import EnvConfig, LifeLoss
from fastdqn.errors import RunFailedError, UserError

_RESETS: dict[LifeLoss, bool] = {"reset": True, "terminal": False, "ignore": False}
_LIVES_END: dict[LifeLoss, bool] = {"reset": True, "terminal": True, "ignore": False}
"""What `EnvConfig.life_loss` means: whether EnvPool resets after a lost life, and whether a return ends there."""


def game_names() -> list[str]:
    """Return the Atari games that EnvPool can play, sorted."""
    return sorted(
        name for name, spec in registry.specs.items() if spec[0] == "envpool.atari" and "-v5" in name
    )


def num_actions(game: str, config: EnvConfig) -> int:
    """Return how many actions a game has, without starting it."""
    spec: Any = envpool.make_spec(game, full_action_space=config.full_action_set)
    return int(spec.action_space.n)


@dataclass(frozen=True)
class Outcome:
    """What came back for the actions that were sent, one row per environment.

    Attributes:
        observation: uint8 [N, 4, 84, 84]; after a done it is the new episode's first, one row later.
        reward: float32 [N], clipped to its sign where the configuration says so.
        terminated: bool [N], the game is over or (where `life_loss` says so) a life was lost. Never in the row
            after a done.
        truncated: bool [N], the game was cut at its frame limit: the value of what follows still counts.
        steps: Actions that were really taken: rows in which EnvPool reset a game are none.
        returns: Unclipped returns of the whole games that ended in these rows, points won during no-ops (by which
            EnvPool resets) left out: EnvPool does not report them.
        game_env: Environment of each of `returns`.
        game_frames: Emulator frames that each of those games took, no-ops left out.
    """

    observation: NDArray[np.uint8]
    reward: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    steps: int
    returns: list[float]
    game_env: list[int]
    game_frames: list[int]


class AtariEnvs:
    """A batch of Atari games stepped in lockstep by EnvPool's C++ threads.

    EnvPool resets on the row after a done: that row's action is ignored, its reward is 0, and its observation
    is the new episode's first (Gymnasium calls it next-step autoreset).

    After a lost life EnvPool resets by no-ops alone. A game that ends during them it starts again without a word;
    that row closes the game here. Its step limit goes on counting, so that the game after it is cut early. Where
    lives fall to 0 and the game goes on (ten games, such as Frogger), EnvPool ends no episode. It is ended here,
    and the next row, though it is a step, only begins the new one, as after any other end. With `life_loss =
    "terminal"` so is every lost life: that step is not learned from, one for each life.

    EnvPool cannot save an emulator's state, but one seed and one sequence of actions give one game. So the
    actions since the games were made are kept, a byte each, and `restore` plays them again. `restart` keeps that
    record short.

    Args:
        game: EnvPool's name, such as `Pong-v5`.
        config: Preprocessing and episode rules.
        seed: Decides the games, whatever the number of threads.
        generation: How often the games were made anew before; each time has a seed of its own.

    Attributes:
        ram: uint8 [N, 128], the consoles' memory after the last step: all of a game's state but the emulator's.
    """

    _pool: Any
    _last: NDArray[np.uint8]
    _lives: NDArray[np.int32]
    _resetting: NDArray[np.bool_]
    _begins: NDArray[np.bool_]
    _late: NDArray[np.bool_]
    _return: NDArray[np.float64]
    _game_steps: NDArray[np.int64]

    def __init__(self, game: str, config: EnvConfig, seed: int, generation: int = 0) -> None:
        self.num_envs = config.num_envs
        self.frame_skip = config.frame_skip
        self.generation = generation
        self._game, self._config, self._seed = game, config, seed
        self._max_steps = config.max_episode_frames // config.frame_skip
        self._lives_end = _LIVES_END[config.life_loss]
        self._make()
        self.num_actions = int(self._pool.action_space.n)

    def reset(self) -> NDArray[np.uint8]:
        """Start every game and return its first observation, uint8 [N, 4, 84, 84]. To be called once."""
        observation, info = self._pool.reset()
        self._lives, self.ram = info["lives"], info["ram"]
        self._last = observation
        return self._last

    @property
    def restart_is_due(self) -> bool:
        """Whether it is time to `restart`: `restart_steps` actions were sent since the games were made."""
        return len(self._actions) >= self._config.restart_steps

    def restart(self) -> NDArray[np.uint8]:
        """Make all games anew, from the next seed, and return their first observations as `reset` does.

        Games under way are cut where they are: for the learner truncations, in the scores nothing, since they
        are no whole games.
        """
        self.close()
        self.generation += 1
        self._make()
        return self.reset()

    def played(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return what `restore` takes: the actions so far, uint8 [passes, N], and the last observation."""
        actions = np.frombuffer(bytes(self._actions), np.uint8).reshape(-1, self.num_envs)
        return actions, self._last

    def restore(self, actions: NDArray[np.uint8], observation: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Bring games that were just made to where `played` was called, at the emulator's speed.

        Args:
            actions: uint8 [passes, N], from games of the same configuration, seed and generation.
            observation: uint8 [N, 4, 84, 84], the last one.

        Returns:
            The last observation.

        Raises:
            UserError: The games went another way.
        """
        self.reset()
        fits = actions.ndim == 2 and actions.shape[1] == self.num_envs
        if fits and actions.max(initial=0) < self.num_actions:
            for row in actions:
                self.send(row.astype(np.int64))
                self.recv()
            if np.array_equal(self._last, observation):
                return self._last
        raise UserError(
            f"{self._game} played again does not arrive where the checkpoint was saved: its games were played "
            "with another EnvPool, or with other settings.\nmeta.json in the run's folder has the versions."
        )

    def send(self, action: NDArray[np.int64]) -> None:
        """Start the emulation of one step and return at once.

        Args:
            action: int64 [N], from 0 to `num_actions` - 1.
        """
        self._actions += action.astype(np.uint8).tobytes()
        try:
            self._pool.send(action)
        except Exception as error:
            raise RunFailedError(f"the emulator refused an action: {error}") from error

    def recv(self) -> Outcome:
        """Wait for the step that `send` started."""
        try:
            observation, reward, terminated, truncated, info = self._pool.recv()
        except Exception as error:
            raise RunFailedError(f"the emulator died: {error}") from error
        self._last, self.ram = observation, info["ram"]
        resetting, self._resetting = self._resetting, terminated | truncated
        lives, self._lives = self._lives, info["lives"]
        stepped = ~resetting
        self._return += info["reward"] * stepped
        self._game_steps += stepped
        steps = int(np.count_nonzero(stepped))
        if not (resetting | self._resetting | (self._lives < lives)).any():
            self._begins = self._resetting
            return Outcome(observation, reward, terminated, truncated, steps, [], [], [])  # nearly always
        # EnvPool calls a game over, or a life lost, exactly at the step limit a truncation.
        over = info["terminated"].astype(np.bool_)
        cut = info["elapsed_step"] >= self._max_steps
        ended = self._resetting & over
        if self._lives_end:
            ended |= stepped & (self._lives < lives)
        restarted = self._restarted(resetting & (self._lives > lives))
        game_ended = np.flatnonzero((self._resetting & (over | cut)) | restarted)
        terminated, truncated = self._ends_for_learner(ended, self._resetting & ~ended)
        outcome = Outcome(
            observation=observation,
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            steps=steps,
            returns=self._return[game_ended].tolist(),
            game_env=game_ended.tolist(),
            game_frames=(self._game_steps[game_ended] * self.frame_skip).tolist(),
        )
        self._return[game_ended] = 0.0
        self._game_steps[game_ended] = 0
        return outcome

    def _restarted(self, lives_rose: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return in which rows a game ended, and another began, during the no-ops after a lost life.

        Then one frame fills the stack, and all lives are back; after a lost life alone the stack keeps old frames.
        Points that bring a life raise the lives, too.
        """
        rows = np.flatnonzero(lives_rose & (self._game_steps > 0))
        restarted = np.zeros_like(lives_rose)
        restarted[rows] = (self._last[rows] == self._last[rows, :1]).all(axis=(1, 2, 3))
        return restarted

    def _ends_for_learner(
        self, ended: NDArray[np.bool_], cut: NDArray[np.bool_]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return `terminated` and `truncated` for the learner, who takes a row after an end for a beginning.

        Where lives fell to 0 that row is a step. Should it end the game, the end is reported one row later, in
        which EnvPool resets. A life that is lost in it, while the game goes on, is nobody's end.
        """
        begins, late = self._begins, self._late
        self._late = begins & self._resetting
        terminated, truncated = (ended & ~begins) | late, cut & ~begins
        self._begins = terminated | truncated
        return terminated, truncated

    def close(self) -> None:
        """Stop the emulator's threads and give its memory back."""
        if self._pool is not None:
            self._pool.close()
            # Two emulators alive at once, whenever games are restarted, would leave holes in memory.
            self._pool = None

    def _make(self) -> None:
        config = self._config
        self._pool = envpool.make(
            self._game,
            env_type="gymnasium",
            num_envs=config.num_envs,
            num_threads=min(config.threads, config.num_envs),  # more would have nothing to do
            seed=_generation_seed(self._seed, self.generation),
            max_episode_steps=self._max_steps,
            frame_skip=config.frame_skip,
            noop_max=config.noop_max,
            episodic_life=_RESETS[config.life_loss],
            reward_clip=config.clip_rewards,
            use_fire_reset=config.fire_reset,
            full_action_space=config.full_action_set,
            repeat_action_probability=config.sticky_actions,
        )
        self._actions = bytearray()
        self._lives = np.zeros(self.num_envs, np.int32)
        self._resetting, self._begins, self._late = (np.zeros(self.num_envs, np.bool_) for _ in range(3))
        self._return = np.zeros(self.num_envs, np.float64)
        self._game_steps = np.zeros(self.num_envs, np.int64)


class ColourGame:
    """One game frame by frame and in colour, as a television would show it: for pictures, not for play.

    With the same configuration and seed it is the first game of `AtariEnvs`, as long as it gets the same
    actions, each for `frame_skip` frames; compare `ram` with theirs.

    Args:
        game: EnvPool's name, such as `Pong-v5`.
        config: As for `AtariEnvs`; lives and the frame limit have no effect.
        seed: Likewise.

    Attributes:
        ram: uint8 [128], the console's memory now.
        lives: Lives left, 0 in games that have none.
    """

    def __init__(self, game: str, config: EnvConfig, seed: int) -> None:
        self._pool: Any = envpool.make(
            game,
            env_type="gymnasium",
            num_envs=1,
            num_threads=1,
            seed=seed,
            max_episode_steps=2**31 - 1,
            frame_skip=1,
            noop_max=config.noop_max,
            episodic_life=False,
            reward_clip=False,
            use_fire_reset=config.fire_reset,
            full_action_space=config.full_action_set,
            repeat_action_probability=config.sticky_actions,
            render_mode="rgb_array",
        )
        self._note(self._pool.reset()[1])

    def step(self, action: int) -> tuple[NDArray[np.uint8], float, bool]:
        """Play one frame.

        Returns:
            The picture, uint8 [210, 160, 3] (some games have more lines), the points won in this frame, and
            whether the game is over.
        """
        _, _, over, _, info = self._pool.step(np.array([action]))
        self._note(info)
        return self._pool.render()[0], float(info["reward"][0]), bool(over[0])

    def close(self) -> None:
        """Stop the emulator."""
        self._pool.close()

    def _note(self, info: dict[str, Any]) -> None:
        self.ram: NDArray[np.uint8] = info["ram"][0]
        self.lives = int(info["lives"][0])


def _generation_seed(seed: int, generation: int) -> int:
    if generation == 0:
        return seed
    return int(np.random.SeedSequence([seed, generation]).generate_state(1)[0] >> 1)
