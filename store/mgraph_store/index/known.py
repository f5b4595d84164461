"""What a process remembers of an index, as of one commit: ids, names and digests.

So a process that adds many things need not open the index for each, neither to find out whether the graph already has
the same numbers, nor to verify that new rows fit those that are there. What others have committed since is read from
the journal. Only what is certain is said: if rows *may* not fit, the index is asked, and gives the reason.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb

from mgraph_store.errors import CorruptError, FormatError
from mgraph_store.index.changes import rows_of
from mgraph_store.index.commits import number_of
from mgraph_store.index.journal import Count, Journal
from mgraph_store.rows.constraints import NAMED
from mgraph_store.rows.records import GridTerm, Node, NodeBuffers, NodeTerm, PointBlock, PointGrid, Record, TermBlock
from mgraph_store.rows.schema import REFERENCES, STORED, TABLE_OF, columns, stored_in
from mgraph_store.rows.statements import run

_MOST = 20_000  # rows with an id, or a digest
_FEW = 2_000  # rows of one commit; more are verified in the index, which has to take them up anyway
_LITTLE = 1 << 20  # bytes of the journal; of more, it is quicker to ask the index
_GROUP = {table: group for group, (tables, _) in enumerate(NAMED) for table in tables}
_NEEDED = ("id", "name", "digest", "tensor_key", "columns")


_FURTHER = (NodeTerm, TermBlock, GridTerm, PointBlock, NodeBuffers)
"""Rows of which more must be known than that what they refer to is there."""


def _named(records: Sequence[Record], column: str) -> set[Any]:
    """Collect what a column of rows has, one value or a list in each, without None."""
    found: set[Any] = set()
    for value in [getattr(record, column) for record in records]:
        if value is None or isinstance(value, str):
            found.add(value)
        else:
            found.update(value)
    return found - {None}


def _columns(table: str) -> list[str]:
    """List the columns of a table of which anything must be known; none if nothing must."""
    names = [c.name for c in columns(STORED[table])]
    return [n for n in _NEEDED if n in names] if names[0] == "id" or "digest" in names else []


_TABLES = {table: listed for table in STORED if (listed := _columns(table))}


@dataclass
class _Rows:
    """What is known as of one commit."""

    at: Count
    ids: dict[str, set[str]] = field(default_factory=lambda: {table: set() for table in STORED})
    names: list[dict[str, str]] = field(default_factory=lambda: [{} for _ in NAMED])
    named: dict[str, str] = field(default_factory=dict)
    digests: set[str] = field(default_factory=set)
    grids: dict[str | None, int] = field(default_factory=dict)
    """How many points a grid has; of new ones, this is verified anyway."""
    stored: set[str] = field(default_factory=set)
    """Nodes with all their parameters, of which sums may be made without further ado."""

    def take(self, table: str, listed: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Take note of new or changed rows."""
        at = {name: i for i, name in enumerate(listed)}
        own, digest, is_node = at.get("id"), at.get("digest"), table == TABLE_OF[Node]
        ids, group = self.ids[table], _GROUP.get(table)
        for row in rows:
            if digest is not None and row[digest] is not None:
                self.digests.add(row[digest])
            identifier = None if own is None else row[own]
            if identifier is None:
                continue
            ids.add(identifier)
            if is_node and row[at["tensor_key"]] is not None and row[at["columns"]] is None:
                self.stored.add(identifier)
            elif is_node:
                self.stored.discard(identifier)
            if group is not None:
                self._take_name(group, identifier, row[at["name"]])

    def _take_name(self, group: int, identifier: str, name: str | None) -> None:
        former = self.named.pop(identifier, None)
        if former is not None:
            self.names[group].pop(former, None)
        if name is not None:
            self.names[group][name] = identifier
            self.named[identifier] = name

    def follow(self, document: Mapping[str, Any]) -> bool:
        """Take note of what a commit changed; whether that was possible."""
        if "remove" in document:
            return False
        for key in ("add", "update"):
            for table, part in document.get(key, {}).items():
                if table not in STORED:
                    return False
                listed = _TABLES.get(table, [])
                if listed:
                    places = [part["columns"].index(name) for name in listed]
                    self.take(table, listed, ([row[i] for i in places] for row in part["rows"]))
                if table == TABLE_OF[PointGrid]:
                    for identifier, u, v in rows_of(table, part):
                        self.grids[identifier] = len(u) * len(v)
        return sum(map(len, self.ids.values())) <= _MOST

    def fit(self, added: Mapping[type[Any], Sequence[Record]]) -> bool:
        """Return whether it is certain that these rows may be added."""
        if sum(map(len, added.values())) > _FEW:
            return False
        new: dict[type[Any], set[str]] = {kind: set() for kind in STORED.values()}
        names: list[set[str]] = [set() for _ in NAMED]
        stored, buffers = set[str](), set[tuple[str, str]]()
        for kind, records in added.items():
            table = TABLE_OF[kind]
            if columns(kind)[0].name == "id":
                new[kind] = {record.id for record in records}  # type: ignore[union-attr]
                if len(new[kind]) < len(records) or not new[kind].isdisjoint(self.ids[table]):
                    return False
            for record in records:
                name = getattr(record, "name", None)
                if name is not None and table in _GROUP:
                    if name in self.names[_GROUP[table]] or name in names[_GROUP[table]]:
                        return False
                    names[_GROUP[table]].add(name)
                if isinstance(record, Node):
                    if record.columns is not None:
                        return False
                    if record.tensor_key is not None:
                        stored.add(record.id)
        for kind, records in added.items():
            referring = [(c.name, target) for c in columns(kind) if (target := REFERENCES.get(c.name))]
            for name, target in referring:
                there, added_now = self.ids[TABLE_OF[target]], new[target]
                if any(value not in there and value not in added_now for value in _named(records, name)):
                    return False
            for record in records if kind in _FURTHER else ():
                if isinstance(record, NodeTerm | TermBlock | GridTerm) and not any(
                    record.source_id in some for some in (self.stored, stored)
                ):
                    return False
                if isinstance(record, PointBlock) and not self._are_inside(record, new[PointGrid]):
                    return False
                if isinstance(record, NodeBuffers):
                    if record.node_id not in new[Node] or (record.node_id, record.policy) in buffers:
                        return False
                    buffers.add((record.node_id, record.policy))
        return True

    def _are_inside(self, block: PointBlock, new: set[str]) -> bool:
        """Return whether the points of a block are on no grid or a new one, or on one that has their places."""
        places = () if block.grid_id in new else block.places or ()
        return max(places, default=-1) < self.grids.get(block.grid_id, 0)


class Known:
    """What is known of an index; all but :meth:`lack` is called under the graph's lock."""

    def __init__(self) -> None:
        self._rows: _Rows | None = None
        self._missed = 0

    def __bool__(self) -> bool:
        return self._rows is not None

    def lack(self, count: Count | None, wanted: Iterable[str]) -> bool:
        """Return whether a graph with this last commit surely has none of these digests."""
        rows = self._rows
        return rows is not None and count == rows.at and rows.digests.isdisjoint(wanted)

    def fit(self, added: Mapping[type[Any], Sequence[Record]]) -> bool:
        """Return whether it is certain that these rows may be added, after :meth:`follow`."""
        return self._rows is not None and self._rows.fit(added)

    def learn(self, con: duckdb.DuckDBPyConnection, journal: Journal) -> None:
        """Read an index that is up to date, unless that is known already, or it has very many rows."""
        count = journal.count()
        if count is None or self.follow(journal, count) or journal.is_former() or number_of(con) != count.number:
            return
        parts = []
        for table, listed in _TABLES.items():
            wanted = ", ".join(f'"{name}"' if name in listed else "NULL" for name in _NEEDED)
            parts.append(f"SELECT '{table}', {wanted} FROM {stored_in(table)}")
        found = con.execute(f"{' UNION ALL '.join(parts)} LIMIT {_MOST + 1}").fetchall()
        if len(found) <= _MOST:
            rows = _Rows(count)
            for table, *values in found:
                rows.take(table, _NEEDED, [values])
            rows.grids |= dict(run(con, "SELECT id, len(u) * len(v) FROM point_grids").fetchall())
            self._rows = rows

    def miss(self, con: duckdb.DuckDBPyConnection, journal: Journal) -> None:
        """Learn if this is not the first time that it would have been of use."""
        self._missed += 1
        if self._missed > 1:
            self.learn(con, journal)

    def follow(self, journal: Journal, count: Count) -> bool:
        """Take note of what was committed up to now; return whether everything is known."""
        rows = self._rows
        if rows is None or rows.at == count:
            return rows is not None
        self._rows = None
        goes_on = count.generation == rows.at.generation and count.number > rows.at.number
        little = count.length - rows.at.length <= _LITTLE
        # Whatever is wrong with a record, the index says it when it takes it up.
        with contextlib.suppress(CorruptError, FormatError, LookupError, TypeError, ValueError, AttributeError):
            if goes_on and little and all(rows.follow(entry.document) for entry in journal.since(rows.at, count)):
                rows.at, self._rows = count, rows
        return self._rows is not None

    def add(self, before: Count, after: Count, document: Mapping[str, Any]) -> None:
        """Take note of a commit of this process."""
        rows = self._rows
        if rows is not None and rows.at == before:
            self._rows = None
            if rows.follow(document):
                rows.at, self._rows = after, rows
