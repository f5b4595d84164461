"""Writing down how far a run under way has come, for whoever looks on from another process (no torch)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from mgraph.progress import Progress, ProgressCallback
from mgraph_store.headway import Headway, HeadwayFile
from mgraph_store.rows.records import now

if TYPE_CHECKING:
    from mgraph.session.runs import RunLog
    from mgraph.session.session import Session

SECONDS = 2.0
"""Between two times of writing, and before the first: a run that is over by then writes nothing."""

_LOSSES = 200  # kept at most; then every second one is dropped


class HeadwayLog:
    """Notes the progress of one run, and writes it down every few seconds."""

    def __init__(self, file: HeadwayFile, clock: Callable[[], float] = time.monotonic) -> None:
        self._file, self._clock = file, clock
        self._due = clock() + SECONDS
        self._last: Headway | None = None
        self._losses: list[tuple[str, int, float]] = []
        self._stride, self._seen, self._written = 1, 0, False

    def note(self, progress: Progress) -> None:
        """Take a report; cheap enough for every step."""
        last, due = self._last, self._clock() >= self._due
        if last is not None and progress.phase == last.phase and not due:
            return
        p, moment = progress, now()
        if last is None or p.phase != last.phase:
            last = Headway(p.phase, p.done, p.total, p.loss, moment, moment, p.done)
        self._last = replace(last, done=p.done, total=p.total, loss=p.loss, when=moment)
        if due:
            self._keep(p)
            self._file.write(replace(self._last, losses=tuple(self._losses)))
            self._written, self._due = True, self._clock() + SECONDS

    def close(self) -> None:
        """Remove what was written: the run is over."""
        if self._written:
            self._file.remove()

    def _keep(self, progress: Progress) -> None:
        if progress.loss is not None:
            self._seen += 1
            if self._seen % self._stride == 0:
                self._losses.append((progress.phase, progress.done, progress.loss))
        if len(self._losses) > _LOSSES:
            self._losses, self._stride = self._losses[1::2], 2 * self._stride


class Heard:
    """A reporter that passes everything on, and notes it for the run that is under way in a session."""

    def __init__(self, session: Session, progress: ProgressCallback) -> None:
        self._session, self._progress = session, progress

    @classmethod
    def of(cls, session: Session, progress: ProgressCallback) -> ProgressCallback:
        """Wrap a reporter, unless it is wrapped already."""
        return progress if isinstance(progress, cls) else cls(session, progress)

    def __call__(self, progress: Progress) -> None:
        """Report."""
        if self._session.headway is not None:
            self._session.headway.note(progress)
        self._progress(progress)


@contextmanager
def noted(session: Session, run: RunLog) -> Iterator[None]:
    """Note what is reported in a session while the block runs as the headway of this run, if it is recorded here."""
    before = session.headway
    session.headway = HeadwayLog(HeadwayFile(session.store.folder.root, run.id)) if run.records else None
    try:
        yield
    finally:
        if session.headway is not None:
            session.headway.close()
        session.headway = before
