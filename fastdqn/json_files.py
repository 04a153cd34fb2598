"""JSON that people may have edited: whatever is wrong with it is one short ValueError that names the place."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

LARGEST_BYTES = 64 * 2**20
"""Of a file of one object; ours are a few kilobytes. A larger one is not ours, and not read."""

_SHOWN_LETTERS = 60


def parse_object(text: str | bytes) -> dict[str, Any]:
    """Return the JSON object that a text is.

    Raises:
        ValueError: It is not JSON, is nested too deeply, or has a number of thousands of digits.
    """
    try:
        data = json.loads(text)
    except RecursionError:
        raise ValueError("not JSON that can be read: it is nested too deeply") from None
    except ValueError as error:  # of the syntax, of an encoding, or of Python's limit of digits
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(data, dict):
        raise ValueError(f"an object is wanted, not {type(data).__name__}")
    return data


def read_object(path: Path) -> dict[str, Any]:
    """Read a file of one JSON object.

    Raises:
        ValueError: As in `parse_object`, or the file is larger than `LARGEST_BYTES`.
        OSError: It cannot be read.
    """
    return parse_object(_read(path))


def read_text(path: Path) -> str:
    """Read a text file in UTF-8 that is small if it is ours.

    Raises:
        ValueError: It is larger than `LARGEST_BYTES`, or in another encoding.
        OSError: It cannot be read.
    """
    return _read(path).decode()


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read a file of one JSON object a line; a last line that a kill cut short is left out.

    Yields:
        The line's number, from 1, and its object.

    Raises:
        ValueError: A line is no JSON object; it names the line.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield number, parse_object(line)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None


def checked(value: object, hint: Any, name: str) -> Any:
    """Return a value of JSON as its type hint has it: whole numbers stand for floats, objects for dataclasses.

    Args:
        value: From JSON, or from a dataclass.
        hint: int, float, str, bool, a Literal of strings, a union of those or with None, a sequence, a mapping
            with names, or a dataclass of those. A dataclass refuses names that it does not have and takes its
            defaults.
        name: What messages call it.

    Raises:
        ValueError: The type or a choice is another, a name is unknown or missing, a float is too large for one.
    """
    if dataclasses.is_dataclass(hint):
        return _checked_fields(typing.cast("type[Any]", hint), value, name)
    if hint is Any:
        return value
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:  # what stands beside the type is not checked here
        return checked(value, inner[0], name)
    if origin is Literal:
        if value not in inner:
            raise ValueError(f"{name} = {shown(value)}: must be one of {', '.join(inner)}")
        return value
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        first, *others = (part for part in inner if part is not types.NoneType)
        for other in others:
            with suppress(ValueError):
                return checked(value, other, name)
        return checked(value, first, name)
    if origin is not None and issubclass(origin, Mapping):
        entries = _want(value, Mapping, "an object", name)
        return {key: checked(part, inner[1], f"{name}.{key}") for key, part in entries.items()}
    if origin is not None and issubclass(origin, Sequence):
        parts = _want(value, list, "an array", name)
        return [checked(part, inner[0], f"{name}[{i}]") for i, part in enumerate(parts)]
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ValueError(f"{name} = {shown(value)}: too large") from None
    if isinstance(value, bool) and hint is not bool:  # Python's True is an int
        raise _unwanted(value, hint.__name__, name)
    return _want(value, hint, hint.__name__, name)


def shown(value: object) -> str:
    """Return a value as a message shows it, in at most 60 letters."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python writes no number of more than 4,300 digits
        return f"a {type(value).__name__} too long to show"
    return text if len(text) <= _SHOWN_LETTERS else f"{text[: _SHOWN_LETTERS - 4]} ..."


def _checked_fields(cls: type[Any], value: object, name: str) -> Any:
    if dataclasses.is_dataclass(value):
        return value
    given = _want(value, Mapping, "an object", name or "the whole")
    prefix, hints = f"{name}." if name else "", typing.get_type_hints(cls)
    unknown = sorted(str(key) for key in set(given) - set(hints))
    if unknown:
        raise ValueError(f"unknown field {shown(prefix + unknown[0])}")
    needed = {
        field.name
        for field in dataclasses.fields(cls)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    missing = sorted(needed - set(given))
    if missing:
        raise ValueError(f"field {prefix + missing[0]!r} is missing")
    return cls(**{key: checked(part, hints[key], prefix + key) for key, part in given.items()})


def _want(value: object, kind: Any, wanted: str, name: str) -> Any:
    if not isinstance(value, kind):
        raise _unwanted(value, wanted, name)
    return value


def _unwanted(value: object, wanted: str, name: str) -> ValueError:
    return ValueError(f"{name} = {shown(value)}: {wanted} is wanted")


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(LARGEST_BYTES + 1)
    if len(data) > LARGEST_BYTES:
        raise ValueError(f"larger than {LARGEST_BYTES // 2**20} MiB")
    return data
