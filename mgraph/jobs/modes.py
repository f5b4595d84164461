"""Jobs that make modes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from mgraph.jobs.base import Job
from mgraph.train.settings import TrainSettings


@dataclass(frozen=True, kw_only=True)
class TrainJob(Job):
    """Train a mode from scratch in a space (its id), and copies of earlier epochs, if its settings ask for them."""

    kind: ClassVar[str] = "train"
    operation: ClassVar[str] = "mgraph.operations.modes:add_trained_mode"

    space: str
    settings: TrainSettings = TrainSettings()
    name: str | None = None

    def names(self) -> Iterable[Any]:
        """Return its loss."""
        return (self.settings.loss,)
