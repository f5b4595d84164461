"""How edges are compared and which of them count: a quantity of a metric on a split, a limit, how well measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from typing_extensions import override

from mgraph.errors import InputError
from mgraph.metric import LOSS

QUANTITIES = ("peak", "barrier", "drop")
SPLITS = ("train", "valid", "test")
NODE_KINDS = ("mode", "merged")

PATH, ORACLE = "path", "oracle"
"""What chose the route of an edge, other than a loss: nothing, because a path has only one; or the edge's own numbers.
The oracle is for comparison and never counts."""
FULL_PRECISION = ("fp32", "fp64")

COARSE = 11
"""An edge of a route with fewer points is uncertain; this is the coarsest default grid of a sweep."""
FEW = 1000
"""An edge measured on fewer examples is uncertain, unless the split has no more."""


@dataclass(frozen=True)
class Criterion:
    """How edges are compared, and which of them count.

    ``limit``: only those whose quantity is at most this. ``certified``: only those in full precision whose route has at
    least ``min_resolution`` points (default 11) and which were measured on at least ``min_examples`` (default 1000, or
    the whole split if it has fewer); a finer edge that is not certified does not hide one that is. ``batchnorm``: only
    those measured under this BatchNorm policy.
    """

    quantity: str = "peak"
    limit: float | None = None
    metric: str = LOSS.cost_name
    split: str = "train"
    certified: bool = False
    min_resolution: int | None = None
    min_examples: int | None = None
    batchnorm: str | None = None

    def __post_init__(self) -> None:
        if self.quantity not in QUANTITIES:
            raise InputError(f"An edge has a {', '.join(QUANTITIES)}, not a {self.quantity!r}.")
        if self.split not in SPLITS:
            raise InputError(f"There is no split {self.split!r}; choose from {', '.join(SPLITS)}.")
        if self.limit is not None and not np.isfinite(self.limit):
            raise InputError(f"A threshold must be a finite number, not {self.limit}.")
        for name, value in (("resolution", self.min_resolution), ("examples", self.min_examples)):
            if value is not None and value < 1:
                raise InputError(f"--min-{name} must be a whole number of at least 1, not {value}.")

    @override
    def __str__(self) -> str:
        text = f"{self.split} {self.metric} {self.quantity}"
        return text if self.limit is None else f"{text} <= {self.limit:g}"

    def without_limit(self) -> Criterion:
        """Return the same without a limit."""
        return replace(self, limit=None)


def criterion_from(
    *,
    by: str | None = None,
    max_barrier: float | None = None,
    max_peak: float | None = None,
    max_drop: float | None = None,
    metric: str | None = None,
    split: str = "train",
    certified: bool = False,
    min_resolution: int | None = None,
    min_examples: int | None = None,
    batchnorm: str | None = None,
    threshold: bool = False,
    named: Callable[[str | None, bool], str] = lambda name, drop: name or LOSS.cost_name,
) -> Criterion:
    """Build a criterion from the arguments of commands and methods.

    There may be one limit (with ``threshold``, there must be), which also gives the quantity; otherwise ``by`` does
    (default: peak). ``named`` turns a metric's name (None if not given), and whether it is for a drop, into what edges
    call its cost. A minimum implies ``certified``. Raises InputError for limits that contradict each other or ``by``.
    """
    limits = {"barrier": max_barrier, "peak": max_peak, "drop": max_drop}
    given = [(quantity, limit) for quantity, limit in limits.items() if limit is not None]
    flags = "--max-barrier, --max-peak and --max-drop"
    if threshold and len(given) != 1:
        raise InputError(f"Give exactly one of {flags}.")
    if len(given) > 1:
        raise InputError(f"Give at most one of {flags}: edges are compared by one quantity.")
    quantity, limit = given[0] if given else (by or "peak", None)
    if by is not None and by != quantity:
        raise InputError(f"--by {by} and --max-{quantity} contradict each other: edges are compared by one quantity.")
    chosen = named(metric, quantity == "drop")
    certified = certified or min_resolution is not None or min_examples is not None
    return Criterion(quantity, limit, chosen, split, certified, min_resolution, min_examples, batchnorm)
