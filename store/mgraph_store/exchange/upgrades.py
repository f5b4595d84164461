"""Bringing rows of bundles packed by an older mgraph to the present format.

A bundle of an older format lacks what a migration would have added to the graph it came from
(:mod:`mgraph_store.index.migrations`): columns with their defaults, then one function for each version.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from mgraph_store.exchange.closure import Rows
from mgraph_store.rows.metrics import metrics_of_format_1
from mgraph_store.rows.records import Edge, Evaluation, Member, Node, Space, Sweep
from mgraph_store.rows.schema import FORMAT_VERSION

NEW_COLUMNS = {2: frozenset({"edges.chosen_on", "edges.doubt", "spaces.metrics", "sweeps.metrics"})}
"""Version → the columns that it added; each has a default."""


def new_since(version: int) -> frozenset[str]:
    """Return the columns, as table.column, that rows of an older format lack."""
    return frozenset().union(*(added for since, added in NEW_COLUMNS.items() if since > version))


def upgrade(rows: Rows, version: int) -> Rows:
    """Bring rows of a bundle, which by now have all columns, from a format to the present one."""
    for step in range(version, FORMAT_VERSION):
        rows = UPGRADES[step](rows)
    return rows


def _routes_by_their_own_numbers(rows: Rows) -> Rows:
    """Lead from 1 to 2, as the migration does."""
    ends = Counter(m.connection_id for m in rows[Member] if m.role == "end")

    def chosen_on(edge: Edge) -> str:
        if ends[edge.connection_id] <= 2:
            return "path"
        return "train loss" if (edge.split, edge.metric) == ("train", "loss") else "oracle"

    return rows | {Edge: [replace(edge, chosen_on=chosen_on(edge)) for edge in rows[Edge]]}


def _metrics_with_a_direction(rows: Rows) -> Rows:
    """Lead from 1 to 2, as the migration does."""
    space_of = {node.id: node.space_id for node in rows[Node]}
    measured: dict[str, set[str]] = {}
    for row in rows[Evaluation]:
        measured.setdefault(row.sweep_id or space_of[row.node_id], set()).add(row.metric)

    def known(record: Space | Sweep) -> str:
        return metrics_of_format_1(measured.get(record.id, ()))

    return rows | {kind: [replace(record, metrics=known(record)) for record in rows[kind]] for kind in (Space, Sweep)}


def _to_2(rows: Rows) -> Rows:
    return _metrics_with_a_direction(_routes_by_their_own_numbers(rows))


UPGRADES: dict[int, Callable[[Rows], Rows]] = {1: _to_2}
