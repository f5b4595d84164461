"""Make a task from arrays or Datasets and a few words on how outputs are judged, and check it as a whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mgraph.calling import AUTO, Choice
from mgraph.data import labels as _labels
from mgraph.data.items import check_input_type, input_typed, target_typed
from mgraph.data.labels import VoidCrossEntropy, as_column, per_example
from mgraph.data.metrics import as_metrics, notes_on
from mgraph.data.splits import ArraySplit, Split, check_lengths, check_rows
from mgraph.data.stratify import VALID_SEED, stratified_choice
from mgraph.data.streaming import DatasetSplit
from mgraph.data.task import (
    ACCURACY,
    Combine,
    LossFunction,
    Task,
    counting_labels,
    cross_entropy,
    example_cross_entropy,
)
from mgraph.data.voting import voting_of
from mgraph.errors import InputError
from mgraph.fields import Fields, examples_in
from mgraph.keywords import refuse_unknown
from mgraph.metric import Better, Metric

_FIRST = torch.tensor([0])


class Judging(TypedDict, total=False):
    """How outputs are judged; see :func:`make_task`."""

    loss_name: str | None
    example_loss: LossFunction | None
    metrics: Any
    better: Mapping[str, Better] | None
    combine: Combine | Literal["none"] | None
    ignore_index: int | None
    outputs: Choice | Literal["all"]
    example_weights: Callable[[Any], Tensor] | None


def make_task(
    *,
    train: Any,
    test: Any = None,
    valid: Any = None,
    classes: int | None = None,
    loss: LossFunction | None = None,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    **judging: Unpack[Judging],
) -> Task:
    """Make a task from splits: each a pair (x, y) of arrays or tensors, a torch Dataset, or a Split.

    Either x or y may also be a dict or tuple of arrays with one row per example; the network is called as
    ``module(x)``, ``module(**x)`` or ``module(*x)`` accordingly. ``outputs`` selects the part of the network's result
    that counts: the name of an entry, a place in a tuple, or a function. By default, the default loss uses the result's
    logits if it has any, and a loss of your own gets "all".

    Inputs, shape (N, …), are in the network's layout (images channels first): uint8, scaled to [0, 1]; floats,
    converted to float32; or other integers, left alone. Labels, unless a loss is given, are integers of shape (N,), (N,
    1) or one per pixel. Without ``valid``, a stratified tenth of train, chosen with a fixed seed, takes its place.
    ``classes`` defaults to the largest training label plus one. A Split keeps its own normalisation; ``mean`` and
    ``std``, one value or one per channel, apply to pairs and Datasets.

    The other keywords say how outputs are judged. The default loss is cross-entropy; the default metric is accuracy if
    targets are labels. A loss of your own, named ``loss_name``, has no ``example_loss`` unless given. Labels equal to
    ``ignore_index`` stand for "no label": the default loss and the metrics do not count them, and a loss of your own
    must not either; other values outside 0 … classes-1 are allowed only if your loss ignores them, which is tested.

    ``metrics`` is a :class:`mgraph.Metric`, several, or a mapping of names to functions of (outputs, targets) or to
    torchmetrics objects or classes; the first is the primary one. ``better`` maps the names of metrics without a known
    direction to "higher" or "lower"; a metric with neither is only measured. ``combine`` says how the members of an
    ensemble vote, "softmax", "sigmoid", "mean" or "none"; the default depends on the labels, or targets and loss.
    Raises InputError if these do not fit together.
    """
    refuse_unknown("make_task", judging, Judging)
    example_loss, loss_name = judging.get("example_loss"), judging.get("loss_name")
    metrics, better, combine = judging.get("metrics"), judging.get("better"), judging.get("combine")
    ignore_index, outputs = judging.get("ignore_index"), judging.get("outputs")
    example_weights = judging.get("example_weights")
    mean, std = _per_channel(mean), _per_channel(std)
    if test is None:
        raise InputError("The data have no test split; give test=(x, y), which is never trained on.")
    make = partial(_make_split, mean=mean, std=std, columns=loss is None)
    learnt = make("train", train)
    check_lengths("train", len(learnt), len(learnt))
    labelled = learnt.labelled
    notes: list[str] = []
    if loss is None and not labelled:
        _labels.refuse_unlabelled(learnt.targets)
    if classes is None and labelled and isinstance(learnt.targets, Tensor):
        classes, notes = _labels.number_of_classes(learnt.targets, ignore_index, own_loss=loss is not None)
    tested = make("test", test)
    if valid is None:
        learnt, held = _carve_valid(learnt)
    else:
        held = make("valid", valid)
    void: tuple[int, ...] = () if ignore_index is None else (ignore_index,)
    if labelled and classes is not None:
        given = {"train": learnt, "valid": held, "test": tested}
        known = [(name, y) for name, split in given.items() if (y := split.labels_at_hand) is not None]
        void = _labels.find_void(known, classes, ignore_index, loss)
        if loss is not None and len(known) < len(given):
            example = learnt.examples(_FIRST)[1]
            assert isinstance(example, Tensor), "labels are one tensor"
            void = tuple(sorted({*void, *_labels.customary_void(example, classes, loss)}))
    if example_weights is None and void and _has_several(learnt):
        example_weights = partial(_labels.number_that_count, void=void)
    if outputs is None and loss is None:
        outputs = AUTO
    if loss is None:
        if ignore_index is None:
            loss, example_loss = cross_entropy, example_loss or example_cross_entropy
        else:
            loss, each = VoidCrossEntropy(ignore_index), partial(_example_cross_entropy, void=(ignore_index,))
            loss_name, example_loss = loss_name or loss.name, example_loss or each
    if metrics is None:
        own = counting_labels(ACCURACY, void, example_weights)
        judged: tuple[Metric, ...] = (own,) if labelled else ()
    else:
        judged = as_metrics(metrics, better)
        notes += notes_on(judged, better, metrics)
    if combine is None:
        combine, told = voting_of(learnt, loss, labelled=labelled)
        notes += told
    return Task(
        learnt,
        held,
        tested,
        classes=classes,
        input_shape=learnt.input_shape,
        loss=loss,
        loss_name=loss_name or str(getattr(loss, "__name__", type(loss).__name__)),
        example_loss=example_loss,
        metrics=judged,
        combine=None if combine == "none" else combine,
        valid_seed=VALID_SEED if valid is None else None,
        void=void,
        notes=tuple(notes),
        outputs=None if outputs == "all" else outputs,
        example_weights=example_weights,
    )


def _has_several(split: Split) -> bool:
    """Return whether an example has several labels, like the pixels of an image."""
    _, example = split.examples(_FIRST)
    return isinstance(example, Tensor) and example.ndim > 1


def _example_cross_entropy(outputs: Tensor, targets: Tensor, void: Sequence[int]) -> Tensor:
    """Return the cross-entropy of each example, averaged over the labels that count, shape (N,)."""
    each = F.cross_entropy(outputs, _labels.inside(targets, void), reduction="none")
    return per_example(each, targets, void)


def _per_channel(values: Sequence[float] | float | None) -> tuple[float, ...] | None:
    if values is None:
        return None
    return tuple(float(v) for v in np.atleast_1d(np.asarray(values, np.float64)))


def _make_split(
    name: str, given: Any, mean: tuple[float, ...] | None, std: tuple[float, ...] | None, *, columns: bool
) -> Split:
    """Make a split; with ``columns``, labels of shape (N, 1) become (N,)."""
    if isinstance(given, Split):
        return given
    if isinstance(given, tuple | list) and len(given) == 2:
        y = _as_fields(name, "y", given[1], None)
        x = _as_fields(name, "x", given[0], examples_in(y))
        y = as_column(y) if columns and isinstance(y, Tensor) else y
        check_rows(name, "x", x)
        check_rows(name, "y", y)
        check_lengths(name, examples_in(x), examples_in(y))
        return ArraySplit(x, y, mean, std)
    if isinstance(given, torch.utils.data.Dataset) or _is_map_style(given):
        return DatasetSplit(given, mean, std, name=f"the {name} split", columns=columns)
    raise InputError(f"The {name} split is a {type(given).__name__}; give (x, y), a Dataset or a Split.")


def _is_map_style(given: Any) -> bool:
    """Return whether something has items and a length, like a Dataset, without being a plain container."""
    plain = isinstance(given, str | bytes | tuple | list | Mapping | Tensor | np.ndarray)
    return not plain and hasattr(given, "__getitem__") and hasattr(given, "__len__")


def _as_fields(name: str, what: str, values: Any, examples: int | None) -> Fields:
    """Make tensors from a dict of arrays or a tuple of arrays with ``examples`` rows each; otherwise one tensor."""
    if isinstance(values, Mapping):
        for key in values:
            if not isinstance(key, str):
                raise InputError(
                    f"{what} of the {name} split has the key {key!r}; keys are the names of the network's inputs."
                )
        if not values:
            raise InputError(f"{what} of the {name} split is an empty dict.")
        return {key: _as_rows(name, what, values[key], key) for key in values}
    # A tuple with as many entries as there are examples holds the examples themselves.
    arrays = isinstance(values, tuple) and all(hasattr(part, "shape") for part in values)
    if arrays and examples is not None and len(values) != examples and all(len(part) == examples for part in values):
        return tuple(_as_rows(name, what, part, str(i)) for i, part in enumerate(values))
    return _as_rows(name, what, values)


def _as_rows(name: str, what: str, values: Any, key: str = "") -> Tensor:
    try:
        tensor = _as_tensor(name, what, values)
    except InputError as error:
        if not key:
            raise
        raise InputError(str(error).replace(f"{what} of", f"{what}[{key!r}] of", 1)) from None
    if tensor.ndim == 0:
        raise InputError(f"The {name} split must have one row per example, not a single number.")
    return tensor


def _as_tensor(name: str, what: str, values: Any) -> Tensor:
    if not isinstance(values, Tensor):
        try:
            array = np.asarray(values, order="C")
        except ValueError as error:  # rows of unequal length
            raise InputError(
                f"{what} of the {name} split is not an array: {error}; give examples of one shape."
            ) from None
        if what == "y":
            _labels.refuse_words(f"the {name} split", array)
        if array.dtype.kind not in "buif":
            raise InputError(f"{what} of the {name} split is of type {array.dtype}; give real numbers.")
        if array.dtype.kind == "f":
            with np.errstate(over="ignore"):  # an overflow is reported with the other infinities
                array = array.astype(np.float32, copy=False)
        elif not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        values = torch.from_numpy(array if array.flags.writeable else array.copy())
    tensor: Tensor = values
    if tensor.is_complex():
        raise InputError(f"{what} of the {name} split is of type {tensor.dtype}; give real numbers.")
    if what == "y":
        return target_typed(tensor)
    if not tensor.is_floating_point():
        check_input_type(tensor, f"{what} of the {name} split")
    return input_typed(tensor)


def _carve_valid(train: Split) -> tuple[Split, Split]:
    """Split a stratified tenth off the training data, or a random tenth if there are no integer labels."""
    if len(train) < 2:
        raise InputError(f"The train split has {len(train)} example; a tenth for validation needs at least 2.")
    known = train.targets
    stratified = isinstance(known, Tensor) and known.ndim == 1 and not known.is_floating_point()
    labels = known.numpy() if isinstance(known, Tensor) and stratified else np.zeros(len(train), np.int64)
    chosen = stratified_choice(labels, max(1, round(len(train) / 10)), VALID_SEED)
    kept = np.setdiff1d(np.arange(len(train)), chosen)
    return train.subset(kept.tolist()), train.subset(chosen.tolist())
