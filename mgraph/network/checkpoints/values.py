"""The last step of an import: check types and values of the named tensors, and put them in the order of a layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mgraph.errors import LayoutMismatchError, NonFiniteError
from mgraph.network.layout import dtype_name, to_numpy
from mgraph_store.rows.layout import Layout, TensorSpec


@dataclass(frozen=True)
class FittedCheckpoint:
    """A checkpoint in the order of a layout: parameters (D,), the other tensors by type, and what was changed.

    ``source`` says which part of the file it is, as plain data. ``module`` is the network as ``load_state_dict`` left
    it, if the file gave it a state besides its tensors that a new network lacks.
    """

    parameters: NDArray[np.float32]
    buffers: dict[str, NDArray[Any]]
    notes: list[str] = field(default_factory=list)
    source: dict[str, Any] = field(default_factory=dict)
    module: nn.Module | None = None


def fit_to_layout(tensors: Mapping[str, Tensor], layout: Layout, *, cast: bool = False) -> FittedCheckpoint:
    """Check tensors under the layout's names against it and put them in its order.

    float16 and bfloat16 become float32, with a note; floats wider than the layout's need ``cast``. Raises
    LayoutMismatchError for a wrong shape or type and for tied tensors that differ; NonFiniteError for NaN or infinity,
    except in ordinary buffers, where masks contain them on purpose.
    """
    values = _untie(tensors, layout)
    missing = [t.name for t in layout.tensors if t.name not in values]
    if missing:
        raise LayoutMismatchError(
            f"The checkpoint lacks {count(missing)} of the network, first {missing[0]}; is it of this network?"
        )
    for t in layout.tensors:
        if tuple(values[t.name].shape) != t.shape:
            raise LayoutMismatchError(
                f"{t.name} has shape {list(values[t.name].shape)} in the checkpoint, expected {list(t.shape)}."
            )
    arrays: dict[str, NDArray[Any]] = {}
    changed: dict[str, list[str]] = {}
    for t in layout.tensors:
        arrays[t.name], change = _convert(t, values[t.name], cast)
        if change:
            changed.setdefault(change, []).append(t.name)
    notes = [f"{change}: {count(found)}, first {found[0]}" for change, found in changed.items()]
    for t in layout.tensors:
        if t.role != "buffer" and arrays[t.name].dtype.kind == "f":
            bad = int((~np.isfinite(arrays[t.name])).sum())
            if bad:
                raise NonFiniteError(
                    f"{t.name} has {bad} of {t.size} values that are NaN or infinite; give a finite checkpoint."
                )
    return FittedCheckpoint(layout.pack_parameters(arrays), layout.pack_buffers(arrays), notes)


def _untie(found: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """Reduce tied tensors to their stored names; they must agree bit for bit."""
    values = {name: tensor for name, tensor in found.items() if name not in layout.aliases}
    for alias, name in layout.aliases.items():
        if alias not in found:
            continue
        mine, other = found[alias], values.setdefault(name, found[alias])
        if mine.dtype != other.dtype or mine.shape != other.shape or not same_bits(mine, other):
            raise LayoutMismatchError(f"{alias} and {name} are tied in the network but differ in the checkpoint.")
    return values


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors hold the same bytes."""
    return a.data_ptr() == b.data_ptr() or to_numpy(a).tobytes() == to_numpy(b).tobytes()


def _convert(t: TensorSpec, tensor: Tensor, cast: bool) -> tuple[NDArray[Any], str]:
    """Convert a tensor to its layout's type; the second value says what was changed, if anything."""
    expected, given = getattr(torch, t.dtype), tensor.dtype
    require_plain(t.name, tensor)
    if given == expected:
        return to_numpy(tensor), ""
    if expected.is_floating_point and given.is_floating_point:
        if given.itemsize > expected.itemsize and not cast:
            raise LayoutMismatchError(
                f"{t.name} is {dtype_name(given)} in the checkpoint, expected {t.dtype}; add --cast to round it."
            )
        return to_numpy(tensor.to(expected)), f"{dtype_name(given)} to {t.dtype}"
    integers = not (expected.is_floating_point or given.is_floating_point or given.is_complex)
    if integers and torch.bool not in (expected, given):
        converted = tensor.to(expected)
        if torch.equal(converted.to(torch.int64), tensor.to(torch.int64)):
            return to_numpy(converted), f"{dtype_name(given)} to {t.dtype}"
    raise LayoutMismatchError(f"{t.name} is {dtype_name(given)} in the checkpoint, expected {t.dtype}.")


def require_plain(name: str, value: Tensor) -> None:
    """Raise LayoutMismatchError, naming the tensor, unless it is dense, holds plain numbers and has values."""
    if type(value) not in (Tensor, nn.Parameter):
        raise LayoutMismatchError(
            f"{name} is a {type(value).__name__} in the checkpoint, not a plain tensor; gather and save plain tensors."
        )
    if value.is_quantized or value.layout != torch.strided:
        kind = "quantised" if value.is_quantized else "not a dense tensor"
        raise LayoutMismatchError(f"{name} is {kind} in the checkpoint; save it dense, in floats.")
    if value.is_meta:
        raise LayoutMismatchError(f"{name} is on the meta device in the checkpoint and has no values; save it again.")


def count(names: Sequence[str]) -> str:
    """Say how many tensors there are."""
    return f"{len(names)} tensor" + ("s" if len(names) > 1 else "")
