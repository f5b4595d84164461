"""Precision of computations: exact fp32, TF32 on a GPU that has it, or bf16 autocast.

Parameters, control points, momentum and BatchNorm statistics stay float32 throughout; only what the network computes
inside one pass is rounded. By default, torch runs convolutions on a GPU in TF32; fp32 forbids that. Autocast's cache of
rounded weights stays off: weights here change in place, and it would return outdated ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from mgraph.errors import InputError

PRECISIONS = ("fp32", "tf32", "bf16")


def check_precision(precision: str, device: torch.device) -> None:
    """Raise InputError for a precision that does not exist, or is not available on this device."""
    if precision not in PRECISIONS:
        raise InputError(f"The precision must be one of {', '.join(PRECISIONS)}, not {precision!r}.")
    if precision == "tf32" and device.type != "cuda":
        raise InputError(f"TF32 needs an NVIDIA GPU, and this runs on {device.type}; choose fp32 or bf16.")


@contextmanager
def computing_in(precision: str, device: torch.device) -> Iterator[None]:
    """Run networks inside the block in this precision; raises InputError like :func:`check_precision`."""
    check_precision(precision, device)
    if device.type == "cuda":
        places: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
        before = [place.fp32_precision for place in places]
        for place in places:
            place.fp32_precision = "tf32" if precision == "tf32" else "ieee"
        try:
            with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16", cache_enabled=False):
                yield
        finally:
            for place, value in zip(places, before, strict=True):
                place.fp32_precision = value
    else:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16", cache_enabled=False):
            yield
