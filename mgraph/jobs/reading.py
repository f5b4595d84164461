"""Convert typed fields to JSON and back: what is read has the type that its field declares, or is refused."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from mgraph.errors import CorruptError, InputError, UntrustedError
from mgraph.factories import names_code
from mgraph.methods.base import Method
from mgraph.methods.own import typed_here
from mgraph.methods.registry import METHODS, method_named
from mgraph.settings import Settings
from mgraph.trust import NAMED, speaker

T = TypeVar("T")

_WORDS = {str: "a text", bool: "true or false", int: "a whole number", float: "a finite number", tuple: "a list"}


def written(value: Any) -> Any:
    """Return a field's value as JSON has it; InputError for one that cannot be written, such as a function."""
    if isinstance(value, Method):
        return {"name": _name_of(value), "settings": _named(value)}
    if is_dataclass(value) and not isinstance(value, type):
        return _named(value)
    if isinstance(value, tuple | list):
        return [written(part) for part in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise InputError(f"{value!r} cannot be written down; name it by where it is: file.py:name or package.module:name.")


def read(kind: type[T], document: Any, where: str) -> T:
    """Build a dataclass from a mapping of its fields; missing ones have their defaults.

    Raises CorruptError, naming the field, for one that is required, unknown, or not of its type, and InputError for a
    value that the dataclass itself refuses.
    """
    if not isinstance(document, dict):
        raise CorruptError(f"{where} must be an object with fields, not {shown(document)}.")
    hints = get_type_hints(kind)
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    for name in document:
        if name not in known:
            raise CorruptError(f"{where} has a field {shown(name)}; known are {', '.join(known)}.")
    for name, f in known.items():
        if name not in document and f.default is MISSING and f.default_factory is MISSING:
            raise CorruptError(f"{where} has no {name}.")
    return kind(**{name: _value(hints[name], value, f"{where}: {name}") for name, value in document.items()})


def _named(value: Any) -> dict[str, Any]:
    return {f.name: written(getattr(value, f.name)) for f in fields(value)}


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _value(next(a for a in arguments if a is not type(None)), value, where)
    if hint is Any:  # an object, or its name: only names can be read
        hint = str
    if origin is tuple:
        if not isinstance(value, list):
            raise _wrong(tuple, value, where)
        inner = [arguments[0]] * len(value) if arguments[-1] is ... else list(arguments)
        if len(inner) != len(value):
            raise CorruptError(f"{where} must be a list of {len(inner)}, not of {len(value)}.")
        return tuple(_value(h, part, where) for h, part in zip(inner, value, strict=True))
    if isinstance(hint, type) and issubclass(hint, Method):
        return _method(value, where)
    if isinstance(hint, type) and issubclass(hint, Settings):
        return hint.parse(_settings(value, where))
    if isinstance(hint, type) and is_dataclass(hint):
        return read(hint, value, where)
    if hint is float and type(value) is int:
        value = float(value) if abs(value) < 2**53 else math.inf
    if type(value) is not hint or (hint is float and not math.isfinite(value)):
        raise _wrong(hint, value, where)
    return value


def can_be_named(method: Method) -> bool:
    """Whether the class of a method can be found again by a name."""
    return METHODS.get(method.name) is type(method) or typed_here(method) is not None


def _name_of(method: Method) -> str:
    if METHODS.get(method.name) is type(method):
        return method.name
    own = typed_here(method)
    if own is None:
        raise InputError(f"The method {method.name} is defined where it cannot be found again; put it into a file.")
    return own


def _method(value: Any, where: str) -> Method:
    if not isinstance(value, dict) or set(value) != {"name", "settings"} or not isinstance(value["name"], str):
        raise CorruptError(f"{where} must be a name and settings, not {shown(value)}.")
    if names_code(value["name"]) and speaker() is NAMED:  # reading a text runs nothing; a graph needs consent
        raise UntrustedError(
            f"{where} is code, {shown(value['name'])}, which reading a job does not run; make the job in Python."
        )
    return method_named(value["name"]).parse(_settings(value["settings"], where))


def _settings(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise CorruptError(f"{where} must be settings by name, not {shown(value)}.")
    return value


def _wrong(hint: Any, value: Any, where: str) -> CorruptError:
    return CorruptError(f"{where} must be {_WORDS[hint]}, not {shown(value)}.")


def shown(value: Any) -> str:
    """Return a value in a form that fits into a sentence, however long it is."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
