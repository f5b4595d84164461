"""Align modes: permute the units of one mode to bring its weights close to another's, and store the result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mgraph.align.matching import match
from mgraph.align.rules import UntraceableError
from mgraph.align.symmetry import Symmetry
from mgraph.align.trace import trace
from mgraph.alone import alone
from mgraph.data.task import Task
from mgraph.errors import InputError
from mgraph.evaluate.batchnorm import OWN
from mgraph.fields import Fields, copied, numbers_in
from mgraph.jobs.modes import ALIGNED, AlignJob
from mgraph.network.flat import FlatModel
from mgraph.network.probing.traces import tensors_in
from mgraph.operations.export import further_states
from mgraph.progress import ProgressCallback, silent
from mgraph.session.meeting import first_examples
from mgraph.session.members import label
from mgraph.session.points import evaluate_splits, load_buffers, load_node, module_buffers, own_policy
from mgraph.session.session import Session
from mgraph.session.storing import MeasuredPoint, check_name_is_free, require_finite, store_point
from mgraph.session.workspace import Workspace
from mgraph_store import Layout, Node, Space

EQUAL = 1e-5
"""How much outputs may change, relative to the largest of them if that exceeds 1."""

_BATCH = 64
_MOST = 1 << 20  # most numbers in a batch of inputs


@alone
def align(session: Session, job: AlignJob, *, progress: ProgressCallback = silent) -> Node:
    """Permute the units of a node so that it comes close to another, and store the result as a mode, with its numbers.

    The groups of units that may be permuted are found by tracing the network (:mod:`mgraph.align.trace`);
    :mod:`mgraph.align.matching` chooses the permutation. Running statistics move with their units. Before anything is
    stored, the outputs on a batch are compared: they must agree within 1e-5.

    Raises InputError for a node given twice, nodes of different spaces, and a network that cannot be traced, naming the
    operation.
    """
    with session.store.reading() as reader:
        node, target = (reader.get(Node, id=identifier) for identifier in (job.node, job.to))
    check_name_is_free(session, job.name)
    workspace = session.workspace(common_space(session, node, target))
    symmetry = symmetry_of(workspace)
    stated = {"node": node.id, "to": target.id, "restarts": job.restarts}
    with session.run(workspace, "align", stated, job.seed, job=job) as run:
        layout, flat = workspace.layout, workspace.flat
        load_node(session, node)
        x = _batch(workspace.task, flat)
        before = _outputs(flat, x)
        buffers = module_buffers(flat, layout)
        parameters, theirs = (np.asarray(session.store.read_parameters(one)) for one in (node, target))
        views = layout.parameter_views(parameters)
        found = match(
            symmetry,
            views,
            layout.parameter_views(theirs),
            restarts=job.restarts,
            seed=job.seed,
            progress=progress,
        )
        moved = layout.pack_parameters(symmetry.apply(views, found.chosen))
        _load(workspace, moved, symmetry.apply(layout.buffer_views(buffers), found.chosen))
        difference = _difference(before, _outputs(flat, x))
        if not difference <= EQUAL:
            raise InputError(
                f"{label(node)} was not aligned: with the permutation found its outputs change by {difference:.2g}, "
                f"more than {EQUAL:g}, so the order of its units means something that its operations do not show."
            )
        results = evaluate_splits(workspace)
        require_finite(results, "The aligned mode")
        info = {
            "origin": ALIGNED,
            "of": node.id,
            "to": target.id,
            "groups": len(symmetry.free),
            "distance_before": float(np.linalg.norm(parameters - theirs)),
            "distance_after": float(np.linalg.norm(moved - theirs)),
            "largest_difference": difference,
        }
        policy = own_policy(workspace)
        with session.store.transaction() as tx:
            made = store_point(
                tx,
                workspace,
                run.id,
                "mode",
                MeasuredPoint(moved, results, OWN, policy),
                info=info | further_states(flat.module),
                name=job.name,
            )
            run.complete(tx)
    return made


def symmetry_of(workspace: Workspace) -> Symmetry:
    """Return the permutations of a space's network that change no output.

    Buffers and frozen parameters that are the same in all modes keep their order. Raises InputError, naming the
    operation, for a network that cannot be traced, and for one without units that may be permuted.
    """
    space = workspace.space
    x, _ = first_examples(workspace.task)
    module = workspace.new_module(seed=0)
    try:
        found = trace(module, x, outputs=workspace.task.outputs, pinned=workspace.flat.constants)
    except UntraceableError as error:
        raise InputError(
            f"The network {space.arch} of space {space.name} cannot be aligned: {error}; connect its modes by a method "
            "that trains a path, such as a curve."
        ) from None
    if not found.free:
        raise InputError(
            f"The network {space.arch} of space {space.name} has no units that could change places, so its modes "
            "cannot be aligned; connect them as they are."
        )
    return found


def common_space(session: Session, node: Node, target: Node) -> Space:
    """Return the space in which a node can be aligned to another; InputError, saying why, if it cannot."""
    if node.id == target.id:
        raise InputError(f"{label(node)} cannot be aligned to itself; name another mode.")
    for one in (node, target):
        if one.kind not in ("mode", "merged"):
            raise InputError(f"{label(one)} is a {one.kind}; only modes and merged nodes can be aligned.")
    with session.store.reading() as reader:
        first, second = (reader.get(Space, id=one.space_id) for one in (node, target))
    if first.id != second.id:
        difference = Layout.from_json(first.layout).first_difference(Layout.from_json(second.layout))
        why = f": {difference}" if difference else ", on other data or with another loss"
        raise InputError(
            f"{label(node)} (space {first.name}) and {label(target)} (space {second.name}) are of different "
            f"spaces{why}; only nodes of one space can be aligned."
        )
    return first


def _batch(task: Task, flat: FlatModel) -> Fields:
    """Return the training inputs on which outputs are compared."""
    count = max(8, min(_BATCH, _MOST // max(1, numbers_in(task.input_shape))))
    x, _ = task.train.examples(torch.tensor(task.typical(min(count, len(task.train)))), device=flat.device)
    return x


def _outputs(flat: FlatModel, x: Fields) -> list[Tensor]:
    flat.module.eval()
    with torch.no_grad():
        return [t.detach().double().cpu() for t in tensors_in(flat.run(copied(x)))]


def _difference(before: list[Tensor], after: list[Tensor]) -> float:
    """Return the largest difference, relative to the largest output if that exceeds 1."""
    largest = max([1.0, *(float(t.abs().max()) for t in before if t.numel())])
    differences = [float((a - b).abs().max()) for a, b in zip(before, after, strict=True) if a.numel()]
    return max(differences, default=0.0) / largest


def _load(workspace: Workspace, parameters: NDArray[np.float32], buffers: Mapping[str, NDArray[Any]]) -> None:
    workspace.flat.theta.copy_(workspace.flat.pack(torch.from_numpy(parameters)))
    if buffers:
        load_buffers(workspace, workspace.layout.pack_buffers(buffers))
