"""Store points: the tensors, buffers, numbers and row of a node, as part of one transaction."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mgraph.errors import NameTakenError, NonFiniteError
from mgraph.evaluate.metrics import LOSS, Measured
from mgraph.session.points import evaluation_rows, module_buffers
from mgraph.session.session import Session
from mgraph.session.workspace import Workspace
from mgraph_store import (
    KERNEL_VERSION,
    Connection,
    Layout,
    Node,
    NodeBuffers,
    NodeTerm,
    Transaction,
    columns,
    new_id,
    validate_name,
)

_LEAST_SHARED = 0.1  # fraction of the coordinates; a recipe for fewer costs more than it saves
_LETTERS = {"mode": "m", "control": "c", "pivot": "p", "merged": "g"}


def store_parameters(
    tx: Transaction, workspace: Workspace, run_id: str, kind: str, rows: Sequence[NDArray[np.float32]], **further: Any
) -> list[Node]:
    """Write points, each of shape (D,), and add a node of one kind for each; ``further`` are columns of its row."""
    return store_partial(tx, workspace, run_id, kind, [Part(row) for row in rows], **further)


@dataclass(frozen=True)
class Part:
    """The part of a point of shape (D,) that is stored: the columns in ``ranges`` (None: all); a recipe gives the rest.

    The recipe consists of the terms (id of a node with tensors, coefficient) of a point with the same other columns.
    """

    point: NDArray[np.float32]
    ranges: columns.Ranges | None = None
    recipe: Sequence[tuple[str, float]] = ()

    @classmethod
    def unlike(
        cls, layout: Layout, point: NDArray[np.float32], sources: Sequence[tuple[str, NDArray[np.float32]]]
    ) -> Part:
        """Leave out the tensors that one of the sources (id of a node, its point) has bit for bit, if worthwhile."""
        best = cls(point)
        left = (1.0 - _LEAST_SHARED) * len(point)
        mine = layout.parameter_views(point.view(np.uint32))
        for node_id, other in sources:
            theirs = layout.parameter_views(other.view(np.uint32))
            differing = [name for name in mine if not np.array_equal(mine[name], theirs[name])]
            own = layout.columns(differing) if differing else ()
            if own and columns.count(own) <= left:
                best, left = cls(point, own, [(node_id, 1.0)]), columns.count(own) - 1
        return best


def store_partial(
    tx: Transaction,
    workspace: Workspace,
    run_id: str,
    kind: str,
    parts: Sequence[Part],
    *,
    codec: str | None = None,
    **further: Any,
) -> list[Node]:
    """Write points, whole or in part, and add a node of one kind for each; ``further`` are columns of its row.

    ``codec`` overrides that of the space.
    """
    if not parts:
        return []
    rows = [p.point if p.ranges is None else columns.take(p.point, p.ranges) for p in parts]
    refs = tx.write_parameters(
        rows, codec=codec or workspace.space.codec, layout=workspace.layout, ranges=[p.ranges for p in parts]
    )
    nodes = [
        Node(
            id=new_id(_LETTERS[kind]),
            kind=kind,
            space_id=workspace.space.id,
            run_id=run_id,
            tensor_key=ref.key,
            tensor_row=ref.row,
            digest=ref.digest,
            nbytes=ref.nbytes,
            columns=None if part.ranges is None else columns.to_json(part.ranges),
            kernel=None if part.ranges is None else KERNEL_VERSION,
            **further,
        )
        for part, ref in zip(parts, refs, strict=True)
    ]
    tx.add(*nodes)
    for node, part in zip(nodes, parts, strict=True):
        tx.add(*[NodeTerm(node.id, i, source, c) for i, (source, c) in enumerate(part.recipe)])
    return nodes


@dataclass(frozen=True)
class MeasuredPoint:
    """A point of shape (D,) and its numbers, split → metric → value.

    ``buffers`` names the policy under which the buffers are stored, ``measured_with`` that of the numbers.
    """

    parameters: NDArray[np.float32]
    results: Mapping[str, Mapping[str, Measured]]
    buffers: str
    measured_with: str


def store_point(
    tx: Transaction,
    workspace: Workspace,
    run_id: str,
    kind: str,
    point: MeasuredPoint,
    *,
    info: Mapping[str, Any],
    codec: str | None = None,
    **further: Any,
) -> Node:
    """Store a point with the buffers that the network holds now and the numbers measured with them.

    ``codec`` overrides that of the space; ``further`` are columns of its row.
    """
    further["info"] = json.dumps(info, sort_keys=True)
    (node,) = store_parameters(tx, workspace, run_id, kind, [point.parameters], codec=codec, **further)
    groups = module_buffers(workspace.flat, workspace.layout)
    if groups:
        ref = tx.write_buffers(groups, codec=workspace.space.codec, layout=workspace.layout)
        tx.add(NodeBuffers(node.id, point.buffers, ref.key, ref.digest, ref.nbytes))
    tx.add(*evaluation_rows(node.id, run_id, point.results, batchnorm=point.measured_with))
    return node


def check_name_is_free(session: Session, name: str | None) -> None:
    """Refuse an invalid or taken name before any work is done."""
    if name is None:
        return
    validate_name(name)
    with session.store.reading() as reader:
        taken: list[Node | Connection] = [*reader.all(Node, name=name), *reader.all(Connection, name=name)]
    if taken:
        raise NameTakenError(f"The name {name} belongs to {taken[0].kind} {taken[0].id}; choose another.")


def require_finite(results: Mapping[str, Mapping[str, Measured]], what: str) -> None:
    """Raise NonFiniteError at the first loss that is not finite; other metrics may be NaN."""
    for split, metrics in results.items():
        if not np.isfinite(metrics[LOSS].value):
            raise NonFiniteError(f"{what} has a {split} loss of {metrics[LOSS].value}; it was not stored.")
