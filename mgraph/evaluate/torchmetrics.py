"""Metrics of the library torchmetrics by name: ``torchmetrics:classification.MulticlassF1Score?num_classes=10``.

A name may come from a graph of a stranger's, so it reaches only classes of metrics in those parts of the library that
compute with what they are given: no file, network or pretrained model is behind them.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any

from mgraph.data.metrics import named
from mgraph.errors import InputError
from mgraph.metric import Metric
from mgraph.specs import Spec, suggestion

PREFIX = "torchmetrics"
_PARTS = ("classification", "regression", "segmentation", "nominal")
_ALONE = {"text.Perplexity": ("text.perplexity", "Perplexity")}


def from_torchmetrics(spec: Spec) -> Metric:
    """Make the metric that a spec names; its name is the class's.

    Raises InputError where torchmetrics is not installed, for a name that is none, and if the class does not take the
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
        library: Any = import_module("torchmetrics")
    except ImportError:
        raise InputError(
            f"torchmetrics is not installed; install it to use {spec.name}: pip install 'mgraph[metrics]'."
        ) from None
    part, _, name = spec.argument.rpartition(".")
    if spec.argument in _ALONE:
        part, name = _ALONE[spec.argument]
    elif part not in (*_PARTS, ""):
        raise InputError(
            f"There is no metric {spec.name!r}; those of torchmetrics.{', torchmetrics.'.join(_PARTS)} can be named, "
            "and torchmetrics.text.Perplexity."
        )
    there: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in (part,) if part else _PARTS:
            home = vars(import_module(f"torchmetrics.{module}"))
            there |= {n: c for n, c in home.items() if isinstance(c, type) and issubclass(c, library.Metric)}
    if name not in there or name == "Metric":
        raise InputError(f"torchmetrics has no metric {name!r};{suggestion(name, list(there))} check the name.")
    return there[name], str(library.__version__)
