"""Which digests an index has, as of one commit: a process that adds many things then need not open it for each.

That nobody has committed since is seen from the journal's counter. What is not known to be there may be there after all
(somebody may commit it at this very moment): then it is stored twice, and no harm is done.
"""

from __future__ import annotations

from collections.abc import Iterable

import duckdb

from mgraph_store.index.journal import Count

_MOST = 20_000
_ALL = "SELECT digest FROM nodes WHERE digest IS NOT NULL UNION ALL SELECT digest FROM node_buffers"


class KnownDigests:
    """The digests of all rows, and the counter for which they hold."""

    def __init__(self) -> None:
        self._state: tuple[Count, set[str]] | None = None

    def lack(self, count: Count | None, wanted: Iterable[str]) -> bool:
        """Return whether an index with this counter surely has none of these digests."""
        state = self._state
        return state is not None and count == state[0] and state[1].isdisjoint(wanted)

    def learn(self, con: duckdb.DuckDBPyConnection, count: Count | None) -> None:
        """Read the digests of an index, if they are not very many; the caller holds the lock."""
        found = con.execute(f"{_ALL} LIMIT {_MOST + 1}").fetchall() if count is not None else []
        self._state = None if count is None or len(found) > _MOST else (count, {digest for (digest,) in found})

    def add(self, before: Count, after: Count, digests: Iterable[str | None]) -> None:
        """Take note of a commit of this process, which added rows with these digests."""
        state = self._state
        if state is not None and state[0] == before:
            state[1].update(digest for digest in digests if digest is not None)
            self._state = (after, state[1])
