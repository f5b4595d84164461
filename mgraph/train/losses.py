"""The training loss: the task's, a user's own, or cross-entropy with label smoothing."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from mgraph.data.labels import VoidCrossEntropy
from mgraph.data.task import Task, cross_entropy
from mgraph.errors import InputError
from mgraph.factories import load_factory, source_of
from mgraph.network.flat import FlatModel
from mgraph.specs import Spec

Loss = Callable[[Tensor, Tensor], Tensor]


class Objective(Protocol):
    """The settings that say what is minimised."""

    @property
    def loss(self) -> str | None:
        """A loss of the user's own, as module:function or file.py:function."""

    @property
    def label_smoothing(self) -> float:
        """Label smoothing of a cross-entropy."""


def training_loss(task: Task, how: Objective) -> Loss:
    """Return the function of (outputs, targets) that training minimises.

    A loss named in the settings is the user's own code, and naming it is consent to run it. Raises InputError
    if it cannot be loaded, or label smoothing is asked of a loss that is no cross-entropy.
    """
    if how.loss is not None:
        if how.label_smoothing:
            raise InputError("label_smoothing is for the task's cross-entropy; build it into your own loss.")
        spec, source = source_of(Spec.parse(how.loss), typed_in=Path.cwd(), base=Path.cwd())
        if source is None or spec.params:
            raise InputError(f"A loss is named module:function or file.py:function, not {how.loss!r}.")
        return load_factory(spec, base=Path.cwd())
    if how.label_smoothing:
        if isinstance(task.loss, VoidCrossEntropy):
            return replace(task.loss, label_smoothing=how.label_smoothing)
        if task.loss is not cross_entropy:
            raise InputError(f"label_smoothing is for cross-entropy, and the task's loss is {task.loss_name}.")
        return partial(F.cross_entropy, label_smoothing=how.label_smoothing)
    return task.loss


def check_loss(flat: FlatModel, task: Task, loss: Loss) -> None:
    """Try the loss on two examples at the present point; InputError unless it returns a scalar with a gradient."""
    x, y = task.train.examples(torch.arange(min(2, len(task.train))), device=flat.device)
    flat.module.eval()
    name = getattr(inspect.unwrap(loss), "__name__", type(loss).__name__)
    try:
        with torch.enable_grad():
            value = loss(flat.module(flat.inputs(x)), y)
    except Exception as error:  # whatever a user's loss raises
        why = " ".join(str(error).split()).rstrip(".")
        raise InputError(f"The loss {name} failed on two examples: {type(error).__name__}: {why}.") from error
    if not isinstance(value, Tensor) or value.ndim:
        shape = f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise InputError(f"The loss {name} must return a scalar tensor, the batch's mean, not {shape}.")
    if not value.requires_grad:
        raise InputError(f"The loss {name} has no gradient; compute it from the outputs by differentiable operations.")
