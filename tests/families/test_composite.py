"""Composite paths: pieces of other families joined at control points, whatever the pieces and directions."""

from __future__ import annotations

import os
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgraph.errors import InputError
from mgraph.families import (
    BezierCurveFamily,
    BezierSurfaceFamily,
    CompositePath,
    Family,
    PolygonalChainFamily,
    Segment,
    SimplexFamily,
    family_from,
)
from mgraph.families.composite import Piece, path_waypoints
from mgraph.families.gram import arc_length, distance, gram
from mgraph.families.refit import is_exact
from mgraph.operations.composing import thinned

PATHS: list[Family] = [
    Segment(),
    SimplexFamily(2),
    BezierCurveFamily(1),
    BezierCurveFamily(3),
    PolygonalChainFamily(2),
    PolygonalChainFamily(2, (0.1, 0.7)),
]
AREAS: list[tuple[Family, list[tuple[float, ...]]]] = [
    (BezierSurfaceFamily((2, 2)), [(0.0, 0.0), (0.0, 0.5), (0.25, 1.0), (1.0, 1.0)]),
    (BezierSurfaceFamily((1, 3)), [(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)]),
    (SimplexFamily(3), [(1.0, 0.0, 0.0), (0.5, 0.25, 0.25), (0.0, 0.0, 1.0)]),
]


@st.composite
def composites(draw: Any) -> CompositePath:
    """One to four pieces in either direction; the first joint's surface may be used twice."""
    pieces: list[Piece] = []
    size = 0
    joint: int | None = None
    for _ in range(draw(st.integers(1, 4))):
        if draw(st.booleans()):
            family = draw(st.sampled_from(PATHS))
            ways = path_waypoints(family, backwards=draw(st.booleans()))
        else:
            family, points = draw(st.sampled_from(AREAS))
            ways = tuple(points[:: draw(st.sampled_from([1, -1]))])
        start = int(np.argmax(family.coefficients([ways[0]])[0]))
        rows = []
        for k in range(family.size):
            if k == start and joint is not None:
                rows.append(joint)
            else:
                rows.append(size)
                size += 1
        pieces.append(Piece(family, tuple(rows), ways))
        joint = pieces[-1].goal
    steps = sum(len(p.waypoints) - 1 for p in pieces)
    lengths = draw(st.lists(st.sampled_from([0.1, 1.0, 2.5]), min_size=steps, max_size=steps))
    return CompositePath.by_length(pieces, lengths)


MANY = int(os.environ.get("MGRAPH_EXAMPLES", "1"))  # so many times more of them: make stress
many = settings(max_examples=20 * MANY, deadline=None)
some = settings(max_examples=10 * MANY, deadline=None)


@many
@given(composites())
def test_joints_are_reached_bit_for_bit_from_both_sides(path: CompositePath) -> None:
    joints = [path.ends[0], *path.joints, path.ends[1]]
    t = np.array([0.0, *path.joint_parameters, 1.0])
    np.testing.assert_array_equal(path.coefficients(t[:, None]), np.eye(path.size)[joints])
    near = path.coefficients(np.clip(t - 1e-9, 0, 1)[:, None])
    np.testing.assert_allclose(near, np.eye(path.size)[joints], atol=1e-6)
    for piece, (left, right) in zip(path.pieces, pairwise(t), strict=True):
        inside = path.coefficients(np.linspace(left, right, 7)[:, None])
        outside = np.setdiff1d(np.arange(path.size), piece.rows)
        assert not inside[:, outside].any()


@many
@given(composites())
def test_waypoints_are_the_pieces_own_points(path: CompositePath) -> None:
    knots = iter(path.knots)
    for piece in path.pieces:
        t = [next(knots) for _ in piece.waypoints[1:]]
        c = path.coefficients(np.array(t)[:, None])[:, list(piece.rows)]
        np.testing.assert_array_equal(c, piece.family.coefficients(piece.waypoints[:-1]))


@many
@given(composites(), st.data())
def test_derivatives_are_finite_differences_between_waypoints(path: CompositePath, data: st.DataObject) -> None:
    step = data.draw(st.integers(0, len(path.knots) - 2))
    left, right = path.knots[step : step + 2]
    t, h = left + (right - left) * np.array([[0.2], [0.6]]), 1e-6 * (right - left)
    difference = (path.coefficients(t + h) - path.coefficients(t - h)) / (2 * h)
    np.testing.assert_allclose(path.derivatives(t)[:, 0], difference, rtol=1e-5, atol=1e-5)
    # At a waypoint from the right, at the end from the left.
    start = path.derivatives([[left]])[0, 0]
    forward = (path.coefficients([[left + h]]) - path.coefficients([[left]]))[0] / h
    np.testing.assert_allclose(start, forward, rtol=1e-3, atol=1e-3 * np.abs(start).max())


@many
@given(composites())
def test_it_starts_on_the_segment_and_comes_back_from_its_description(path: CompositePath) -> None:
    start = path.initial()
    np.testing.assert_array_equal(start[list(path.ends)], np.eye(2))
    np.testing.assert_allclose(start.sum(axis=1), 1.0)
    assert (start >= 0).all()
    np.testing.assert_allclose(start[list(path.joints), 1], path.joint_parameters)
    assert family_from(path.describe()) == path
    grid = path.sweep_grid.points[:, 0]
    assert np.isin(path.knots, grid).all()
    assert len(grid) <= 1 + 400 + len(path.knots)


@some
@given(composites(), st.integers(0, 99))
def test_t_is_the_length_travelled(path: CompositePath, seed: int) -> None:
    rows = list(np.random.default_rng(seed).normal(size=(path.size, 60)))
    G = gram(rows)
    C = path.coefficients(path.knots[:, None])
    again = CompositePath.by_length(path.pieces, distance(G, C[1:], C[:-1]))
    t = again.sweep_grid.points
    dense = again.coefficients(t)
    travelled = np.concatenate([[0.0], np.cumsum(distance(G, dense[1:], dense[:-1]))])
    # Exact on straight pieces; on others as good as their waypoints are close, which those of AREAS are not.
    if all(p.family.dimension == 1 for p in again.pieces):
        np.testing.assert_allclose(travelled / travelled[-1], t[:, 0], atol=1e-2)
    np.testing.assert_allclose(arc_length(again, G), travelled[-1], rtol=1e-2)


@some
@given(composites(), st.integers(0, 99), st.sampled_from([0.3, 0.05, 1e-3, 1e-12]))
def test_a_thinned_path_stays_within_its_bound_and_keeps_the_joints(
    path: CompositePath, seed: int, share: float
) -> None:
    P = np.random.default_rng(seed).normal(size=(path.size, 60))
    G = gram(list(P))
    t, chain = thinned(path, G, share)
    assert np.isin([0.0, *path.joint_parameters, 1.0], t).all()
    assert chain.size == len(t)
    corners = path.coefficients(t[:, None]) @ P
    dense = np.union1d(np.linspace(0, 1, 300), path.knots)
    points = path.coefficients(dense[:, None]) @ P
    total = np.linalg.norm(np.diff(points, axis=0), axis=1).sum()
    piece = np.clip(np.searchsorted(t, dense, side="right") - 1, 0, len(t) - 2)
    a, b = corners[piece], corners[piece + 1]
    along = ((points - a) * (b - a)).sum(axis=1) / ((b - a) ** 2).sum(axis=1)
    away = np.linalg.norm(points - a - np.clip(along, 0, 1)[:, None] * (b - a), axis=1)
    # Between the points that were looked at, a curve bends a little farther.
    assert away.max() <= 1.1 * share * total + 2e-3 * total


def test_a_thinned_straight_line_has_no_bends() -> None:
    path = CompositePath(
        (Piece(PolygonalChainFamily(3), (0, 1, 2, 3, 4), path_waypoints(PolygonalChainFamily(3))),), (0.25, 0.5, 0.75)
    )
    P = np.linspace(0, 1, 5)[:, None] * np.ones((1, 7))
    t, chain = thinned(path, gram(list(P)), 1e-6)
    assert t.tolist() == [0.0, 1.0]
    assert chain.bends == 0


def test_a_chain_can_start_from_a_composite_of_lines() -> None:
    path = CompositePath(
        (
            Piece(Segment(), (0, 1), path_waypoints(Segment())),
            Piece(Segment(), (2, 1), path_waypoints(Segment(), backwards=True)),
        ),
        (0.5,),
    )
    assert is_exact(PolygonalChainFamily(1), path, [0, 1])
    assert is_exact(PolygonalChainFamily(3), path, [1, 0])
    assert not is_exact(BezierCurveFamily(3), path, [0, 1])


ONE = Piece(Segment(), (0, 1), ((0.0,), (1.0,)))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: CompositePath(()), "one piece"),
        (lambda: CompositePath((ONE, ONE), (0.5,)), "must begin where the one before"),
        (lambda: CompositePath((ONE, Piece(Segment(), (1, 0), ONE.waypoints)), (0.5,)), "different control points"),
        (lambda: CompositePath((ONE, Piece(Segment(), (1, 3), ONE.waypoints)), (0.5,)), "leaving none out"),
        (lambda: CompositePath((ONE,), (0.5,)), "0 rising values"),
        (lambda: CompositePath((ONE, Piece(Segment(), (1, 2), ONE.waypoints)), (1.0,)), "rising"),
        (lambda: CompositePath((ONE, Piece(Segment(), (1, 2), ONE.waypoints)), (float("nan"),)), "rising"),
        (lambda: Piece(Segment(), (0,), ONE.waypoints), "2 different control points"),
        (lambda: Piece(Segment(), (0, 0), ONE.waypoints), "2 different control points"),
        (lambda: Piece(Segment(), (0, 1), ((0.0,),)), "two waypoints"),
        (lambda: Piece(Segment(), (0, 1), ((0.0,), (2.0,))), r"\[0, 1\]"),
        (lambda: Piece(PolygonalChainFamily(1), (0, 1, 2), ONE.waypoints), "waypoints at its knots; none is at 0.5"),
        (lambda: CompositePath((Piece(Segment(), (0, 1), ((0.0,), (0.5,))),)), "stops at control points"),
        (lambda: path_waypoints(BezierSurfaceFamily((1, 1))), "say between which"),
        (lambda: CompositePath.by_length((ONE,), [0.0]), "lengths"),
        (lambda: CompositePath.by_length((ONE,), [1.0, 1.0]), "1 steps needs"),
        (lambda: CompositePath.by_length((ONE,), [float("nan")]), "lengths"),
        (lambda: family_from({"family": "composite"}), "described by its pieces"),
        (lambda: family_from({"family": "composite", "pieces": [1], "at": []}), "described by its pieces"),
        (
            lambda: family_from({"family": "composite", "pieces": [{"family": {"family": "spiral"}}], "at": []}),
            "spiral",
        ),
    ],
)
def test_what_is_no_path_is_refused(build: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build()


def test_steps_without_length_still_take_t() -> None:
    path = CompositePath.by_length((ONE, Piece(Segment(), (1, 2), ONE.waypoints)), [1.0, 0.0])
    assert 0.999 < path.at[0] < 1.0
