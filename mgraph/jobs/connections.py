"""Jobs that make connections, and measure them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from math import prod
from typing import Any, ClassVar

import numpy as np
from typing_extensions import override

from mgraph.errors import InputError
from mgraph.evaluate.refine import Refinement
from mgraph.families import Family, Grid
from mgraph.families.grid import check_points
from mgraph.jobs.base import NAMING_CODE, Job
from mgraph.jobs.reading import can_be_named
from mgraph.methods.base import Method
from mgraph.methods.own import typed_here
from mgraph.methods.registry import METHODS
from mgraph.query.criterion import SPLITS
from mgraph.query.sweepdata import axes_of, inner_grid


@dataclass(frozen=True)
class Following:
    """The sweep that follows when a connection is made: the fields of a :class:`SweepJob` with these names."""

    grid: tuple[int, ...] | None = None
    inner: int | None = None
    splits: tuple[str, ...] = SPLITS
    examples: int | None = None
    bn_examples: int | None = None
    metrics: tuple[Any, ...] = ()

    def of(self, connection: Any) -> SweepJob:
        """Return it as a job."""
        return SweepJob(connection=connection.id, **{f.name: getattr(self, f.name) for f in fields(self)})


@dataclass(frozen=True, kw_only=True)
class ConnectJob(Job):
    """Connect modes (their ids, in order) by a method; ``sweep`` is the sweep that follows, or None.

    Control points start between the ends, or where the connection ``init`` (its id) has them. Ends of different tasks
    are refused, unless ``same_layout`` says to use the first one's. ``buffers_from`` is the id of the end whose buffers
    to use where they differ.
    """

    kind: ClassVar[str] = "connect"
    operation: ClassVar[str] = "mgraph.operations.connections:connect"

    ends: tuple[str, ...]
    method: Method
    name: str | None = None
    init: str | None = None
    same_layout: bool = False
    buffers_from: str | None = None
    sweep: Following | None = None

    @override
    def following(self, made: Any) -> Job | None:
        """Return its sweep; under torchrun only the first process measures."""
        from mgraph.train.parallel import follows

        return None if self.sweep is None or follows() else self.sweep.of(made)

    @override
    def names(self) -> Iterable[Any]:
        """Return its loss and augmentation, if the method has them, the method, if it is the user's own, and the
        metrics of its sweep.
        """
        own = METHODS.get(self.method.name) is not type(self.method)
        named = (getattr(self.method, setting, None) for setting in NAMING_CODE)
        return (*named, *([typed_here(self.method)] if own else []), *(self.sweep.metrics if self.sweep else ()))

    @property
    @override
    def can_be_written(self) -> bool:
        """Whether its method and metrics can be found again: a class or function of a running script cannot."""
        metrics = self.sweep.metrics if self.sweep else ()
        return can_be_named(self.method) and all(isinstance(metric, str) for metric in metrics)


@dataclass(frozen=True, kw_only=True)
class SweepJob(Job):
    """Measure a connection (its id) on a grid.

    The grid is ``grid``, the number of points in every direction; or ``axes``, the points themselves; or ``inner``
    points on every piece of a chain; by default the family's own. ``examples`` limits each split to a fixed random
    subset of that size, ``bn_examples`` the examples from which BatchNorm statistics are recomputed. ``metrics`` are
    measured besides the loss and the task's own: names, or functions and :class:`mgraph.Metric` (with one of these the
    job cannot be written down). ``refine`` adds points where its metric bends. ``route_on`` is the split, train or
    valid, whose loss chooses the route between two ends of a surface or simplex. With ``reuse``, numbers of earlier
    sweeps under the same conditions are reused.
    """

    kind: ClassVar[str] = "sweep"
    operation: ClassVar[str] = "mgraph.operations.sweeps:sweep_connection"

    connection: str
    grid: tuple[int, ...] | None = None
    axes: tuple[tuple[float, ...], ...] | None = None
    inner: int | None = None
    splits: tuple[str, ...] = SPLITS
    examples: int | None = None
    bn_examples: int | None = None
    precision: str = "fp32"
    metrics: tuple[Any, ...] = ()
    refine: Refinement | None = None
    route_on: str = "train"
    reuse: bool = True

    def __post_init__(self) -> None:
        if self.inner is not None and (self.grid is not None or self.axes is not None):
            raise InputError("A sweep takes either a grid or the number of inner points of every piece, not both.")
        if self.axes is not None:
            check_points(prod(len(axis) for axis in self.axes))

    def grid_of(self, family: Family) -> Grid:
        """Return its grid on a family; raise InputError for one that the family does not have."""
        if self.axes is not None:
            return family.grid_on([np.array(axis, dtype=np.float64) for axis in self.axes])
        if self.inner is not None:
            return inner_grid(family, None, self.inner)
        return family.sweep_grid if self.grid is None else family.grid(self.grid)

    def on(self, grid: Grid) -> SweepJob:
        """Return the same job on an explicit grid."""
        axes = axes_of(grid)
        if axes is not None:
            return replace(self, grid=None, axes=tuple(map(tuple, json.loads(axes))), inner=None)
        return replace(self, grid=tuple(map(int, grid.counts)), axes=None, inner=None)

    @override
    def names(self) -> Iterable[Any]:
        return self.metrics

    @property
    @override
    def can_be_written(self) -> bool:
        """Whether every metric is a name: a function cannot be found again."""
        return all(isinstance(metric, str) for metric in self.metrics)


@dataclass(frozen=True)
class CompositeLeg:
    """One connection (its id) of a composite path, and the modes (ids) between which it is used.

    None: determined by the neighbours. ``waypoints`` are the parameters of the way through a surface or simplex; None:
    its swept minimax route.
    """

    connection: str
    start: str | None = None
    goal: str | None = None
    waypoints: tuple[tuple[float, ...], ...] | None = None


@dataclass(frozen=True, kw_only=True)
class PlaneJob(Job):
    """Make a plane of nodes (their ids); ``sweep`` is the sweep that follows, or None.

    It goes ``through`` three nodes; or lies around one, along two ``random`` filter-normalised directions drawn with
    ``seed``, ``radius`` times each to both sides; or is that of the two principal components (``pca``) of the
    differences of three or more nodes to the last. Around the nodes there is a ``margin``, a share of their rectangle.
    """

    kind: ClassVar[str] = "plane"
    operation: ClassVar[str] = "mgraph.operations.planes:make_plane"

    nodes: tuple[str, ...]
    how: str = "through"
    margin: float = 0.2
    radius: float = 1.0
    seed: int = 0
    name: str | None = None
    sweep: Following | None = None

    def settings(self) -> dict[str, Any]:
        """Return what determines the plane."""
        chosen = {"radius": self.radius, "seed": self.seed} if self.how == "random" else {"margin": self.margin}
        return {"how": self.how, "nodes": list(self.nodes)} | chosen

    @override
    def following(self, made: Any) -> Job | None:
        return None if self.sweep is None else self.sweep.of(made)

    @override
    def names(self) -> Iterable[Any]:
        return self.sweep.metrics if self.sweep else ()

    @property
    @override
    def can_be_written(self) -> bool:
        """Whether every metric of its sweep is a name: a function cannot be found again."""
        return all(isinstance(metric, str) for metric in self.names())


@dataclass(frozen=True, kw_only=True)
class ComposeJob(Job):
    """Join connections at the modes that they share into one path; ``sweep`` is the sweep that follows, or None.

    With ``thin`` it becomes a polygonal chain through as few points as keep it within that fraction of its length.
    """

    kind: ClassVar[str] = "compose"
    operation: ClassVar[str] = "mgraph.operations.composing:compose"

    pieces: tuple[CompositeLeg, ...]
    name: str | None = None
    thin: float | None = None
    sweep: Following | None = None

    @override
    def following(self, made: Any) -> Job | None:
        return None if self.sweep is None else self.sweep.of(made)
