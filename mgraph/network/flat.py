"""The flat view of a network: parameters as views of one buffer, gradients as views of another.

Any ``nn.Module`` works unchanged. Buffers stay separate, since they are not coordinates. The arrangement of the flat
buffer is private to the engine (convolutions in channels_last order, every tensor on a 64-byte boundary, zeros in
between); :meth:`FlatModel.pack` and :meth:`FlatModel.unpack` convert from and to the canonical order of the store,
which is ``named_parameters()`` order, contiguous, with tied tensors once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from mgraph.calling import Choice, call, chosen
from mgraph.errors import InputError
from mgraph.fields import Fields, over
from mgraph.network.probing.habits import Habits, static_habits
from mgraph.network.spectral import recompute_vectors, spectral_vectors

_ALIGNMENT = 64  # bytes
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class _Slot:
    name: str
    parameter: nn.Parameter
    offset: int
    channels_last: bool

    def view(self, flat: Tensor) -> Tensor:
        """Return this tensor's part of a flat row, in the tensor's own shape."""
        shape = self.parameter.shape
        part = flat[self.offset : self.offset + self.parameter.numel()]
        if not self.channels_last:
            return part.view(shape)
        return part.view(shape[0], *shape[2:], shape[1]).permute(0, 3, 1, 2)


class FlatModel:
    """A module whose trainable parameters live in ``theta`` and whose gradients live in ``grad``.

    Both have shape (size,): the D trainable scalars and the padding between tensors, which stays zero. The module's own
    ``nn.Parameter`` objects remain, so tied, shared and frozen parameters behave as usual.
    """

    def __init__(self, module: nn.Module, *, device: str | torch.device = "cpu", outputs: Choice = None) -> None:
        """Take over ``module``; raise InputError unless its trainable parameters share one real float type.

        ``outputs`` selects the part of its result that counts (:mod:`mgraph.calling`).
        """
        module.to(device)
        trainable = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        if not trainable:
            raise InputError("The network has no trainable parameter; there is nothing to connect.")
        dtypes = {p.dtype for _, p in trainable}
        if len(dtypes) > 1 or not next(iter(dtypes)).is_floating_point:
            odd = next(name for name, p in trainable if p.dtype != trainable[0][1].dtype or p.is_complex())
            raise InputError(f"Trainable parameters must share one real float type; {odd} does not.")
        convolutions = {id(m.weight) for m in module.modules() if isinstance(m, nn.Conv2d)}
        self.module, self.outputs = module, outputs
        self.dtype = trainable[0][1].dtype
        self.device = trainable[0][1].device
        self.channels_last = any(id(p) in convolutions for _, p in trainable)
        self._named = [(name, p, id(p) in convolutions) for name, p in trainable]
        self.dimension = sum(p.numel() for _, p in trainable)
        self._arrange({name for name, _ in trainable})
        self.respect(static_habits(module))

    def respect(self, habits: Habits) -> None:
        """Adopt what is known about the network's behaviour; sets ``statistics``, the modules to recompute."""
        self.habits = habits
        self.statistics = [
            m
            for name, m in self.module.named_modules()
            if isinstance(m, _NormBase) and m.running_mean is not None and name not in habits.frozen
        ]
        self.spectral = spectral_vectors(self.module)

    @property
    def recomputes(self) -> bool:
        """Whether some buffers are determined by the point: running statistics, vectors of spectral normalisation."""
        return bool(self.statistics or self.spectral)

    @property
    def least_batch(self) -> int:
        """The fewest examples that a training step must see: two for batch statistics."""
        return 2 if self.habits.needs_two else 1

    @property
    def constants(self) -> Collection[str]:
        """Names of the buffers and frozen parameters that are not determined by the point."""
        follows = {name for one in self.spectral for name in one.names}
        live = {id(m) for m in self.statistics}
        for prefix, m in self.module.named_modules(remove_duplicate=False):
            if id(m) in live:
                follows |= {f"{prefix}.{key}" if prefix else key for key in _STATISTICS}
        fixed = [n for n, p in self.module.named_parameters(remove_duplicate=False) if not p.requires_grad]
        buffers = [n for n, _ in self.module.named_buffers(remove_duplicate=False)]
        return {name for name in (*fixed, *buffers) if name not in follows}

    def recompute_vectors(self) -> None:
        """Update the vectors of spectral normalisation to the current point."""
        recompute_vectors(self.spectral)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the trainable parameters, in canonical order."""
        return tuple(name for name, _, _ in self._named)

    def _arrange(self, trained: Collection[str]) -> None:
        """Rearrange the parameters: first those named ``trained``, with gradients, then the others without."""
        unit = _ALIGNMENT // self.dtype.itemsize
        order = sorted(self._named, key=lambda item: item[0] not in trained)  # a stable sort
        slots: dict[str, _Slot] = {}
        offset = self.trained = 0
        for name, p, channels_last in order:
            slots[name] = _Slot(name, p, offset, channels_last)
            offset += -(-p.numel() // unit) * unit
            if name in trained:
                self.trained = offset
        self.size = offset
        self._slots = [slots[name] for name in self.names]
        theta = torch.zeros(offset, dtype=self.dtype, device=self.device)
        for slot in self._slots:
            slot.view(theta).copy_(slot.parameter.detach())
        self.theta, self.grad = theta, torch.zeros_like(theta[: self.trained])
        for slot in self._slots:
            learns = slot.name in trained
            slot.parameter.requires_grad_(learns)
            slot.parameter.data = slot.view(theta)
            slot.parameter.grad = slot.view(self.grad) if learns else None

    @contextmanager
    def training_only(self, names: Collection[str]) -> Iterator[None]:
        """Compute gradients of only the named parameters inside the block.

        Their columns come first in every row, ``trained`` of them (including padding), and ``grad`` has only these.
        Rows packed before the block do not fit inside it, and vice versa.
        """
        self._arrange(names)
        try:
            yield
        finally:
            self._arrange(self.names)

    def pack(self, canonical: Tensor) -> Tensor:
        """Rearrange a point of shape (D,) into a new row of shape (size,)."""
        if canonical.numel() != self.dimension:
            raise InputError(f"The point has {canonical.numel()} numbers, the network {self.dimension}.")
        row = torch.zeros_like(self.theta)
        start = 0
        for slot in self._slots:
            count = slot.parameter.numel()
            slot.view(row).copy_(canonical[start : start + count].view(slot.parameter.shape))
            start += count
        return row

    def unpack(self, row: Tensor) -> Tensor:
        """Rearrange a row of shape (size,) into a new point of shape (D,), in canonical order, on the CPU."""
        return torch.cat([slot.view(row).reshape(-1) for slot in self._slots]).cpu()

    def views(self, row: Tensor) -> dict[str, Tensor]:
        """Return the trained tensors of a row, or of its first ``trained`` columns, by name, each in its own shape."""
        return {slot.name: slot.view(row) for slot in self._slots if slot.parameter.requires_grad}

    def lanes(self, count: int) -> Lanes:
        """Allocate several points at once, each with its gradient."""
        return Lanes(self, self._slots, count)

    def columns(self, name: str) -> slice:
        """Return the columns of a row that belong to the named parameter."""
        slot = next(s for s in self._slots if s.name == name)
        return slice(slot.offset, slot.offset + slot.parameter.numel())

    def run(self, x: Fields, through: Callable[..., Any] | None = None) -> Any:
        """Return the part of the network's outputs that counts; ``through`` replaces the module, e.g. if compiled."""
        out = call(through or self.module, self.inputs(x))
        return out if self.outputs is None else chosen(out, self.outputs)

    def inputs(self, x: Fields) -> Fields:
        """Convert a batch to the form that the network is given: images in the memory order of its convolutions.

        A network that changes its input in place is given a copy, because a batch may be a view of the data.
        """
        return over(self._arranged, x)

    def _arranged(self, x: Tensor) -> Tensor:
        spatial = self.channels_last and x.ndim == 4
        arranged = x.contiguous(memory_format=torch.channels_last) if spatial else x
        return arranged.clone() if self.habits.changes_input and arranged.data_ptr() == x.data_ptr() else arranged

    def check_batch(self, size: int) -> None:
        """Raise InputError for a batch too small for the network's batch statistics."""
        if size < self.least_batch:
            raise InputError(f"The network normalises over the batch: a step needs at least 2 examples, not {size}.")

    def load_buffers(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy buffers and frozen parameters into the module by name."""
        own = dict(self.module.named_buffers(remove_duplicate=False)) | {
            name: p for name, p in self.module.named_parameters(remove_duplicate=False) if not p.requires_grad
        }
        with torch.no_grad():
            for name, value in tensors.items():
                own[name].copy_(value.view(own[name].shape))


class Lanes:
    """Several points of one network, each with a gradient: ``theta`` (n, size) and ``grad`` (n, trained).

    The network computes at one of them at a time; switching moves pointers, not numbers. A single lane is the network's
    own ``theta`` and ``grad``.
    """

    def __init__(self, flat: FlatModel, slots: Sequence[_Slot], count: int) -> None:
        alone = count == 1
        self.theta = flat.theta[None] if alone else flat.theta.new_zeros(count, flat.size)
        self.grad = flat.grad[None] if alone else flat.grad.new_zeros(count, flat.trained)
        self._views: list[list[tuple[nn.Parameter, Tensor, Tensor | None]]] = [
            [
                (slot.parameter, slot.view(theta), slot.view(grad) if slot.parameter.requires_grad else None)
                for slot in slots
            ]
            for theta, grad in zip(self.theta, self.grad, strict=True)
        ]
        self._home = [(s.parameter, s.parameter.data, s.parameter.grad) for s in slots]

    def __len__(self) -> int:
        return len(self._views)

    def enter(self, lane: int) -> None:
        """Put the network at a lane's point."""
        if len(self._views) > 1:
            _point(self._views[lane])

    def leave(self) -> None:
        """Put the network back to its own point."""
        if len(self._views) > 1:
            _point(self._home)


def _point(views: Sequence[tuple[nn.Parameter, Tensor, Tensor | None]]) -> None:
    for parameter, data, grad in views:
        parameter.data = data
        parameter.grad = grad


def combine(coefficients: Sequence[float], rows: Sequence[Tensor], out: Tensor) -> Tensor:
    """Write Σ c_k P_k into ``out``, term by term, multiply then add: bit for bit as the store's kernel does.

    Coefficients are first rounded to the type of ``out``. Rows whose coefficient is then exactly 0 are skipped, so a
    non-finite row elsewhere cannot leak in; a single coefficient of 1 copies its row.
    """
    rounded = torch.tensor(coefficients, dtype=out.dtype).tolist()
    terms = [(c, row) for c, row in zip(rounded, rows, strict=True) if c != 0]
    if not terms:
        return out.zero_()
    (first, row), *others = terms
    if first == 1.0 and not others:
        return out.copy_(row)
    torch.mul(row, first, out=out)
    scaled = torch.empty_like(out)
    for c, row in others:
        torch.mul(row, c, out=scaled)
        out.add_(scaled)
    return out
