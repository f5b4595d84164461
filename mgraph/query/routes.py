"""The best route between two modes, edge by edge, with its parameters in each connection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from mgraph.errors import InputError, NotFoundError
from mgraph.notebook import InNotebook
from mgraph.query.components import place_of
from mgraph.query.criterion import Criterion
from mgraph.query.damaged import contradiction
from mgraph.query.edges import CountingEdges, Link, Vertex, load_edges, rows_of
from mgraph.query.remarks import remarks
from mgraph_store import GraphStore, Member, Node, Reader, Space


@dataclass(frozen=True)
class RouteStep:
    """One edge of a route, in the direction of travel.

    ``nodes`` are those along it, source first; ``parameters`` are theirs in the connection: t on a path, (u, v) on a
    surface, barycentric coordinates on a simplex.
    """

    link: Link
    nodes: tuple[str, ...]
    parameters: tuple[tuple[float, ...], ...]

    def row(self) -> dict[str, Any]:
        """Return it as plain data."""
        return self.link.row() | {"nodes": list(self.nodes), "parameters": [list(p) for p in self.parameters]}


@dataclass(frozen=True)
class Route(InNotebook):
    """A way from one mode to another: ``value`` is the largest of its edges' values, ``length`` the sum of lengths.

    ``notes`` say what a reader should know about its edges, one sentence each.
    """

    criterion: Criterion
    steps: list[RouteStep]
    notes: tuple[str, ...] = ()

    @override
    def _shown(self) -> dict[str, Any]:
        through = " → ".join(vertex.label for vertex in self.vertices)
        facts = {"route": through, self.criterion.quantity: self.value, "length": self.length, "notes": self.notes}
        return facts | {"edges": rows_of([step.link for step in self.steps])}

    @property
    def vertices(self) -> list[Vertex]:
        """The modes it runs through, including both ends."""
        return [self.steps[0].link.source, *(step.link.target for step in self.steps)]

    @property
    def value(self) -> float:
        """The largest value of the criterion's quantity among its edges."""
        return float(max(getattr(step.link, self.criterion.quantity) for step in self.steps))

    @property
    def length(self) -> float:
        """The length in weight space, L2."""
        return float(sum(step.link.length for step in self.steps))

    @property
    def uncertain(self) -> bool:
        """Whether any of its edges is uncertain."""
        return any(step.link.uncertain for step in self.steps)

    def row(self) -> dict[str, Any]:
        """Return it as plain data."""
        c = self.criterion
        return {
            "from": self.vertices[0].label,
            "to": self.vertices[-1].label,
            "quantity": c.quantity,
            "metric": c.metric,
            "split": c.split,
            "value": self.value,
            "length": self.length,
            "uncertain": self.uncertain,
            "through": [v.label for v in self.vertices],
            "edges": [step.row() for step in self.steps],
            "notes": list(self.notes),
        }


def route(store: GraphStore, criterion: Criterion, start: Node, goal: Node, space: Space | None = None) -> Route:
    """Find the best route: the one with the lowest maximum and, among those, the shortest.

    On a surface or simplex it follows the swept minimax route between the two corners. Of routes equal in both, the one
    with fewer edges and then older modes is taken, the same in both directions. Raises NotFoundError if there is none.
    """
    from mgraph.query.arrays import bottleneck_route

    if start.id == goal.id:
        raise InputError(f"{start.name or start.id} is both start and goal; a route joins two modes.")
    edges = load_edges(store, criterion, space)
    here, there = place_of(edges, start), place_of(edges, goal)
    found = bottleneck_route(edges.arrays, here, there)
    if found is None:
        names = f"{start.name or start.id} and {goal.name or goal.id}"
        left_out = " ".join(f"{text.rstrip('.')}." for text in remarks(store, edges, []) if len(edges.doubted))
        raise NotFoundError(
            f"No edges with a {criterion} join {names}, directly or through others; connect them, or raise the limit."
            f"{' ' + left_out if left_out else ''}"
        )
    steps = _steps(store, edges, found, start.id)
    return Route(criterion, steps, tuple(remarks(store, edges, [step.link for step in steps])))


def _steps(store: GraphStore, edges: CountingEdges, found: list[int], start: str) -> list[RouteStep]:
    with store.reading() as reader:
        links = edges.links(reader, found)
        places = _parameters(reader, links)
    steps: list[RouteStep] = []
    at = start
    for link in links:
        if link.source.id != at:
            link = link.turned()
        lost = next((node for node in link.route if (link.connection_id, node) not in places), None)
        if lost is not None:
            raise contradiction(
                link.connection or link.connection_id, f"its route has the node {lost}, which is not a point of it"
            )
        steps.append(RouteStep(link, link.route, tuple(places[link.connection_id, node] for node in link.route)))
        at = link.target.id
    return steps


def _parameters(reader: Reader, links: list[Link]) -> dict[tuple[str, str], tuple[float, ...]]:
    """Map (connection, node) to the parameter of a swept point."""
    connections = list({link.connection_id for link in links})
    members = reader.all(Member, connection_id=connections, role="sample")
    return {(m.connection_id, m.node_id): tuple(m.parameter or ()) for m in members}
