"""Stored observations of methods while they ran: numbers of a quantity of a subject, by position."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np

from mgraph.families import Floats

Row = dict[str, Any]


class Observation(Protocol):
    """A stored series, or anything with its fields."""

    @property
    def quantity(self) -> str:
        """What was observed."""

    @property
    def subject(self) -> str:
        """What it was observed on; empty for the whole."""

    @property
    def positions(self) -> Sequence[float]:
        """When it was observed."""

    @property
    def values(self) -> Sequence[float]:
        """The observed numbers."""


@dataclass(frozen=True)
class ConnectionSeries:
    """The series of one connection: positions and values, both of shape (N,), by (quantity, subject)."""

    series: Mapping[tuple[str, str], tuple[Floats, Floats]]

    @classmethod
    def of(cls, rows: Iterable[Observation]) -> Self:
        """Arrange stored series."""
        return cls({(s.quantity, s.subject): (np.array(s.positions), np.array(s.values)) for s in rows})

    def subjects(self, quantity: str) -> list[str]:
        """List the subjects of a quantity, except the whole."""
        return [subject for q, subject in self.series if q == quantity and subject]

    def summary(self) -> list[Row]:
        """Return one row per series: the count, and the first, last, least and largest number."""
        return [
            {
                "quantity": quantity,
                "subject": subject,
                "count": len(values),
                "first": float(values[0]),
                "last": float(values[-1]),
                "min": float(values.min()),
                "max": float(values.max()),
            }
            for (quantity, subject), (_, values) in self.series.items()
            if len(values)
        ]

    def numbers(self) -> list[Row]:
        """Return one row per number."""
        return [
            {"quantity": quantity, "subject": subject, "position": p, "value": v}
            for (quantity, subject), (positions, values) in self.series.items()
            for p, v in zip(positions.tolist(), values.tolist(), strict=True)
        ]
