"""Connecting two modes by the cheapest method that meets a limit.

First the modes are measured: their cosines and variances, and their own losses, which no path between them can
undercut. Then the methods are tried from the cheapest to the most expensive until one meets the limit or the time is
up. Every attempt is kept as a connection, and every choice is reported with its reason in one line.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from typing_extensions import override

from mgraph.durations import spoken
from mgraph.errors import InputError, MGraphError, NameTakenError
from mgraph.evaluate.metrics import Subset
from mgraph.evaluate.sweep import Measuring, sweep
from mgraph.families import Segment
from mgraph.jobs.connections import ConnectJob, Following, SweepJob
from mgraph.methods.base import Method
from mgraph.methods.ladder import MAX_SECONDS, ladder, within
from mgraph.metric import LOSS
from mgraph.notebook import InNotebook
from mgraph.operations.comparisons import Pair, compare
from mgraph.operations.connections import check_buffers_from, common_space, connect, load_constants
from mgraph.operations.sweeps import sweep_connection
from mgraph.progress import ProgressCallback, silent
from mgraph.query.criterion import Criterion
from mgraph.query.edges import current_edges
from mgraph.query.metrics import metric_of_cost
from mgraph.query.remarks import doubts_of
from mgraph.session.members import BUFFERS_FROM, ends_of, label
from mgraph.session.points import packed_rows
from mgraph.session.policies import policy_for
from mgraph.session.session import Session
from mgraph.session.storing import check_name_is_free
from mgraph.session.workspace import Workspace
from mgraph.train.parallel import under_torchrun
from mgraph.train.probe import seconds_per_example
from mgraph_store import Connection, Edge, Node, Run, validate_name

Say = Callable[[str], None]


class Named(Protocol):
    """A connection: its row, or the object that :class:`mgraph.Graph` makes of it."""

    @property
    def id(self) -> str:
        """Its id."""

    @property
    def name(self) -> str | None:
        """Its name, if it has one."""


C = TypeVar("C", bound=Named)

# Two modes on one variance sphere [L]; those trained with different weight decay differ by more.
_SAME_SPHERE = 1.25

MET, MISSED, SKIPPED, FAILED = "met", "missed", "skipped", "failed"


@dataclass(frozen=True)
class Attempt(Generic[C]):
    """One method: whether it met the limit, missed it, was skipped for lack of time, or failed, and why.

    ``seconds`` is the time it took with its sweep, ``expected`` the estimate before, None if there was none.
    """

    method: str
    outcome: str
    reason: str
    connection: C | None = None
    edge: Edge | None = None
    seconds: float | None = None
    expected: float | None = None
    reused: bool = False

    def describe(self) -> dict[str, Any]:
        """Return everything as plain data."""
        found = {key: getattr(self.edge, key, None) for key in ("peak", "barrier", "drop", "length")}
        c = self.connection
        facts = {"method": self.method, "outcome": self.outcome, "name": c and c.name, "connection": c and c.id}
        times = {"seconds": self.seconds, "expected_seconds": self.expected, "reused": self.reused}
        return facts | found | times | {"reason": self.reason}


@dataclass(frozen=True)
class AutoResult(InNotebook, Generic[C]):
    """What was tried between two modes: ``winner`` is the connection that meets the limit, None if none does."""

    threshold: Criterion
    budget: float | None
    pair: Pair
    end_values: tuple[float, float]
    attempts: tuple[Attempt[C], ...]
    said: tuple[str, ...]

    @override
    def _shown(self) -> dict[str, Any]:
        return self.describe()

    @property
    def winner(self) -> C | None:
        """The connection that meets the limit."""
        return next((a.connection for a in self.attempts if a.outcome == MET), None)

    @property
    def reason(self) -> str:
        """Say in one sentence how it ended."""
        return self.said[-1]

    def describe(self) -> dict[str, Any]:
        """Return everything as plain data."""
        t, s = self.threshold, self.pair.similarity
        winner = self.winner
        return {
            "ends": [self.pair.source, self.pair.target],
            "threshold": {"quantity": t.quantity, "limit": t.limit, "metric": t.metric, "split": t.split},
            "budget_seconds": self.budget,
            "measured": {
                "median_cosine": s.median_cosine,
                "same_run": s.same_run,
                "variance_ratio": s.variance_ratio,
                "ends": dict(zip((self.pair.source, self.pair.target), self.end_values, strict=True)),
            },
            "attempts": [attempt.describe() for attempt in self.attempts],
            "winner": None if winner is None else winner.name or winner.id,
            "reason": self.reason,
            "said": list(self.said),
        }


@dataclass(frozen=True, kw_only=True)
class AutoRequest:
    """What is asked for: a path between two ends within a limit.

    ``settings`` go to every method that has them; ``methods`` are those to try, in that order (default: from the
    cheapest to the most expensive). ``budget`` is in seconds.
    """

    ends: tuple[Node, ...]
    threshold: Criterion
    budget: float | None = None
    settings: Mapping[str, Any] | None = None
    methods: Sequence[str] | None = None
    name: str | None = None
    grid: tuple[int, ...] | None = None
    same_layout: bool = False
    buffers_from: Node | None = None


def connect_auto(
    session: Session, request: AutoRequest, *, say: Say = lambda _: None, progress: ProgressCallback = silent
) -> AutoResult[Connection]:
    """Try methods from the cheapest to the most expensive until one meets the limit; keep every attempt.

    A method is not started if it would surely exceed the rest of the budget, and one that is started gets the rest as
    its ``max_seconds``. An existing connection of the same ends by the same method and settings is used as it is.
    Raises InputError, storing nothing, unless there are two ends, and for a limit that the ends themselves exceed.
    """
    ends = request.ends
    if len(ends) != 2:
        raise InputError(f"Methods are chosen between exactly 2 modes; {len(ends)} given.")
    if request.threshold.limit is None:
        raise InputError("Choosing a method needs a limit; give one.")
    if under_torchrun():
        raise InputError("A method cannot be chosen under torchrun: name one, such as --curve.")
    rungs = ladder(request.settings, request.methods)
    check_buffers_from(ends, request.buffers_from)
    space = common_space(session, ends, same_layout=request.same_layout)
    auto = _Auto(session, session.workspace(space), request, say, progress)
    if request.name is not None:
        validate_name(f"{request.name}-{rungs[0].name}")
    return auto.run(rungs)


@dataclass
class _Auto:
    session: Session
    workspace: Workspace
    request: AutoRequest
    say: Say
    progress: ProgressCallback
    begun: float = field(default_factory=lambda: time.monotonic())
    said: list[str] = field(default_factory=list)
    seconds_per_point: float = 0.0  # of a sweep
    speed: dict[int, float] = field(default_factory=dict)  # seconds per example of a batch size

    @property
    def ends(self) -> tuple[Node, ...]:
        return self.request.ends

    @property
    def threshold(self) -> Criterion:
        return self.request.threshold

    @property
    def budget(self) -> float | None:
        return self.request.budget

    @property
    def buffers_from(self) -> Node | None:
        return self.request.buffers_from

    @property
    def limit(self) -> float:
        assert self.threshold.limit is not None
        return self.threshold.limit

    def tell(self, text: str) -> None:
        self.said.append(text)
        self.say(text)

    def name_of(self, method: Method) -> str | None:
        """Return the first free name of NAME-METHOD, NAME-METHOD-2, …: earlier attempts keep theirs."""
        if self.request.name is None:
            return None
        for number in count(1):
            name = f"{self.request.name}-{method.name}" + ("" if number == 1 else f"-{number}")
            with suppress(NameTakenError):
                check_name_is_free(self.session, name)
                return name
        raise AssertionError("numbers do not end")

    def run(self, rungs: Sequence[Method]) -> AutoResult[Connection]:
        pair = compare(self.session, self.ends).pairs[0]
        values = self.measure_ends()
        if self.threshold.split == "test":
            self.tell("The limit is on test data, as you asked: their numbers are no longer unbiased.")
        self.tell(f"{pair.verdict}.")
        self.tell(self.spheres(pair))
        attempts: list[Attempt[Connection]] = []
        for method in rungs:
            attempts.append(self.attempt(method))
            self.tell(attempts[-1].reason)
            if attempts[-1].outcome == MET:
                break
        self.said.append(self.conclusion(attempts))
        return AutoResult(self.threshold, self.budget, pair, values, tuple(attempts), tuple(self.said))

    # What is measured before

    def measure_ends(self) -> tuple[float, float]:
        """Measure both ends as a sweep would; InputError if no path between them could meet the limit."""
        t, workspace = self.threshold, self.workspace
        own = [m for m in (LOSS, *workspace.task.metrics) if m.better is not None]
        metric = metric_of_cost(own, t.metric)
        if metric is None:
            there = ", ".join(m.cost_name for m in own)
            raise InputError(
                f"What --auto sweeps is measured by {there}, not by {t.metric}; take one of these as --metric."
            )
        load_constants(self.session, workspace, self.ends, self.buffers_from)
        rows = packed_rows(workspace, [self.session.points.read(end) for end in self.ends])
        found = sweep(
            workspace.flat,
            workspace.task,
            rows,
            Segment().coefficients(np.array([[0.0], [1.0]])),
            how=Measuring(policy_for(self.session, workspace, self.ends)),
            subsets={t.split: Subset()},
        )
        metrics = [point[t.split] for point in found]
        values = [float(metric.cost(m[metric.name].value)) for m in metrics]
        least = {"peak": max(values), "drop": max(values) - sum(values) / 2, "barrier": 0.0}[t.quantity]
        if not np.isfinite(values).all():
            raise InputError(f"The {t.split} {t.metric} of an end is NaN or infinite; it cannot be connected.")
        if self.limit < least:
            worse = label(self.ends[int(np.argmax(values))])
            why = {
                "peak": f"the {t.split} {t.metric} of {worse} itself is {least:.4g}",
                "drop": f"the {t.split} {t.metric} of {worse} itself is {least:.4g} above the mean of the ends",
                "barrier": "a barrier is never below 0",
            }[t.quantity]
            raise InputError(
                f"No path can meet --max-{t.quantity} {self.limit:g}: {why}; raise the limit, or choose other modes."
            )
        return values[0], values[1]

    def spheres(self, pair: Pair) -> str:
        ratio = pair.similarity.variance_ratio
        if ratio is None or ratio == 0:
            return "Their weights have no variance to compare."
        far = max(ratio, 1 / ratio)
        if far <= _SAME_SPHERE:
            within = max(1.0, 100 * (far - 1))
            return f"The variances of their weights agree within {within:.0f} %: they are on one variance sphere."
        return (
            f"The weights of {pair.target} have {ratio:.2g} times the variance of those of {pair.source}: they are on "
            f"different variance spheres."
        )

    # One method

    def attempt(self, method: Method) -> Attempt[Connection]:
        present = self.present(method)
        expected = 0.0 if present is not None else self.expected(method)
        left = None if self.budget is None else self.budget - (time.monotonic() - self.begun)
        if left is not None and left <= 0:
            return Attempt(method.name, SKIPPED, f"{method.name}: skipped, the budget is used up.", expected=expected)
        if left is not None and expected is not None and expected > left:
            why = f"it takes {spoken(expected)} or more, and only {spoken(left)} of the budget is left"
            return Attempt(method.name, SKIPPED, f"{method.name}: skipped, {why}.", expected=expected)
        begin = time.monotonic()
        connection = present
        try:
            connection = connection or self.connect(method if left is None else within(method, left))
            edge = self.edge_of(connection) or self.sweep(connection)
        except MGraphError as error:
            took = time.monotonic() - begin
            return Attempt(method.name, FAILED, f"{method.name}: failed: {error}", connection, None, took, expected)
        took = time.monotonic() - begin
        t = self.threshold
        value = float(getattr(edge, t.quantity))
        met = value <= self.limit  # NaN compares false
        verdict = f"within {self.limit:g}: chosen" if met else f"above {self.limit:g}"
        how = "already there" if present is not None else f"in {spoken(took)}"
        reason = f"{method.name}: {t.split} {t.metric} {t.quantity} {value:.4g} {how}, {verdict}."
        if present is None:
            connection = self.remember(connection, reason)
        return Attempt(
            method.name,
            MET if met else MISSED,
            reason,
            connection,
            edge,
            took,
            expected,
            reused=present is not None,
        )

    def connect(self, method: Method) -> Connection:
        job = ConnectJob(
            ends=tuple(end.id for end in self.ends),
            method=method,
            name=self.name_of(method),
            same_layout=self.request.same_layout,
            buffers_from=None if self.buffers_from is None else self.buffers_from.id,
            sweep=Following(self.request.grid),
        )
        return connect(self.session, job, progress=self.progress)

    def sweep(self, connection: Connection) -> Edge:
        begin = time.monotonic()
        data = sweep_connection(
            self.session, SweepJob(connection=connection.id, grid=self.request.grid), progress=self.progress
        )
        self.seconds_per_point = (time.monotonic() - begin) / len(data.grid)
        edge = self.edge_of(connection)
        if edge is None:
            raise InputError(f"its edge does not count: {doubts_of(self.session.store, connection)}")
        return edge

    def edge_of(self, connection: Connection) -> Edge | None:
        t = self.threshold
        edges = current_edges(self.session.store, metric=t.metric, split=t.split, connections=[connection.id])
        return edges[0] if edges else None

    def remember(self, connection: Connection, reason: str) -> Connection:
        """Record with the connection why it was made, and the outcome."""
        with self.session.store.reading() as reader:  # its sweep may have recorded something about it in the meantime
            before = reader.get(Connection, id=connection.id)
        what = f"{before.reason}; tried by --auto: {reason.partition(': ')[2].rstrip('.')}"
        with self.session.store.transaction() as tx:
            tx.update(remembered := replace(before, reason=what), since=before)
        return remembered

    def present(self, method: Method) -> Connection | None:
        """Return the newest connection of these ends by exactly this method that did not fail, if there is one.

        One that was stopped by its own time limit does not count.
        """
        wanted = asdict(method) | ({} if self.buffers_from is None else {BUFFERS_FROM: self.buffers_from.id})
        mine = [end.id for end in self.ends]
        with self.session.store.reading() as reader:
            others = reader.all(Connection, kind=method.name, space_id=self.workspace.space.id, status="complete")
            same = [c for c in others if _plain(method.brought_up(json.loads(c.settings))) == _plain(wanted)]
            same = [c for c in same if [n.id for n in ends_of(reader, c)] == mine]
            runs = {r.id: r for r in reader.all(Run, id=[c.run_id for c in same if c.run_id])} if same else {}
        return next((c for c in reversed(same) if _ended_by_itself(method, c, runs.get(c.run_id or ""))), None)

    # How long it takes

    def expected(self, method: Method) -> float | None:
        """Estimate how many seconds a method and its sweep take at least; None if there is nothing to judge by.

        This is the time of the fastest past run with the same settings in this space, whatever its seed, or else the
        number of examples that the method passes through the network times the measured time per example.
        """
        family = method.family(len(self.ends))
        past = self.past(method)
        if past is None:
            examples = method.cost(family, len(self.workspace.task.train))
            if examples is None:
                return None
            past = examples * self.pass_seconds(method) if examples else 0.0
        points = len(family.sweep_grid if self.request.grid is None else family.grid(tuple(self.request.grid)))
        return past + points * self.seconds_per_point

    def past(self, method: Method) -> float | None:
        wanted = {k: v for k, v in _plain(asdict(method)).items() if k != "seed"}
        with self.session.store.reading() as reader:
            others = reader.all(Connection, kind=method.name, space_id=self.workspace.space.id)
            runs = reader.all(Run, id=[c.run_id for c in others], status="complete") if others else []
        times = []
        for run in runs:
            theirs = method.brought_up(json.loads(run.settings))
            same = run.device == self.session.device and _plain({k: theirs.get(k) for k in wanted}) == wanted
            if same and run.ended is not None and run.command == "connect":
                times.append((run.ended - run.started).total_seconds())
        return min(times, default=None)

    def pass_seconds(self, method: Method) -> float:
        batch = int(getattr(method, "batch_size", 64))
        if batch not in self.speed:
            task = self.workspace.task
            with self.session.threads(self.workspace):
                self.speed[batch] = seconds_per_example(self.workspace.flat, task.loss, task.train, batch)
        return self.speed[batch]

    def conclusion(self, attempts: Sequence[Attempt[Connection]]) -> str:
        t = self.threshold
        limit = str(t)
        last = attempts[-1]
        if last.outcome == MET and last.connection is not None:
            return f"{label(last.connection)} connects {label(self.ends[0])} and {label(self.ends[1])} at {limit}."
        values = [(float(getattr(a.edge, t.quantity)), a.method) for a in attempts if a.edge is not None]
        best = [v for v in values if np.isfinite(v[0])]
        nearest = f"; the nearest was {min(best)[1]} with {min(best)[0]:.4g}" if best else ""
        skipped = [a.method for a in attempts if a.outcome == SKIPPED]
        rest = f"; not tried for lack of time: {', '.join(skipped)} (raise --budget)" if skipped else ""
        ends = f"{label(self.ends[0])} and {label(self.ends[1])}"
        return f"No method connects {ends} at {limit}{nearest}{rest}. What was tried is kept."


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as they are stored, without the time limit, which does not change what is computed within it."""
    found: dict[str, Any] = json.loads(json.dumps({k: v for k, v in settings.items() if k != MAX_SECONDS}))
    return found


def _ended_by_itself(method: Method, connection: Connection, run: Run | None) -> bool:
    """Return whether a method ended before its time limit, if it had one."""
    limit = method.brought_up(json.loads(connection.settings)).get(MAX_SECONDS)
    if limit is None:
        return True
    return run is not None and run.ended is not None and (run.ended - run.started).total_seconds() < limit
