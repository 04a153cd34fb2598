"""Counts as people write them: 10M, 2.5k, 1_000_000."""

from __future__ import annotations

import re
from decimal import Decimal

from fastdqn.errors import UserError

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}
_LARGEST = 2**63
_COUNT = re.compile(r"([+-]?[0-9][0-9_]*(?:\.[0-9]+)?(?:e[+-]?[0-9]{1,2})?)([kmgb]?)", re.IGNORECASE)


def parse_count(text: str) -> int:
    """Return the whole number that `text` stands for; k, M and G (or B) are powers of a thousand.

    Raises:
        ValueError: It is no number, not a whole one, or one beyond 2^63.
    """
    match = _COUNT.fullmatch(text.strip())
    value = Decimal(match[1].replace("_", "")) * _UNITS[match[2].lower()] if match else Decimal("NaN")
    if not value.is_finite() or value != value.to_integral_value():
        raise ValueError("a whole number is wanted, such as 64, 2.5k or 10M")
    if abs(value) > _LARGEST:
        raise ValueError("a whole number of at most 19 digits is wanted")
    return int(value)


def format_count(value: int) -> str:
    """Return `value` in the largest unit that keeps it exact and short: 1.6M, 108k, 1234567."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if abs(value) >= 10 * size or (abs(value) >= size and value % (size // 10) == 0):
            whole, rest = divmod(abs(value), size)
            digits = f"{rest:0{len(str(size)) - 1}d}".rstrip("0")
            if len(digits) <= 2:
                return f"{'-' if value < 0 else ''}{whole}{'.' + digits if digits else ''}{unit}"
    return str(value)


def which_of(text: str) -> str | int:
    """Return which checkpoint is meant: last, best, or a number of frames, written as people write it.

    Raises:
        UserError: It is neither.
    """
    if text in ("last", "best"):
        return text
    try:
        return parse_count(text)
    except ValueError:
        raise UserError(f"--checkpoint {text}: last, best or a number of frames is wanted.") from None
