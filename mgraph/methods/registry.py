"""Methods by name: those listed here appear in the command line, the docs and the store."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mgraph.errors import InputError
from mgraph.factories import names_code
from mgraph.methods.base import Method
from mgraph.methods.curves.path import BezierCurve, PolygonalChain
from mgraph.methods.curves.surface import BezierSurface
from mgraph.methods.linear import Linear, Simplex
from mgraph.methods.llpf.method import LLPF
from mgraph.methods.neb.method import NudgedElasticBand
from mgraph.specs import without_function

if TYPE_CHECKING:
    from mgraph.query.observed import Observation
    from mgraph.query.sweepdata import SweepData

METHODS: dict[str, type[Method]] = {
    m.name: m for m in (Linear, Simplex, PolygonalChain, BezierCurve, BezierSurface, NudgedElasticBand, LLPF)
}


def tables_of(method: type[Method] | None, series: Sequence[Observation], data: SweepData | None) -> dict[str, Any]:
    """Return the tables of every method, filled in by ``method``; all are empty if None, when its class is missing."""
    tables = {name: table for method in METHODS.values() for name, table in method.describe((), None).items()}
    return tables if method is None else tables | method.describe(series, data)


def method_named(name: str) -> type[Method]:
    """Return the method of that name, or the user's own, ``file.py:Class``, by running its code.

    Raises InputError, listing the known methods, for any other name, and UntrustedError for code that may not run.
    """
    if names_code(name):
        from mgraph.methods.own import method_from

        return method_from(name, tuple(METHODS))
    if name not in METHODS:
        close = difflib.get_close_matches(name, METHODS, 1)
        hint = f" Did you mean {close[0]}?" if close else without_function(name).replace(" d", " D", 1)
        raise InputError(f"There is no method {name!r}; known are {', '.join(METHODS)}.{hint}")
    return METHODS[name]
