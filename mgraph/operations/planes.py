"""Planes in weight space: through three nodes, along two random directions, or by the principal components of many.

Only Gram matrices of the nodes are needed, in float64, so a plane through nodes stores no tensors: its cells are
combinations of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mgraph.alone import alone
from mgraph.errors import InputError
from mgraph.families import Floats
from mgraph.families.gram import distance, gram
from mgraph.families.plane import PlaneFamily
from mgraph.jobs.connections import PlaneJob
from mgraph.operations.connections import common_space, load_constants
from mgraph.operations.sweeps import check_sweep
from mgraph.progress import ProgressCallback, silent
from mgraph.session.code import warn_of_other_code
from mgraph.session.members import label, member_rows, still_there
from mgraph.session.session import Session
from mgraph.session.storing import check_name_is_free, store_parameters
from mgraph_store import Connection, Layout, Node, Run, new_id

_LINE = 1e-4  # the third point is on the line of the others if it is nearer to it than this share of their distance
_ORTHOGONAL = 1e-3  # the largest cosine of two directions that count as orthogonal
ENDS = ("mode", "merged")


@alone
def make_plane(
    session: Session, job: PlaneJob, *, progress: ProgressCallback = silent, resumed: Run | None = None
) -> Connection:
    """Store a plane as a connection whose points are its cells; it is not swept here, whatever the job says.

    Modes and merged nodes that lie on it are its ends. Raises InputError for a wrong number of nodes, the same one
    twice, nodes on a line, of different spaces, or of a kind that stores no parameters; and for a plane without a mode.
    """
    del progress  # it is short
    check_name_is_free(session, job.name)
    with session.store.reading() as reader:
        nodes = [still_there(reader, Node, node, resumed) for node in job.nodes]
    _check(job, nodes)
    space = common_space(session, nodes, same_layout=False, kinds=(*ENDS, "control"))
    ends = [node for node in nodes if node.kind in ENDS]
    workspace = session.workspace(space)
    load_constants(session, workspace, ends, None)
    warn_of_other_code(session.store, workspace, ends)
    if job.sweep is not None:
        check_sweep(workspace, job.sweep)
    points = [np.asarray(session.points.read(node)) for node in nodes]
    drawn: list[NDArray[np.float32]] = []
    facts: dict[str, Any] = {}
    if job.how == "random":
        drawn = [points[0] + d for d in directions(workspace.layout, points[0], job.seed)]
        family = around(job.radius)
    elif job.how == "pca":
        family, explained = principal(gram(points), job.margin, [label(node) for node in nodes])
        facts["explained"] = explained
    else:
        on = [i for i, node in enumerate(nodes) if node.kind in ENDS]
        family = through(gram(points), job.margin, on, [label(node) for node in nodes])
    stated = job.settings()
    if job.sweep is not None and job.sweep.grid is not None:
        family.grid(job.sweep.grid)  # now, not when the plane is there
    record = session.run(workspace, "plane", stated, job.seed, job=job, resumed=resumed)
    with record as run, session.store.transaction() as tx:
        made = store_parameters(tx, workspace, run.id, "control", drawn)
        connection = Connection(
            id=new_id("k"),
            kind=PlaneFamily.name,
            space_id=space.id,
            family=json.dumps(family.describe()),
            settings=json.dumps(stated | facts, sort_keys=True),
            run_id=run.id,
            name=job.name,
            reason=_said(job, [label(node) for node in nodes], facts),
        )
        members = {row: node.id for row, node in enumerate([*nodes, *made])}
        tx.add(connection, *member_rows(connection.id, family, members))
        run.complete(tx)
    return connection


def _check(job: PlaneJob, nodes: Sequence[Node]) -> None:
    wanted = {"through": (3, 3), "random": (1, 1), "pca": (3, None)}
    if job.how not in wanted:
        raise InputError(f"A plane is made in one of the ways {', '.join(wanted)}, not {job.how!r}.")
    least, most = wanted[job.how]
    if len(nodes) < least or (most is not None and len(nodes) > most):
        said = {
            "through": "goes through three nodes",
            "random": "along random directions lies around one node",
            "pca": "of principal components takes three or more nodes",
        }
        raise InputError(f"A plane {said[job.how]}; {len(nodes)} given.")
    for node in nodes:
        if node.kind not in (*ENDS, "control"):
            raise InputError(
                f"{label(node)} is a {node.kind}, which is computed from others; make it a node first: mgraph merge "
                "CONN --at PARAMETER"
            )
    fixed = nodes[-1:] if job.how == "pca" else nodes
    if not any(node.kind in ENDS for node in fixed):
        which = "The last node" if job.how == "pca" else "One of the nodes"
        raise InputError(f"{which} of a plane must be a mode or a merged node, whose buffers hold on it.")
    if not 0 <= job.margin <= 10:
        raise InputError(f"The margin of a plane is a number from 0 to 10, not {job.margin}.")
    if not 0 < job.radius <= 1e3:
        raise InputError(f"The radius of a plane is a number above 0, at most 1000, not {job.radius}.")


def through(G: Floats, margin: float, ends: Sequence[int], names: Sequence[str]) -> PlaneFamily:
    """Return the plane through three points with Gram matrix G, shape (3, 3), orthonormalised as in [G] app. A.1.

    x runs from the first to the second, y towards the third; the rectangle is that of the points, with ``margin`` times
    its sides around it. ``ends`` are those of the points that become ends. Raises InputError for points on a line.
    """
    chord, other = np.array([-1.0, 1.0, 0.0]), np.array([-1.0, 0.0, 1.0])
    nowhere = np.zeros(3)
    width = float(distance(G, chord, nowhere))
    longest = max(width, float(distance(G, other, nowhere)), float(distance(G, other, chord)))
    along = float(chord @ G @ other) / width if width > 0 else 0.0
    rise = other - (along / width) * chord if width > 0 else other
    height = float(distance(G, rise, nowhere))
    if not np.isfinite(G).all() or width <= _LINE * longest or height <= _LINE * longest:
        raise InputError(
            f"{', '.join(names)} lie on a line, so they span no plane; take another third node, or look at the line: "
            f"mgraph connect {names[0]} {names[1]} --linear"
        )
    places = np.array([[0.0, 0.0], [width, 0.0], [along, height]])
    x, y = _sides(places[:, 0], margin), _sides(places[:, 1], margin)
    unit = np.stack([chord / width, rise / height])
    return _plane(np.array([1.0, 0.0, 0.0]), unit, x, y, {row: places[row] for row in ends})


def around(radius: float) -> PlaneFamily:
    """Return the square of the point P_0 and P_0 + d, d the directions that lead to P_1 and P_2, from -r d to r d."""
    unit = np.array([[-1.0, 1.0, 0.0], [-1.0, 0.0, 1.0]])
    side = (-radius, radius)
    return _plane(np.array([1.0, 0.0, 0.0]), unit, side, side, {0: np.zeros(2)})


def principal(G: Floats, margin: float, names: Sequence[str]) -> tuple[PlaneFamily, list[float]]:
    """Return the plane through the last of N points, shape of G (N, N), that is nearest to all in the least squares.

    It is spanned by the two principal components of the differences to the last point (Li et al. 2018, section 7.2).
    Also returns the share of their squares that each explains. Raises InputError for points on a line.
    """
    n = len(G)
    D = np.eye(n)[:-1] - np.eye(n)[-1]  # the differences, as coefficients
    values, vectors = np.linalg.eigh(D @ G @ D.T)
    if not np.isfinite(G).all() or values[-2] <= _LINE**2 * values[-1]:
        raise InputError(f"{', '.join(names)} lie on a line, so they span no plane; add a node beside it.")
    first, second = vectors[:, -1], vectors[:, -2]
    unit = np.stack([first @ D / np.sqrt(values[-1]), second @ D / np.sqrt(values[-2])])
    unit *= np.where(unit[:, :1] > 0, -1.0, 1.0)  # a sign that does not depend on the library: the first node is left
    places = np.concatenate([D @ G @ unit.T, np.zeros((1, 2))])
    x, y = _sides(places[:, 0], margin), _sides(places[:, 1], margin)
    family = _plane(np.eye(n)[-1], unit, x, y, {n - 1: np.zeros(2)})
    return family, (values[[-1, -2]] / values.clip(min=0).sum()).tolist()


def _sides(values: Floats, margin: float) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    return low - margin * (high - low), high + margin * (high - low)


def _plane(
    centre: Floats, unit: Floats, x: tuple[float, float], y: tuple[float, float], ends: dict[int, Floats]
) -> PlaneFamily:
    """Make a plane from the coefficients of its centre and of a unit along x and y, shape (2, K)."""
    sides = np.array([x[1] - x[0], y[1] - y[0]])
    low = np.array([x[0], y[0]])
    return PlaneFamily(
        origin=tuple((centre + low @ unit).tolist()),
        across=tuple((sides[0] * unit[0]).tolist()),
        up=tuple((sides[1] * unit[1]).tolist()),
        rows=tuple(ends),
        # Rounded as parameters are stored, so that a place on the line of another is on it.
        at=tuple(tuple(np.clip(np.round((place - low) / sides, 12), 0.0, 1.0).tolist()) for place in ends.values()),
        x=x,
        y=y,
    )


def directions(layout: Layout, theta: NDArray[np.float32], seed: int) -> list[NDArray[np.float32]]:
    """Draw two random directions, shape (D,), filter-normalised (Li et al. 2018, section 4) and orthogonal.

    Every filter, a slice along the first axis of a tensor, has the norm of the same filter of θ; tensors of one axis,
    biases and those of normalisation, do not move. The second direction is made orthogonal to the first within each
    filter, so that both keep their norms. Raises InputError for a network without such filters.
    """
    rng = np.random.default_rng(seed)
    first, second = np.zeros_like(theta, dtype=np.float64), np.zeros_like(theta, dtype=np.float64)
    given = layout.parameter_views(theta)
    views = layout.parameter_views(first), layout.parameter_views(second)
    for name, tensor in given.items():
        if tensor.ndim < 2:
            continue
        filters = tensor.astype(np.float64).reshape(tensor.shape[0], -1)
        norms = np.linalg.norm(filters, axis=1, keepdims=True)
        one, other = (rng.standard_normal(filters.shape) for _ in range(2))
        if filters.shape[1] > 1:
            other -= one * (one * other).sum(axis=1, keepdims=True) / (one**2).sum(axis=1, keepdims=True)
        for view, drawn in zip(views, (one, other), strict=True):
            view[name][...] = (drawn * norms / np.linalg.norm(drawn, axis=1, keepdims=True)).reshape(tensor.shape)
    size = float(np.linalg.norm(first))
    if size == 0.0:
        raise InputError(
            "This network has no tensor with filters (two axes or more), so no direction can be normalised."
        )
    cosine = abs(float(first @ second)) / size**2
    if cosine > _ORTHOGONAL:
        raise InputError(
            f"The two random directions are not orthogonal (cosine {cosine:.2g}): most filters of this network have a "
            "single weight; look at a plane through three of its modes."
        )
    return [first.astype(np.float32), second.astype(np.float32)]


def _said(job: PlaneJob, names: Sequence[str], facts: dict[str, Any]) -> str:
    if job.how == "random":
        return f"around {names[0]}, along two filter-normalised random directions (seed {job.seed}), orthogonal"
    if job.how == "pca":
        one, other = (f"{100 * share:.3g} %" for share in facts["explained"])
        return f"two principal components of {len(names)} nodes around {names[-1]}, which explain {one} and {other}"
    return f"plane through {', '.join(names)}"
