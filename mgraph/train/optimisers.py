"""Torch optimisers for the tensors of flat rows: Muon, and any class of torch.optim by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mgraph.errors import InputError
from mgraph.train.settings import TORCH, optimizer_options

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from mgraph.train.updates import UpdateRule

Views = Callable[[Tensor], Mapping[str, Tensor]]
"""Maps a row or its gradient to its tensors, by name, each in its own shape."""


def parameters_of(rows: Sequence[Tensor], gradients: Sequence[Tensor], views: Views) -> list[nn.Parameter]:
    """Make a parameter for every tensor of every row; its gradient is a view of the row's."""
    made = []
    for row, gradient in zip(rows, gradients, strict=True):
        parts = views(gradient)
        for name, tensor in views(row).items():
            parameter = nn.Parameter(tensor)
            parameter.grad = parts[name]
            made.append(parameter)
    return made


def optimisers(rule: UpdateRule, parameters: Sequence[nn.Parameter]) -> list[Optimizer]:
    """Return the optimisers that together move these parameters, with ``rule.weight_decay`` if it acts on them."""
    decay = rule.weight_decay if rule.decay == "control" or rule.optimizer.startswith(TORCH) else 0.0
    if rule.optimizer == "muon":
        return _muon(rule, parameters, decay)
    cls: Callable[..., Optimizer] = named_class(rule.optimizer)
    options = optimizer_options(rule.options)
    if "weight_decay" in inspect.signature(cls).parameters:
        options = {"weight_decay": decay} | options
    return [cls(parameters, **{"lr": 1.0} | options)]


def _muon(rule: UpdateRule, parameters: Sequence[nn.Parameter], decay: float) -> list[Optimizer]:
    """Orthogonalise the momentum of matrices (Jordan et al. 2024); AdamW moves everything else.

    Matrix updates are scaled to match the size of AdamW's (Liu et al. 2025), so that one learning rate suits both.
    """
    matrices = [p for p in parameters if p.ndim == 2]
    others = [p for p in parameters if p.ndim != 2]
    made: list[Optimizer] = []
    if matrices:
        made.append(
            torch.optim.Muon(
                matrices, lr=1.0, weight_decay=decay, momentum=rule.momentum, adjust_lr_fn="match_rms_adamw"
            )
        )
    if others:
        made.append(torch.optim.AdamW(others, lr=1.0, betas=(rule.momentum, rule.beta2), weight_decay=decay))
    return made


def named_class(name: str) -> type[Optimizer]:
    """Return the class named by ``torch.optim.NAME``; raise InputError if none exists or it cannot train by steps."""
    found = getattr(torch.optim, name.removeprefix(TORCH), None)
    if not (inspect.isclass(found) and issubclass(found, torch.optim.Optimizer)) or found is torch.optim.Optimizer:
        known = [n for n, c in vars(torch.optim).items() if inspect.isclass(c) and issubclass(c, torch.optim.Optimizer)]
        raise InputError(f"There is no optimiser {name}; torch.optim has {', '.join(sorted(known))}.")
    if inspect.signature(found.step).parameters["closure"].default is inspect.Parameter.empty:
        raise InputError(
            f"{name} needs a closure, which it evaluates several times in a step; choose an optimiser that takes one "
            f"gradient per step."
        )
    return found


def check_optimiser(rule: UpdateRule, shapes: Sequence[Sequence[int]]) -> None:
    """Raise InputError early if the optimiser cannot be made, or cannot step, for tensors of these shapes."""
    if rule.optimizer in ("sgd", "adamw"):
        return
    small = [nn.Parameter(torch.ones([min(2, size) for size in shape])) for shape in shapes]
    for parameter in small:
        parameter.grad = torch.zeros_like(parameter)
    if rule.optimizer != "muon":
        cls = named_class(rule.optimizer)
        if rule.weight_decay and "weight_decay" not in inspect.signature(cls).parameters:
            raise InputError(f"{rule.optimizer} has no weight decay; add weight_decay=0.")
    try:
        for optimiser in optimisers(rule, small):
            optimiser.step()
    except Exception as error:  # torch may raise anything for unsuitable settings or shapes
        why = " ".join(str(error).split()).rstrip(".")
        raise InputError(f"{rule.optimizer} cannot train this network: {why}.") from error
