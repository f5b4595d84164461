"""Everything that the page shows of a graph, as plain data for its one JSON island."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from mgraph.bookkeeping import listing
from mgraph.bookkeeping.ancestry import ancestry, tree_lines
from mgraph.page.plain import number, plain, quoted
from mgraph.page.running import under_way
from mgraph.page.structure import structures
from mgraph.page.sweeps import EDGE, SweepCache, connection_rows
from mgraph.query.criterion import NODE_KINDS
from mgraph_store import Evaluation, GraphStore, Measure, Node, Run, Series, Space
from mgraph_store.rows.records import now
from mgraph_store.underway import process_of, versions_of

Row = dict[str, Any]

POINTS_BUDGET = 3_000_000
"""Bytes of JSON for the points of sweeps: with ECharts and the rest, a page then stays below 5 MB."""
_HISTORIES_BUDGET = 400_000
_SETTINGS_BUDGET = 400_000
LINEAGES = 200
"""Nodes whose ancestry is shown, the oldest: each costs some readings."""


@dataclass
class Contents:
    """What the page of one graph shows; what never changes is read once, however often the page is written."""

    store: GraphStore
    _sweeps: SweepCache = field(default_factory=SweepCache)
    _lineages: dict[str, list[str]] = field(default_factory=dict)

    def read(self, *, seconds: float | None = None) -> Row:
        """Read the graph; ``seconds`` is how often the page is written again.

        Only short readings are made, so that no run under way is kept from storing what it has found; a page may
        therefore show a thing of which another part does not know yet.
        """
        store = self.store
        nodes = listing.list_nodes(store, kinds=NODE_KINDS)
        connections = listing.list_connections(store)
        details, left_out = connection_rows(store, self._sweeps, POINTS_BUDGET)
        return {
            "format": 1,
            "graph": plain(store.path.name),
            "beside": quoted(store.path.name),
            "made": plain(now()),
            "seconds": seconds,
            "mgraph": metadata.version("mgraph"),
            "spaces": self._spaces(),
            "nodes": [plain(row) for row in nodes],
            "node_columns": list(listing.node_columns(store)),
            "node_details": self._node_details([str(row["id"]) for row in nodes]),
            "connections": [plain(row) for row in connections],
            "connection_details": details,
            "edge_columns": list(EDGE),
            "left_out": left_out,
            "structures": structures(store),
            "runs": self._runs(),
            "under_way": under_way(store),
        }

    def _spaces(self) -> list[Row]:
        with self.store.reading() as reader:
            records = {space.id: space for space in reader.all(Space, order="created, rowid")}
        rows = []
        for row in listing.list_spaces(self.store):
            space = records.get(row["id"])
            if space is not None:
                facts = {"data_hash": space.data_hash, "layout_hash": space.layout_hash, "created": space.created}
                row |= facts | {"code": json.loads(space.factories)}
            rows.append(plain(row))
        return rows

    def _node_details(self, ids: list[str]) -> dict[str, Row]:
        """Return what a node's own view shows beside its row in the table."""
        details: dict[str, Row] = {i: {"evaluations": [], "measures": [], "history": []} for i in ids}
        with self.store.reading() as reader:
            for node in reader.all(Node, id=ids) if ids else []:
                info = plain(json.loads(node.info))
                details[node.id] |= {"info": info, "digest": node.digest, "selected_on": node.selected_on}
            for e in reader.all(Evaluation, sweep_id=None):
                if e.node_id in details:
                    names = ("split", "metric", "value", "standard_error", "count", "batchnorm", "subset")
                    details[e.node_id]["evaluations"].append(plain({name: getattr(e, name) for name in names}))
            for m in reader.all(Measure, node_id=ids) if ids else []:
                names = ("quantity", "radius", "statistic", "value", "standard_error", "samples", "split")
                details[m.node_id]["measures"].append(plain({name: getattr(m, name) for name in names}))
            histories: dict[str, list[Row]] = defaultdict(list)
            for s in reader.all(Series, node_id=ids) if ids else []:
                values = [number(float(v), 4) for v in s.values]
                one = {"quantity": plain(s.quantity), "at": [number(float(p), 8) for p in s.positions]}
                histories[str(s.node_id)].append(one | {"values": values})
        budget = _HISTORIES_BUDGET
        for node_id, rows in histories.items():
            budget -= len(json.dumps(rows, separators=(",", ":")))
            details[node_id]["history"] = rows if budget >= 0 else None  # None: left out
        for i, node_id in enumerate(ids):
            details[node_id]["ancestry"] = self._lineage(node_id) if i < LINEAGES else None  # None: left out
        return details

    def _lineage(self, node_id: str) -> list[str]:
        if node_id not in self._lineages:
            with self.store.reading() as reader:
                found = reader.all(Node, id=node_id)
            if not found:  # removed meanwhile
                return []
            self._lineages[node_id] = plain(tree_lines(ancestry(self.store, found[0])))
        return self._lineages[node_id]

    def _runs(self) -> Row:
        """Return the run log, the settings of each run, and the versions and machines on which runs ran."""
        rows = [plain(row) for row in listing.list_runs(self.store)]
        with self.store.reading() as reader:
            runs = {run.id: run for run in reader.all(Run)}
        places: Counter[str] = Counter()
        budget = _SETTINGS_BUDGET
        for row in reversed(rows):  # the settings of the newest runs come first
            run = runs.get(row["id"])
            if run is None:
                continue
            budget -= len(run.settings)
            row["settings"] = plain(json.loads(run.settings)) if budget >= 0 else None  # None: left out
            row["threads"] = run.threads
            where = {"host": process_of(run).host, "device": run.device} | versions_of(run)
            place = json.dumps(plain(where), sort_keys=True)
            places[place] += 1
            row["place"] = list(places).index(place)
        return {"rows": rows, "places": [json.loads(p) | {"runs": n} for p, n in places.items()]}
