"""Adding modes: trained here, or imported from a checkpoint."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mgraph.errors import MGraphWarning
from mgraph.evaluate.batchnorm import OWN
from mgraph.evaluate.similarity import layer_cosines, looks_like_same_run
from mgraph.graph.members import label
from mgraph.graph.points import evaluate_splits, load_buffers, own_policy
from mgraph.graph.runs import RunLog
from mgraph.graph.session import Bench, Session
from mgraph.graph.storing import check_name_is_free, require_finite, store_point
from mgraph.network.checkpoints import fit_to_layout, read_checkpoint
from mgraph.progress import Report, silent
from mgraph.train.mode import train_mode
from mgraph.train.settings import TrainSettings
from mgraph_store import Node, Space


class SimilarModeWarning(MGraphWarning):
    """A new mode is no independent run of one that is there already."""


def add_trained_mode(
    session: Session, space: Space, settings: TrainSettings, *, name: str | None, report: Report = silent
) -> Node:
    """Train a mode from scratch and add it with its evaluations.

    Raises NonFiniteError, naming the step, when training diverges; the graph then holds only the failed run.
    """
    check_name_is_free(session, name)
    bench = session.bench(space)
    bench.task  # noqa: B018  (load the data before the run starts: bad input is no run)
    flat = bench.new_network(settings.seed)
    bench.flat = flat
    with session.run(bench, "train", asdict(settings) | {"space": space.name}, settings.seed) as run:
        train_mode(flat, bench.task, settings, report=report)
        parameters = flat.unpack(flat.theta).numpy()
        info = {"origin": "train", "settings": asdict(settings)}
        return _commit_mode(session, bench, run, name, parameters, info)


def add_imported_mode(
    session: Session, space: Space, path: Path, *, name: str | None, cast: bool = False
) -> tuple[Node, list[str]]:
    """Add the mode of a checkpoint file; return it with notes on what was converted.

    Raises LayoutMismatchError naming the first tensor whose name, shape or dtype does not fit the space, and
    NonFiniteError for a NaN or an infinity; nothing is added then.
    """
    check_name_is_free(session, name)
    bench = session.bench(space)
    fitted = fit_to_layout(read_checkpoint(path), bench.layout, cast=cast)
    flat = bench.flat
    flat.theta.copy_(flat.pack(torch.from_numpy(fitted.parameters)))
    load_buffers(bench, fitted.buffers)
    info = {
        "origin": "file",
        "file": path.name,
        "blake2b": hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest(),
        "notes": fitted.notes,
    }
    with session.run(bench, "add-mode", {"file": str(path), "space": space.name, "cast": cast}) as run:
        return _commit_mode(session, bench, run, name, fitted.parameters, info), fitted.notes


def _commit_mode(
    session: Session,
    bench: Bench,
    run: RunLog,
    name: str | None,
    parameters: NDArray[np.float32],
    info: dict[str, Any],
) -> Node:
    results = evaluate_splits(bench)
    require_finite(results, "The mode")
    with session.store.transaction() as tx:
        node = store_point(
            tx,
            bench,
            run.id,
            "mode",
            parameters,
            results,
            buffers=OWN,
            measured_with=own_policy(bench),
            info=info,
            name=name,
        )
        run.complete(tx)
    _warn_if_similar(session, bench, node, parameters)
    return node


def _warn_if_similar(session: Session, bench: Bench, node: Node, parameters: NDArray[np.float32]) -> None:
    with session.store.reading() as reader:
        others = [n for n in reader.all(Node, kind="mode", space_id=bench.space.id) if n.id != node.id]
    mine = bench.layout.parameter_views(parameters)
    for other in others:
        if other.digest == node.digest:
            warnings.warn(
                f"{label(node)} has exactly the parameters of {label(other)}: the same checkpoint twice.",
                SimilarModeWarning,
                stacklevel=5,
            )
            continue
        cosines = layer_cosines(mine, bench.layout.parameter_views(session.store.read_parameters(other)))
        if looks_like_same_run(cosines, {t.name: t.size for t in bench.layout.parameters}):
            median = float(np.median(list(cosines.values())))
            warnings.warn(
                f"{label(node)} is no independent run of {label(other)}: the median cosine similarity of their "
                f"layers is {median:.2f}, where independent runs have about 0. Same seed, or one trained on?",
                SimilarModeWarning,
                stacklevel=5,
            )
