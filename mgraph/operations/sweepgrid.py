"""The points of a sweep whose coefficients are products of one factor for each parameter, to be stored as such."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mgraph.families import Family, Floats, Grid
from mgraph.families.grid import TensorGrid
from mgraph.query.sweepdata import parameter_keys
from mgraph_store import Node
from mgraph_store.rows.blocks import GRID_TERMS
from mgraph_store.rows.ids import random_characters
from mgraph_store.rows.records import GridTerm, PointGrid

_WORTH = 2  # points for each coordinate, from which on a grid takes less room than lists


@dataclass(frozen=True)
class FactoredGrid:
    """A grid with the factors of its points' coefficients, and the places of those points for which it is used."""

    grid: PointGrid
    terms: tuple[GridTerm, ...]
    places: Mapping[tuple[float, ...], int]

    @classmethod
    def of(
        cls,
        family: Family,
        grid: Grid,
        coefficients: Floats,
        nodes: Sequence[Node],
        there: Container[tuple[float, ...]],
    ) -> FactoredGrid | None:
        """Describe a grid of a family, whose control points are the nodes, for those of its points that are not there.

        They are the points at which no coefficient is 0, and each is its product bit for bit. None if they are few.
        """
        if not isinstance(grid, TensorGrid) or len(grid.axes) != 2 or len(nodes) > GRID_TERMS:
            return None
        factors = family.factors(grid.axes)
        if factors is None:
            return None
        (u, v), (along_u, along_v) = grid.axes, factors
        keys = parameter_keys(grid.points)
        fits = _are_products(coefficients, along_u, along_v).tolist()
        places = {key: place for place, key in enumerate(keys) if fits[place] and key not in there}
        if len(places) <= _WORTH * (len(u) + len(v)):
            return None
        made = PointGrid("q" + random_characters(12), u.tolist(), v.tolist())
        terms = [
            GridTerm(made.id, k, node.id, along_u[:, k].tolist(), along_v[:, k].tolist())
            for k, node in enumerate(nodes)
        ]
        return cls(made, tuple(terms), places)


def _are_products(coefficients: Floats, along_u: Floats, along_v: Floats) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Return for which points of a grid, shape (S,), all coefficients are exactly these products, and none is 0."""
    found = np.empty(len(coefficients), np.bool_)
    for i, row in enumerate(along_u):  # one after the other, because there may be millions of points
        part = slice(i * len(along_v), (i + 1) * len(along_v))
        these, products = np.ascontiguousarray(coefficients[part]), row * along_v
        same = these.view(np.int64) == products.view(np.int64)
        found[part] = (same & (these != 0)).all(axis=1)
    return found
