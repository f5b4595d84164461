"""A task: what is learnt, from which data, and how it is judged."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mgraph.calling import AUTO, Choice
from mgraph.data import labels as _labels
from mgraph.data.items import check_input_type, input_typed, target_typed
from mgraph.data.labels import VoidCrossEntropy, as_column, check_labels, per_example
from mgraph.data.metrics import as_metrics, named, notes_on
from mgraph.data.splits import ArraySplit, DatasetSplit, Split, check_lengths, check_rows
from mgraph.data.stratify import VALID_SEED, stratified_choice
from mgraph.data.voting import voting_of
from mgraph.errors import InputError, MGraphWarning
from mgraph.fields import Fields, Shapes, examples_in
from mgraph.metric import Better, Metric, primary_of

LossFunction = Callable[[Any, Any], Tensor]

# Before the fingerprint of streamed data that covers all of them, and a sample.
_WHOLE = "2-"


class DataWarning(MGraphWarning):
    """How data were read, where that is not plain to see."""


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy per example; outputs are logits, shape (N, C, …)."""
    return F.cross_entropy(outputs, targets)


def example_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of each example, shape (N,)."""
    return per_example(F.cross_entropy(outputs, targets, reduction="none"), targets)


def accuracy(outputs: Tensor, targets: Tensor, void: Sequence[int] = ()) -> Tensor:
    """Return 1.0 where the largest logit is the label's, else 0.0, shape (N,); labels in ``void`` do not count."""
    return per_example((outputs.argmax(1) == targets).float(), targets, void)


ACCURACY = replace(named("accuracy", accuracy), identity="built in")

_FIRST = torch.tensor([0])

Combine = Literal["softmax", "sigmoid", "mean"]
COMBINATIONS: tuple[Combine, ...] = get_args(Combine)
"""How members of an ensemble vote: by the mean of their class probabilities, of their labels' probabilities, or of
their outputs."""


@dataclass(frozen=True)
class Task:
    """Data in three splits, the loss, and the metrics.

    An example's input, and its target, is a tensor, or a dict or tuple of tensors (:mod:`mgraph.fields`); a dict is
    given to the network as keyword arguments, a tuple as positional ones. ``outputs`` says what counts of what the
    network returns: a name, a place, or a function of it; None: all, "auto": the logits of what has some. ``loss`` maps
    (outputs, targets) to the mean over the batch, ``example_loss`` to one value per example, shape (N,), or is None
    where that is not known; ``example_weights`` says from the targets how much each of them counts in a mean, shape
    (N,) (tokens of a text, pixels of an image), None: all alike. ``metrics`` are :class:`mgraph.Metric`, the first of
    them that has a direction is the ``primary`` one, by which networks are compared (the loss if there is none);
    functions, objects of torchmetrics and mappings of names to these are taken, too. ``combine`` says how members of an
    ensemble vote: by the mean of their outputs' "softmax" or "sigmoid", by the "mean" of the outputs, or None: not at
    all. ``valid_seed`` is set if the validation split was carved from the training data. ``void`` are label values that
    stand for no label and that no metric counts; ``notes`` say how data were read. Raises InputError, naming the split,
    for data that cannot be used.
    """

    train: Split
    valid: Split
    test: Split
    classes: int | None
    input_shape: Shapes
    loss: LossFunction = cross_entropy
    loss_name: str = "cross_entropy"
    example_loss: LossFunction | None = example_cross_entropy
    metrics: tuple[Metric, ...] = (ACCURACY,)
    combine: Combine | None = "softmax"
    valid_seed: int | None = None
    void: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    outputs: Choice = None
    example_weights: Callable[[Any], Tensor] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "metrics", as_metrics(self.metrics))
        if self.combine not in (*COMBINATIONS, None):
            raise InputError(
                f"Members of an ensemble are combined by {', '.join(COMBINATIONS)}, or None, not {self.combine!r}."
            )
        for name, split in self.splits.items():
            split.check(name, self.classes)
            if split.input_shape != self.input_shape:
                raise InputError(
                    f"An example of the {name} split has shape {split.input_shape}, expected {self.input_shape}."
                )
            if self.classes is not None and (known := split.labels_at_hand) is not None:
                check_labels(name, known, self.classes, self.void)

    @property
    def splits(self) -> dict[str, Split]:
        """The three splits by name."""
        return {"train": self.train, "valid": self.valid, "test": self.test}

    @property
    def primary(self) -> Metric:
        """What networks are compared by: the first metric with a direction, else the loss."""
        return primary_of(self.metrics)

    @property
    def mean(self) -> tuple[float, ...] | None:
        """Mean per channel that is subtracted from the inputs; it belongs to the data."""
        return self.train.normalisation.mean

    @property
    def std(self) -> tuple[float, ...] | None:
        """Standard deviation per channel by which the inputs are divided."""
        return self.train.normalisation.std

    @cached_property
    def fingerprint(self) -> str:
        """BLAKE2b-128 of all splits' contents, their normalisation and the loss's name.

        Where data are streamed, each example is read once for it, and looked at: raises InputError or
        NonFiniteError for what cannot be used; and it says beside the whole what a sample is.
        """
        whole = self._hash(lambda split, hasher: split.feed(hasher))
        if not self._streamed:
            return whole
        for name, split in self.splits.items():
            if self.classes is not None and (known := split.labels_at_hand) is not None:
                check_labels(name, known, self.classes, self.void)
        return f"{_WHOLE}{whole}-{self.sample}"

    def matches(self, fingerprint: str) -> bool:
        """Tell whether these are the data of a recorded fingerprint.

        Arrays are compared whole, and so are Datasets that are small; of large ones the length and a sample.
        """
        if not self._streamed:
            return self.fingerprint == fingerprint
        if fingerprint.startswith(_WHOLE):
            return fingerprint.rpartition("-")[2] == self.sample
        return fingerprint == self._hash(_feed_eight)  # of a graph made when eight examples stood for a Dataset

    @cached_property
    def sample(self) -> str:
        """BLAKE2b-128 as :attr:`fingerprint`, but of large Datasets of 64 examples only."""
        return self._hash(lambda split, hasher: split.feed_sample(hasher))

    @property
    def _streamed(self) -> bool:
        return any(isinstance(split, DatasetSplit) for split in self.splits.values())

    def _hash(self, feed: Callable[[Split, Any], None]) -> str:
        hasher = hashlib.blake2b(digest_size=16)
        for name, split in self.splits.items():
            n = split.normalisation
            hasher.update(f"\n{name} {n.mean} {n.std} ".encode())
            feed(split, hasher)
        hasher.update(f"\n{self.classes} {self.loss_name}".encode())
        return hasher.hexdigest()

    def without_void(self, outputs: Any, targets: Fields) -> tuple[Any, Any]:
        """Leave out of a batch the examples of which no label counts: what metrics are given."""
        if not self.void or not isinstance(targets, Tensor):
            return outputs, targets
        return _labels.without_void(outputs, targets, self.void)

    def typical(self, count: int) -> list[int]:
        """Choose ``count`` training examples to try things on: the first whose labels count, and the largest label."""
        labels = self.train.labels_at_hand
        if labels is None:
            return list(range(min(count, len(self.train))))
        counts = _labels.counting(labels, self.void)
        usable = counts.flatten(1).any(1) if labels.ndim > 1 else counts
        chosen: list[int] = usable.nonzero()[:count, 0].tolist()
        largest = labels.where(counts, -1).max()
        if not bool((labels[chosen] == largest).any()):
            at = (labels == largest).flatten(1).any(1) if labels.ndim > 1 else labels == largest
            chosen[-1] = int(at.nonzero()[0, 0])
        return chosen

    def weight(self, targets: Fields) -> float:
        """Return how many examples' worth of labels of a batch count: its weight in a mean of batches."""
        if not isinstance(targets, Tensor):
            return float(examples_in(targets))
        return _labels.share_that_counts(targets, self.void)


def make_task(
    *,
    train: Any,
    test: Any = None,
    valid: Any = None,
    classes: int | None = None,
    loss: LossFunction | None = None,
    loss_name: str | None = None,
    example_loss: LossFunction | None = None,
    metrics: Any = None,
    better: Mapping[str, Better] | None = None,
    combine: Combine | Literal["none"] | None = None,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    ignore_index: int | None = None,
    outputs: Choice | Literal["all"] = None,
    example_weights: Callable[[Any], Tensor] | None = None,
) -> Task:
    """Make a task from splits: each a pair (x, y) of arrays or tensors, a torch Dataset, or a Split.

    x, and y, may also be a dict or tuple of arrays with one row for each example; the network is called as
    ``module(x)``, ``module(**x)`` or ``module(*x)`` accordingly. ``outputs`` says what counts of what it returns: the
    name of an entry, a place in a tuple, or a function; by default the logits of what has some where the loss is the
    default one, and "all", which is also what a loss of your own is given.

    Inputs, shape (N, …), are as the network sees them (images channels first): uint8, scaled to [0, 1]; floats,
    brought to float32; or other integers, left alone. Labels are integers unless a loss is given, shape (N,), (N, 1)
    or one per pixel. Without ``valid`` a stratified tenth of train, by a fixed seed, takes its place. ``classes``
    defaults to the largest training label plus one. The default loss is cross-entropy; the default metric is accuracy
    where targets are labels. A loss of your own has no ``example_loss`` unless given. Labels of the value
    ``ignore_index`` stand for "no label": the default loss and the metrics do not count them, and a loss of your own
    must not; other values outside 0 … classes-1 may occur only if it takes no notice of them, which is tried. A Split
    keeps its own normalisation; ``mean`` and ``std``, one value or one per channel, are for pairs and Datasets.

    ``metrics`` is a :class:`mgraph.Metric`, several, or a mapping of names to functions of (outputs, targets) or to
    objects or classes of torchmetrics; the first is the primary one. ``better`` maps the names of those whose direction
    is not known to "higher" or "lower"; without it a metric is measured only. ``combine`` says how members of an
    ensemble vote, "softmax", "sigmoid", "mean" or "none"; by default as labels, or targets and loss, suggest.
    Raises InputError if it does not fit together.
    """
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
    """Tell whether an example has several labels, as the pixels of an image are."""
    _, example = split.examples(_FIRST)
    return isinstance(example, Tensor) and example.ndim > 1


def counting_labels(metric: Metric, void: Sequence[int], example_weights: Callable[[Any], Tensor] | None) -> Metric:
    """Let a metric of labels leave out those that do not count, and weigh examples by how many they have."""
    if not void or metric.function is None:
        return metric
    return replace(metric, function=partial(metric.function, void=tuple(void)), weights=example_weights)


def _example_cross_entropy(outputs: Tensor, targets: Tensor, void: Sequence[int]) -> Tensor:
    """Return the cross-entropy of each example, over the labels that count, shape (N,)."""
    each = F.cross_entropy(outputs, _labels.inside(targets, void), reduction="none")
    return per_example(each, targets, void)


def _feed_eight(split: Split, hasher: Any) -> None:
    if isinstance(split, DatasetSplit):
        split.feed_eight(hasher)
    else:
        split.feed(hasher)


def _per_channel(values: Sequence[float] | float | None) -> tuple[float, ...] | None:
    if values is None:
        return None
    return tuple(float(v) for v in np.atleast_1d(np.asarray(values, np.float64)))


def _make_split(
    name: str, given: Any, mean: tuple[float, ...] | None, std: tuple[float, ...] | None, *, columns: bool
) -> Split:
    """Make a split; with ``columns`` labels of shape (N, 1) become (N,)."""
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
    """Tell whether something has items and a length, as a Dataset has, and is not a plain container."""
    plain = isinstance(given, str | bytes | tuple | list | Mapping | Tensor | np.ndarray)
    return not plain and hasattr(given, "__getitem__") and hasattr(given, "__len__")


def _as_fields(name: str, what: str, values: Any, examples: int | None) -> Fields:
    """Make tensors of a dict of arrays, or or of a tuple of arrays of ``examples`` rows each; else one tensor."""
    if isinstance(values, Mapping):
        for key in values:
            if not isinstance(key, str):
                raise InputError(f"{what} of the {name} split has the key {key!r}; keys are names of what goes in.")
        if not values:
            raise InputError(f"{what} of the {name} split is an empty dict.")
        return {key: _as_rows(name, what, values[key], key) for key in values}
    # A tuple of as many things as there are examples is those, one after the other.
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
        except ValueError as error:  # ragged
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
    """Split a stratified tenth off the training data; without integer labels a random tenth."""
    if len(train) < 2:
        raise InputError(f"The train split has {len(train)} example; a tenth for validation needs at least 2.")
    known = train.targets
    stratified = isinstance(known, Tensor) and known.ndim == 1 and not known.is_floating_point()
    labels = known.numpy() if isinstance(known, Tensor) and stratified else np.zeros(len(train), np.int64)
    chosen = stratified_choice(labels, max(1, round(len(train) / 10)), VALID_SEED)
    kept = np.setdiff1d(np.arange(len(train)), chosen)
    return train.subset(kept.tolist()), train.subset(chosen.tolist())
