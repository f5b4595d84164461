"""Settings written once: dataclass fields with type, default, unit, limits and help.

The command line's flags, ``-s key=value``, the documentation and the stored provenance are all generated from them.
Keywords of methods that are also options of commands are declared with an :class:`Option`. This module is torch-free.
"""

from __future__ import annotations

import difflib
import json
import math
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from functools import cache
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Self, TypedDict, Union, Unpack, get_args, get_origin, get_type_hints
from weakref import WeakKeyDictionary

from mgraph.errors import InputError


class Limits(NamedTuple):
    """Bounds on the numbers of a setting: ``low`` and ``high`` are inclusive, ``above`` and ``below`` exclusive."""

    low: float | None = None
    above: float | None = None
    high: float | None = None
    below: float | None = None

    def broken(self, number: float) -> str | None:
        """Return what a number must be but is not, such as "at least 1"; None if it is within the limits."""
        limits = [
            (self.low, number.__ge__, "at least"),
            (self.above, number.__gt__, "above"),
            (self.high, number.__le__, "at most"),
            (self.below, number.__lt__, "below"),
        ]
        for limit, holds, words in limits:
            if limit is not None and holds(type(number)(limit)) is not True:
                return f"{words} {limit:g}"
        return None


class Further(TypedDict, total=False):
    """The fields of :class:`Limits`, and ``alone``: the value that a flag stands for when typed without one."""

    low: float
    above: float
    high: float
    below: float
    alone: str


def setting(
    default: Any,
    help: str,
    *,
    unit: str = "",
    choices: tuple[str, ...] = (),
    nothing: str = "none",
    check: Callable[[Any], object] | None = None,
    by_name: Callable[[Any], str] | None = None,
    **further: Unpack[Further],
) -> Any:
    """Declare a setting: its default, what it does, its unit, its :class:`Limits` and other properties.

    ``nothing`` is the word for None, if None is a value. ``check`` raises InputError for an invalid value other than
    None. ``by_name`` gives the name by which a function is recorded, if the setting accepts one.
    """
    metadata = {
        "help": help,
        "unit": unit,
        "limits": Limits(
            low=further.get("low"), above=further.get("above"), high=further.get("high"), below=further.get("below")
        ),
        "choices": choices,
        "nothing": nothing,
        "alone": further.get("alone"),
        "check": check,
        "by_name": by_name,
    }
    return field(default=default, metadata=metadata)


class Option(NamedTuple):
    """How the command line offers a keyword: ``Annotated[int | None, Option("Points …")]`` in a TypedDict.

    ``flag`` is its name if different from the keyword's (``--no-…`` negates the keyword). With ``many`` values, each
    has its own flag ("repeated"), or all are given at once ("commas"). ``shown`` is the placeholder for the value.
    ``names`` says what in the graph the value names, for completion: node, connection or space.
    """

    help: str
    default: Any = None
    shown: str | None = None
    flag: str | None = None
    many: str | None = None
    low: int | None = None
    names: str | None = None


def options_of(keywords: type) -> dict[str, tuple[type, Option]]:
    """Return the keywords of a TypedDict that are offered as options: the type to enter (bool, int, float, str), and
    how.

    If a keyword accepts several types, the first one is used.
    """
    found: dict[str, tuple[type, Option]] = {}
    for name, hint in get_type_hints(keywords, include_extras=True).items():
        option = next((part for part in getattr(hint, "__metadata__", ()) if isinstance(part, Option)), None)
        if option is not None:
            found[name] = next(kind for kind in _types_in(hint) if kind in (bool, int, float, str)), option
    return found


def words_of(keywords: type, given: Mapping[str, Any]) -> list[str]:
    """Return the words of a command line that say keywords of a TypedDict: ``["--max-barrier", "0.1"]``."""
    words: list[str] = []
    for name, (kind, option) in options_of(keywords).items():
        flag, value = option.flag or "--" + name.replace("_", "-"), given.get(name)
        if value is None or value == option.default:
            continue
        if kind is bool:
            words += [flag] if bool(value) != flag.startswith("--no-") else []
        else:
            several = value if option.many == "repeated" and not isinstance(value, str) else [value]
            words += [word for one in several for word in (flag, format_value(one))]
    return words


def _types_in(hint: Any) -> Iterator[Any]:
    yield hint
    for part in get_args(hint):
        yield from _types_in(part)


class SettingInfo(NamedTuple):
    """One setting, described for help texts and tables."""

    name: str
    kind: str
    default: Any
    help: str
    unit: str
    nothing: str = "none"
    choices: tuple[str, ...] = ()
    alone: str | None = None

    def example(self) -> str:
        """Return the default as it would be typed."""
        return format_value(self.default) or self.nothing


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of all settings: checked on construction, from strings or from Python values.

    ``presets`` are named groups of values, such as those that a paper published. ``renamed`` maps the names that
    settings had in earlier versions to today's.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType({})
    renamed: ClassVar[Mapping[str, str]] = MappingProxyType({})

    def __post_init__(self) -> None:
        hints = _hints(type(self))
        for f in fields(self):
            value = _coerce(f, hints[f.name], getattr(self, f.name))
            object.__setattr__(self, f.name, value)

    @classmethod
    def infos(cls) -> list[SettingInfo]:
        """List the settings in order."""
        hints = _hints(cls)
        return [
            SettingInfo(
                f.name,
                type_name(hints[f.name]),
                f.default,
                f.metadata["help"],
                f.metadata["unit"],
                f.metadata["nothing"],
                f.metadata["choices"],
                f.metadata["alone"],
            )
            for f in fields(cls)
        ]

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Build from names, including earlier ones, and values (strings as typed, or Python values).

        Raises InputError for an unknown name, listing the known ones, for an earlier name next to today's, and for a
        value out of range.
        """
        for old, new in cls.renamed.items():
            if old in values and new in values:
                raise InputError(f"{old} is the earlier name of {new}; give only {new}.")
        values = {cls.renamed.get(name, name): value for name, value in values.items()}
        known = [f.name for f in fields(cls)]
        for name in values:
            if name not in known:
                close = difflib.get_close_matches(name, known, 1)
                hint = f" Did you mean {close[0]}?" if close else ""
                raise InputError(f"There is no setting {name!r}; known are {', '.join(known)}.{hint}")
        return cls(**values)

    @classmethod
    def preset(cls, name: str, /, **changes: Any) -> Self:
        """Build from a preset and changes to it; raise InputError, listing the presets, if it does not exist."""
        if name not in cls.presets:
            known = ", ".join(cls.presets) or "none"
            close = difflib.get_close_matches(name, cls.presets, 1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise InputError(f"There is no preset {name!r} of {cls.__name__}; known are: {known}.{hint}")
        return cls.parse({**cls.presets[name], **changes})

    @classmethod
    def brought_up(cls, stored: Mapping[str, Any]) -> dict[str, Any]:
        """Return stored settings under today's names; settings that did not exist then have their defaults.

        Anything that is not one of the settings stays as it is.
        """
        return {f.name: f.default for f in fields(cls)} | {cls.renamed.get(k, k): v for k, v in stored.items()}

    def words(self) -> list[str]:
        """Return the words of a command line that say what differs from the defaults: ``["-s", "lr=0.1"]``."""
        changed = [f for f in fields(self) if getattr(self, f.name) != f.default]
        said = [f"{f.name}={format_value(getattr(self, f.name)) or f.metadata['nothing']}" for f in changed]
        return [word for one in said for word in ("-s", one)]

    def to_json(self) -> str:
        """Return every setting, including defaults, as JSON for the provenance."""
        return json.dumps({f.name: getattr(self, f.name) for f in fields(self)}, sort_keys=True)


_HINTS: WeakKeyDictionary[type, Mapping[str, Any]] = WeakKeyDictionary()


def _hints(cls: type) -> Mapping[str, Any]:
    """Return the types of a class's fields, which Python would evaluate anew each time it is asked."""
    if cls not in _HINTS:
        _HINTS[cls] = get_type_hints(cls)
    return _HINTS[cls]


def format_value(value: Any) -> str:
    """Return a value as it would be typed on the command line."""
    if isinstance(value, tuple | list):
        return ",".join(format_value(v) for v in value)
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _coerce(f: Field[Any], hint: Any, value: Any) -> Any:
    expected = type_name(hint)
    if callable(value) and f.metadata["by_name"] is not None:
        value = f.metadata["by_name"](value)
    try:
        value = convert(hint, _nothing(hint) if value == f.metadata["nothing"] else value)
    except (TypeError, ValueError, KeyError):
        raise InputError(f"{f.name} must be {expected}, not {format_value(value)!r}.") from None
    m = f.metadata
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, bool | str) or number is None:
            continue
        must_be = m["limits"].broken(number)
        if must_be is not None:
            raise InputError(f"{f.name} must be {must_be}, not {number}.")
    if m["choices"] and value is not None and value not in m["choices"]:
        raise InputError(f"{f.name} must be one of {', '.join(m['choices'])}, not {value!r}.")
    if m["check"] is not None and value is not None:
        m["check"](value)
    return value


def convert(hint: Any, value: Any) -> Any:
    """Convert a value, typed or not, to a type; raise TypeError, ValueError or KeyError if it does not fit."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None or value == "":
            return None
        return convert(next(a for a in arguments if a is not type(None)), value)
    if origin is tuple:
        parts = [p for p in value.split(",") if p] if isinstance(value, str) else list(value)
        inner = [arguments[0]] * len(parts) if arguments[-1] is ... else list(arguments)
        if len(inner) != len(parts):
            raise ValueError
        return tuple(convert(h, p) for h, p in zip(inner, parts, strict=True))
    if hint is bool:
        if isinstance(value, bool):
            return value
        return {"true": True, "false": False, "1": True, "0": False}[str(value).lower()]
    if hint is int:
        if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
            raise ValueError
        return int(value)
    if hint is float:
        number = float(value)
        if not math.isfinite(number):
            raise ValueError
        return number
    if not isinstance(value, str):
        raise TypeError
    return value


def _nothing(hint: Any) -> Any:
    """Return the meaning of the word for nothing: no value, or an empty tuple."""
    if get_origin(hint) is tuple:
        return ()
    return None if type(None) in get_args(hint) else "none"


@cache
def type_name(hint: Any) -> str:
    """Describe the values of a type in words: "a whole number", "numbers with commas"."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return type_name(next(a for a in arguments if a is not type(None))) + " or nothing"
    if origin is tuple:
        inner = {int: "whole numbers", float: "numbers", str: "words"}[arguments[0]]
        return f"{inner} with commas" if arguments[-1] is ... else f"{len(arguments)} {inner} with commas"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}[hint]
