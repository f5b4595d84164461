"""Rows of bundles that an older mgraph packed, as the present format has them.

What a bundle of an older format lacks is what a migration would have added to the graph it came from
(:mod:`mgraph_store.index.migrations`): columns with their defaults, then one function for each version.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from mgraph_store.exchange.closure import Rows
from mgraph_store.rows.records import Edge, Member
from mgraph_store.rows.schema import FORMAT_VERSION

NEW_COLUMNS = {2: frozenset({"edges.chosen_on", "edges.doubt"})}
"""Version → the columns that it brought; each has a default."""


def new_since(version: int) -> frozenset[str]:
    """Return the columns, as table.column, that rows of an older format lack."""
    return frozenset().union(*(added for since, added in NEW_COLUMNS.items() if since > version))


def upgrade(rows: Rows, version: int) -> Rows:
    """Bring rows of a bundle, which have all columns by now, from a format to the present one."""
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


UPGRADES: dict[int, Callable[[Rows], Rows]] = {1: _routes_by_their_own_numbers}
