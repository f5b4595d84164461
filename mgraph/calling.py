"""How a network is called with a batch of any form, and which of its outputs count.

A tensor is passed as ``module(x)``, a dict as ``module(**x)``, a tuple as ``module(*x)``. The result may be a tensor, a
tuple, a dict, or an object such as transformers' ``ModelOutput``; a task's ``outputs`` selects the part that is passed
to loss and metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from mgraph.errors import InputError
from mgraph.fields import Fields

Choice = str | int | Callable[[Any], Any] | None
"""The part of a network's outputs that counts: the entry or attribute of that name, the one at that place, the result
of a function, or (None) all of them unchanged."""

AUTO = "auto"
"""The choice of tasks with a built-in loss: the logits of outputs that have some, any others unchanged."""


def call(module: nn.Module | Callable[..., Any], x: Fields) -> Any:
    """Run a network, or a stand-in for it, on a batch."""
    if isinstance(x, Tensor):
        return module(x)
    return module(**x) if isinstance(x, dict) else module(*x)


def chosen(out: Any, choice: Choice) -> Any:
    """Return the part of a network's outputs that counts; raise InputError, listing what exists, if there is none."""
    if isinstance(out, Tensor) and not callable(choice):
        return out
    if choice is None or has_heads(out):
        return out
    if callable(choice):
        return choice(out)
    if choice == AUTO:
        return out["logits"] if isinstance(out, Mapping) and "logits" in out else out
    try:
        if isinstance(choice, str) and not isinstance(out, Mapping):
            return getattr(out, choice)
        return out[choice]
    except (KeyError, IndexError, AttributeError, TypeError):
        raise InputError(
            f"The task's outputs={choice!r} is not among what the network returns: {_names(out)}."
        ) from None


def has_heads(out: Any) -> bool:
    """Return whether outputs are those of a torchvision network with auxiliary heads, as returned in training."""
    fields: Sequence[str] = getattr(out, "_fields", ())
    return len(fields) > 1 and fields[0] == "logits" and all(name.startswith("aux_logits") for name in fields[1:])


def with_heads(loss: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Make a loss include auxiliary heads, which exist only in training: the main loss plus a fraction of each head's.

    The fraction is 0.3 for each of GoogLeNet's two (Szegedy et al., Going deeper with convolutions, 2015, §5), and 0.4
    for the one of Inception-v3, as in torchvision's training.
    """
    return partial(_with_heads, loss)


def _with_heads(loss: Callable[[Any, Any], Any], out: Any, targets: Any) -> Any:
    if isinstance(out, Tensor) or not has_heads(out):
        return loss(out, targets)
    main, *others = (head for head in out if head is not None)
    share = 0.3 if len(out) > 2 else 0.4
    return loss(main, targets) + share * sum(loss(head, targets) for head in others)


def _names(out: Any) -> str:
    if isinstance(out, Mapping):
        return ", ".join(map(str, out)) or "an empty dict"
    if hasattr(out, "_fields"):
        return ", ".join(out._fields)
    return f"{len(out)} things" if isinstance(out, Sequence) else f"a {type(out).__name__}"
