"""From the name of a metric to what computes it: built-in ones, and functions of the user's own.

A user's metric is a function (outputs, targets) of a whole split, on the CPU, that returns one number or one for
each example; it is named ``module:function`` or ``file.py:function``. Who names it in a command asks for its code
to be run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mgraph.data.task import Task, accuracy
from mgraph.errors import InputError
from mgraph.evaluate.classification import brier, expected_calibration_error, nll, top_k
from mgraph.evaluate.metrics import LOSS, Metric
from mgraph.factories import find_source, load_factory, names_code
from mgraph.specs import Spec, suggestion
from mgraph.trust import speaker

_TOP = re.compile(r"top([1-9][0-9]*)")
_BUILT_IN = {
    "accuracy": Metric("accuracy", accuracy),
    "nll": Metric("nll", nll),
    "brier": Metric("brier", brier),
    "ece": Metric("ece", expected_calibration_error, whole=True),
}
KNOWN = ("loss", "accuracy", "top5 (any number)", *list(_BUILT_IN)[1:])


def resolve_metrics(
    given: Sequence[str | Callable[..., Any]], task: Task, *, base: Path | None = None
) -> tuple[Metric, ...]:
    """Return the metrics to measure besides the loss and the task's own; functions are loaded, from ``base``.

    Raises InputError for a name that is unknown, taken or given twice, or that needs class labels where there
    are none; NotFoundError for a function that is not there.
    """
    always = {LOSS, *task.metrics}
    found: dict[str, Metric] = {}
    for item in given:
        if isinstance(item, str) and item.strip() in always:
            continue
        metric = _one(item, task, base or Path.cwd())
        if metric.name in found:
            raise InputError(f"Two metrics are called {metric.name}; give each once, functions by names of their own.")
        own = callable(item) or names_code(item)
        if own and (metric.name in always or metric.name in _BUILT_IN or _TOP.fullmatch(metric.name)):
            raise InputError(f"The name {metric.name} is taken by a metric that is there already; rename the function.")
        found[metric.name] = metric
    return tuple(found.values())


def _one(item: str | Callable[..., Any], task: Task, base: Path) -> Metric:
    if callable(item):
        # Whether it is the same function in the next process cannot be told.
        return Metric(str(getattr(item, "__name__", type(item).__name__)), item, whole=True, identity=None)
    spec = Spec.parse(item)
    if spec.is_factory:
        if spec.params:
            raise InputError(f"A metric takes no parameters; write {spec.name} alone.")
        name = spec.name.rpartition(":")[2]
        function = load_factory(spec, base=base, consent=speaker())
        return Metric(name, function, whole=True, identity=find_source(spec, base=base).hash)
    top = _TOP.fullmatch(spec.name)
    if spec.name not in _BUILT_IN and not top:
        hint = suggestion(spec.name, list(_BUILT_IN))
        raise InputError(
            f"There is no metric {spec.name!r};{hint} choose from {', '.join(KNOWN)}, or name a function of yours as "
            f"module:function or file.py:function."
        )
    if task.classes is None or task.train.targets.is_floating_point():
        raise InputError(f"The metric {spec.name} is of class labels, and this task has none.")
    if not top:
        return _counting(_BUILT_IN[spec.name], task)
    k = int(top[1])
    if k > task.classes:
        raise InputError(f"{spec.name} needs at least {k} classes, and the task has {task.classes}.")
    return _counting(Metric(spec.name, top_k(k)), task)


def _counting(metric: Metric, task: Task) -> Metric:
    """Let a built-in metric leave out the labels that do not count."""
    function: Callable[..., Any] = metric.function
    return replace(metric, function=partial(function, void=task.void)) if task.void else metric
