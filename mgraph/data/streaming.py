"""A split that is not held in memory: examples are read from a Dataset when a batch is requested.

Its fingerprint covers every example. A Dataset of ours is identified by the contents of its files at every comparison;
for any other, a sample later shows whether it is still the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from mgraph.data.labels import as_column, spread
from mgraph.data.machine import give_back_memory
from mgraph.data.reading import Identified, Reader
from mgraph.data.splits import (
    ArraySplit,
    Batch,
    Hasher,
    Normalisation,
    Split,
    check_finite,
    check_lengths,
    feed_bytes,
    to_device,
)
from mgraph.data.workers import Workers
from mgraph.errors import InputError
from mgraph.fields import (
    Fields,
    Shapes,
    are_labels,
    joined,
    named_tensors,
    numbers_in,
    over,
    part_of,
    shapes_of,
    tensors_of,
)

_READ_AT_ONCE = 256
_GIVE_BACK = 1 << 25  # bytes of inputs after which free memory goes back to the system
_SMALL = (10_000, 1 << 24)
"""A Dataset of at most this many examples and numbers is read whole for each comparison; of others, only a sample."""


class DatasetSplit(Split):
    """A split streamed from a map-style torch ``Dataset`` of (input, target) pairs."""

    def __init__(
        self,
        dataset: Any,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        *,
        indices: Sequence[int] | NDArray[np.int64] | None = None,
        name: str = "the Dataset",
        columns: bool = False,
    ) -> None:
        """Read the dataset in batches; with ``indices``, only those of its examples.

        ``name`` is what messages call it; with ``columns``, integer targets of shape (N, 1) are taken as (N,).
        """
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise InputError(f"A {type(dataset).__name__} has no length or items; give a map-style Dataset.")
        self._reader = Reader(dataset, name, columns=columns)
        self._indices = None if indices is None else np.asarray(indices, np.int64)
        self._name, self._columns = name, columns
        self.normalisation = Normalisation(mean, std)

    @override
    def __len__(self) -> int:
        return self._reader.length if self._indices is None else len(self._indices)

    @cached_property
    @override
    def targets(self) -> Fields:
        """All targets; reads the whole data set unless it has a ``targets`` attribute that agrees with its items."""
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
        """All targets, if they are whole numbers and have been read already or are an attribute of the data set."""
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
        """Read batch by batch, ahead of time if there are workers."""
        chosen = np.arange(len(self)) if order is None else order.cpu().numpy()
        stop = len(chosen) - len(chosen) % batch_size if drop_last else len(chosen)
        asked = [self._places(chosen[start : min(start + batch_size, stop)]) for start in range(0, stop, batch_size)]
        pinned, passed = torch.device(device).type == "cuda", 0
        for pieces in self._reader.batches(asked, pinned=pinned):
            parts = [[over(partial(to_device, device=device), part) for part in piece] for piece in pieces]
            x, y = (joined(several) if len(several) > 1 else several[0] for several in zip(*parts, strict=True))
            del parts, pieces
            x = self.normalisation(x)
            passed += sum(tensor.nbytes for tensor in tensors_of(x))
            yield x, y
            del x, y  # so that there are never two batches at once
            if passed > _GIVE_BACK:
                give_back_memory()
                passed = 0

    def raw(self, indices: Sequence[int]) -> Batch:
        """Read the examples with these indices unchanged, before normalisation, in this process."""
        return self._reader.read(self._places(indices))

    @override
    def read_by(self, workers: Workers) -> None:
        """Have batches read by these processes; this includes the splits that share the Dataset."""
        self._reader.join(workers)

    @property
    def identified(self) -> bool:
        """Whether the examples are identified by the contents of files."""
        return isinstance(self._reader.dataset, Identified)

    @override
    def subset(self, indices: Sequence[int]) -> DatasetSplit:
        """Read only these examples of the same data set."""
        n = self.normalisation
        whole = self._places(indices)
        part = DatasetSplit(self._reader.dataset, n.mean, n.std, indices=whole, name=self._name, columns=self._columns)
        part._reader = self._reader
        if "targets" in self.__dict__:  # so that they are not read again
            part.__dict__["targets"] = part_of(self.targets, torch.as_tensor(indices, dtype=torch.int64))
        return part

    @override
    def check(self, name: str, classes: int | None) -> None:
        """Check the length; the examples are read and checked when their fingerprint is taken."""
        check_lengths(name, len(self), len(self))
        self.normalisation.check(self.raw([0])[0])

    @property
    def small(self) -> bool:
        """Whether all of it is read for each comparison."""
        examples, numbers = _SMALL
        return len(self) <= examples and len(self) * max(1, numbers_in(self.input_shape)) <= numbers

    @override
    def feed(self, hasher: Hasher) -> None:
        """Feed every example, read once, in order, checking it on the way; for files, feed their digests.

        Raises InputError if some examples differ when read again (augmentation), and like
        :func:`mgraph.data.items.read_batch`; NonFiniteError, naming the item, for numbers that are not finite.
        """
        if self.identified:
            self.feed_identity(hasher)
            return
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
                    feed_bytes(hasher_of, values)
            alike = _kind(x, y)
            kind = kind or alike
            if alike != kind:
                raise InputError(
                    f"Items {part[0]} to {part[-1]} of {self._name} have types and shapes {alike}, those before {kind};"
                    f" make them all the same."
                )
            seen.append(y)
        hasher.update(f"dataset {len(self)} {kind} {inputs.hexdigest()} {targets.hexdigest()}".encode())
        self.__dict__["targets"] = joined(seen)

    @override
    def feed_sample(self, hasher: Hasher) -> None:
        """Feed the length and up to 64 examples spread over the data, or all if it is small; for files, all digests."""
        if self.identified:
            self.feed_identity(hasher)
            return
        hasher.update(f"dataset {len(self)}".encode())
        if self.small:
            for part in self._parts():
                ArraySplit(*self.raw(part)).feed(hasher)
        else:
            ArraySplit(*self.raw(spread(len(self)))).feed(hasher)

    @override
    def feed_identity(self, hasher: Hasher) -> None:
        """Feed what the Dataset returns as the identity of the examples."""
        hasher.update(self._reader.dataset.examples_digest(self._indices))

    def feed_values(self, hasher: Hasher) -> None:
        """Feed what would be fed if the examples were in memory, which means reading all of them."""
        for number, fields in enumerate(self.raw([0])):
            for place, (name, first) in enumerate(named_tensors(fields)):
                hasher.update(f"{name}{first.dtype}{(len(self), *first.shape[1:])}".encode())
                for part in self._parts():
                    feed_bytes(hasher, tensors_of(self.raw(part)[number])[place])

    def feed_eight(self, hasher: Hasher) -> None:
        """Feed what identified a Dataset in the first graphs: its length and eight examples as collated by torch."""
        chosen = torch.linspace(0, len(self) - 1, min(8, len(self))).long().tolist()
        places = self._places(chosen)
        hasher.update(f"dataset {len(self)}".encode())
        x, y = torch.utils.data.default_collate([self._reader.dataset[place] for place in places.tolist()])
        ArraySplit(self.normalisation(x), y).feed(hasher)

    def require_steady(self) -> None:
        """Raise InputError if examples differ when they are read a second time."""
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
                    f"{self._name[0].upper()}{self._name[1:]} is random: the {what} of item {place} changed when "
                    f"it was read again. All numbers of a graph must be from the same examples: give the Dataset "
                    f"without random transforms; augmentation is a training setting, --augment."
                )

    @cached_property
    def _known_targets(self) -> Tensor | None:
        """The data set's own list of targets, if there is one and its items have these targets."""
        known = getattr(self._reader.dataset, "targets", None)
        try:
            if known is None or len(known) != self._reader.length:
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

    def _places(self, indices: Any) -> NDArray[np.int64]:
        """Return the indices in the Dataset of examples of this split."""
        rows = np.asarray(indices, np.int64)
        return rows if self._indices is None else self._indices[rows]

    def _parts(self) -> list[range]:
        return [range(i, min(i + _READ_AT_ONCE, len(self))) for i in range(0, len(self), _READ_AT_ONCE)]


def _kind(x: Fields, y: Fields) -> list[Any]:
    """Return types and shapes, as in the fingerprint; for several tensors, with their names."""
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        return [x.dtype, y.dtype, tuple(x.shape[1:]), tuple(y.shape[1:])]
    return [[(name, t.dtype, tuple(t.shape[1:])) for name, t in named_tensors(part)] for part in (x, y)]
