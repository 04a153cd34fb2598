"""`fastdqn presets`: the named configurations, and where they differ."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import FlagCreatePairsOff, arg

from fastdqn.cli.arguments import parse, scan
from fastdqn.cli.counts import format_count
from fastdqn.presets import PRESETS

_ABOUT = "Show the presets: what they are, where their values come from, and the values in which they differ."


@dataclass(frozen=True)
class PresetsArguments:
    """What `fastdqn presets` takes."""

    json: Annotated[bool, FlagCreatePairsOff, arg(help_behavior_hint="")] = False
    """Write one JSON object with every value to stdout."""


def main(words: Sequence[str]) -> int:
    """Run the command; return the exit code."""
    scan(PresetsArguments, words, positional="")
    arguments = parse(PresetsArguments, words, prog="fastdqn presets", about=_ABOUT)
    if arguments.json:
        print(json.dumps({name: dataclasses.asdict(preset) for name, preset in PRESETS.items()}))
        return 0
    for name, preset in PRESETS.items():
        about = textwrap.wrap(f"{preset.summary} ({preset.source})", 68)
        print(f"{name:<10}" + "\n          ".join(about))
    print("\n" + "\n".join(_table()))
    print("\nThe values that all of them share: fastdqn train --help")
    return 0


def _table() -> list[str]:
    """Lines of flags, with the value in each preset, where the values are not all the same."""
    values = {name: _flat(dataclasses.asdict(preset.config)) for name, preset in PRESETS.items()}
    lines = [f"{'':<32}" + "".join(f"{name:>9}" for name in PRESETS)]
    for flag in next(iter(values.values())):
        row = [_shown(values[name][flag]) for name in PRESETS]
        if len(set(row)) > 1 and flag != "--preset":
            lines.append(f"{flag:<32}" + "".join(f"{value:>9}" for value in row))
    return lines


def _flat(values: dict[str, Any], prefix: str = "--") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flag = prefix + name.replace("_", "-")
        flat |= _flat(value, f"{flag}.") if isinstance(value, dict) else {flag: value}
    return flat


def _shown(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, int):
        return format_count(value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)
