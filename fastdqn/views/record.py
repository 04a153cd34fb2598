"""A film of a game: the policy plays as in an evaluation, and a second emulator shows it in colour."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from fastdqn.algorithm.exploration import Actor
from fastdqn.config import EnvConfig, FilmSettings, problems_of
from fastdqn.engine.acting import PolicyNetwork
from fastdqn.errors import RunFailedError, UserError
from fastdqn.games.actions import action_names
from fastdqn.games.envs import AtariEnvs, ColourGame
from fastdqn.outputs import new_file
from fastdqn.runs import memory
from fastdqn.runs.evaluation import game_rules, load_played, playing_network
from fastdqn.runs.folder import RunFolder
from fastdqn.runs.seeds import evaluation_seed
from fastdqn.views.film import Film, Moment

CONSOLE_FPS = 60
"""Frames per second of the console; those of an mp4."""

GIF_FPS = 20
"""What browsers play evenly: a GIF's frames last whole hundredths of a second."""


_COLUMNS, _LINES, _BYTES_PER_PIXEL = (
    160,
    210,
    4,
)  # of the console's picture; three colours, and a palette's number


@dataclass(frozen=True)
class Recording:
    """What was filmed.

    Attributes:
        mp4: The film.
        gif: Its first seconds, to be shown on a page.
        game: EnvPool's name of the game.
        weights: File that the weights came from.
        epsilon: Probability of a random action.
        seed: Of the game and of the exploration.
        score: Unclipped points at the film's end.
        game_over: Whether the film's end is the game's.
        seconds: Length of the film: `frames` emulator frames at 60 a second.
        frames: Emulator frames.
    """

    mp4: str
    gif: str
    game: str
    weights: str
    epsilon: float
    seed: int
    score: float
    game_over: bool
    seconds: float
    frames: int

    def row(self) -> dict[str, Any]:
        """Return the fields, for JSON."""
        return asdict(self)


def record(
    run: RunFolder,
    settings: FilmSettings,
    *,
    which: str | int = "last",
    out: Path | None = None,
    on_second: Callable[[int, int], None] | None = None,
) -> Recording:
    """Film the game that an evaluation of one episode plays with the same epsilon and seed.

    Args:
        run: The run; only its folder is needed.
        settings: How it is played and cut.
        which: The checkpoint: `last`, `best` by evaluation, or the frames of one.
        out: Folder of the films; `video` in the run's if `None`.
        on_second: Called with the second that was filmed and how many there will be.

    Raises:
        UserError: An argument is out of range, or the run has no checkpoint that can be read.
        RunFailedError: The network's values are no numbers, or the two emulators do not play the same game.
    """
    problems = problems_of(settings)
    if problems:
        raise UserError("\n".join(problems))
    epsilon, seed, scale = settings.epsilon, settings.seed, settings.scale
    policy = load_played(run, which)
    rules = game_rules(run.config, 1)
    _check_ffmpeg()
    _check_stills(
        min(settings.gif_seconds, settings.max_seconds, rules.max_episode_frames / CONSOLE_FPS), scale
    )
    stem = (out or run.path / "video") / f"{policy.source.parent.name}-seed{seed}"
    mp4, gif = Path(f"{stem}.mp4"), Path(f"{stem}.gif")
    with new_file(mp4, "out") as new_mp4, new_file(gif, "out") as new_gif:
        network = playing_network(policy, run.config, evaluation_seed(seed))
        moments, game_over = play(run.config.game, rules, network, epsilon, seed, settings.max_seconds)
        start, end = settings.gif_start, settings.gif_start + settings.gif_seconds
        window = (round(start * CONSOLE_FPS), round(end * CONSOLE_FPS))
        last = (len(moments) - 1) * rules.frame_skip  # the first frame of the last step
        if window[0] > last:
            raise UserError(f"gif_start = {start:g}: the film is over after {last / CONSOLE_FPS:.1f} s")
        titles = (run.config.game, f"{run.config.preset}, epsilon {epsilon:g}, seed {seed}")
        names = action_names(run.config.game, full=rules.full_action_set, count=policy.num_actions)

        def draw(shape: tuple[int, ...], pixels: int) -> Film:
            return Film(*titles, names, moments, CONSOLE_FPS / rules.frame_skip, shape, pixels)

        def report(count: int) -> None:
            if on_second and count % CONSOLE_FPS == 0:
                on_second(count // CONSOLE_FPS, len(moments) * rules.frame_skip // CONSOLE_FPS)

        shots = replay(run.config.game, rules, seed, moments)
        frames = _film(shots, draw, (new_mp4, new_gif), window, scale, report)
    return Recording(
        mp4=str(mp4),
        gif=str(gif),
        game=run.config.game,
        weights=str(policy.source),
        epsilon=epsilon,
        seed=seed,
        score=moments[-1].score,
        game_over=game_over,
        seconds=round(frames / CONSOLE_FPS, 2),
        frames=frames,
    )


def play(
    game: str,
    rules: EnvConfig,
    network: PolicyNetwork,
    epsilon: float,
    seed: int,
    max_seconds: float,
) -> tuple[list[Moment], bool]:
    """Play one game on the observations that the network learned from.

    Returns:
        The steps, and whether the game came to its end within `max_seconds` of play and the frames of its rules.
    """
    watched = _Watched(network)
    envs = AtariEnvs(game, rules, evaluation_seed(seed))
    actor = Actor(watched.best, envs.num_actions, 1, evaluation_seed(evaluation_seed(seed)))
    moments: list[Moment] = []
    score, over, ended, observation = 0.0, False, False, envs.reset()
    while not over and len(moments) * rules.frame_skip < max_seconds * CONSOLE_FPS:
        values = watched.values_of(observation)
        action = actor.act(observation, epsilon)
        envs.send(action)
        outcome = envs.recv()
        score, observation = score + float(outcome.reward[0]), outcome.observation
        over = bool(outcome.returns)
        ended = over and not outcome.truncated[0]
        ram, outcomes = envs.ram[0].tobytes(), watched.outcomes
        moments.append(Moment(values, int(action[0]), not watched.consulted, score, ram, outcomes))
    envs.close()
    return moments, ended


def replay(
    game: str, rules: EnvConfig, seed: int, moments: list[Moment]
) -> Iterator[tuple[int, NDArray[np.uint8], float, int]]:
    """Play the same steps in colour, and check after each that it is still the same game.

    Yields:
        For every emulator frame: its step, the picture uint8 [lines, columns, 3], the score, the lives.

    Raises:
        RunFailedError: The console's memory or the score is not what it was.
    """
    colour = ColourGame(game, rules, evaluation_seed(seed))
    score = 0.0
    for step, moment in enumerate(moments):
        for _ in range(rules.frame_skip):
            picture, points, over = colour.step(moment.action)
            score += points
            yield step, picture, score, colour.lives
            if over:
                break
        if colour.ram.tobytes() != moment.ram or score != moment.score:
            raise RunFailedError(
                f"step {step}: the emulator that shows the game in colour has left it (score {score:g} instead "
                f"of {moment.score:g}, or other memory).\nNothing was written; it is a bug of fastdqn or EnvPool."
            )
    colour.close()


class _Watched:
    """A network whose values are kept although the actor does not need them where chance decides."""

    def __init__(self, network: PolicyNetwork) -> None:
        self._network = network
        self._values = torch.zeros(0)
        self.outcomes = (np.zeros((0, 0), np.float32), np.zeros((0, 0), np.float32))
        self._acts = 0
        self.consulted = False

    def values_of(self, observation: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.consulted = False
        head, z = self._network.network.head, self._network.z(torch.from_numpy(observation), self._acts)
        self._values = head.q(z)
        returns, probability = head.outcomes(z)
        self.outcomes = returns[0].numpy(), probability[0].numpy()
        self._acts += 1
        if not bool(self._values.isfinite().all()):
            raise RunFailedError("the network's values are no numbers: its run has diverged.")
        return self._values[0].numpy()

    def best(self, _: NDArray[np.uint8], __: int) -> NDArray[np.int64]:
        self.consulted = True
        chosen: NDArray[np.int64] = self._network.choose(self._values, self._acts - 1).numpy()
        return chosen


def _film(
    shots: Iterator[tuple[int, NDArray[np.uint8], float, int]],
    draw: Callable[[tuple[int, ...], int], Film],
    paths: tuple[Path, Path],
    window: tuple[int, int],
    scale: int,
    on_frame: Callable[[int], None],
) -> int:
    """Write the mp4 and the GIF; return how many frames there are."""
    step, picture, score, lives = next(shots)
    films = draw(picture.shape[:2], scale), draw(picture.shape[:2], max(2, scale - 1))
    files = _Files(paths, films, window)
    try:
        files.add(picture, step, score, lives)
        for step, picture, score, lives in shots:
            files.add(picture, step, score, lives)
            on_frame(files.count)
        files.finish()
    finally:
        files.close()
    return files.count


class _Files:
    """An mp4 of all frames and a GIF of some.

    Args:
        paths: Of the mp4 and the GIF.
        films: Draw the mp4's frames and the GIF's.
        window: First frame of the GIF and the first one after it.
    """

    def __init__(self, paths: tuple[Path, Path], films: tuple[Film, Film], window: tuple[int, int]) -> None:
        self._films, self._window = films, window
        self._mp4, self._gif = paths
        self._writer = _open_mp4(paths[0], films[0])
        self._stills: list[Image.Image] = []
        self._before: NDArray[np.uint8] | None = None
        self.count = 0

    def add(self, picture: NDArray[np.uint8], step: int, score: float, lives: int) -> None:
        self._writer.send(self._films[0].frame(picture, step, score, lives))
        since = self.count - self._window[0]
        if since >= 0 and self.count < self._window[1] and since % (CONSOLE_FPS // GIF_FPS) == 0:
            # Sprites that flicker are drawn in every other frame: the brighter of two shows them all.
            both = picture if self._before is None else np.maximum(picture, self._before)
            self._stills.append(Image.fromarray(self._films[1].frame(both, step, score, lives)).copy())
        self._before = picture
        self.count += 1

    def finish(self) -> None:
        """Complete the films.

        Raises:
            RunFailedError: ffmpeg ended before its film was whole; imageio-ffmpeg does not ask how it ended.
        """
        self._writer.close()
        reader = imageio_ffmpeg.read_frames(f"file:{self._mp4}")
        try:
            written = float(next(reader)["duration"])
        except (OSError, RuntimeError):
            written = 0.0
        finally:
            reader.close()
        wanted = self.count / CONSOLE_FPS
        if abs(written - wanted) > 0.1:
            raise RunFailedError(
                f"ffmpeg has written {written:.1f} of {wanted:.1f} seconds: something ended it"
            )
        _write_gif(self._gif, self._stills)

    def close(self) -> None:
        self._writer.close()


def _check_ffmpeg() -> None:
    """Raise where there is no ffmpeg to write with, before a game is played for it."""
    try:
        program = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError:
        raise UserError(
            "imageio-ffmpeg brings no ffmpeg for this machine: set IMAGEIO_FFMPEG_EXE to one"
        ) from None
    if shutil.which(program) is None:
        raise UserError(
            f"IMAGEIO_FFMPEG_EXE = {program}: there is no such program; unset it, or name another"
        )


def _open_mp4(path: Path, film: Film) -> Any:
    writer = imageio_ffmpeg.write_frames(
        f"file:{path}",  # ffmpeg takes what stands before a colon for a protocol
        (film.width, film.height),
        fps=CONSOLE_FPS,
        codec="libx264",
        quality=None,
        macro_block_size=2,
        output_params=[
            *("-crf", "20", "-preset", "veryfast", "-tune", "animation"),
            *("-movflags", "+faststart", "-f", "mp4"),
        ],
    )
    writer.send(None)
    return writer


def _write_gif(path: Path, frames: list[Image.Image]) -> None:
    """Write a GIF with one palette for all frames: Pillow then stores only what changes."""
    sample = Image.new("RGB", (frames[0].width, frames[0].height * min(8, len(frames))))
    for i in range(min(8, len(frames))):
        sample.paste(frames[i * len(frames) // 8 if len(frames) >= 8 else i], (0, i * frames[0].height))
    palette = sample.quantize(128, dither=Image.Dither.NONE)
    flat = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    flat[0].save(
        path,
        format="GIF",
        save_all=True,
        append_images=flat[1:],
        duration=1000 // GIF_FPS,
        loop=0,
        optimize=False,
    )


def _check_stills(seconds: float, scale: int) -> None:
    """Raise where a GIF's pictures, which are kept until its palette is chosen, do not fit in memory."""
    there = memory.host_bytes()
    pixels = max(2, scale - 1)
    needed = int(seconds * GIF_FPS) * 2 * _COLUMNS * _LINES * pixels**2 * _BYTES_PER_PIXEL
    if needed > there:
        fitting = max(0.1, seconds * there / needed / 2)
        raise UserError(
            f"gif_seconds = {seconds:g}: {seconds * GIF_FPS:.0f} pictures of {2 * _COLUMNS * pixels} x "
            f"{_LINES * pixels} pixels x {_BYTES_PER_PIXEL} bytes = {needed / 2**30:.1f} GiB, and this machine "
            f"has {there / 2**30:.1f} GiB to spare; try `gif_seconds = {fitting:.2g}`"
        )
