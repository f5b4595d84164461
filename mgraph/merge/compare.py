"""Is one model better than another beyond its standard error? Paired, on the same examples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from typing_extensions import override


@dataclass(frozen=True)
class Difference:
    """A mean paired difference over examples, positive if the candidate is better."""

    value: float
    standard_error: float

    @property
    def verdict(self) -> str:
        """Return 'better' or 'worse' beyond two standard errors, else 'even' (also for NaN)."""
        if not abs(self.value) > 2 * self.standard_error:
            return "even"
        return "better" if self.value > 0 else "worse"

    def to_dict(self, name: str) -> dict[str, float | str]:
        """Return value, standard error and verdict as plain data, with keys that begin with a name."""
        return {name: self.value, f"{name}_standard_error": self.standard_error, f"{name}_verdict": self.verdict}

    @override
    def __str__(self) -> str:
        """Return value, standard error and verdict."""
        return f"{self.value:+.4f} ± {self.standard_error:.4f}: {self.verdict}"


def paired_difference(candidate: ArrayLike, baseline: ArrayLike) -> Difference:
    """Compare per-example scores of two models, each of shape (N,); a higher score is better.

    Pairing removes the variance that the two share because both saw the same examples.
    """
    difference = np.asarray(candidate, np.float64) - np.asarray(baseline, np.float64)
    if len(difference) < 2:
        return Difference(float(difference.mean()), float("inf"))
    return Difference(float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(len(difference))))
