"""Methods that join two modes, from the cheapest to the dearest, as far as there are any (no torch)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mgraph.errors import InputError
from mgraph.methods.base import Method
from mgraph.methods.registry import METHODS, method_named

LADDER = ("linear", "curve", "chain", "neb", "llpf")
MAX_SECONDS = "max_seconds"
"""The setting by which a method is told how much time it may take."""

_PRESET = "quick"  # of methods that have one: made for trying


def ladder(settings: Mapping[str, Any] | None = None, names: Sequence[str] | None = None) -> list[Method]:
    """Return the methods to try, in order; ``names`` instead of all.

    A setting goes to every method that has it. Raises InputError for one that none has, and for an unknown method.
    """
    chosen = [method_named(name) for name in names] if names else [METHODS[name] for name in LADDER if name in METHODS]
    given = dict(settings or {})
    known = {cls: {info.name for info in cls.infos()} for cls in chosen}
    for key in given:
        if not any(key in fields for fields in known.values()):
            methods, settings_known = (cls.name for cls in chosen), sorted(set().union(*known.values()))
            raise InputError(
                f"There is no setting {key!r} of {', '.join(methods)}; known are {', '.join(settings_known)}."
            )
    return [
        cls.parse({**cls.presets.get(_PRESET, {}), **{key: value for key, value in given.items() if key in known[cls]}})
        for cls in chosen
    ]


def within(method: Method, seconds: float) -> Method:
    """Return the method with that time to end in, if it takes any and was not told less."""
    if not any(info.name == MAX_SECONDS for info in method.infos()):
        return method
    given = getattr(method, MAX_SECONDS)
    return replace(method, **{MAX_SECONDS: seconds if given is None else min(given, seconds)})
