"""What counts as good: a metric with a direction, and how it becomes a cost to be minimised (torch-free).

A metric says what is measured on outputs and targets, whether more or less of it is better, and what the best value is
if there is one. Edges, choices, tables and pictures rely on this, never on a word such as accuracy. What is stored
about it with a space and a sweep (:meth:`Metric.stored`) is enough to interpret the numbers later without the code that
measured them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from mgraph.errors import InputError

Better = Literal["higher", "lower"]

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,62}")


@dataclass(frozen=True)
class Metric:
    """A number that says how good a network is: ``Metric("mae", absolute_error, better="lower")``.

    ``function(outputs, targets)`` gets one batch at a time and returns one value per example, shape (N,): the metric is
    their mean, with a standard error. With ``compute`` it returns running sums instead, a tuple of numbers or tensors
    that are added up over the batches, and the metric is ``compute(*sums)``. A function that returns one number and has
    no ``compute`` gets a whole split at once (``whole``), which takes memory for all outputs. It may also be a
    ``torchmetrics.Metric`` or a class of these that takes no arguments.

    ``weights(targets)`` says how much each example counts in the mean, shape (N,); by default all count alike.

    ``better`` says whether higher or lower values are better; without it the metric is measured, but nothing is
    compared by it. ``best`` is the value of a perfect network, if higher is better and there is such a value.
    ``cost_name`` is what edges call the cost (default: the metric's name). ``identity`` distinguishes functions with
    the same name: the hash of a user's code, or None if unknown.

    Raises InputError for a name that is not a letter followed by letters, digits and ``. _ -``, and for another
    direction.
    """

    name: str
    function: Callable[..., Any] | None = None
    better: Better | None = None
    best: float | None = None
    unit: str = ""
    compute: Callable[..., Any] | None = None
    whole: bool = False
    cost_name: str = ""
    identity: str | None = None
    weights: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        for name in (self.name, self.cost_name or self.name):
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise InputError(
                    f"A metric cannot be called {name!r}: take a letter, then at most 62 letters, digits, and . _ -"
                )
        if self.better not in ("higher", "lower", None):
            raise InputError(f"For the metric {self.name}, better must be 'higher' or 'lower', not {self.better!r}.")
        if self.best is not None and (self.better is None or not math.isfinite(self.best)):
            raise InputError(f"The best value of the metric {self.name} must be a finite number, and needs better.")
        if not self.cost_name:
            object.__setattr__(self, "cost_name", self.name)

    @property
    def sign(self) -> float:
        """The factor that makes higher values better; raises InputError without a direction."""
        return 1.0 if self._direction() == "higher" else -1.0

    def cost(self, value: Any) -> Any:
        """Return a value, or an array of them, as a cost to be minimised.

        This is ``best - value`` or ``-value`` if higher is better, else the value itself. InputError without a
        direction.
        """
        if self._direction() == "lower":
            return value
        return -value if self.best is None else self.best - value

    def _direction(self) -> Better:
        if self.better is None:
            raise InputError(f"It is not known whether a higher or lower {self.name} is better; say so.")
        return self.better

    def stored(self) -> dict[str, Any]:
        """Return what is stored about it: name, direction, best value, unit, and the name of its cost."""
        facts = {"name": self.name, "better": self.better, "best": self.best, "unit": self.unit, "cost": self.cost_name}
        return {key: value for key, value in facts.items() if value not in (None, "")}


LOSS = Metric("loss", better="lower", identity="built in")
"""The loss of a task, which every task has."""


def to_json(metrics: Iterable[Metric]) -> str:
    """Return what is stored about metrics, as JSON."""
    return json.dumps([metric.stored() for metric in metrics])


def from_json(text: str) -> tuple[Metric, ...]:
    """Read stored metrics, in order; text that is not of this form, perhaps a stranger's, yields none."""
    try:
        entries = json.loads(text)
        return tuple(
            Metric(e["name"], None, e.get("better"), e.get("best"), e.get("unit", ""), cost_name=e.get("cost", ""))
            for e in entries
        )
    except (ValueError, KeyError, TypeError, AttributeError, InputError):
        return ()


def primary_of(metrics: Iterable[Metric]) -> Metric:
    """Return the metric by which networks are compared: the first one with a direction, else the loss."""
    return next((metric for metric in metrics if metric.better is not None), LOSS)
