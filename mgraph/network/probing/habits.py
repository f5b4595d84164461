"""Behaviour of a network that the rest of mgraph must respect, found by running it on a few examples.

It may change its input in place; then it is given copies. It may keep the statistics of some BatchNorm modules frozen,
by overriding ``train()``, by ``eval()`` in its forward pass, or by a momentum of 0; then they stay as they are, in
recomputation as in training. Its outputs may depend on which examples share a batch; then it is evaluated in batches of
equal size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from mgraph.calling import call
from mgraph.fields import Fields, copied, divided, examples_in, tensors_of
from mgraph.network.probing.traces import all_close, tensors_in
from mgraph.network.probing.untouched import seed_all, untouched


@dataclass(frozen=True)
class Habits:
    """How a network behaves.

    ``frozen`` are names of modules whose running statistics do not change in training. ``couples``: in evaluation,
    examples that share a batch change each other's outputs. ``never_alone``: a single example is not a valid batch,
    even in evaluation. ``needs_two``: nor is it in training.
    """

    changes_input: bool = False
    frozen: tuple[str, ...] = ()
    couples: bool = False
    never_alone: bool = False
    needs_two: bool = False

    @property
    def equal_batches(self) -> bool:
        """Whether evaluation must not end with a small batch."""
        return self.couples or self.never_alone


def static_habits(module: nn.Module) -> Habits:
    """Return what can be told without running the network: what its ``train()`` leaves frozen, and its layer types."""
    modes = [(part, part.training) for part in module.modules()]
    module.train()
    frozen = tuple(
        name
        for name, part in _with_statistics(module)
        if not part.training or part.momentum == 0 or not part.track_running_stats
    )
    for part, mode in modes:
        part.training = mode
    without = any(isinstance(part, _BatchNorm) and part.running_mean is None for part in module.modules())
    return Habits(False, frozen, without, without, uses_batch_statistics(module, frozen))


def observe(module: nn.Module, x: Fields) -> Habits:
    """Run a network on a few examples, in training and in evaluation, and return how it behaves; it is left as found.

    If it cannot be run on them, it is judged without running it.
    """
    found = static_habits(module)
    with untouched(module), torch.no_grad():
        try:
            _, changed, frozen = observe_training(module, x)
        except Exception:  # the error is reported where it matters
            changed, frozen = False, found.frozen
    with untouched(module), torch.no_grad():
        try:
            whole, changed_too = observe_evaluation(module, x)
            couples, alone = depends_on_batch(module, x, whole)
        except Exception:
            changed_too, couples, alone = False, found.couples, True
    return Habits(
        changed or changed_too,
        frozen,
        couples or found.couples,
        not alone,
        uses_batch_statistics(module, frozen) or not alone,
    )


def observe_training(module: nn.Module, x: Fields) -> tuple[Any, bool, tuple[str, ...]]:
    """Run a forward pass in train mode.

    Returns its outputs, whether it changed its input, and the modules that kept their statistics.
    """
    module.train()
    parts = _with_statistics(module)
    before = [(part.running_mean.clone(), part.running_var.clone()) for _, part in parts]
    called: set[str] = set()
    hooks = [part.register_forward_hook(lambda *_, name=name: called.add(name)) for name, part in parts]
    given = copied(x)
    try:
        out = call(module, given)
    finally:
        for hook in hooks:
            hook.remove()
    frozen = tuple(
        name
        for (name, part), (mean, var) in zip(parts, before, strict=True)
        # a module that was not run now may run in the next pass, as in stochastic depth
        if name in called and torch.equal(part.running_mean, mean) and torch.equal(part.running_var, var)
    )
    return out, differ(given, x), frozen


def observe_evaluation(module: nn.Module, x: Fields) -> tuple[Any, bool]:
    """Run a forward pass in eval mode; return its outputs, and whether it changed its input."""
    module.eval()
    given = copied(x)
    seed_all(0)
    out = call(module, given)
    return out, differ(given, x)


def depends_on_batch(module: nn.Module, x: Fields, whole: Any) -> tuple[bool, bool]:
    """Return whether examples' outputs depend on the rest of the batch, and whether a single example can be run."""
    n = examples_in(x)
    if n < 2:
        return False, True
    try:
        parts = [call(module.eval(), copied(part)) for part in divided(x, [1, n - 1])]
        alone = all(t.ndim and len(t) == 1 for t in tensors_in(parts[0]))
    except Exception:
        alone = False
    if not alone:
        if n < 4:
            return False, False
        parts = [call(module, copied(part)) for part in divided(x, [n // 2, n - n // 2])]
    return not all_close(joined_outputs(parts), tensors_in(whole)), alone


def joined_outputs(parts: list[Any]) -> list[Tensor]:
    """Concatenate the outputs of the parts of a batch."""
    return [torch.cat(tensors) for tensors in zip(*[tensors_in(p) for p in parts], strict=True)]


def uses_batch_statistics(module: nn.Module, frozen: tuple[str, ...]) -> bool:
    """Return whether training normalises over the batch, which takes two examples."""
    for name, part in module.named_modules():
        if isinstance(part, _NormBase):
            if part.running_mean is None:
                if isinstance(part, _BatchNorm):
                    return True
            elif name not in frozen or part.momentum == 0:
                return True
    return False


def same(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors of one type have the same values, where NaN equals NaN."""
    return a.shape == b.shape and (torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all()))


def differ(fields: Fields, before: Fields) -> bool:
    """Return whether any of several tensors has changed its values."""
    return not all(map(same, tensors_of(fields), tensors_of(before)))


def _with_statistics(module: nn.Module) -> list[tuple[str, Any]]:
    return [(n, m) for n, m in module.named_modules() if isinstance(m, _NormBase) and m.running_mean is not None]
