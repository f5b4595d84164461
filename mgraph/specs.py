"""Spec strings: ``name?key=value&key=a,b`` names an architecture or a data set with its parameters (torch-free).

A value is parsed as a whole number, a number, true/false, a comma-separated list of those, or else a word. ``%XX``
stands for a byte, as in URLs: it encodes characters that have a meaning here and keeps a word like ``%374`` ("74") a
word. The canonical form sorts the keys, so that two ways to write the same thing compare equal.
"""

from __future__ import annotations

import ast
import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args
from urllib.parse import unquote

from typing_extensions import override

from mgraph.builtin import ARCHITECTURES, DATASETS, BuiltIn
from mgraph.errors import InputError, NotFoundError
from mgraph.settings import convert, type_name

Scalar = int | float | bool | str
Value = Scalar | tuple[Scalar, ...]

LIVE = "object"
"""The prefix for Python objects that exist in no file: :mod:`mgraph.session.objects`."""

# What may stand before a colon without naming a factory.
PREFIXES = frozenset(entry.name for entry in (*ARCHITECTURES.values(), *DATASETS.values()) if entry.argument) | {
    "torchmetrics",
    LIVE,
}

_INT = re.compile(r"[+-]?[0-9]+")
_FLOAT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, eq=False)
class Spec:
    """A name and its parameters. Equal specs have the same canonical string."""

    name: str
    params: Mapping[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name:
            raise InputError("A spec needs a name, as in 'cnn?channels=16,32'.")
        for key, value in self.params.items():
            if not _KEY.fullmatch(key):
                raise InputError(f"{key!r} is not a parameter name; use letters, digits and _, as in 'hidden=64'.")
            for part in value if isinstance(value, tuple) else (value,):
                if not isinstance(part, int | float | str) or (isinstance(value, tuple) and part == ""):
                    raise InputError(f"Parameter {key} cannot be {value!r}; use numbers, words or lists of them.")
                if isinstance(part, float) and not math.isfinite(part):
                    raise InputError(f"Parameter {key} must be finite, not {part}.")

    @classmethod
    def parse(cls, text: str | Spec) -> Spec:
        """Parse a spec; raise InputError, saying what is wrong, if it does not have the form ``name?key=value&…``."""
        if isinstance(text, Spec):
            return text
        name, question, query = text.strip().partition("?")
        if not name:
            raise InputError(f"The spec {text!r} has no name; write it like 'cnn?channels=16,32&hidden=64'.")
        params: dict[str, Value] = {}
        for item in query.split("&") if question else []:
            key, equals, raw = item.partition("=")
            if not equals or not _KEY.fullmatch(key):
                raise InputError(f"In the spec {text!r}, {item!r} is not key=value; write it like 'hidden=64'.")
            if key in params:
                raise InputError(f"The spec {text!r} gives {key} twice; give it once.")
            params[key] = _read_value(raw, text)
        return cls(unquote(name), params)

    @override
    def __str__(self) -> str:
        """Write the canonical form, which :meth:`parse` reads back."""
        name = _quote(self.name, "?")
        items = [f"{key}={_write_value(self.params[key])}" for key in sorted(self.params)]
        return f"{name}?{'&'.join(items)}" if items else name

    @override
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spec) and str(self) == str(other)

    @override
    def __hash__(self) -> int:
        return hash(str(self))

    @property
    def prefix(self) -> str:
        """The part before the first colon: the name by which a built-in is registered."""
        return self.name.partition(":")[0]

    @property
    def argument(self) -> str:
        """The part after the first colon, as in ``npz:FILE``; empty if there is none."""
        return self.name.partition(":")[2]

    @property
    def is_factory(self) -> bool:
        """Whether the name is ``package.module:factory`` or ``file.py:factory``."""
        return ":" in self.name and self.prefix not in PREFIXES


def bind(entry: BuiltIn, spec: Spec) -> dict[str, Any]:
    """Convert a spec's parameters to the types that a built-in declares; InputError for an unknown or invalid one."""
    if bool(entry.argument) != bool(spec.argument):
        raise InputError(f"{spec.name!r} is not the way to name {entry.name}; write {entry.usage}.")
    known = {p.name: p for p in entry.params}
    for key in spec.params:
        if key not in known and not entry.further:
            raise unknown_parameter(key, entry.usage, known)
    return {key: fitted(key, known[key].hint, value) if key in known else value for key, value in spec.params.items()}


def look_up(
    spec: Spec,
    registry: Mapping[str, BuiltIn],
    what: str,
    elsewhere: Callable[[str], str | None] = lambda _: None,
) -> BuiltIn:
    """Find a built-in by a spec's name; raise NotFoundError with similar names and those that exist.

    ``elsewhere`` returns the spec of what other libraries know by such a name.
    """
    if spec.prefix not in registry:
        kind = spec.name.rpartition(".")[2]  # of a file that is given without saying so: digits.npz for npz:digits.npz
        hint = without_function(spec.name)
        if "." in spec.name and kind in registry and registry[kind].argument:
            hint = f" did you mean {f'{kind}:{spec.name}'!r}?"
        elif not hint:
            other = elsewhere(spec.name)
            hint = suggestion(spec.prefix, registry) if other is None else f" did you mean {other!r}?"
        known = ", ".join(entry.usage for entry in registry.values())
        raise NotFoundError(
            f"There is no {what} {spec.name!r};{hint} there are {known}, and factories as file.py:name or "
            f"package.module:name."
        )
    return registry[spec.prefix]


def without_function(name: str) -> str:
    """Return `` did you mean 'model.py:net'?`` for a file or a module without the function in it; else nothing.

    The file is read, relative to the working directory, and not run.
    """
    if not name.endswith(".py") and not _MODULE.fullmatch(name):
        return ""
    functions = _functions_in(Path(name)) if name.endswith(".py") else []
    meant = [repr(f"{name}:{function}") for function in functions[:3]]
    if len(meant) < 2:
        return f" did you mean {meant[0] if meant else repr(f'{name}:FUNCTION')}?"
    return f" did you mean {', '.join(meant[:-1])} or {meant[-1]}?"


def _functions_in(path: Path) -> list[str]:
    """List the functions and classes at the top of a file; none if it cannot be read."""
    try:
        tree = ast.parse(path.expanduser().read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    kinds = (ast.FunctionDef, ast.ClassDef)
    return [node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]


def unknown_parameter(key: str, owner: str, known: Iterable[str]) -> InputError:
    """Make the error for a parameter that ``owner`` does not have."""
    names = list(known)
    listed = f"it has {', '.join(names)}" if names else "it has none"
    return InputError(f"{owner} has no parameter {key!r};{suggestion(key, names)} {listed}.")


def suggestion(text: str, known: Iterable[str]) -> str:
    """Return `` did you mean …?`` for a close match, else nothing."""
    close = difflib.get_close_matches(text, list(known), 1)
    return f" did you mean {close[0]!r}?" if close else ""


def fitted(name: str, declared: Any, value: Value) -> Any:
    """Parse a parameter's value as typed, with the converter of all settings; None is not a value in a spec.

    Raises InputError for a value that does not fit the declared type.
    """
    hint = next((h for h in get_args(declared) if h is not type(None)), declared)
    hint = hint if type(None) in get_args(declared) else declared
    text = _write_plain(value)
    try:
        if hint is bool and not isinstance(value, bool):
            raise ValueError
        return convert(hint, text)
    except (TypeError, ValueError, KeyError):
        raise InputError(f"{name} must be {type_name(hint)}, not {text!r}.") from None


def _read_value(raw: str, text: str) -> Value:
    if "," not in raw:
        return _read_scalar(raw)
    parts = raw.removesuffix(",").split(",") if raw != "," else []
    if "" in parts:
        raise InputError(f"The spec {text!r} has an empty place in the list {raw!r}; fill it or remove a comma.")
    return tuple(_read_scalar(part) for part in parts)


def _read_scalar(raw: str) -> Scalar:
    if raw in ("true", "false"):
        return raw == "true"
    if _INT.fullmatch(raw) and len(raw) < 4000:  # int() refuses longer ones
        return int(raw)
    if _FLOAT.fullmatch(raw) and math.isfinite(float(raw)):
        return float(raw)
    return unquote(raw)


def _write_value(value: Value) -> str:
    if isinstance(value, tuple):
        # A trailing comma distinguishes a list of one, and the empty list, from a single value.
        return ",".join(map(_write_scalar, value)) + ("," if len(value) < 2 else "")
    return _write_scalar(value)


def _write_scalar(value: Scalar) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return repr(value)
    quoted = _quote(value, "&,")
    if isinstance(_read_scalar(quoted), str):
        return quoted
    return _escape(value[0]) + _quote(value[1:], "&,")


def _write_plain(value: Value) -> str:
    parts = value if isinstance(value, tuple) else (value,)
    return ",".join(str(p).lower() if isinstance(p, bool) else str(p) for p in parts)


def _quote(text: str, special: str) -> str:
    return "".join(_escape(c) if c == "%" or c in special or c.isspace() else c for c in text)


def _escape(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode())
