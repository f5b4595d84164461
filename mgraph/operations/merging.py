"""Merging: choose a point of a swept connection on validation data, store it, and report it on test data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mgraph.errors import InputError
from mgraph.evaluate.batchnorm import BatchNormPolicy, recompute_statistics
from mgraph.evaluate.metrics import SPLITS, Measured, measure, outputs
from mgraph.explore.sweepdata import SweepData, family_of, latest_sweep, load_sweep
from mgraph.families import Floats
from mgraph.merge.compare import Difference, paired_difference
from mgraph.merge.soup import greedy_soup, uniform_soup
from mgraph.network.flat import combine
from mgraph.progress import Progress, Report, silent
from mgraph.session.members import constants_source, ends_of, label, rows_of
from mgraph.session.points import (
    buffers_of,
    evaluate_splits,
    load_buffers,
    packed_rows,
    policy_name,
)
from mgraph.session.runs import RunLog
from mgraph.session.session import Bench, Session
from mgraph.session.storing import check_name_is_free, require_finite, store_point
from mgraph_store import Connection, Node, NodeTerm, Space
from mgraph_store.tensors.kernel import combine as combine_stored

SELECTION_SPLIT = "valid"
SOUPS = ("uniform", "greedy")


@dataclass(frozen=True)
class Prepared:
    """A connection with its control points loaded and ready to be evaluated anywhere."""

    connection: Connection
    bench: Bench
    nodes: list[Node]
    ends: list[Node]
    points: list[NDArray[np.float32]]
    rows: list[torch.Tensor]


@dataclass(frozen=True)
class MergeReport:
    """A merged node and what it is worth.

    ``corners`` are the ends, measured under the same BatchNorm policy; ``baseline`` is the one chosen on
    validation, ``difference`` the paired test difference to it. ``oracle`` is the best swept test value: what
    selecting on test data would have shown, never the result.
    """

    node: Node
    parameter: tuple[float, ...] | None
    results: dict[str, dict[str, Measured]]
    corners: dict[str, dict[str, dict[str, Measured]]]
    baseline: str
    difference: Difference | None
    oracle: float | None
    notes: list[str] = field(default_factory=list)


def prepare(session: Session, connection: Connection) -> Prepared:
    """Load a connection's control points and constants into its bench."""
    store = session.store
    with store.reading() as reader:
        space = reader.get(Space, id=connection.space_id)
        nodes, ends = rows_of(reader, connection), ends_of(reader, connection)
        groups = buffers_of(store, reader, constants_source(reader, connection))
    bench = session.bench(space)
    if groups:
        load_buffers(bench, groups)
    points = [np.array(store.read_parameters(node)) for node in nodes]
    return Prepared(connection, bench, nodes, ends, points, packed_rows(bench, points))


def choose_point(data: SweepData) -> int:
    """Choose the swept point of highest validation accuracy (ties: loss); never looks at test data."""
    if (SELECTION_SPLIT, "loss") not in data.values:
        raise InputError("The newest sweep has no validation split, and merging selects on it; sweep it first.")
    return data.best(SELECTION_SPLIT)


def merge(
    session: Session,
    connection: Connection,
    *,
    at: Sequence[float] | None = None,
    soup: str | None = None,
    name: str | None = None,
    bn_examples: int | None = None,
    report: Report = silent,
) -> MergeReport:
    """Materialise a point as a ``merged`` node: the best on validation, a given parameter, or a soup.

    BatchNorm statistics are recomputed and stored with it. Raises InputError if the connection was never
    swept (unless ``at`` is given) or the parameter lies outside the domain.
    """
    if soup is not None and soup not in SOUPS:
        raise InputError(f"A soup is {' or '.join(SOUPS)}, not {soup!r}.")
    if at is not None and soup is not None:
        raise InputError("Give either a parameter or a soup, not both.")
    family = family_of(connection)
    check_name_is_free(session, name)
    parameter = None if at is None else family.points(list(at))[0]
    with session.store.reading() as reader:
        swept = at is None or latest_sweep(reader, connection) is not None
        data = load_sweep(reader, connection) if swept else None
    if data is not None and at is None:
        choose_point(data)
    ready = prepare(session, connection)
    policy = ready.bench.policy(bn_examples)
    settings: dict[str, Any] = {"connection": connection.id, "at": at, "soup": soup, "batchnorm": str(policy)}
    with session.run(ready.bench, "merge", settings) as run:
        choice = _choose(ready, data, parameter, soup, policy, report)
        corners, corner_scores = _corners(ready, policy)
        theta = combine_stored(choice.coefficients.tolist(), ready.points)
        flat = ready.bench.flat
        flat.theta.copy_(flat.pack(torch.from_numpy(np.array(theta))))
        recompute_statistics(flat, ready.bench.task.train, policy)
        results = evaluate_splits(ready.bench)
        require_finite(results, "The merged point")
        scores = _scores(ready.bench)
        node = _store(session, run, ready, choice, theta, results, name=name, policy=policy, soup=soup)
    baseline = _best_corner(corners)
    against = corner_scores[baseline]
    return MergeReport(
        node,
        choice.parameter,
        results,
        corners,
        baseline,
        None if scores is None or against is None else paired_difference(scores, against),
        _oracle(data),
        _notes(data, choice.coefficients, ready),
    )


@dataclass(frozen=True)
class _Choice:
    """Coefficients of the chosen point, its parameter if it has one, and the split that chose it, if any did."""

    coefficients: Floats
    parameter: tuple[float, ...] | None
    selected_on: str | None


def _choose(
    ready: Prepared,
    data: SweepData | None,
    parameter: Floats | None,
    soup: str | None,
    policy: BatchNormPolicy,
    report: Report,
) -> _Choice:
    if parameter is not None:
        coefficients = family_of(ready.connection).coefficients(parameter)[0]
        return _Choice(coefficients, tuple(map(float, parameter)), None)
    assert data is not None
    if soup == "uniform":
        return _Choice(uniform_soup(data.coefficients), None, None)
    if soup == "greedy":
        return _Choice(_greedy(ready, data, policy, report), None, SELECTION_SPLIT)
    best = choose_point(data)
    return _Choice(data.coefficients[best], tuple(map(float, data.parameters[best])), SELECTION_SPLIT)


def _store(
    session: Session,
    run: RunLog,
    ready: Prepared,
    choice: _Choice,
    theta: NDArray[np.float32],
    results: dict[str, dict[str, Measured]],
    *,
    name: str | None,
    policy: BatchNormPolicy,
    soup: str | None,
) -> Node:
    """Store the present point with its statistics, its recipe and its numbers, and complete the run."""
    bench, policy_text = ready.bench, policy_name(ready.bench, policy)
    pairs = zip(ready.nodes, choice.coefficients.tolist(), strict=True)
    terms = [(node.id, c) for node, c in pairs if c != 0]
    info = {
        "origin": "merge",
        "connection": ready.connection.id,
        "parameter": choice.parameter,
        "soup": soup,
        "batchnorm": policy_text,
    }
    with session.store.transaction() as tx:
        node = store_point(
            tx,
            bench,
            run.id,
            "merged",
            theta,
            results,
            buffers=policy_text,
            measured_with=policy_text,
            info=info,
            name=name,
            selected_on=choice.selected_on,
        )
        tx.add(*[NodeTerm(node.id, i, source, c) for i, (source, c) in enumerate(terms)])
        run.complete(tx)
    return node


def _greedy(ready: Prepared, data: SweepData, policy: BatchNormPolicy, report: Report) -> Floats:
    metric = "accuracy" if (SELECTION_SPLIT, "accuracy") in data.values else "loss"
    sign = 1.0 if metric == "accuracy" else -1.0
    done = 0

    def score(coefficients: Floats) -> float:
        nonlocal done
        combine(coefficients.tolist(), ready.rows, ready.bench.flat.theta)
        recompute_statistics(ready.bench.flat, ready.bench.task.train, policy)
        done += 1
        report(Progress("soup", done, len(data.parameters)))
        return sign * measure(ready.bench.flat, ready.bench.task, SELECTION_SPLIT)[metric].value

    return greedy_soup(data.coefficients, sign * data.values[SELECTION_SPLIT, metric], score)


def _scores(bench: Bench) -> NDArray[np.float64] | None:
    """Per-example test accuracy of the present point, shape (N,); None where the task has none."""
    accuracy = bench.task.metrics.get("accuracy")
    if accuracy is None:
        return None
    judged = (bench.task.without_void(out, y) for out, y in outputs(bench.flat, bench.task.test))
    parts = [accuracy(out, y).double().cpu() for out, y in judged]
    return torch.cat(parts).numpy()


def _corners(
    ready: Prepared, policy: BatchNormPolicy
) -> tuple[dict[str, dict[str, dict[str, Measured]]], dict[str, NDArray[np.float64] | None]]:
    """Measure every end under the same policy as the merged point."""
    measured, scores = {}, {}
    by_id = dict(zip([n.id for n in ready.nodes], ready.rows, strict=True))
    for end in ready.ends:
        ready.bench.flat.theta.copy_(by_id[end.id])
        recompute_statistics(ready.bench.flat, ready.bench.task.train, policy)
        measured[label(end)] = evaluate_splits(ready.bench, SPLITS)
        scores[label(end)] = _scores(ready.bench)
    return measured, scores


def _best_corner(corners: dict[str, dict[str, dict[str, Measured]]]) -> str:
    """Choose the corner as points are chosen: validation accuracy, ties by loss, then order."""

    def key(item: str) -> tuple[float, float]:
        valid = corners[item][SELECTION_SPLIT]
        accuracy = valid["accuracy"].value if "accuracy" in valid else 0.0
        return (-accuracy, valid["loss"].value)

    return min(corners, key=key)


def _oracle(data: SweepData | None) -> float | None:
    if data is None or ("test", "accuracy") not in data.values:
        return None
    return float(data.values["test", "accuracy"].max())


def _notes(data: SweepData | None, coefficients: Floats, ready: Prepared) -> list[str]:
    alone = np.flatnonzero(coefficients == 1.0)
    if data is not None and len(alone) == 1 and np.count_nonzero(coefficients) == 1:
        node = ready.nodes[int(alone[0])]
        return [f"the chosen point is the corner {label(node)} itself: no point inside did better on validation"]
    return []
