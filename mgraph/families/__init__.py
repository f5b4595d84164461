"""Families: the shapes that connect modes, as coefficients over control points (no network, no data).

To add one, subclass :class:`Family` (or :class:`BentPath` for a path) in a new module and list it in ``FAMILIES``.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from mgraph.errors import InputError
from mgraph.families.base import Family
from mgraph.families.chain import PolygonalChainFamily
from mgraph.families.composite import CompositePath
from mgraph.families.curve import BezierCurveFamily
from mgraph.families.grid import Floats, Grid, SimplexGrid, TensorGrid
from mgraph.families.own import OwnFamily
from mgraph.families.path import BentPath
from mgraph.families.plane import PlaneFamily
from mgraph.families.segment import Segment
from mgraph.families.simplex import SimplexFamily
from mgraph.families.surface import BezierSurfaceFamily
from mgraph_store.rows.limits import FAMILY_POINTS, POLYNOMIAL_POINTS, SIMPLEX_CORNERS

FAMILIES: dict[str, type[Family]] = {
    f.name: f
    for f in (
        Segment,
        SimplexFamily,
        PolygonalChainFamily,
        BezierCurveFamily,
        BezierSurfaceFamily,
        CompositePath,
        PlaneFamily,
    )
}


def family_from(description: dict[str, Any]) -> Family:
    """Rebuild a family from :meth:`Family.describe`; raise InputError for a family or field unknown to this version.

    For a user's own family no code is run: it has its shape, but no coefficients yet (:class:`OwnFamily`).
    """
    if isinstance(name := description.get("family"), str) and ":" in name:
        return OwnFamily.from_description(description)
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in description.items()}
    name = values.pop("family", None)
    if name not in FAMILIES:
        raise InputError(f"This version does not know the family {name!r}; it has {', '.join(FAMILIES)}.")
    known = [field.name for field in fields(FAMILIES[name])]
    for field in values:
        if field not in known:
            raise InputError(
                f"This version does not know {field!r} of a {name}; it has {', '.join(known) or 'no settings'}."
            )
    family = FAMILIES[name].from_description(values)
    if family.size > most_points(name):
        raise InputError(
            f"A {name} of {family.size} control points is not built: there are at most {most_points(name)}."
        )
    return family


def most_points(name: str) -> int:
    """Return how many control points a family may have (:mod:`mgraph_store.rows.limits`)."""
    if name == SimplexFamily.name:
        return SIMPLEX_CORNERS
    polynomial = name in (BezierCurveFamily.name, BezierSurfaceFamily.name)
    return POLYNOMIAL_POINTS if polynomial else FAMILY_POINTS


__all__ = [
    "FAMILIES",
    "BentPath",
    "BezierCurveFamily",
    "BezierSurfaceFamily",
    "CompositePath",
    "Family",
    "Floats",
    "Grid",
    "OwnFamily",
    "PlaneFamily",
    "PolygonalChainFamily",
    "Segment",
    "SimplexFamily",
    "SimplexGrid",
    "TensorGrid",
    "family_from",
]
