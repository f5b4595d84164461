"""Splits: the examples of a task in batches, on the device.

An :class:`ArraySplit` is one tensor that moves to the device once; a batch is a slice or one ``index_select``. Floats
are normalised once, uint8 values become normalised floats per batch. Data that do not fit in memory are streamed
(:class:`mgraph.data.streaming.DatasetSplit`). The caller always supplies the order of examples: there is no random
state here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from mgraph.data.workers import Workers
from mgraph.errors import InputError, NonFiniteError
from mgraph.fields import (
    Fields,
    Shapes,
    are_labels,
    examples_in,
    named_tensors,
    numbers_in,
    over,
    part_of,
    shapes_of,
    tensors_of,
)

Batch = tuple[Fields, Fields]
Origin = Callable[[NDArray[np.int64] | None], bytes]
"""Returns what identifies the examples at some places in their source, or (None) all of them."""

_SCALE = 1 / 255  # scale of uint8 values
_NUMBERS = 1 << 22  # most numbers in the inputs of a batch, so that batches of large images are smaller
_PART = 2
"""A split moves to an accelerator whole if it takes at most this part (one half) of the free memory there."""


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

    def feed_identity(self, hasher: Hasher) -> None:
        """Feed what identifies the origin of the examples: the contents of their files if known, else the examples."""
        self.feed(hasher)

    def read_by(self, workers: Workers) -> None:  # noqa: B027  (nothing is to be done where all is in memory)
        """Have streamed batches read by these processes."""

    def batch_of(self, most: int) -> int:
        """Return how many examples to compute at once: at most ``most``, fewer if they are large, never below 2."""
        return max(2, min(most, _NUMBERS // max(1, numbers_in(self.input_shape))))

    @property
    def called(self) -> str:
        """What a person would call its examples: images, or just examples."""
        shape = self.input_shape
        return "images" if isinstance(shape, tuple) and len(shape) == 3 and isinstance(shape[0], int) else "examples"

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
        *,
        origin: Origin | None = None,
    ) -> None:
        """Hold the tensors without copying; uint8 inputs are scaled by 1/255 batch by batch.

        If they were read from files, ``origin`` returns what identifies them.
        """
        self._x, self._y = (over(lambda t: t.detach().cpu().contiguous(), part) for part in (x, y))
        self.normalisation = Normalisation(mean, std)
        self._placed: dict[torch.device, Batch] = {}
        self._origin = origin
        self._places: NDArray[np.int64] | None = None  # indices of the origin's examples, if not all

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
        """Yield slices of the data, or the rows in ``order``; the data move to the device on first use, if they fit."""
        device = torch.device(device)
        whole = self._fits(device)
        x, y = self._on(device if whole else torch.device("cpu"))
        total = len(self) if order is None else len(order)
        stop = total - total % batch_size if drop_last else total
        if order is not None:
            order = order.to(tensors_of(x)[0].device)
        finish = partial(over, self._finished)
        move = partial(over, _same if whole else partial(to_device, device=device))
        for start in range(0, stop, batch_size):
            end = min(start + batch_size, stop)
            if order is None:
                part = slice(start, end)
                yield finish(move(part_of(x, part))), move(part_of(y, part))
            else:
                select = partial(torch.index_select, dim=0, index=order[start:end])
                yield finish(move(over(select, x))), move(over(select, y))

    def _finished(self, x: Tensor) -> Tensor:
        """Convert uint8 values to floats; floats were already normalised when moved to the device."""
        return self.normalisation.of_tensor(x) if x.dtype == torch.uint8 else x

    @override
    def subset(self, indices: Sequence[int]) -> ArraySplit:
        """Copy these examples into a new split."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        n = self.normalisation
        part = ArraySplit(part_of(self._x, chosen), part_of(self._y, chosen), n.mean, n.std, origin=self._origin)
        part._places = chosen.numpy() if self._places is None else self._places[chosen.numpy()]
        return part

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
                feed_bytes(hasher, tensor)

    @override
    def feed_identity(self, hasher: Hasher) -> None:
        if self._origin is None:
            self.feed(hasher)
        else:
            hasher.update(self._origin(self._places))

    def _fits(self, device: torch.device) -> bool:
        """Return whether the data stay on a device; otherwise, for lack of memory, batches move there one at a time."""
        if device.type != "cuda" or device in self._placed:
            return True
        size = sum(tensor.nbytes for fields in (self._x, self._y) for tensor in tensors_of(fields))
        return size <= free_memory(device) // _PART

    def _on(self, device: torch.device) -> Batch:
        if device not in self._placed:
            x, y = (over(lambda t: t.to(device), part) for part in (self._x, self._y))
            x = over(lambda t: self.normalisation.of_tensor(t) if t.is_floating_point() else t, x)
            # "cuda" and "cuda:0" are the same device
            self._placed[device] = self._placed.setdefault(tensors_of(x)[0].device, (x, y))
        return self._placed[device]


def to_device(x: Tensor, device: str | torch.device) -> Tensor:
    """Move a batch; to a GPU asynchronously, from page-locked memory."""
    if torch.device(device).type != "cuda":
        return x.to(device)
    return (x if x.is_pinned() else x.pin_memory()).to(device, non_blocking=True)


def free_memory(device: torch.device) -> int:
    """Return the number of free bytes on a GPU."""
    return int(torch.cuda.mem_get_info(device)[0])


def _same(x: Tensor) -> Tensor:
    return x


def feed_bytes(hasher: Hasher, values: Tensor) -> None:
    """Feed a tensor's bytes to a hash."""
    hasher.update(values.flatten().view(torch.uint8).numpy())


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
