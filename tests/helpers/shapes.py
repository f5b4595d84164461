"""Networks of which only the shapes matter."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_DRAWING = {"normal_", "uniform_", "erfinv_", "mul_", "add_", "clamp_", "fill_", "zero_", "copy_"}
_DRAWING |= {f"{name}_" for name in ("kaiming_normal", "kaiming_uniform", "xavier_normal", "xavier_uniform")}


class _NoValues(TorchFunctionMode):
    """Leaves out what gives tensors values, which on the meta device changes nothing and is slow."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in _DRAWING:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


@contextlib.contextmanager
def shapes_alone() -> Iterator[None]:
    """Let tensors made in this block have a shape and nothing else."""
    with torch.device("meta"), _NoValues():
        yield
