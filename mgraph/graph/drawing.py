"""Pictures of a connection, and its basins: a part of :class:`mgraph.graph.handles.Connected` (no torch)."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from mgraph.errors import InputError
from mgraph.graph.keywords import PlotOptions
from mgraph.keywords import refuse_unknown
from mgraph.query.sweepdata import SweepData, family_of, load_sweep
from mgraph.session.members import ends_of, label
from mgraph_store import Connection, Series

if TYPE_CHECKING:
    from mgraph.figures import Look
    from mgraph.operations.projecting import Trace
    from mgraph.progress import ProgressCallback
    from mgraph.query.basins import Basins
    from mgraph.report.plots import Wanted
    from mgraph.session.session import Session

PathLike = str | os.PathLike[str]


class Drawn(ABC):
    """Pictures of a connection's finest sweep. Files end in .png, .pdf or .svg; ``dark``: on a dark background."""

    _session: Session
    record: Connection

    @abstractmethod
    def on_grid(self, grid: int | Sequence[int] | None) -> str:
        """Return how a set names the points of a grid on it."""

    def plot(
        self,
        path: PathLike,
        *,
        before: Drawn | None = None,
        paths: Sequence[Drawn | str] = (),
        dark: bool = False,
        **shown: Unpack[PlotOptions],
    ) -> Path:
        """Draw its finest sweep: heat maps of a surface (beside those of ``before``) or simplex, curves along t.

        A band's pivots are marked, and its saddle is drawn by cycle; of an LLPF path loss, accuracy, distances and
        variances by tick, the test curves, and continuity. On a plane, ``paths`` are projected, with their distance
        from it (:meth:`project`). ``splits`` and ``metrics`` choose what is drawn: without
        them, the loss and the primary metric.
        """
        from mgraph.families import PlaneFamily
        from mgraph.report.plots import plot_sweep

        if isinstance(family_of(self.record), PlaneFamily) and not shown.get("relief"):
            return self._plot_plane(Path(path), paths, dark=dark, wanted=_wanted(shown))
        if paths:
            kind = "drawn as a relief" if self.record.kind == "plane" else f"a {self.record.kind}"
            raise InputError(f"Paths are projected on a plane seen from above, and {label(self.record)} is {kind}.")
        with self._session.store.reading() as reader:
            data = load_sweep(reader, self.record)
            earlier = None if before is None else load_sweep(reader, before.record)
            names = [label(node) for node in ends_of(reader, self.record)]
            series = reader.all(Series, connection_id=self.record.id)
        return plot_sweep(
            data,
            names,
            Path(path),
            before=earlier,
            method=self._session.method_of(self.record),
            series=series,
            wanted=_wanted(shown),
            look=self._look(dark=dark, sweep=data.sweep.id),
        )

    def _plot_plane(self, path: Path, paths: Sequence[Drawn | str], *, dark: bool, wanted: Wanted) -> Path:
        from mgraph.operations.projecting import project_nodes
        from mgraph.report.planeplots import plot_plane

        nodes = project_nodes(self._session, self.record)
        traces = [*([] if nodes is None else [nodes]), *(self.project(one) for one in paths)]
        data, name = self._sweep(), label(self.record)
        return plot_plane(
            data,
            self._end_names(),
            path,
            title=f"{name}\n{self.record.reason}" if self.record.name else str(self.record.reason),
            traces=traces,
            wanted=wanted,
            look=self._look(*(f"--path {trace.label}" for trace in traces), dark=dark, sweep=data.sweep.id),
        )

    def project(self, path: Drawn | str) -> Trace:
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

    def draw(self, axes: Any, **shown: Unpack[PlotOptions]) -> Any:
        """Draw one panel of its finest sweep on a Matplotlib Axes, and return the Axes.

        This is the heat map or the curves of the first of ``metrics`` on the first of ``splits`` (curves: on all of
        them); by default the train loss.
        """
        from mgraph.report.plots import draw_on

        return draw_on(axes, self._sweep(), self._end_names(), _wanted(shown))

    def plot_ensemble(
        self,
        path: PathLike,
        *,
        grid: int | Sequence[int] | None = None,
        bn_examples: int | None = None,
        dark: bool = False,
        progress: ProgressCallback | None = None,
    ) -> Path:
        """Draw what voting by its points gains (default: 21 of a path, nine of a surface), on test data.

        Along a path, this shows θ(t) and the ensemble of the first end and θ(t) ([G] fig. 4); and always the ensemble
        of a growing number of points, beside that of as many independent modes. Nothing is stored. Raises InputError if
        members cannot vote.
        """
        from mgraph.figures import check_path
        from mgraph.operations.growth import growth
        from mgraph.report.ensembleplots import plot_growth

        check_path(Path(path))
        if grid is None and family_of(self.record).dimension == 1:
            grid = 21
        found = growth(
            self._session, self.on_grid(grid), bn_examples, **({} if progress is None else {"progress": progress})
        )
        return plot_growth(
            found.metric,
            Path(path),
            title=label(self.record),
            first=found.first,
            along=(found.t, found.single, found.pair),
            members=(found.points, found.modes),
            look=self._look("--ensemble", dark=dark),
        )

    def plot_flips(
        self,
        path: PathLike,
        *,
        grid: int | None = None,
        bn_examples: int | None = None,
        dark: bool = False,
        progress: ProgressCallback | None = None,
    ) -> Path:
        """Draw which test examples are predicted otherwise along a path (default: at 21 points), and how many.

        Nothing is stored but cached outputs. Raises InputError for what is no path, and a task without classes.
        """
        from mgraph.figures import check_path
        from mgraph.operations.flips import flips
        from mgraph.report.flipplots import plot_flips

        check_path(Path(path))
        if family_of(self.record).dimension != 1:
            raise InputError(f"{label(self.record)} is a {self.record.kind}; predictions are followed along a path.")
        how = {} if progress is None else {"progress": progress}
        found = flips(self._session, self.on_grid(grid or 21), bn_examples, **how)
        return plot_flips(found, Path(path), look=self._look("--flips", dark=dark))

    def check_plot(self, path: PathLike, **shown: Unpack[PlotOptions]) -> None:
        """Raise InputError early for what :meth:`plot` could not draw later."""
        from mgraph.figures import check_path
        from mgraph.report.plots import check_drawable

        check_path(Path(path))
        swept = self._sweep()
        check_drawable(swept)
        _wanted(shown).check(swept)

    def basins(self, *, split: str = "train", metric: str = "loss", depth: float | None = None) -> Basins:
        """Find the basins of its finest sweep, and the saddles at which they join: ``wall.basins().rows()``.

        A basin is left out if it is shallower than ``depth`` (default: 1 % of the range of the values). Its ``tree`` is
        like the graph's dendrogram. Raises InputError if it was not swept on this split and metric.
        """
        from mgraph.query.basins import basins_of

        return basins_of(self._sweep(), self._end_names(), split=split, metric=metric, depth=depth)

    def plot_basins(
        self,
        path: PathLike,
        *,
        split: str = "train",
        metric: str = "loss",
        depth: float | None = None,
        dark: bool = False,
    ) -> Path:
        """Draw its finest sweep with basins and saddles marked, beside the tree of their merges."""
        from mgraph.figures import check_path
        from mgraph.report.basinplots import plot_basins

        check_path(Path(path))
        found = self.basins(split=split, metric=metric, depth=depth)
        look = self._look("--basins", dark=dark, sweep=found.data.sweep.id)
        return plot_basins(found, Path(path), title=label(self.record), look=look)

    def _look(self, *words: str, dark: bool, sweep: str | None = None) -> Look:
        from mgraph.figures import Look

        command = " ".join(["mgraph plot", label(self.record), *words])
        about = {"command": command, "graph": self._session.store.path.name}
        return Look(dark, about if sweep is None else about | {"sweep": sweep}, label(self.record))

    def _sweep(self) -> SweepData:
        with self._session.store.reading() as reader:
            return load_sweep(reader, self.record)

    def _end_names(self) -> list[str]:
        with self._session.store.reading() as reader:
            return [label(node) for node in ends_of(reader, self.record)]


def _wanted(shown: PlotOptions) -> Wanted:
    from mgraph.report.plots import Wanted

    refuse_unknown("plot", shown, PlotOptions)
    return Wanted(tuple(shown.get("splits") or ()), tuple(shown.get("metrics") or ()), bool(shown.get("relief")))
