"""A task: what is learnt, from which data, and how it is judged."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Literal, TypedDict, Unpack, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mgraph.data import labels as _labels
from mgraph.data.items import check_input_type
from mgraph.data.labels import VoidCrossEntropy, as_column, check_labels, per_example
from mgraph.data.metrics import as_metrics, named, notes_on
from mgraph.data.splits import ArraySplit, DatasetSplit, Split, check_lengths
from mgraph.data.stratify import VALID_SEED, stratified_choice
from mgraph.data.voting import voting_of
from mgraph.errors import InputError, MGraphWarning
from mgraph.keywords import refuse_unknown
from mgraph.metric import Better, Metric, primary_of

LossFunction = Callable[[Tensor, Tensor], Tensor]

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

Combine = Literal["softmax", "sigmoid", "mean"]
COMBINATIONS: tuple[Combine, ...] = get_args(Combine)
"""How members of an ensemble vote: by the mean of their class probabilities, of their labels' probabilities, or of
their outputs."""


@dataclass(frozen=True)
class Task:
    """Data in three splits, the loss, and the metrics.

    ``loss`` maps (outputs, targets) to the mean over the batch, ``example_loss`` to one value per example,
    shape (N,), or is None where that is not known. ``metrics`` are :class:`mgraph.Metric`, the first of them that has a
    direction is the ``primary`` one, by which networks are compared (the loss if there is none); functions, objects of
    torchmetrics and mappings of names to these are taken, too. ``combine`` says how members of an ensemble vote: by the
    mean of their outputs' "softmax" or "sigmoid", by the "mean" of the outputs, or None: not at all. ``valid_seed`` is
    set if the validation split was carved from the training data. ``void`` are label values that stand for no label and
    that no metric counts; ``notes`` say how data were read. Raises InputError, naming the split, for data that cannot
    be used.
    """

    train: Split
    valid: Split
    test: Split
    classes: int | None
    input_shape: tuple[int, ...]
    loss: LossFunction = cross_entropy
    loss_name: str = "cross_entropy"
    example_loss: LossFunction | None = example_cross_entropy
    metrics: tuple[Metric, ...] = (ACCURACY,)
    combine: Combine | None = "softmax"
    valid_seed: int | None = None
    void: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

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

    def without_void(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Leave out of a batch the examples of which no label counts: what metrics are given."""
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

    def weight(self, targets: Tensor) -> float:
        """Return how many examples' worth of labels of a batch count: its weight in a mean of batches."""
        return _labels.share_that_counts(targets, self.void)


class Judging(TypedDict, total=False):
    """How outputs are judged; see :func:`make_task`."""

    loss_name: str | None
    example_loss: LossFunction | None
    metrics: Any
    better: Mapping[str, Better] | None
    combine: Combine | Literal["none"] | None
    ignore_index: int | None


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

    Inputs, shape (N, …), are as the network sees them (images channels first): uint8, scaled to [0, 1]; floats,
    brought to float32; or other integers, left alone. Labels are integers unless a loss is given, shape (N,), (N, 1)
    or one per pixel. Without ``valid`` a stratified tenth of train, by a fixed seed, takes its place. ``classes``
    defaults to the largest training label plus one. A Split keeps its own normalisation; ``mean`` and ``std``, one
    value or one per channel, are for pairs and Datasets.

    Further keywords say how outputs are judged. The default loss is cross-entropy; the default metric is accuracy where
    targets are labels. A loss of your own, called ``loss_name``, has no ``example_loss`` unless given. Labels of the
    value ``ignore_index`` stand for "no label": the default loss and the metrics do not count them, and a loss of your
    own must not; other values outside 0 … classes-1 may occur only if it takes no notice of them, which is tried.

    ``metrics`` is a :class:`mgraph.Metric`, several, or a mapping of names to functions of (outputs, targets) or to
    objects or classes of torchmetrics; the first is the primary one. ``better`` maps the names of those whose direction
    is not known to "higher" or "lower"; without it a metric is measured only. ``combine`` says how members of an
    ensemble vote, "softmax", "sigmoid", "mean" or "none"; by default as labels, or targets and loss, suggest.
    Raises InputError if it does not fit together.
    """
    refuse_unknown("make_task", judging, Judging)
    example_loss, loss_name = judging.get("example_loss"), judging.get("loss_name")
    metrics, better, combine = judging.get("metrics"), judging.get("better"), judging.get("combine")
    ignore_index = judging.get("ignore_index")
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
    if classes is None and labelled:
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
            example = learnt.examples(torch.tensor([0]))[1]
            void = tuple(sorted({*void, *_labels.customary_void(example, classes, loss)}))
    if loss is None:
        if ignore_index is None:
            loss, example_loss = cross_entropy, example_loss or example_cross_entropy
        else:
            loss, each = VoidCrossEntropy(ignore_index), partial(_example_cross_entropy, void=(ignore_index,))
            loss_name, example_loss = loss_name or loss.name, example_loss or each
    if metrics is None:
        own = replace(ACCURACY, function=partial(accuracy, void=void)) if void else ACCURACY
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
    )


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
        x, y = _as_tensor(name, "x", given[0]), _as_tensor(name, "y", given[1])
        y = as_column(y) if columns else y
        if x.ndim == 0 or y.ndim == 0:
            raise InputError(f"The {name} split must have one row per example, not a single number.")
        check_lengths(name, len(x), len(y))
        return ArraySplit(x, y, mean, std)
    if isinstance(given, torch.utils.data.Dataset) or _is_map_style(given):
        return DatasetSplit(given, mean, std, name=f"the {name} split", columns=columns)
    raise InputError(f"The {name} split is a {type(given).__name__}; give (x, y), a Dataset or a Split.")


def _is_map_style(given: Any) -> bool:
    """Tell whether something has items and a length, as a Dataset has, and is not a plain container."""
    plain = isinstance(given, str | bytes | tuple | list | Mapping | Tensor | np.ndarray)
    return not plain and hasattr(given, "__getitem__") and hasattr(given, "__len__")


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
    if tensor.is_floating_point():
        return tensor.to(torch.float32)
    if what == "x":
        check_input_type(tensor, f"{what} of the {name} split")
    if what == "y":
        return tensor.to(torch.int64)  # what torch's losses ask for
    return tensor.to(torch.float32) if tensor.dtype == torch.bool else tensor


def _carve_valid(train: Split) -> tuple[Split, Split]:
    """Split a stratified tenth off the training data; without integer labels a random tenth."""
    if len(train) < 2:
        raise InputError(f"The train split has {len(train)} example; a tenth for validation needs at least 2.")
    targets = train.targets.numpy()
    stratified = targets.ndim == 1 and targets.dtype.kind != "f"
    labels = targets if stratified else np.zeros(len(train), np.int64)
    chosen = stratified_choice(labels, max(1, round(len(train) / 10)), VALID_SEED)
    kept = np.setdiff1d(np.arange(len(train)), chosen)
    return train.subset(kept.tolist()), train.subset(chosen.tolist())
