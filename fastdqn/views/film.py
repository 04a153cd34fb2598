"""The picture of a game beside what the network thinks of it: drawn with Pillow, frame by frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_PAPER, _DIM, _TEXT = (24, 26, 31), (120, 127, 140), (205, 210, 218)
_BAR, _CHOSEN, _RANDOM = (66, 76, 92), (86, 214, 244), (229, 192, 123)
_WINDOW = 20.0  # seconds of the chart
_GRID = 96  # returns at which a distribution is drawn
_RANGED_MOMENTS = 400  # from which the axis of returns is made


@dataclass(frozen=True)
class Moment:
    """One step of a game, and what the network made of it.

    Attributes:
        values: Value of each action in the state that the step started from.
        action: The action that was taken.
        random: Whether chance took it, not the values.
        score: Points of the game after the step.
        ram: The console's memory after the step.
        outcomes: Returns that the network expects of each action, and their probabilities, both [A, N]; N is 1
            where it knows values alone.
    """

    values: NDArray[np.float32]
    action: int
    random: bool
    score: float
    ram: bytes
    outcomes: tuple[NDArray[np.float32], NDArray[np.float32]]


class Film:
    """Draws the frames of one game.

    Args:
        title: Stands above the score.
        subtitle: Stands below it, smaller.
        actions: Names of the actions.
        moments: The steps of the game; all, because the scales are the whole game's.
        fps_steps: Steps per second.
        shape: Lines and columns of the console's picture.
        scale: Pixels per pixel of the console, a whole number.
    """

    def __init__(
        self,
        title: str,
        subtitle: str,
        actions: Sequence[str],
        moments: Sequence[Moment],
        fps_steps: float,
        shape: tuple[int, ...],
        scale: int,
    ) -> None:
        self._titles, self._actions, self._moments = (title, subtitle), list(actions), moments
        self._rate, self._scale = fps_steps, scale
        lines, columns = shape
        self._left, self._panel = columns * scale, max(columns * scale, 156 * scale)
        # Video wants even numbers.
        self.width, self.height = (self._left + self._panel + 1) // 2 * 2, (lines * scale + 1) // 2 * 2
        values = np.stack([moment.values for moment in moments])
        self._best = values.max(axis=1)
        self._axis = _axis(float(self._best.min()), float(self._best.max()))
        # Actions differ far less than states do, so bars reach from the worst action to the best; but less far
        # where it hardly matters which is taken.
        self._spread = max(float(np.median(np.ptp(values, axis=1))), 1e-9)
        self._rows = self._bars
        if moments[0].outcomes[0].shape[1] > 1:
            self._rows, self._grid = self._distributions, np.linspace(*common_range(moments), _GRID)
        self._key: tuple[int, float, int] | None = None
        self._frame: NDArray[np.uint8] = np.full((self.height, self.width, 3), _PAPER, np.uint8)
        game = self._frame[: lines * scale, : self._left]
        # A view of the frame in which a pixel of the console is a block: [lines, scale, columns, scale, 3].
        self._big = np.lib.stride_tricks.as_strided(
            game,
            (lines, scale, columns, scale, 3),
            (scale * game.strides[0], game.strides[0], scale * game.strides[1], game.strides[1], 1),
        )

    def frame(self, picture: NDArray[np.uint8], step: int, score: float, lives: int) -> NDArray[np.uint8]:
        """Return a frame, uint8 [height, width, 3]; the next call draws over it.

        Args:
            picture: The console's, uint8 [lines, columns, 3].
            step: Which of the moments it belongs to.
            score: Points so far.
            lives: Lives left; not shown where 0.
        """
        if self._key != (step, score, lives):  # several frames share a panel, and text is slow
            self._key = (step, score, lives)
            self._frame[:, self._left :] = self._side(step, score, lives)
        self._big[:] = picture[:, None, :, None]
        return self._frame

    def _side(self, step: int, score: float, lives: int) -> NDArray[np.uint8]:
        image = Image.new("RGB", (self.width - self._left, self.height), _PAPER)
        pen = _Pen(ImageDraw.Draw(image), self._scale / 3)
        self._head(pen, step, score, lives)
        top, bottom = 186.0, self.height / pen.unit - 180.0
        self._rows(pen, self._moments[step], top, min(36.0, (bottom - top) / len(self._actions)))
        self._chart(pen, step, bottom + 14, self.height / pen.unit - 34)
        return np.asarray(image)

    def _head(self, pen: _Pen, step: int, score: float, lives: int) -> None:
        title, subtitle = self._titles
        pen.text(28, 22, title, 22, _TEXT)
        pen.text(28, 51, subtitle, 15, _DIM)
        pen.text(28, 76, f"{score:,.0f}", 54, _CHOSEN)
        seconds = int(step / self._rate)
        right = self._panel / pen.unit - 28
        pen.text(right, 22, f"{seconds // 60}:{seconds % 60:02d}", 22, _TEXT, "ra")
        if lives:
            pen.text(right, 51, f"{lives} {'life' if lives == 1 else 'lives'}", 15, _DIM, "ra")

    def _bars(self, pen: _Pen, moment: Moment, top: float, row: float) -> None:
        size, right = min(18.0, row * 0.72), self._panel / pen.unit - 28
        pen.text(28, top - 24, "value of each action", 15, _DIM)
        start, end = 28 + 8.1 * size, right - 4.2 * size
        worst, best = float(moment.values.min()), float(moment.values.max())
        for i, (name, value) in enumerate(zip(self._actions, moment.values, strict=True)):
            chosen = i == moment.action
            colour = (_RANDOM if moment.random else _CHOSEN) if chosen else _BAR
            y, text = top + i * row, colour if chosen else _TEXT
            pen.text(28, y + row / 2, name, size, text, "lm")
            share = (float(value) - worst) / max(best - worst, self._spread)
            pen.box(start, y + row * 0.18, start + 2 + (end - start - 2) * share, y + row * 0.82, colour)
            pen.text(right, y + row / 2, f"{float(value):.3f}", size, text, "rm")
        if moment.random:
            pen.text(right, top - 24, "a random action", 15, _RANDOM, "ra")

    def _distributions(self, pen: _Pen, moment: Moment, top: float, row: float) -> None:
        """The distribution of each action's return, all on one axis, with a line at its mean."""
        size, right = min(18.0, row * 0.72), self._panel / pen.unit - 28
        pen.text(28, top - 24, "return of each action", 15, _DIM)
        start, end = 28 + 8.1 * size, right - 4.2 * size
        low, high = float(self._grid[0]), float(self._grid[-1])
        across = start + (end - start) * (self._grid - low) / (high - low)
        heights = densities(moment.outcomes, self._grid)
        heights *= row * 1.25 / max(float(heights.max()), 1e-9)  # the highest reaches into the row above
        for i, (name, value) in enumerate(zip(self._actions, moment.values, strict=True)):
            chosen = i == moment.action
            colour = (_RANDOM if moment.random else _CHOSEN) if chosen else _BAR
            floor, text = top + (i + 0.95) * row, colour if chosen else _TEXT
            outline = [(float(x), floor - float(y)) for x, y in zip(across, heights[i], strict=True)]
            pen.area([(start, floor), *outline, (end, floor)], colour)
            pen.line(outline, _PAPER if chosen else _DIM, 1)
            pen.line([(start, floor), (end, floor)], _BAR, 1)
            mean = start + (end - start) * min(max((float(value) - low) / (high - low), 0.0), 1.0)
            pen.line([(mean, floor), (mean, floor - row * 0.5)], _PAPER if chosen else _TEXT, 2)
            pen.text(28, floor - row * 0.45, name, size, text, "lm")
            pen.text(right, floor - row * 0.45, f"{float(value):.3f}", size, text, "rm")
        below = top + (len(self._actions) + 0.1) * row
        for x, value, anchor in ((start, low, "la"), (end, high, "ra")):
            pen.text(x, below, f"{value:.3g}", 13, _DIM, anchor)
        if moment.random:
            pen.text(right, top - 24, "a random action", 15, _RANDOM, "ra")

    def _chart(self, pen: _Pen, step: int, top: float, bottom: float) -> None:
        """The value of the best action over the last seconds."""
        left, right = 28.0, self._panel / pen.unit - 28
        low, high, every = self._axis
        pen.text(left, top, "value of the best action", 15, _DIM)
        pen.text(right, top, f"{float(self._best[step]):.2f}", 18, _CHOSEN, "ra")
        top += 28
        for value in np.arange(low, high + every / 2, every):
            y = bottom - (value - low) / (high - low) * (bottom - top)
            pen.line([(left + 44, y), (right, y)], _BAR, 1)
            pen.text(left + 36, y, f"{value:.4g}", 13, _DIM, "rm")
        many = max(2, round(_WINDOW * self._rate))
        first = max(0, step + 1 - many)
        wide = (right - left - 44) / (many - 1)
        line = [
            (left + 44 + i * wide, bottom - (float(value) - low) / (high - low) * (bottom - top))
            for i, value in enumerate(self._best[first : step + 1])
        ]
        if len(line) > 1:
            pen.line(line, _CHOSEN, 2)
        pen.dot(*line[-1], 4, _CHOSEN)
        pen.text(right, bottom + 10, f"the last {_WINDOW:.0f} s", 13, _DIM, "ra")


class _Pen:
    """Draws in units of a third of the console's pixel, so that every scale looks the same."""

    def __init__(self, draw: ImageDraw.ImageDraw, unit: float) -> None:
        self._draw, self.unit = draw, unit

    def text(
        self, x: float, y: float, text: str, size: float, colour: tuple[int, int, int], anchor: str = "la"
    ) -> None:
        font = _font(max(8, round(size * self.unit)))
        self._draw.text((x * self.unit, y * self.unit), text, colour, font, anchor)

    def box(self, x: float, y: float, to_x: float, to_y: float, colour: tuple[int, int, int]) -> None:
        u = self.unit
        self._draw.rectangle((x * u, y * u, to_x * u, to_y * u), colour)

    def area(self, points: Sequence[tuple[float, float]], colour: tuple[int, int, int]) -> None:
        self._draw.polygon([(x * self.unit, y * self.unit) for x, y in points], colour)

    def dot(self, x: float, y: float, radius: float, colour: tuple[int, int, int]) -> None:
        self._draw.circle((x * self.unit, y * self.unit), radius * self.unit, colour)

    def line(self, points: Sequence[tuple[float, float]], colour: tuple[int, int, int], width: int) -> None:
        scaled = [(x * self.unit, y * self.unit) for x, y in points]
        self._draw.line(scaled, colour, max(1, round(width * self.unit)))


_FONTS: dict[int, ImageFont.FreeTypeFont | ImageFont.ImageFont] = {}


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    if size not in _FONTS:
        _FONTS[size] = ImageFont.load_default(size)
    return _FONTS[size]


def common_range(moments: Sequence[Moment]) -> tuple[float, float]:
    """Return the returns between which 99 % of a game's probability lies, some way apart."""
    some = moments[:: max(1, len(moments) // _RANGED_MOMENTS)]
    returns, probability = (
        np.concatenate([moment.outcomes[part].reshape(-1) for moment in some]) for part in (0, 1)
    )
    order = np.argsort(returns)
    share = np.cumsum(probability[order], dtype=np.float64) / probability.sum(dtype=np.float64)
    low, high = (float(returns[order][np.searchsorted(share, at)]) for at in (0.005, 0.995))
    margin = max(0.05 * (high - low), 0.01)
    return low - margin, high + margin


def densities(
    outcomes: tuple[NDArray[np.float32], NDArray[np.float32]], grid: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the height of each action's distribution over a grid of returns, [A, grid].

    Each outcome is a triangle, as wide as two steps of the grid on either side, or, where all actions have the
    same returns, as the step between those: then heights are straight lines between their probabilities.
    """
    returns, probability = outcomes
    width = 2 * (grid[1] - grid[0])
    if (returns == returns[0]).all():
        width = max(width, float(returns[0, 1] - returns[0, 0]))
    near = np.clip(1 - np.abs(returns[:, :, None] - grid) / width, 0, None)
    heights: NDArray[np.float64] = np.einsum("an,ang->ag", probability.astype(np.float64), near)
    return heights


def _axis(low: float, high: float) -> tuple[float, float, float]:
    """Return round bounds around the values, and the round distance of two to four lines between them."""
    span = max(high - low, 0.01)
    unit = 10.0 ** math.floor(math.log10(span))
    every = next(unit * factor for factor in (0.5, 1.0, 2.0, 5.0) if span <= 3 * unit * factor)
    return math.floor(low / every) * every, math.ceil((low + span) / every) * every, every
