"""Buffers and frozen parameters: they are not coordinates, so they must be the same in all ends of a connection.

Those determined by the point (running statistics that are recomputed, the vectors of spectral normalisation) may
differ. All others are part of what a mode computes, and a path has no value for them in between.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from mgraph.calling import call
from mgraph.errors import InputError, MGraphWarning
from mgraph.network.probing.traces import all_close, largest_difference
from mgraph.session.meeting import first_examples
from mgraph.session.members import label
from mgraph.session.points import load_buffers
from mgraph_store import Node

if TYPE_CHECKING:
    from mgraph.network.flat import FlatModel
    from mgraph.session.session import Session
    from mgraph.session.workspace import Workspace
    from mgraph_store import Layout
    from mgraph_store.rows.layout import TensorSpec

Groups = Mapping[str, NDArray[Any]]


class BuffersWarning(MGraphWarning):
    """A mode is connected with buffers that are not its own, and computes something else with them."""


def differing_constant(
    layout: Layout, groups: Sequence[Groups], constants: Collection[str]
) -> tuple[TensorSpec, int] | None:
    """Find the first of these tensors that is not bit for bit the same everywhere, and the first place where it
    differs."""
    first = layout.buffer_views(groups[0])
    for number, other in enumerate(groups[1:], start=1):
        views = layout.buffer_views(other)
        for t in layout.buffers:
            if t.name in constants and first[t.name].tobytes() != views[t.name].tobytes():
                return t, number
    return None


def constants_of(layout: Layout) -> set[str]:
    """Say by names and roles alone what must agree; the network itself knows better (:attr:`FlatModel.constants`)."""
    names = {t.name for t in layout.buffers if t.role != "statistic"}
    return {name for name in names if not _is_spectral(name, layout)}


def check_pieces(layout: Layout, groups: Sequence[Groups], names: Sequence[str]) -> None:
    """Raise InputError, naming the tensor, unless the pieces of a path have the same constants."""
    found = differing_constant(layout, groups, constants_of(layout))
    if found:
        t, number = found
        raise InputError(
            f"The {t.role} {t.name} differs between {names[0]} and {names[number]}, whose buffers hold along the "
            f"pieces; it is not a coordinate of a path, so the pieces do not make one."
        )


def check_constants(
    session: Session, workspace: Workspace, ends: Sequence[Node], groups: Sequence[Groups], buffers_from: Node | None
) -> None:
    """Raise InputError, naming the first constant that differs between the ends, unless it is given whose to use.

    In that case it checks whether the other ends compute the same with those, and a BuffersWarning says which do not.
    The advice to use one end's is given only if the outputs agree.
    """
    found = differing_constant(workspace.layout, groups, workspace.flat.constants)
    if found is None:
        return
    t, number = found
    what = "running statistic" if t.role == "statistic" else t.role
    if buffers_from is None:
        said = (
            f"The {what} {t.name} differs between {label(ends[0])} and {label(ends[number])}; it is not a coordinate "
            f"of a path, so it must be the same in all ends."
        )
        changed = _changed(session, workspace, ends, groups, groups[0])
        if changed:
            node, difference = changed[0]
            raise InputError(
                f"{said} It is part of what they compute: with the buffers of {label(ends[0])} the outputs of "
                f"{label(node)} change by up to {difference:.2g}. Only modes that share it can be connected, such as "
                f"those trained with the same {t.name}."
            )
        raise InputError(
            f"{said} The outputs are the same with either: say whose to use with --buffers-from {label(ends[0])}."
        )
    chosen = groups[[n.id for n in ends].index(buffers_from.id)]
    for node, difference in _changed(session, workspace, ends, groups, chosen):
        warnings.warn(
            f"With the buffers of {label(buffers_from)} (first {t.name}), {label(node)} is another function: its "
            f"outputs change by up to {difference:.2g}, and its numbers on the path are not those it has on its own.",
            BuffersWarning,
            stacklevel=4,
        )


def _changed(
    session: Session, workspace: Workspace, ends: Sequence[Node], groups: Sequence[Groups], chosen: Groups
) -> list[tuple[Node, float]]:
    """Return the ends whose outputs on a few examples change with these constants, and by how much."""
    constants = workspace.flat.constants
    theirs = workspace.layout.buffer_views(chosen)
    found = []
    for node, own in zip(ends, groups, strict=True):
        mixed = workspace.layout.buffer_views(own) | {name: theirs[name] for name in theirs if name in constants}
        workspace.flat.theta.copy_(workspace.flat.pack(torch.from_numpy(np.array(session.store.read_parameters(node)))))
        load_buffers(workspace, own)
        before = few_outputs(workspace)
        load_buffers(workspace, workspace.layout.pack_buffers(mixed))
        after = few_outputs(workspace)
        if not all_close(before, after):
            found.append((node, largest_difference(before, after)))
    return found


@torch.no_grad()
def few_outputs(workspace: Workspace, flat: FlatModel | None = None) -> Any:
    """Return the outputs of the workspace's network, or another one, on a few training examples, at its present
    point."""
    flat = workspace.flat if flat is None else flat
    x, _ = first_examples(workspace.task, flat.device)
    flat.module.eval()
    return call(flat.module, flat.inputs(x))


def _is_spectral(name: str, layout: Layout) -> bool:
    """Recognise a vector of spectral normalisation by its name and its neighbours'."""
    names = {t.name for t in layout.tensors}
    new = re.fullmatch(r"(.*parametrizations\.[^.]+)\.\d+\._[uv]", name)
    old = re.fullmatch(r"(.*)_[uv]", name)
    return bool((new and f"{new[1]}.original" in names) or (old and f"{old[1]}_orig" in names))
