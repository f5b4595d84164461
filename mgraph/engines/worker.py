"""What a call does inside a worker process: it stops when asked to, and what it warns of is repeated by its caller."""

from __future__ import annotations

import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mgraph.errors import MGraphWarning

_STOPPING = (signal.SIGINT, signal.SIGTERM)

GRACE = 20.0
"""Seconds that workers have to save their state in, once they are asked to stop."""


@dataclass(frozen=True)
class Overheard:
    """A warning given in a worker: ours or a library's, and by which line of which file."""

    text: str
    ours: bool
    filename: str
    line: int

    def repeat(self) -> None:
        """Warn here."""
        category = MGraphWarning if self.ours else UserWarning
        warnings.warn_explicit(self.text, category, self.filename, self.line)


@contextmanager
def listening() -> Iterator[list[Overheard]]:
    """Give a list that has all warnings of the block at its end, in place of printing them."""
    heard: list[Overheard] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", MGraphWarning)
        yield heard
    heard += [Overheard(str(w.message), issubclass(w.category, MGraphWarning), w.filename, w.lineno) for w in caught]


@contextmanager
def interruptible() -> Iterator[None]:
    """Let one SIGINT through, or SIGTERM, by which clusters end a job: both stop the call as Ctrl-C does. Handling it
    must not be interrupted again."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        for number in _STOPPING:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in _STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
