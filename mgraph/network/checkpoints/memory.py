"""Present weights already in memory, a module or a dict of tensors, as if they were the content of a file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mgraph.errors import InputError
from mgraph.network.checkpoints.files import Content
from mgraph.network.checkpoints.inert import Foreign, PlainDict
from mgraph.network.checkpoints.search import EXTRA_STATE

_DEPTH = 8


def content_of(given: nn.Module | Mapping[str, Any]) -> Content:
    """Return what a module, or a dict with tensors or arrays, holds, on the CPU and detached from any gradient.

    Other objects in the dict are skipped, as in a file. Raises InputError for anything else.
    """
    if not isinstance(given, nn.Module | Mapping):
        raise InputError(
            f"A mode is made of a file, an nn.Module or a dict of tensors, not of type {type(given).__name__}: give "
            "the module or its state_dict()."
        )
    skipped: list[str] = []
    return Content(_plain(given, "", 0, skipped), tuple(skipped), ())


def digest_of(content: Content) -> str:
    """Hash names, types, shapes and values of all plain tensors of a content: BLAKE2b-128, in hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(_tensors(content.value, ""), key=lambda item: item[0]):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _plain(value: Any, where: str, depth: int, skipped: list[str]) -> Any:
    if isinstance(value, nn.Module):
        value = value.state_dict()
    if isinstance(value, Tensor):
        return _on_cpu(value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return torch.from_numpy(np.array(value))
    if value is None or isinstance(value, str | bytes | bool | int | float | complex | torch.dtype | np.generic):
        return value
    if depth < _DEPTH and isinstance(value, list | tuple):
        return [_plain(v, f"{where}.{i}", depth + 1, skipped) for i, v in enumerate(value)]
    if depth < _DEPTH and isinstance(value, Mapping):
        found = PlainDict()
        for key, inner in value.items():
            at = f"{where}.{key}" if where else str(key)
            state = isinstance(key, str) and key.split(".")[-1] == EXTRA_STATE
            found[key] = inner if state else _plain(inner, at, depth + 1, skipped)
        found._metadata = getattr(value, "_metadata", None)
        return found
    name = f"{type(value).__module__}.{type(value).__qualname__}"
    skipped.append(f"{where} ({name})" if where else name)
    return Foreign(name)


def _on_cpu(value: Tensor) -> Tensor:
    """Return a tensor on the CPU; leave one that is not plain to the code that refuses it by name."""
    return value.detach().cpu() if _is_plain(value) else value


def _is_plain(value: Tensor) -> bool:
    dense = value.layout == torch.strided and not value.is_quantized and not value.is_meta
    return type(value) in (Tensor, nn.Parameter) and dense


def _tensors(value: Any, where: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor) and _is_plain(value):
        yield where, value
    items = dict.items(value) if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _tensors(inner, f"{where}.{key}")
