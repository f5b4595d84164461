"""The training loss: the task's, the user's own, or cross-entropy with label smoothing."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from mgraph.calling import with_heads
from mgraph.data.labels import VoidCrossEntropy
from mgraph.data.splits import Batch
from mgraph.data.task import Task, cross_entropy
from mgraph.errors import InputError
from mgraph.factories import load_factory
from mgraph.network.flat import FlatModel
from mgraph.network.probing.losses import check_pairing, describe_outputs, loss_of
from mgraph.network.probing.untouched import untouched
from mgraph.specs import Spec
from mgraph.train.augmentation import Augmented, check_augmentation
from mgraph.trust import speaker

Loss = Callable[[Any, Any], Tensor]


class Objective(Augmented, Protocol):
    """The settings that say what is minimised, and on which batches."""

    @property
    def loss(self) -> str | None:
        """The user's own loss, as module:function or file.py:function."""

    @property
    def label_smoothing(self) -> float:
        """Label smoothing of a cross-entropy."""


def training_loss(task: Task, how: Objective) -> Loss:
    """Return the function of (outputs, targets) that training minimises.

    A loss named in the settings is the user's own code, and naming it is consent to run it; if the name was read from a
    graph (:func:`mgraph.trust.speaker`), UntrustedError is raised. Raises InputError if the loss cannot be loaded, or
    if label smoothing is requested for a loss other than cross-entropy.
    """
    if how.loss is not None:
        if how.label_smoothing:
            raise InputError("label_smoothing is for the task's cross-entropy; build it into your own loss.")
        spec = Spec.parse(how.loss)
        if not spec.is_factory or spec.params:
            raise InputError(f"A loss is named module:function or file.py:function, not {how.loss!r}.")
        return load_factory(spec, base=Path.cwd(), consent=speaker())
    loss = _of_task(task, how.label_smoothing)
    return loss if task.outputs is None else with_heads(loss)


def _of_task(task: Task, smoothing: float) -> Loss:
    if smoothing:
        if isinstance(task.loss, VoidCrossEntropy):
            return replace(task.loss, label_smoothing=smoothing)
        if task.loss is not cross_entropy:
            raise InputError(f"label_smoothing is for cross-entropy, and the task's loss is {task.loss_name}.")
        return partial(F.cross_entropy, label_smoothing=smoothing)
    return task.loss


def check_objective(flat: FlatModel, task: Task, how: Objective) -> None:
    """Raise InputError for a loss or an augmentation that cannot be trained with; see :func:`check_loss`.

    The augmentation is tried first, by :func:`mgraph.train.augmentation.check_augmentation`, and the loss on its
    result.
    """
    check_loss(flat, task, training_loss(task, how), check_augmentation(flat, task, how))


def check_loss(flat: FlatModel, task: Task, loss: Loss, batch: Batch | None = None) -> None:
    """Try the loss on two examples at the current point, in training mode; the network is left as it was.

    The examples are the first two, or ``batch``. Raises InputError unless the loss is a real scalar with a gradient,
    and depends on each output together with its own target.
    """
    x, y = batch or task.train.examples(torch.arange(min(2, len(task.train))), device=flat.device)
    bare = loss.args[0] if isinstance(loss, partial) and loss.args else loss
    name = getattr(inspect.unwrap(bare), "__name__", type(bare).__name__)
    out: Any = None
    with untouched(flat.module), torch.enable_grad():
        flat.module.train()
        try:
            out = flat.run(x)
            value = loss_of(loss, name, out, y)
        except InputError:
            raise
        except Exception as error:  # a user's loss may raise anything
            why = " ".join(str(error).split()).rstrip(".")
            given = (
                "" if out is None or isinstance(out, Tensor) else f", given {describe_outputs(out)} in training mode"
            )
            raise InputError(
                f"The loss {name} failed on two examples{given}: {type(error).__name__}: {why}."
            ) from error
        check_pairing(loss, name, out, y)
        if not value.requires_grad:
            raise InputError(
                f"The loss {name} has no gradient; compute it from the outputs by differentiable operations."
            )
        try:
            torch.autograd.grad(value, [p for p in flat.module.parameters() if p.requires_grad], allow_unused=True)
        except RuntimeError as error:
            why = " ".join(str(error).split()).rstrip(".")
            raise InputError(f"The network cannot be trained by {name}: its backward pass fails: {why}.") from error
