"""Panels of a connection's pictures, each on a Matplotlib Axes: a part of :class:`mgraph.graph.handles.Connected`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

from mgraph.errors import InputError
from mgraph.graph.keywords import PlotOptions
from mgraph.keywords import refuse_unknown
from mgraph.session.members import ends_of, label
from mgraph.session.session import Session
from mgraph_store import Connection, Series

if TYPE_CHECKING:
    from mgraph.operations.flips import Flips
    from mgraph.operations.growth import Growth
    from mgraph.operations.projecting import Trace
    from mgraph.progress import ProgressCallback
    from mgraph.query.basins import Basins
    from mgraph.query.sweepdata import SweepData
    from mgraph.report.plots import Wanted

Axes = Any
"""An Axes of Matplotlib, which is imported only to draw."""


class Panels(ABC):
    """What pictures of a connection are made of. Every ``draw`` takes an Axes, draws on it, and returns it.

    Without one it makes a new figure (pyplot's, where pyplot is in use): ``curve.draw().figure.savefig("x.pdf")``.
    """

    _session: Session
    record: Connection

    @abstractmethod
    def on_grid(self, grid: int | Sequence[int] | None) -> str:
        """Return how a set names the points of a grid on it."""

    def draw(
        self,
        ax: Axes = None,
        *,
        before: Panels | None = None,
        paths: Sequence[Panels | str] = (),
        **shown: Unpack[PlotOptions],
    ) -> Axes:
        """Draw one panel of its finest sweep: the first of ``metrics`` on the first of ``splits`` (or the train loss).

        This is a heat map, with ``relief`` a surface in three dimensions, or curves along t on all of ``splits``, with
        those of ``before`` dotted. On a plane ``paths`` are projected. Raises InputError for what has no such panel.
        """
        from mgraph.figures import drawing_on
        from mgraph.report.planeplots import draw_trace
        from mgraph.report.plots import check_panel, draw_panel

        data, wanted = self._sweep(), wanted_of(shown)
        earlier = None if before is None else before._sweep()
        check_panel(ax, data, wanted, earlier)
        traces = self._traces(paths, relief=wanted.relief)
        with drawing_on(ax, "3d" if wanted.relief else None) as axes:
            draw_panel(axes, data, self._end_names(), wanted, earlier)
            for number, trace in enumerate(traces):
                draw_trace(axes, trace, number)
        return axes

    def draw_distances(self, ax: Axes = None, *, paths: Sequence[Panels | str] = ()) -> Axes:
        """Draw how far ``paths`` lie from this plane, by t; of a plane of principal components, its nodes too.

        Raises InputError unless this is a plane, and without anything to draw.
        """
        from mgraph.figures import drawing_on
        from mgraph.report.planeplots import draw_distances

        traces = self._traces(paths, relief=False)
        if not traces:
            raise InputError(f"Name the paths whose distance from {label(self.record)} is to be drawn.")
        with drawing_on(ax) as axes:
            return draw_distances(axes, traces)

    def draw_basins(
        self,
        ax: Axes = None,
        *,
        what: str = "map",
        split: str = "train",
        metric: str = "loss",
        depth: float | None = None,
    ) -> Axes:
        """Draw its finest sweep with basins and saddles marked (``what="map"``), or the tree of merges ("tree")."""
        from mgraph.figures import drawing_on, legend_below
        from mgraph.report.basinplots import draw_basin_tree, draw_basins
        from mgraph.report.plots import check_drawable

        _choose(what, ("map", "tree"))
        found = self.basins(split=split, metric=metric, depth=depth)
        if what == "map":
            check_drawable(found.data)
        with drawing_on(ax) as axes:
            if what == "tree":
                return draw_basin_tree(axes, found)
            draw_basins(axes, found)
            legend_below(axes)
        return axes

    def draw_ensemble(
        self,
        ax: Axes = None,
        *,
        what: str = "members",
        grid: int | Sequence[int] | None = None,
        bn_examples: int | None = None,
        progress: ProgressCallback | None = None,
    ) -> Axes:
        """Draw what votes gain on test data: of more and more points (``what="members"``), or along a path ("along").

        Keywords are those of ``plot_ensemble``, and so is what is computed. Raises InputError if members cannot vote.
        """
        from mgraph.figures import drawing_on
        from mgraph.report.ensembleplots import draw_members, draw_pairs

        _choose(what, ("members", "along"))
        if what == "along":
            self._require_path("an end and θ(t) vote together")
        found = self._growth(grid, bn_examples, progress)
        with drawing_on(ax) as axes:
            return (draw_members if what == "members" else draw_pairs)(axes, found)

    def draw_flips(
        self,
        ax: Axes = None,
        *,
        what: str = "shares",
        grid: int | None = None,
        bn_examples: int | None = None,
        progress: ProgressCallback | None = None,
    ) -> Axes:
        """Draw how many test examples are predicted otherwise along a path (``what="shares"``), or which ("examples").

        Keywords are those of ``plot_flips``. Raises InputError for what is no path, and a task without classes.
        """
        from mgraph.figures import drawing_on, legend_below
        from mgraph.report.flipplots import draw_flips, draw_shares

        _choose(what, ("shares", "examples"))
        found = self._flips(grid, bn_examples, progress)
        with drawing_on(ax) as axes:
            if what == "examples":
                return draw_flips(axes, found)
            draw_shares(axes, found).set(xlabel=f"t   ({found.first} at 0, {found.last} at 1)", xlim=(0, 1))
            legend_below(axes)
        return axes

    def draw_series(self, ax: Axes = None, *, quantity: str = "train_loss") -> Axes:
        """Draw what its method recorded while it ran (see :meth:`series`): a line for each subject, such as a layer.

        Raises InputError, saying what was recorded, for another quantity.
        """
        from mgraph.figures import drawing_on
        from mgraph.report.history import draw_series, series_of

        with self._session.store.reading() as reader:
            recorded = reader.all(Series, connection_id=self.record.id)
        found = series_of(recorded, quantity, label(self.record))
        with drawing_on(ax) as axes:
            return draw_series(axes, found, along=_POSITIONS.get(self.record.kind, "step"))

    def project(self, path: Panels | str) -> Trace:
        """Project a path on this plane: ``plane.project("curve").distance`` is how far each of its points lies from it.

        Raises InputError unless this is a plane, and for a connection that is no path or of another space.
        """
        from mgraph.operations.projecting import project_path

        if isinstance(path, str):
            with self._session.store.reading() as reader:
                found = reader.find_connection(path)
        else:
            found = path.record
        return project_path(self._session, self.record, found)

    def basins(self, *, split: str = "train", metric: str = "loss", depth: float | None = None) -> Basins:
        """Find the basins of its finest sweep, and the saddles at which they join: ``wall.basins().rows()``.

        A basin is left out if it is shallower than ``depth`` (default: 1 % of the range of the values). Its ``tree`` is
        like the graph's dendrogram. Raises InputError if it was not swept on this split and metric.
        """
        from mgraph.query.basins import basins_of

        return basins_of(self._sweep(), self._end_names(), split=split, metric=metric, depth=depth)

    def _traces(self, paths: Sequence[Panels | str], *, relief: bool) -> list[Trace]:
        """Project paths on this plane, and of one of principal components its nodes; none of another connection."""
        from mgraph.families import PlaneFamily
        from mgraph.operations.projecting import project_nodes
        from mgraph.query.sweepdata import family_of

        if not isinstance(family_of(self.record), PlaneFamily) or relief:
            if paths:
                kind = "drawn as a relief" if self.record.kind == "plane" else f"a {self.record.kind}"
                raise InputError(f"Paths are projected on a plane seen from above, and {label(self.record)} is {kind}.")
            return []
        nodes = project_nodes(self._session, self.record)
        return [*([] if nodes is None else [nodes]), *(self.project(one) for one in paths)]

    def _growth(
        self, grid: int | Sequence[int] | None, bn_examples: int | None, progress: ProgressCallback | None
    ) -> Growth:
        from mgraph.operations.growth import growth
        from mgraph.query.sweepdata import family_of

        if grid is None and family_of(self.record).dimension == 1:
            grid = 21
        told = {} if progress is None else {"progress": progress}
        return growth(self._session, self.on_grid(grid), bn_examples, **told)

    def _flips(self, grid: int | None, bn_examples: int | None, progress: ProgressCallback | None) -> Flips:
        from mgraph.operations.flips import flips

        self._require_path("predictions are followed")
        told = {} if progress is None else {"progress": progress}
        return flips(self._session, self.on_grid(grid or 21), bn_examples, **told)

    def _require_path(self, what: str) -> None:
        from mgraph.query.sweepdata import family_of

        if family_of(self.record).dimension != 1:
            raise InputError(f"{label(self.record)} is a {self.record.kind}; {what} along a path.")

    def _sweep(self) -> SweepData:
        from mgraph.query.sweepdata import load_sweep

        with self._session.store.reading() as reader:
            return load_sweep(reader, self.record)

    def _end_names(self) -> list[str]:
        with self._session.store.reading() as reader:
            return [label(node) for node in ends_of(reader, self.record)]


_POSITIONS = {"neb": "cycle", "llpf": "tick"}


def _choose(what: str, known: tuple[str, ...]) -> None:
    if what not in known:
        raise InputError(f"What is drawn is {' or '.join(known)}, not {what!r}.")


def wanted_of(shown: PlotOptions) -> Wanted:
    """Return what of a sweep is drawn; TypeError for an unknown keyword."""
    from mgraph.report.plots import Wanted

    refuse_unknown("plot", shown, PlotOptions)
    return Wanted(tuple(shown.get("splits") or ()), tuple(shown.get("metrics") or ()), bool(shown.get("relief")))
