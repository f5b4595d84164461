"""The order in which the layers of a network compute, found by running it once, so that nobody lists them by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from mgraph.calling import call
from mgraph.fields import Fields

_NORMALISATION = (_NormBase, nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True)
class Layer:
    """A module with its own trainable parameters (not its submodules'): their names, in canonical order.

    ``normalises`` marks a normalisation layer, whose scale and shift are not weights. The network itself has an empty
    name.
    """

    name: str
    parameters: tuple[str, ...]
    normalises: bool = False

    @property
    def weights(self) -> tuple[str, ...]:
        """The parameters that are not biases and do not belong to a normalisation."""
        return () if self.normalises else tuple(p for p in self.parameters if not p.endswith("bias"))


def layers_of(module: nn.Module) -> list[Layer]:
    """List the layers in canonical order; a tied parameter belongs to the first module that has it."""
    modules = dict(module.named_modules(remove_duplicate=False))
    owned: dict[str, list[str]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            owned.setdefault(name.rpartition(".")[0], []).append(name)
    return [Layer(name, tuple(names), _normalises(modules[name])) for name, names in owned.items()]


def execution_order(module: nn.Module, x: Fields) -> tuple[list[Layer], list[Layer]]:
    """Run the network on a batch; return its layers in execution order, and those that are not executed.

    A layer is executed when its module, or any other that shares a parameter with it, is called. If a called module
    uses parameters of a submodule that is not called (the output projection of ``nn.MultiheadAttention``), they execute
    with that module, unless it is the network itself. Parallel branches come one after another, as they run. The
    network is left in eval mode, with all its values unchanged.
    """
    called: dict[int, int] = {}

    def note(layer: nn.Module, _: object) -> None:
        called.setdefault(id(layer), len(called))

    hooks = [layer.register_forward_pre_hook(note) for layer in module.modules()]
    try:
        module.eval()
        with torch.enable_grad():  # without gradients, transformer layers take a fused path that calls no submodule
            call(module, x)
    finally:
        for hook in hooks:
            hook.remove()
    placed: list[tuple[int, Layer]] = []
    idle: list[Layer] = []
    positions = _positions(module, called)
    for layer in layers_of(module):
        own = dict(module.named_parameters())
        found = [positions[id(own[name])] for name in layer.parameters if id(own[name]) in positions]
        if found:
            placed.append((min(found), layer))
        else:
            idle.append(layer)
    placed.sort(key=lambda item: item[0])  # a stable sort: layers executed together stay in canonical order
    return [layer for _, layer in placed], idle


def _positions(module: nn.Module, called: dict[int, int]) -> dict[int, int]:
    """Return, by id of parameter, the position at which the first module that uses it was called."""
    positions: dict[int, int] = {}
    for path, holder in module.named_modules(remove_duplicate=False):
        at = called.get(id(holder))
        if at is None:
            at = next((called[id(above)] for above in _above(module, path) if id(above) in called), None)
        if at is None:
            continue
        for parameter in holder.parameters(recurse=False):
            positions[id(parameter)] = min(at, positions.get(id(parameter), at))
    return positions


def _above(module: nn.Module, path: str) -> Iterator[nn.Module]:
    """Yield the modules that contain a module, innermost first, excluding the network itself."""
    while "." in path:
        path = path.rpartition(".")[0]
        yield module.get_submodule(path)


def _normalises(module: nn.Module) -> bool:
    return isinstance(module, _NORMALISATION) or "norm" in type(module).__name__.lower()
