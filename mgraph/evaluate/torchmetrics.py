"""Metrics of the torchmetrics library by name: ``torchmetrics:classification.MulticlassF1Score?num_classes=10``.

A name may come from a stranger's graph, so it reaches only metric classes in those parts of the library that compute
from their inputs alone: without any file, network access or pretrained model.
"""

from __future__ import annotations

import warnings
from typing import Any

from mgraph.data.metrics import named
from mgraph.errors import InputError
from mgraph.metric import Metric
from mgraph.specs import Spec, suggestion

PREFIX = "torchmetrics"


def from_torchmetrics(spec: Spec) -> Metric:
    """Make the metric named by a spec; its name is the class's.

    Raises InputError if torchmetrics is not installed, for an unknown name, and if the class does not accept the
    parameters.
    """
    kind, version = _class_of(spec)
    parameters = {key: list(value) if isinstance(value, tuple) else value for key, value in spec.params.items()}
    try:
        made = kind(**parameters)
    except Exception as error:
        raise InputError(f"{spec.name} cannot be made: {type(error).__name__}: {error}.") from error
    return named(kind.__name__, made, identity=f"{spec} {version}")


def _class_of(spec: Spec) -> tuple[Any, str]:
    try:
        import torchmetrics
    except ImportError:
        raise InputError(
            f"torchmetrics is not installed; install it to use {spec.name}: pip install 'mgraph[metrics]'."
        ) from None
    rooms = _rooms()
    part, _, name = spec.argument.rpartition(".")
    if part not in ("", *rooms):
        parts = ", ".join(f"torchmetrics.{room}" for room in rooms)
        raise InputError(f"There is no metric {spec.name!r}; those of {parts} can be named.")
    there = {n: c for room in ([part] if part else rooms) for n, c in rooms[room].items()}
    if name not in there:
        raise InputError(f"torchmetrics has no metric {name!r};{suggestion(name, list(there))} check the name.")
    return there[name], str(torchmetrics.__version__)


def _rooms() -> dict[str, dict[str, Any]]:
    """Return the metric classes that can be named, by the part of torchmetrics that contains them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchmetrics import Metric as Base
        from torchmetrics import classification, nominal, regression, segmentation
        from torchmetrics.text import Perplexity
    parts = {
        "classification": classification,
        "regression": regression,
        "segmentation": segmentation,
        "nominal": nominal,
    }
    rooms = {
        part: {n: c for n, c in vars(module).items() if isinstance(c, type) and issubclass(c, Base) and c is not Base}
        for part, module in parts.items()
    }
    return rooms | {"text": {"Perplexity": Perplexity}}
