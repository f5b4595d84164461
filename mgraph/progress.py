"""How long computations report their progress (no torch)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """The progress of a long computation: ``done`` of ``total`` units, in which phase, at which loss.

    ``note`` is something to say once, such as what the phase that begins will cost. Each unit takes ``examples``, which
    are ``called`` images or examples; 0 if their number is unknown.
    """

    phase: str
    done: int
    total: int
    loss: float | None = None
    note: str = ""
    examples: int = 0
    called: str = "examples"

    def speed(self, units: float) -> str:
        """Convert units per second to examples per second, in words; empty if unknown."""
        rate = units * self.examples
        return f"{rate:,.{0 if rate >= 10 else 1}f} {self.called}/s" if rate else ""


ProgressCallback = Callable[[Progress], None]


def silent(_: Progress) -> None:
    """Report nothing."""
