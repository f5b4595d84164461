"""Check what a loss does with outputs and targets: a finite scalar mean, pairing each output with its own target."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from mgraph.errors import InputError
from mgraph.fields import Fields, copied, examples_in, tensors_of
from mgraph.network.probing.habits import same
from mgraph.network.probing.traces import tensors_in

Loss = Callable[[Any, Any], Any]

_ALIKE = 1e-5  # relative tolerance on the loss


def loss_of(loss: Loss, name: str, out: Any, y: Fields) -> Tensor:
    """Compute a loss and check the result: a real scalar, with nothing passed to it changed in place.

    Raises InputError otherwise; errors raised by the loss itself pass through. Torch's warning about broadcasting is
    silenced, since :func:`check_pairing` says more.
    """
    outs, targets = [t.detach().clone() for t in tensors_in(out)], copied(y)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using a target size", UserWarning)
        value = loss(out, y)
    if not isinstance(value, Tensor) or value.ndim:
        shape = f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise InputError(f"The loss {name} must return a scalar tensor, the batch's mean, not {shape}.")
    if value.is_complex() or not value.is_floating_point():
        raise InputError(f"The loss {name} is of type {value.dtype}; it must be a real floating-point number.")
    if not all(map(same, tensors_of(y), tensors_of(targets))):
        raise InputError(f"The loss {name} changes the targets in place; let it work on a copy (targets.clone()).")
    if not all(same(now.detach(), before) for now, before in zip(tensors_in(out), outs, strict=True)):
        raise InputError(f"The loss {name} changes the outputs in place; let it work on a copy (outputs.clone()).")
    return value


@torch.no_grad()
def check_pairing(loss: Loss, name: str, out: Any, y: Fields) -> None:
    """Raise InputError if the loss compares every output with every target, because their shapes broadcast.

    This is recognised by shapes that broadcast to more elements than either has, and a loss that does not change when
    the targets are permuted. Outputs and targets are varied for this test if the loss accepts other values.
    """
    if not isinstance(out, Tensor) or not isinstance(y, Tensor) or len(y) < 2 or not _broadcasts(out, y):
        return
    out, generator = out.detach(), torch.Generator().manual_seed(0)
    noise = torch.randn(out.shape, generator=generator).to(out)
    other = (
        y
        if not bool((y == y[:1]).all()) or not y.is_floating_point()
        else y + torch.rand(y.shape, generator=generator).to(y)
    )
    for outputs, targets in ((out + noise * (1 + out.abs().mean()), other), (out, other), (out, y)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            try:
                here, there = float(loss(outputs.clone(), targets)), float(loss(outputs.clone(), targets.roll(1, 0)))
            except Exception:  # outside the loss's domain
                continue
        if abs(here - there) <= _ALIKE * abs(here):
            given, wanted = list(out.shape), list(y.shape)
            raise InputError(
                f"The loss {name} compares every output with every target: outputs have shape {given}, targets "
                f"{wanted}, and the loss broadcasts them. Give both one shape: in the data factory y[:, None], or in "
                f"the network outputs without the last axis, squeeze(-1)."
            )
        return


def check_classes(out: Any, y: Fields, classes: int | None, about: str) -> int:
    """Raise InputError for logits, shape (N, C, …), of fewer classes than the labels have; return C if it is more.

    Returns 0 if it is as many, or if outputs and targets are something else.
    """
    if classes is None or not isinstance(out, Tensor) or not isinstance(y, Tensor) or out.ndim != y.ndim + 1:
        return 0
    if out.shape[1] < classes:
        raise InputError(
            f"{about} gives {out.shape[1]} outputs for a label (shape {list(out.shape)}), and the data have {classes} "
            f"classes, 0 to {classes - 1}: give the network {classes}."
        )
    return int(out.shape[1]) if out.shape[1] > classes else 0


def check_example_loss(example_loss: Loss | None, name: str, out: Any, y: Fields) -> None:
    """Raise InputError unless the loss per example, if there is one, gives one number for each."""
    if example_loss is None:
        return
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        values = example_loss(out, y)
    count = examples_in(y)
    if not isinstance(values, Tensor) or tuple(values.shape) != (count,):
        shape = f"shape {list(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        raise InputError(
            f"The example_loss of {name} must return one number for each example, shape [{count}] here, not {shape}."
        )


def _broadcasts(out: Tensor, y: Tensor) -> bool:
    if out.shape == y.shape:
        return False
    try:
        together: Tensor = out.new_empty(()).expand(out.shape) + y.new_empty(()).expand(y.shape)
    except RuntimeError:
        return False
    return together.numel() > max(out.numel(), y.numel())


def describe_outputs(out: Any) -> str:
    """Name the type of a network's outputs, for use in a sentence."""
    if isinstance(out, Tensor):
        return f"a tensor of shape {list(out.shape)}"
    if isinstance(out, Mapping):
        return f"a {type(out).__name__} with {', '.join(map(str, out))}"
    if isinstance(out, tuple | list):
        return f"a {type(out).__name__} of {len(out)}"
    return f"a {type(out).__name__}"
