"""The probe: when a network is first met, run it a few times on a few examples, and report what would be misread.

Every finding names the module responsible. What can be handled is handled and reported; what may surprise is reported;
what would make numbers wrong is refused with InputError.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mgraph.calling import Choice, call, chosen, with_heads
from mgraph.errors import InputError
from mgraph.fields import Fields, copied, describe, divided, examples_in
from mgraph.network.probing.habits import (
    depends_on_batch,
    differ,
    observe_evaluation,
    observe_training,
    same,
)
from mgraph.network.probing.losses import (
    Loss,
    check_classes,
    check_example_loss,
    check_pairing,
    describe_outputs,
    loss_of,
)
from mgraph.network.probing.state import copy_stored, created, identities, unstored_differences
from mgraph.network.probing.traces import all_close, blamed, joined, traced
from mgraph.network.probing.untouched import random_states, seed_all

_SHOWN = 3


@dataclass(frozen=True)
class Finding:
    """Something about a network that its user should know, including what was done about it.

    ``module`` is its name in ``named_modules()``, empty for the network itself.
    """

    kind: str
    module: str
    text: str


@dataclass(frozen=True)
class Judged:
    """A loss (also per example, if known), the name by which people know it, and which outputs it is given.

    ``classes`` is their number where the loss takes one output for each.
    """

    loss: Loss
    name: str
    example_loss: Loss | None = None
    outputs: Choice = None
    classes: int | None = None

    @property
    def in_training(self) -> Loss:
        """The loss as used in training, which includes auxiliary heads."""
        return self.loss if self.outputs is None else with_heads(self.loss)


def probe(
    module: nn.Module,
    twin: nn.Module,
    x: Fields,
    y: Fields,
    judged: Judged,
    *,
    arch: str,
    data: str,
    finite: bool = True,
) -> list[Finding]:
    """Run a network on a few examples, x (n, …) and y (n, …), and return what its user should know.

    ``twin`` is the same architecture built from another seed. Both are changed; the global random states are not.
    Raises InputError, naming the module, for what cannot be handled: a network that does not accept the data, draws
    something that no checkpoint holds, creates layers in its forward pass, changes its parameters there, or is random
    in evaluation; a loss that is not a finite scalar (if ``finite``), or compares every output with every target.
    """
    about = f"The network {arch}"
    with random_states(module, twin):
        return [
            *_in_evaluation(module, twin, x, y, judged, about, f"{about} cannot be run on the data {data}", finite),
            *_in_training(module, twin, x, y, judged, about),
        ]


def _too_many(outputs: int, classes: int | None, about: str) -> list[Finding]:
    if not outputs:
        return []
    text = (
        f"{about} gives {outputs} outputs, and the data have {classes} classes: those beyond are never right. Unless "
        f"that is meant, give the network {classes}."
    )
    return [Finding("more-outputs-than-classes", "", text)]


@torch.no_grad()
def _in_evaluation(
    module: nn.Module, twin: nn.Module, x: Fields, y: Fields, judged: Judged, about: str, cannot: str, finite: bool
) -> list[Finding]:
    found: list[Finding] = []
    before = identities(module)
    values = {name: parameter.clone() for name, parameter in module.named_parameters()}
    copy_stored(module, twin)
    try:
        out, changed = observe_evaluation(module, x)
        counts = chosen(out, judged.outputs)
        found += _too_many(check_classes(counts, y, judged.classes, about), judged.classes, about)
        loss = loss_of(judged.loss, judged.name, counts, y)
    except InputError:
        raise
    except Exception as error:  # the network or the loss may raise anything
        why = " ".join(str(error).split()).rstrip(".")
        raise InputError(f"{cannot}, inputs of {describe(x)}: {type(error).__name__}: {why}.") from error
    _check_parameters(module, before, values, about)
    if finite and not bool(torch.isfinite(loss)):
        where = _first_not_finite(module, x)
        raise InputError(
            f"The loss {judged.name} of {about.removeprefix('The ')} is {float(loss)} on the first {examples_in(x)} "
            f"training examples, before any training{where}; look at its initial values and at the data."
        )
    check_pairing(judged.loss, judged.name, counts, y)
    check_example_loss(judged.example_loss, judged.name, counts, y)
    if changed:
        found.append(changes_input(module.eval(), x, about))
    seed_all(1)
    if not all_close(call(module, copied(x)), out):
        traces = [_traced_seeded(module, x, seed) for seed in (2, 3)]
        raise InputError(
            f"{about} is random in evaluation: two passes over the same {examples_in(x)} examples differ, first in "
            f"{_name(blamed(*traces))}. Let it be random in training only (functional dropout wants "
            f"training=self.training), and hold no state that evaluation moves."
        )
    twin.eval()
    seed_all(4)
    if not all_close(call(twin, copied(x)), out):
        raise InputError(_unstored(module, twin, x, about))
    couples, alone = depends_on_batch(module, x, out)
    if couples:
        found.append(_coupling(module, x, about, alone))
    return found


def _in_training(module: nn.Module, twin: nn.Module, x: Fields, y: Fields, judged: Judged, about: str) -> list[Finding]:
    found: list[Finding] = []
    before = identities(module)
    values = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    try:
        seed_all(5)
        out, changed, frozen = observe_training(module, x)
    except Exception as error:
        why = " ".join(str(error).split()).rstrip(".")
        return [
            Finding("training-fails", "", f"{about} cannot be run in training mode: {type(error).__name__}: {why}.")
        ]
    _check_parameters(module, before, values, about)
    if changed:
        found.append(changes_input(module.train(), x, about))
    if frozen:
        listed = ", ".join(map(_name, frozen[:_SHOWN])) + (
            f" and {len(frozen) - _SHOWN} more" if frozen[_SHOWN:] else ""
        )
        found.append(
            Finding(
                "frozen-statistics",
                frozen[0],
                f"{about} keeps the running statistics of {listed} frozen in training: they are taken as constants, "
                f"which no sweep recomputes, and which must be the same in all modes that are connected.",
            )
        )
    found += _gradients(module, out, y, judged, about)
    with torch.no_grad():
        seed_all(5)
        twin.train()
        if not all_close(call(twin, copied(x)), out):
            names = unstored_differences(module, twin)
            found.append(
                Finding(
                    "unstored-in-training",
                    "",
                    f"{about} trains with something that no checkpoint holds{_listed(names)}: a path between modes is "
                    f"trained with that of a fresh network.",
                )
            )
    return found


def _gradients(module: nn.Module, out: Any, y: Fields, judged: Judged, about: str) -> list[Finding]:
    try:
        loss = loss_of(judged.in_training, judged.name, chosen(out, judged.outputs), y)
    except Exception:
        return [
            Finding(
                "other-outputs-in-training",
                "",
                f"{about} returns {describe_outputs(out)} in training, which the loss {judged.name} does not take. "
                f"To train it, let it return the same as in evaluation (torchvision: ?aux_logits=false), or name a "
                f"loss that takes what it returns (--loss).",
            )
        ]
    if not loss.requires_grad:
        return []  # a loss used only for evaluation; anyone who trains with it is told
    trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
    try:
        gradients = torch.autograd.grad(loss, list(trainable.values()), allow_unused=True)
    except RuntimeError as error:
        return [
            Finding("no-backward", "", f"{about} cannot be trained: its backward pass fails: {_first_line(error)}.")
        ]
    idle = [name for name, g in zip(trainable, gradients, strict=True) if g is None]
    if not idle:
        return []
    owner = idle[0].rpartition(".")[0]
    return [
        Finding(
            "without-gradient",
            owner,
            f"{about} does not use {len(idle)} of its {len(trainable)} parameters to compute the loss{_listed(idle)}: "
            f"they keep their initial values, but count in every distance.",
        )
    ]


def _check_parameters(module: nn.Module, before: dict[str, int], values: dict[str, Tensor], about: str) -> None:
    made = created(before, identities(module))
    if made:
        owner = made[0].rpartition(".")[0]
        raise InputError(
            f"{about} makes tensors in its forward pass{_listed(made)}, of {_name(owner)}: they were not there when it "
            f"was built, so they would be neither trained nor stored. Create them in __init__, or let the factory run "
            f"the network once on an example before it returns it."
        )
    for name, parameter in module.named_parameters():
        if not same(parameter.detach(), values[name]):
            raise InputError(
                f"{about} changes its parameter {name} in its forward pass, so evaluating a point moves it; make it "
                f"a parametrization (torch.nn.utils.parametrize), or compute with a copy."
            )


def changes_input(module: nn.Module, x: Fields, about: str) -> Finding:
    """Find the module that changes the network's input in place, by running it in its current mode."""
    given, active = copied(x), [""]
    culprits: list[str] = []

    def look() -> None:
        if not culprits and differ(given, x):
            culprits.append(active[-1])

    def before(name: str) -> Any:
        def hook(*_: Any) -> None:
            look()
            active.append(name)

        return hook

    def after(*_: Any) -> None:
        look()
        active.pop()

    hooks = []
    for name, part in module.named_modules():
        hooks += [part.register_forward_pre_hook(before(name)), part.register_forward_hook(after)]
    try:
        with torch.no_grad():
            call(module, given)
    finally:
        for hook in hooks:
            hook.remove()
    blame = culprits[0] if culprits else ""
    return Finding(
        "changes-input",
        blame,
        f"{about} changes its input in place, in {_name(blame)}: it is given copies, so the data stay as they are.",
    )


def _coupling(module: nn.Module, x: Fields, about: str, alone: bool) -> Finding:
    cut = 1 if alone else examples_in(x) // 2
    whole = traced(module.eval(), lambda: call(module, copied(x)))
    parts = [traced(module, partial(call, module, copied(part))) for part in divided(x, [cut, examples_in(x) - cut])]
    blame = blamed(whole, joined(parts))
    return Finding(
        "couples-examples",
        blame,
        f"{about} lets examples that share a batch change each other's outputs in evaluation, first in {_name(blame)}: "
        f"its numbers hold for the fixed batches that mgraph evaluates, at most 1000 examples each, in stored order.",
    )


def _unstored(module: nn.Module, twin: nn.Module, x: Fields, about: str) -> str:
    names = unstored_differences(module, twin)
    blame = blamed(_traced_seeded(module, x, 6), _traced_seeded(twin, x, 7))
    how = _listed(names) if names else f", in {_name(blame)}, perhaps drawn in its first forward pass"
    return (
        f"{about} computes with something that no checkpoint holds{how}: two builds of it with the same tensors give "
        f"different outputs, first in {_name(blame)}. Register it as a parameter or a persistent buffer, or make it "
        f"the same in every build."
    )


def _first_not_finite(module: nn.Module, x: Fields) -> str:
    for one in traced(module.eval(), lambda: call(module, copied(x))):
        fine = all(bool(torch.isfinite(t).all()) for t in one.inputs)
        if fine and not all(bool(torch.isfinite(t).all()) for t in one.outputs):
            return f" (its outputs are not finite, first in {_name(one.name)})"
    return ""


def _traced_seeded(module: nn.Module, x: Fields, seed: int) -> Any:
    seed_all(seed)
    return traced(module, lambda: call(module, copied(x)))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _listed(names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN} more" if names[_SHOWN:] else ""
    return f" ({', '.join(names[:_SHOWN])}{more})"


def _name(module: str) -> str:
    return f"module {module}" if module else "the network's own forward"
