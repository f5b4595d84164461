"""Archiving: copies of points with rounded parameters, and measurements of what the rounding changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import override

from mgraph.alone import alone
from mgraph.errors import InputError, NonFiniteError
from mgraph.evaluate.metrics import Measured
from mgraph.jobs.points import ArchiveJob
from mgraph.notebook import InNotebook
from mgraph.progress import ProgressCallback, silent
from mgraph.session.members import label, still_there
from mgraph.session.points import evaluate_splits, load_node, policy_name
from mgraph.session.policies import policy_for
from mgraph.session.session import Session
from mgraph.session.storing import MeasuredPoint, check_name_is_free, require_finite, store_point
from mgraph.session.workspace import Workspace
from mgraph_store import Node, NodeBuffers, Run

CODEC = "blosc"  # it compresses the zeros at the end of every number best
_BITS = {"bf16": 7}
_MANTISSA = 23  # stored bits of a float32's mantissa


@dataclass(frozen=True)
class Archived(InNotebook):
    """An archived copy: its node, the numbers of the original and of the copy, and bytes on disk.

    ``before`` and ``after`` were measured in the same run with the same statistics, by split and metric.
    """

    node: Node
    before: Mapping[str, Mapping[str, Measured]]
    after: Mapping[str, Mapping[str, Measured]]
    raw_bytes: int
    stored_bytes: int

    @override
    def _shown(self) -> dict[str, Any]:
        return {"node": self.node.name or self.node.id, "changes": self.changes()}

    def changes(self) -> list[dict[str, Any]]:
        """List what the rounding changed: one row for each split and metric."""
        return [
            {"split": split, "metric": metric, "before": was.value, "after": now.value, "change": now.value - was.value}
            for split, metrics in self.before.items()
            for metric, was in metrics.items()
            for now in [self.after[split][metric]]
        ]


def kept_bits(rounding: str) -> int:
    """Return how many bits of the mantissa a rounding keeps: bf16 (7), or bitround:N, N from 1 to 22.

    Raises InputError for anything else.
    """
    name, _, bits = rounding.partition(":")
    if rounding in _BITS:
        return _BITS[rounding]
    if name == "bitround" and bits.isdecimal() and 1 <= int(bits) < _MANTISSA:
        return int(bits)
    raise InputError(f"A rounding is bf16 or bitround:N with N from 1 to {_MANTISSA - 1} bits, not {rounding!r}.")


def rounded(parameters: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    """Round every number to ``bits`` of its mantissa, ties to even; NonFiniteError if the largest overflow."""
    from numcodecs.bitround import BitRound

    result: NDArray[np.float32] = BitRound(keepbits=bits).encode(parameters).view(np.float32)
    if not np.isfinite(result).all():
        raise NonFiniteError("A parameter is too large to be rounded: it would become infinite.")
    return result


@alone
def archive(
    session: Session, job: ArchiveJob, *, progress: ProgressCallback = silent, resumed: Run | None = None
) -> Archived:
    """Store a copy of a node with rounded parameters, compressed, and the numbers of both.

    Buffers, including BatchNorm statistics, are copied as they are. The original stays; remove it to free its space.
    Raises InputError for an unknown rounding, and NonFiniteError, storing nothing, if the copy's parameters or numbers
    are not finite. An interrupted run starts again.
    """
    del progress  # it is short
    rounding, bits = job.rounding, kept_bits(job.rounding)
    with session.store.reading() as reader:
        node = still_there(reader, Node, job.node, resumed)
    check_name_is_free(session, job.name)
    workspace = load_node(session, node)
    with session.run(workspace, "archive", {"node": node.id, "rounding": rounding}, job=job, resumed=resumed) as run:
        before = evaluate_splits(workspace)
        parameters = rounded(session.store.read_parameters(node), bits)
        workspace.flat.theta.copy_(workspace.flat.pack(torch.from_numpy(parameters)))
        after = evaluate_splits(workspace)
        require_finite(after, f"The rounded copy of {label(node)}")
        policy = _policy(session, workspace, node)
        archived = Archived(node, before, after, parameters.nbytes, 0)
        info = {
            "origin": "archive",
            "of": node.id,
            "lossy": f"{rounding}: {bits} of {_MANTISSA} bits of every parameter's mantissa",
            "changed": {f"{row['split']}_{row['metric']}": row["change"] for row in archived.changes()},
        }
        with session.store.transaction() as tx:
            copy = store_point(
                tx,
                workspace,
                run.id,
                node.kind if node.kind in ("mode", "merged") else "merged",
                MeasuredPoint(parameters, after, policy, policy),
                info=info,
                codec=CODEC,
                name=job.name,
            )
            run.complete(tx)
    assert copy.tensor_key is not None
    return Archived(copy, before, after, parameters.nbytes, session.store.tensor_store.size(copy.tensor_key))


def _policy(session: Session, workspace: Workspace, node: Node) -> str:
    """Name the BatchNorm policy of the statistics that :func:`load_node` has loaded or recomputed."""
    with session.store.reading() as reader:
        rows = reader.all(NodeBuffers, node_id=node.id)
    return policy_name(workspace, rows[0].policy if rows else policy_for(session, workspace, [node]))
