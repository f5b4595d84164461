"""Provenance: every command that computes is a run, recorded when it starts, when it is resumed, and when it ends."""

from __future__ import annotations

import json
import platform
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING, Any

from mgraph.errors import ConflictError, InputError, MGraphError, MGraphWarning, NonFiniteError
from mgraph.session.code import CODE, changes, code_of, of_space
from mgraph.session.keeping import OnDisk, save_seconds
from mgraph.shown import visible
from mgraph.train.state import Checkpointer, InMemory
from mgraph_store import Run, new_id
from mgraph_store.index.processes import Process
from mgraph_store.rows.records import now
from mgraph_store.underway import PROCESS, Life, RunLock, Sighting, versions_of

if TYPE_CHECKING:
    from mgraph_store import GraphStore, Space, Transaction


class ResumedElsewhereWarning(MGraphWarning):
    """A run is resumed under other conditions than it began under."""


class ResumedWithOtherCodeWarning(ResumedElsewhereWarning):
    """A run is resumed with other code of its network, data or loss than it began with."""


@dataclass(frozen=True)
class RunCode:
    """The user code of a run in a space: hashes and specs by role."""

    space: Space
    hashes: Mapping[str, str]
    names: Mapping[str, str]


class RunInterrupted(KeyboardInterrupt):
    """Ctrl-C during a run that can be resumed: ``run_id`` says which, its notes what is kept."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"run {run_id} can be resumed")
        self.run_id = run_id


class RunLog:
    """One run under way; :meth:`complete` ends it in the same transaction as its results.

    Of several processes that compute one run together, only the first records it.
    """

    def __init__(self, store: GraphStore, run: Run, checkpointer: Checkpointer, *, follows: bool = False) -> None:
        """``checkpointer`` keeps the states of the run until it is complete."""
        self._store = store
        self._former = run  # as in the index, unless somebody took over the run
        self.record, self.checkpointer = run, checkpointer
        self._ended = follows
        self.records = not follows
        """Whether this process is the one that records it."""

    @property
    def id(self) -> str:
        """Id of the run."""
        return self.record.id

    def complete(self, tx: Transaction, **changes: Any) -> None:
        """Mark the run complete as part of ``tx``; ``changes`` are further columns, e.g. ``update``.

        Nothing in ``tx`` is stored, and ConflictError is raised, if another process took over the run or gave it up.
        """
        tx.expect(self._former)
        self.record = replace(self.record, status="complete", ended=now(), **changes)
        tx.update(self.record)
        self._ended = True

    def end(self, status: str, reason: str | None = None) -> None:
        """End the run on its own, unless its results already did."""
        if not self._ended:
            self._ended = True
            self.record = replace(self.record, status=status, reason=reason, ended=now())
            with self._store.transaction() as tx:
                tx.expect(self._former)
                tx.update(self.record)

    def stop(self, status: str, error: BaseException, reason: str) -> None:
        """End the run with an exception, and note on it what is saved; a run that became NaN or infinite is not
        resumed."""
        if self._ended:
            with suppress(MGraphError), self._store.reading() as reader:
                self._ended = reader.get(Run, id=self.id).status == "complete"  # otherwise its results were not stored
        with suppress(MGraphError):  # the first error matters
            self.end(status, reason)
        files = self._store.states(self.id)
        if self.record.status == "complete" or isinstance(error, NonFiniteError):
            files.remove()
        elif saved := files.summary():
            how = "" if isinstance(error, RunInterrupted) else f"; continue with: mgraph resume {self.id}"
            error.add_note(visible(f"The state at {saved[0]} is saved{how}."))

    def forget_states(self) -> None:
        """Remove what was saved: the results are stored."""
        self._store.states(self.id).remove()


def new_run(
    command: str,
    settings: Mapping[str, Any],
    *,
    seed: int | None,
    device: str,
    plan: str | None = None,
    run_id: str | None = None,
) -> Run:
    """Return the row of a new run, of which :func:`recorded_run` records the rest.

    With a ``plan``, its job in written form, it can be resumed after an interruption. ``run_id`` is its id, if that was
    chosen before.
    """
    text = json.dumps(dict(settings), sort_keys=True, default=str)
    return Run(id=run_id or new_id("r"), command=command, settings=text, seed=seed, device=device, plan=plan)


@contextmanager
def recorded_run(
    store: GraphStore, run: Run, *, resumed: Run | None = None, code: RunCode | None = None
) -> Iterator[RunLog]:
    """Record a run around a block: complete at its end, interrupted by Ctrl-C, failed by an error.

    ``run`` is from :func:`new_run`; ``resumed``, the row of an interrupted one with the same settings, is taken up
    instead. ``code`` is the user code that runs. Raises RunInterrupted at Ctrl-C in a run with
    a plan, and InputError if another process resumes the same run. While the run is under way it holds a lock that says
    so (see :mod:`mgraph_store.underway`).
    """
    from mgraph.train.parallel import present

    identifier = run.id if resumed is None else resumed.id
    with ExitStack() as held:
        if present().rank == 0:
            lock = RunLock(store.folder.root, identifier)
            if not lock.acquire():
                raise InputError(f"Run {identifier} is under way in another process; stop it there, or wait for it.")
            held.callback(lock.release)
        if resumed is not None:
            run, checkpointer = _taken_up(store, resumed, run.device, code)
        else:
            run, checkpointer = _begun(store, run, code)
        yield held.enter_context(_recorded(store, run, checkpointer))


def _taken_up(store: GraphStore, resumed: Run, device: str, code: RunCode | None) -> tuple[Run, Checkpointer]:
    """Resume a run that was interrupted."""
    checkpointer = OnDisk(store.states(resumed.id), save_seconds())
    checkpointer.last  # noqa: B018  (so that a damaged state is found before the run is under way again)
    return _claim(store, resumed, device, code), checkpointer


def _begun(store: GraphStore, run: Run, code: RunCode | None) -> tuple[Run, Checkpointer]:
    """Complete the row of a new run with where and with what it runs, and store it."""
    import torch

    from mgraph.train.parallel import present

    here = Process.present()
    marks = versions() | {PROCESS: here.marks()} | ({CODE: code.hashes} if code is not None and code.hashes else {})
    run = replace(run, versions=json.dumps(marks), threads=torch.get_num_threads(), host=here.host, pid=here.pid)
    # Several processes would each need their own states, all of the same moment, so they keep none.
    checkpointer: Checkpointer = OnDisk(store.states(run.id), save_seconds()) if present().size == 1 else InMemory()
    if present().rank == 0:
        with store.transaction() as tx:
            tx.add(run)
    return run, checkpointer


@contextmanager
def _recorded(store: GraphStore, run: Run, checkpointer: Checkpointer) -> Iterator[RunLog]:
    """Record how a run ends."""
    from mgraph.train.parallel import present

    follows = present().rank > 0
    log = RunLog(store, run, checkpointer, follows=follows)
    try:
        yield log
        log.end("complete")
    except KeyboardInterrupt as stopped:
        interrupted = stopped if run.plan is None or follows else RunInterrupted(run.id)
        if interrupted is not stopped:
            for note in getattr(stopped, "__notes__", ()):
                interrupted.add_note(note)
        log.stop("interrupted", interrupted, "stopped by the user")
        if log.record.status == "complete" or interrupted is stopped:
            raise
        raise interrupted from stopped
    except BaseException as error:
        log.stop("failed", error, str(error) or type(error).__name__)
        raise
    if not follows:
        log.forget_states()


def is_running(store: GraphStore, run: Run) -> bool:
    """Return whether a run may still be under way; on another machine that cannot always be known, so it may."""
    return run.status == "running" and Sighting.of(store.folder.root, run).life != Life.GONE


def _claim(store: GraphStore, resumed: Run, device: str, code: RunCode | None) -> Run:
    """Take over an interrupted run; InputError if another process was faster."""
    import torch

    new_code = _other_code(resumed, code)

    saved = store.states(resumed.id).summary()
    then = resumed.ended or (saved[1] if saved else resumed.started)
    other = _differences(resumed, device, torch.get_num_threads())
    if other:
        changes = ", ".join(f"{what} {here} instead of {there}" for what, (there, here) in other.items())
        warnings.warn(
            f"Run {resumed.id} is resumed with {changes}: its result may differ in the last bits from what it would "
            f"have made.",
            ResumedElsewhereWarning,
            stacklevel=2,
        )
    process = Process.present()
    entry = {
        "when": now().isoformat(),
        "stopped": then.isoformat(),
        "at": saved[0] if saved else None,
        "host": process.host,
        "pid": process.pid,
        PROCESS: process.marks(),
        "other": {what: here for what, (_, here) in other.items()} | ({CODE: new_code} if new_code else {}),
    }
    run = replace(
        resumed,
        status="running",
        reason=None,
        ended=None,
        host=process.host,
        pid=process.pid,
        resumptions=json.dumps([*json.loads(resumed.resumptions), entry]),
    )
    try:
        with store.transaction() as tx:
            tx.expect(resumed)
            tx.update(run)
    except ConflictError:
        raise InputError(f"Run {resumed.id} was meanwhile resumed or removed by another process.") from None
    return run


def _other_code(run: Run, code: RunCode | None) -> dict[str, str]:
    """Return the code that a run would be resumed with but did not begin with, and warn of it.

    Raises InputError for a sweep, whose numbers would be a mixture of both.
    """
    if code is None:
        return {}
    then, now = code_of(run, code.space), code.hashes
    if CODE not in json.loads(run.versions):  # it began before runs recorded more than their space did
        now = of_space(now)
    what = changes(then, now, code.names)
    if not what:
        return {}
    if run.command == "sweep":
        raise InputError(f"Run {run.id} cannot be resumed: {what} has changed; give the command again to measure anew.")
    warnings.warn(
        f"Run {run.id} is resumed with other code: {what} has changed since, so part of its result comes from the "
        f"old code and part from the new.",
        ResumedWithOtherCodeWarning,
        stacklevel=2,
    )
    return dict(now)


def _differences(run: Run, device: str, threads: int) -> dict[str, tuple[Any, Any]]:
    """Return the conditions of a run's numbers that differ from where it began, each as it was there and is here."""
    then = versions_of(run) | {"device": run.device, "threads": run.threads}
    here = versions() | {"device": device, "threads": threads}
    return {what: (then.get(what), here[what]) for what in here if here[what] != then.get(what)}


def record_failure(store: GraphStore, run_id: str, command: str, settings: Mapping[str, Any], reason: str) -> None:
    """Record that a run failed without being able to say so itself, whether or not it had begun.

    If it is alive after all, or somebody has taken it over, it is left alone.
    """
    failed: dict[str, Any] = {"status": "failed", "reason": reason, "ended": now()}
    with store.reading() as reader:
        begun = next(iter(reader.all(Run, id=run_id)), None)
    if begun is None:
        new = new_run(command, settings, seed=None, device="cpu", run_id=run_id)
        with store.transaction() as tx:
            tx.add(replace(new, host=platform.node(), **failed))
    elif begun.status == "running" and Sighting.of(store.folder.root, begun).life is not Life.ALIVE:
        with suppress(ConflictError), store.transaction() as tx:
            tx.expect(begun)
            tx.update(replace(begun, **failed))


_version = cache(metadata.version)  # which reads a file of thousands of lines


def versions() -> dict[str, str]:
    """Return the versions that determine a run's numbers."""
    names = ("mgraph", "torch", "torchvision", "numpy")
    return {"python": platform.python_version(), "platform": sys.platform} | {name: _version(name) for name in names}
