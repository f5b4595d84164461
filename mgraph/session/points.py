"""Points of a space: loading a node into the network, and extracting one from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mgraph.errors import LayoutMismatchError
from mgraph.evaluate.batchnorm import FROZEN, NONE, OWN, SPECTRAL, recompute_statistics
from mgraph.evaluate.metrics import SPLITS, Measured, measure
from mgraph.network.layout import tensors_from_module
from mgraph.session.code import warn_of_other_code
from mgraph.session.members import constants_source, label
from mgraph.session.policies import policy_for
from mgraph_store import Connection, Evaluation, Layout, Member, Node, NodeBuffers, Space
from mgraph_store.values import buffers_in

if TYPE_CHECKING:
    from mgraph.evaluate.batchnorm import BatchNormPolicy
    from mgraph.network.flat import FlatModel
    from mgraph.session.session import Session
    from mgraph.session.workspace import Workspace
    from mgraph_store import GraphStore, Reader

Array = NDArray[np.float32]


def module_buffers(flat: FlatModel, layout: Layout) -> dict[str, NDArray[Any]]:
    """Copy everything of the network that is not a coordinate, grouped by stored dtype."""
    return layout.pack_buffers(tensors_from_module(flat.module, layout.buffers))


def load_buffers(workspace: Workspace, groups: Mapping[str, NDArray[Any]], flat: FlatModel | None = None) -> None:
    """Copy stored buffers (all roles) into the workspace's network, or another one of its space."""
    views = workspace.layout.buffer_views(groups)
    (workspace.flat if flat is None else flat).load_buffers(
        {name: torch.from_numpy(np.array(view)) for name, view in views.items()}
    )


def buffers_of(store: GraphStore, reader: Reader, node: Node) -> dict[str, NDArray[Any]]:
    """Read a node's buffers: its own, or those recomputed for it; empty if it has none."""
    rows = reader.all(NodeBuffers, node_id=node.id)
    return buffers_in(store, rows[0]) if rows else {}


def load_node(session: Session, node: Node) -> Workspace:
    """Load a node with its buffers into its workspace's network, ready to be evaluated, and return the workspace.

    A node without stored buffers (a sample, a control point) borrows the constants of its connection, and its
    BatchNorm statistics are recomputed by the default policy for it (:func:`~mgraph.session.policies.policy_for`).
    """
    store = session.store
    with store.reading() as reader:
        workspace = session.workspace(reader.get(Space, id=node.space_id))
        own = groups = buffers_of(store, reader, node)
        if workspace.layout.buffers and not own:
            groups = buffers_of(store, reader, lender_of(reader, node))
    parameters = store.read_parameters(node)
    workspace.flat.theta.copy_(workspace.flat.pack(torch.from_numpy(np.array(parameters))))
    if groups:
        load_buffers(workspace, groups)
    if workspace.flat.recomputes and not own:
        recompute_statistics(workspace.flat, workspace.task.train, policy_for(session, workspace, [node]))
    warn_of_other_code(store, workspace, [node])
    return workspace


def start_at(session: Session, workspace: Workspace, flat: FlatModel, node: Node) -> None:
    """Put a network of the workspace's space at a node, from which it will be trained further.

    The node may belong to another space, on other data, whose network has the same tensors; otherwise raises
    LayoutMismatchError, naming the first tensor that differs. A node without its own buffers (a sample, a control
    point) borrows those of its connection.
    """
    store = session.store
    with store.reading() as reader:
        theirs = reader.get(Space, id=node.space_id)
        difference = workspace.layout.first_difference(Layout.from_json(theirs.layout))
        if difference:
            raise LayoutMismatchError(
                f"{label(node)} is of space {theirs.name}, whose network is not that of {workspace.space.name}: "
                f"{difference}; begin with a node of the same architecture."
            )
        groups = buffers_of(store, reader, node)
        if workspace.layout.buffers and not groups:
            groups = buffers_of(store, reader, lender_of(reader, node))
    flat.theta.copy_(flat.pack(torch.from_numpy(np.array(store.read_parameters(node)))))
    if groups:
        load_buffers(workspace, groups, flat)


def lender_of(reader: Reader, node: Node) -> Node:
    """Return the node whose buffers one without any of its own borrows: that of its connection."""
    member = reader.all(Member, node_id=node.id)[0]
    return constants_source(reader, reader.get(Connection, id=member.connection_id))


def packed_rows(workspace: Workspace, rows: Sequence[Array]) -> list[Tensor]:
    """Arrange K canonical points, each of shape (D,), as rows on the device."""
    return [workspace.flat.pack(torch.from_numpy(np.array(row))) for row in rows]


def evaluate_splits(workspace: Workspace, splits: Sequence[str] = SPLITS) -> dict[str, dict[str, Measured]]:
    """Measure the current point with the statistics that the network holds now."""
    return {split: measure(workspace.flat, workspace.task, split) for split in splits}


def evaluation_rows(
    node_id: str,
    run_id: str,
    results: Mapping[str, Mapping[str, Measured]],
    *,
    batchnorm: str,
    precision: str = "fp32",
    sweep_id: str | None = None,
    subsets: Mapping[str, str] | None = None,
) -> list[Evaluation]:
    """Turn one point's numbers into rows."""
    return [
        Evaluation(
            node_id=node_id,
            sweep_id=sweep_id,
            run_id=run_id,
            split=split,
            subset=(subsets or {}).get(split, "all"),
            batchnorm=batchnorm,
            precision=precision,
            metric=metric,
            value=m.value,
            standard_error=m.standard_error,
            count=m.count,
        )
        for split, metrics in results.items()
        for metric, m in metrics.items()
    ]


def policy_name(workspace: Workspace, policy: BatchNormPolicy | str) -> str:
    """Name a policy for storage, including everything that is determined by the point or kept by the network.

    ``none``: there is nothing of the kind; ``frozen``: the network keeps all its running statistics; ``spectral``: only
    the vectors of spectral normalisation are recomputed. Frozen modules among others are counted:
    ``recompute(…)+frozen(2)``. A name that already has this form is returned unchanged.
    """
    flat = workspace.flat
    frozen = len(flat.habits.frozen)
    if isinstance(policy, str) and (policy != OWN or flat.recomputes):
        return policy
    parts = [str(policy)] if flat.statistics else []
    if frozen:
        parts.append(f"{FROZEN}({frozen})" if flat.statistics else FROZEN)
    if flat.spectral:
        parts.append(SPECTRAL)
    return "+".join(parts) or NONE


def own_policy(workspace: Workspace) -> str:
    """Name the policy of a mode's own statistics."""
    return policy_name(workspace, OWN)
