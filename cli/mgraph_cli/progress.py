"""Progress bars with loss and ETA on a terminal, silence elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mgraph.progress import Progress

    Report = Callable[[Progress], None]


@contextmanager
def progress_bars(what: str) -> Iterator[Report | None]:
    """Yield a reporter that draws one bar per phase on stderr, or None where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, int] = {}

        def report(progress: Progress) -> None:
            if progress.phase not in tasks:
                label = what if progress.phase == what else f"{what}: {progress.phase}"
                tasks[progress.phase] = bars.add_task(label, total=progress.total, loss="")
            loss = "" if progress.loss is None else f"loss {progress.loss:.4f}"
            bars.update(tasks[progress.phase], completed=progress.done, loss=loss)  # type: ignore[arg-type]

        yield report
