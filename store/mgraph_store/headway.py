"""How far a run under way has come, as its process last wrote it: ``states/RUN_ID/headway.json``, beside its lock.

It is for whoever looks on from another process. It is small, replaced as a whole every few seconds, never flushed, and
gone when the run ends; what a killed process left is removed with the run's other files. Nothing depends on it.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from mgraph_store.errors import CorruptError, StoreError
from mgraph_store.folder import STATES, Folder
from mgraph_store.root import Root
from mgraph_store.rows.ids import is_id

HEADWAY = "headway.json"

_LARGEST = 1 << 20  # bytes; ours are some kB


@dataclass(frozen=True)
class Headway:
    """``done`` of ``total`` units of a phase, at which ``loss``, and ``when``, by the clock of the run's machine.

    The phase was first reported at ``since``, when ``first`` units were done. ``losses`` are (phase, done, loss), some
    of all that were reported.
    """

    phase: str
    done: int
    total: int
    loss: float | None
    when: datetime
    since: datetime
    first: int
    losses: tuple[tuple[str, int, float], ...] = ()

    @property
    def seconds_left(self) -> float | None:
        """The time that the rest of the phase will take at the pace so far; None if there was none yet."""
        moved, took = self.done - self.first, (self.when - self.since).total_seconds()
        return None if moved <= 0 or took <= 0 else max(0, self.total - self.done) * took / moved


class HeadwayFile:
    """The file of one run."""

    def __init__(self, graph: Root | Path, run_id: str) -> None:
        if not is_id(run_id):
            raise CorruptError(f"The index has a run {run_id!r}, which is not an id: run `mgraph check`.")
        self._folder = Folder(graph).sub(STATES, run_id)

    def write(self, headway: Headway) -> None:
        """Replace the file; if the disk refuses, leave it."""
        text = json.dumps(asdict(headway), default=datetime.isoformat)
        with contextlib.suppress(OSError, StoreError):
            with self._folder.opened(create=True):
                pass
            self._folder.write(f"{HEADWAY}.tmp", text.encode())
            self._folder.rename(f"{HEADWAY}.tmp", self._folder, HEADWAY)

    def read(self) -> Headway | None:
        """Read it; None if there is none, or none that a run of ours could have written."""
        try:
            if self._folder.size(HEADWAY) > _LARGEST:
                return None
            return _parsed(json.loads(self._folder.read(HEADWAY)))
        except (OSError, StoreError, ValueError, TypeError, LookupError, OverflowError, RecursionError):
            return None

    def remove(self) -> None:
        """Remove it, as far as the disk allows, and its directory if it is empty."""
        with contextlib.suppress(OSError, StoreError):
            self._folder.unlink(f"{HEADWAY}.tmp")
            self._folder.unlink(HEADWAY)
            self._folder.above().remove_if_empty(self._folder.name)


def _parsed(document: dict[str, Any]) -> Headway:
    when, since = datetime.fromisoformat(document["when"]), datetime.fromisoformat(document["since"])
    if when.utcoffset() is None or since.utcoffset() is None:
        raise ValueError("a moment without a time zone")
    loss = document["loss"]
    return Headway(
        str(document["phase"]),
        int(document["done"]),
        int(document["total"]),
        None if loss is None else float(loss),
        when,
        since,
        int(document["first"]),
        tuple((str(phase), int(done), float(value)) for phase, done, value in document["losses"]),
    )
