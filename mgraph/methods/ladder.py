"""The methods that join two modes, cheapest first (no torch)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mgraph.errors import InputError
from mgraph.methods.base import Method
from mgraph.methods.registry import METHODS, method_named

LADDER = ("linear", "curve", "chain", "neb", "llpf")
MAX_SECONDS = "max_seconds"
"""The setting that limits how much time a method may take."""

_PRESET = "quick"  # used where a method has it: meant for quick trials


def ladder(settings: Mapping[str, Any] | None = None, names: Sequence[str] | None = None) -> list[Method]:
    """Return the methods to try, in order: all of them, or only ``names``.

    Each setting goes to every method that has it. Raises InputError for a setting that no method has, and for an
    unknown method.
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
    """Return the method with at most ``seconds`` of time, if it has such a setting and was not given a shorter one."""
    if not any(info.name == MAX_SECONDS for info in method.infos()):
        return method
    given = getattr(method, MAX_SECONDS)
    return replace(method, **{MAX_SECONDS: seconds if given is None else min(given, seconds)})
