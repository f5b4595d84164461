"""One piece of work on a graph, done here or in a worker process that hands over its rows."""

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
from mgraph_store import Connection, Handover, WorkerStore

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
class Resumption:
    """Resuming the interrupted run with this id, whose job is in its row."""

    run: str


@dataclass(frozen=True)
class Delivery:
    """The outcome: the connection, or why there is none, and rows that are not committed yet.

    ``refused``: nothing was started because the request itself is at fault. ``warnings`` are those of a worker process.
    """

    connection: Connection | None = None
    rows: Handover = Handover()
    problem: str | None = None
    refused: bool = False
    warnings: tuple[Overheard, ...] = ()


def perform(session: Session, work: Job | Resumption, *, progress: ProgressCallback = silent) -> Delivery:
    """Do the work with this session, which stores the results; anything that goes wrong is part of the answer.

    What is to follow is not done: a sweep is separate work.
    """
    try:
        return Delivery(_carry_out(session, work, progress))
    except MGraphError as error:
        refused = isinstance(error, InputError) and not isinstance(error, NonFiniteError)
        return Delivery(problem=str(error), refused=refused)
    except Exception as error:  # our bug, or one in the user's network; its run is recorded as failed
        return Delivery(problem=f"{type(error).__name__}: {error}")


def _carry_out(session: Session, work: Job | Resumption, progress: ProgressCallback) -> Connection:
    from mgraph.operations.resume import resume

    if isinstance(work, Resumption):
        made: Any = resume(session, work.run, progress, follow=False)
    else:
        made = work.run(session, progress=progress, follow=False)
    if isinstance(work, SweepJob):
        with session.store.reading() as reader:
            made = reader.get(Connection, id=work.connection)
    assert isinstance(made, Connection)
    return made


def deliver(place: Place, work: Job | Resumption) -> Delivery:
    """Do the work in a worker process, writing tensors and returning rows. Ctrl-C stops it with what it has by then."""
    session = _session(place)
    store = session.store
    assert isinstance(store, WorkerStore)
    store.hand_over()
    done = Delivery(problem=INTERRUPTED)
    with listening() as heard, suppress(KeyboardInterrupt), interruptible():
        done = perform(session, work)
    return replace(done, rows=store.hand_over(), warnings=tuple(heard))


@lru_cache(maxsize=4)
def _session(place: Place) -> Session:
    """Open the graph once per process, so that data and network are loaded only once."""
    store = WorkerStore.open(place.path)
    return Session(store, device=place.device, threads=place.threads, trust=place.trust, workers=place.workers)


def executor_named(spec: str) -> Any:
    """Call the function that an engine's spec names, as typed in the current directory, for the executor it returns."""
    from mgraph.factories import load_factory
    from mgraph.specs import Spec
    from mgraph.trust import speaker

    parsed = Spec.parse(spec)
    return load_factory(parsed, base=Path.cwd(), consent=speaker())(**parsed.params)
