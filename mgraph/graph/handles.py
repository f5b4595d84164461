"""What the graph returns: points (nodes) and connected modes (connections), with their operations."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from typing_extensions import override

from mgraph.errors import InputError
from mgraph.graph import shows
from mgraph.graph.drawing import Drawn
from mgraph.graph.keywords import (
    EnsembleOptions,
    EvaluateOptions,
    ExportOptions,
    MergeOptions,
    SweepOptions,
    evaluation,
)
from mgraph.graph.labelled import Labelled
from mgraph.keywords import refuse_unknown
from mgraph.notebook import InNotebook
from mgraph.session.members import ends_of, label
from mgraph.session.session import Session
from mgraph.shown import visible
from mgraph_store import Connection, Node, Series, Space, Summary, Sweep

if TYPE_CHECKING:
    import torch
    from torch import nn

    from mgraph.evaluate.metrics import Measured
    from mgraph.evaluate.sharpness import SharpnessSettings
    from mgraph.exporting.writing import Exported
    from mgraph.families import Grid
    from mgraph.graph.places import Place
    from mgraph.operations.archiving import Archived
    from mgraph.operations.merging import MergeResult
    from mgraph.operations.surroundings import Sharpness
    from mgraph.operations.voted import EnsembleResult
    from mgraph.progress import ProgressCallback
    from mgraph.query.sweepdata import SweepData

PathLike = str | os.PathLike[str]


class Point(Labelled, InNotebook):
    """A node of the graph."""

    record: Node

    def __init__(self, session: Session, record: Node, notes: Sequence[str] = ()) -> None:
        self._session = session
        self.record = record
        self.notes = list(notes)

    id = property(lambda self: self.record.id, doc="Its id.")
    name = property(lambda self: self.record.name, doc="Its name, if it has one.")
    kind = property(lambda self: self.record.kind, doc="mode, control, sample or merged.")
    digest = property(lambda self: self.record.digest, doc="Digest of its stored parameters, ``sha256-…``.")

    @override
    def __repr__(self) -> str:
        return visible(f"<{self.kind} {label(self.record)}>")

    @override
    def _shown(self) -> dict[str, Any]:
        return shows.of_node(self.describe())

    @override
    def _title(self) -> str:
        return f"{self.kind} {label(self.record)}"

    def describe(self) -> dict[str, Any]:
        """Return everything about it, as plain data."""
        from mgraph.bookkeeping.describing import describe_node

        return describe_node(self._session.store, self.record)

    def tensors(self) -> Any:
        """Return its parameters as a mapping name → array (views of one flat array; no torch)."""
        return self._session.store.tensors(self.record)

    def series(self) -> list[dict[str, Any]]:
        """Return what was recorded while it was trained, one row for each number.

        By step: the mean train_loss since the previous entry, train_accuracy on some of those batches, as training saw
        them, the learning_rate, and the distance from where it began (L2).
        """
        from mgraph.query.observed import ConnectionSeries

        return ConnectionSeries.of(self._recorded()).numbers()

    def plot(self, path: PathLike, *, dark: bool = False) -> Path:
        """Draw what was recorded while it was trained (.png, .pdf or .svg); InputError if nothing was."""
        from mgraph.figures import Look
        from mgraph.report.history import plot_history

        name = label(self.record)
        command = shlex.join(["mgraph", "plot", name, *(["--dark"] if dark else [])])
        look = Look(dark, {"command": command, "graph": self._session.store.path.name})
        return plot_history(self._recorded(), Path(path), title=name, look=look)

    def draw(self, ax: Any = None, *, quantity: str = "train_loss") -> Any:
        """Draw one quantity of its training by step on a Matplotlib Axes (default: of a new figure), and return that.

        Raises InputError, saying what was recorded, for another quantity.
        """
        from mgraph.figures import drawing_on
        from mgraph.report.history import LABELS, draw_series, series_of

        found = series_of(self._recorded(), quantity, label(self.record))
        with drawing_on(ax) as axes:
            return draw_series(axes, found, label=LABELS.get(quantity))

    def _recorded(self) -> list[Series]:
        with self._session.store.reading() as reader:
            return reader.all(Series, node_id=self.record.id)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return parameters and buffers as plain PyTorch loads them; missing statistics are recomputed."""
        from mgraph.operations.export import node_state

        return node_state(self._session, self.record)

    def model(self, *, device: str = "cpu") -> nn.Module:
        """Build the network with its parameters and statistics, in evaluation mode: ``a.model()(inputs)``.

        It is a separate copy: changes to it have no effect here, and vice versa. Statistics are its own, or recomputed
        if it has none. Raises InputError for a device that does not exist.
        """
        from mgraph.operations.export import node_module

        return node_module(self._session, self.record, device)

    def evaluate(self, split: str = "test", **options: Unpack[EvaluateOptions]) -> dict[str, Measured]:
        """Measure it now on a split with its own statistics: ``a.evaluate("test", metrics=["ece", function])``.

        ``metrics`` are measured besides the loss and the task's own, and named as for :meth:`Connected.sweep`; with
        ``examples``, only on a fixed random subset of that size. Nothing is stored, unless ``save`` asks to store
        numbers that a mode or merged node lacks.
        """
        measured: dict[str, dict[str, Measured]] = evaluation(self.id, [split], options).run(self._session)
        return measured[split]

    def measure(self) -> dict[str, dict[str, Measured]]:
        """Measure a mode or merged node on all splits, and store the numbers that are missing.

        This is for a mode that was stored but whose measurement failed. Existing numbers stay. Raises InputError if it
        cannot be measured, and NonFiniteError, after storing, if a loss is not finite.
        """
        from mgraph.jobs.points import EvaluateJob

        measured: dict[str, dict[str, Measured]] = EvaluateJob(node=self.id, save=True).run(self._session)
        return measured

    def archive(self, rounding: str, *, name: str | None = None) -> Archived:
        """Store a rounded copy, compressed: ``point.archive("bf16", name="small").changes()``; the original stays.

        ``rounding`` is bf16, or bitround:N for N bits of the mantissa. What this changes on every split is measured and
        kept with the copy. Raises InputError for an unknown rounding, NonFiniteError if the copy is not finite.
        """
        from mgraph.jobs.points import ArchiveJob

        archived: Archived = ArchiveJob(node=self.id, rounding=rounding, name=name).run(self._session)
        return archived

    def sharpness(
        self, settings: SharpnessSettings | None = None, *, progress: ProgressCallback | None = None, **changes: Any
    ) -> Sharpness:
        """Measure how sharp the minimum around it is (perturbation profile and relative flatness), and store the
        result.

        Keywords are fields of :class:`SharpnessSettings`. BatchNorm statistics are recomputed for every perturbed
        point. Raises NonFiniteError, storing nothing, if a loss is NaN or infinite.
        """
        from mgraph.evaluate.sharpness import SharpnessSettings
        from mgraph.jobs.points import SharpnessJob

        chosen = replace(settings, **changes) if settings else SharpnessSettings.parse(changes)
        found: Sharpness = SharpnessJob(node=self.id, settings=chosen).run(self._session, **_progress(progress))
        return found

    def export(self, path: PathLike, **options: Unpack[ExportOptions]) -> Exported:
        """Write it as weights (.safetensors, .pt) that plain PyTorch loads, or as a program (.pt2, .onnx).

        A model card is written beside it. The file is run in a fresh process without mgraph before it is there, unless
        ``verify`` is False. With ``normalise`` a program takes inputs as the data hold them. A path without an ending
        is a directory, for ``from_pretrained`` of transformers or, of adapters, of peft, and not run. Raises InputError
        for a network that the format cannot express.
        """
        from mgraph.jobs.points import ExportJob

        refuse_unknown("export", options, ExportOptions)
        written: Exported = ExportJob(node=self.id, path=str(Path(path)), **options).run(self._session)
        return written


class Connected(Labelled, Drawn, InNotebook):
    """A connection of the graph."""

    record: Connection

    def __init__(self, session: Session, record: Connection, notes: Sequence[str] = ()) -> None:
        self._session = session
        self.record = record
        self.notes = list(notes)

    id = property(lambda self: self.record.id, doc="Its id.")
    name = property(lambda self: self.record.name, doc="Its name, if it has one.")
    kind = property(lambda self: self.record.kind, doc="The method that made it.")

    @override
    def __repr__(self) -> str:
        return visible(f"<{self.kind} {label(self.record)}>")

    @override
    def _shown(self) -> dict[str, Any]:
        return shows.of_connection(self.describe())

    @override
    def _title(self) -> str:
        return f"{self.kind} {label(self.record)}"

    @property
    def ends(self) -> list[Point]:
        """The modes it connects, in order."""
        with self._session.store.reading() as reader:
            return [Point(self._session, node) for node in ends_of(reader, self.record)]

    def describe(self, sweep: Sweep | None = None) -> dict[str, Any]:
        """Return everything about it, as plain data, with the numbers of its finest sweep or of the one given."""
        from mgraph.bookkeeping.describing import describe_connection

        method = self._session.method_of(self.record)
        return describe_connection(self._session.store, self.record, sweep, method)

    def sweep(
        self,
        grid: int | Sequence[int] | Grid | None = None,
        *,
        progress: ProgressCallback | None = None,
        **options: Unpack[SweepOptions],
    ) -> SweepData:
        """Measure it on a grid (default 61 points of a path, 11×11 of a surface) and store points, numbers, edges.

        Keywords (:class:`~mgraph.graph.keywords.SweepOptions`): with ``refine`` points are added where ``refine_on``
        (default: the train loss) bends, until linear interpolation errs by about that much at most, or there are
        ``max_points`` (default 2000). For a chain, ``inner`` gives the number of points on every piece between its
        control points, instead of a grid; a band is by default swept at its pivots and nine points in every gap.
        ``splits`` are train, valid and test unless given. ``examples`` per split and ``bn_examples`` for BatchNorm
        statistics are fixed random subsets; ``precision`` is fp32, tf32 or bf16. ``metrics`` are measured besides the
        loss and the task's own: 'top5', 'ece', 'brier', 'nll', 'file.py:function', 'module:function', or functions
        (outputs, targets) → one number, or one for each example. ``route_on`` is the split whose loss chooses the route
        between two ends of a surface or simplex, train or valid; every split is then measured along it. Numbers of
        earlier sweeps under the same conditions are reused, and an interrupted sweep is continued, unless ``reuse`` is
        False.

        Raises NonFiniteError, after storing what was found, if a train loss is NaN or infinite.
        """
        from mgraph.families import Grid
        from mgraph.jobs.connections import SweepJob

        refuse_unknown("sweep", options, SweepOptions)
        given: dict[str, Any] = {**options}
        finer = {name: given.pop(name) for name in ("refine", "refine_on", "max_points") if name in given}
        given |= {name: tuple(given[name]) for name in ("splits", "metrics") if name in given}
        job = SweepJob(
            connection=self.id,
            grid=None if isinstance(grid, Grid) else counts_of(grid),
            refine=_refinement(**finer),
            **given,
        )
        if isinstance(grid, Grid):
            job = job.on(grid)
        swept: SweepData = job.run(self._session, **_progress(progress))
        return swept

    def swept(self) -> SweepData:
        """Return its finest sweep, from which its edges are; InputError if there is none."""
        from mgraph.query.sweepdata import load_sweep

        with self._session.store.reading() as reader:
            return load_sweep(reader, self.record)

    def series(self) -> list[dict[str, Any]]:
        """Return everything that its method recorded while running, one row for each number."""
        from mgraph.query.observed import ConnectionSeries

        with self._session.store.reading() as reader:
            return ConnectionSeries.of(reader.all(Series, connection_id=self.record.id)).numbers()

    def table(self) -> dict[str, Any]:
        """Return the papers' tables of its finest sweep as plain data; InputError if there is none.

        Min, Int and Max of train loss, train error and test error with the length ratio ([G] table 2); on surfaces and
        simplices also the test accuracy of the point chosen on validation data, of the mean, of the corners and,
        separately, of the oracle ([S] table 1). Only losses if the task has no accuracy.
        """
        from mgraph.query.sweepdata import load_sweep
        from mgraph.report.tables import paper_tables

        with self._session.store.reading() as reader:
            data = load_sweep(reader, self.record)
            summaries = reader.all(Summary, connection_id=self.record.id, sweep_id=data.sweep.id)
            ends = [label(node) for node in ends_of(reader, self.record)]
        return {"connection": label(self.record), "kind": self.kind, "ends": ends} | paper_tables(data, summaries)

    def table_cells(self) -> list[dict[str, Any]]:
        """Return the same tables as one number per row."""
        from mgraph.report.tables import table_cells

        return table_cells(self.table())

    def best(self) -> Point:
        """Return the swept point that does best on validation data (ties: loss; then grid order).

        Raises InputError if it was not swept on validation data.
        """
        from mgraph.query.sweepdata import finest_sweep, load_sweep

        with self._session.store.reading() as reader:
            data = load_sweep(reader, self.record, finest_sweep(reader, self.record, split="valid"))
            if ("valid", "loss") not in data.values:
                raise InputError(f"{label(self.record)} was not swept on validation data, which choose the best point.")
            return Point(self._session, reader.get(Node, id=data.node_ids[data.best("valid")]))

    def at(self, *parameter: float | Sequence[float]) -> Point | Place:
        """Return its point at a parameter: ``curve.at(0.3)``, ``s.at(0.5, 0.5)``; one number for each coordinate.

        If there is a node (a swept point, an end or another control point), it is returned. Anywhere else, the result
        is a :class:`~mgraph.graph.places.Place`, of which nothing is stored unless you call its ``merge(name=…)``.
        Raises InputError for a parameter outside the connection's domain.
        """
        from mgraph.graph.places import Place
        from mgraph.operations.places import find_place

        one = parameter[0] if len(parameter) == 1 else parameter
        found = find_place(self._session, self.record, one)  # type: ignore[arg-type]  # which says what is wrong
        return Point(self._session, found) if isinstance(found, Node) else Place(self._session, self, found)

    def merge(
        self,
        *,
        at: float | Sequence[float] | None = None,
        progress: ProgressCallback | None = None,
        **options: Unpack[MergeOptions],
    ) -> MergeResult:
        """Store a merged node: the best swept point if it is better than the best corner, else that corner.

        This is decided on validation data, by the temperature-scaled likelihood of the labels and allowing for all
        points that were tried (the result's ``decision``); ``best`` takes the swept point that is best there in any
        case. ``refine`` continues the search from the best swept point, with that many more points; ``at`` a parameter,
        or a ``soup``, uniform or greedy, is stored as it is. ``name`` is that of the node. BatchNorm statistics are
        recomputed, from ``bn_examples``, and stored. Raises InputError for a point on a wall between the corners,
        unless ``force``.
        """
        from mgraph.jobs.points import MergeJob

        refuse_unknown("merge", options, MergeOptions)
        where = None if at is None else (at,) if isinstance(at, int | float) else tuple(at)
        job = MergeJob(connection=self.id, at=where, **options)
        merged: MergeResult = job.run(self._session, **_progress(progress))
        return merged

    def ensemble(
        self,
        *,
        grid: int | Sequence[int] | None = None,
        progress: ProgressCallback | None = None,
        **options: Unpack[EnsembleOptions],
    ) -> EnsembleResult:
        """Let the points of a grid vote (default: nine points), compared with its ends and as many independent modes.

        ``g.ensemble(f"{name}@5")`` does the same, and lets other models join; it has the same keywords.
        """
        from mgraph.jobs.points import EnsembleJob

        refuse_unknown("ensemble", options, EnsembleOptions)
        further: dict[str, Any] = {name: value for name, value in options.items() if name not in ("where", "space")}
        job = EnsembleJob(members=(self.on_grid(grid),), **further)
        voted: EnsembleResult = job.run(self._session, **_progress(progress))
        return voted

    @override
    def on_grid(self, grid: int | Sequence[int] | None) -> str:
        """Return how a set names the points of a grid on it (default: nine points); InputError for a bad grid."""
        from mgraph.models.sets import few_points

        family = self._session.family_of(self.record)
        counts = family.grid(few_points(family) if grid is None else counts_of(grid) or ()).counts
        return f"{self.id}@{','.join(map(str, counts))}"

    def export_ensemble(
        self,
        directory: PathLike,
        *,
        grid: int | Sequence[int] | None = None,
        progress: ProgressCallback | None = None,
        **options: Unpack[ExportOptions],
    ) -> dict[str, Any]:
        """Write one file per member and a manifest into a directory, or, as .pt2 or .onnx, a program of all of them.

        The program returns the mean of its members' votes. By default they are nine points, as of :meth:`ensemble`;
        :meth:`Graph.export_ensemble` takes any set. Keywords are those of :meth:`Point.export`. Returns the manifest.
        """
        from mgraph.jobs.points import ExportEnsembleJob

        refuse_unknown("export_ensemble", options, ExportOptions)
        job = ExportEnsembleJob(members=(self.on_grid(grid),), path=str(Path(directory)), **options)
        manifest: dict[str, Any] = job.run(self._session, **_progress(progress))
        return manifest

    def connect_straight(self, *, progress: ProgressCallback | None = None) -> Connected:
        """Connect the same ends by linear interpolation and sweep that on the same grid."""
        from mgraph.jobs.connections import ConnectJob
        from mgraph.methods.linear import Linear

        job = ConnectJob(ends=tuple(point.id for point in self.ends), method=Linear())
        straight = Connected(self._session, job.run(self._session))
        straight.sweep(self.swept().grid, progress=progress)
        return straight

    def straight(self) -> Connected | None:
        """Return the newest swept linear connection of the same ends in the same order, if there is one."""
        from mgraph.query.sweepdata import family_of, finest_sweep

        with self._session.store.reading() as reader:
            mine = [n.id for n in ends_of(reader, self.record)]
            candidates = reader.all(Connection, kind="linear", space_id=self.record.space_id)
            for other in reversed(candidates):
                same = family_of(other).coordinates == family_of(self.record).coordinates
                swept = finest_sweep(reader, other) is not None
                if same and swept and [n.id for n in ends_of(reader, other)] == mine:
                    return Connected(self._session, other)
        return None

    @property
    def space(self) -> Space:
        """Its space."""
        with self._session.store.reading() as reader:
            return reader.get(Space, id=self.record.space_id)


def counts_of(grid: int | Sequence[int] | None) -> tuple[int, ...] | None:
    """Return the points of a grid along each parameter; one number applies to all of them."""
    if grid is None:
        return None
    return (grid,) if isinstance(grid, int) else tuple(grid)


def _refinement(refine: float | None = None, refine_on: str = "train loss", max_points: int = 2000) -> Any:
    from mgraph.evaluate.refine import Refinement

    return None if refine is None else Refinement.of(refine, refine_on, max_points)


def _progress(progress: ProgressCallback | None) -> dict[str, Any]:
    return {} if progress is None else {"progress": progress}
