"""`fastdqn presets`: the named configurations beside one another, and all that sets each apart."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Sequence

from fastdqn.cli.command import Command, Listing, answer
from fastdqn.cli.counts import format_count
from fastdqn.cli.flags import flag_of
from fastdqn.config import Config
from fastdqn.presets import PRESETS, Preset

_ABOUT = "Show the presets: what they are, where their values come from, and the values in which they differ."

_BASE = "nature"
_COLUMNS = {
    "head": "network.head",
    "rule": "learner.rule",
    "n": "learner.n_step",
    "duel": "network.dueling",
    "noise": "network.noise_sigma",
    "alpha": "replay.alpha",
    "optimizer": "optimizer.name",
    "step": "optimizer.learning_rate",
    "batch": "learner.batch_size",
}
"""Of the table; all fit beside one another in 120 letters."""

_LEGEND = (
    "n: steps of reward; duel: dueling; noise: its sigma; alpha: of the priorities; step: its size. Below, the",
    f"flags that make each of {_BASE}: fastdqn train GAME --preset {_BASE} FLAGS",
)

COMMAND = Command("presets", Listing, _ABOUT)


def main(words: Sequence[str]) -> int:
    """Run the command; return the exit code."""
    arguments = COMMAND.read(words)
    lines = [*_table(), "", *_LEGEND]
    for name, preset in PRESETS.items():
        lines += ["", *_described(name, preset)]
    data = {name: dataclasses.asdict(preset) for name, preset in PRESETS.items()}
    return answer(data, lines, as_json=arguments.json)


def _table() -> list[str]:
    """Lines of presets by columns of values, the paper at the end; - where an algorithm has no such part."""
    rows = [["preset", *_COLUMNS, "source"]]
    for name, preset in PRESETS.items():
        rows.append([name, *(_cell(preset.config, field) for field in _COLUMNS.values()), _paper(preset)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _cell(config: Config, field: str) -> str:
    value = config.flat()[field]
    if (field == "network.noise_sigma" and config.network.noise == "none") or value in (False, 0):
        return "-"
    return "yes" if value is True else str(_written(value))


def _written(value: object) -> object:
    """Return a value as people write it; it is still the same number."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return format_count(value)
    return repr(value).removesuffix(".0") if isinstance(value, float) else value


def _paper(preset: Preset) -> str:
    return preset.source.partition(",")[0]


def _described(name: str, preset: Preset) -> list[str]:
    """Lines of what a preset is, its source, and every flag that makes it of the preset that all start from."""
    base = PRESETS[_BASE].config.flat()
    own = {field: value for field, value in preset.config.flat().items() if value != base[field]}
    flags = [flag_of(field, _written(value)) for field, value in own.items() if field != "preset"]
    about = textwrap.wrap(f"{preset.summary} ({preset.source})", 86)
    # A flag stays beside its value.
    text = " ".join(flag.replace(" ", "\0") for flag in flags)
    more = textwrap.wrap(text, 86, break_long_words=False, break_on_hyphens=False)
    return [f"{name:<14}{about[0]}", *(" " * 14 + line.replace("\0", " ") for line in [*about[1:], *more])]
