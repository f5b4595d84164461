"""Exploring: choose a pair, connect and sweep it, look again; until a goal, a budget or a number of pairs is reached.

The graph itself is the only memory: the pairs tried are its connections, so exploring again continues. On an engine,
the workers store their own results, and this process chooses what they do.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from typing_extensions import override

from mgraph.durations import spoken
from mgraph.engines.base import Engine, Finished
from mgraph.engines.worker import GRACE
from mgraph.errors import InputError, MGraphError
from mgraph.explore.estimate import Estimate
from mgraph.explore.planning import CONNECT, PlannedGraph, Request
from mgraph.explore.suggest import Pair, ordered
from mgraph.explore.suggestions import SWEEP, Suggestion
from mgraph.explore.workers import Outcome, Place, Work, do, perform
from mgraph.jobs.connections import ConnectJob, Following, SweepJob
from mgraph.notebook import InNotebook
from mgraph.progress import Progress, ProgressCallback, silent
from mgraph.query.edges import current_edges
from mgraph.session.members import label
from mgraph.session.runs import record_failure
from mgraph.session.session import Session
from mgraph_store import Connection, new_id

MOST_FAILURES_IN_A_ROW = 3


@dataclass(frozen=True)
class Limits:
    """When to stop, whatever the goal: after a number of new connections, or of seconds; and the grid of sweeps."""

    max_pairs: int | None = None
    budget: float | None = None
    grid: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.max_pairs is not None and self.max_pairs < 1:
            raise InputError(f"There must be at least 1 pair to connect, not {self.max_pairs}.")
        if self.budget is not None and not self.budget > 0:
            raise InputError(f"The budget must be more than 0 seconds, not {self.budget:g}.")

    def check(self, request: Request) -> None:
        """Raise InputError if nothing says when to stop."""
        if self.max_pairs is None and self.budget is None and request.goal is None:
            raise InputError("Say when to stop: --max-pairs N, --budget 2h, or --until 'components(0.1) == 1'.")


@dataclass
class Done:
    """One suggestion carried out: the connection and its edge, or the problem; seconds from its start to its end."""

    suggestion: Suggestion
    connection: Connection | None = None
    peak: float | None = None
    barrier: float | None = None
    problem: str | None = None
    seconds: float = 0.0

    def row(self) -> dict[str, Any]:
        """Return it as a row for tables and programs."""
        return {
            "step": self.suggestion.step,
            "ends": list(self.suggestion.names),
            "connection": None if self.connection is None else label(self.connection),
            "peak": self.peak,
            "barrier": self.barrier,
            "seconds": self.seconds,
            "problem": self.problem,
            "reason": self.suggestion.reason,
        }


@dataclass
class Exploration(InNotebook):
    """What exploring did, why it stopped, and the state it reached.

    ``goal_met`` is None without a goal; ``state`` has the values that the goal compares.
    """

    done: list[Done] = field(default_factory=list)
    stopped: str = ""
    goal_met: bool | None = None
    state: str = ""

    @override
    def _shown(self) -> dict[str, Any]:
        return {
            "stopped": self.stopped,
            "goal_met": self.goal_met,
            "state": self.state,
            "done": [d.row() for d in self.done],
        }

    @property
    def connected(self) -> int:
        """The number of new connections."""
        return sum(d.connection is not None and d.suggestion.step != SWEEP for d in self.done)


@dataclass(frozen=True)
class Outlook:
    """What exploring would do if each connection turned out as well as possible, and what that would take.

    ``seconds`` and ``nbytes`` are None if there is nothing to judge by yet.
    """

    suggestions: list[Suggestion]
    estimate: Estimate | None
    seconds: float | None
    nbytes: int | None


def outlook(session: Session, request: Request, limits: Limits, places: int) -> Outlook:
    """Plan without running: step by step, until the goal, the number of pairs or the budget would be reached."""
    limits.check(request)
    plan = PlannedGraph(session.store, request)
    chosen: list[Suggestion] = []
    seconds, nbytes = (0.0, 0) if plan.estimate else (None, None)
    for suggestion in plan.steps():
        sweeps = sum(s.step == SWEEP for s in [*chosen, suggestion])
        connects = len(chosen) + 1 - sweeps
        if limits.max_pairs is not None and connects > limits.max_pairs:
            break
        if plan.estimate is not None:
            after = plan.estimate.seconds(connects, sweeps, places)
            if limits.budget is not None and after > limits.budget:
                break
            seconds, nbytes = after, connects * plan.estimate.nbytes
        chosen.append(suggestion)
    return Outlook(chosen, plan.estimate, seconds, nbytes)


def explore(
    session: Session,
    request: Request,
    limits: Limits,
    engine: Engine,
    place: Place,
    *,
    tell: Callable[[Done], None] | None = None,
    progress: ProgressCallback = silent,
) -> Exploration:
    """Connect pair after pair, as many at once as the engine has places for.

    ``place`` says how workers open the graph. ``tell`` is called with everything that is done. A pair that fails is
    left alone; bad input, or three failures in a row, end the work. On Ctrl-C, what is done is stored, and a note on
    the exception says how far it got.
    """
    explorer = _Explorer(session, request, limits, engine, place, tell, progress)
    try:
        explorer.run()
    except KeyboardInterrupt as stopped:
        explorer.wind_up()
        interrupted = KeyboardInterrupt()  # not of a single run: exploring again continues with everything unfinished
        for note in (explorer.so_far(), *getattr(stopped, "__notes__", ())):
            interrupted.add_note(note)
        raise interrupted from stopped
    return explorer.result()


@dataclass(frozen=True)
class _UnderWay:
    """What a worker does now, as which run, and since when."""

    done: Done
    run: str
    since: float


class _Explorer:
    """One exploration: what is under way, done or given up."""

    def __init__(
        self,
        session: Session,
        request: Request,
        limits: Limits,
        engine: Engine,
        place: Place,
        tell: Callable[[Done], None] | None,
        progress: ProgressCallback,
    ) -> None:
        self._session, self._request, self._limits, self._engine = session, request, limits, engine
        remote, here = partial(do, place), partial(perform, session, progress=progress)
        self._work: Callable[[Work], Outcome] = remote if engine.remote else here
        self._tell = tell or (lambda _: None)
        self._progress = progress
        self._begin = time.monotonic()
        self._under_way: dict[int, _UnderWay] = {}
        self._given_up: set[Pair] = set()
        self._left_alone: set[str] = set()  # runs and connections that could not be finished
        self._number = self._begun = self._failures = 0
        self._refusals: list[str] = []
        self._interrupted: list[Done] = []
        self._exploration = Exploration()
        self._last_plan: PlannedGraph | None = None
        self._place = {node.id: i for i, node in enumerate(request.nodes)}

    def run(self) -> None:
        """Work until there is a reason to stop and nothing is under way any more."""
        while True:
            stop = self._fill_places()
            if not self._under_way:
                break
            if self._engine.remote:  # work done in this process reports itself
                done, more = len(self._exploration.done), self._limits.max_pairs or 0
                self._progress(Progress("pairs", done, max(more, done + len(self._under_way))))
            finished = self._engine.wait()
            assert finished is not None
            self._settle(finished)
        if self._refusals and not self._exploration.connected:
            raise InputError(self._refusals[0])
        self._exploration.stopped = stop

    def result(self) -> Exploration:
        """Return what was done and the state reached."""
        goal = self._request.goal
        if goal is not None:
            assert self._last_plan is not None  # read when nothing was under way any more
            known = self._last_plan.terrain.known
            self._exploration.goal_met, self._exploration.state = goal.is_met(known), goal.state(known)
        return self._exploration

    def wind_up(self) -> None:
        """Let workers stop, and store their results."""
        self._engine.interrupt()
        deadline = time.monotonic() + GRACE
        while self._under_way and self._engine.remote:
            finished = self._engine.wait(max(0.0, deadline - time.monotonic()))
            if finished is None:
                return
            self._interrupted.append(self._under_way.pop(finished.key).done)

    def so_far(self) -> str:
        """Say what is done, for the user who interrupted it."""
        n, left = self._exploration.connected, len(self._under_way) + len(self._interrupted)
        text = f"{n} pair{' is' if n == 1 else 's are'} connected and stored"
        text += f", {left} {'was' if left == 1 else 'were'} under way" if left else ""
        return f"{text}; exploring again continues from there."

    def _plan(self) -> PlannedGraph:
        """Read the graph, and assume that what is under way succeeds."""
        under_way = [now.done for now in self._under_way.values()]
        aside = self._left_alone | {now.run for now in self._under_way.values()}
        aside |= {done.connection.id for done in under_way if done.connection is not None}
        aside |= {done.suggestion.subject for done in under_way if done.suggestion.subject is not None}
        self._last_plan = plan = PlannedGraph(self._session.store, self._request, given_up=self._given_up, aside=aside)
        for done in under_way:
            plan.assume(done.suggestion)
        return plan

    def _fill_places(self) -> str:
        """Start as much as there are places for, reading the graph if one is free; return why no more is started."""
        if len(self._under_way) >= self._engine.places:
            return "every place is taken"
        plan = self._plan()
        while not (stop := self._reason_to_stop(plan)):
            if len(self._under_way) >= self._engine.places:
                return "every place is taken"
            suggestion = plan.next()
            if suggestion is None:
                return plan.exhausted
            self._start(suggestion)
        return stop

    def _reason_to_stop(self, plan: PlannedGraph) -> str:
        limits, goal = self._limits, self._request.goal
        if goal is not None and plan.is_done:
            return f"the goal is met: {goal}"
        missed = None if goal is None else goal.missed(plan.terrain.known)
        if missed is not None:
            return f"{missed} can no longer be met: there are fewer components"
        if self._failures >= MOST_FAILURES_IN_A_ROW:
            return f"{self._failures} pairs in a row failed"
        if limits.max_pairs is not None and self._begun >= limits.max_pairs:
            return f"{limits.max_pairs} pair{' was' if limits.max_pairs == 1 else 's were'} to be connected"
        if limits.budget is None:
            return ""
        left = limits.budget - (time.monotonic() - self._begin)
        each = 0.0 if plan.estimate is None else plan.estimate.seconds(1, 0, 1)
        if left <= 0:
            return f"the budget of {spoken(limits.budget)} is used up"
        if each > left:
            return f"a connection takes about {spoken(each)}, and only {spoken(left)} of the budget is left"
        return ""

    def _start(self, suggestion: Suggestion) -> None:
        self._begun += suggestion.step != SWEEP
        if suggestion.subject is None:
            sweep = Following(self._limits.grid)
            work = Work(new_id("r"), ConnectJob(ends=suggestion.ends, method=self._request.method, sweep=sweep))
        elif suggestion.step == SWEEP:
            work = self._sweep_of(suggestion.subject)
        else:
            work = Work(suggestion.subject)
        self._submit(Done(suggestion), work, time.monotonic())

    def _sweep_of(self, connection: str) -> Work:
        return Work(new_id("r"), SweepJob(connection=connection, grid=self._limits.grid))

    def _submit(self, done: Done, work: Work, since: float) -> None:
        self._number += 1
        self._under_way[self._number] = _UnderWay(done, work.run, since)
        self._engine.submit(self._number, self._work, work)

    def _settle(self, finished: Finished) -> None:
        """Look at the outcome of a call; then sweep a new connection, or report one that is done."""
        now = self._under_way[finished.key]
        done = now.done
        outcome: Outcome = self._lost(now, finished.error) if finished.error is not None else finished.value
        for overheard in outcome.warnings:
            overheard.repeat()
        del self._under_way[finished.key]
        is_new = done.connection is None and done.suggestion.step != SWEEP
        done.connection, done.problem = outcome.connection or done.connection, outcome.problem
        done.seconds = time.monotonic() - now.since
        if is_new and done.connection is not None and done.problem is None:
            self._submit(done, self._sweep_of(done.connection.id), now.since)
            return
        if done.problem is None and done.connection is not None:
            done.peak, done.barrier = self._measured(done.connection)
            self._failures = 0
        else:
            self._give_up(done)
            self._refusals += [done.problem] if outcome.refused and done.problem else []
        self._exploration.done.append(done)
        self._tell(done)

    def _give_up(self, done: Done) -> None:
        self._failures += 1
        subject = done.suggestion.subject if done.connection is None else done.connection.id
        if subject is not None:
            self._left_alone.add(subject)
        else:
            one, other = (self._place[end] for end in done.suggestion.ends)
            self._given_up.add(ordered((one, other)))

    def _lost(self, now: _UnderWay, error: BaseException) -> Outcome:
        """Give up what its worker was lost with every time; a new connection's run is recorded as failed."""
        if not isinstance(error, MGraphError):
            raise error
        done = now.done
        settings = {"method": self._request.method.name, "ends": list(done.suggestion.ends)}
        if done.connection is None and done.suggestion.is_new:
            record_failure(self._session.store, now.run, CONNECT, settings, str(error))
        return Outcome(problem=str(error))

    def _measured(self, connection: Connection) -> tuple[float | None, float | None]:
        r = self._request
        edges = current_edges(
            self._session.store, connections=[connection.id], metric=r.metric.cost_name, split=r.split
        )
        return (max(e.peak for e in edges), max(e.barrier for e in edges)) if edges else (None, None)
