"""Sweeping connections: measure a grid, and store points, numbers, summaries and edges in one transaction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from mgraph.errors import InputError, NonFiniteError
from mgraph.evaluate.metrics import SPLITS, Subset
from mgraph.evaluate.summary import best_route, statistics
from mgraph.evaluate.sweep import PointMetrics, sweep
from mgraph.explore.sweepdata import SweepData, family_of, grid_counts, load_sweep
from mgraph.families import Family, Floats
from mgraph.families.gram import arc_length, area, gram, length_ratio, trapezoid_weights
from mgraph.graph.members import constants_source, ends_of, label, rows_of
from mgraph.graph.points import buffers_of, evaluation_rows, load_buffers, packed_rows, policy_name
from mgraph.graph.session import Session
from mgraph.progress import Report, silent
from mgraph_store import (
    KERNEL_VERSION,
    Connection,
    Edge,
    Member,
    Node,
    NodeTerm,
    Record,
    Space,
    Summary,
    Sweep,
    new_id,
)

_PRECISION = "fp32"


def sweep_connection(
    session: Session,
    connection: Connection,
    *,
    grid: Sequence[int] | None = None,
    splits: Sequence[str] = SPLITS,
    examples: int | None = None,
    bn_examples: int | None = None,
    report: Report = silent,
) -> SweepData:
    """Measure a connection on a grid and store the result.

    ``examples`` limits each split to a fixed random subset of that size, ``bn_examples`` the examples that
    BatchNorm statistics are recomputed from. Raises InputError for a bad grid or split, and NonFiniteError
    after storing what was found if any number is NaN or infinite; the connection is then marked failed.
    """
    store = session.store
    family = family_of(connection)
    counts = grid_counts(family, grid, family.default_grid)
    for split in splits:
        if split not in SPLITS:
            raise InputError(f"There is no split {split!r}; choose from {', '.join(SPLITS)}.")
    if examples is not None and examples < 1:
        raise InputError(f"A sweep needs at least 1 example per split, not {examples}.")
    with store.reading() as reader:
        space = reader.get(Space, id=connection.space_id)
        nodes = rows_of(reader, connection)
        ends = ends_of(reader, connection)
        present = reader.all(Member, connection_id=connection.id, role="sample")
        groups = buffers_of(store, reader, constants_source(reader, connection))
    bench = session.bench(space)
    if groups:
        load_buffers(bench, groups)
    policy = bench.policy(bn_examples)
    points = [store.read_parameters(node) for node in nodes]
    G = gram(points)
    parameters = family.grid(counts)
    coefficients = family.coefficients(parameters)
    subsets = {s: Subset.random(len(getattr(bench.task, s)), examples) for s in splits}
    settings = {"connection": connection.id, "grid": counts, "splits": splits, "examples": examples}
    with session.run(bench, "sweep", settings | {"batchnorm": str(policy)}) as run:
        results = sweep(
            bench.flat,
            bench.task,
            packed_rows(bench, points),
            coefficients,
            policy=policy,
            subsets=subsets,
            report=report,
        )
        record = Sweep(new_id("w"), connection.id, run.id, counts, policy_name(bench, policy), _PRECISION)
        known = {tuple(m.parameter or ()): m.node_id for m in present}
        samples = _Samples(connection, space, run.id, nodes, known)
        ids = [samples.node_at(p, c) for p, c in zip(parameters.tolist(), coefficients, strict=True)]
        values = _arrays(results)
        rows: list[Record] = [record, *samples.records]
        for node_id, result in zip(ids, results, strict=True):
            names = {split: subset.name for split, subset in subsets.items()}
            rows += evaluation_rows(
                node_id, run.id, result, batchnorm=record.batchnorm, sweep_id=record.id, subsets=names
            )
        geometry = _Geometry(family, G, parameters, coefficients, counts)
        rows += _summaries(record, geometry, values)
        examples_used = {split: metrics["loss"].count for split, metrics in results[0].items()}
        rows += _edges(record, geometry, values, ids, ends, examples_used)
        bad = _first_bad(values, parameters)
        with store.transaction() as tx:
            tx.add(*rows)
            if bad:
                tx.update(replace(connection, status="failed", reason=bad))
            run.complete(tx)
        if bad:
            raise NonFiniteError(f"{label(connection)}: {bad}; it is marked failed and makes no edge.")
    with store.reading() as reader:
        return load_sweep(reader, connection, record)


class _Samples:
    """The nodes of a grid: those that exist, and new derived ones."""

    def __init__(
        self,
        connection: Connection,
        space: Space,
        run_id: str,
        rows: Sequence[Node],
        known: Mapping[tuple[float, ...], str],
    ) -> None:
        self._connection, self._space, self._run_id, self._rows = connection, space, run_id, rows
        self._known, self._next = dict(known), len(known)
        self.records: list[Record] = []

    def node_at(self, parameter: Sequence[float], coefficients: Floats) -> str:
        """Return the node at a parameter; a coefficient of 1 alone is the control point itself."""
        key = tuple(parameter)
        if key not in self._known:
            terms = [(k, float(c)) for k, c in enumerate(coefficients) if c != 0]
            if len(terms) == 1 and terms[0][1] == 1.0:
                node_id = self._rows[terms[0][0]].id
            else:
                node_id = new_id("s")
                self.records.append(Node(node_id, "sample", self._space.id, self._run_id, kernel=KERNEL_VERSION))
                self.records += [
                    NodeTerm(node_id, position, self._rows[k].id, c) for position, (k, c) in enumerate(terms)
                ]
            self.records.append(Member(self._connection.id, node_id, "sample", self._next, parameter=list(parameter)))
            self._known[key], self._next = node_id, self._next + 1
        return self._known[key]


class _Geometry:
    """A swept grid's geometry, from the Gram matrix."""

    def __init__(
        self, family: Family, G: Floats, parameters: Floats, coefficients: Floats, counts: Sequence[int]
    ) -> None:
        self.family, self.G, self.coefficients, self.counts = family, G, coefficients, counts
        self.weights = trapezoid_weights(family, G, parameters, counts)
        corners = family.end_parameters()
        self.ends = [int(np.flatnonzero((parameters == c).all(axis=1))[0]) for c in corners]

    def facts(self) -> dict[str, float]:
        """Length and length ratio of a curve, area of a surface."""
        if self.family.dimension == 1:
            ratio = length_ratio(self.family, self.G)
            return {"length": arc_length(self.family, self.G), "length_ratio": ratio}
        return {"area": area(self.family, self.G)}


def _arrays(results: Sequence[PointMetrics]) -> dict[tuple[str, str], Floats]:
    return {
        (split, metric): np.array([point[split][metric].value for point in results])
        for split, metrics in results[0].items()
        for metric in metrics
    }


def _first_bad(values: Mapping[tuple[str, str], Floats], parameters: Floats) -> str | None:
    for (split, metric), array in values.items():
        bad = np.flatnonzero(~np.isfinite(array))
        if len(bad):
            at = ",".join(f"{p:g}" for p in parameters[bad[0]])
            return f"the {split} {metric} is {array[bad[0]]} at {at}"
    return None


def _summaries(record: Sweep, geometry: _Geometry, values: Mapping[tuple[str, str], Floats]) -> Iterator[Summary]:
    for statistic, value in geometry.facts().items():
        yield Summary(record.connection_id, record.id, record.run_id, "none", "geometry", statistic, value)
    for (split, metric), array in values.items():
        for statistic, value in statistics(array, geometry.weights).items():
            yield Summary(record.connection_id, record.id, record.run_id, split, metric, statistic, value)


def _edges(
    record: Sweep,
    geometry: _Geometry,
    values: Mapping[tuple[str, str], Floats],
    ids: Sequence[str],
    ends: Sequence[Node],
    examples: Mapping[str, int],
) -> Iterator[Edge]:
    """Make an edge for every pair of ends, on loss and on error = 1 - accuracy of every split."""
    for (split, metric), array in values.items():
        if metric not in ("loss", "accuracy"):
            continue
        cost = array if metric == "loss" else 1.0 - array
        for (i, source), (j, target) in combinations(enumerate(ends), 2):
            route = best_route(
                geometry.ends[i], geometry.ends[j], cost, geometry.coefficients, geometry.G, geometry.counts
            )
            yield Edge(
                connection_id=record.connection_id,
                sweep_id=record.id,
                source_id=source.id,
                target_id=target.id,
                split=split,
                metric="loss" if metric == "loss" else "error",
                peak=route.peak,
                barrier=route.barrier,
                drop=route.drop,
                length=route.length,
                resolution=len(route.nodes),
                examples=examples[split],
                batchnorm=record.batchnorm,
                precision=record.precision,
                route=[ids[n] for n in route.nodes],
            )
