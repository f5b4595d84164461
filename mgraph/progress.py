"""How long computations report where they stand (no torch)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Where a long computation stands: ``done`` of ``total`` units, in which phase, at which loss.

    ``note`` is something to tell once, such as what a phase that begins will cost. Each unit takes ``examples``, which
    are ``called`` images or examples; 0: it is not known how many.
    """

    phase: str
    done: int
    total: int
    loss: float | None = None
    note: str = ""
    examples: int = 0
    called: str = "examples"

    def speed(self, units: float) -> str:
        """Say how many examples that many units in a second are; nothing if it is not known."""
        rate = units * self.examples
        return f"{rate:,.{0 if rate >= 10 else 1}f} {self.called}/s" if rate else ""


ProgressCallback = Callable[[Progress], None]


def silent(_: Progress) -> None:
    """Report nothing."""
