"""The frozen base of a space of adapters: what it is, is recorded with the space, and looked at whenever it is read.

Its tensors are in the graph, once: they are among the buffers of every mode, and equal buffers share one object. So a
bundle of adapters holds their base. Building the network still takes its directory.
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
    """Return what a space records of a network just built, as an entry by its spec; nothing if it has no base."""
    found = base_hash(arch, module, graph)
    return {} if found is None else {arch: {"kind": _KIND, "path": path_in(Spec.parse(arch)), "hash": found}}


def base_of(space: Space) -> str | None:
    """Return the hash of the base that a space was made with; None if it has none."""
    entry = json.loads(space.factories).get(space.arch, {})
    return entry.get("hash") if entry.get("kind") == _KIND else None


def require_base(space: Space, module: nn.Module, graph: Path) -> None:
    """Raise InputError if the base in the directory of a space's spec is not the one that the space was made with."""
    was = base_of(space)
    if was is not None and base_hash(space.arch, module, graph) != was:
        raise InputError(
            f"The base of {space.arch}, or an adapter's settings there, is not what space {space.name} was made with: "
            f"its adapters would compute something else. Restore it, or add a new space."
        )
