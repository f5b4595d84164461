"""A task: what is learnt, from which data, and how it is judged."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Literal, get_args

from torch import Tensor
from torch.nn import functional as F

from mgraph.calling import Choice
from mgraph.data import labels as _labels
from mgraph.data.digests import remembered
from mgraph.data.labels import check_labels, per_example
from mgraph.data.metrics import as_metrics, named
from mgraph.data.splits import Split
from mgraph.data.streaming import DatasetSplit
from mgraph.data.workers import Workers
from mgraph.errors import InputError, MGraphWarning
from mgraph.fields import Fields, Shapes, examples_in
from mgraph.metric import Metric, primary_of

LossFunction = Callable[[Any, Any], Tensor]

# Prefixes of fingerprints: of streamed data, covering all of them and a sample; and of streamed files.
_WHOLE, _FILES = "2-", "3-"


class DataWarning(MGraphWarning):
    """Something about how data were read that is easy to miss."""


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy per example; outputs are logits, shape (N, C, …)."""
    return F.cross_entropy(outputs, targets)


def example_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of each example, shape (N,)."""
    return per_example(F.cross_entropy(outputs, targets, reduction="none"), targets)


def is_cross_entropy(loss: Callable[..., Any]) -> bool:
    """Return whether a loss takes one output for each class: torch's cross-entropy, or one made of it here."""
    return loss in (cross_entropy, F.cross_entropy) or isinstance(loss, _labels.VoidCrossEntropy)


def accuracy(outputs: Tensor, targets: Tensor, void: Sequence[int] = ()) -> Tensor:
    """Return 1.0 where the largest logit is the label's, else 0.0, shape (N,); labels in ``void`` do not count."""
    return per_example((outputs.argmax(1) == targets).float(), targets, void)


ACCURACY = replace(named("accuracy", accuracy), identity="built in")

Combine = Literal["softmax", "sigmoid", "mean"]
COMBINATIONS: tuple[Combine, ...] = get_args(Combine)
"""How members of an ensemble vote: by the mean of their class probabilities, of their label probabilities, or of their
outputs."""


@dataclass(frozen=True)
class Task:
    """Data in three splits, the loss, and the metrics.

    An example's input, and its target, is a tensor, or a dict or tuple of tensors (:mod:`mgraph.fields`); the network
    gets a dict as keyword arguments, a tuple as positional ones. ``outputs`` selects the part of the network's result
    that counts: a name, a place, or a function; None means all of it, "auto" its logits if it has any. ``loss`` maps
    (outputs, targets) to the mean over the batch, ``example_loss`` to one value per example, shape (N,), or is None if
    that is not known. ``example_weights`` computes from the targets how much each example counts in a mean, shape (N,)
    (tokens of a text, pixels of an image); with None, all count alike. ``metrics`` are :class:`mgraph.Metric`; the
    first with a direction is the ``primary`` one, by which networks are compared (the loss if there is none).
    Functions, torchmetrics objects and mappings of names to either are also accepted. ``combine`` says how the members
    of an ensemble vote: by the mean of their outputs' "softmax" or "sigmoid", by the "mean" of the outputs, or, with
    None, not at all. ``valid_seed`` is set if the validation split was carved from the training data. ``void`` are the
    label values that stand for no label and that no metric counts; ``notes`` say how data were read. Raises InputError,
    naming the split, for data that cannot be used.
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
        """The metric by which networks are compared: the first one with a direction, else the loss."""
        return primary_of(self.metrics)

    @property
    def mean(self) -> tuple[float, ...] | None:
        """Mean per channel that is subtracted from the inputs; it is part of the data."""
        return self.train.normalisation.mean

    @property
    def std(self) -> tuple[float, ...] | None:
        """Standard deviation per channel by which the inputs are divided."""
        return self.train.normalisation.std

    @cached_property
    def fingerprint(self) -> str:
        """BLAKE2b-128 of all splits' contents, their normalisation and the loss's name.

        Streamed files contribute their contents. Of other streamed data, each example is read once and checked: raises
        InputError or NonFiniteError for what cannot be used; the fingerprint then also contains that of a sample.
        """
        if self._from_files:
            return self._of_files
        whole = self._hash(lambda split, hasher: split.feed(hasher))
        if not self._streamed:
            return whole
        for name, split in self.splits.items():
            if self.classes is not None and (known := split.labels_at_hand) is not None:
                check_labels(name, known, self.classes, self.void)
        return f"{_WHOLE}{whole}-{self.sample}"

    def matches(self, fingerprint: str) -> bool:
        """Return whether these are the data of a recorded fingerprint.

        Arrays, files and small Datasets are compared whole; for large Datasets, only the length and a sample. Images
        are the same whether they are held in memory or streamed.
        """
        if fingerprint.startswith(_FILES):
            return (self._from_files or not self._streamed) and self._of_files == fingerprint
        if not self._streamed:
            return self.fingerprint == fingerprint
        if fingerprint.startswith(_WHOLE):
            return fingerprint.rpartition("-")[2] == self.sample
        if self._from_files:  # from a graph made where the data fitted into memory
            return fingerprint == remembered(f"values {self._of_files}", lambda: self._hash(_feed_values))
        return fingerprint == self._hash(_feed_eight)  # from a graph made when eight examples stood for a Dataset

    def read_by(self, workers: int | None) -> None:
        """Have streamed data read by this many processes; None: as many as suit the machine, 0: by this one."""
        processes = Workers(workers)
        for split in self.splits.values():
            split.read_by(processes)

    @cached_property
    def sample(self) -> str:
        """BLAKE2b-128 like :attr:`fingerprint`, but from only 64 examples of large Datasets."""
        return self._hash(lambda split, hasher: split.feed_sample(hasher))

    @property
    def _streamed(self) -> bool:
        return any(isinstance(split, DatasetSplit) for split in self.splits.values())

    @property
    def _from_files(self) -> bool:
        streamed = [split for split in self.splits.values() if isinstance(split, DatasetSplit)]
        return bool(streamed) and all(split.identified for split in streamed)

    @property
    def _of_files(self) -> str:
        return _FILES + self._hash(lambda split, hasher: split.feed_identity(hasher))

    def _hash(self, feed: Callable[[Split, Any], None]) -> str:
        hasher = hashlib.blake2b(digest_size=16)
        for name, split in self.splits.items():
            n = split.normalisation
            hasher.update(f"\n{name} {n.mean} {n.std} ".encode())
            feed(split, hasher)
        hasher.update(f"\n{self.classes} {self.loss_name}".encode())
        return hasher.hexdigest()

    def without_void(self, outputs: Any, targets: Fields) -> tuple[Any, Any]:
        """Drop from a batch the examples whose labels are all void, before metrics see it."""
        if not self.void or not isinstance(targets, Tensor):
            return outputs, targets
        return _labels.without_void(outputs, targets, self.void)

    def typical(self, count: int) -> list[int]:
        """Choose ``count`` training examples for trials: the first with labels that count, plus the largest label."""
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
        """Return the weight of a batch in a mean over batches: its labels that count, in units of examples."""
        if not isinstance(targets, Tensor):
            return float(examples_in(targets))
        return _labels.share_that_counts(targets, self.void)


def counting_labels(metric: Metric, void: Sequence[int], example_weights: Callable[[Any], Tensor] | None) -> Metric:
    """Make a metric of labels leave out void ones, and weight each example by how many labels it has."""
    if not void or metric.function is None:
        return metric
    return replace(metric, function=partial(metric.function, void=tuple(void)), weights=example_weights)


def _feed_values(split: Split, hasher: Any) -> None:
    if isinstance(split, DatasetSplit):
        split.feed_values(hasher)
    else:
        split.feed(hasher)


def _feed_eight(split: Split, hasher: Any) -> None:
    if isinstance(split, DatasetSplit):
        split.feed_eight(hasher)
    else:
        split.feed(hasher)
