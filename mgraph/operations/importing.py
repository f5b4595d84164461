"""Import checkpoint files: as modes, and trained curves of the field's reference code as connections."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mgraph.calling import call
from mgraph.errors import InputError, MGraphWarning, TrainedCurveError
from mgraph.evaluate.batchnorm import OWN, recompute_statistics
from mgraph.evaluate.stale import compare_statistics
from mgraph.families import BezierCurveFamily, Family, PolygonalChainFamily
from mgraph.fields import copied
from mgraph.jobs.modes import AddCurveJob
from mgraph.network.checkpoints import (
    Content,
    FittedCheckpoint,
    Options,
    TrainedCurve,
    content_of,
    digest_of,
    find_curve,
    fit_content,
    fit_curve,
    from_adapter,
    read_content,
)
from mgraph.network.probing.traces import tensors_in
from mgraph.progress import ProgressCallback, silent
from mgraph.session.members import label, member_rows
from mgraph.session.points import evaluate_splits, load_buffers, own_policy
from mgraph.session.session import Session
from mgraph.session.storing import MeasuredPoint, Part, check_name_is_free, require_finite, store_partial, store_point
from mgraph.session.workspace import Workspace
from mgraph_store import Connection, Node, Space, new_id

_TRIED = 8  # examples
PYTHON = "python"
"""The origin, in a mode's info, of weights given as a Python object."""


class StaleStatisticsWarning(MGraphWarning):
    """The BatchNorm statistics of an imported mode do not belong to its weights."""


def fit_file(workspace: Workspace, path: Path, options: Options) -> tuple[FittedCheckpoint, dict[str, Any]]:
    """Read a checkpoint for a mode of the workspace's space; return it with the info for its node.

    Raises TrainedCurveError if it holds a trained curve instead, and what :func:`fit_content` raises.
    """
    content = read_content(path)
    return _fit(workspace, content, options, path.name, _of_files(path, content.files))


def fit_object(workspace: Workspace, given: Any, options: Options) -> tuple[FittedCheckpoint, dict[str, Any]]:
    """Fit a module, or a dict of tensors, as a mode of the workspace's space, as :func:`fit_file` does a file."""
    content = content_of(given)
    where = f"The {type(given).__name__}"
    return _fit(workspace, content, options, where, {"origin": PYTHON, "blake2b": digest_of(content)}, given)


def _fit(
    workspace: Workspace, content: Content, options: Options, where: str, origin: dict[str, Any], given: Any = None
) -> tuple[FittedCheckpoint, dict[str, Any]]:
    if options.recompute and not workspace.flat.statistics:
        raise InputError(f"The network of space {workspace.space.name} has no BatchNorm statistics to recompute.")
    content, notes = from_adapter(content, workspace.flat.module, where, given)
    try:
        fitted = fit_content(content, workspace.new_module, workspace.layout, options, where)
    except InputError:
        curve = find_curve(content, workspace.new_module, workspace.layout)
        if curve is None:
            raise
        if not content.files:
            raise InputError(
                f"{where} holds {curve.described}: save it to a file and import that with add_curve."
            ) from None
        raise TrainedCurveError(_curve_found(where, curve), curve.method) from None
    fitted.notes.extend(notes)
    info = origin | {"notes": fitted.notes, "checkpoint": fitted.source}
    if options.recompute:
        info["batchnorm"] = str(workspace.policy())
        fitted.notes.append(f"BatchNorm statistics recomputed from the training data: {info['batchnorm']}")
    _load(workspace, fitted)
    _require_same_function(workspace, fitted)
    return fitted, info


def recompute_own(workspace: Workspace, fitted: FittedCheckpoint) -> None:
    """Recompute the BatchNorm statistics of a fitted checkpoint in the workspace's network, by the default policy."""
    _load(workspace, fitted)
    recompute_statistics(workspace.flat, workspace.task.train, workspace.policy())


def warn_if_stale(workspace: Workspace, node: Node, fitted: FittedCheckpoint) -> None:
    """Warn if a mode does far better with recomputed BatchNorm statistics than with those that came with it."""
    if not workspace.flat.statistics:
        return
    _load(workspace, fitted)
    found = compare_statistics(workspace.flat, workspace.task, workspace.policy())
    _load(workspace, fitted)
    if found is not None and found.stale:
        in_memory = json.loads(node.info)["origin"] == PYTHON
        source, option = ("state dict", "recompute_batchnorm=True") if in_memory else ("file", "--recompute-batchnorm")
        warnings.warn(
            f"{label(node)} has a train loss of {found.own.value:.4g} with the BatchNorm statistics of its {source} "
            f"and of {found.recomputed.value:.4g} with recomputed ones: the {source}'s are stale. Import it again with "
            f"{option} to store recomputed ones.",
            StaleStatisticsWarning,
            stacklevel=4,
        )


def _load(workspace: Workspace, fitted: FittedCheckpoint) -> None:
    workspace.flat.theta.copy_(workspace.flat.pack(torch.from_numpy(fitted.parameters)))
    if fitted.buffers:
        load_buffers(workspace, fitted.buffers)


def _require_same_function(workspace: Workspace, fitted: FittedCheckpoint) -> None:
    """Refuse a file whose further state (``get_extra_state``) changes what the network computes: it is not stored."""
    if fitted.module is None:
        return
    x, _ = workspace.task.test.examples(
        torch.arange(min(_TRIED, len(workspace.task.test))), device=workspace.flat.device
    )
    with torch.no_grad():
        theirs = tensors_in(call(fitted.module.to(workspace.flat.device).eval(), copied(x)))
        ours = tensors_in(call(workspace.flat.module.eval(), workspace.flat.inputs(copied(x))))
    if len(theirs) != len(ours) or not all(map(partial(torch.allclose, rtol=1e-3, atol=1e-5), theirs, ours)):
        raise InputError(
            "The checkpoint sets a state of the network that is not a tensor (_extra_state) and changes its outputs; "
            "only tensors are stored. Make that state a buffer, or build the network with it."
        )


def _of_files(path: Path, files: Sequence[Path]) -> dict[str, Any]:
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        with file.open("rb") as opened:
            while block := opened.read(1 << 20):
                digest.update(block)
    return {"origin": "file", "file": path.name, "blake2b": digest.hexdigest()}


# Trained curves


def add_imported_curve(
    session: Session, job: AddCurveJob, *, progress: ProgressCallback = silent
) -> tuple[Connection, list[str]]:
    """Add a trained curve from a file: its ends as modes NAME-start and NAME-end, its bends as control points.

    Its method is "curve" (Bézier) or "chain", needed if the file does not say. BatchNorm statistics of the ends are
    recomputed, because a curve has none. Raises InputError for a file without a curve of this network, and for a family
    other than the file's.
    """
    del progress  # it is short
    path, name = Path(job.file), job.name
    with session.store.reading() as reader:
        space = reader.get(Space, id=job.space)
    ends = [None, None] if name is None else [f"{name}-start", f"{name}-end"]
    for wanted in (name, *ends):
        check_name_is_free(session, wanted)
    workspace = session.workspace(space)
    content = read_content(path)
    curve = find_curve(content, workspace.new_module, workspace.layout)
    if curve is None:
        raise InputError(
            f"{path.name} holds no trained curve of this network: there must be weight_0, weight_1, … for every weight."
        )
    kind = _method_of(path, curve, job.method)
    fitted, notes = fit_curve(curve, workspace.new_module, workspace.layout, cast=job.cast)
    bends = len(fitted) - 2
    family: Family = BezierCurveFamily(bends) if kind == "curve" else PolygonalChainFamily(bends)
    origin = _of_files(path, content.files)
    if workspace.flat.statistics:
        notes.append(f"BatchNorm statistics of the ends recomputed: {workspace.policy()}")
    stated = {"file": str(path), "space": space.name, "method": kind}
    with session.run(workspace, "add-mode", stated, job=job) as run:
        found = []
        for point in (fitted[0], fitted[-1]):
            recompute_own(workspace, point)
            results = evaluate_splits(workspace)
            require_finite(results, "An end of the curve")
            found.append((point, results))
        with session.store.transaction() as tx:
            nodes: list[Node] = []
            for (point, results), end_name in zip(found, ends, strict=True):
                recompute_own(workspace, point)  # recompute the same statistics, to store them
                info = origin | {"notes": notes, "batchnorm": str(workspace.policy())}
                nodes.append(
                    store_point(
                        tx,
                        workspace,
                        run.id,
                        "mode",
                        MeasuredPoint(point.parameters, results, OWN, own_policy(workspace)),
                        info=info,
                        name=end_name,
                    )
                )
            given: list[tuple[str, NDArray[np.float32]]] = [
                (node.id, point.parameters) for node, (point, _) in zip(nodes, found, strict=True)
            ]
            parts = [Part.unlike(workspace.layout, point.parameters, given) for point in fitted[1:-1]]
            controls = store_partial(tx, workspace, run.id, "control", parts)
            connection = Connection(
                id=new_id("k"),
                kind=kind,
                space_id=space.id,
                family=json.dumps(family.describe()),
                settings=json.dumps(origin, sort_keys=True),
                run_id=run.id,
                name=name,
                reason="; ".join([f"imported from {path.name}", *notes]),
            )
            rows = zip([*family.ends, *family.free], [*nodes, *controls], strict=True)
            tx.add(connection, *member_rows(connection.id, family, {row: node.id for row, node in rows}))
            run.complete(tx)
    return connection, notes


def _method_of(path: Path, curve: TrainedCurve, asked: str | None) -> str:
    if asked not in (None, "curve", "chain"):
        raise InputError(f"A trained curve is a curve or a chain, not {asked!r}.")
    if curve.method and asked and curve.method != asked:
        raise InputError(f"{path.name} holds {curve.described}: import it with --{curve.method}, not --{asked}.")
    found = asked or curve.method
    if found is None:
        raise TrainedCurveError(_curve_found(path.name, curve), None)
    return found


def _curve_found(where: str, curve: TrainedCurve) -> str:
    if curve.method is None:
        return (
            f"{where} holds {curve.described} and does not name its family: import its ends and bends with "
            f"--curve if it is a Bézier curve, with --chain if it is a polygonal chain."
        )
    return f"{where} holds {curve.described}: import its ends and bends with --{curve.method}."
