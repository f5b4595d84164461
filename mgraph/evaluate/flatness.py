"""Relative flatness of a linear head under mean cross-entropy.

Petzka, Kamp, Adilova, Sminchisescu, Boley, Relative flatness and generalization (NeurIPS 2021), definition 3:
κ = Σ_{s,s'} ⟨w_s, w_s'⟩ Tr(H_{s,s'}) over the rows w_s of the layer's weight and the blocks H of the loss's Hessian. Of
a head z = Wφ + b under cross-entropy the blocks are those of (diag p - ppᵀ) ⊗ φφᵀ, so that

    κ = (1/N) Σ_i ‖φ_i‖² Tr(WWᵀ (diag p_i - p_i p_iᵀ)),

φ_i the head's input, p_i its softmax. Neither Hessian nor WWᵀ is ever formed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mgraph.data.task import Task, cross_entropy
from mgraph.errors import InputError
from mgraph.evaluate.metrics import Measured, Subset, outputs
from mgraph.network.flat import FlatModel

_INSTEAD = "measure the profile alone with what=profile"


class _Calls:
    """Records, while it is open, the inputs and outputs of the modules of one kind, in execution order."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self.seen: list[tuple[str, nn.Module, Any, Any]] = []

    def __enter__(self) -> _Calls:
        self._hooks = [
            layer.register_forward_hook(
                lambda layer, given, gave, name=name: self.seen.append((name, layer, given, gave))
            )
            for name, layer in self._module.named_modules()
            if not list(layer.children())
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()


def linear_head(flat: FlatModel, task: Task) -> tuple[str, nn.Linear]:
    """Find the linear layer whose output is the network's output, by running the network on two examples.

    Raises InputError if relative flatness is not defined as above: if the loss is not a cross-entropy, if the
    outputs do not come from a linear layer, one for each example, or if that layer runs more than once.
    """
    if task.loss not in (cross_entropy, F.cross_entropy):
        raise InputError(
            f"Relative flatness is that of a linear layer under mean cross-entropy, and the task's loss is "
            f"{task.loss_name}; {_INSTEAD}."
        )
    x, _ = task.train.examples(torch.arange(min(2, len(task.train))), device=flat.device)
    flat.module.eval()
    with torch.no_grad(), _Calls(flat.module) as calls:
        out = flat.run(x)
    # Later modules may pass its output on unchanged: dropout, an identity.
    found = [(name, layer) for name, layer, _, gave in calls.seen if isinstance(layer, nn.Linear) and _same(gave, out)]
    if not found or out.ndim != 2:
        last = calls.seen[-1] if calls.seen else None
        which = (
            "no layer of its own" if last is None else f"{last[0] or 'the network itself'}, a {type(last[1]).__name__}"
        )
        raise InputError(
            f"Relative flatness is that of a linear last layer, and the network's outputs of shape "
            f"{list(out.shape)} are not those of one (last came {which}); {_INSTEAD}."
        )
    name, head = found[-1]
    if sum(layer is head for _, layer, _, _ in calls.seen) > 1:
        raise InputError(
            f"Relative flatness needs a last layer that runs once, and {name} runs several times; {_INSTEAD}."
        )
    return name, head


@torch.no_grad()
def relative_flatness(
    flat: FlatModel, task: Task, head: nn.Linear, split: str, subset: Subset, precision: str = "fp32"
) -> Measured:
    """Return κ of the head at the current point and statistics: a mean over examples, with its standard error."""
    inputs: list[Tensor] = []
    hook = head.register_forward_hook(lambda _, given, __: inputs.append(given[0]))
    parts: list[Tensor] = []
    weight = head.weight.double()
    squares = weight.square().sum(dim=1)
    try:
        for out, _ in outputs(flat, task.splits[split], subset, precision):
            phi, p = inputs.pop().double(), out.double().softmax(dim=1)
            trace = p @ squares - (p @ weight).square().sum(dim=1)
            parts.append((phi.square().sum(dim=1) * trace).cpu())
    finally:
        hook.remove()
    return Measured.of(torch.cat(parts))


def _same(gave: Any, out: Any) -> bool:
    return gave is out or (
        isinstance(gave, Tensor) and isinstance(out, Tensor) and gave.shape == out.shape and torch.equal(gave, out)
    )
