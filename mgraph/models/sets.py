"""A set of models as users write it: ``a``, ``s@5``, ``curve@0.25,0.5``; several of them form a union (no torch).

- ``a``: a node, by its name or id.
- ``curve@9``, ``s@5,5``: the points of an evenly spaced grid of a connection; one number applies to every direction.
- ``curve@0.25,0.5``, ``s@0.5,0.5``: points by their parameters, each with as many numbers as the connection's has.
- ``s``: a connection on its own means a grid of at most nine of its points, including corners: a hundred points of a
  surface vote no better than these.

A member is a sum of stored nodes, so a point that two parts share, such as an end, is in the union only once. An end of
a connection is the mode itself, with its own BatchNorm statistics.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import TYPE_CHECKING

import numpy as np

from mgraph.errors import InputError, NotFoundError
from mgraph.families import Family, Floats, SimplexFamily
from mgraph.families.grid import simplex_steps
from mgraph.models.costs import independent_modes
from mgraph.session.members import label, rows_of
from mgraph_store import Connection, Node, Reader, Run, Space

if TYPE_CHECKING:
    from mgraph.session.session import Session

MOST = 9
"""Most points of a connection that forms a set on its own."""

_AT = "@"
_WHOLE = re.compile(r"[0-9]+")
_EXAMPLE = "write NODE, CONN, CONN@POINTS such as s@5, or CONN@PARAMETER such as curve@0.25,0.5"


@dataclass(frozen=True)
class Member:
    """One model: a stored node, or a point of a connection, which is the sum of ``terms`` (id of a node, coefficient).

    If the point is an end of its connection, ``node`` is that mode, and the model is the mode itself.
    """

    label: str
    terms: tuple[tuple[str, float], ...]
    node: Node | None = None
    connection: Connection | None = None
    parameter: tuple[float, ...] = ()

    @property
    def corner(self) -> str | None:
        """The id of the only node that it consists of, or None for a mixture of several."""
        return self.terms[0][0] if len(self.terms) == 1 and self.terms[0][1] == 1.0 else None


@dataclass(frozen=True)
class ModelSet:
    """Members of one space, in order, without repetition.

    ``connections`` are those with points in the set, ``joined`` the ids of the nodes at the ends of each, ``ends`` all
    of these; ``grid`` is set if the set is a single grid.
    """

    space: Space
    members: tuple[Member, ...]
    connections: tuple[Connection, ...]
    joined: Mapping[str, tuple[str, ...]]
    ends: tuple[Node, ...]
    grid: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.members)


def as_written(reader: Reader, text: str) -> str:
    """Return a part of a set with its id instead of its name, as in a job.

    Raises NotFoundError or AmbiguousError for a name that does not exist or is ambiguous, InputError for points of a
    node.
    """
    name, at, where = text.strip().partition(_AT)
    if not name or (at and not where.strip()):
        raise InputError(f"{text!r} is not a set of models; {_EXAMPLE}.")
    found = reader.find(name)
    if isinstance(found, Node) and at:
        raise InputError(f"{name} is a {found.kind}, which has no points to choose from; write {name} alone.")
    return f"{found.id}{at}{where.strip()}"


def resolve(session: Session, parts: Sequence[str], resumed: Run | None = None) -> ModelSet:
    """Look up the members of a set, given by ids as :func:`as_written` returns them.

    Raises InputError for a set without members, parts of different spaces, points that a connection does not have, and
    a part that is gone if a run that needs it is ``resumed``.
    """
    if not parts:
        raise InputError(f"A set of models has at least one member; {_EXAMPLE}, or choose nodes by --where.")
    members: dict[tuple[tuple[str, float], ...], Member] = {}
    connections: dict[str, Connection] = {}
    joined: dict[str, tuple[str, ...]] = {}
    ends: dict[str, Node] = {}
    spaces: dict[str, str] = {}
    grid: tuple[int, ...] | None = None
    with session.store.reading() as reader:
        for part in parts:
            name, _, where = part.partition(_AT)
            found = _find(reader, name, resumed)
            if isinstance(found, Node):
                new = [Member(label(found), ((found.id, 1.0),), found)]
            else:
                family = session.family_of(found)
                points, grid = _points(family, where, label(found))
                nodes = rows_of(reader, found)
                joined_here = {nodes[row].id: nodes[row] for row in family.ends}
                new = _on(found, family, points, nodes, joined_here)
                connections[found.id] = found
                joined[found.id] = tuple(nodes[row].id for row in family.ends)
                ends |= joined_here
            spaces.setdefault(found.space_id, label(found))
            for member in new:
                members.setdefault(member.terms, member)
        if len(spaces) > 1:
            names = {s.id: s.name for s in reader.all(Space, id=list(spaces))}
            (one, first), (other, second) = list(spaces.items())[:2]
            raise InputError(
                f"{first} is of space {names[one]} and {second} of space {names[other]}; the models of a set must be "
                "of one space."
            )
        space = reader.get(Space, id=next(iter(spaces)))
    whole = grid if len(parts) == 1 and connections else None
    return ModelSet(space, tuple(members.values()), tuple(connections.values()), joined, tuple(ends.values()), whole)


def default_set(session: Session, space: Space) -> tuple[str, ...]:
    """Return the default set: all independent modes, and nine points of a connection.

    This is the trained and swept connection with the most ends or, among several, the one whose train loss has the
    lowest peak. Raises InputError for a space without modes.
    """
    sql = """SELECT c.id, max(e.peak) FROM connections c JOIN edges e ON e.connection_id = c.id
WHERE c.space_id = ? AND c.status = 'complete' AND c.kind NOT IN ('linear', 'simplex', 'composite', 'plane')
AND e.split = 'train' AND e.metric = 'loss' AND isfinite(e.peak) AND e.doubt IS NULL
GROUP BY c.id ORDER BY (SELECT count(*) FROM members m WHERE m.connection_id = c.id AND m.role = 'end') DESC,
max(e.peak), c.id LIMIT 1"""
    with session.store.reading() as reader:
        modes = [node.id for node in independent_modes(reader, space)]
        joined = [row[0] for row in reader.query(sql, [space.id])[1]]
    if not modes:
        raise InputError(f"Space {space.name} has no modes yet, so there is no set of them; train or add some first.")
    return (*modes, *joined)


def few_points(family: Family, most: int = MOST) -> tuple[int, ...]:
    """Return the counts of an even grid of at most ``most`` points, or of the corners if there are more of these."""
    if isinstance(family, SimplexFamily):
        return (simplex_steps(family.corners, most) + 1,)
    return (max(2, most),) if family.dimension == 1 else (max(2, isqrt(most)),) * family.dimension


def _find(reader: Reader, name: str, resumed: Run | None) -> Node | Connection:
    try:
        return reader.find(name)
    except NotFoundError:
        if resumed is None:
            raise
        raise InputError(f"Run {resumed.id} cannot be resumed: {name} is gone from the graph.") from None


def _points(family: Family, where: str, name: str) -> tuple[Floats, tuple[int, ...] | None]:
    """Return the parameters named by a part of a set, shape (S, coordinates), and their grid if they form one."""
    if not where:
        grid = family.grid(few_points(family))
        return grid.points, grid.counts
    words = [word.strip() for word in where.split(",")]
    if all(_WHOLE.fullmatch(word) for word in words) and all(int(word) > 1 for word in words):
        grid = family.grid(tuple(map(int, words)))
        return grid.points, grid.counts
    try:
        numbers = np.array([float(word) for word in words])
    except ValueError:
        raise InputError(f"{name}@{where}: points are numbers with commas; {_EXAMPLE}.") from None
    if len(numbers) % family.coordinates:
        raise InputError(
            f"{name}@{where}: a parameter of a {family.name} is {family.parameter_format}, and {len(numbers)} numbers "
            "are not a multiple of that."
        )
    return family.points(numbers.reshape(-1, family.coordinates)), None


def _on(
    connection: Connection, family: Family, points: Floats, nodes: Sequence[Node], ends: Mapping[str, Node]
) -> list[Member]:
    members = []
    for point, coefficients in zip(points, family.coefficients(points), strict=True):
        terms = tuple((node.id, float(c)) for node, c in zip(nodes, coefficients, strict=True) if c != 0.0)
        end = ends.get(terms[0][0]) if len(terms) == 1 and terms[0][1] == 1.0 else None
        where = ",".join(f"{x:.4g}" for x in point)
        members.append(Member(f"{label(connection)}@{where}", terms, end, connection, tuple(map(float, point))))
    return members
