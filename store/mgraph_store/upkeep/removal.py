"""Removing nodes, connections, sweeps and spaces, with what belongs to them and, if wanted, what depends on them.

What *belongs* to a connection is removed with it: its control points and samples, its sweeps, all numbers measured
there. What *depends* on something else exists in its own right: a connection that ends in a node, a node that is
computed from it, anything in a space. Removal is refused while such a thing remains, or removes it too (``cascade``).

A merged node has its own tensors and depends on nothing: it stays, and only loses its recipe.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mgraph_store.errors import StillNeededError, StoreError
from mgraph_store.index.changes import Changes
from mgraph_store.index.commits import number_of
from mgraph_store.index.replacement import NotPossibleError, remove_rows
from mgraph_store.index.snapshot import is_large
from mgraph_store.root import Root
from mgraph_store.rows.lists import filled
from mgraph_store.rows.records import Connection, Node, NodeTerm, Record, Run, Space, Sweep
from mgraph_store.rows.schema import REFERENCES, TABLE_OF, TABLES, columns
from mgraph_store.tensors.objects import disk_error
from mgraph_store.underway import Life, Sighting
from mgraph_store.upkeep.collect import remove_objects

if TYPE_CHECKING:
    from mgraph_store.index.reader import Reader
    from mgraph_store.store import GraphStore

Target = Node | Connection | Sweep | Space


@dataclass(frozen=True, slots=True)
class Part:
    """A node that belongs to a connection, without a name of its own."""

    id: str
    kind: str


_PART = "n.kind IN ('control', 'pivot', 'sample') AND n.name IS NULL"
"""SQL: the node n belongs to the connection that it is part of."""

_SHOWN = 6
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Goes:
    """One thing to be removed, and why: it was asked for, or what it belongs to or depends on."""

    record: Target | Part
    why: str
    depends: bool = False

    @property
    def kind(self) -> str:
        """The kind of node, or connection, sweep or space."""
        record = self.record
        return record.kind if isinstance(record, Node | Part) else type(record).__name__.lower()


@dataclass(frozen=True)
class Removal:
    """A plan: what is removed, which nodes lose their recipe, which tensor objects are freed.

    ``abandoned`` are interrupted runs that cannot be resumed after the removal; ``commits`` is how many commits the
    graph had when this was planned.
    """

    targets: tuple[Target, ...]
    cascade: bool
    goes: tuple[Goes, ...]
    forget: tuple[str, ...]
    free: tuple[str, ...]
    abandoned: tuple[str, ...] = ()
    commits: int = field(default=-1, compare=False)

    def apply(self, store: GraphStore) -> None:
        """Remove the rows in one transaction, then the tensors that nothing refers to any more.

        From a large index, rows are removed while others keep working, see :mod:`mgraph_store.index.replacement`.

        Raises
        ------
        StoreError
            If the graph has changed since, so that the plan is no longer right.
        """
        store.require_present_format()
        try:
            if not is_large(store.index):
                raise NotPossibleError("A small index is changed at once.")
            remove_rows(store.index, store.lock, lambda reader: self._changes(reader, store))
        except NotPossibleError:
            self._apply_under_the_lock(store)
        except OSError as error:
            raise disk_error(error, store.path) from error
        remove_objects(store, self.free)

    def _changes(self, reader: Reader, store: GraphStore) -> Changes:
        if commits_of(reader) != self.commits:
            self._require_same(reader, store)
        return Changes({}, {}, [(TABLE_OF[record], column, values) for record, column, values in self._rows()])

    def _apply_under_the_lock(self, store: GraphStore) -> None:
        number = self.commits
        for attempt in range(_ATTEMPTS):
            with store.reading() as reader:  # others keep reading meanwhile; the lock makes writers wait
                if commits_of(reader) != number:
                    number = commits_of(reader)
                    self._require_same(reader, store)
            # If somebody commits between the two, try again; the last attempt looks while nobody else can commit.
            require = self._require_same if attempt == _ATTEMPTS - 1 else _unchanged_since(number)
            try:
                self._remove(store, require)
                break
            except _OvertakenError:
                continue

    def _require_same(self, reader: Reader, store: GraphStore) -> None:
        if plan_removal(reader, self.targets, cascade=self.cascade, graph=store.folder.root) != self:
            raise StoreError("The graph has changed since this was planned; nothing was removed: look again.")

    def _remove(self, store: GraphStore, require: Callable[[Reader, GraphStore], None]) -> None:
        with store.transaction() as tx:
            tx.require(lambda reader: require(reader, store))
            for record, column, values in self._rows():
                tx.remove(record, column, values)

    def _rows(self) -> Iterator[tuple[type[Record], str, list[str]]]:
        """Yield the rows that go: kind, column, values. Connections first, because they name very many rows at once."""
        for kinds in ((Connection,), (Sweep,), (Node, Part), (Space,)):
            kind = kinds[0]
            ids = [g.record.id for g in self.goes if isinstance(g.record, kinds)]
            for record in TABLES.values():
                for column in columns(record):
                    if ids and REFERENCES.get(column.name) is kind:
                        yield record, column.name, ids
            if ids:
                yield kind, "id", ids
        if self.forget:
            yield NodeTerm, "node_id", list(self.forget)


class _OvertakenError(StoreError):
    """Somebody has committed between the look and the removal."""


def _unchanged_since(number: int) -> Callable[[Reader, GraphStore], None]:
    def require(reader: Reader, _: GraphStore) -> None:
        if commits_of(reader) != number:
            raise _OvertakenError("Somebody has committed meanwhile.")

    return require


def plan_removal(
    reader: Reader, targets: Sequence[Target], *, cascade: bool = False, graph: Root | Path | None = None
) -> Removal:
    """Find out what is removed with some things; ``graph`` is the directory, where runs under way hold their locks.

    Raises
    ------
    StillNeededError
        If something depends on them, unless ``cascade`` removes it too, or a run under way needs them; the message
        names it.
    """
    goes: dict[str, Goes] = {}
    level = [Goes(target, "asked for") for target in targets]
    while level:
        for g in level:
            goes.setdefault(g.record.id, g)  # the first reason is the closest one
        level = [g for g in _following(reader, goes, level) if g.record.id not in goes]
    needed = [g for g in goes.values() if g.depends]
    if needed and not cascade:
        raise StillNeededError(_refusal(needed))
    runs = [(run, need) for run in _resumable(reader) if (need := _needed_by(run, goes)) is not None]
    if not cascade:
        for run, need in runs:
            _require_ended(run, need, graph)
    nodes = [g.record.id for g in goes.values() if isinstance(g.record, Node | Part)]
    return Removal(
        tuple(targets),
        cascade,
        tuple(goes.values()),
        _forgetful(reader, nodes),
        _free(reader, nodes),
        tuple(run.id for run, _ in runs),
        commits_of(reader),
    )


def _require_ended(run: Run, need: Goes, graph: Root | Path | None) -> None:
    seen = Sighting.of(graph, run) if run.status == "running" else None
    if seen is None or seen.life is Life.GONE:
        return
    needs = f"needs {need.kind} {_label(need.record)}"
    if seen.life is Life.ALIVE:
        raise StillNeededError(
            f"Run {run.id} ({run.command}) is under way and {needs}: stop it, or wait for it; --cascade takes that "
            "away from it."
        )
    raise StillNeededError(
        f"Run {run.id} ({run.command}), process {run.pid} on {run.host}, may be under way and {needs}: wait for it, or "
        f"give it up with mgraph resume {run.id} --discard --force; --cascade takes that away from it."
    )


def _resumable(reader: Reader) -> list[Run]:
    return reader.all(Run, status=["running", "interrupted"], where="plan IS NOT NULL")


def _needed_by(run: Run, goes: dict[str, Goes]) -> Goes | None:
    # A plan names its subjects by ids, which are long and random, so no other text looks like one.
    return next((goes[word] for word in re.findall(r'"([a-z0-9]+)"', run.plan or "") if word in goes), None)


def _following(reader: Reader, goes: dict[str, Goes], new: Sequence[Goes]) -> list[Goes]:
    # One step: what belongs to things being removed, and what depends on the new ones among them.
    connections = {i: g.record for i, g in goes.items() if isinstance(g.record, Connection)}
    nodes = {g.record.id: g.record for g in new if isinstance(g.record, Node | Part)}
    found: list[Goes] = []
    if any(isinstance(g.record, Connection) for g in new):
        found += _belonging(reader, connections)
    if nodes:
        with filled(reader.connection, mgraph_new=list(nodes), mgraph_going=list(goes)):
            found += _ending(reader, nodes, connections)
            found += _computed(reader, nodes)
    for space in (g.record for g in new if isinstance(g.record, Space)):
        inside: list[Any] = [*reader.all(Connection, space_id=space.id), *reader.all(Node, space_id=space.id)]
        found += [Goes(record, f"it is in space {space.name}", True) for record in inside]
    return found


def _ending(reader: Reader, nodes: dict[str, Any], connections: dict[str, Any]) -> list[Goes]:
    # Connections in which a node is an end, a control point or a sample.
    sql = (
        "SELECT connection_id, node_id, role FROM members WHERE node_id IN (SELECT value FROM mgraph_new) "
        "AND connection_id NOT IN (SELECT unnest(?::VARCHAR[])) ORDER BY position, connection_id"
    )
    places: dict[str, tuple[str, str]] = {}
    for connection, node, role in reader.query(sql, [list(connections)])[1]:
        places.setdefault(connection, (node, role))
    found = []
    for c in reader.all(Connection, id=list(places)) if places else []:
        node, role = places[c.id]
        found.append(Goes(c, f"{_label(nodes[node])} is {'an' if role == 'end' else 'a'} {role} of it", True))
    return found


def _computed(reader: Reader, nodes: dict[str, Any]) -> list[Goes]:
    # Nodes computed from a node; if they belong to connections, those connections.
    sql = (
        "SELECT node_id, max(source_id) FROM node_terms WHERE source_id IN (SELECT value FROM mgraph_new) "
        "AND node_id NOT IN (SELECT value FROM mgraph_going) GROUP BY node_id"
    )
    uses: dict[str, str] = dict(reader.query(sql)[1])
    if not uses:
        return []
    parts = (
        "SELECT m.connection_id, arg_max(n.id, n.rowid), arg_max(n.kind, n.rowid) FROM nodes n JOIN members m "
        f"ON m.node_id = n.id AND m.role <> 'end' WHERE n.kernel IS NOT NULL AND {_PART} "
        "AND n.id IN (SELECT value FROM mgraph_users) GROUP BY m.connection_id"
    )
    with filled(reader.connection, mgraph_users=list(uses)):
        through = {c: Part(node, kind) for c, node, kind in reader.query(parts)[1]}
    others = reader.all(
        Node,
        id=list(uses),
        where="kernel IS NOT NULL AND NOT (kind IN ('control', 'pivot', 'sample') AND name IS NULL "
        "AND id IN (SELECT node_id FROM members WHERE role <> 'end'))",
    )
    found = [Goes(n, f"it is computed from {_label(nodes[uses[n.id]])}", True) for n in others]
    for c in reader.all(Connection, id=list(through)) if through else []:
        part = through[c.id]
        found.append(Goes(c, f"its {part.kind} {part.id} is computed from {_label(nodes[uses[part.id]])}", True))
    return found


def _belonging(reader: Reader, connections: dict[str, Any]) -> list[Goes]:
    # A surface has thousands of samples, of which only ids and kinds are read, not whole rows.
    sql = (
        "SELECT n.id, any_value(n.kind), max(m.connection_id) FROM members m JOIN nodes n ON n.id = m.node_id "
        f"WHERE m.role <> 'end' AND m.connection_id IN (SELECT unnest($1::VARCHAR[])) AND {_PART} AND NOT EXISTS ("
        "SELECT 1 FROM members o WHERE o.node_id = n.id AND o.connection_id NOT IN (SELECT unnest($1::VARCHAR[]))) "
        "GROUP BY n.id ORDER BY min(n.rowid)"
    )
    why = {c: f"it belongs to {_label(record)}" for c, record in connections.items()}
    found = [Goes(Part(node, sys.intern(kind)), why[c]) for node, kind, c in reader.each(sql, [list(connections)])]
    sweeps = reader.all(Sweep, connection_id=list(connections))
    return [*(Goes(s, why[s.connection_id]) for s in sweeps), *found]


def _forgetful(reader: Reader, nodes: list[str]) -> tuple[str, ...]:
    if not nodes:
        return ()
    sql = (
        "SELECT DISTINCT t.node_id FROM node_terms t JOIN nodes n ON n.id = t.node_id WHERE n.kernel IS NULL AND "
        "t.source_id IN (SELECT value FROM mgraph_new) AND n.id NOT IN (SELECT value FROM mgraph_new) ORDER BY 1"
    )
    with filled(reader.connection, mgraph_new=nodes):
        return tuple(row[0] for row in reader.query(sql)[1])


def _free(reader: Reader, nodes: list[str]) -> tuple[str, ...]:
    theirs = reader.tensor_keys(of=nodes) if nodes else set()
    if not theirs:
        return ()
    return tuple(sorted(theirs - reader.tensor_keys(without=nodes)))


def _refusal(needed: Sequence[Goes]) -> str:
    told = [f"{g.kind} {_label(g.record)} ({g.why})" for g in needed]
    more = [f"{len(told) - _SHOWN} more"] if len(told) > _SHOWN else []
    listed = ", ".join([*told[:_SHOWN], *more])
    return f"Nothing was removed, because this would be removed too: {listed}; --cascade allows it."


def commits_of(reader: Reader) -> int:
    """Return how many commits an index has seen."""
    return number_of(reader.connection)


def _label(record: Record | Part) -> str:
    return str(getattr(record, "name", None) or getattr(record, "id", ""))
