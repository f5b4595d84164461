"""A graph as a terrain on which steps are chosen: what is asked for, and what comes next (no torch)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mgraph.errors import InputError
from mgraph.explore.estimate import Estimate, estimate
from mgraph.explore.goals import Goal
from mgraph.explore.suggest import BARRIER, PEAK, Pair, Terrain, next_step, ordered
from mgraph.explore.suggestions import SWEEP, Suggestion, interrupted, to_connect, unswept
from mgraph.metric import LOSS, Metric
from mgraph.query.arrays import EdgeArrays
from mgraph.query.criterion import NODE_KINDS, Criterion
from mgraph.query.edges import load_edges
from mgraph.session.members import label
from mgraph.session.runs import is_running
from mgraph_store import Connection, Evaluation, GraphStore, Member, Node, Reader, Run, Space

if TYPE_CHECKING:
    from mgraph.methods.base import Method
    from mgraph.session.session import Session

CONNECT = "connect"
MOST_FAILURES = 2
"""A pair whose connection has failed this often is not suggested again: the same seed fails in the same way."""


@dataclass(frozen=True)
class Request:
    """What exploration is asked for: the nodes of a space to connect, by which method, on which metric, to which
    goal."""

    space: Space
    nodes: tuple[Node, ...]
    method: Method
    goal: Goal | None = None
    metric: Metric = LOSS
    split: str = "train"

    def __post_init__(self) -> None:
        Criterion(
            self.quantity, metric=self.metric.cost_name, split=self.split
        )  # InputError for a metric by which no edge is measured
        self.method.family(2)  # InputError for a method that does not join two
        if len(self.nodes) < 2:
            there = f"only {label(self.nodes[0])}" if self.nodes else "none"
            add = "add modes with mgraph train or mgraph add-mode"
            raise InputError(f"Connecting needs two modes, and there is {there}; {add}.")
        if self.goal is not None:
            self.goal.check_size(len(self.nodes))

    @property
    def quantity(self) -> str:
        """The quantity by which edges are compared."""
        return PEAK if self.goal is None else self.goal.guide.quantity

    @property
    def limit(self) -> float | None:
        """The value up to which an edge joins two modes; None: any edge does."""
        return None if self.goal is None else self.goal.guide.limit


def nodes_to_connect(session: Session, given: Sequence[Node], space: str | None) -> tuple[Space, list[Node]]:
    """Return the space and the nodes to explore: those given, or all modes of the space."""
    if not given:
        where = session.space(space)
        with session.store.reading() as reader:
            return where, reader.all(Node, kind="mode", space_id=where.id)
    with session.store.reading() as reader:
        spaces = {node.space_id: reader.get(Space, id=node.space_id) for node in given}
    for node in given:
        if node.kind not in NODE_KINDS:
            raise InputError(f"{label(node)} is a {node.kind}; only modes and merged nodes can be connected.")
        if given.count(node) > 1:
            raise InputError(f"{label(node)} is given twice.")
    if space is not None:
        named = session.space(space)
        spaces[named.id] = named
    if len(spaces) > 1:
        raise InputError(f"The modes must be in one space, not in {' and '.join(s.name for s in spaces.values())}.")
    return next(iter(spaces.values())), list(given)


class PlannedGraph:
    """A graph as it was when it was read, with the steps under way.

    Steps under way are assumed to turn out as well as possible, so that the next ones do something else.
    """

    def __init__(
        self, store: GraphStore, request: Request, *, given_up: Collection[Pair] = (), aside: Collection[str] = ()
    ) -> None:
        """Read the graph; pairs (places of nodes) in ``given_up``, and runs in ``aside`` with what they made, and
        connections there, are left alone."""
        self.request = request
        nodes = {node.id: node for node in request.nodes}
        self._place = {node_id: i for i, node_id in enumerate(nodes)}
        unfinished = [*interrupted(store, nodes), *unswept(store, request.space.id, nodes, aside)]
        self._unfinished = [s for s in unfinished if s.subject not in aside]
        edges = self._read_edges(store)
        with store.reading() as reader:
            elsewhere = self._elsewhere(store, reader, aside)
            tried = self._tried(reader) | self._hopeless(reader) | set(elsewhere) | set(given_up)
            self.estimate: Estimate | None = estimate(
                reader, request.space.id, request.method.name, asdict(request.method)
            )
            levels = _levels(reader, request)
        self.terrain = Terrain(levels, edges, request.quantity, frozenset(tried), request.limit)
        self._runs_elsewhere = list(elsewhere.values())

    @property
    def is_done(self) -> bool:
        """Whether the goal is met, assuming that steps under way succeed; never without a goal."""
        goal = self.request.goal
        return goal is not None and goal.is_met(self.terrain.known)

    @property
    def exhausted(self) -> str:
        """Why there is nothing left to do."""
        runs = self._runs_elsewhere
        if not runs:
            return "every pair has been tried"
        return (
            f"every pair has been tried or, as far as can be seen from here, is being connected by another process: run"
            f"{'' if len(runs) == 1 else 's'} {', '.join(runs)} (mgraph log)"
        )

    def next(self) -> Suggestion | None:
        """Choose what to do next, and assume from then on that it succeeds; None: there is nothing left to do."""
        if self._unfinished:
            suggestion = self._unfinished[0]
        else:
            step = next_step(self.terrain)
            if step is None:
                return None
            r = self.request
            suggestion = to_connect(step, self.terrain, r.nodes, r.method, f"{r.split} {r.metric.cost_name}")
        self.assume(suggestion)
        return suggestion

    def assume(self, suggestion: Suggestion) -> None:
        """Assume that a suggestion has been carried out successfully."""
        self._unfinished = [s for s in self._unfinished if s.subject != suggestion.subject]
        for one, other in combinations([self._place[end] for end in suggestion.ends], 2):
            self.terrain = self.terrain.assume((one, other), tried=suggestion.step != SWEEP)

    def steps(self, count: int | None = None) -> Iterator[Suggestion]:
        """Choose step after step, at most ``count``, until the goal would be met."""
        return islice(self._steps(), count)

    def _steps(self) -> Iterator[Suggestion]:
        while not self.is_done and (suggestion := self.next()) is not None:
            yield suggestion

    def _read_edges(self, store: GraphStore) -> dict[str, EdgeArrays]:
        """Read the edges that count between the request's nodes, by their places, by peak and by barrier."""
        r = self.request
        size = len(r.nodes)
        found = load_edges(store, Criterion(PEAK, metric=r.metric.cost_name, split=r.split), may_lack=True)
        places = np.array([self._place.get(node_id, -1) for node_id in found.ids.tolist()], dtype=np.int64)
        source, target = places[found.arrays.source], places[found.arrays.target]
        inside = (source >= 0) & (target >= 0) & np.isfinite(found.numbers[BARRIER].astype(np.float64))
        return {
            q: EdgeArrays.of(size, source, target, found.numbers[q], found.arrays.length).take(inside)
            for q in (PEAK, BARRIER)
        }

    def _tried(self, reader: Reader) -> set[Pair]:
        """Return the pairs that the method has connected."""
        r = self.request
        made = [c.id for c in reader.all(Connection, space_id=r.space.id, kind=r.method.name)]
        ends: dict[str, list[str]] = {}
        for member in reader.all(Member, role="end", connection_id=made) if made else []:
            ends.setdefault(member.connection_id, []).append(member.node_id)
        return {pair for nodes in ends.values() if (pair := self._pair(nodes)) is not None}

    def _hopeless(self, reader: Reader) -> set[Pair]:
        """Return the pairs on which the method has failed too often."""
        failures = Counter(pair for pair, _ in self._runs(reader, "failed"))
        return {pair for pair, times in failures.items() if times >= MOST_FAILURES}

    def _elsewhere(self, store: GraphStore, reader: Reader, aside: Collection[str]) -> dict[Pair, str]:
        """Return the pairs that another process is connecting now, or may be, and the runs that do."""
        running = self._runs(reader, "running")
        return {pair: run.id for pair, run in running if run.id not in aside and is_running(store, run)}

    def _runs(self, reader: Reader, status: str) -> Iterator[tuple[Pair, Run]]:
        """Yield the runs that connected a pair by the method."""
        for run in reader.all(Run, command=CONNECT, status=status):
            settings = json.loads(run.settings)
            pair = self._pair(settings.get("ends", ()))
            if pair is not None and settings.get("method") == self.request.method.name:
                yield pair, run

    def _pair(self, ends: Sequence[str]) -> Pair | None:
        """Return the places of the nodes if there are exactly two."""
        places = [self._place[end] for end in ends if end in self._place]
        return ordered((places[0], places[1])) if len(places) == len(ends) == 2 else None


def _levels(reader: Reader, request: Request) -> NDArray[np.float64]:
    """Return the nodes' own costs by the metric, shape (n,); NaN if they were not measured."""
    metric = request.metric
    ids = [node.id for node in request.nodes]
    rows = reader.all(Evaluation, node_id=ids, sweep_id=None, split=request.split, metric=metric.name, subset="all")
    values = {e.node_id: metric.cost(e.value) for e in rows}
    return np.array([values.get(i, np.nan) for i in ids])
