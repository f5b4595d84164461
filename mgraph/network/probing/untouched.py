"""A block that leaves a network and every random state as they were, whatever a forward pass did."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@contextmanager
def untouched(*modules: nn.Module) -> Iterator[None]:
    """Restore the networks' tensors, attributes, submodules and modes, and the global random states, after the block.

    Attributes are restored as objects; tensors, lists, dicts, sets, arrays and random generators among them also regain
    their contents.
    """
    kept = [_Kept(part) for module in modules for part in module.modules()]
    with random_states(*modules):
        try:
            yield
        finally:
            for one in kept:
                one.restore()


@contextmanager
def random_states(*modules: nn.Module) -> Iterator[None]:
    """Restore the random states of torch (also on the modules' device), NumPy and Python after the block."""
    devices = {tensor.device for module in modules for tensor in module.parameters()}
    numpys, pythons = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices=[d for d in devices if d.type == "cuda"]):
            yield
    finally:
        np.random.set_state(numpys)
        random.setstate(pythons)


def seed_all(seed: int) -> None:
    """Seed the global generators of torch, NumPy and Python."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


_REGISTRIES = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")


class _Kept:
    """The state of one module, without that of its submodules."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._attributes = dict(module.__dict__)
        self._registries = {name: module.__dict__[name].copy() for name in _REGISTRIES}
        values = [*self._attributes.values(), *module._buffers.values(), *module._parameters.values()]
        self._contents = [kept for value in values if (kept := _contents(value)) is not None]

    def restore(self) -> None:
        self._module.__dict__.clear()
        self._module.__dict__.update(self._attributes)
        for name, before in self._registries.items():
            registry = self._module.__dict__[name]
            registry.clear()
            registry.update(before)
        for value, state in self._contents:
            _give_back(value, state)


def _contents(value: Any) -> tuple[Any, Any] | None:
    """Copy what an attribute holds, if that can change in place."""
    if isinstance(value, Tensor):
        return (value, value.detach().clone()) if value.layout == torch.strided and not value.is_meta else None
    if isinstance(value, np.ndarray | list | dict | set | deque):
        return value, value.copy()
    if isinstance(value, torch.Generator):
        return value, value.get_state()
    if isinstance(value, np.random.Generator):
        return value, value.bit_generator.state
    if isinstance(value, random.Random):
        return value, value.getstate()
    return None


@torch.no_grad()
def _give_back(value: Any, state: Any) -> None:
    if isinstance(value, Tensor):
        if value.shape == state.shape and not _same_bits(value, state):  # autograd counts any write as a change
            value.copy_(state)
    elif isinstance(value, np.ndarray):
        np.copyto(value, state)
    elif isinstance(value, list):
        value[:] = state
    elif isinstance(value, dict | set):
        value.clear()
        value.update(state)
    elif isinstance(value, deque):
        value.clear()
        value.extend(state)
    elif isinstance(value, torch.Generator):
        value.set_state(state)
    elif isinstance(value, np.random.Generator):
        value.bit_generator.state = state
    elif isinstance(value, random.Random):
        value.setstate(state)


def _same_bits(a: Tensor, b: Tensor) -> bool:
    # NaN differs from itself and is written back needlessly, which does no harm
    return a.dtype == b.dtype and torch.equal(a, b)
