"""What a setting may be beyond its type. It stands beside the field: `keep: Annotated[int, Range(1, 9)]`."""

from __future__ import annotations

import re
import typing
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol, runtime_checkable

_LARGEST_COUNT = 2**62
# The learner computes in float32, which takes less for 0 (or slows down) and more for infinity.
_SMALLEST, _LARGEST = 2.0**-126, (2 - 2**-23) * 2.0**127


@runtime_checkable
class Limit(Protocol):
    """What stands beside a field."""

    @property
    def wanted(self) -> str:
        """What a value must be, after `must be`."""
        ...

    @property
    def short(self) -> str:
        """The same for the help, as short as can be; empty where it adds nothing."""
        ...

    def allows(self, value: Any) -> bool:
        """Whether a value of the field's type is one of those."""
        ...


@dataclass(frozen=True)
class Range:
    """Bounds of a number, both included; whole numbers have whole bounds.

    Attributes:
        low: Lower bound.
        high: Upper bound.
        words: What `wanted` says, the bounds if nothing is given.
        few_words: What `short` says, likewise.
    """

    low: float
    high: float
    words: str = ""
    few_words: str = ""

    @property
    def wanted(self) -> str:
        """As in `Limit`."""
        kind = "a whole number " if isinstance(self.low, int) else ""
        return self.words or f"{kind}from {self.low:.15g} to {self.high:.15g}"

    @property
    def short(self) -> str:
        """As in `Limit`."""
        return self.few_words or f"{self.low:.15g}..{self.high:.15g}"

    def allows(self, value: float) -> bool:
        """Whether a number lies between the bounds; NaN lies nowhere."""
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Pattern:
    """A regular expression that a whole text must fit.

    Attributes:
        pattern: A regular expression.
        wanted: As in `Limit`.
    """

    pattern: str
    wanted: str
    short: str = ""

    def allows(self, value: str) -> bool:
        """Whether all of a text fits the expression."""
        return re.fullmatch(self.pattern, value) is not None


@dataclass(eq=False)
class Names:
    """The names of parts that there are; registering one of one's own adds to them.

    Attributes:
        known: They.
    """

    known: list[str] = field(default_factory=list)
    short: str = ""

    @property
    def wanted(self) -> str:
        """As in `Limit`."""
        return f"one of {', '.join(self.known)}; a part of your own is registered before it is named"

    def allows(self, value: str) -> bool:
        """Whether a part has this name."""
        return value in self.known


Count = Annotated[int, Range(1, _LARGEST_COUNT, "a whole number above 0, and at most 2^62", ">=1")]
Natural = Annotated[int, Range(0, _LARGEST_COUNT, "0 or a whole number above it, and at most 2^62", ">=0")]
Probability = Annotated[float, Range(0.0, 1.0)]
Positive = Annotated[float, Range(_SMALLEST, _LARGEST, "above 0 in float32, from 1.2e-38 to 3.4e38", ">0")]
NotNegative = Annotated[float, Range(0.0, _LARGEST, "from 0 to 3.4e38", ">=0")]
Fraction = Annotated[float, Range(0.0, 1.0 - 2**-24, "at least 0, and below 1 in float32", "0..<1")]
Name = Annotated[str, Pattern(r"[\w .+-]{1,64}", "at most 64 letters, digits and . _ + -")]
"""For what stands in titles and in the names of folders."""


def limit_of(hint: Any) -> Limit | None:
    """Return the limit in a type hint, also in that of a value that may be `None`; `None` if it has no limit."""
    for part in (hint, *typing.get_args(hint)):
        for beside in getattr(part, "__metadata__", ()):
            if isinstance(beside, Limit):
                return beside
    return None
