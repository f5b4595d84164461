"""From a metric's name to the code that computes it: built-in metrics, those of torchmetrics, and the user's own.

A user's metric is named ``module:name`` or ``file.py:name``: a function (outputs, targets) that returns one value per
example, or one number for a whole split; an :class:`mgraph.Metric`; or a torchmetrics object or class. Naming it in a
command is a request to run its code. ``?better=lower`` gives a direction to a metric that has none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mgraph.data.metrics import RESERVED, as_metrics, named
from mgraph.data.task import ACCURACY, Task, counting_labels
from mgraph.errors import InputError
from mgraph.evaluate.classification import brier, calibration_error_of, calibration_gaps, nll, top_k
from mgraph.evaluate.known import ANY_TOP, BESIDE, REGULARISED
from mgraph.evaluate.regularised import RegularisedLoss
from mgraph.evaluate.torchmetrics import PREFIX, from_torchmetrics
from mgraph.factories import find_source, load_factory, names_code
from mgraph.fields import are_labels
from mgraph.metric import LOSS, Metric
from mgraph.specs import Spec, suggestion, without_function
from mgraph.trust import speaker

_TOP = re.compile(r"top([1-9][0-9]*)")
_OWN = "built in"
_BUILT_IN = {
    ACCURACY.name: ACCURACY,
    "nll": named("nll", nll, identity=_OWN),
    "brier": named("brier", brier, identity=_OWN),
    "ece": named("ece", calibration_gaps, compute=calibration_error_of, identity=_OWN),
}
KNOWN = (LOSS.name, ACCURACY.name, ANY_TOP, *BESIDE, REGULARISED)


def resolve_metrics(
    given: Sequence[str | Metric | Callable[..., Any]], task: Task, *, base: Path | None = None
) -> tuple[Metric, ...]:
    """Return the metrics to measure besides the loss and the task's own; functions are loaded relative to ``base``.

    Raises InputError for a name that is unknown, reserved or given twice, or that needs class labels when there are
    none; NotFoundError for a function that does not exist.
    """
    always = {*RESERVED, *(m.name for m in task.metrics)}
    found: dict[str, Metric] = {}
    for item in given:
        if isinstance(item, str) and item.strip() in always:
            continue
        metric = _one(item, task, base or Path.cwd())
        if metric.name in found:
            raise InputError(f"Two metrics are called {metric.name}; give each once, and functions different names.")
        own = not isinstance(item, str) or names_code(item) or item.startswith(f"{PREFIX}:")
        if own and (metric.name in always or metric.name in {*_BUILT_IN, REGULARISED} or _TOP.fullmatch(metric.name)):
            raise InputError(f"The name {metric.name} already belongs to another metric; rename the function.")
        found[metric.name] = metric
    return tuple(found.values())


def _one(item: str | Metric | Callable[..., Any], task: Task, base: Path) -> Metric:
    if not isinstance(item, str):
        # There is no telling whether it will be the same function in the next process.
        return replace(as_metrics(item)[0], identity=None)
    spec = Spec.parse(item)
    if spec.prefix == PREFIX:
        return from_torchmetrics(spec)
    if spec.is_factory:
        return _of_user(spec, base)
    if spec.name == REGULARISED:
        return RegularisedLoss.of(spec)
    top = _TOP.fullmatch(spec.name)
    if spec.name not in _BUILT_IN and not top:
        hint = without_function(spec.name) or suggestion(spec.name, [*_BUILT_IN, REGULARISED])
        raise InputError(
            f"There is no metric {spec.name!r};{hint} choose from {', '.join(KNOWN)}, name one of torchmetrics as "
            f"torchmetrics:Class?key=value, or your own function as module:function or file.py:function."
        )
    if task.classes is None or not are_labels(task.train.targets):
        raise InputError(f"The metric {spec.name} needs class labels, and this task has none.")
    if not top:
        return counting_labels(_BUILT_IN[spec.name], task.void, task.example_weights)
    k = int(top[1])
    if k > task.classes:
        raise InputError(f"{spec.name} needs at least {k} classes, and the task has {task.classes}.")
    found = Metric(spec.name, top_k(k), better="higher", best=1.0, identity=_OWN)
    return counting_labels(found, task.void, task.example_weights)


def _of_user(spec: Spec, base: Path) -> Metric:
    better = spec.params.get("better")
    if set(spec.params) - {"better"} or better not in (None, "higher", "lower"):
        raise InputError(
            f"A metric takes no parameters but better=higher or better=lower; write {spec.name} or "
            f"{spec.name}?better=lower."
        )
    function = load_factory(Spec(spec.name), base=base, consent=speaker())
    found = named(spec.name.rpartition(":")[2], function, better)  # type: ignore[arg-type]
    hash = find_source(Spec(spec.name), base=base).hash
    return replace(found, identity=hash if better is None else f"{hash} {better}")
