"""Turn what a user gives as metrics of a task into :class:`mgraph.metric.Metric`; the directions of known ones."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mgraph.errors import InputError
from mgraph.metric import LOSS, Better, Metric

_ONE = {"better": "higher", "best": 1.0}
_OUT_OF_ONE = ("f1", "auc", "auroc", "iou", "miou", "dice", "r2", "precision", "recall")
_HIGHER = ("psnr", "bleu")
_LOWER = ("mae", "mse", "rmse", "perplexity", "nll", "brier", "ece", "wer", "cer")
_KNOWN: Mapping[str, Mapping[str, Any]] = {
    "accuracy": {**_ONE, "cost_name": "error"},
    **dict.fromkeys(_OUT_OF_ONE, _ONE),
    **{name: {"better": "higher"} for name in _HIGHER},
    **{name: {"better": "lower"} for name in _LOWER},
}
"""What a metric's name alone tells, for functions given without a direction."""

RESERVED = (LOSS.name, "error")


def named(name: str, function: Any, better: Better | None = None, **more: Any) -> Metric:
    """Make a metric from a function or from torchmetrics, with the given direction or else the known one.

    Directions are known for torchmetrics and for customary names. Raises InputError for an invalid name or direction.
    """
    if isinstance(function, Metric):
        return replace(function, better=better) if better else function
    if not callable(function):
        raise InputError(f"The metric {name} is a {type(function).__name__}; give a function, or an mgraph.Metric.")
    facts = _facts_of(function) if of_torchmetrics(function) else dict(_KNOWN.get(name, {}))
    if better is not None and facts.get("better") != better:
        facts = {"better": better}
    return Metric(name, function, **facts, **more)


def as_metrics(given: Any, better: Mapping[str, Better] | None = None) -> tuple[Metric, ...]:
    """Return a task's metrics in order, the primary one first.

    ``given`` is None, one metric, several, or a mapping of names; a metric is a :class:`Metric`, a function, or a
    torchmetrics object or class. ``better`` maps names to 'higher' or 'lower'. Raises InputError for anything else, for
    a name that is reserved or given twice, and for the direction of a metric that does not exist.
    """
    directions = dict(better or {})
    found: list[Metric] = []
    for name, function in _items(given):
        metric = named(name, function, directions.pop(name, None))
        if metric.name != name:
            metric = replace(metric, name=name, cost_name="" if metric.cost_name == metric.name else metric.cost_name)
        if name in RESERVED or name in {m.name for m in found}:
            raise InputError(f"The name {name} is taken; give the metric another one.")
        found.append(metric)
    if directions:
        there = ", ".join(m.name for m in found) or "none"
        raise InputError(f"better names {', '.join(map(str, directions))}, and the task's metrics are: {there}.")
    return tuple(found)


def notes_on(metrics: Sequence[Metric], better: Mapping[str, Better] | None, given: Any) -> list[str]:
    """Say which directions were inferred from a name, and which metrics have none."""
    notes = []
    functions = {name for name, f in _items(given) if not isinstance(f, Metric)}
    for metric in metrics:
        if metric.better is None:
            notes.append(
                f"It is unknown whether more or less of the metric {metric.name} is better: it is measured, but "
                f"nothing is compared by it; say better={{'{metric.name}': 'lower'}} (or 'higher')."
            )
        elif metric.name in functions and metric.name not in (better or {}) and not of_torchmetrics(metric.function):
            notes.append(
                f"{metric.better.capitalize()} values of the metric {metric.name} count as better, judging by its name."
            )
    return notes


def of_torchmetrics(function: Any) -> bool:
    """Return whether something is a torchmetrics object or class."""
    library: Any = sys.modules.get("torchmetrics")  # anyone who has such an object has imported it
    if library is None:
        return False
    return isinstance(function, library.Metric) or (isinstance(function, type) and issubclass(function, library.Metric))


def _facts_of(function: Any) -> dict[str, Any]:
    """Read the direction and best value from a torchmetrics object or class."""
    higher = getattr(function, "higher_is_better", None)
    if higher is None:
        return {}
    bound = getattr(function, "plot_upper_bound", None)
    return {"better": "higher", "best": None if bound is None else float(bound)} if higher else {"better": "lower"}


def _items(given: Any) -> list[tuple[str, Any]]:
    if given is None:
        return []
    if isinstance(given, Mapping):
        return list(given.items())
    several = given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    return [(_name_of(one), one) for one in several]


def _name_of(one: Any) -> str:
    if isinstance(one, Metric):
        return one.name
    if not callable(one):
        raise InputError(f"A metric is a function, an mgraph.Metric or of torchmetrics, not {one!r}.")
    of_class: Callable[..., Any] = one if isinstance(one, type) or hasattr(one, "__name__") else type(one)
    return re.sub(r"\W+", "_", str(of_class.__name__)).strip("_")  # a lambda is called <lambda>
