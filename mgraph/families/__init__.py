"""Families: the shapes that connect modes, as coefficients over control points (no network, no data).

To add one, subclass :class:`Family` in a module of its own and list it in ``FAMILIES``.
"""

from __future__ import annotations

from typing import Any

from mgraph.errors import InputError
from mgraph.families.base import Family, Floats
from mgraph.families.curve import BezierCurveFamily
from mgraph.families.segment import Segment
from mgraph.families.surface import BezierSurfaceFamily

FAMILIES: dict[str, type[Family]] = {f.name: f for f in (Segment, BezierCurveFamily, BezierSurfaceFamily)}


def family_from(description: dict[str, Any]) -> Family:
    """Rebuild a family from :meth:`Family.describe`; InputError for a family this version lacks."""
    fields = dict(description)
    name = fields.pop("family")
    if name not in FAMILIES:
        raise InputError(f"This version knows no family {name!r}; it has {', '.join(FAMILIES)}.")
    return FAMILIES[name](**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})


__all__ = [
    "FAMILIES",
    "BezierCurveFamily",
    "BezierSurfaceFamily",
    "Family",
    "Floats",
    "Segment",
    "family_from",
]
