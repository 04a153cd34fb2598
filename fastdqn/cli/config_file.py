"""`--config FILE`: a configuration, or a part of one, between the preset and the flags."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

from fastdqn.cli import mistakes
from fastdqn.config import Config, flatten, moved
from fastdqn.errors import UserError
from fastdqn.json_files import checked, parse_object, read_text, shown
from fastdqn.presets import PRESETS

DEFAULT_PRESET = "quick"


def base_config(file: str | None, preset: str | None) -> Config:
    """Return what flags change: the preset's values, and over them those of the file; no game unless it has one.

    Args:
        file: A .json or .toml file, such as a run's config.json. Values lie in sections as in config.json, or
            under dotted names (`learner.batch_size`). TOML has no null: "none" stands for it.
        preset: The one that a flag names; `None` takes the file's, and `quick` where it names none either.

    Raises:
        UserError: The file cannot be read, has a field that is not known or a value of another type, or names
            another preset than the flag; or there is no such preset.
    """
    values = _read(Path(file)) if file else {}
    named = values.get("preset", preset)
    if preset is not None and named != preset:
        raise UserError(
            f"--preset {preset}: {file} says preset = {shown(named)}.\n"
            "  Leave --preset away, or take the preset out of the file."
        )
    name = named if named is not None else DEFAULT_PRESET
    if not isinstance(name, str) or name not in PRESETS:
        more = "`fastdqn presets` compares them."
        where = "--preset: " if name == preset else f"--config {file}: "
        raise UserError(where + mistakes.unknown_word("preset", str(name), PRESETS, more))
    return _merged(PRESETS[name].config, {"game": "", **values}, file)


def _read(path: Path) -> dict[str, Any]:
    """Return the values in a file under their dotted names."""
    if path.is_dir():
        inside = path / "config.json"
        more = f"\n  Type: --config {inside}" if inside.is_file() else ""
        raise UserError(f"--config {path}: this is a folder, a file is wanted.{more}")
    if path.suffix not in (".json", ".toml"):
        raise UserError(f"--config {path}: the name must end in .json or .toml.")
    if not path.is_file():
        raise UserError(f"--config {path}: there is no such file.")
    try:
        text = read_text(path)
        return flatten(parse_object(text) if path.suffix == ".json" else _without_none(tomllib.loads(text)))
    except RecursionError:
        raise UserError(f"--config {path}: nested too deeply.") from None
    except OSError as error:
        raise UserError(f"--config {path}: {error.strerror or error}") from None
    except ValueError as error:  # of the syntax, of the encoding, too large
        raise UserError(f"--config {path}: {error}") from None


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_none(part) for name, part in value.items()}
    return None if value == "none" else value


def _merged(base: Config, values: dict[str, Any], file: str | None) -> Config:
    older = moved(values)
    if older:
        raise UserError("\n  ".join([f"--config {file}: it has names of an older fastdqn.", *older]))
    known, data = base.flat(), dataclasses.asdict(base)
    for name, value in values.items():
        section, _, leaf = name.rpartition(".")
        if name in known:
            (data[section] if section else data)[leaf] = value
        elif name in data:  # a section
            raise UserError(f"--config {file}: {name} = {shown(value)}: an object is wanted")
        else:
            near = mistakes.nearest(name, known)
            guess = f" Did you mean {near}?" if near else ""
            raise UserError(f"--config {file}: there is no field {shown(name)}.{guess}")
    try:
        merged = checked(data, Config, "")
    except ValueError as error:
        raise UserError(f"--config {file}: {error}") from None
    assert isinstance(merged, Config)
    return merged
