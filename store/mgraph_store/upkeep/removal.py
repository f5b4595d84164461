"""Removing nodes, connections, sweeps and spaces, with what belongs to them and, if wanted, what depends on them.

What *belongs* to a connection is removed with it: its control points and samples, its sweeps, all numbers measured
there. What *depends* on something else exists in its own right: a connection that ends in a node, a node that is
computed from it, anything in a space. Removal is refused while such a thing remains, or removes it too (``cascade``).

A merged node has its own tensors and depends on nothing: it stays, and only loses its recipe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mgraph_store.errors import StillNeededError, StoreError
from mgraph_store.folder import Root
from mgraph_store.rows.records import Connection, Member, Node, NodeTerm, Record, Run, Space, Sweep
from mgraph_store.rows.schema import REFERENCES, TABLES, columns
from mgraph_store.underway import Life, Sighting
from mgraph_store.upkeep.collect import remove_objects

if TYPE_CHECKING:
    from mgraph_store.index.reader import Reader
    from mgraph_store.store import GraphStore

Target = Node | Connection | Sweep | Space

_OWNED = ("control", "pivot", "sample")  # kinds of nodes that belong to their connection
_SHOWN = 6


@dataclass(frozen=True)
class Goes:
    """One thing to be removed, and why: it was asked for, or what it belongs to or depends on."""

    record: Target
    why: str
    depends: bool = False

    @property
    def kind(self) -> str:
        """The kind of node, or connection, sweep or space."""
        record = self.record
        return record.kind if isinstance(record, Node) else type(record).__name__.lower()


@dataclass(frozen=True)
class Removal:
    """A plan: what is removed, which nodes lose their recipe, which tensor objects are freed.

    ``abandoned`` are interrupted runs that cannot be resumed without what is removed.
    """

    targets: tuple[Target, ...]
    cascade: bool
    goes: tuple[Goes, ...]
    forget: tuple[str, ...]
    free: tuple[str, ...]
    abandoned: tuple[str, ...] = ()

    def apply(self, store: GraphStore) -> None:
        """Remove the rows in one transaction, then the tensors that nothing refers to any more.

        Raises
        ------
        StoreError
            If the graph has changed since, so that the plan is no longer right.
        """

        def still_right(reader: Reader) -> None:
            if plan_removal(reader, self.targets, cascade=self.cascade, graph=store.folder.root) != self:
                raise StoreError("The graph has changed since this was planned; nothing was removed: look again.")

        with store.transaction() as tx:
            tx.require(still_right)
            for kind in (Node, Connection, Sweep, Space):
                ids = [g.record.id for g in self.goes if isinstance(g.record, kind)]
                for record in TABLES.values():
                    for column in columns(record):
                        if REFERENCES.get(column.name) is kind:
                            tx.remove(record, column.name, ids)
                tx.remove(kind, "id", ids)
            tx.remove(NodeTerm, "node_id", self.forget)
        remove_objects(store, self.free)


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
        level = [g for g in _following(reader, goes) if g.record.id not in goes]
    needed = [g for g in goes.values() if g.depends]
    if needed and not cascade:
        raise StillNeededError(_refusal(needed))
    runs = [(run, need) for run in _resumable(reader) if (need := _needed_by(run, goes)) is not None]
    if not cascade:
        for run, need in runs:
            _require_ended(run, need, graph)
    nodes = [g.record.id for g in goes.values() if isinstance(g.record, Node)]
    return Removal(
        tuple(targets),
        cascade,
        tuple(goes.values()),
        _forgetful(reader, nodes),
        _free(reader, nodes),
        tuple(run.id for run, _ in runs),
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
    # A plan names what it works on by ids, which are long and random, so no other text looks like one.
    return next((g for identifier, g in goes.items() if f'"{identifier}"' in (run.plan or "")), None)


def _following(reader: Reader, goes: dict[str, Goes]) -> list[Goes]:
    # One step: what belongs to the things to be removed, and what depends on them.
    nodes, connections, spaces = (
        {i: g.record for i, g in goes.items() if isinstance(g.record, kind)} for kind in (Node, Connection, Space)
    )
    found: list[Goes] = []
    if connections:
        found += _belonging(reader, connections)
    if nodes:
        found += _ending(reader, nodes, goes)
        found += _computed(reader, nodes, goes)
    for space in spaces.values():
        inside: list[Any] = [*reader.all(Connection, space_id=space.id), *reader.all(Node, space_id=space.id)]
        found += [Goes(record, f"it is in space {space.name}", True) for record in inside]
    return found


def _ending(reader: Reader, nodes: dict[str, Any], goes: dict[str, Goes]) -> list[Goes]:
    # Connections of which a node is an end, a control point or a sample.
    places: dict[str, Member] = {}
    for m in reader.all(Member, node_id=list(nodes)):
        if m.connection_id not in goes:
            places.setdefault(m.connection_id, m)
    found = []
    for c in reader.all(Connection, id=list(places)) if places else []:
        role = places[c.id].role
        found.append(
            Goes(c, f"{_label(nodes[places[c.id].node_id])} is {'an' if role == 'end' else 'a'} {role} of it", True)
        )
    return found


def _computed(reader: Reader, nodes: dict[str, Any], goes: dict[str, Goes]) -> list[Goes]:
    # Nodes that are sums of a node; if they belong to connections, those connections.
    uses = {t.node_id: t.source_id for t in reader.all(NodeTerm, source_id=list(nodes)) if t.node_id not in goes}
    users = reader.all(Node, id=list(uses), where="kernel IS NOT NULL") if uses else []
    owners: dict[str, list[str]] = {}
    for m in reader.all(Member, node_id=[n.id for n in users], where="role <> 'end'") if users else []:
        owners.setdefault(m.node_id, []).append(m.connection_id)
    found, through = [], dict[str, Node]()
    for n in users:
        if n.id in owners and n.kind in _OWNED and n.name is None:
            through |= dict.fromkeys(owners[n.id], n)
        else:
            found.append(Goes(n, f"it is computed from {_label(nodes[uses[n.id]])}", True))
    connections = reader.all(Connection, id=list(through)) if through else []
    for c in connections:
        part = through[c.id]
        found.append(Goes(c, f"its {part.kind} {part.id} is computed from {_label(nodes[uses[part.id]])}", True))
    return found


def _belonging(reader: Reader, connections: dict[str, Any]) -> list[Goes]:
    members = reader.all(Member, connection_id=list(connections), where="role <> 'end'")
    owner = {m.node_id: m.connection_id for m in members}
    elsewhere = {m.node_id for m in reader.all(Member, node_id=list(owner)) if m.connection_id not in connections}
    nodes = reader.all(Node, id=list(owner), kind=list(_OWNED), name=None) if owner else []
    found = [Goes(n, f"it belongs to {_label(connections[owner[n.id]])}") for n in nodes if n.id not in elsewhere]
    sweeps = reader.all(Sweep, connection_id=list(connections))
    return [Goes(s, f"it belongs to {_label(connections[s.connection_id])}") for s in sweeps] + found


def _forgetful(reader: Reader, nodes: list[str]) -> tuple[str, ...]:
    if not nodes:
        return ()
    sql = (
        "SELECT DISTINCT t.node_id FROM node_terms t JOIN nodes n ON n.id = t.node_id WHERE n.kernel IS NULL AND "
        "t.source_id IN (SELECT unnest($1::VARCHAR[])) AND n.id NOT IN (SELECT unnest($1::VARCHAR[])) ORDER BY 1"
    )
    return tuple(row[0] for row in reader.query(sql, [nodes])[1])


def _free(reader: Reader, nodes: list[str]) -> tuple[str, ...]:
    theirs, others = (reader.tensor_keys(of=nodes), reader.tensor_keys(without=nodes)) if nodes else (set(), set())
    return tuple(sorted(theirs - others))


def _refusal(needed: Sequence[Goes]) -> str:
    told = [f"{g.kind} {_label(g.record)} ({g.why})" for g in needed]
    more = [f"{len(told) - _SHOWN} more"] if len(told) > _SHOWN else []
    listed = ", ".join([*told[:_SHOWN], *more])
    return f"Nothing was removed, because this would be removed too: {listed}; --cascade allows it."


def _label(record: Record) -> str:
    return str(getattr(record, "name", None) or getattr(record, "id", ""))
