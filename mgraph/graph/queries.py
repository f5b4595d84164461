"""Queries answered from stored edges (no torch): a part of :class:`mgraph.Graph`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

from mgraph.graph.base import Opened
from mgraph.query.criterion import Criteria, Criterion
from mgraph.query.metrics import criterion_in

if TYPE_CHECKING:
    from mgraph.graph.handles import Point
    from mgraph.query.answers import QueryResult
    from mgraph.query.components import Components, Neighbours
    from mgraph.query.routes import Route
    from mgraph.query.tree import Dendrogram, SpanningForest
    from mgraph_store import Space


class Queries(Opened):
    """The queries; :class:`~mgraph.query.criterion.Criteria` lists their common keywords.

    InputError if no edge was measured in that way.
    """

    def components(self, *, space: str | None = None, **criteria: Unpack[Criteria]) -> Components:
        """Group modes connected by edges within one limit: ``g.components(max_barrier=0.1)``."""
        from mgraph.query.components import components

        return components(self.session.store, *self._asked(space, criteria, threshold=True))

    def route(
        self, start: Point | str, goal: Point | str, *, space: str | None = None, **criteria: Unpack[Criteria]
    ) -> Route:
        """Find the best way from a mode to another: lowest maximum, then shortest: ``g.route("a", "b")``.

        Raises NotFoundError if there is none.
        """
        from mgraph.query.routes import route

        ends = self._node(start), self._node(goal)
        criterion, within = self._asked(space, criteria)
        return route(self.session.store, criterion, *ends, within)

    def mst(self, *, space: str | None = None, **criteria: Unpack[Criteria]) -> SpanningForest:
        """Return the minimum spanning tree of the edges, one for every component: ``g.mst(by="barrier").edges``."""
        from mgraph.query.tree import spanning_forest

        return spanning_forest(self.session.store, *self._asked(space, criteria))

    def dendrogram(self, *, space: str | None = None, **criteria: Unpack[Criteria]) -> Dendrogram:
        """Return the values at which groups of modes merge: ``print(g.dendrogram())``."""
        from mgraph.query.tree import dendrogram

        return dendrogram(self.session.store, *self._asked(space, criteria))

    def neighbours(self, node: Point | str, *, space: str | None = None, **criteria: Unpack[Criteria]) -> Neighbours:
        """Return the best edge to each neighbour of a mode, best first: ``g.neighbours("a", max_barrier=0.1)``."""
        from mgraph.query.components import neighbours

        criterion, within = self._asked(space, criteria)
        return neighbours(self.session.store, criterion, self._node(node), within)

    def isolated(self, *, space: str | None = None, **criteria: Unpack[Criteria]) -> list[dict[str, Any]]:
        """Return the modes that no edge reaches, each with the reason: ``g.isolated(max_barrier=0.1)``."""
        from mgraph.query.components import isolated

        return isolated(self.session.store, *self._asked(space, criteria))

    def sql(self, query: str, *, max_seconds: float | None = None) -> QueryResult:
        """Run one SQL statement that only reads: ``g.sql("SELECT name, test_accuracy FROM modes").df()``.

        It sees the tables of the index and the views ``modes``, ``connections``, ``edges``, ``samples`` and
        ``evaluations``, and nothing else. The answer has ``columns``, ``rows``, ``records()``, ``df()`` (with pandas),
        ``arrow()`` (with pyarrow) and ``write("x.parquet")``. Raises InputError for anything that does more than read.
        """
        from mgraph.query.answers import ask

        return ask(self.session.store, query, max_seconds=max_seconds)

    def views(self) -> list[dict[str, str]]:
        """List the views that :meth:`sql` sees, with their columns: name, type, unit and meaning."""
        from mgraph.query.answers import list_views

        return list_views(self.session.store)

    def to_networkx(self, *, space: str | None = None) -> Any:
        """Return the modes and measured edges as a networkx MultiGraph."""
        from mgraph.query.asnetworkx import to_networkx

        return to_networkx(self.session.store, self._space_of(space))

    def _asked(
        self, space: str | None, criteria: Criteria, *, threshold: bool = False
    ) -> tuple[Criterion, Space | None]:
        """Return the criterion and the space to query."""
        within = self._space_of(space)
        return criterion_in(self.session.store, within, threshold=threshold, **criteria), within
