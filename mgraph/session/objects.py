"""Python objects instead of specs: what a notebook passes to ``create``, ``add_space`` and ``open``."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from mgraph import captured, live
from mgraph.data.making import make_task
from mgraph.data.task import Task
from mgraph.errors import InputError
from mgraph.network.layout import layout_of
from mgraph.session.meeting import NetworkWarning
from mgraph.sources import digest
from mgraph_store import GraphStore, Space


def arch_spec(arch: Any, graph: Path) -> str:
    """Return the spec of an architecture: a string as it is, a function or class by name or source, a module as itself.

    Raises InputError for anything else, and for a module whose initial values cannot be redrawn.
    """
    if isinstance(arch, str):
        return arch
    if isinstance(arch, nn.Module):
        return _live_network(arch)
    if callable(arch):
        return captured.spec_of(arch, graph)
    raise InputError(f"An architecture is a spec, a function returning a network, or an nn.Module, not {_kind(arch)}.")


def data_spec(data: Any, graph: Path) -> str:
    """Return the spec of data: a string unchanged, a function by name or source, a Task or dict of arrays as itself."""
    if isinstance(data, str):
        return data
    if isinstance(data, Mapping):
        unknown = [key for key in data if not isinstance(key, str)]
        if unknown or "train" not in data:
            raise InputError("Data given as a dict are what make_task takes: train=(x, y), test=(x, y), ….")
        data = make_task(**data)
    if isinstance(data, Task):
        return live.remember(data.fingerprint.replace("-", ""), data)
    if callable(data):
        return captured.spec_of(data, graph)
    raise InputError(f"Data are a spec, a function, a Task, or a dict as make_task takes it, not {_kind(data)}.")


def loss_spec(loss: Any, graph: Path) -> str:
    """Return the spec of a loss: a string as it is, a function by name or source."""
    return loss if isinstance(loss, str) else captured.spec_of(loss, graph)


def given_again(store: GraphStore, arch: Any, data: Any) -> None:
    """Accept a network and data with which a graph was made; raise InputError if no space was made with them."""
    with store.reading() as reader:
        spaces = reader.all(Space)
    for role, thing, spec_of in (("arch", arch, arch_spec), ("data", data, data_spec)):
        if thing is None:
            continue
        if isinstance(thing, str) or (callable(thing) and not isinstance(thing, nn.Module)):
            raise InputError(
                f"Give {role} again only if it was a module, a Task or a dict; the graph has what a name or source "
                f"stands for. If it has moved, use `mgraph relocate`."
            )
        spec = spec_of(thing, store.path)
        if spec not in {getattr(space, role) for space in spaces}:
            known = ", ".join(f"{space.name} ({getattr(space, role)})" for space in spaces)
            raise InputError(f"No space of {store.path} was made with this {role}, which is {spec}; there are {known}.")


def drawn_anew(module: nn.Module) -> nn.Module:
    """Copy a network and redraw its initial values by the layers' own ``reset_parameters``, from torch's generator."""
    fresh = copy.deepcopy(module)
    for part in fresh.modules():
        draw = _draw(part)
        if draw is not None:
            draw()
    return fresh


def _live_network(module: nn.Module) -> str:
    fixed = [
        f"{name}.{key}" if name else key
        for name, part in module.named_modules()
        if _draw(part) is None
        for key, parameter in part.named_parameters(recurse=False)
        if parameter.requires_grad
    ]
    if fixed:
        raise InputError(
            f"How to draw initial values of {fixed[0]} is not known, as its module has no reset_parameters(); give a "
            f"function that builds the network, or the class, in place of the module."
        )
    warnings.warn(
        "Networks are built from the given module by drawing its parameters with the layers' own reset_parameters(): "
        "initial values that your code sets in another way are lost. Give a function that builds the network to keep "
        "them.",
        NetworkWarning,
        stacklevel=5,
    )
    kept = copy.deepcopy(module)
    text = "\n".join((repr(module), layout_of(module).to_json()))
    return live.remember(digest(text.encode()), partial(drawn_anew, kept))


def _draw(part: nn.Module) -> Callable[[], Any] | None:
    found = getattr(part, "reset_parameters", None) or getattr(part, "_reset_parameters", None)
    return found if callable(found) else None


def _kind(thing: Any) -> str:
    return f"a {type(thing).__name__}"
