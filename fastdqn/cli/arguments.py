"""From words on the command line to a dataclass.

tyro reads them; but first `scan` looks for mistakes, to report them in the project's words. It uses only what tyro
documents, so whatever it misses gets tyro's message and the same exit code. The commands that only list
something do without tyro: they work where numpy alone is installed.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import shutil
import textwrap
import types
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from fastdqn.cli import mistakes
from fastdqn.cli.counts import format_count, parse_count
from fastdqn.config import Config
from fastdqn.errors import UserError
from fastdqn.limits import Names, limit_of

if TYPE_CHECKING:
    from tyro.constructors import (
        ConstructorRegistry,
        PrimitiveConstructorSpec,
        PrimitiveTypeInfo,
        StructConstructorSpec,
        StructTypeInfo,
    )

T = TypeVar("T")

_HELP = ("-h", "--help")


@dataclass(frozen=True)
class Given:
    """What stands on a command line.

    Attributes:
        values: Value of each flag that was given, `None` for a switch. Flags have hyphens, never underscores.
        words: What stands without a flag.
        wants_help: --help is among them.
        places: Where the words stand.
    """

    values: dict[str, str | None]
    words: list[str]
    wants_help: bool
    places: list[int] = dataclasses.field(default_factory=list)


def flags_of(cls: type[Any], prefix: str = "") -> dict[str, Any]:
    """Return the flags of a dataclass, those inside it included, each with its type."""
    flags: dict[str, Any] = {}
    limited = typing.get_type_hints(cls, include_extras=True)
    for name, hint in typing.get_type_hints(cls).items():
        flag = prefix + name.replace("_", "-")
        if dataclasses.is_dataclass(hint):
            flags |= flags_of(typing.cast("type[Any]", hint), f"{flag}.")
            continue
        flags[f"--{flag}"] = _choice(limited[name], hint)
        # Switches of a command itself (--overwrite) are off, and only switched on; a run's may be on in a preset.
        if hint is bool and (prefix or name in Config.__dataclass_fields__):
            flags[f"--{prefix}no-{name.replace('_', '-')}"] = hint
    return flags


def switched_on(flag: str) -> str:
    """Return the flag that switches on what a flag switches on or off."""
    head, dot, leaf = flag.removeprefix("--").rpartition(".")
    return f"--{head}{dot}{leaf.removeprefix('no-')}"


def _choice(hint: Any, otherwise: Any) -> Any:
    """Return the choice among the names that a hint allows, `otherwise` where it allows other things."""
    limit = limit_of(hint)
    return Literal[tuple(limit.known)] if isinstance(limit, Names) else otherwise


def _text(description: str | None, hint: Any) -> str | None:
    """Return what the help says of a field: its description, and what limits it. Groups have their own."""
    limit = limit_of(hint)
    return f"{description} [{limit.short}]" if limit and limit.short else description


def scan(cls: type[Any], words: Sequence[str], positional: str, *, many: bool = False) -> Given:
    """Split the command line and check every flag and value.

    Args:
        cls: The dataclass of the command's arguments.
        words: The command line after the command.
        positional: Name of the one field that stands without a flag, or empty.
        many: Whether that field takes several words.

    Raises:
        UserError: An unknown flag, a value that is missing or not of its flag's type, a word too many.
    """
    wants_help = any(word in _HELP for word in words)
    given = Given({}, [], wants_help)
    try:
        _scan(cls, [word for word in words if word not in _HELP], positional, given)
    except UserError:
        if not wants_help:  # --help helps with a mistaken line, too
            raise
    allowed = len(given.words) if many else int(bool(positional))
    if len(given.words) > allowed and not wants_help:
        raise UserError(f"{given.words[allowed]!r} is a word too many.\n  --help shows what is expected.")
    return given


def parse(cls: type[T], words: Sequence[str], *, prog: str, about: str, default: T | None = None) -> T:
    """Build `cls` from words that `scan` let pass; with --help among them, print it and exit with 0.

    Tyro does that. A dataclass of nothing but switches does without it.

    Args:
        cls: The dataclass of the command's arguments.
        words: The command line after the command.
        prog: What the help calls the command.
        about: Stands above the help.
        default: The values where no flag is given; `None` takes those of the fields.
    """
    wants_help = any(word in _HELP for word in words)
    if wants_help:
        print(f"{_fill(about)}\n")  # tyro would join its lines
    if set(flags_of(cls).values()) == {bool}:
        return _parse_switches(cls, words, prog, wants_help)
    import tyro

    keywords: dict[str, Any] = {} if default is None else {"default": default}
    result: T = tyro.cli(cls, args=list(words), prog=prog, description="", registry=_registry(), **keywords)
    return result


def _parse_switches(cls: type[T], words: Sequence[str], prog: str, wants_help: bool) -> T:
    texts = describe_fields(cls)
    if wants_help:
        print(f"usage: {prog} [-h] {' '.join(f'[--{name}]' for name in texts)}\n")
        lines = {"-h, --help": "show this help message and exit"} | {
            f"--{n}": text for n, text in texts.items()
        }
        print("\n".join(f"  {flag:<12}{text}" for flag, text in lines.items()))
        raise SystemExit(0)
    return cls(**{name: f"--{name}" in words for name in texts})


def _fill(text: str) -> str:
    """Break paragraphs anew where the terminal is narrower than 80 columns; indented lines stay as they are."""
    width = shutil.get_terminal_size().columns
    if width >= 80:
        return text
    paragraphs = [
        block if any(line.startswith(" ") for line in block.splitlines()) else textwrap.fill(block, width)
        for block in text.split("\n\n")
    ]
    return "\n\n".join(paragraphs)


def _scan(cls: type[Any], words: Sequence[str], positional: str, given: Given) -> None:
    flags = {flag: hint for flag, hint in flags_of(cls).items() if flag != f"--{positional}"}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not _is_flag(word):
            given.words.append(word)
            given.places.append(len(words) - len(rest) - 1)
            continue
        typed, equals, value = word.partition("=")
        flag = typed.replace("_", "-")
        following = value if equals else rest[0] if rest and not _is_flag(rest[0]) else None
        if flag not in flags:
            raise UserError(mistakes.unknown_flag(typed, following, flags))
        if flags[flag] is bool:
            said = equals or following in ("True", "False", "true", "false")
            _check_switch(flag, following if said else None, flags)
            given.values[flag] = None
            continue
        if typing.get_origin(flags[flag]) is tuple and not equals:  # as many words as follow
            taken = list(itertools.takewhile(lambda one: not _is_flag(one), rest))
            _check_value(flag, taken[0] if taken else None, str)
            given.values[flag] = " ".join(taken)
            del rest[: len(taken)]
            continue
        _check_value(flag, following, flags[flag])
        given.values[flag] = following
        del rest[: 0 if equals else 1]


def _is_flag(word: str) -> bool:
    # A negative number is a value, to be refused by whoever knows the range.
    return len(word) > 1 and word[0] == "-" and not (word[1].isdigit() or word[1] == ".")


def _check_switch(flag: str, value: str | None, flags: Iterable[str]) -> None:
    if value is not None:
        both = [one for one in flags if switched_on(one) == switched_on(flag)]
        raise UserError(f"{flag} takes no value, not {value!r}.\n  Type: {' or '.join(both)}")


def _check_value(flag: str, value: str | None, hint: Any) -> None:
    if value is None:
        raise UserError(f"{flag} stands without a value.\n  Type: {flag} VALUE")
    try:
        convert(value, hint)
    except ValueError as error:
        raise UserError(f"{flag} {value}: {error}.") from None


def convert(text: str, hint: Any) -> object:
    """Return the value of type `hint` that `text` stands for; a ValueError says what is wanted instead."""
    if typing.get_origin(hint) is Literal:
        choices: tuple[str, ...] = typing.get_args(hint)
        if text not in choices:
            near = mistakes.nearest(text, choices)
            guess = f" (did you mean {near}?)" if near else ""
            raise ValueError(f"one of {', '.join(choices)} is wanted{guess}")
        return text
    if typing.get_origin(hint) in (types.UnionType, typing.Union):  # the latter where a Literal is in it
        first, *others = (part for part in typing.get_args(hint) if part is not types.NoneType)
        words = [word for other in others for word in typing.get_args(other)]  # of a Literal beside a number
        if text.lower() == "none" or text in words:
            return None if text.lower() == "none" else text
        try:
            return convert(text, first)
        except ValueError as error:
            raise ValueError(f"{error}, or {' or '.join([*words, 'none'])}") from None
    if hint is int:
        return parse_count(text)
    if hint is float:
        return _parse_float(text)
    if not text:
        raise ValueError("a value is wanted, not nothing")
    return text


def _parse_float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError("a number is wanted, such as 0.5 or 2.5e-4") from None


def _none(words: Sequence[str]) -> None:
    if words[0].lower() != "none":
        raise ValueError("none is wanted")


def _registry() -> ConstructorRegistry:
    """Return the rules that tyro lacks: counts like 10M, `none` in small letters, descriptions as paragraphs."""
    from tyro.constructors import (
        ConstructorRegistry,
        PrimitiveConstructorSpec,
        StructConstructorSpec,
        StructFieldSpec,
    )

    registry = ConstructorRegistry()

    @registry.primitive_rule
    def count(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[int] | None:
        if info.type is not int:
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar="COUNT",
            instance_from_str=lambda words: parse_count(words[0]),
            is_instance=lambda value: isinstance(value, int),
            str_from_instance=lambda value: [format_count(value)],
        )

    @registry.primitive_rule
    def none(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[None] | None:
        if info.type is not types.NoneType:
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar="none",
            instance_from_str=_none,
            is_instance=lambda value: value is None,
            str_from_instance=lambda _: ["none"],
        )

    @registry.struct_rule
    def described(info: StructTypeInfo) -> StructConstructorSpec | None:
        if not dataclasses.is_dataclass(info.type):
            return None
        hints, texts = typing.get_type_hints(info.type, include_extras=True), describe_fields(info.type)
        defaults = info.default if isinstance(info.default, info.type) else info.type()
        fields = tuple(
            StructFieldSpec(
                field.name,
                _choice(hints[field.name], hints[field.name]),
                getattr(defaults, field.name),
                _text(texts.get(field.name), hints[field.name]),
            )
            for field in dataclasses.fields(info.type)
        )
        return StructConstructorSpec(instantiate=info.type, fields=fields)

    return registry


def describe_fields(cls: type[Any]) -> dict[str, str]:
    """Return the string under each field of a dataclass as one paragraph: tyro would keep its line breaks."""
    texts: dict[str, str] = {}
    for one in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(one):
            continue
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(one))).body
        assert isinstance(definition, ast.ClassDef)
        for field, below in zip(definition.body, definition.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
            ):
                texts[field.target.id] = " ".join(str(below.value.value).split())
    return texts
