"""What can be named in a graph, for the completion of what a user begins to type (no torch)."""

from __future__ import annotations

from collections.abc import Sequence

from mgraph.errors import InputError
from mgraph_store import GraphStore

_KNOWN = {
    # What people see as an id in lists, for want of a name, is completed too; swept points and controls are not listed.
    "node": "SELECT coalesce(name, id) AS said, kind, created FROM nodes WHERE name IS NOT NULL OR kind IN ('mode', "
    "'merged')",
    "connection": "SELECT coalesce(name, id) AS said, kind, created FROM connections",
    "space": "SELECT name AS said, 'space' AS kind, created FROM spaces",
}


def names(store: GraphStore, beginning: str, of: Sequence[str], limit: int) -> list[tuple[str, str]]:
    """List names (or the ids of what has none) that begin so, each with its kind, the oldest first.

    ``of`` are node, connection or space; InputError for anything else.
    """
    for what in of:
        if what not in _KNOWN:
            raise InputError(f"Names are those of a {', '.join(_KNOWN)}, not of a {what!r}.")
    if not of:
        return []
    rows = " UNION ALL ".join(_KNOWN[what] for what in dict.fromkeys(of))
    sql = f"SELECT said, kind FROM ({rows}) WHERE starts_with(said, ?) ORDER BY created, said LIMIT ?"
    with store.reading() as reader:
        return [(said, kind) for said, kind in reader.query(sql, [beginning, limit])[1]]
