"""Compare two passes module by module: which module gives different outputs for the same inputs?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

CLOSE = 1e-3  # relative to the largest value: above the rounding differences between batch sizes or devices
_SAMPLE = 512  # numbers kept from each example's part of a tensor


@dataclass(frozen=True)
class ModuleCall:
    """One call of a module: samples of its input and output tensors."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def traced(module: nn.Module, run: Callable[[], Any]) -> list[ModuleCall]:
    """Run something and return the calls of the module and its submodules, in the order in which they ended."""
    calls: list[ModuleCall] = []

    def hook(name: str) -> Callable[..., None]:
        entered: list[tuple[Tensor, ...]] = []

        def before(_: nn.Module, args: Any, kwargs: Any) -> None:
            entered.append(_samples((args, kwargs)))

        def after(_: nn.Module, __: Any, ___: Any, output: Any) -> None:
            calls.append(ModuleCall(name, entered.pop() if entered else (), _samples(output)))

        stack.callback(part.register_forward_pre_hook(before, with_kwargs=True).remove)
        return after

    with ExitStack() as stack:
        for name, part in module.named_modules():
            if not isinstance(part, torch.jit.ScriptModule):
                stack.callback(part.register_forward_hook(hook(name), with_kwargs=True).remove)
        run()
    return calls


def blamed(first: Sequence[ModuleCall], second: Sequence[ModuleCall], tolerance: float = CLOSE) -> str:
    """Return the first module that gave different outputs for the same inputs; empty for the network's own forward."""
    for one, other in zip(first, second, strict=False):
        if one.name != other.name:
            break
        if all_close(one.inputs, other.inputs, tolerance) and not all_close(one.outputs, other.outputs, tolerance):
            return one.name
    return ""


def joined(parts: Sequence[Sequence[ModuleCall]]) -> list[ModuleCall]:
    """Concatenate the calls for several parts of a batch along the first axis, where possible."""
    return [
        ModuleCall(calls[0].name, _joined([c.inputs for c in calls]), _joined([c.outputs for c in calls]))
        for calls in zip(*parts, strict=False)
    ]


def all_close(first: Any, second: Any, tolerance: float = CLOSE) -> bool:
    """Return whether the tensors in two results agree, up to rounding relative to their largest value."""
    mine, theirs = tensors_in(first), tensors_in(second)
    return len(mine) == len(theirs) and all(_close(a, b, tolerance) for a, b in zip(mine, theirs, strict=True))


def largest_difference(first: Any, second: Any) -> float:
    """Return the largest absolute difference between the tensors in two results; infinite if shapes differ."""
    largest = 0.0
    for a, b in zip(tensors_in(first), tensors_in(second), strict=True):
        if a.shape != b.shape:
            return float("inf")
        if a.numel():
            largest = max(largest, float((_real(a) - _real(b)).abs().max()))
    return largest


def tensors_in(value: Any) -> list[Tensor]:
    """List the tensors in a result, however nested; objects such as a ModelOutput are mappings."""
    if isinstance(value, Tensor):
        return [value]
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    if a.shape != b.shape:
        return False
    if a.dtype == b.dtype and torch.equal(a, b):
        return True
    a, b = _real(a), _real(b)
    finite = torch.isfinite(a)
    if not torch.equal(finite, torch.isfinite(b)):
        return False
    if not finite.any():
        return True
    scale = float(a[finite].abs().max())
    return float((a[finite] - b[finite]).abs().max()) <= tolerance * scale


def _real(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return (torch.view_as_real(tensor) if tensor.is_complex() else tensor).double()


def _samples(value: Any) -> tuple[Tensor, ...]:
    return tuple(_sample(tensor) for tensor in tensors_in(value))


def _sample(tensor: Tensor) -> Tensor:
    """Copy part of a tensor, spread over each row of its first axis."""
    tensor = tensor.detach()
    if tensor.layout != torch.strided or tensor.ndim < 1:
        return tensor.clone()
    rows = tensor.reshape(tensor.shape[0], -1)
    return rows[:, :: max(1, rows.shape[1] // _SAMPLE)].clone()


def _joined(parts: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    found = []
    for tensors in zip(*parts, strict=False):
        fit = all(t.ndim and t.shape[1:] == tensors[0].shape[1:] for t in tensors)
        found.append(torch.cat(tensors) if fit else tensors[0])
    return tuple(found)
