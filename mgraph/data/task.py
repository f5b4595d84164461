"""A task: what is learnt, from which data, and how it is judged."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mgraph.data.splits import ArraySplit, DatasetSplit, Split, check_lengths
from mgraph.data.stratify import VALID_SEED, stratified_choice
from mgraph.errors import InputError

LossFunction = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy per example; outputs are logits, shape (N, C, …)."""
    return F.cross_entropy(outputs, targets)


def example_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of each example, shape (N,)."""
    return _per_example(F.cross_entropy(outputs, targets, reduction="none"))


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return 1.0 where the largest logit is the label's, else 0.0, shape (N,)."""
    return _per_example((outputs.argmax(1) == targets).float())


CLASSIFICATION_METRICS: Mapping[str, LossFunction] = MappingProxyType({"accuracy": accuracy})


@dataclass(frozen=True)
class Task:
    """Data in three splits, the loss, and the metrics.

    ``loss`` maps (outputs, targets) to the mean over the batch, ``example_loss`` to one value per example,
    shape (N,), or is None where that is not known. Metrics give one float per example. ``valid_seed`` is set
    if the validation split was carved from the training data. Raises InputError, naming the split, for data
    that cannot be used.
    """

    train: Split
    valid: Split
    test: Split
    classes: int | None
    input_shape: tuple[int, ...]
    loss: LossFunction = cross_entropy
    loss_name: str = "cross_entropy"
    example_loss: LossFunction | None = example_cross_entropy
    metrics: Mapping[str, LossFunction] = field(default_factory=lambda: CLASSIFICATION_METRICS)
    valid_seed: int | None = None

    def __post_init__(self) -> None:
        for name, split in self.splits.items():
            split.check(name, self.classes)
            if split.input_shape != self.input_shape:
                raise InputError(
                    f"An example of the {name} split has shape {split.input_shape}, expected {self.input_shape}."
                )

    @property
    def splits(self) -> dict[str, Split]:
        """The three splits by name."""
        return {"train": self.train, "valid": self.valid, "test": self.test}

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
        """BLAKE2b-128 of all splits' contents, their normalisation and the loss's name."""
        hasher = hashlib.blake2b(digest_size=16)
        for name, split in self.splits.items():
            n = split.normalisation
            hasher.update(f"\n{name} {n.mean} {n.std} ".encode())
            split.feed(hasher)
        hasher.update(f"\n{self.classes} {self.loss_name}".encode())
        return hasher.hexdigest()


def make_task(
    *,
    train: Any,
    test: Any = None,
    valid: Any = None,
    classes: int | None = None,
    loss: LossFunction | None = None,
    loss_name: str | None = None,
    example_loss: LossFunction | None = None,
    metrics: Mapping[str, LossFunction] | None = None,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
) -> Task:
    """Make a task from splits: each a pair (x, y) of arrays or tensors, a torch Dataset, or a Split.

    Inputs, shape (N, …), are as the network sees them (images channels first): uint8, scaled to [0, 1]; floats,
    brought to float32; or other integers, left alone. Labels are integers unless a loss is given. Without
    ``valid`` a stratified tenth of train, by a fixed seed, takes its place. ``classes`` defaults to the
    largest training label plus one. The default loss is cross-entropy; the default metric is accuracy where
    targets are labels. A loss of your own has no ``example_loss`` unless given. A Split keeps its own
    normalisation; ``mean`` and ``std``, one value or one per channel, are for pairs and Datasets. Raises
    InputError if it does not fit together.
    """
    mean, std = _per_channel(mean), _per_channel(std)
    if test is None:
        raise InputError("The data have no test split; give test=(x, y), which is never trained on.")
    learnt = _make_split("train", train, mean, std)
    check_lengths("train", len(learnt), len(learnt))
    labelled = not learnt.targets.is_floating_point()
    if loss is None and not labelled:
        raise InputError("The targets are no integer labels; give labels 0, 1, … or a loss of your own.")
    if classes is None and labelled:
        classes = int(learnt.targets.max()) + 1
    if valid is None:
        learnt, held = _carve_valid(learnt)
    else:
        held = _make_split("valid", valid, mean, std)
    if loss is None:
        loss, example_loss = cross_entropy, example_loss or example_cross_entropy
    if metrics is None:
        metrics = CLASSIFICATION_METRICS if labelled else {}
    return Task(
        learnt,
        held,
        _make_split("test", test, mean, std),
        classes=classes,
        input_shape=learnt.input_shape,
        loss=loss,
        loss_name=loss_name or str(getattr(loss, "__name__", type(loss).__name__)),
        example_loss=example_loss,
        metrics=dict(metrics),
        valid_seed=VALID_SEED if valid is None else None,
    )


def _per_example(values: Tensor) -> Tensor:
    """Average what one example has several of, e.g. pixels."""
    return values if values.ndim == 1 else values.flatten(1).mean(1)


def _per_channel(values: Sequence[float] | float | None) -> tuple[float, ...] | None:
    if values is None:
        return None
    return tuple(float(v) for v in np.atleast_1d(np.asarray(values, np.float64)))


def _make_split(name: str, given: Any, mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> Split:
    if isinstance(given, Split):
        return given
    if isinstance(given, tuple | list) and len(given) == 2:
        x, y = _as_tensor(name, "x", given[0]), _as_tensor(name, "y", given[1])
        if x.ndim == 0 or y.ndim == 0:
            raise InputError(f"The {name} split must have one row per example, not a single number.")
        check_lengths(name, len(x), len(y))
        return ArraySplit(x, y, mean, std)
    if isinstance(given, torch.utils.data.Dataset):
        return DatasetSplit(given, mean, std)
    raise InputError(f"The {name} split is a {type(given).__name__}; give (x, y), a Dataset or a Split.")


def _as_tensor(name: str, what: str, values: Any) -> Tensor:
    if not isinstance(values, Tensor):
        array = np.asarray(values, order="C")
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
