"""What to do next in a graph: its rows as a terrain, and steps on it as suggestions with reasons (no torch)."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, islice
from typing import TYPE_CHECKING, Any

import numpy as np

from mgraph.errors import InputError
from mgraph.explore.arrays import EdgeArrays
from mgraph.explore.estimate import Estimate, estimate
from mgraph.explore.goals import Goal
from mgraph.explore.suggest import BARRIER, IMPROVE, JOIN, PEAK, Pair, Step, Terrain, next_step, ordered
from mgraph.explore.sweepdata import COMPLETE
from mgraph.explore.topology import Threshold, current_edges
from mgraph.graph.members import ends_of, label
from mgraph.settings import format_value
from mgraph_store import Connection, Evaluation, GraphStore, Member, Node, Reader, Run, Space, Sweep

if TYPE_CHECKING:
    from mgraph.connect.base import Method
    from mgraph.graph.session import Session

SWEEP, CONNECT = "sweep", "connect"
MOST_FAILURES = 2
"""A pair whose connection failed so often is not suggested again: the same seed fails the same way."""


@dataclass(frozen=True)
class Suggestion:
    """What to do next, and why. ``step`` is sweep, join, improve or fill; ``ends`` are ids, ``names`` their names.

    ``connection`` is the one to sweep; ``command`` does it by hand.
    """

    step: str
    ends: tuple[str, ...]
    names: tuple[str, ...]
    reason: str
    command: str
    connection: str | None = None

    def row(self) -> dict[str, Any]:
        """Return it as a row for tables and programs."""
        return asdict(self) | {"ends": list(self.names), "ids": list(self.ends), "names": None}


@dataclass(frozen=True)
class Request:
    """What exploration is about: between which nodes of a space, by which method, on which metric, to which goal."""

    space: Space
    nodes: tuple[Node, ...]
    method: Method
    goal: Goal | None = None
    metric: str = "loss"
    split: str = "train"

    def __post_init__(self) -> None:
        Threshold(self.quantity, 0.0, self.metric, self.split)  # InputError for what no edge is measured by
        self.method.family(2)  # InputError for a method that does not join two
        if len(self.nodes) < 2:
            there = f"only {label(self.nodes[0])}" if self.nodes else "none"
            add = "add modes with mgraph train or mgraph add-mode"
            raise InputError(f"There must be two modes to connect, and there is {there}; {add}.")
        if self.goal is not None:
            self.goal.check_size(len(self.nodes))

    @property
    def quantity(self) -> str:
        """By which quantity edges are compared."""
        return PEAK if self.goal is None else self.goal.guide.quantity

    @property
    def limit(self) -> float | None:
        """Up to which value of it an edge joins two modes; None: any edge does."""
        return None if self.goal is None else self.goal.guide.limit


def nodes_to_connect(session: Session, given: Sequence[Node], space: str | None) -> tuple[Space, list[Node]]:
    """Return the space and the nodes that exploration is about: those given, or all modes of the space."""
    if not given:
        where = session.space(space)
        with session.store.reading() as reader:
            return where, reader.all(Node, kind="mode", space_id=where.id)
    with session.store.reading() as reader:
        spaces = {node.space_id: reader.get(Space, id=node.space_id) for node in given}
    for node in given:
        if node.kind not in ("mode", "merged"):
            raise InputError(f"{label(node)} is a {node.kind}; only modes and merged nodes can be connected.")
        if given.count(node) > 1:
            raise InputError(f"{label(node)} is given twice.")
    if space is not None:
        spaces |= {(named := session.space(space)).id: named}
    if len(spaces) > 1:
        raise InputError(f"The modes must be of one space, not of {' and '.join(s.name for s in spaces.values())}.")
    return next(iter(spaces.values())), list(given)


class Plan:
    """A graph as it stood when it was read, with steps that are being taken.

    Steps under way are assumed to turn out as well as can be, so that the next ones do something else.
    """

    def __init__(
        self, store: GraphStore, request: Request, *, given_up: Collection[Pair] = (), aside: Collection[str] = ()
    ) -> None:
        """Read the graph; pairs (places of nodes) in ``given_up`` and connections (ids) in ``aside`` are left alone."""
        self.request = request
        self._place = {node.id: i for i, node in enumerate(request.nodes)}
        self._names = [label(node) for node in request.nodes]
        edges = {q: self._read_edges(store, q) for q in (PEAK, BARRIER)}
        with store.reading() as reader:
            self._unswept = [s for s in self._find_unswept(reader) if s.connection not in aside]
            tried = self._find_tried(reader) | set(given_up)
            self.estimate: Estimate | None = estimate(
                reader, request.space.id, request.method.name, asdict(request.method)
            )
            levels = _levels(reader, request)
        self.terrain = Terrain(levels, edges, request.quantity, frozenset(tried), request.limit)

    @property
    def is_done(self) -> bool:
        """Whether the goal is met, steps under way assumed to succeed; never without a goal."""
        goal = self.request.goal
        return goal is not None and goal.is_met(self.terrain.known)

    def next(self) -> Suggestion | None:
        """Choose what to do next, and assume from now on that it succeeds; None: there is nothing left to do."""
        if self._unswept:
            suggestion = self._unswept.pop(0)
            self.assume(suggestion)
            return suggestion
        step = next_step(self.terrain)
        if step is None:
            return None
        suggestion = self._suggest(step)
        self.assume(suggestion)
        return suggestion

    def assume(self, suggestion: Suggestion) -> None:
        """Assume that what is suggested is done, and has turned out well."""
        self._unswept = [s for s in self._unswept if s.connection is None or s.connection != suggestion.connection]
        places = [self._place[end] for end in suggestion.ends]
        for one, other in combinations(places, 2):
            self.terrain = self.terrain.assume((one, other), tried=suggestion.step != SWEEP)

    def steps(self, count: int | None = None) -> Iterator[Suggestion]:
        """Choose step after step until the goal would be met, at most ``count``."""
        return islice(self._steps(), count)

    def _steps(self) -> Iterator[Suggestion]:
        while not self.is_done and (suggestion := self.next()) is not None:
            yield suggestion

    def _suggest(self, step: Step) -> Suggestion:
        low, high = step.pair
        names = self._names[low], self._names[high]
        return Suggestion(
            step=step.why,
            ends=(self.request.nodes[low].id, self.request.nodes[high].id),
            names=names,
            reason=self._reason(step, *names),
            command=connect_command(names, self.request.method),
        )

    def _reason(self, step: Step, low: str, high: str) -> str:
        r = self.request
        levels = " and ".join(self._with_level(i) for i in step.pair)
        if step.why == JOIN:
            at = "" if r.limit is None else f" at {r.quantity} <= {r.limit:g}"
            which = "the lowest mode and the lowest of another component"
            if not step.lowest:
                which = "the lowest modes of different components that were not tried"
            return f"{levels} are {which}; there are {step.components} components{at}."
        if step.why == IMPROVE and step.worst is not None:
            worst = "-".join(self._names[i] for i in step.worst)
            return (
                f"{worst} is the worst edge of the spanning tree, {r.quantity} {step.value:.3g}; {low} and {high} are "
                "the lowest untried pair across its cut."
            )
        return f"{levels} are the lowest pair that --{r.method.name} has not connected."

    def _with_level(self, place: int) -> str:
        level = self.terrain.levels[place]
        known = "unknown" if np.isnan(level) else f"{level:.3g}"
        return f"{self._names[place]} ({self.request.split} {self.request.metric} {known})"

    def _read_edges(self, store: GraphStore, quantity: str) -> EdgeArrays:
        r = self.request
        with store.reading() as reader:
            failed = {c.id for c in reader.all(Connection, status="failed")}
        kept = [
            (self._place[e.source_id], self._place[e.target_id], getattr(e, quantity), e.length)
            for e in current_edges(store, metric=r.metric, split=r.split)
            if e.source_id in self._place and e.target_id in self._place and e.connection_id not in failed
        ]
        kept = [row for row in kept if np.isfinite(row[2])]
        columns = list(zip(*kept, strict=True)) or [(), (), (), ()]
        return EdgeArrays.of(len(r.nodes), *columns)

    def _find_unswept(self, reader: Reader) -> Iterator[Suggestion]:
        swept = {s.connection_id for s in reader.all(Sweep, status=COMPLETE)}
        partial = {s.connection_id for s in reader.all(Sweep)} - swept
        for c in reader.all(Connection, space_id=self.request.space.id, status=COMPLETE):
            if c.id in swept:
                continue
            ends = ends_of(reader, c)
            if any(node.id not in self._place for node in ends):
                continue
            names = tuple(map(label, ends))
            what = "was never swept"
            if c.id in partial:
                what = "was swept in part, which is kept and goes on"
            yield Suggestion(
                step=SWEEP,
                ends=tuple(node.id for node in ends),
                names=names,
                reason=f"The {c.kind} {label(c)} {what}: until that is done it makes no edge.",
                command=f"mgraph sweep {label(c)}",
                connection=c.id,
            )

    def _find_tried(self, reader: Reader) -> set[Pair]:
        r = self.request
        made = {c.id for c in reader.all(Connection, space_id=r.space.id, kind=r.method.name)}
        ends: dict[str, list[int]] = {}
        for member in reader.all(Member, role="end", connection_id=list(made)) if made else []:
            if member.node_id in self._place:
                ends.setdefault(member.connection_id, []).append(self._place[member.node_id])
        tried = {ordered((p[0], p[1])) for p in ends.values() if len(p) == 2}
        failures: Counter[Pair] = Counter()
        for run in reader.all(Run, command=CONNECT, status="failed"):
            settings = json.loads(run.settings)
            places = [self._place[end] for end in settings.get("ends", ()) if end in self._place]
            if settings.get("method") == r.method.name and len(places) == len(settings["ends"]) == 2:
                failures[ordered((places[0], places[1]))] += 1
        return tried | {pair for pair, times in failures.items() if times >= MOST_FAILURES}


def connect_command(names: Sequence[str], method: Method) -> str:
    """Write the command that connects by a method with these settings."""
    words = ["mgraph", "connect", *names, f"--{method.name}"]
    for info in type(method).infos():
        value = getattr(method, info.name)
        if value != info.default:
            text = repr(value) if isinstance(value, float) else format_value(value) or info.nothing
            words += ["-s", f"{info.name}={text}"]
    return shlex.join(words)


def _levels(reader: Reader, request: Request) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the nodes' own losses or errors, shape (n,); NaN where they were not measured."""
    metric = "accuracy" if request.metric == "error" else "loss"
    ids = [node.id for node in request.nodes]
    rows = reader.all(Evaluation, node_id=ids, sweep_id=None, split=request.split, metric=metric)
    values = {e.node_id: 1 - e.value if request.metric == "error" else e.value for e in rows}
    return np.array([values.get(i, np.nan) for i in ids])
