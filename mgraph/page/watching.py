"""Writing the page again and again while a graph grows, until Ctrl-C."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

from mgraph.errors import ConflictError, InputError, LockTimeoutError
from mgraph.page.contents import Contents
from mgraph.page.writing import write_page
from mgraph.query.edges import ChangedMeanwhileError

SHORTEST = 1.0
"""Seconds between two pages, at least: reading a graph takes a moment, and a reader more than one."""


def watch_page(contents: Contents, path: Path, seconds: float, written: Callable[[Path], None]) -> Path:
    """Write the page every so many seconds; at Ctrl-C write it once more, as a page that no longer reloads itself.

    If the graph is being changed just then, the page of before stays until the next time. InputError for seconds that
    are no number of at least 1, and whatever reading and writing raise.
    """
    if not (math.isfinite(seconds) and seconds >= SHORTEST):
        raise InputError(f"--watch takes at least {SHORTEST:g} second, not {seconds:g}.")
    try:
        write_page(contents.read(seconds=seconds), path)
        written(path)
        while True:
            time.sleep(seconds)
            try:
                page = contents.read(seconds=seconds)
            except (ChangedMeanwhileError, ConflictError, LockTimeoutError):
                continue
            write_page(page, path)
            written(path)
    except KeyboardInterrupt:
        return write_page(contents.read(), path)
