"""Splits: the examples of a task in batches, on the device.

An :class:`ArraySplit` is one tensor that moves to the device once; a batch is a slice or one ``index_select``.
Floats are normalised once, uint8 values become normalised floats per batch. A :class:`DatasetSplit` streams what
does not fit in memory. The order of examples is always the caller's: no random state lives here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from mgraph.errors import InputError, NonFiniteError

Batch = tuple[Tensor, Tensor]

_SCALE = 1 / 255  # of uint8 values


class Hasher(Protocol):
    """What a fingerprint is fed to."""

    def update(self, data: Any, /) -> None:
        """Take in bytes."""


class Normalisation:
    """Makes floats of uint8 values (times 1/255) and subtracts mean, divides by std, per channel (axis 1)."""

    def __init__(self, mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
        """Both may be None; each has one value, or one per channel. InputError for a std of 0 or below."""
        self.mean = tuple(float(m) for m in mean) if mean is not None else None
        self.std = tuple(float(s) for s in std) if std is not None else None
        if self.std and not all(np.isfinite(self.std) & (np.array(self.std) > 0)):
            raise InputError(f"std must be positive numbers, not {self.std}.")
        if self.mean and not all(np.isfinite(self.mean)):
            raise InputError(f"mean must be finite numbers, not {self.mean}.")
        self._constants: dict[Any, tuple[Tensor, Tensor]] = {}

    @property
    def trivial(self) -> bool:
        """Whether float values pass unchanged."""
        return self.mean is None and self.std is None

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise InputError unless mean and std fit examples of this shape (without the batch axis)."""
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) not in {1, *shape[:1]}:
                raise InputError(f"{name} has {len(values)} values; give 1, or one for each of {shape[0]} channels.")

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise a batch, shape (B, C, …), on its device; other integers pass unchanged."""
        if x.dtype == torch.uint8:
            if self.trivial:
                return x.to(torch.float32).mul_(_SCALE)
            factor, shift = self._affine(x, torch.float32, _SCALE)
            if x.device.type == "cpu":  # three vectorised passes beat one that promotes and broadcasts
                return x.to(torch.float32).mul_(factor).add_(shift)
            return torch.addcmul(shift, x, factor)
        if self.trivial or not x.is_floating_point():
            return x
        factor, shift = self._affine(x, x.dtype, 1.0)
        return torch.mul(x, factor).add_(shift)

    def _affine(self, x: Tensor, dtype: torch.dtype, scale: float) -> tuple[Tensor, Tensor]:
        key = (x.device, dtype, x.ndim)
        if key not in self._constants:
            mean = torch.tensor(self.mean or (0.0,), dtype=torch.float64)
            std = torch.tensor(self.std or (1.0,), dtype=torch.float64)
            shape = (1, -1, *[1] * (x.ndim - 2))
            factor, shift = (scale / std).view(shape), (-mean / std).view(shape)
            self._constants[key] = (factor.to(x.device, dtype), shift.to(x.device, dtype))
        return self._constants[key]


class Split(ABC):
    """The examples of one split, with their targets."""

    normalisation: Normalisation

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of examples."""

    @property
    @abstractmethod
    def targets(self) -> Tensor:
        """All targets in stored order, shape (N, …), on the CPU."""

    @property
    @abstractmethod
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example as the network sees it."""

    @abstractmethod
    def batches(
        self,
        batch_size: int,
        *,
        order: Tensor | None = None,
        device: str | torch.device = "cpu",
        drop_last: bool = False,
    ) -> Iterator[Batch]:
        """Yield (x, y) on the device: the examples whose indices ``order`` lists, or all as stored.

        Batches may be views of the data: they must not be changed in place.
        """

    def examples(self, indices: Tensor, *, device: str | torch.device = "cpu") -> Batch:
        """Return the examples with these indices as one batch."""
        return next(self.batches(len(indices), order=indices, device=device))

    @abstractmethod
    def subset(self, indices: Sequence[int]) -> Split:
        """Return a split of these examples, normalised alike."""

    @abstractmethod
    def check(self, name: str, classes: int | None) -> None:
        """Raise InputError, naming the split, if its examples or labels cannot be used."""

    @abstractmethod
    def feed(self, hasher: Hasher) -> None:
        """Feed what identifies the content to a hash."""


class ArraySplit(Split):
    """A split held as one tensor of inputs, shape (N, …), and one of targets, shape (N, …)."""

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        """Hold the tensors without copying; uint8 inputs are scaled by 1/255 batch by batch."""
        self._x, self._y = x.detach().cpu().contiguous(), y.detach().cpu().contiguous()
        self.normalisation = Normalisation(mean, std)
        self._placed: dict[torch.device, Batch] = {}

    def __len__(self) -> int:
        return len(self._x)

    @property
    def targets(self) -> Tensor:
        """All targets, shape (N, …), on the CPU."""
        return self._y

    @property
    def inputs(self) -> Tensor:
        """The inputs as stored, shape (N, …), before normalisation, on the CPU."""
        return self._x

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self._x.shape[1:])

    def batches(
        self,
        batch_size: int,
        *,
        order: Tensor | None = None,
        device: str | torch.device = "cpu",
        drop_last: bool = False,
    ) -> Iterator[Batch]:
        """Yield slices of the data, or rows in ``order``; the data move to the device on first use."""
        x, y = self._on(torch.device(device))
        total = len(x) if order is None else len(order)
        stop = total - total % batch_size if drop_last else total
        if order is not None:
            order = order.to(x.device)
        finish = self.normalisation if x.dtype == torch.uint8 else _unchanged
        for start in range(0, stop, batch_size):
            end = min(start + batch_size, stop)
            if order is None:
                yield finish(x[start:end]), y[start:end]
            else:
                chosen = order[start:end]
                yield finish(x.index_select(0, chosen)), y.index_select(0, chosen)

    def subset(self, indices: Sequence[int]) -> ArraySplit:
        """Copy these examples into a split of their own."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        n = self.normalisation
        return ArraySplit(self._x[chosen], self._y[chosen], n.mean, n.std)

    def check(self, name: str, classes: int | None) -> None:
        """Check lengths, labels, and that every float is finite."""
        check_lengths(name, len(self._x), len(self._y))
        self.normalisation.check(self.input_shape)
        for what, values in (("x", self._x), ("y", self._y)):
            # min and max are non-finite if any value is: no mask as large as the data
            if values.is_floating_point() and values.numel():
                low, high = torch.aminmax(values)
                if not bool(torch.isfinite(low) & torch.isfinite(high)):
                    count = int((~torch.isfinite(values)).sum())
                    raise NonFiniteError(
                        f"{what} of the {name} split has {count} values that are NaN or infinite; give finite numbers."
                    )
        check_labels(name, self._y, classes)

    def feed(self, hasher: Hasher) -> None:
        """Feed every byte, with types and shapes."""
        for tensor in (self._x, self._y):
            hasher.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            hasher.update(tensor.flatten().view(torch.uint8).numpy())

    def _on(self, device: torch.device) -> Batch:
        if device not in self._placed:
            x, y = self._x.to(device), self._y.to(device)
            if x.is_floating_point():
                x = self.normalisation(x)
            # "cuda" and "cuda:0" are one place
            self._placed[device] = self._placed.setdefault(x.device, (x, y))
        return self._placed[device]


class DatasetSplit(Split):
    """A split streamed from a map-style torch ``Dataset`` of (input, target) pairs."""

    def __init__(
        self,
        dataset: Any,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        *,
        indices: Sequence[int] | None = None,
    ) -> None:
        """Read the dataset in batches; with ``indices``, only those of its examples."""
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise InputError(f"A {type(dataset).__name__} has no length or items; give a map-style Dataset.")
        self._whole = dataset
        self._dataset = dataset if indices is None else torch.utils.data.Subset(dataset, list(indices))
        self._indices = indices
        self.normalisation = Normalisation(mean, std)

    def __len__(self) -> int:
        return len(self._dataset)

    @cached_property
    def targets(self) -> Tensor:
        """All targets; reads the whole data set unless it has a ``targets`` attribute."""
        known = getattr(self._whole, "targets", None)
        if known is not None and len(known) == len(self._whole):
            all_targets = torch.as_tensor(known)
            return all_targets if self._indices is None else all_targets[torch.as_tensor(self._indices)]
        return torch.cat([y for _, y in self.batches(256)])

    @cached_property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the first input."""
        return tuple(self.examples(torch.tensor([0]))[0].shape[1:])

    def batches(
        self,
        batch_size: int,
        *,
        order: Tensor | None = None,
        device: str | torch.device = "cpu",
        drop_last: bool = False,
    ) -> Iterator[Batch]:
        """Stream through torch's DataLoader, in this process."""
        loader = torch.utils.data.DataLoader(
            self._dataset,
            batch_size=batch_size,
            sampler=range(len(self)) if order is None else order.tolist(),
            drop_last=drop_last,
            generator=torch.Generator(),  # else every pass draws from the global one
            pin_memory=torch.device(device).type == "cuda",
        )
        for item in loader:
            if not isinstance(item, list | tuple) or len(item) != 2:
                raise InputError("Items of a Dataset must be (input, target) pairs.")
            x, y = (part.to(device, non_blocking=True) for part in item)
            yield self.normalisation(x), y

    def subset(self, indices: Sequence[int]) -> DatasetSplit:
        """Read only these examples of the same data set."""
        n = self.normalisation
        whole = indices if self._indices is None else [self._indices[i] for i in indices]
        return DatasetSplit(self._whole, n.mean, n.std, indices=whole)

    def check(self, name: str, classes: int | None) -> None:
        """Check the length and, where they are at hand, the labels: the inputs are not read."""
        check_lengths(name, len(self), len(self))
        self.normalisation.check(self.input_shape)
        if getattr(self._whole, "targets", None) is not None:
            check_labels(name, self.targets, classes)

    def feed(self, hasher: Hasher) -> None:
        """Feed the length and up to eight examples spread over the data."""
        chosen = torch.linspace(0, len(self) - 1, min(8, len(self))).long()
        hasher.update(f"dataset {len(self)}".encode())
        ArraySplit(*self.examples(chosen)).feed(hasher)


def _unchanged(x: Tensor) -> Tensor:
    return x


def check_lengths(name: str, inputs: int, targets: int) -> None:
    """Raise InputError unless there are as many targets as inputs, and at least one."""
    if inputs != targets:
        raise InputError(f"The {name} split has {inputs} inputs but {targets} targets; give one for each.")
    if inputs == 0:
        raise InputError(f"The {name} split is empty; give it at least one example.")


def check_labels(name: str, y: Tensor, classes: int | None) -> None:
    """Raise InputError if an integer label lies outside 0 … classes-1."""
    if classes is None or y.is_floating_point():
        return
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= classes:
        worst = low if low < 0 else high
        raise InputError(f"The {name} split has a label {worst}; labels of {classes} classes are 0 to {classes - 1}.")
