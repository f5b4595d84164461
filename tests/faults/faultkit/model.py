"""What a graph must hold: all rows of all tables, and the digest of every node's numbers."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mgraph_store import GraphStore, Node, digest
from mgraph_store.index.changes import Changes
from mgraph_store.rows.schema import REFERENCES, TABLES, columns
from mgraph_store.upkeep.check import examine

Rows = dict[str, Counter[str]]


@dataclass
class Model:
    """Rows as JSON text, counted, by table; digests by node."""

    rows: Rows = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, store: GraphStore) -> Model:
        """Read a graph as it is."""
        with store.reading() as reader:
            added = Changes.of({kind: reader.all(kind) for kind in TABLES.values()}, ()).document()["add"]
            rows = {table: Counter(map(json.dumps, part["rows"])) for table, part in added.items() if part["rows"]}
            return cls(rows, {n.id: _value(store, n) for n in reader.all(Node)})

    def after(self, operation: dict[str, Any]) -> Model:
        """What it is after an operation that :mod:`faultkit.workload` has announced."""
        rows = {table: Counter(counts) for table, counts in self.rows.items()}
        for table, gone in operation.get("gone", {}).items():
            rows[table] -= Counter(map(json.dumps, gone))
        ids, forget = set(operation.get("ids", ())), set(operation.get("forget", ()))
        for table in rows if ids else ():
            names = [c.name for c in columns(TABLES[table])]
            places = [i for i, name in enumerate(names) if name in REFERENCES or name == "id"]
            own = names.index("node_id") if table == "node_terms" else None
            for text in list(rows[table]):
                row = json.loads(text)
                if any(row[i] in ids for i in places) or (own is not None and row[own] in forget):
                    del rows[table][text]
        for table, added in operation.get("add", {}).items():
            rows.setdefault(table, Counter()).update(map(json.dumps, added))
        values = {k: v for k, v in self.values.items() if k not in ids} | operation.get("values", {})
        return Model({table: counts for table, counts in rows.items() if counts}, values)


def operations(log: Path) -> list[dict[str, Any]]:
    """Read what the work has announced and finished; a last line that was cut off never began."""
    found: list[dict[str, Any]] = []
    for line in log.read_bytes().splitlines(keepends=True) if log.exists() else ():
        if not line.endswith(b"\n"):
            break
        entry = json.loads(line)
        if "what" in entry:
            found.append(entry)
        else:
            found[-1] |= entry
    return found


def verify(path: Path, before: Model, log: Path) -> Model:
    """Check a graph after a fault; what it is now. Nothing done is lost or changed, nothing half-done is visible."""
    store = GraphStore.open(path)
    expected = before
    unfinished: dict[str, Any] | None = None
    for operation in operations(log):
        assert unfinished is None
        if operation.get("done"):
            expected = expected.after(operation)
        elif not operation.get("failed"):
            unfinished = operation
    with store.reading():  # DuckDB is opened once, not for every node
        found, problems = Model.of(store), examine(store, deep=True)
    if found != expected:
        assert unfinished is not None, _difference(found, expected)
        other = expected.after(unfinished)
        assert found == other, f"neither {_difference(found, expected)} nor {_difference(found, other)}"
    assert problems == [], problems
    return found


def _value(store: GraphStore, node: Node) -> str:
    # A deep check compares the stored ones with their digests.
    computed = node.digest is None or node.columns is not None
    return digest(store.read_parameters(node)) if computed else str(node.digest)


def _difference(found: Model, expected: Model) -> str:
    parts = []
    for table in sorted({*found.rows, *expected.rows}):
        have, want = found.rows.get(table, Counter()), expected.rows.get(table, Counter())
        if have != want:
            parts.append(f"{table}: lost {list(want - have)[:3]}, too many {list(have - want)[:3]}")
    changed = {k for k in {*found.values, *expected.values} if found.values.get(k) != expected.values.get(k)}
    return f"{parts} values {sorted(changed)[:5]}"
