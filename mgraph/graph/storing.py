"""Storing points: tensors, buffers, numbers and row of a node, as part of one transaction."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mgraph.errors import NameTakenError, NonFiniteError
from mgraph.evaluate.metrics import Measured
from mgraph.graph.points import evaluation_rows, module_buffers
from mgraph.graph.session import Bench, Session
from mgraph_store import (
    KERNEL_VERSION,
    Connection,
    Node,
    NodeBuffers,
    NodeTerm,
    Transaction,
    columns,
    new_id,
    validate_name,
)

_LETTERS = {"mode": "m", "control": "c", "pivot": "p", "merged": "g"}


def store_parameters(
    tx: Transaction, bench: Bench, run_id: str, kind: str, rows: Sequence[NDArray[np.float32]], **further: Any
) -> list[Node]:
    """Write points, each of shape (D,), and add a node of one kind for each; ``further`` are columns of its row."""
    if not rows:
        return []
    nodes = [
        Node(
            id=new_id(_LETTERS[kind]),
            kind=kind,
            space_id=bench.space.id,
            run_id=run_id,
            tensor_key=ref.key,
            tensor_row=ref.row,
            digest=ref.digest,
            nbytes=ref.nbytes,
            **further,
        )
        for ref in tx.write_parameters(rows, codec=bench.space.codec)
    ]
    tx.add(*nodes)
    return nodes


def store_partial(
    tx: Transaction,
    bench: Bench,
    run_id: str,
    kind: str,
    rows: Sequence[NDArray[np.float32]],
    ranges: columns.Ranges,
    recipes: Sequence[Sequence[tuple[str, float]]],
) -> list[Node]:
    """Write only the columns in ``ranges`` of points, each of shape (D,); recipes give the others.

    A recipe is the terms (id of a node with tensors, coefficient) of the point before those columns were changed.
    """
    nodes = store_parameters(
        tx,
        bench,
        run_id,
        kind,
        [columns.take(row, ranges) for row in rows],
        columns=columns.to_json(ranges),
        kernel=KERNEL_VERSION,
    )
    for node, terms in zip(nodes, recipes, strict=True):
        tx.add(*[NodeTerm(node.id, i, source, c) for i, (source, c) in enumerate(terms)])
    return nodes


def store_point(
    tx: Transaction,
    bench: Bench,
    run_id: str,
    kind: str,
    parameters: NDArray[np.float32],
    results: Mapping[str, Mapping[str, Measured]],
    *,
    buffers: str,
    measured_with: str,
    info: Mapping[str, Any],
    **further: Any,
) -> Node:
    """Store a point with the buffers that the network holds now and the numbers measured with them.

    ``buffers`` names the policy that the buffers are stored under, ``measured_with`` that of the numbers.
    """
    further["info"] = json.dumps(info, sort_keys=True)
    (node,) = store_parameters(tx, bench, run_id, kind, [parameters], **further)
    groups = module_buffers(bench.flat, bench.layout)
    if groups:
        ref = tx.write_buffers(groups, codec=bench.space.codec)
        tx.add(NodeBuffers(node.id, buffers, ref.key, ref.digest, ref.nbytes))
    tx.add(*evaluation_rows(node.id, run_id, results, batchnorm=measured_with))
    return node


def check_name_is_free(session: Session, name: str | None) -> None:
    """Refuse a bad or a taken name before any work is done."""
    if name is None:
        return
    validate_name(name)
    with session.store.reading() as reader:
        taken: list[Node | Connection] = [*reader.all(Node, name=name), *reader.all(Connection, name=name)]
    if taken:
        raise NameTakenError(f"The name {name} belongs to {taken[0].kind} {taken[0].id}; choose another.")


def require_finite(results: Mapping[str, Mapping[str, Measured]], what: str) -> None:
    """Raise NonFiniteError at the first number that is none."""
    for split, metrics in results.items():
        for metric, m in metrics.items():
            if not np.isfinite(m.value):
                raise NonFiniteError(f"{what} has a {split} {metric} of {m.value}; it was not stored.")
