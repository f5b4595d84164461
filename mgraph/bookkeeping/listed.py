"""Nodes and connections listed together, with the columns that a table of them shows (no torch)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from mgraph.bookkeeping.listing import SIDES, Row, columns_named, list_columns, node_columns, sides_with, sort_keys
from mgraph.errors import InputError
from mgraph.notebook import InNotebook
from mgraph_store import GraphStore
from mgraph_store.index.filters import meant

KINDS = ("mode", "control", "pivot", "sample", "merged", "connection")
_OF_CONNECTIONS = ("name", "id", "kind", "ends", "status", "peak", "barrier")


@dataclass(frozen=True)
class Listed(InNotebook):
    """What was listed: rows by side, "nodes" and "connections", and for each side the columns to show.

    Only sides that have all the columns named are included.
    """

    rows: dict[str, list[Row]]
    columns: dict[str, tuple[str, ...]]

    @override
    def _shown(self) -> dict[str, Any]:
        return {
            side: [{column: row.get(column) for column in self.columns[side]} for row in rows]
            for side, rows in self.rows.items()
        }


def sides_of(kind: str | None) -> tuple[str, ...]:
    """Return the sides on which a kind is listed (None: all); InputError for an unknown kind."""
    if kind is not None and kind not in KINDS:
        raise InputError(f"There is no kind {kind!r}; choose from {', '.join(KINDS)}.")
    return {None: SIDES, "connection": ("connections",)}.get(kind, ("nodes",))


def columns_of(store: GraphStore, kind: str | None) -> list[Row]:
    """List the columns that rows of a kind have (None: all), with their meaning."""
    return list_columns(store, sides_of(kind))


def list_kinds(
    store: GraphStore,
    kind: str | None,
    columns: str | Sequence[str] | None,
    named_in: tuple[str | None, str | Sequence[str]],
    rows_of: Callable[[str], list[Row]],
) -> Listed:
    """List nodes and connections, or one ``kind``; ``rows_of`` returns the rows of a side.

    ``columns`` are shown instead of the usual ones or, with ``+`` before the first, in addition to them. ``named_in``
    are the filter expression and the sort keys: the columns that they name are shown too, and a side without them is
    left out. Raises InputError for columns that do not exist.
    """
    beside = columns is None or (isinstance(columns, str) and columns.startswith("+"))
    wanted = [] if columns is None else sort_keys(columns.removeprefix("+") if isinstance(columns, str) else columns)
    where, sort = named_in
    named = columns_named(where, sort) + wanted
    if named:  # as the expression may shorten them
        fields = [row["name"] for row in list_columns(store, sides_of(kind))]
        named = [meant(name, dict.fromkeys(fields)) for name in named]
    with store.reading():  # all of one moment, and the index opened once
        found = {side: rows_of(side) for side in sides_with(store, named, sides_of(kind))}
        usual = {"nodes": node_columns(store), "connections": _OF_CONNECTIONS}
    chosen = {side: _shown(usual[side], rows, named) if beside else tuple(wanted) for side, rows in found.items()}
    return Listed(found, chosen)


def _shown(usual: Sequence[str], rows: list[Row], named: list[str]) -> tuple[str, ...]:
    """Choose columns: the usual ones, those that were named, and tags if there are any."""
    tags = ["tags"] if any(row["tags"] for row in rows) else []
    return tuple(dict.fromkeys([*usual, *named, *tags]))
