"""Blocks: the points of a sweep, with what they are sums of and what was measured there, as a few rows that are lists.

A sweep has up to millions of points, with some twenty numbers each. As rows of ``node_terms``, ``members`` and
``evaluations`` each number would come with the ids and words that say what it is. So what a sweep stores at a time is
gathered into blocks of points about which the same is to be said, and ``node_terms``, ``members`` and ``evaluations``
are views of their own rows and those of the blocks (:mod:`mgraph_store.rows.blockviews`).

The points of a sweep of a surface are on a grid, and each of their coefficients may be the product of two numbers, one
for either parameter. Then the grid has these numbers once for all, and a block says only at which places its points
are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mgraph_store.rows.ids import random_characters
from mgraph_store.rows.records import (
    Evaluation,
    EvaluationBlock,
    GridTerm,
    Member,
    Node,
    NodeTerm,
    PointBlock,
    PointGrid,
    Record,
    TermBlock,
)

BLOCK_POINTS = 100
"""Points of a block, at most. When DuckDB stores rows that were added, it also writes again up to 2048 that it has, and
with longer lists these are many numbers."""

GRID_TERMS = 100
"""Terms of a grid, at most, as each of them stands for one of every point that is there."""


def fault(record: Record) -> str | None:
    """Say what is wrong with the form of a block or of a grid by itself; None if nothing is, or if it is neither."""
    if isinstance(record, PointBlock):
        return _points_fault(record)
    if isinstance(record, EvaluationBlock):
        errors = record.standard_errors
        if errors is not None and len(errors) != len(record.values):
            return f"it has {len(record.values)} values, but {len(errors)} standard errors"
    if isinstance(record, PointGrid) and not (len(record.u) and len(record.v)):
        return "it has no points"
    if isinstance(record, GridTerm) and not 0 <= record.position < GRID_TERMS:
        return f"its position is {record.position}, and a grid has at most {GRID_TERMS} terms"
    return None


def _points_fault(block: PointBlock) -> str | None:
    size = len(block.node_ids)
    if not 0 < size <= BLOCK_POINTS:
        return f"it has {size} points, not 1 to {BLOCK_POINTS}"
    if len(set(block.node_ids)) != size:
        return "it has a point twice"
    where = block.parameters if block.grid_id is None else block.positions
    if len({part is None for part in (block.connection_id, block.positions, where)}) > 1:
        return "what it says about its points is incomplete"
    if (block.grid_id is None) != (block.places is None):
        return "it has either a grid or places there, not both"
    if block.grid_id is not None and block.parameters is not None:
        return "it has parameters, and a grid that says them"
    for listed in (block.positions, block.parameters, block.places):
        if listed is not None and len(listed) != size:
            return f"it has {size} points, but a list of {len(listed)}"
    if block.places is not None and min(block.places) < 0:
        return f"it has a point at place {min(block.places)}"
    lengths = {len(p) for p in block.parameters or ()}
    return "its parameters are not of one length" if lengths == {0} or len(lengths) > 1 else None


class Number(NamedTuple):
    """What is measured, under which conditions: the columns of ``evaluations`` but for the point and the number."""

    sweep_id: str
    run_id: str | None
    split: str
    subset: str
    batchnorm: str
    precision: str
    metric: str
    examples: int


@dataclass
class _Group:
    """Points about which the same is to be said."""

    node_ids: list[str] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    parameters: list[Sequence[float]] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    coefficients: list[Sequence[float]] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    """All numbers of the first point, then those of the next one: a list for each would be as much work again."""
    errors: list[float | None] = field(default_factory=list)


class Gathering:
    """Gathers points into blocks."""

    def __init__(self) -> None:
        self._groups: dict[tuple[Any, ...], _Group] = {}
        self._times: dict[str, int] = {}
        self._latest: tuple[tuple[Any, ...], _Group] = (), _Group()

    def __bool__(self) -> bool:
        return bool(self._groups)

    def add(
        self,
        node_id: str,
        *,
        sample_of: str | None = None,
        position: int = 0,
        parameter: Sequence[float] = (),
        terms: Sequence[tuple[str, float]] = (),
        numbers: Iterable[tuple[Number, tuple[float, float | None]]] = (),
        grid_id: str | None = None,
        place: int = 0,
    ) -> None:
        """Add a point, a new sample of a connection unless that is None, with its terms (source, coefficient), if they
        are not stored yet, and numbers with their standard errors, each of them once.

        Instead of terms and a parameter, a new one may have a grid that says them, and a place there.
        """
        measured, values, errors = [], [], []
        for what, (value, error) in numbers:
            measured.append(what)
            values.append(value)
            errors.append(error)
        times = self._times[node_id] = self._times.get(node_id, -1) + 1  # a block has a point only once
        key = (
            times,
            sample_of,
            grid_id,
            len(parameter),
            tuple([source for source, _ in terms]) if terms else (),
            tuple(measured),
            tuple([error is None for error in errors]) if None in errors else (),
        )
        if key != self._latest[0]:  # to compare two that are alike takes less time than to look one up
            self._latest = key, self._groups.setdefault(key, _Group())
        group = self._latest[1]
        group.node_ids.append(node_id)
        group.values += values
        group.errors += errors
        if sample_of is not None:
            group.positions.append(position)
            group.parameters.append(parameter)
        if grid_id is not None:
            group.places.append(place)
        if terms:
            group.coefficients.append([c for _, c in terms])

    def records(self) -> Iterator[PointBlock | TermBlock | EvaluationBlock]:
        """Yield the blocks."""
        for key, group in self._groups.items():
            for start in range(0, len(group.node_ids), BLOCK_POINTS):
                yield from _blocks(key, group, slice(start, start + BLOCK_POINTS))


def _blocks(key: tuple[Any, ...], group: _Group, part: slice) -> Iterator[PointBlock | TermBlock | EvaluationBlock]:
    _, sample_of, grid_id, _, sources, measured, without = key
    block = PointBlock(
        "b" + random_characters(12),
        group.node_ids[part],
        sample_of,
        None if sample_of is None else group.positions[part],
        None if sample_of is None or grid_id is not None else group.parameters[part],
        grid_id,
        None if grid_id is None else group.places[part],
    )
    yield block
    coefficients, each = group.coefficients[part], len(measured)
    for k, source_id in enumerate(sources):
        yield TermBlock(block.id, k, source_id, [point[k] for point in coefficients])
    for i, what in enumerate(measured):
        ours = slice(part.start * each + i, part.stop * each, each)
        errors: Any = None if without and without[i] else group.errors[ours]
        values = group.values[ours]
        yield EvaluationBlock(
            block_id=block.id,
            sweep_id=what.sweep_id,
            run_id=what.run_id,
            split=what.split,
            subset=what.subset,
            batchnorm=what.batchnorm,
            precision=what.precision,
            metric=what.metric,
            values=values,
            standard_errors=errors,
            count=what.examples,
        )


def gathered(records: Iterable[Record]) -> list[Record]:
    """Gather rows of swept points into blocks as far as possible; the others are returned as they are.

    A point's terms are gathered if it is a derived node that is itself among the records, with all of its terms.
    """
    rest: list[Record] = []
    derived: set[str] = set()
    terms: dict[str, list[NodeTerm]] = {}
    members: dict[str, Member] = {}
    numbers: dict[str, dict[Number, tuple[float, float | None]]] = {}
    for r in records:
        if isinstance(r, NodeTerm):
            terms.setdefault(r.node_id, []).append(r)
        elif isinstance(r, Member) and _is_sample(r) and r.node_id not in members:
            members[r.node_id] = r
        elif isinstance(r, Evaluation) and r.sweep_id is not None:
            conditions = (r.run_id, r.split, r.subset, r.batchnorm, r.precision, r.metric, r.count)
            what, own = Number(r.sweep_id, *conditions), numbers.setdefault(r.node_id, {})
            if what in own:
                rest.append(r)
            else:
                own[what] = (r.value, r.standard_error)
        else:
            rest.append(r)
            if isinstance(r, Node) and r.kind == "sample" and r.tensor_key is None:
                derived.add(r.id)
    points = Gathering()
    for node_id, own_terms in terms.items():
        own_terms.sort(key=lambda term: term.position)
        if node_id not in derived or [t.position for t in own_terms] != list(range(len(own_terms))):
            rest += own_terms
            derived.discard(node_id)
    for node_id in dict.fromkeys([*members, *numbers, *(n for n in terms if n in derived)]):
        member = members.get(node_id)
        points.add(
            node_id,
            sample_of=None if member is None else member.connection_id,
            position=member.position if member else 0,
            parameter=(member.parameter or ()) if member else (),
            terms=[(t.source_id, t.coefficient) for t in terms[node_id]] if node_id in derived & terms.keys() else (),
            numbers=numbers.get(node_id, {}).items(),
        )
    return [*rest, *points.records()]


def _is_sample(member: Member) -> bool:
    return member.role == "sample" and member.row is None and bool(member.parameter)
