"""The size of the network of a spec, found without creating its weights if shapes are enough."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch

from mgraph.architectures.loading import build_network
from mgraph.builtin import ARCHITECTURES
from mgraph.errors import InputError
from mgraph.network.cost import multiply_adds
from mgraph.specs import Spec

EXAMPLE = ((3, 32, 32), 10)


@dataclass(frozen=True)
class Size:
    """Trainable parameters, and multiply-adds of a forward pass on one example, for that input shape and classes."""

    parameters: int
    multiply_adds: int
    input_shape: tuple[int, ...]
    classes: int


def size_of(spec: Spec | str, *, input_shape: tuple[int, ...] | None = None, classes: int | None = None) -> Size:
    """Count a network's parameters and multiply-adds on one example, by default of shape 3×32×32 with 10 classes.

    Language models count on 35 tokens out of 10000. Tied parameters count once. Raises InputError for a spec that
    cannot be built, for inputs of this shape or any, and for a network that cannot be run on them.
    """
    spec = Spec.parse(spec)
    entry = ARCHITECTURES.get(spec.prefix)
    usual, usual_classes = entry.example if entry else EXAMPLE
    shape = usual if input_shape is None else input_shape
    classes = usual_classes if classes is None else classes
    if not shape or min(shape) < 1 or classes < 1:
        raise InputError(f"The shape of an input and the classes must be positive, not {shape} and {classes}.")
    tokens = entry is not None and entry.several and len(shape) == 1
    dtype = torch.int64 if tokens else torch.float32
    counted = _count if spec.is_factory or spec.argument else _remembered  # the built-in ones do not change
    try:
        return counted(spec, shape, classes, dtype, "meta")
    except Exception:  # some networks inspect their weights while they are built; real errors will recur
        return counted(spec, shape, classes, dtype, "cpu")


def _count(spec: Spec, shape: tuple[int, ...], classes: int, dtype: torch.dtype, device: str) -> Size:
    with torch.device(device):
        module = build_network(spec, input_shape=shape, classes=classes, seed=0)
        parameters = sum(p.numel() for p in module.parameters() if p.requires_grad)
        try:
            done = multiply_adds(module, torch.zeros(1, *shape, dtype=dtype))
        except Exception as error:
            why = " ".join(str(error).split())
            raise InputError(
                f"{spec} cannot be run on inputs of shape {shape}: {type(error).__name__}: {why}."
            ) from error
    return Size(parameters, round(done), shape, classes)


_remembered = cache(_count)
