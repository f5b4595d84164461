"""Resuming interrupted runs: which can be resumed, and from where (finding and listing them does not load torch)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from typing_extensions import override

from mgraph.alone import alone
from mgraph.errors import AmbiguousError, CorruptError, InputError, NotFoundError, UntrustedError
from mgraph.factories import find_source
from mgraph.jobs.base import Job
from mgraph.jobs.connections import SweepJob
from mgraph.jobs.earlier import brought_up
from mgraph.jobs.points import EnsembleJob, SharpnessJob
from mgraph.jobs.registry import code_in, read_job
from mgraph.progress import ProgressCallback, silent
from mgraph.specs import Spec
from mgraph.trust import OfGraph, speaking
from mgraph_store import Connection, Evaluation, GraphStore, Node, Run, Sweep
from mgraph_store.underway import Life, RunLock, Sighting

if TYPE_CHECKING:
    from mgraph.session.session import Session
    from mgraph_store import Reader

T = TypeVar("T")

_SHORTEST_PREFIX = 4
_LISTED = "mgraph log lists all runs"


@dataclass(frozen=True)
class RunStatus:
    """The state of a run: its present status and reason, and the position and time of its newest saved state.

    ``seen`` is what is known about the process of a run that may not have ended.
    """

    run: Run
    status: str
    reason: str | None
    at: str | None
    saved: datetime | None
    seen: Sighting | None = None

    @classmethod
    def of(cls, store: GraphStore, run: Run) -> RunStatus:
        """Find out whether the process of a run under way is gone, and what it has saved."""
        status, reason = run.status, run.reason
        seen = Sighting.of(store.folder.root, run) if status == "running" else None
        if seen is not None and seen.life is Life.GONE:
            status, reason, seen = "interrupted", seen.why, None
        elif seen is not None and seen.life is Life.UNKNOWN:
            reason = f"may have ended: {seen.why}"
        summary = None if status == "complete" else store.states(run.id).summary()
        at, saved = summary or (None, None)
        return cls(run, status, reason, at, saved, seen)

    def document(self) -> dict[str, Any]:
        """Return the job of a resumable run in written form, not yet read; CorruptError if it is not one."""
        return self._try(brought_up, json.loads(self.run.plan or "null"))

    def job(self) -> Job:
        """Read the job of a resumable run; CorruptError if that is not possible."""
        return self._try(read_job, self.run.plan or "null")

    def _try(self, read: Callable[[Any], T], given: Any) -> T:
        try:
            return read(given)
        except CorruptError as error:
            raise CorruptError(f"Run {self.run.id} cannot be resumed: {error} Give the command again.") from None

    def says(self, name: str) -> str | None:
        """Return the text in a field of a run's job, without reading all of it; None if there is none."""
        found = None if self.run.plan is None else json.loads(self.run.plan).get(name)
        return found if isinstance(found, str) else None

    @property
    def name(self) -> str | None:
        """The name that the run is to give."""
        return self.says("name")

    @property
    def can_go_on(self) -> bool:
        """Whether it was interrupted, or failed for a reason that may pass and has a saved state."""
        stopped = self.status == "interrupted" or (self.status == "failed" and self.saved is not None)
        return stopped and self.run.plan is not None

    @property
    def can_be_forced(self) -> bool:
        """Whether it could be resumed if the user knows that its process, which cannot be seen from here, has ended."""
        return self.seen is not None and self.seen.life is Life.UNKNOWN and self.run.plan is not None

    def known(self) -> str:
        """Say what is known about the process of a run that is, or may be, under way."""
        assert self.seen is not None
        moments = json.loads(self.run.resumptions)
        begun = datetime.fromisoformat(moments[-1]["when"]) if moments else self.run.started
        sign = "nothing saved" if self.saved is None else f"last saved at {self.at}, {_moment(self.saved)}"
        where = f"process {self.run.pid} on {self.run.host}"
        return f"{where}, since {_moment(begun)} by its clock, {sign}; {self.seen.why}"

    @override
    def __str__(self) -> str:
        made = f" of {self.name}" if self.name else ""
        return f"{self.run.id} ({self.run.command}{made}, {self.at or 'nothing saved'})"


def _moment(when: datetime) -> str:
    return when.strftime("%Y-%m-%d %H:%M:%S")


def interrupted_runs(store: GraphStore) -> list[RunStatus]:
    """List the runs that can be resumed, oldest first."""
    return [standing for standing in _unfinished(store) if standing.can_go_on]


def _unfinished(store: GraphStore) -> list[RunStatus]:
    with store.reading() as reader:
        runs = reader.all(Run, status=["running", "interrupted", "failed"])
    return [RunStatus.of(store, run) for run in runs]


def find_interrupted(store: GraphStore, text: str | None, *, force: bool = False) -> RunStatus:
    """Look up a run that can be resumed: by id, id prefix, or the name that it was to give; None: the only one.

    ``force`` includes runs that may still be under way where that cannot be seen from here, but never one whose process
    is known to run. Raises NotFoundError if there is none, AmbiguousError if there are several, and InputError, saying
    why, for a run that cannot be resumed.
    """
    unfinished = _unfinished(store)
    waiting = [s for s in unfinished if s.can_go_on or (force and s.can_be_forced)]
    unclear = [s for s in unfinished if s.can_be_forced and not force]
    if text is None:
        if not waiting and unclear:
            raise InputError(_unclear(unclear[0]))
        if not waiting:
            raise NotFoundError(f"There is no interrupted run to resume; {_LISTED}.")
        found = waiting
    else:
        with store.reading() as reader:
            runs = [run for run in reader.all(Run) if _matches(run.id, text)]
            names = {s.run.id: _names(reader, s) for s in [*waiting, *unclear]}
        if len(runs) == 1:
            return _require(RunStatus.of(store, runs[0]), force)
        found = [s for s in waiting if _matches(s.run.id, text) or text in names[s.run.id]]
        if not found and (meant := [s for s in unclear if text in names[s.run.id]]):
            raise InputError(_unclear(meant[0]))
        if not found:
            hint = _what_is_stored(store, text) or _LISTED
            raise NotFoundError(f"No interrupted run is {text!r} or was to make it; {hint}.")
    if len(found) > 1:
        raise AmbiguousError(f"Several runs can be resumed: {', '.join(map(str, found))}; say which one.")
    return found[0]


def _unclear(standing: RunStatus) -> str:
    """Say what is known about a run that may be under way elsewhere, and what to do."""
    return (
        f"Run {standing} may still be under way: {standing.known()}. If you know that it has ended, resume it: "
        f"mgraph resume {standing.run.id} --force; or give it up: mgraph resume {standing.run.id} --discard --force."
    )


def _matches(run_id: str, text: str) -> bool:
    return run_id == text or (len(text) >= _SHORTEST_PREFIX and run_id.startswith(text))


def _names(reader: Reader, standing: RunStatus) -> set[str]:
    """Return the names of what a run was to make or sweep."""
    subject = standing.says("connection")
    names = {standing.name, subject}
    if subject:
        names |= {c.name for c in reader.all(Connection, id=subject)}
    return {name for name in names if name}


def _what_is_stored(store: GraphStore, text: str) -> str:
    """Say of a node or connection that it is stored, and what it lacks if its run was stopped before it was measured;
    empty if there is none."""
    with store.reading() as reader:
        try:
            found = reader.find(text)
        except (NotFoundError, AmbiguousError):
            return ""
        if isinstance(found, Node):
            measured, command = bool(reader.all(Evaluation, node_id=found.id)), "evaluate"
        else:
            measured, command = bool(reader.all(Sweep, connection_id=found.id)), "sweep"
    name = found.name or found.id
    return f"{name} is stored" if measured else f"{name} is stored, but was not measured: mgraph {command} {name}"


def _require(standing: RunStatus, force: bool) -> RunStatus:
    """Raise InputError, saying why, if a run cannot be resumed."""
    run = standing.run
    if standing.can_go_on or (force and standing.can_be_forced):
        return standing
    if standing.can_be_forced:
        raise InputError(_unclear(standing))
    if standing.seen is not None and standing.seen.life is Life.ALIVE:
        never = "; --force does not take over a run that is alive" if force else ""
        raise InputError(f"Run {run.id} is still under way: {standing.known()}. Stop it there, or wait for it{never}.")
    if standing.status == "complete":
        raise InputError(f"Run {run.id} is complete; there is nothing left to do.")
    if standing.status == "failed":
        raise InputError(f"Run {run.id} failed and cannot be resumed: {run.reason}")
    raise InputError(f"A run of {run.command} cannot be resumed; give the command again.")


def discard(store: GraphStore, text: str | None, *, force: bool = False) -> Run:
    """Give up an interrupted run, so that it can no longer be resumed, remove what it saved, and return it.

    ``force`` and errors as for :func:`find_interrupted`, and ConflictError if it is resumed at this moment.
    """
    standing = find_interrupted(store, text, force=force)
    lock = RunLock(store.folder.root, standing.run.id)
    if not lock.acquire():
        raise InputError(f"Run {standing.run.id} was meanwhile resumed by another process.")
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
    session: Session, text: str | None, progress: ProgressCallback = silent, *, follow: bool = True, force: bool = False
) -> Node | Connection:
    """Resume an interrupted run and return what it makes or measures: a node, or a connection, with its sweep.

    Without ``follow`` a connection is not swept, whatever was to follow; ``force`` as for :func:`find_interrupted`.

    The result is that of the run without interruption, on a CPU bit for bit, if versions, device and number of threads
    are the same; otherwise a ResumedElsewhereWarning names the difference. Raises InputError for a run that cannot be
    resumed, for instance because what it needs is gone from the graph, UntrustedError if it runs the user's code, and
    CorruptError if its job cannot be read.
    """
    standing = find_interrupted(session.store, text, force=force)
    run, document = standing.run, standing.document()
    settings: Mapping[str, Any] = json.loads(run.settings)
    if settings.get("processes", 1) > 1:
        raise InputError(
            f"Run {run.id} was computed by {settings['processes']} processes together, which keep no state; give the "
            f"command again."
        )
    _require_consent(session, run, document)
    # The job's names come from the graph, not from the user.
    with speaking(OfGraph(session.store.path, session.trusts)):
        job = standing.job()
        if not job.resumes:
            raise InputError(f"A run of {run.command} cannot be resumed; give the command again.")
        made = job.run(session.like(run), progress=progress, resumed=run, follow=follow)
    return _subject(session, job, made)


def _require_consent(session: Session, run: Run, document: Mapping[str, Any]) -> None:
    """Refuse early to run code that only the graph names, because it may be a stranger's. The job is not read for
    this."""
    own, directory = code_in(document), str(document.get("directory"))
    if not own:
        return
    consent = OfGraph(session.store.path)
    try:
        for name in own if not session.trusts else ():
            source = find_source(Spec.parse(name), base=Path(directory))
            consent.ask(str(Spec.parse(name)), source.hash, source.files)
    except (UntrustedError, NotFoundError):
        raise UntrustedError(f"Run {run.id} runs your code {', '.join(own)}; if you know it, add --trust.") from None
    if directory != str(Path.cwd()):
        raise InputError(f"Run {run.id} runs {', '.join(own)} from {directory}; go there to resume it.")


def _subject(session: Session, job: Job, made: Any) -> Node | Connection:
    """Return what a job has made or measured."""
    for found in (made, getattr(made, "node", None)):  # a report has what was stored
        if isinstance(found, Node | Connection):
            return found
    with session.store.reading() as reader:
        if isinstance(job, SharpnessJob):
            return reader.get(Node, id=job.node)
        if isinstance(job, EnsembleJob):
            return reader.find(job.members[0].partition("@")[0])
        assert isinstance(job, SweepJob)
        return reader.get(Connection, id=job.connection)
