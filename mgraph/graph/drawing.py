"""Pictures of a connection, as files: a part of :class:`mgraph.graph.handles.Connected` (no torch)."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from mgraph.graph.keywords import PlotOptions
from mgraph.graph.panels import Panels, wanted_of
from mgraph.session.members import label
from mgraph.settings import words_of
from mgraph_store import Series

if TYPE_CHECKING:
    from mgraph.figures import Look
    from mgraph.progress import ProgressCallback
    from mgraph.report.plots import Wanted

PathLike = str | os.PathLike[str]


class Drawn(Panels):
    """Pictures of a connection's finest sweep. Files end in .png, .pdf or .svg; ``dark``: on a dark background."""

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
        from mgraph.query.sweepdata import family_of
        from mgraph.report.plots import plot_sweep

        wanted, words = wanted_of(shown), words_of(PlotOptions, shown)
        if isinstance(family_of(self.record), PlaneFamily) and not wanted.relief:
            return self._plot_plane(Path(path), paths, words, dark=dark, wanted=wanted)
        self._traces(paths, relief=wanted.relief)
        data, earlier = self._sweep(), None if before is None else before._sweep()
        if self.trained:
            words.append("--no-before" if before is None else "--before")
        with self._session.store.reading() as reader:
            series = reader.all(Series, connection_id=self.record.id)
        return plot_sweep(
            data,
            self._end_names(),
            Path(path),
            before=earlier,
            method=self._session.method_of(self.record),
            series=series,
            wanted=wanted,
            look=self._look(*words, dark=dark, sweep=data.sweep.id),
        )

    def _plot_plane(
        self, path: Path, paths: Sequence[Drawn | str], words: Sequence[str], *, dark: bool, wanted: Wanted
    ) -> Path:
        from mgraph.report.planeplots import plot_plane

        traces = self._traces(paths, relief=False)
        data, name = self._sweep(), label(self.record)
        named = [word for one in paths for word in ("--path", one if isinstance(one, str) else label(one.record))]
        return plot_plane(
            data,
            self._end_names(),
            path,
            title=f"{name}\n{self.record.reason}" if self.record.name else str(self.record.reason),
            traces=traces,
            wanted=wanted,
            look=self._look(*named, *words, dark=dark, sweep=data.sweep.id),
        )

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
        from mgraph.report.ensembleplots import plot_growth

        check_path(Path(path))
        found = self._growth(grid, bn_examples, progress)
        return plot_growth(found, Path(path), look=self._look("--ensemble", *_grid_words(grid), dark=dark))

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
        from mgraph.report.flipplots import plot_flips

        check_path(Path(path))
        found = self._flips(grid, bn_examples, progress)
        return plot_flips(found, Path(path), look=self._look("--flips", *_grid_words(grid), dark=dark))

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
        words = ["--basins", "--split", split, "--metric", metric]
        look = self._look(*words, dark=dark, sweep=found.data.sweep.id)
        return plot_basins(found, Path(path), title=label(self.record), look=look)

    def check_plot(self, path: PathLike, **shown: Unpack[PlotOptions]) -> None:
        """Raise InputError early for what :meth:`plot` could not draw later."""
        from mgraph.figures import check_path
        from mgraph.report.plots import check_drawable

        check_path(Path(path))
        swept = self._sweep()
        check_drawable(swept)
        wanted_of(shown).check(swept)

    @property
    def trained(self) -> bool:
        """Whether its method trains anything, so that there is a before and an after."""
        from mgraph.query.sweepdata import family_of

        return self.record.kind not in ("linear", "composite", "plane") and bool(family_of(self.record).free)

    def _look(self, *words: str, dark: bool, sweep: str | None = None) -> Look:
        from mgraph.figures import Look

        command = shlex.join(["mgraph", "plot", label(self.record), *words, *(["--dark"] if dark else [])])
        about = {"command": command, "graph": self._session.store.path.name}
        return Look(dark, about if sweep is None else about | {"sweep": sweep}, label(self.record))


def _grid_words(grid: int | Sequence[int] | None) -> list[str]:
    counts = [grid] if isinstance(grid, int) else grid
    return [] if counts is None else ["--grid", ",".join(map(str, counts))]
