"""`fastdqn presets`: the named configurations, and where they differ."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Sequence

from fastdqn.cli.command import Command, Listing, answer
from fastdqn.cli.counts import format_count
from fastdqn.config import Config
from fastdqn.presets import PRESETS

_ABOUT = "Show the presets: what they are, where their values come from, and the values in which they differ."


_COLUMNS = 4  # of presets beside one another in 80 letters

COMMAND = Command("presets", Listing, _ABOUT)


def main(words: Sequence[str]) -> int:
    """Run the command; return the exit code."""
    arguments = COMMAND.read(words)
    lines = []
    for name, preset in PRESETS.items():
        about = textwrap.wrap(f"{preset.summary} ({preset.source})", 68)
        lines.append(f"{name:<10}" + "\n          ".join(about))
    for first in range(0, len(PRESETS), _COLUMNS):
        lines += ["", *_table(list(PRESETS)[first : first + _COLUMNS])]
    lines += ["", "The values that are not shown are nature's: fastdqn train --help --preset nature"]
    data = {name: dataclasses.asdict(preset) for name, preset in PRESETS.items()}
    return answer(data, lines, as_json=arguments.json)


def _table(names: Sequence[str]) -> list[str]:
    """Lines of flags with their values in some presets, where one is not `nature`'s."""
    values = {name: preset.config.flat() for name, preset in PRESETS.items()}
    lines = [f"{'':<32}" + "".join(f"{name:>12}" for name in names)]
    for field in Config().flat():
        usual = _shown(values["nature"][field])
        row = [_shown(values[name][field]) for name in names]
        if {usual} != set(row) and field != "preset":
            lines.append(f"{'--' + field.replace('_', '-'):<32}" + "".join(f"{value:>12}" for value in row))
    return lines


def _shown(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, int):
        return format_count(value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)
