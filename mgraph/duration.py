"""Lengths of time as people write them."""

from __future__ import annotations

import math
import re

from mgraph.errors import InputError

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([smh])")


def seconds(given: str | float) -> float:
    """Read a length of time above 0: a number of seconds, or parts with units, ``90``, ``30m``, ``1h30m``, ``1.5h``.

    Raises InputError for anything else.
    """
    value = _parsed(given.strip().lower()) if isinstance(given, str) else float(given)
    if not (math.isfinite(value) and value > 0):
        raise InputError(
            f"A length of time is a number above 0 with unit s, m or h, such as 90s, 30m or 1h30m; got {given!r}."
        )
    return value


def _parsed(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        parts = _PART.findall(text)
        units = [unit for _, unit in parts]
        whole = "".join(text.split()) == "".join(number + unit for number, unit in parts)
        if not parts or not whole or len(set(units)) < len(units):
            return math.nan
        return sum(float(number) * _UNITS[unit] for number, unit in parts)


def spoken(value: float) -> str:
    """Write a length of time briefly: 0.4 s, 12 s, 3 min, 1.5 h."""
    if value < 120:
        return f"{value:.2g} s" if value < 10 else f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"
