"""How edges are compared and which of them count: a quantity of a metric on a split, a limit, how well measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, TypedDict, Unpack

from typing_extensions import override

from mgraph.errors import InputError
from mgraph.keywords import refuse_unknown
from mgraph.metric import LOSS
from mgraph.settings import Option

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
            from mgraph.specs import suggestion

            close = suggestion(self.split, SPLITS)
            raise InputError(f"There is no split {self.split!r};{close} choose from {', '.join(SPLITS)}.")
        if self.limit is not None and not math.isfinite(self.limit):
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


class PathLimit(TypedDict, total=False):
    """What limits a path: one of ``max_barrier``, ``max_peak`` and ``max_drop``.

    ``metric`` is any that was measured and has a direction (default: the loss; for drops the primary one, such as
    accuracy), compared as a cost (error for accuracy), on the ``split`` train (default), valid or test.
    """

    max_barrier: Annotated[float | None, Option("Largest loss above the chord of the two ends.")]
    max_peak: Annotated[float | None, Option("Largest loss along the path.")]
    max_drop: Annotated[float | None, Option("Largest drop below the mean of the two ends (primary metric).")]
    metric: Annotated[str | None, Option("Any metric that is measured. [default: loss; for drops the primary one]")]
    split: Annotated[str, Option("train, valid or test. [default: train]")]


class Criteria(PathLimit, total=False):
    """What every query takes: how edges are compared, and which of them count.

    A limit (:class:`PathLimit`) names the quantity; otherwise ``by`` does (default: peak). ``certified`` counts only
    edges in full precision on routes of at least ``min_resolution`` points (default 11) and at least ``min_examples``
    (default 1000, or the whole split). ``batchnorm`` names the policy under which they were measured.
    """

    by: Annotated[str | None, Option("peak, barrier or drop. [default: that of the limit, or peak]")]
    certified: Annotated[bool, Option("Only edges measured at least as finely as the next two options say.")]
    min_resolution: Annotated[int | None, Option("Points on an edge's route. [default: 11]", shown="N")]
    min_examples: Annotated[int | None, Option("Examples per point. [default: 1000, or the whole split]", shown="N")]
    batchnorm: Annotated[str | None, Option("Only edges measured under this BatchNorm policy.", shown="POLICY")]


def criterion_from(
    *,
    threshold: bool = False,
    named: Callable[[str | None, bool], str] = lambda name, drop: name or LOSS.cost_name,
    **criteria: Unpack[Criteria],
) -> Criterion:
    """Build a criterion from the arguments of commands and methods, :class:`Criteria`.

    There may be one limit (with ``threshold``, there must be), which also gives the quantity; otherwise ``by`` does
    (default: peak). ``named`` turns a metric's name (None if not given), and whether it is for a drop, into what edges
    call its cost. A minimum implies ``certified``. Raises InputError for limits that contradict each other or ``by``.
    """
    refuse_unknown("criterion_from", criteria, Criteria)
    limits = {
        "barrier": criteria.get("max_barrier"),
        "peak": criteria.get("max_peak"),
        "drop": criteria.get("max_drop"),
    }
    given = [(quantity, limit) for quantity, limit in limits.items() if limit is not None]
    flags = "--max-barrier, --max-peak and --max-drop"
    if threshold and len(given) != 1:
        raise InputError(f"Give exactly one of {flags}.")
    if len(given) > 1:
        raise InputError(f"Give at most one of {flags}: edges are compared by one quantity.")
    by = criteria.get("by")
    quantity, limit = given[0] if given else (by or "peak", None)
    if by is not None and by != quantity:
        raise InputError(f"--by {by} and --max-{quantity} contradict each other: edges are compared by one quantity.")
    least = criteria.get("min_resolution"), criteria.get("min_examples")
    return Criterion(
        quantity,
        limit,
        named(criteria.get("metric"), quantity == "drop"),
        criteria.get("split", "train"),
        criteria.get("certified", False) or least != (None, None),
        *least,
        criteria.get("batchnorm"),
    )
