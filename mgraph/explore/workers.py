"""One piece of work on a graph, done here or in a worker process, which stores its own results."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from mgraph.engines.worker import Overheard, interruptible, listening
from mgraph.errors import InputError, MGraphError, NonFiniteError
from mgraph.jobs.base import Job
from mgraph.jobs.connections import SweepJob
from mgraph.progress import ProgressCallback, silent
from mgraph.session.session import Session
from mgraph_store import Connection, GraphStore, Run

INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Place:
    """How a worker opens the graph."""

    path: Path
    device: str = "auto"
    threads: int | None = 1
    trust: bool = False
    workers: int | None = None


@dataclass(frozen=True)
class Work:
    """What is to be done, as the run with this id: begin the job, or without one resume the run, which was interrupted.

    The id is chosen before the work begins, so that work done again, because its worker was lost, goes on with what is
    stored of it.
    """

    run: str
    job: Job | None = None


@dataclass(frozen=True)
class Outcome:
    """The connection that was made or swept, or why there is none.

    ``refused``: nothing was started because the request itself is at fault. ``warnings`` are those of a worker process.
    """

    connection: Connection | None = None
    problem: str | None = None
    refused: bool = False
    warnings: tuple[Overheard, ...] = ()


def perform(session: Session, work: Work, *, progress: ProgressCallback = silent) -> Outcome:
    """Do the work with this session; anything that goes wrong is part of the answer.

    What is to follow is not done: a sweep is separate work.
    """
    try:
        return Outcome(_carry_out(session, work, progress))
    except MGraphError as error:
        refused = isinstance(error, InputError) and not isinstance(error, NonFiniteError)
        return Outcome(problem=str(error), refused=refused)
    except Exception as error:  # our bug, or one in the user's network; its run is recorded as failed
        return Outcome(problem=f"{type(error).__name__}: {error}")


def _carry_out(session: Session, work: Work, progress: ProgressCallback) -> Connection:
    from mgraph.operations.resume import resume

    with session.store.reading() as reader:
        begun = next(iter(reader.all(Run, id=work.run)), None)
    if begun is not None and begun.status == "complete":  # only its worker's answer was lost
        return _made(session.store, work)
    if work.job is None:
        resume(session, work.run, progress, follow=False)
    elif begun is None:
        session.next_run = work.run
        try:
            work.job.run(session, progress=progress, follow=False)
        finally:
            session.next_run = None
    elif begun.status == "failed":
        raise MGraphError(begun.reason or "It failed.")
    else:  # by a worker that was lost; if it is alive after all, it holds the lock of its run
        work.job.run(session, progress=progress, resumed=begun, follow=False)
    return _made(session.store, work)


def _made(store: GraphStore, work: Work) -> Connection:
    """Return the connection that a complete run has made or swept."""
    with store.reading() as reader:
        if isinstance(work.job, SweepJob):
            return reader.get(Connection, id=work.job.connection)
        return reader.get(Connection, run_id=work.run)


def do(place: Place, work: Work) -> Outcome:
    """Do the work in a worker process. Ctrl-C stops it, with what it has by then stored."""
    session = _session(place)
    done = Outcome(problem=INTERRUPTED)
    with listening() as heard, suppress(KeyboardInterrupt), interruptible():
        done = perform(session, work)
    return replace(done, warnings=tuple(heard))


@lru_cache(maxsize=4)
def _session(place: Place) -> Session:
    """Open the graph once per process, so that data and network are loaded only once."""
    store = GraphStore.open(place.path)
    return Session(store, device=place.device, threads=place.threads, trust=place.trust, workers=place.workers)


def executor_named(spec: str) -> Any:
    """Call the function that an engine's spec names, as typed in the current directory, for the executor it returns."""
    from mgraph.factories import load_factory
    from mgraph.specs import Spec
    from mgraph.trust import speaker

    parsed = Spec.parse(spec)
    return load_factory(parsed, base=Path.cwd(), consent=speaker())(**parsed.params)
