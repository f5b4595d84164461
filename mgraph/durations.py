"""Lengths of time as people write them: ``2h``, ``1h30m``, ``45s``."""

from __future__ import annotations

import math
import re

from mgraph.errors import InputError

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_PARTS = re.compile(r"(\d+(?:\.\d+)?)([dhms])")


def seconds(text: str | float) -> float:
    """Return a length of time in seconds; a bare number is one. InputError if it is none."""
    if not isinstance(text, str):
        return float(text)
    whole = text.replace(" ", "").lower()
    parts = _PARTS.findall(whole)
    if parts and "".join(number + unit for number, unit in parts) == whole:
        return sum(float(number) * _UNITS[unit] for number, unit in parts)
    try:
        number = float(whole)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"A length of time is written like 2h, 1h30m, 45s or 90 (seconds), not {text!r}.")
    return number


def spoken(length: float) -> str:
    """Write a number of seconds as people would: two units at most."""
    if length < 60:
        return f"{length:.2g} s" if length < 10 else f"{length:.0f} s"
    for unit, smaller in (("d", "h"), ("h", "m"), ("m", "s")):
        if length >= _UNITS[unit]:
            whole, rest = divmod(round(length / _UNITS[smaller]), round(_UNITS[unit] / _UNITS[smaller]))
            return f"{whole} {unit} {rest} {smaller}" if rest else f"{whole} {unit}"
    raise AssertionError
