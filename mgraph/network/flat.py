"""The flat view of a network: parameters as views of one buffer, gradients as views of another.

Any ``nn.Module`` works unchanged. Buffers stay apart: they are no coordinates. The flat buffer is the engine's
private arrangement (convolutions in channels_last order, every tensor on a 64-byte boundary, zeros in between);
:meth:`FlatModel.pack` and :meth:`FlatModel.unpack` translate from and to the canonical order of the store,
which is ``named_parameters()`` order, contiguous, tied tensors once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from mgraph.errors import InputError

_ALIGNMENT = 64  # bytes


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

    Both have shape (size,): the D trainable scalars and the padding between tensors, which stays zero.
    The module's own ``nn.Parameter`` objects remain, so tied, shared and frozen parameters behave as ever.
    """

    def __init__(self, module: nn.Module, *, device: str | torch.device = "cpu") -> None:
        """Take over ``module``; InputError if its trainable parameters are not of one real float type."""
        module.to(device)
        trainable = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        if not trainable:
            raise InputError("The network has no trainable parameter; there is nothing to connect.")
        dtypes = {p.dtype for _, p in trainable}
        if len(dtypes) > 1 or not next(iter(dtypes)).is_floating_point:
            odd = next(name for name, p in trainable if p.dtype != trainable[0][1].dtype or p.is_complex())
            raise InputError(f"Trainable parameters must share one real float type; {odd} does not.")
        convolutions = {id(m.weight) for m in module.modules() if isinstance(m, nn.Conv2d)}
        self.module = module
        self.dtype = trainable[0][1].dtype
        self.device = trainable[0][1].device
        self.channels_last = any(id(p) in convolutions for _, p in trainable)
        unit = _ALIGNMENT // self.dtype.itemsize
        self._slots, offset = [], 0
        for name, p in trainable:
            self._slots.append(_Slot(name, p, offset, id(p) in convolutions))
            offset += -(-p.numel() // unit) * unit
        self.size = offset
        self.dimension = sum(p.numel() for _, p in trainable)
        self.theta = torch.zeros(offset, dtype=self.dtype, device=self.device)
        self.grad = torch.zeros_like(self.theta)
        for slot in self._slots:
            view = slot.view(self.theta)
            view.copy_(slot.parameter.detach())
            slot.parameter.data = view
            slot.parameter.grad = slot.view(self.grad)
        self.statistics = [m for m in module.modules() if isinstance(m, _NormBase) and m.running_mean is not None]

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

    def columns(self, name: str) -> slice:
        """Return the columns of a row that belong to the named parameter."""
        slot = next(s for s in self._slots if s.name == name)
        return slice(slot.offset, slot.offset + slot.parameter.numel())

    def inputs(self, x: Tensor) -> Tensor:
        """Bring a batch of images into the memory order of the network's convolutions."""
        if self.channels_last and x.ndim == 4:
            return x.contiguous(memory_format=torch.channels_last)
        return x

    def check_batch(self, size: int) -> None:
        """Raise InputError for a batch too small for the network's batch statistics."""
        if size < 2 and self.statistics:
            raise InputError(f"The network normalises over the batch: a step needs at least 2 examples, not {size}.")

    def load_buffers(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy buffers and frozen parameters into the module by name."""
        own = dict(self.module.named_buffers(remove_duplicate=False)) | {
            name: p for name, p in self.module.named_parameters(remove_duplicate=False) if not p.requires_grad
        }
        with torch.no_grad():
            for name, value in tensors.items():
                own[name].copy_(value.view(own[name].shape))


def combine(coefficients: Sequence[float], rows: Sequence[Tensor], out: Tensor) -> Tensor:
    """Write Σ c_k P_k into ``out``, term by term, multiply then add: bit for bit as the store's kernel does.

    Coefficients are rounded to the type of ``out`` first. Rows whose coefficient is then exactly 0 are skipped,
    so a non-finite row elsewhere cannot leak; a single coefficient of 1 copies its row.
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
