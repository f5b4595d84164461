"""The base of every part of :class:`mgraph.Graph`: its session, and looking up names."""

from __future__ import annotations

from collections.abc import Sequence

from mgraph.errors import InputError
from mgraph.graph.handles import Connected, Point
from mgraph.session.session import Session
from mgraph_store import Connection, GraphStore, Node, Space


class Opened:
    """An open graph, which resolves text, or an object that it returned, to a node or connection."""

    def __init__(
        self,
        store: GraphStore,
        *,
        device: str = "auto",
        trust: bool = False,
        threads: int | None = None,
        workers: int | None = None,
    ) -> None:
        self.session = Session(store, device=device, trust=trust, threads=threads, workers=workers)

    def find(self, text: str) -> Point | Connected:
        """Look up a node or connection by name, id, or id prefix of at least four characters."""
        with self.session.store.reading() as reader:
            found = reader.find(text)
        return Connected(self.session, found) if isinstance(found, Connection) else Point(self.session, found)

    def names(
        self, beginning: str = "", *, of: Sequence[str] = ("node", "connection", "space"), limit: int = 1000
    ) -> list[tuple[str, str]]:
        """List names in the graph that begin so, each with its kind: ``g.names("su")`` → ``[("surface", "surface")]``.

        Modes, merged nodes and connections without a name are listed by their id. ``of`` chooses among node, connection
        and space; InputError for anything else.
        """
        from mgraph.bookkeeping.names import names

        return names(self.session.store, beginning, of, limit)

    def node(self, text: str) -> Point:
        """Look up a node; NotFoundError or AmbiguousError otherwise."""
        return Point(self.session, self._node(text))

    def connection(self, text: str) -> Connected:
        """Look up a connection; InputError if the name belongs to a node."""
        found = self.find(text)
        if isinstance(found, Point):
            raise InputError(f"{text} is a {found.kind}, not a connection.")
        return found

    def _connection(self, given: Connected | str) -> Connected:
        return given if isinstance(given, Connected) else self.connection(given)

    def _node(self, given: Point | str) -> Node:
        if isinstance(given, Point):
            return given.record
        found = self.find(given)
        if isinstance(found, Connected):
            raise InputError(f"{given} is a connection, not a node.")
        return found.record

    def _space_of(self, name: str | None) -> Space | None:
        return None if name is None else self.session.space(name)
