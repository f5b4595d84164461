"""How long computations report where they stand (no torch)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Where a long computation stands: ``done`` of ``total`` units, in which phase, at which loss.

    ``note`` is something to tell once, such as what a phase that begins will cost.
    """

    phase: str
    done: int
    total: int
    loss: float | None = None
    note: str = ""


ProgressCallback = Callable[[Progress], None]


def silent(_: Progress) -> None:
    """Report nothing."""
