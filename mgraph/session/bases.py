"""The frozen base of a space of adapters: its identity is recorded with the space, and checked whenever it is read.

Its tensors are in the graph only once: they are among the buffers of every mode, and equal buffers share one object. So
a bundle of adapters contains their base. Building the network still needs the base's directory.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mgraph.architectures.loading import base_hash
from mgraph.errors import InputError
from mgraph.factories import path_in
from mgraph.specs import Spec

if TYPE_CHECKING:
    from torch import nn

    from mgraph_store import Space

_KIND = "base"


def base_entry(arch: str, module: nn.Module, graph: Path) -> dict[str, Any]:
    """Return what a space records about a new network's base, as an entry by its spec; empty without a base."""
    found = base_hash(arch, module, graph)
    return {} if found is None else {arch: {"kind": _KIND, "path": path_in(Spec.parse(arch)), "hash": found}}


def base_of(space: Space) -> str | None:
    """Return the hash of the base with which a space was made; None if it has none."""
    entry = json.loads(space.factories).get(space.arch, {})
    return entry.get("hash") if entry.get("kind") == _KIND else None


def require_base(space: Space, module: nn.Module, graph: Path) -> None:
    """Raise InputError if the base in the directory of a space's spec is not the one with which the space was made."""
    was = base_of(space)
    if was is not None and base_hash(space.arch, module, graph) != was:
        raise InputError(
            f"The base of {space.arch}, or an adapter's settings there, is not what space {space.name} was made with: "
            f"its adapters would compute something else. Restore it, or add a new space."
        )
