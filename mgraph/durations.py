"""Lengths of time as people write them: ``2h``, ``1h30m``, ``45s``."""

from __future__ import annotations

import math
import re

from mgraph.errors import InputError

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)([dhms])")


def seconds(given: str | float) -> float:
    """Parse a length of time above 0: a number of seconds, or parts with units, ``90``, ``30m``, ``1h30m``, ``1.5h``.

    Raises InputError for anything else.
    """
    value = _parsed("".join(given.split()).lower()) if isinstance(given, str) else float(given)
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"A duration is a number above 0 with units, such as 2h, 1h30m or 90s; got {given!r}.")
    return value


def _parsed(text: str) -> float:
    parts = _PART.findall(text)
    units = [unit for _, unit in parts]
    if parts and "".join(number + unit for number, unit in parts) == text and len(set(units)) == len(units):
        return sum(float(number) * _UNITS[unit] for number, unit in parts)
    try:
        return float(text)
    except ValueError:
        return math.nan


def spoken(length: float) -> str:
    """Write a number of seconds as people would, with at most two units."""
    if length < 60:
        return f"{length:.2g} s" if length < 10 else f"{length:.0f} s"
    for unit, smaller in (("d", "h"), ("h", "m"), ("m", "s")):
        if length >= _UNITS[unit]:
            whole, rest = divmod(round(length / _UNITS[smaller]), round(_UNITS[unit] / _UNITS[smaller]))
            return f"{whole} {unit} {rest} {smaller}" if rest else f"{whole} {unit}"
    raise AssertionError
