"""Composite paths: several connections, end to end, as one connection that can be swept, plotted, merged, exported."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from mgraph.alone import alone
from mgraph.errors import InputError
from mgraph.families import CompositePath, Family, Floats, PolygonalChainFamily
from mgraph.families.composite import Piece, path_waypoints
from mgraph.families.gram import distance, gram
from mgraph.jobs.connections import ComposeJob, CompositeLeg
from mgraph.progress import ProgressCallback, silent
from mgraph.query.edges import current_edges
from mgraph.query.routes import Route
from mgraph.session.constants import check_pieces
from mgraph.session.members import constants_source, ends_of, label, member_rows, rows_of, still_there
from mgraph.session.points import buffers_of
from mgraph.session.runs import new_run, recorded_run
from mgraph.session.session import Session
from mgraph.session.storing import check_name_is_free, store_parameters
from mgraph_store import Connection, GraphStore, Layout, Member, Node, Reader, Run, Space, combine, new_id

_FINE = 1 / 64  # distance in the domain between the points considered in thinning


@dataclass(frozen=True)
class ResolvedLeg:
    """One connection of a composite path, and between which of its ends it is used; None: the neighbours determine it.

    ``waypoints`` are the parameters of the way through a surface or simplex; None: its swept minimax route.
    """

    connection: Connection
    start: Node | None = None
    goal: Node | None = None
    waypoints: tuple[tuple[float, ...], ...] | None = None

    def stretch(self) -> CompositeLeg:
        """Return it by ids."""
        start, goal = (None if node is None else node.id for node in (self.start, self.goal))
        ways = self.waypoints and tuple(tuple(map(float, way)) for way in self.waypoints)
        return CompositeLeg(self.connection.id, start, goal, ways)


def _leg(reader: Reader, piece: CompositeLeg, resumed: Run | None) -> ResolvedLeg:
    start, goal = (None if i is None else still_there(reader, Node, i, resumed) for i in (piece.start, piece.goal))
    return ResolvedLeg(still_there(reader, Connection, piece.connection, resumed), start, goal, piece.waypoints)


def legs_of(reader: Reader, route: Route) -> list[ResolvedLeg]:
    """Return the connections of a route, each between its two modes and along its swept points."""
    legs = []
    for step in route.steps:
        link = step.link
        start, goal = (reader.get(Node, id=v.id) for v in (link.source, link.target))
        legs.append(ResolvedLeg(reader.get(Connection, id=link.connection_id), start, goal, step.parameters))
    return legs


def leg_from(reader: Reader, text: str) -> ResolvedLeg:
    """Read CONN or CONN:FROM:TO; InputError for anything else, NotFoundError if it does not exist."""
    name, *ends = text.split(":")
    if len(ends) not in (0, 2):
        raise InputError(f"A piece of a path is CONN or CONN:FROM:TO, not {text!r}.")
    start, goal = (reader.find_node(end) for end in ends) if ends else (None, None)
    return ResolvedLeg(reader.find_connection(name), start, goal)


@alone
def compose(
    session: Session, job: ComposeJob, *, progress: ProgressCallback = silent, resumed: Run | None = None
) -> Connection:
    """Join connections at the modes that they share into one path from the first mode to the last, and store it.

    Its control points are those of the connections, each once; t is the cumulative length over the total. With ``thin``
    it becomes a polygonal chain instead, through as few of its points as keep the path within that share of its length;
    the joints stay. Raises InputError for connections that share no mode, or share several without saying which; that
    are in different spaces; that failed; for a surface that was not swept; and for a path that ends where it began.

    An interrupted run starts again.
    """
    del progress  # it is short
    thin = job.thin
    if thin is not None and not 0 < thin < 1:
        raise InputError(f"--thin is a share of the path's length between 0 and 1, not {thin:g}.")
    check_name_is_free(session, job.name)
    store = session.store
    with store.reading() as reader:
        turned = _oriented(reader, [_leg(reader, piece, resumed) for piece in job.pieces])
        space = _common_space(reader, [leg.connection for leg in turned])
        _common_buffers(store, reader, space, [leg.connection for leg in turned])
        parts = [(leg, session.family_of(leg.connection), rows_of(reader, leg.connection)) for leg in turned]
        ends = [ends_of(reader, leg.connection) for leg in turned]
    nodes: dict[str, Node] = {}
    pieces: list[Piece] = []
    for (leg, own, rows), corners in zip(parts, ends, strict=True):
        for part, chosen in _pieces(store, leg, own, corners):
            numbers = []
            for k in chosen:
                nodes.setdefault(rows[k].id, rows[k])
                numbers.append(list(nodes).index(rows[k].id))
            pieces.append(Piece(part.family, tuple(numbers), part.waypoints))
    members = list(nodes.values())
    points = [session.points.read(node) for node in members]
    G = gram(points)
    path = CompositePath.by_length(pieces, _lengths(pieces, len(members), G))
    settings: dict[str, Any] = {"of": [_described(leg) for leg in turned], "thin": thin}
    said = " → ".join([label(_known(turned[0].start)), *(label(_known(leg.goal)) for leg in turned)])
    row = new_run("compose", settings, seed=None, device="cpu", plan=job.to_json())
    with recorded_run(store, row, resumed=resumed) as run, store.transaction() as tx:
        family: Family = path
        if thin is not None:
            t, chain = thinned(path, G, thin)
            C = path.coefficients(t[:, None])
            known = [_single(c) for c in C]
            new = [np.asarray(combine(c, points)) for c, k in zip(C, known, strict=True) if k is None]
            stored = iter(store_parameters(tx, session.workspace(space), run.id, "control", new))
            members, family = [next(stored) if k is None else members[k] for k in known], chain
            said += f"; {len(t)} of {len(_dense(path))} points kept, within {100 * thin:g} % of its length"
        connection = Connection(
            id=new_id("k"),
            kind=CompositePath.name,
            space_id=space.id,
            family=json.dumps(family.describe()),
            settings=json.dumps(settings, sort_keys=True),
            run_id=run.id,
            name=job.name,
            reason=said,
        )
        tx.add(connection, *member_rows(connection.id, family, {row: node.id for row, node in enumerate(members)}))
        run.complete(tx)
    return connection


def thinned(path: CompositePath, G: Floats, share: float) -> tuple[Floats, PolygonalChainFamily]:
    """Return the t of a polygonal chain that stays within ``share`` of the path's length, including the joints.

    Between two joints, the point farthest from the chord is kept as long as it is farther away than that (Douglas and
    Peucker 1973); distances in weight space come from the Gram matrix G. The chain's own t is its cumulative length.
    """
    t = _dense(path)
    C = path.coefficients(t[:, None])
    bound = share * float(distance(G, C[1:], C[:-1]).sum())
    joints = np.searchsorted(t, [0.0, *path.joint_parameters.tolist(), 1.0])
    kept = set(joints.tolist())
    open_ = list(pairwise(joints.tolist()))
    while open_:
        first, last = open_.pop()
        if last - first < 2:
            continue
        away = _from_chord(G, C[first + 1 : last], C[first], C[last])
        worst = int(np.argmax(away))
        if away[worst] > bound:
            middle = first + 1 + worst
            kept.add(middle)
            open_ += [(first, middle), (middle, last)]
    chosen = sorted(kept)
    lengths = distance(G, C[chosen[1:]], C[chosen[:-1]])
    # A piece that returns to its start has no chord; it then keeps its place, with a millionth of the whole length.
    return t[chosen], PolygonalChainFamily.by_length(np.maximum(lengths, 1e-6 * lengths.sum()))


def _from_chord(G: Floats, points: Floats, left: Floats, right: Floats) -> Floats:
    """Return the distance of points from a straight piece, all as coefficients."""
    chord = right - left
    squared = float(chord @ G @ chord)
    along = np.clip((points - left) @ G @ chord / squared, 0.0, 1.0) if squared > 0 else np.zeros(len(points))
    return distance(G, points, left + along[:, None] * chord)


def _dense(path: CompositePath) -> Floats:
    """Return values of t close enough together to see how the path bends: its waypoints and some between them."""
    axis: list[Floats] = []
    knots = iter(pairwise(path.knots))
    for piece in path.pieces:
        for one, other in pairwise(np.array(piece.waypoints)):
            steps = 1 if piece.family.order == 1 else max(1, round(float(np.abs(other - one).max()) / _FINE))
            axis.append(np.linspace(*next(knots), steps + 1)[:-1])
    return np.append(np.concatenate(axis), 1.0)


def _lengths(pieces: Sequence[Piece], size: int, G: Floats) -> Floats:
    lengths = []
    for piece in pieces:
        C = np.zeros((len(piece.waypoints), size))
        C[:, list(piece.rows)] = piece.family.coefficients(piece.waypoints)
        lengths.append(distance(G, C[1:], C[:-1]))
    return np.concatenate(lengths)


def _oriented(reader: Reader, legs: Sequence[ResolvedLeg]) -> list[ResolvedLeg]:
    """Find the ends between which every connection is used."""
    if not legs:
        raise InputError("A composite path needs a connection.")
    ends = [{node.id: node for node in ends_of(reader, leg.connection)} for leg in legs]
    for leg, known in zip(legs, ends, strict=True):
        if leg.connection.status == "failed":
            raise InputError(f"{label(leg.connection)} failed ({leg.connection.reason}); leave it out of the path.")
        for node in (leg.start, leg.goal):
            if node is not None and node.id not in known:
                raise InputError(f"{label(node)} is not an end of {label(leg.connection)}: {_listed(known)}.")
    result: list[ResolvedLeg] = []
    at = legs[0].start
    if at is None and len(legs) == 1 and len(ends[0]) == 2 and legs[0].goal is None:
        at = next(iter(ends[0].values()))  # the only one, as it was connected
    for i, (leg, known) in enumerate(zip(legs, ends, strict=True)):
        if at is not None and at.id not in known:
            raise InputError(f"{label(leg.connection)} does not continue from {label(at)}; it joins {_listed(known)}.")
        further = None if i + 1 == len(legs) else (legs[i + 1], ends[i + 1])
        goal = leg.goal or _goal(leg, known, at, further)
        if at is None:
            at = _only([n for n in known.values() if n.id != goal.id], leg, "starts")
        if at.id == goal.id:
            raise InputError(f"{label(leg.connection)} would end at {label(at)}, where it starts.")
        result.append(ResolvedLeg(leg.connection, at, goal, leg.waypoints))
        at = goal
    if _known(result[0].start).id == _known(at).id:
        raise InputError(f"The path ends at {label(_known(at))}, where it began; the ends of a connection must differ.")
    return result


def _goal(
    leg: ResolvedLeg, known: dict[str, Node], start: Node | None, further: tuple[ResolvedLeg, dict[str, Node]] | None
) -> Node:
    """Find where a connection is left: at the mode that it shares with the next, or at its other end."""
    candidates = [n for n in known.values() if start is None or n.id != start.id]
    if further is not None:
        following, theirs = further
        shared = [n for n in candidates if n.id in theirs]
        if following.start is not None:
            shared = [n for n in shared if n.id == following.start.id]
        if not shared:
            raise InputError(
                f"{label(leg.connection)} and {label(following.connection)} share no mode to continue from: "
                f"they join {_listed(known)} and {_listed(theirs)}."
            )
        candidates = shared
    return _only(candidates, leg, "stops")


def _only(candidates: Sequence[Node], leg: ResolvedLeg, what: str) -> Node:
    if len(candidates) == 1:
        return candidates[0]
    name = label(leg.connection)
    names = ", ".join(label(n) for n in candidates)
    raise InputError(f"The path {what} at one of {names} in {name}: say between which ends, {name}:FROM:TO.")


def _common_space(reader: Reader, connections: Sequence[Connection]) -> Space:
    first = connections[0]
    for other in connections[1:]:
        if other.space_id != first.space_id:
            names = [reader.get(Space, id=c.space_id).name for c in (first, other)]
            raise InputError(
                f"{label(first)} is in space {names[0]} and {label(other)} in {names[1]}; "
                f"the pieces of a path must be in one space."
            )
    return reader.get(Space, id=first.space_id)


def _common_buffers(store: GraphStore, reader: Reader, space: Space, connections: Sequence[Connection]) -> None:
    layout = Layout.from_json(space.layout)
    if layout.buffers:
        sources = [constants_source(reader, c) for c in connections]
        check_pieces(layout, [buffers_of(store, reader, node) for node in sources], [label(n) for n in sources])


def _pieces(
    store: GraphStore, leg: ResolvedLeg, family: Family, ends: Sequence[Node]
) -> list[tuple[Piece, Sequence[int]]]:
    """Split a connection into pieces over its own rows; return for each which of them it uses."""
    backwards = ends[0].id != _known(leg.start).id
    if isinstance(family, CompositePath):
        taken = [(p, p.waypoints) for p in family.pieces]
        if backwards:
            taken = [(p, ways[::-1]) for p, ways in reversed(taken)]
        return [(Piece(p.family, tuple(range(p.family.size)), ways), p.rows) for p, ways in taken]
    if len(ends) == 2:
        ways = path_waypoints(family, backwards=backwards)
    else:
        ways = leg.waypoints or swept_route(store, leg.connection, _known(leg.start), _known(leg.goal))
    rows = tuple(range(family.size))
    return [(Piece(family, rows, ways), rows)]


def swept_route(store: GraphStore, connection: Connection, start: Node, goal: Node) -> tuple[tuple[float, ...], ...]:
    """Return the parameters of the swept minimax route (of the train loss) between two ends of a connection.

    Raises InputError if it was not swept.
    """
    for edge in current_edges(store, connections=[connection.id], metric="loss", split="train"):
        if {edge.source_id, edge.target_id} == {start.id, goal.id}:
            with store.reading() as reader:
                members = reader.all(Member, connection_id=connection.id, role="sample", node_id=list(edge.route))
            places = {m.node_id: tuple(m.parameter or ()) for m in members}
            ways = tuple(places[node] for node in edge.route)
            return ways if edge.source_id == start.id else ways[::-1]
    name = label(connection)
    raise InputError(
        f"{name} has no route from {label(start)} to {label(goal)} yet; sweep it first: mgraph sweep {name}"
    )


def _single(c: Floats) -> int | None:
    """Return the control point that the coefficients represent, if it is a single one."""
    (rows,) = np.nonzero(c)
    return int(rows[0]) if len(rows) == 1 and c[rows[0]] == 1.0 else None


def _known(node: Node | None) -> Node:
    assert node is not None
    return node


def _described(leg: ResolvedLeg) -> dict[str, str]:
    return {"connection": leg.connection.id, "from": _known(leg.start).id, "to": _known(leg.goal).id}


def _listed(nodes: dict[str, Node]) -> str:
    return ", ".join(label(node) for node in nodes.values())
