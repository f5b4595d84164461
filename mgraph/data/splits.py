"""Splits: the examples of a task in batches, on the device.

An :class:`ArraySplit` is one tensor that moves to the device once; a batch is a slice or one ``index_select``.
Floats are normalised once, uint8 values become normalised floats per batch. A :class:`DatasetSplit` streams what
does not fit in memory; its fingerprint covers every example, and a sample of it tells later whether it still is the
same. The order of examples is always the caller's: no random state lives here.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from mgraph.data.items import read_batch
from mgraph.data.labels import as_column, spread
from mgraph.errors import InputError, NonFiniteError
from mgraph.fields import (
    Fields,
    Shapes,
    are_labels,
    examples_in,
    joined,
    named_tensors,
    numbers_in,
    over,
    part_of,
    shapes_of,
    tensors_of,
)

Batch = tuple[Fields, Fields]

_SCALE = 1 / 255  # of uint8 values
_READ_AT_ONCE = 256
_SMALL = (10_000, 1 << 24)
"""A Dataset of at most so many examples and numbers is read whole whenever it is compared; of others, a sample is."""


class Hasher(Protocol):
    """A consumer of the bytes that a fingerprint covers."""

    def update(self, data: Any, /) -> None:
        """Add bytes."""


class Normalisation:
    """Converts uint8 values to floats (times 1/255), subtracts mean and divides by std, per channel (axis 1)."""

    def __init__(self, mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
        """Either may be None; each has one value, or one per channel. Raises InputError for a std of 0 or below."""
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

    def check(self, example: Fields) -> None:
        """Raise InputError unless mean and std fit an example, or several, shape (N, C, …)."""
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is None:
                continue
            if not isinstance(example, Tensor):
                raise InputError(f"{name} is of inputs that are one tensor; normalise those of several beforehand.")
            channels = example.shape[1:2]
            if len(values) not in {1, *channels}:
                raise InputError(f"{name} has {len(values)} values; give 1, or one for each of {channels[0]} channels.")

    def __call__(self, x: Fields) -> Fields:
        """Normalise a batch, each tensor (B, C, …), on its device; integers other than uint8 pass unchanged."""
        return over(self.of_tensor, x)

    def of_tensor(self, x: Tensor) -> Tensor:
        """Normalise one tensor, shape (B, C, …)."""
        if x.dtype == torch.uint8:
            if self.trivial:
                return x.to(torch.float32).mul_(_SCALE)
            factor, shift = self._affine(x, torch.float32, _SCALE)
            if x.device.type == "cpu":  # three vectorised passes are faster than one that promotes and broadcasts
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
    def targets(self) -> Fields:
        """All targets in stored order, (N, …), on the CPU."""

    @property
    @abstractmethod
    def input_shape(self) -> Shapes:
        """Shape of one example as the network sees it, or the shapes of its fields."""

    @abstractmethod
    def batches(
        self,
        batch_size: int,
        *,
        order: Tensor | None = None,
        device: str | torch.device = "cpu",
        drop_last: bool = False,
    ) -> Iterator[Batch]:
        """Yield (x, y) on the device, for the examples whose indices are in ``order``, or for all as stored.

        Batches may be views of the data, so do not change them in place.
        """

    def examples(self, indices: Tensor, *, device: str | torch.device = "cpu") -> Batch:
        """Return the examples with these indices as one batch."""
        return next(self.batches(len(indices), order=indices, device=device))

    @abstractmethod
    def subset(self, indices: Sequence[int]) -> Split:
        """Return a split of these examples with the same normalisation."""

    @abstractmethod
    def check(self, name: str, classes: int | None) -> None:
        """Raise InputError, naming the split, if its examples or labels cannot be used."""

    @abstractmethod
    def feed(self, hasher: Hasher) -> None:
        """Feed the content that identifies the split to a hash."""

    def feed_sample(self, hasher: Hasher) -> None:
        """Feed content that is quick to read and tells this split from others; by default, all of it."""
        self.feed(hasher)

    @property
    def labelled(self) -> bool:
        """Whether targets are one tensor of whole numbers."""
        return are_labels(self.targets)

    @property
    def labels_at_hand(self) -> Tensor | None:
        """All targets, if they are whole numbers and available without reading examples."""
        targets = self.targets
        return targets if isinstance(targets, Tensor) and self.labelled else None


class ArraySplit(Split):
    """A split held in memory: inputs and targets, each a tensor, (N, …), or several of them."""

    def __init__(
        self,
        x: Fields,
        y: Fields,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        """Hold the tensors without copying; uint8 inputs are scaled by 1/255 batch by batch."""
        self._x, self._y = (over(lambda t: t.detach().cpu().contiguous(), part) for part in (x, y))
        self.normalisation = Normalisation(mean, std)
        self._placed: dict[torch.device, Batch] = {}

    @override
    def __len__(self) -> int:
        return examples_in(self._x)

    @property
    @override
    def targets(self) -> Fields:
        """All targets, (N, …), on the CPU."""
        return self._y

    @property
    def inputs(self) -> Fields:
        """The inputs as stored, (N, …), before normalisation, on the CPU."""
        return self._x

    @property
    @override
    def input_shape(self) -> Shapes:
        return shapes_of(self._x)

    @override
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
        total = len(self) if order is None else len(order)
        stop = total - total % batch_size if drop_last else total
        if order is not None:
            order = order.to(tensors_of(x)[0].device)
        finish = partial(over, self._finished)
        for start in range(0, stop, batch_size):
            end = min(start + batch_size, stop)
            if order is None:
                yield finish(part_of(x, slice(start, end))), part_of(y, slice(start, end))
            else:
                select = partial(torch.index_select, dim=0, index=order[start:end])
                yield finish(over(select, x)), over(select, y)

    def _finished(self, x: Tensor) -> Tensor:
        """Convert uint8 values to floats; floats were already normalised when moved to the device."""
        return self.normalisation.of_tensor(x) if x.dtype == torch.uint8 else x

    @override
    def subset(self, indices: Sequence[int]) -> ArraySplit:
        """Copy these examples into a new split."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        n = self.normalisation
        return ArraySplit(part_of(self._x, chosen), part_of(self._y, chosen), n.mean, n.std)

    @override
    def check(self, name: str, classes: int | None) -> None:
        """Check lengths, and that every float is finite; labels are checked where it is known which are void."""
        check_lengths(name, len(self), examples_in(self._y))
        self.normalisation.check(self._x)
        for what, fields in (("x", self._x), ("y", self._y)):
            for key, values in named_tensors(fields):
                check_finite(f"{f'{what}[{key}]' if key else what} of the {name} split", values)

    @override
    def feed(self, hasher: Hasher) -> None:
        """Feed every byte, with types and shapes."""
        for fields in (self._x, self._y):
            for name, tensor in named_tensors(fields):
                hasher.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
                _feed(hasher, tensor)

    def _on(self, device: torch.device) -> Batch:
        if device not in self._placed:
            x, y = (over(lambda t: t.to(device), part) for part in (self._x, self._y))
            x = over(lambda t: self.normalisation.of_tensor(t) if t.is_floating_point() else t, x)
            # "cuda" and "cuda:0" are the same device
            self._placed[device] = self._placed.setdefault(tensors_of(x)[0].device, (x, y))
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
        name: str = "the Dataset",
        columns: bool = False,
    ) -> None:
        """Read the dataset in batches; with ``indices``, only those of its examples.

        ``name`` is what it is called in messages; with ``columns`` integer targets of shape (N, 1) are taken as (N,).
        """
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise InputError(f"A {type(dataset).__name__} has no length or items; give a map-style Dataset.")
        self._whole, self._length = dataset, len(dataset)
        self._indices = None if indices is None else list(indices)
        self._name, self._columns = name, columns
        self.normalisation = Normalisation(mean, std)

    @override
    def __len__(self) -> int:
        return self._length if self._indices is None else len(self._indices)

    @cached_property
    @override
    def targets(self) -> Fields:
        """All targets; reads the whole data set unless it has a ``targets`` attribute that its items agree with."""
        known = self._known_targets
        if known is not None:
            return known
        return joined([self.raw(part)[1] for part in self._parts()])

    @property
    @override
    def labelled(self) -> bool:
        """Whether the first target is a whole number, or several."""
        return are_labels(self.raw([0])[1])

    @property
    @override
    def labels_at_hand(self) -> Tensor | None:
        """All targets, if they are whole numbers, have been read or are an attribute of the data set."""
        known = self.__dict__.get("targets", self._known_targets)
        return known if isinstance(known, Tensor) and are_labels(known) else None

    @cached_property
    @override
    def input_shape(self) -> Shapes:
        """Shape of the first input."""
        return shapes_of(self.raw([0])[0])

    @override
    def batches(
        self,
        batch_size: int,
        *,
        order: Tensor | None = None,
        device: str | torch.device = "cpu",
        drop_last: bool = False,
    ) -> Iterator[Batch]:
        """Read batch by batch, in this process."""
        chosen = range(len(self)) if order is None else order.tolist()
        stop = len(chosen) - len(chosen) % batch_size if drop_last else len(chosen)
        pinned = torch.device(device).type == "cuda"
        for start in range(0, stop, batch_size):
            parts = self.raw(chosen[start : min(start + batch_size, stop)])
            x, y = (over(partial(_to, device=device, pinned=pinned), part) for part in parts)
            yield self.normalisation(x), y

    def raw(self, indices: Sequence[int]) -> Batch:
        """Read the examples with these indices as they are, before normalisation."""
        if len(self._whole) != self._length:
            raise InputError(
                f"{self._name[0].upper()}{self._name[1:]} had {self._length} items and now has {len(self._whole)}; a "
                f"Dataset must keep its length."
            )
        places = indices if self._indices is None else [self._indices[i] for i in indices]
        x, y = read_batch(self._whole, places, self._name)
        return x, as_column(y) if self._columns and isinstance(y, Tensor) else y

    @override
    def subset(self, indices: Sequence[int]) -> DatasetSplit:
        """Read only these examples of the same data set."""
        n = self.normalisation
        whole = indices if self._indices is None else [self._indices[i] for i in indices]
        part = DatasetSplit(self._whole, n.mean, n.std, indices=whole, name=self._name, columns=self._columns)
        if "targets" in self.__dict__:  # not to be read again
            part.__dict__["targets"] = part_of(self.targets, torch.as_tensor(indices, dtype=torch.int64))
        return part

    @override
    def check(self, name: str, classes: int | None) -> None:
        """Check the length: the examples are read, and looked at, when their fingerprint is taken."""
        check_lengths(name, len(self), len(self))
        self.normalisation.check(self.raw([0])[0])

    @property
    def small(self) -> bool:
        """Whether all of it is read whenever it is compared."""
        examples, numbers = _SMALL
        return len(self) <= examples and len(self) * max(1, numbers_in(self.input_shape)) <= numbers

    @override
    def feed(self, hasher: Hasher) -> None:
        """Feed every example, read once, in order; on the way everything is looked at.

        Raises InputError if some examples are others when they are read again (augmentation), and as
        :func:`mgraph.data.items.read_batch`; NonFiniteError, naming the item, for numbers that are not finite.
        """
        self.require_steady()
        inputs, targets = hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16)
        kind: list[Any] = []
        seen: list[Fields] = []
        for part in self._parts():
            x, y = self.raw(part)
            for what, fields, hasher_of in (("input", x, inputs), ("target", y, targets)):
                for key, values in named_tensors(fields):
                    field = f" {key}" if key else ""
                    check_finite(f"The {what}{field} in {self._name}", values, first=part[0])
                    _feed(hasher_of, values)
            alike = _kind(x, y)
            kind = kind or alike
            if alike != kind:
                raise InputError(
                    f"Items {part[0]} to {part[-1]} of {self._name} have types and shapes {alike}, those before {kind};"
                    f" give all of them one."
                )
            seen.append(y)
        hasher.update(f"dataset {len(self)} {kind} {inputs.hexdigest()} {targets.hexdigest()}".encode())
        self.__dict__["targets"] = joined(seen)

    @override
    def feed_sample(self, hasher: Hasher) -> None:
        """Feed the length and up to 64 examples spread over the data, or all if it is small."""
        hasher.update(f"dataset {len(self)}".encode())
        if self.small:
            for part in self._parts():
                ArraySplit(*self.raw(part)).feed(hasher)
        else:
            ArraySplit(*self.raw(spread(len(self)))).feed(hasher)

    def feed_eight(self, hasher: Hasher) -> None:
        """Feed what identified a Dataset in the first graphs: its length and eight examples as torch collates them."""
        chosen = torch.linspace(0, len(self) - 1, min(8, len(self))).long().tolist()
        places = chosen if self._indices is None else [self._indices[i] for i in chosen]
        hasher.update(f"dataset {len(self)}".encode())
        x, y = torch.utils.data.default_collate([self._whole[place] for place in places])
        ArraySplit(self.normalisation(x), y).feed(hasher)

    def require_steady(self) -> None:
        """Raise InputError if examples are others when they are read a second time."""
        places = spread(len(self))
        first, second = self.raw(places), self.raw(places)
        pairs = [
            (f"{what} {key}" if key else what, one, other)
            for what, a, b in zip(("input", "target"), first, second, strict=True)
            for (key, one), other in zip(named_tensors(a), tensors_of(b), strict=True)
        ]
        for what, one, other in pairs:
            differs = (one != other).flatten(1).any(1) if one.ndim > 1 else one != other
            if one.is_floating_point():  # NaN differs from itself, and is refused elsewhere
                finite = torch.isfinite(one) | torch.isfinite(other)
                differs &= (finite.flatten(1).any(1)) if one.ndim > 1 else finite
            if bool(differs.any()):
                place = places[int(differs.nonzero()[0, 0])]
                raise InputError(
                    f"{self._name[0].upper()}{self._name[1:]} is random: the {what} of item {place} was another one "
                    f"when it was read again. Every number of a graph is of the same examples: give the Dataset "
                    f"without random transforms; augmentation is a setting of what trains: --augment."
                )

    @cached_property
    def _known_targets(self) -> Tensor | None:
        """The data set's own list of targets, if there is one and its items have these targets."""
        known = getattr(self._whole, "targets", None)
        try:
            if known is None or len(known) != self._length:
                return None
            values = torch.as_tensor(known)
        except (TypeError, ValueError, RuntimeError):
            return None
        values = values.to(torch.float32 if values.is_floating_point() else torch.int64)
        if self._columns:
            values = as_column(values)
        if self._indices is not None:
            values = values[torch.as_tensor(self._indices)]
        places = spread(len(self), 8)
        if len(self) == 0:
            return values
        theirs = self.raw(places)[1]
        return values if isinstance(theirs, Tensor) and torch.equal(values[places], theirs) else None

    def _parts(self) -> list[range]:
        return [range(i, min(i + _READ_AT_ONCE, len(self))) for i in range(0, len(self), _READ_AT_ONCE)]


def _feed(hasher: Hasher, values: Tensor) -> None:
    hasher.update(values.flatten().view(torch.uint8).numpy())


def _to(x: Tensor, *, device: str | torch.device, pinned: bool) -> Tensor:
    return (x.pin_memory() if pinned else x).to(device, non_blocking=True)


def _kind(x: Fields, y: Fields) -> list[Any]:
    """Return types and shapes, as they are part of the fingerprint; of several tensors with their names."""
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        return [x.dtype, y.dtype, tuple(x.shape[1:]), tuple(y.shape[1:])]
    return [[(name, t.dtype, tuple(t.shape[1:])) for name, t in named_tensors(part)] for part in (x, y)]


def check_lengths(name: str, inputs: int, targets: int) -> None:
    """Raise InputError unless there are as many targets as inputs, and at least one."""
    if inputs != targets:
        raise InputError(f"The {name} split has {inputs} inputs but {targets} targets; give one for each.")
    if inputs == 0:
        raise InputError(f"The {name} split is empty; give it at least one example.")


def check_rows(name: str, what: str, fields: Fields) -> None:
    """Raise InputError unless all the tensors have the same number of rows."""
    count = examples_in(fields)
    for key, values in named_tensors(fields):
        if len(values) != count:
            raise InputError(
                f"{what}[{key}] of the {name} split has {len(values)} examples, and what comes before it {count}; give "
                "all of them as many."
            )


def check_finite(what: str, values: Tensor, *, first: int = 0) -> None:
    """Raise NonFiniteError, naming the example, if a float is NaN or infinite; rows are numbered from ``first``."""
    if not values.is_floating_point() or not values.numel():
        return
    low, high = torch.aminmax(values)  # these are non-finite if any value is, without a mask as large as the data
    if not bool(torch.isfinite(low) & torch.isfinite(high)):
        bad = (~torch.isfinite(values)).flatten(1) if values.ndim > 1 else ~torch.isfinite(values)[:, None]
        place = first + int(bad.any(1).nonzero()[0, 0])
        raise NonFiniteError(
            f"{what} has {int(bad.sum())} values that are NaN or infinite, the first in example {place}; give finite "
            f"numbers."
        )
