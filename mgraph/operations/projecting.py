"""Paths and nodes seen from a plane: their orthogonal projection on it, and how far from it they lie."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mgraph.errors import InputError
from mgraph.families import Family, Floats
from mgraph.families.gram import distance, gram
from mgraph.families.plane import PlaneFamily
from mgraph.session.members import label, rows_of
from mgraph.session.session import Session
from mgraph_store import Connection, Node

_ROUNDING = 1e-9  # a distance below this share of what is seen is rounding error: the point lies on the plane
_SAMPLES = 101  # of a path, besides its knots


@dataclass(frozen=True, eq=False)
class Trace:
    """Points beside a plane: where each is projected (``x``, ``y``), and its ``distance`` from there (L2 norm).

    All have shape (S,); ``t`` is the parameter of a path, and the number of a node. ``names`` are those of the nodes,
    empty for a path.
    """

    label: str
    t: Floats
    x: Floats
    y: Floats
    distance: Floats
    names: tuple[str, ...] = ()

    def rows(self) -> list[dict[str, Any]]:
        """Return every point as plain data."""
        columns = zip(self.t.tolist(), self.x.tolist(), self.y.tolist(), self.distance.tolist(), strict=True)
        return [{"of": self.label, "t": t, "x": x, "y": y, "distance": d} for t, x, y, d in columns]


def require_plane(session: Session, connection: Connection) -> PlaneFamily:
    """Return the family of a plane; InputError for another connection."""
    family = session.family_of(connection)
    if not isinstance(family, PlaneFamily):
        raise InputError(
            f"{label(connection)} is a {family.name}, on which no path is projected; make a plane: mgraph plane A B C"
        )
    return family


def project_path(session: Session, plane: Connection, path: Connection) -> Trace:
    """Project a path on a plane. Raises InputError for a connection that is no path, and for one of another space."""
    family, own = require_plane(session, plane), session.family_of(path)
    if own.dimension != 1:
        raise InputError(f"{label(path)} is a {own.name}, not a path; only paths are projected on a plane.")
    if path.space_id != plane.space_id:
        raise InputError(
            f"{label(path)} and the plane {label(plane)} are of different spaces, between which there is no distance."
        )
    with session.store.reading() as reader:
        basis, nodes = rows_of(reader, plane), rows_of(reader, path)
    t = np.union1d(np.linspace(0.0, 1.0, _SAMPLES), own.knots)
    return _traced(session, label(path), family, basis, (nodes, _along(own, t)), t)


def project_nodes(session: Session, plane: Connection) -> Trace | None:
    """Project the nodes that span a plane of principal components, in order; None for another plane."""
    family = require_plane(session, plane)
    with session.store.reading() as reader:
        basis = rows_of(reader, plane)
    if json.loads(plane.settings).get("how") != "pca":
        return None
    found = _traced(session, "nodes", family, basis, (basis, np.eye(len(basis))), np.arange(len(basis), dtype=float))
    return Trace(found.label, found.t, found.x, found.y, found.distance, tuple(label(node) for node in basis))


def _along(family: Family, t: Floats) -> Floats:
    """Return the coefficients of a path, which may be a simplex of two modes."""
    return family.coefficients(t[:, None] if family.coordinates == 1 else np.stack([1.0 - t, t], axis=1))


def _traced(
    session: Session,
    name: str,
    plane: PlaneFamily,
    basis: Sequence[Node],
    seen: tuple[Sequence[Node], Floats],
    t: Floats,
) -> Trace:
    nodes, coefficients = seen
    known = {node.id: node for node in (*basis, *nodes)}
    place = {node_id: i for i, node_id in enumerate(known)}
    G = gram([session.points.read(node) for node in known.values()])

    def over_all(rows: Sequence[Node], c: Floats) -> Floats:
        full = np.zeros((len(c), len(place)))
        for column, node in zip(c.T, rows, strict=True):
            full[:, place[node.id]] += column
        return full

    points = over_all(nodes, coefficients)
    low = np.array([plane.x[0], plane.y[0]])
    corner, directions = over_all(basis, plane.coefficients([[0.0, 0.0]])), over_all(basis, plane.directions())
    # Directions are orthogonal up to rounding, but need not have length 1: multiples of a random one have not.
    across = np.linalg.solve(directions @ G @ directions.T, directions @ G @ (points - corner).T).T
    away = distance(G, points, corner + across @ directions)
    x, y = (across + low).T
    away = np.where(away <= _ROUNDING * max(np.ptp(x), np.ptp(y)), 0.0, away)
    return Trace(name, t, x, y, away)
