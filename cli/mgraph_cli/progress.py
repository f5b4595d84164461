"""Progress of long commands: bars with loss and ETA on a terminal; elsewhere a line a minute, on stderr.

``MGRAPH_PROGRESS_SECONDS`` sets the interval between lines; 0: never.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from typing_extensions import override

from mgraph import spoken, visible
from mgraph.errors import InputError
from mgraph_cli.terminal import echo, unguarded

if TYPE_CHECKING:
    from mgraph import Progress

    Report = Callable[[Progress], None]

EVERY = 60.0  # seconds between two lines, and before the first
VARIABLE = "MGRAPH_PROGRESS_SECONDS"


@contextmanager
def progress_bars(what: str) -> Iterator[Report | None]:
    """Yield a reporter that draws one bar per phase on stderr, or writes lines where stderr is not a terminal.

    Of several processes under torchrun, only the first reports.
    """
    if follows():
        yield None
    elif sys.stderr.isatty():
        with _bars(what) as report:
            yield report
    else:
        with _lines(what) as report:
            yield report


@contextmanager
def progress_lines(what: str) -> Iterator[None]:
    """While the block runs, say every minute that the command is under way, if stderr is not a terminal."""
    if follows() or sys.stderr.isatty():
        yield
    else:
        with _lines(what):
            yield


def follows() -> bool:
    """Return whether torchrun started this process as one of several but not as the first, which alone reports."""
    return os.environ.get("WORLD_SIZE", "1") != "1" and os.environ.get("RANK", "0") != "0"


@contextmanager
def _bars(what: str) -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TextColumn("{task.fields[speed]}"),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(file=unguarded(sys.stderr)), transient=True) as bars:
        tasks: dict[str, int] = {}

        def report(progress: Progress) -> None:
            if progress.note:
                bars.console.print(visible(progress.note), markup=False, highlight=False)
            if progress.phase not in tasks:
                label = what if progress.phase == what else f"{what}: {progress.phase}"
                tasks[progress.phase] = bars.add_task(visible(label), total=progress.total, loss="", speed="")
            loss = "" if progress.loss is None else f"loss {progress.loss:.4f}"
            task = tasks[progress.phase]
            speed = progress.speed(bars.tasks[int(task)].speed or 0.0)
            bars.update(task, completed=progress.done, loss=loss, speed=speed)  # type: ignore[arg-type]

        yield report


class Line:
    """A command's progress, as a line."""

    def __init__(self, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._what, self._clock = what, clock
        self._begun = clock()
        # What was last reported, when its phase was first reported, and how far it was then.
        self._seen: tuple[Progress, float, int] | None = None

    def report(self, progress: Progress) -> None:
        """Remember the command's progress; a note in it is written at once."""
        if progress.note:
            echo(progress.note, err=True)
        if self._seen is None or progress.phase != self._seen[0].phase:
            self._seen = progress, self._clock(), progress.done
        else:
            self._seen = progress, *self._seen[1:]

    @override
    def __str__(self) -> str:
        now = self._clock()
        so_far = f"under way for {spoken(now - self._begun)}"
        if self._seen is None:
            return f"{self._what}: {so_far}"
        p, since, first = self._seen
        phase = "" if p.phase == self._what else f"{p.phase} "
        loss = "" if p.loss is None else f", loss {p.loss:.4f}"
        left = (p.total - p.done) * (now - since) / max(1, p.done - first)
        ahead = f", about {spoken(left)} left" if p.done > first and left else ""
        speed = p.speed((p.done - first) / (now - since)) if now > since else ""
        return f"{self._what}: {phase}{p.done} of {p.total}{loss}{speed and f', {speed}'}, {so_far}{ahead}"


_lines_now: list[Line] = []  # of commands within commands; the last one is written


@contextmanager
def _lines(what: str) -> Iterator[Report]:
    """Write the line of the innermost block to stderr at fixed intervals."""
    line = Line(what)
    _lines_now.append(line)
    try:
        seconds = _seconds()
        if len(_lines_now) > 1 or not seconds:
            yield line.report
        else:
            with _written(seconds):
                yield line.report
    finally:
        _lines_now.remove(line)


def _seconds() -> float:
    text = os.environ.get(VARIABLE, "")
    try:
        seconds = float(text or EVERY)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise InputError(f"{VARIABLE} must be a number of seconds, or 0 for no lines at all, not {text!r}.")
    return seconds


@contextmanager
def _written(seconds: float) -> Iterator[None]:
    done = threading.Event()

    def write() -> None:
        while not done.wait(seconds):
            echo(_lines_now[-1], err=True)

    writer = threading.Thread(target=write, name="mgraph-progress", daemon=True)
    writer.start()
    try:
        yield
    finally:
        done.set()
        writer.join()
