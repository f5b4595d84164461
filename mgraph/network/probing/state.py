"""Find what a network computes with that no checkpoint holds, by comparing two builds that hold the same tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mgraph.network.probing.habits import same
from mgraph.network.probing.traces import tensors_in

_OWN = frozenset(nn.Module().__dict__)
_DEPTH = 4


@torch.no_grad()
def copy_stored(source: nn.Module, target: nn.Module) -> None:
    """Copy what a store holds of a network, parameters and persistent buffers, into another build of it.

    Raises KeyError or RuntimeError if the two do not have the same tensors.
    """
    theirs = dict(stored_tensors(target))
    for name, tensor in stored_tensors(source):
        theirs[name].copy_(tensor)


def stored_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the parameters and persistent buffers by name, tied ones once."""
    yield from module.named_parameters()
    for prefix, owner in module.named_modules():
        for key, buffer in owner._buffers.items():
            if buffer is not None and key not in owner._non_persistent_buffers_set:
                yield (f"{prefix}.{key}" if prefix else key), buffer


def unstored_differences(module: nn.Module, twin: nn.Module) -> list[str]:
    """Describe what differs between two builds although their stored tensors are the same, e.g. attributes."""
    found = []
    others = dict(twin.named_modules())
    for name, part in module.named_modules():
        other = others.get(name)
        if other is None or type(other) is not type(part):
            found.append(f"{name or 'the network'} (made differently)")
            continue
        dot = f"{name}." if name else ""
        for key in sorted(part._non_persistent_buffers_set):
            if _differ(part._buffers.get(key), other._buffers.get(key)):
                found.append(f"{dot}{key} (a buffer with persistent=False)")
        for key, value in part.__dict__.items():
            if key not in _OWN and _differ(value, other.__dict__.get(key)):
                found.append(f"{dot}{key} ({_kind(value)})")
    return found


def created(before: Mapping[str, int], after: Mapping[str, int]) -> list[str]:
    """Return the names of tensors that appeared or were replaced between two snapshots (:func:`identities`)."""
    return [name for name in after if before.get(name) != after[name]]


def identities(module: nn.Module) -> dict[str, int]:
    """Return the id of every parameter object, and 0 for every persistent buffer, since buffers may be replaced."""
    found = dict.fromkeys((name for name, _ in stored_tensors(module)), 0)
    return found | {name: id(parameter) for name, parameter in module.named_parameters()}


def _differ(a: Any, b: Any, depth: int = 0) -> bool:
    if a is b or depth > _DEPTH:
        return False
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return not same(a.detach(), b.detach())
    if type(a) is not type(b):
        return True
    if isinstance(a, nn.Module):
        mine, theirs = dict(a.state_dict()), dict(b.state_dict())
        return mine.keys() != theirs.keys() or any(_differ(v, theirs[k], depth + 1) for k, v in mine.items())
    if isinstance(a, np.ndarray):
        return not (a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f")))
    if isinstance(a, list | tuple):
        return len(a) != len(b) or any(_differ(x, y, depth + 1) for x, y in zip(a, b, strict=True))
    if isinstance(a, Mapping):
        return a.keys() != b.keys() or any(_differ(v, b[k], depth + 1) for k, v in a.items())
    if isinstance(a, int | float | str | complex):
        return bool(a != b) and not (a != a and b != b)
    return False


def _kind(value: Any) -> str:
    if isinstance(value, nn.Module):
        return "a module that is not registered as one"
    if isinstance(value, list | tuple | dict):
        items = list(value.values()) if isinstance(value, dict) else list(value)
        if any(isinstance(item, nn.Module) for item in items):
            return f"modules in a plain {type(value).__name__}: use nn.ModuleList or nn.ModuleDict"
    return "a plain tensor" if tensors_in(value) else f"a plain {type(value).__name__}"
