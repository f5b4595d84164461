"""The records of the index, one frozen dataclass per table.

A record's fields are the table's columns, in order; ``column(...)`` gives each its meaning, so that schema,
documentation and code are written only once. Times are UTC with microseconds. Numbers that are not finite are stored as
they are (NaN, infinity), because a reader must see that something failed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, TypeVar

from typing_extensions import override


def now() -> datetime:
    """Return the present moment in UTC, as the index stores it."""
    return datetime.now(UTC)


R = TypeVar("R")


def like(record: R, **changes: Any) -> R:
    """Return a record with some other values, as :func:`dataclasses.replace` does, in a fifth of the time."""
    made = object.__new__(type(record))
    made.__dict__.update(record.__dict__, **changes)
    return made


class _Row:
    """A record compares, hashes and shows as a dataclass does.

    These methods are written once: to generate them for every table would take as long as all else that makes the
    tables' classes, and every command waits for that.
    """

    @override
    def __eq__(self, other: object) -> bool:
        return self.__dict__ == other.__dict__ if type(self) is type(other) else NotImplemented

    @override
    def __hash__(self) -> int:
        return hash(tuple(getattr(self, f.name) for f in fields(self)))  # type: ignore[arg-type]

    @override
    def __repr__(self) -> str:
        values = ", ".join(f"{f.name}={getattr(self, f.name)!r}" for f in fields(self))  # type: ignore[arg-type]
        return f"{type(self).__name__}({values})"


def column(meaning: str, *, default: Any = ..., unit: str = "") -> Any:
    """Declare a column of the index: its meaning, unit and default."""
    metadata = {"meaning": meaning, "unit": unit}
    if default is ...:
        return field(metadata=metadata)
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, eq=False, repr=False)
class Space(_Row):
    """What makes points comparable: layout, architecture, data and evaluation loss."""

    id: str = column("'a' and 12 base32 characters")
    name: str = column("unique among spaces")
    arch: str = column("architecture spec string")
    data: str = column("data spec string")
    loss: str = column("name of the evaluation loss")
    layout: str = column("JSON: ordered tensors with name, shape, dtype and role, see Layout")
    layout_hash: str = column("BLAKE2b-128 of the layout")
    data_hash: str = column("BLAKE2b-128 of the data: all splits and the normalisation")
    factories: str = column("JSON: per factory spec its kind, relative path, and hash of its code", default="{}")
    codec: str = column("tensor codec of the space: none or blosc", default="none")
    created: datetime = column("when", default=now)
    metrics: str = column(
        "JSON: the task's metrics beside the loss, the primary one first: name, better (higher or lower; none: not "
        "known), best value, unit, and cost, what edges call it",
        default="[]",
    )


@dataclass(frozen=True, eq=False, repr=False)
class Node(_Row):
    """One point of a space: stored tensors, a recipe over other nodes, or both (partial: some coordinates stored)."""

    id: str = column("kind letter and 12 base32 characters")
    kind: str = column("mode, control, pivot, sample or merged")
    space_id: str = column("the space it lives in")
    run_id: str | None = column("the run that made it", default=None)
    name: str | None = column("unique among nodes and connections", default=None)
    tensor_key: str | None = column("stored, partial: key of its array below tensors.zarr", default=None)
    tensor_row: int | None = column("where that is a segment: the row there", default=None)
    digest: str | None = column("stored, partial: digest of that array", default=None)
    nbytes: int = column("stored, partial: size of that array", default=0, unit="bytes")
    kernel: int | None = column("derived, partial: version of the summation kernel", default=None)
    columns: str | None = column(
        "partial: JSON ranges [start, stop) of the coordinates that its tensor holds, one after the other; "
        "the others come from its recipe",
        default=None,
    )
    selected_on: str | None = column("merged: the split that chose it (valid), none if nothing did", default=None)
    info: str = column("JSON: origin, parents, recipe, recorded casts", default="{}")
    created: datetime = column("when", default=now)


@dataclass(frozen=True, eq=False, repr=False)
class NodeTerm(_Row):
    """One term of a derived or partial node: coefficient times another node, summed in order of position."""

    node_id: str = column("the derived or partial node")
    position: int = column("place in the sum, from 0")
    source_id: str = column("a node with tensors: stored or partial")
    coefficient: float = column("its coefficient")


@dataclass(frozen=True, eq=False, repr=False)
class NodeBuffers(_Row):
    """The buffers of a node under one BatchNorm policy (`own`: as trained or imported)."""

    node_id: str = column("the node")
    policy: str = column("own, frozen (the network keeps them), or the policy that recomputed the statistics")
    tensor_key: str = column("key of the buffers below tensors.zarr")
    digest: str = column("digest of the buffers")
    nbytes: int = column("size", unit="bytes")


@dataclass(frozen=True, eq=False, repr=False)
class Connection(_Row):
    """A method's result between two or more modes."""

    id: str = column("'k' and 12 base32 characters")
    kind: str = column("method: linear, curve, surface, …")
    space_id: str = column("the space of its ends")
    family: str = column("JSON: the family and its shape, e.g. bezier-surface of degree 2,2")
    settings: str = column("JSON: the method's settings")
    run_id: str | None = column("the run that made it", default=None)
    name: str | None = column("unique among nodes and connections", default=None)
    status: str = column("complete, interrupted or failed", default="complete")
    reason: str | None = column("why it ended as it did", default=None)
    created: datetime = column("when", default=now)


@dataclass(frozen=True, eq=False, repr=False)
class Member(_Row):
    """A node's place in a connection."""

    connection_id: str = column("the connection")
    node_id: str = column("the node")
    role: str = column("end, control or sample")
    position: int = column("order within the role, from 0")
    row: int | None = column("end, control: row of the control-point matrix P", default=None)
    parameter: Sequence[float] | None = column("sample: t, (u, v), or barycentric coordinates", default=None)


@dataclass(frozen=True, eq=False, repr=False)
class Sweep(_Row):
    """One evaluation of a connection on a grid of its parameter."""

    id: str = column("'w' and 12 base32 characters")
    connection_id: str = column("the connection")
    run_id: str | None = column("the run that made it")
    grid: Sequence[int] = column("points along each parameter")
    batchnorm: str = column("BatchNorm policy; none: nothing is recomputed")
    precision: str = column("fp32, fp64, …")
    axes: str | None = column(
        "JSON: the coordinates along each parameter where the grid is not evenly spaced; none: evenly spaced",
        default=None,
    )
    status: str = column("complete, or partial: interrupted or under way", default="complete")
    created: datetime = column("when", default=now)
    metrics: str = column(
        "JSON: what was measured beside the loss, as in spaces: the task's metrics, then further ones", default="[]"
    )


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation(_Row):
    """One number measured at one node."""

    node_id: str = column("the node")
    sweep_id: str | None = column("the sweep it belongs to, none for a single evaluation")
    run_id: str | None = column("the run that measured it")
    split: str = column("train, valid or test")
    subset: str = column("all, or the hash of the examples used")
    batchnorm: str = column("BatchNorm policy; own: the stored statistics")
    precision: str = column("fp32, fp64, …")
    metric: str = column("loss, accuracy, …")
    value: float = column("the mean over the examples")
    standard_error: float | None = column("of that mean")
    count: int = column("examples")


@dataclass(frozen=True, eq=False, repr=False)
class Edge(_Row):
    """How well one pair of a connection's ends is connected, by one sweep, split and metric."""

    connection_id: str = column("the connection")
    sweep_id: str = column("the sweep")
    source_id: str = column("one end")
    target_id: str = column("the other end")
    split: str = column("train, valid or test")
    metric: str = column("what is compared, lower is better: loss, error (1 - accuracy), or the cost of another metric")
    peak: float = column("largest value along the route")
    barrier: float = column("largest excess over the chord between the two end values")
    drop: float = column("largest value minus the mean of the two end values")
    length: float = column("of the route in weight space", unit="L2")
    resolution: int = column("points along the route")
    examples: int = column("examples per point")
    batchnorm: str = column("BatchNorm policy")
    precision: str = column("fp32, fp64, …")
    route: Sequence[str] = column("the nodes along the route, source first")
    chosen_on: str = column(
        "what chose the route: path (nothing, there is only one), train loss, valid loss, or oracle (this edge's own "
        "numbers: for comparison only, it never counts)",
        default="path",
    )
    doubt: str | None = column(
        "why the edge must not count, in a sentence; none: nothing is known against it", default=None
    )


@dataclass(frozen=True, eq=False, repr=False)
class Summary(_Row):
    """One statistic of a whole sweep: min, max, mean, integral, length ratio, …"""

    connection_id: str = column("the connection")
    sweep_id: str | None = column("the sweep; none: not about one (an ensemble)")
    run_id: str | None = column("the run that computed it")
    split: str = column("train, valid, test; none for geometry")
    metric: str = column("loss, accuracy, geometry, …")
    statistic: str = column(
        "min, max, mean, integral, integral_uniform, interpolation_error, length_ratio, ensemble_corners, …"
    )
    value: float = column("the number")
    standard_error: float | None = column("where it is a mean over examples", default=None)


@dataclass(frozen=True, eq=False, repr=False)
class Series(_Row):
    """What was observed on the way to a connection, or while a node was trained: numbers by position."""

    connection_id: str | None = column("the connection, if it is one's")
    run_id: str | None = column("the run that observed them")
    quantity: str = column("what: train_loss, learning_rate, distance, variance, step, seconds, …")
    subject: str = column("of what: name of a layer or tensor; empty: of the whole")
    positions: Sequence[float] = column("when: tick, step or cycle, rising")
    values: Sequence[float] = column("the numbers, one for each position")
    node_id: str | None = column("the node, if it is one's", default=None)


@dataclass(frozen=True, eq=False, repr=False)
class Measure(_Row):
    """One number about a node's surroundings, not about the point alone: sharpness, relative flatness."""

    node_id: str = column("the node")
    run_id: str | None = column("the run that measured it; its settings say from which seed")
    quantity: str = column("what: sharpness, relative_flatness, loss (of the point itself, beside its sharpness)")
    radius: float | None = column("sharpness: size of the perturbations, relative to each tensor's norm; else none")
    statistic: str = column("mean, std or max over random directions, or mean over examples")
    value: float = column("the number")
    standard_error: float | None = column("of that mean, if it is one")
    samples: int = column("directions or examples that the statistic is over")
    split: str = column("train, valid or test")
    subset: str = column("all, or the hash of the examples used")
    examples: int = column("examples that each loss is a mean over")
    batchnorm: str = column("BatchNorm policy, for every perturbed point anew")
    precision: str = column("fp32, fp64, …")


@dataclass(frozen=True, eq=False, repr=False)
class Note(_Row):
    """What a person wrote about a node or a connection: a tag, or a key with a value."""

    id: str = column("'n' and 12 base32 characters")
    key: str = column("the tag, or the key; at most once for each subject")
    value: str | None = column("the value; none: a tag", default=None)
    node_id: str | None = column("its subject, if that is a node", default=None)
    connection_id: str | None = column("its subject, if that is a connection", default=None)
    created: datetime = column("when", default=now)


@dataclass(frozen=True, eq=False, repr=False)
class Run(_Row):
    """Provenance of everything: what was run, with what, where, and how it ended."""

    id: str = column("'r' and 12 base32 characters")
    command: str = column("train, connect, sweep, …")
    settings: str = column("JSON: every setting, defaults included")
    seed: int | None = column("the seed all random streams come from", default=None)
    versions: str = column("JSON: mgraph, torch, python, …", default="{}")
    device: str = column("cpu, cuda:0, …", default="cpu")
    threads: int | None = column("torch threads", default=None)
    update: str | None = column("control-point update: eager or compiled", default=None)
    status: str = column("running, complete, interrupted or failed", default="running")
    reason: str | None = column("why it ended as it did", default=None)
    host: str = column("machine", default="")
    pid: int | None = column("process", default=None)
    plan: str | None = column(
        "JSON: the operation and its arguments, for resuming an interrupted run; none: it cannot be", default=None
    )
    resumptions: str = column("JSON: when and where an interrupted run was resumed, and from where", default="[]")
    started: datetime = column("when", default=now)
    ended: datetime | None = column("when", default=None)


@dataclass(frozen=True, eq=False, repr=False)
class PointBlock(_Row):
    """Some points together, about which rows of `term_blocks` and `evaluation_blocks` say the same in lists."""

    id: str = column("'b' and 12 base32 characters")
    node_ids: Sequence[str] = column("the points, at most 100")
    connection_id: str | None = column(
        "the connection that they are samples of, none if that is not said here", default=None
    )
    positions: Sequence[int] | None = column("samples: their order, as position of members", default=None)
    parameters: Sequence[Sequence[float]] | None = column(
        "samples: where they are, as in members; none if a grid says it", default=None
    )
    grid_id: str | None = column(
        "the grid whose `grid_terms` are the terms of all these points, none if there is no such grid", default=None
    )
    places: Sequence[int] | None = column(
        "where they are on that grid: i * len(v) + j is the place of u[i + 1], v[j + 1]", default=None
    )


@dataclass(frozen=True, eq=False, repr=False)
class TermBlock(_Row):
    """One term of each point of a block: coefficient times another node, the same for all of them."""

    block_id: str = column("the block of points, all of them derived")
    position: int = column("place in the sum, from 0")
    source_id: str = column("a node with tensors: stored or partial")
    coefficients: Sequence[float] = column("its coefficient, for each point")


@dataclass(frozen=True, eq=False, repr=False)
class EvaluationBlock(_Row):
    """One number for each point of a block, measured by a sweep on one split."""

    block_id: str = column("the block of points")
    sweep_id: str = column("the sweep")
    run_id: str | None = column("the run that measured them")
    split: str = column("train, valid or test")
    subset: str = column("all, or the hash of the examples used")
    batchnorm: str = column("BatchNorm policy")
    precision: str = column("fp32, fp64, …")
    metric: str = column("loss, accuracy, …")
    values: Sequence[float] = column("the mean over the examples, for each point")
    standard_errors: Sequence[float] | None = column("of these means, for each point")
    count: int = column("examples, for each point")


@dataclass(frozen=True, eq=False, repr=False)
class PointGrid(_Row):
    """A grid of points with two parameters, u and v: all combinations of these coordinates."""

    id: str = column("'q' and 12 base32 characters")
    u: Sequence[float] = column("coordinates along the first parameter")
    v: Sequence[float] = column("coordinates along the second parameter, which varies faster from place to place")


@dataclass(frozen=True, eq=False, repr=False)
class GridTerm(_Row):
    """One term of every point of a grid: its coefficient is the product of two numbers, one from each list."""

    grid_id: str = column("the grid")
    position: int = column("place in the sum, from 0")
    source_id: str = column("a node with tensors: stored or partial")
    along_u: Sequence[float] = column("one factor of its coefficient, for each coordinate u")
    along_v: Sequence[float] = column("the other factor, for each coordinate v")


Record = (
    Space
    | Node
    | NodeTerm
    | NodeBuffers
    | Connection
    | Member
    | Sweep
    | Evaluation
    | Edge
    | Summary
    | Series
    | Measure
    | Note
    | Run
    | PointBlock
    | TermBlock
    | EvaluationBlock
    | PointGrid
    | GridTerm
)

Named = Space | Node | Connection | Sweep | Run
"""What has an id, and can therefore be updated."""
