"""The layout of a network: which tensors it has, in canonical order, and what each of them is.

Canonical order is ``named_parameters()`` order, then the persistent buffers in ``state_dict`` order; a tied tensor is
stored once, under its first name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy

from mgraph.errors import InputError
from mgraph_store.rows.layout import Layout, TensorSpec

_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_INTEGERS = {
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint16,
    torch.uint32,
}


def layout_of(module: nn.Module) -> Layout:
    """Describe a network's tensors.

    Trainable parameters must be float32, since that is how points are stored. Raises InputError, naming the
    tensor, for other trainable types, for complex, quantised, sparse, lazy or meta tensors, for parameters that
    share memory without being one Parameter, and for a network with nothing to train.
    """
    specs: list[TensorSpec] = []
    aliases: dict[str, str] = {}
    first: dict[int, str] = {}
    memory: dict[int, str] = {}
    for name, tensor, role in _tensors(module):
        if id(tensor) in first:
            aliases[name] = first[id(tensor)]
            continue
        first[id(tensor)] = name
        _check(name, tensor, role)
        if role in ("parameter", "frozen") and tensor.numel():
            other = memory.setdefault(tensor.data_ptr(), name)
            if other != name:
                raise InputError(
                    f"Parameters {other} and {name} share memory but are two Parameters; tie them by assigning "
                    f"one Parameter to both."
                )
        specs.append(TensorSpec(name, tuple(tensor.shape), dtype_name(tensor.dtype), role))
    layout = Layout(tuple(specs), aliases)
    if not layout.size:
        raise InputError("The network has no trainable parameter; there is nothing to train or connect.")
    return layout


def tensors_from_module(module: nn.Module, wanted: Iterable[TensorSpec]) -> dict[str, NDArray[Any]]:
    """Copy tensors of a network by stored name, each in its own type (bfloat16 as float32)."""
    named = {name: tensor for name, tensor, _ in _tensors(module)}
    return {t.name: to_numpy(named[t.name]).copy() for t in wanted}


def named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a network that a layout describes, tied ones under every name."""
    for name, tensor, _ in _tensors(module):
        yield name, tensor


def to_numpy(tensor: Tensor) -> NDArray[Any]:
    """View a tensor as a NumPy array, or copy it if its type or device requires that (bfloat16 as float32)."""
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    array: NDArray[Any] = np.ascontiguousarray(tensor.numpy()).reshape(tuple(tensor.shape))
    return array


def dtype_name(dtype: torch.dtype) -> str:
    """Name a dtype as the layout does, e.g. float32."""
    return str(dtype).removeprefix("torch.")


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor, str]]:
    """Yield name, tensor and role of every parameter and persistent buffer, tied ones under every name."""
    for name, parameter in module.named_parameters(remove_duplicate=False):
        yield name, parameter, "parameter" if parameter.requires_grad else "frozen"
    for prefix, owner in module.named_modules(remove_duplicate=False):
        statistics = isinstance(owner, _NormBase) and owner.running_mean is not None
        for key, buffer in owner._buffers.items():
            if buffer is not None and key not in owner._non_persistent_buffers_set:
                name = f"{prefix}.{key}" if prefix else key
                yield name, buffer, "statistic" if statistics and key in _STATISTICS else "buffer"


_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def _check(name: str, tensor: Tensor, role: str) -> None:
    if is_lazy(tensor):
        raise InputError(f"{name} is not initialised yet; run the network once on an example before returning it.")
    if tensor.is_quantized or tensor.layout != torch.strided or tensor.is_complex():
        kind = "quantised" if tensor.is_quantized else "complex" if tensor.is_complex() else "sparse"
        raise InputError(f"{name} is {kind}; only dense real tensors can be stored.")
    if tensor.is_meta:
        raise InputError(f"{name} is on the meta device and has no values; build the network on the CPU.")
    if role == "parameter" and tensor.dtype != torch.float32:
        raise InputError(f"{name} is {dtype_name(tensor.dtype)}; build the network in float32.")
    if tensor.dtype not in _FLOATS | _INTEGERS:
        raise InputError(f"{name} is {dtype_name(tensor.dtype)}, which cannot be stored; use float32 or int64.")
