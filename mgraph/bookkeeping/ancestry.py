"""Lineage: what a node or connection was made from, back to training runs and imported files (no torch)."""

from __future__ import annotations

import json
from typing import Any

from mgraph.families import CompositePath
from mgraph.jobs.modes import ALIGNED
from mgraph.session.members import ends_of
from mgraph_store import Connection, GraphStore, Member, Node, NodeTerm, Reader, Run

Row = dict[str, Any]


def ancestry(store: GraphStore, subject: Node | Connection) -> Row:
    """Return a tree: ``id``, ``name``, ``kind``, the ``run`` that made it, its ``origin``, and what it is ``from``.

    Every branch says under ``as`` what it was for the one above: an end, the connection on which a point lies, the
    source of a sum with its coefficient, the node or connection from which another started, a piece of a path. Things
    already in the tree are only named again, marked ``seen``, without their branches.
    """
    with store.reading() as reader:
        return _Tree(reader).branch(subject)


class _Tree:
    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._seen: set[str] = set()

    def branch(self, subject: Node | Connection, **as_: Any) -> Row:
        row: Row = {**as_, "id": subject.id, "name": subject.name, "kind": subject.kind}
        if subject.id in self._seen:
            return row | {"seen": True}
        self._seen.add(subject.id)
        run = self._reader.all(Run, id=subject.run_id)[0] if subject.run_id else None
        settings = json.loads(run.settings) if run else {}
        if run is not None:
            row["run"] = {"id": run.id, "command": run.command, "seed": run.seed, "started": f"{run.started:%Y-%m-%d}"}
        if isinstance(subject, Connection):
            return row | {"from": self._of_connection(subject)}
        info = json.loads(subject.info)
        if origin := _origin(info):
            row["origin"] = origin
        return row | {"from": self._of_node(subject, info, settings)}

    def _of_connection(self, connection: Connection) -> list[Row]:
        settings = json.loads(connection.settings)
        rows = []
        if connection.kind == CompositePath.name:
            pieces = [self._connection(piece["connection"]) for piece in settings["of"]]
            rows += [self.branch(piece, **{"as": "piece"}) for piece in pieces if piece]
        else:
            rows += [self.branch(end, **{"as": "end"}) for end in ends_of(self._reader, connection)]
        if settings.get("init") and (init := self._connection(settings["init"])):
            rows.append(self.branch(init, **{"as": "started from"}))
        return rows

    def _of_node(self, node: Node, info: Row, settings: Row) -> list[Row]:
        reader = self._reader
        given = info.get("connection") or (settings.get("connection") if node.kind == "merged" else None)
        of = self._connection(given) if isinstance(given, str) else None
        if of is None and node.kind in ("control", "pivot", "sample"):
            places = reader.all(Member, node_id=node.id)
            found = [self._connection(m.connection_id) for m in places]
            # If there are several, the one that made it.
            made = [c for c in found if c is not None and c.run_id == node.run_id] or [
                c for c in found if c is not None
            ]
            of = made[0] if made else None
        rows = [] if of is None else [self.branch(of, **{"as": "point of"})]
        aligned = (("of", "a permutation of"), ("to", "aligned to")) if info.get("origin") == ALIGNED else ()
        for key, was in (("init", "trained from"), *aligned):
            named = reader.all(Node, id=info[key]) if isinstance(info.get(key), str) else []
            rows += [self.branch(node, **{"as": was}) for node in named]
        terms = {} if of is not None else {t.source_id: t.coefficient for t in reader.all(NodeTerm, node_id=node.id)}
        sources = {n.id: n for n in reader.all(Node, id=list(terms))} if terms else {}
        return rows + [self.branch(sources[i], **{"as": "source", "coefficient": c}) for i, c in terms.items()]

    def _connection(self, identifier: str) -> Connection | None:
        found = self._reader.all(Connection, id=identifier)
        return found[0] if found else None


_ORIGIN = ("origin", "file", "blake2b", "epoch", "cycle", "ema", "swa", "simplex", "vertex", "parameter", "soup")


def _origin(info: Row) -> Row:
    """Return what the node's info says about its origin: a file, a parameter, a choice."""
    return {key: info[key] for key in _ORIGIN if info.get(key) is not None}


def tree_lines(row: Row) -> list[str]:
    """Draw an ancestry as text, one line per item."""
    lines: list[str] = []
    stack = [(row, "", "", "")]
    while stack:
        item, indent, mark, below = stack.pop()
        lines.append(indent + mark + _line(item))
        children = item.get("from", [])
        for i, child in reversed(list(enumerate(children))):
            last = i == len(children) - 1
            stack.append((child, indent + below, "└─ " if last else "├─ ", "   " if last else "│  "))
    return lines


def _line(item: Row) -> str:
    name = item["name"] or item["id"]
    share = f" × {item['coefficient']:.4g}" if "coefficient" in item else ""
    parts = [f"{item['as']}: " if "as" in item else "", name, f" ({item['kind']})", share]
    if item.get("seen"):
        return "".join([*parts, ", see above"])
    if run := item.get("run"):
        seed = "" if run["seed"] is None else f", seed {run['seed']}"
        parts.append(f", {run['command']} {run['id']}{seed}, {run['started']}")
    if origin := item.get("origin"):
        parts.append("; " + ", ".join(f"{k} {v}" for k, v in origin.items()))
    return "".join(parts)
