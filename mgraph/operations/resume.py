"""Going on with interrupted runs: which can, and from where (finding and listing them loads no torch)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mgraph.alone import alone
from mgraph.errors import AmbiguousError, InputError, NotFoundError, UntrustedError
from mgraph.factories import find_source, names_code
from mgraph.specs import Spec
from mgraph.trust import OfGraph, speaking
from mgraph_store import Connection, GraphStore, Node, Run, Space
from mgraph_store.underway import Life, RunLock, Sighting

if TYPE_CHECKING:
    from mgraph.progress import Report
    from mgraph.session.session import Session
    from mgraph_store import Reader

R = TypeVar("R", Space, Node, Connection)

_SHORTEST_PREFIX = 4


@dataclass(frozen=True)
class Standing:
    """How a run stands: its status as it is now, why, and where its newest state stands, saved when.

    ``seen`` is what is known about the process of one that is not known to have ended.
    """

    run: Run
    status: str
    reason: str | None
    at: str | None
    saved: datetime | None
    seen: Sighting | None = None

    @classmethod
    def of(cls, store: GraphStore, run: Run) -> Standing:
        """Look whether the process of a run that is under way is gone, and what it has saved."""
        status, reason = run.status, run.reason
        seen = Sighting.of(store.folder.root, run) if status == "running" else None
        if seen is not None and seen.life is Life.GONE:
            status, reason, seen = "interrupted", seen.why, None
        elif seen is not None and seen.life is Life.UNKNOWN:
            reason = f"may have ended: {seen.why}"
        summary = None if status == "complete" else store.states(run.id).summary()
        at, saved = summary or (None, None)
        return cls(run, status, reason, at, saved, seen)

    @property
    def plan(self) -> Mapping[str, Any] | None:
        """The operation and its arguments; None: it cannot go on."""
        plan: dict[str, Any] | None = None if self.run.plan is None else json.loads(self.run.plan)
        return plan

    @property
    def can_go_on(self) -> bool:
        """Whether it was interrupted, or failed for a reason that may pass and has a state."""
        stopped = self.status == "interrupted" or (self.status == "failed" and self.saved is not None)
        return stopped and self.run.plan is not None

    @property
    def can_be_forced(self) -> bool:
        """Whether it could go on if the user knows that its process, which cannot be seen from here, has ended."""
        return self.seen is not None and self.seen.life is Life.UNKNOWN and self.run.plan is not None

    def known(self) -> str:
        """Say what is known about the process of a run that is under way, or may be."""
        assert self.seen is not None
        moments = json.loads(self.run.resumptions)
        begun = datetime.fromisoformat(moments[-1]["when"]) if moments else self.run.started
        sign = "nothing saved" if self.saved is None else f"last saved at {self.at}, {_moment(self.saved)}"
        where = f"process {self.run.pid} on {self.run.host}"
        return f"{where}, since {_moment(begun)} by its clock, {sign}; {self.seen.why}"

    def __str__(self) -> str:
        plan = self.plan or {}
        made = f" of {plan['name']}" if plan.get("name") else ""
        return f"{self.run.id} ({self.run.command}{made}, {self.at or 'nothing saved'})"


def _moment(when: datetime) -> str:
    return when.strftime("%Y-%m-%d %H:%M:%S")


def interrupted_runs(store: GraphStore) -> list[Standing]:
    """List the runs that can go on, oldest first."""
    return [standing for standing in _unfinished(store) if standing.can_go_on]


def _unfinished(store: GraphStore) -> list[Standing]:
    with store.reading() as reader:
        runs = reader.all(Run, status=["running", "interrupted", "failed"])
    return [Standing.of(store, run) for run in runs]


def find_interrupted(store: GraphStore, text: str | None, *, force: bool = False) -> Standing:
    """Look up a run that can go on: by id, id prefix, or the name that it was to give; None: the only one.

    With ``force`` also one that may still be under way where that cannot be seen from here; one whose process is
    known to run is never found. Raises NotFoundError if there is none, AmbiguousError if there are several, and
    InputError, saying why, for a run that cannot go on.
    """
    unfinished = _unfinished(store)
    waiting = [s for s in unfinished if s.can_go_on or (force and s.can_be_forced)]
    unclear = [s for s in unfinished if s.can_be_forced and not force]
    if text is None:
        if not waiting and unclear:
            raise InputError(_unclear(unclear[0]))
        if not waiting:
            raise NotFoundError("There is no interrupted run to go on with; mgraph log lists all runs.")
        found = waiting
    else:
        with store.reading() as reader:
            runs = [run for run in reader.all(Run) if _matches(run.id, text)]
            names = {s.run.id: _names(reader, s) for s in [*waiting, *unclear]}
        if len(runs) == 1:
            return _require(Standing.of(store, runs[0]), force)
        found = [s for s in waiting if _matches(s.run.id, text) or text in names[s.run.id]]
        if not found and (meant := [s for s in unclear if text in names[s.run.id]]):
            raise InputError(_unclear(meant[0]))
        if not found:
            raise NotFoundError(f"No interrupted run is {text!r} or was to make it; mgraph log lists all runs.")
    if len(found) > 1:
        raise AmbiguousError(f"Several runs can go on: {', '.join(map(str, found))}; say which.")
    return found[0]


def _unclear(standing: Standing) -> str:
    """Say what is known of a run that may be under way elsewhere, and what to do."""
    return (
        f"Run {standing} may still be under way: {standing.known()}. If you know that it has ended, go on with it: "
        f"mgraph resume {standing.run.id} --force; or give it up: mgraph resume {standing.run.id} --discard --force."
    )


def _matches(run_id: str, text: str) -> bool:
    return run_id == text or (len(text) >= _SHORTEST_PREFIX and run_id.startswith(text))


def _names(reader: Reader, standing: Standing) -> set[str]:
    """Return the names by which people know what a run was to make, or to sweep."""
    plan = standing.plan or {}
    names = {plan.get("name"), plan.get("connection")}
    if plan.get("connection"):
        names |= {c.name for c in reader.all(Connection, id=plan["connection"])}
    return {name for name in names if name}


def _require(standing: Standing, force: bool) -> Standing:
    """Say why a run cannot go on, if it cannot."""
    run = standing.run
    if standing.can_go_on or (force and standing.can_be_forced):
        return standing
    if standing.can_be_forced:
        raise InputError(_unclear(standing))
    if standing.seen is not None and standing.seen.life is Life.ALIVE:
        never = "; --force takes over no run that is alive" if force else ""
        raise InputError(f"Run {run.id} is still under way: {standing.known()}. Stop it there, or wait for it{never}.")
    if standing.status == "complete":
        raise InputError(f"Run {run.id} is complete; there is nothing left to do.")
    if standing.status == "failed":
        raise InputError(f"Run {run.id} failed and cannot go on: {run.reason}")
    raise InputError(f"A run of {run.command} cannot go on; give the command again.")


def discard(store: GraphStore, text: str | None, *, force: bool = False) -> Run:
    """Give up an interrupted run: it cannot go on any more, and what it saved is removed; return it.

    ``force`` and errors as for :func:`find_interrupted`, and ConflictError if it is resumed at this moment.
    """
    standing = find_interrupted(store, text, force=force)
    lock = RunLock(store.folder.root, standing.run.id)
    if not lock.acquire():
        raise InputError(f"Run {standing.run.id} was resumed by another process meanwhile.")
    try:
        status = "interrupted" if standing.status == "running" else standing.status
        reason = "; ".join(part for part in (standing.reason, "given up") if part)
        run = replace(standing.run, status=status, reason=reason, plan=None)
        with store.transaction() as tx:
            tx.expect(standing.run)
            tx.update(run)
        store.states(run.id).remove()
    finally:
        lock.release()
    return run


@alone
def resume(
    session: Session, text: str | None, report: Report | None = None, *, sweep: bool = True, force: bool = False
) -> Node | Connection:
    """Go on with an interrupted run and return what it makes: a mode, or a connection, with its sweep if it has one.

    With ``sweep`` False a connection is not swept, whatever was to follow; ``force`` as for :func:`find_interrupted`.

    The result is the one of the run without interruption, on a CPU bit for bit, if versions, device and number of
    threads are the same; else a ResumedElsewhereWarning names the difference. Raises InputError for a run that cannot
    go on, also if what it needs is gone from the graph, and UntrustedError if it runs code of the user's.
    """
    standing = find_interrupted(session.store, text, force=force)
    run, plan = standing.run, standing.plan
    assert plan is not None
    if not sweep and "sweep" in plan:
        plan = {**plan, "sweep": None}
    settings: Mapping[str, Any] = json.loads(run.settings)
    if settings.get("processes", 1) > 1:
        raise InputError(
            f"Run {run.id} was computed by {settings['processes']} processes together, which keep no state; give the "
            f"command again."
        )
    _require_consent(session, run, plan)
    further: dict[str, Any] = {"resumed": run} | ({} if report is None else {"report": report})
    # What the plan names is the graph's word, whoever reads it there.
    with speaking(OfGraph(session.store.path, session.trusts)):
        return _OPERATIONS[plan["operation"]](session.like(run), run, plan, further)


def _require_consent(session: Session, run: Run, plan: Mapping[str, Any]) -> None:
    """Refuse early to run code that only the graph names: it may be a stranger's."""
    named = [plan.get("settings", {}).get("loss"), *(plan.get("metrics") or ())]
    own = [name for name in named if isinstance(name, str) and names_code(name)]
    if not own:
        return
    directory = str(plan.get("directory"))
    consent = OfGraph(session.store.path)
    try:
        for name in own if not session.trusts else ():
            source = find_source(Spec.parse(name), base=Path(directory))
            consent.ask(str(Spec.parse(name)), source.hash, source.files)
    except (UntrustedError, NotFoundError):
        raise UntrustedError(f"Run {run.id} runs your code {', '.join(own)}; if you know it, add --trust.") from None
    if directory != str(Path.cwd()):
        raise InputError(f"Run {run.id} runs {', '.join(own)} from {directory}; go there to resume it.")


def _train(session: Session, run: Run, plan: Mapping[str, Any], further: Mapping[str, Any]) -> Node:
    from mgraph.operations.modes import add_trained_mode
    from mgraph.train.settings import TrainSettings

    space = _still_there(session, run, Space, plan["space"])
    settings = TrainSettings.parse(plan["settings"])
    return add_trained_mode(session, space, settings, name=plan["name"], **further)


def _connect(session: Session, run: Run, plan: Mapping[str, Any], further: Mapping[str, Any]) -> Connection:
    from mgraph.methods.registry import method_named
    from mgraph.operations.connections import connect
    from mgraph.operations.sweeps import sweep_connection
    from mgraph.query.sweepdata import family_of, inner_grid

    init, lender = plan["init"], plan["buffers_from"]
    connection = connect(
        session,
        [_still_there(session, run, Node, end) for end in plan["ends"]],
        method_named(plan["method"]).parse(plan["settings"]),
        name=plan["name"],
        init=None if init is None else _still_there(session, run, Connection, init),
        same_layout=plan["same_layout"],
        buffers_from=None if lender is None else _still_there(session, run, Node, lender),
        sweep=plan["sweep"],
        **further,
    )
    if plan["sweep"] is not None:
        grid, inner = plan["sweep"]["grid"], plan["sweep"]["inner"]
        if inner is not None:
            grid = inner_grid(family_of(connection), grid, inner)
        report = {key: value for key, value in further.items() if key == "report"}
        sweep_connection(session, connection, grid=grid, **report)
    return connection


def _sweep(session: Session, run: Run, plan: Mapping[str, Any], further: Mapping[str, Any]) -> Connection:
    import numpy as np

    from mgraph.evaluate.refine import Refinement
    from mgraph.families import TensorGrid
    from mgraph.operations.sweeps import sweep_connection

    connection = _still_there(session, run, Connection, plan["connection"])
    axes = None if plan["axes"] is None else [np.array(axis) for axis in json.loads(plan["axes"])]
    names = ("splits", "examples", "bn_examples", "precision", "metrics", "reuse")
    sweep_connection(
        session,
        connection,
        grid=tuple(plan["grid"]) if axes is None else TensorGrid(tuple(axes)),
        refine=None if plan["refine"] is None else Refinement(**plan["refine"]),
        **{name: plan[name] for name in names},
        route_on=plan.get("route_on", "train"),  # a plan of format 1 has none
        **further,
    )
    return connection


_OPERATIONS: Mapping[str, Callable[..., Node | Connection]] = {"train": _train, "connect": _connect, "sweep": _sweep}


def _still_there(session: Session, run: Run, kind: type[R], identifier: str) -> R:
    with session.store.reading() as reader:
        found = reader.all(kind, id=identifier)
    if not found:
        what = kind.__name__.lower()
        raise InputError(f"Run {run.id} cannot go on: the {what} {identifier} is gone from the graph.")
    return found[0]
