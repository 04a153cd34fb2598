"""Counts as people write them."""

from __future__ import annotations

import pytest

from fastdqn.cli.counts import format_count, parse_count


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[
            ("0", 0),
            ("64", 64),
            ("10M", 10_000_000),
            ("10m", 10_000_000),
            ("2.5k", 2_500),
            ("1_000_000", 1_000_000),
        ],
        *[
            ("1G", 10**9),
            ("1.5B", 1_500_000_000),
            ("-3", -3),
            ("1e6", 1_000_000),
            ("0.001M", 1_000),
            (" 7 ", 7),
        ],
        ("9007199254740993", 9007199254740993),  # beyond what a float holds
    ],
)
def test_counts(text: str, value: int) -> None:
    assert parse_count(text) == value


_NO_COUNTS = ["", "M", "ten", "1.5", "2.0005k", "1e-3", "inf", "nan", "1 000", "0x10", "1kk", "--3", "1e999"]


@pytest.mark.parametrize("text", [*_NO_COUNTS, "\u0661k"])
def test_what_is_no_whole_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a whole number is wanted"):
        parse_count(text)


@pytest.mark.parametrize("text", ["9" * 20, "1" * 5000, "-" + "1" * 5000, "1e99", "10000000000G"])
def test_a_count_that_nothing_can_hold_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="at most 19 digits"):
        parse_count(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *[(0, "0"), (500, "500"), (1_000, "1k"), (5_000, "5k"), (108_000, "108k"), (1_600_000, "1.6M")],
        *[(200_000_000, "200M"), (1_234_567, "1234567"), (-2_500, "-2.5k"), (10**9, "1G"), (1_500, "1.5k")],
    ],
)
def test_counts_are_written_short_and_exact(value: int, text: str) -> None:
    assert format_count(value) == text
    assert parse_count(text) == value
