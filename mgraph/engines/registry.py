"""Engines by their spec strings: none, ``local:2``, ``ray``, ``ray:4``."""

from __future__ import annotations

from mgraph.engines.base import Engine, Here
from mgraph.errors import InputError

KNOWN = "local:N (N processes here) and ray or ray:N (a Ray cluster, at most N at once)"


def check_engine(spec: str | None) -> tuple[str, int | None]:
    """Take a spec apart: its name and number of places; InputError, listing the known ones, if it is none."""
    if spec is None or spec == "none":
        return "none", 1
    name, colon, number = spec.partition(":")
    if name not in ("local", "ray"):
        raise InputError(f"There is no engine {spec!r}; known are {KNOWN}.")
    if not colon and name == "ray":
        return name, None
    if not number.isdecimal() or int(number) < 1:
        raise InputError(f"An engine has at least 1 worker, as in {name}:2, not {spec!r}.")
    return name, int(number)


def open_engine(spec: str | None, device: str = "auto") -> Engine:
    """Start an engine; calls will compute on ``device``. InputError if it is unknown or cannot be had."""
    name, places = check_engine(spec)
    if name == "ray":
        from mgraph.engines.ray import Ray

        return Ray(places, device)
    if name == "local":
        from mgraph.engines.local import Local

        return Local(places or 1)
    return Here()
