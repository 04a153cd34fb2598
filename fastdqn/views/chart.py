"""A chart of returns in braille, for a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from rich.text import Text

Point = tuple[int, float]
"""Frames played, and a return."""

_LINE, _DOT = "bright_cyan", "bright_black"
_MAX_POINTS = 400


class Curve:
    """(frames, value) points, thinned out evenly as they become many: that bounds the cost of drawing."""

    def __init__(self) -> None:
        self._points: list[Point] = []
        self._stride = 1
        self._count = 0
        self._last: Point | None = None

    @property
    def points(self) -> list[Point]:
        """What is kept, and always the newest."""
        fresh = [] if self._last is None or self._last in self._points[-1:] else [self._last]
        return self._points + fresh

    def add(self, frames: int, value: float) -> None:
        """Append a point. The frames may jump back: a resumed run repeats what its checkpoint lacks."""
        while self._points and self._points[-1][0] > frames:
            self._points.pop()
        self._last = (frames, value)
        if self._count % self._stride == 0:
            self._points.append(self._last)
        self._count += 1
        if len(self._points) > _MAX_POINTS:
            self._points = self._points[::2]
            self._stride *= 2


def scale(values: Sequence[float]) -> tuple[float, float]:
    """Return round numbers that enclose the values."""
    low, high = min(values), max(values)
    if high - low < 2.0:  # scores are whole numbers
        low, high = (low + high) / 2 - 1, (low + high) / 2 + 1
    span = high - low
    unit = 10.0 ** math.floor(math.log10(span))
    step = next(unit * factor for factor in (0.1, 0.2, 0.5) if span <= 25 * unit * factor)
    return math.floor(low / step) * step, math.ceil(high / step) * step


def draw(
    games: Sequence[Point],
    means: Sequence[Point],
    frames: int,
    bounds: tuple[float, float],
    cells: int,
    rows: int,
) -> list[Text]:
    """Draw in braille: a cell is 2 dots wide and 4 high. Where the line passes, no games are drawn."""
    across, down = 2 * cells, 4 * rows
    low, high = bounds
    wide, tall = (across - 1) / max(frames, 1), (down - 1) / (high - low)

    def place(frame: int, value: float) -> tuple[int, int]:
        return min(across - 1, int(frame * wide)), round((high - value) * tall)

    dots, line = _Dots(cells, rows), _Dots(cells, rows)
    for frame, value in games:
        dots.set(*place(frame, value))
    before: tuple[int, int] | None = None
    for frame, value in means:
        here = place(frame, value)
        for x, y in _steps(before or here, here):
            line.set(x, y)
        before = here
    return [_coloured(dots.cells[row], line.cells[row]) for row in range(rows)]


class _Dots:
    """Braille cells, as bit patterns."""

    BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))

    def __init__(self, columns: int, rows: int) -> None:
        self.cells = [[0] * columns for _ in range(rows)]

    def set(self, x: int, y: int) -> None:
        self.cells[y >> 2][x >> 1] |= self.BITS[y & 3][x & 1]


def _steps(start: tuple[int, int], end: tuple[int, int]) -> Iterable[tuple[int, int]]:
    """Return the dots of a straight line."""
    (x, y), (to_x, to_y) = start, end
    count = max(abs(to_x - x), abs(to_y - y), 1)
    return ((x + round(i * (to_x - x) / count), y + round(i * (to_y - y) / count)) for i in range(count + 1))


def _coloured(dots: Sequence[int], line: Sequence[int]) -> Text:
    """Join one row of dots and of the line, in as few spans as there are changes of colour."""
    text = Text(no_wrap=True)
    run, style = "", _DOT
    for dot, piece in zip(dots, line, strict=True):
        wanted = _LINE if piece else _DOT
        if wanted != style:
            text.append(run, style)
            run, style = "", wanted
        run += chr(0x2800 | (piece or dot))
    return text.append(run, style)
