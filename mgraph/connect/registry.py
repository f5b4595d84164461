"""Names of methods → methods: what is listed here appears in the command line, the docs and the store."""

from __future__ import annotations

import difflib

from mgraph.connect.base import Method
from mgraph.connect.linear import Linear, Simplex
from mgraph.connect.llpf import LLPF
from mgraph.connect.neb import NudgedElasticBand
from mgraph.connect.path import BezierCurve, PolygonalChain
from mgraph.connect.surface import BezierSurface
from mgraph.errors import InputError

METHODS: dict[str, type[Method]] = {
    m.name: m for m in (Linear, Simplex, PolygonalChain, BezierCurve, BezierSurface, NudgedElasticBand, LLPF)
}


def method_named(name: str) -> type[Method]:
    """Return the method of that name; InputError listing the known ones otherwise."""
    if name not in METHODS:
        close = difflib.get_close_matches(name, METHODS, 1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise InputError(f"There is no method {name!r}; known are {', '.join(METHODS)}.{hint}")
    return METHODS[name]
