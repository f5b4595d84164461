"""Pictures of a whole graph, and its report page: a part of :class:`mgraph.Graph` (no torch)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import numpy as np
from numpy.typing import NDArray

from mgraph.errors import InputError
from mgraph.families.gram import gram
from mgraph.graph.base import Opened
from mgraph.query.criterion import Criteria
from mgraph.query.metrics import criterion_in
from mgraph.query.sweepdata import family_of

if TYPE_CHECKING:
    from mgraph.figures import Look
    from mgraph.query.edges import Vertex
    from mgraph.query.matrix import Chart, Matrix


class Pictures(Opened):
    """Pictures of the edges that :class:`Criteria` choose; InputError if no edge was measured in that way.

    Files end in .png, .pdf or .svg, that of the report page in .html; ``dark`` draws on a dark background.
    """

    def matrix(self, *, space: str | None = None, **criteria: Unpack[Criteria]) -> Matrix:
        """Return the values of all pairs, by best edge and by best route: ``g.matrix(by="barrier").direct``."""
        from mgraph.query.matrix import matrix

        within = self._space_of(space)
        return matrix(self.session.store, criterion_in(self.session.store, within, **criteria), within)

    def check_picture(self, path: str | PathLike[str]) -> None:
        """Raise InputError early for a file to which no picture could be written later."""
        from mgraph.figures import check_path

        check_path(Path(path))

    def check_paths(self, paths: Sequence[str]) -> None:
        """Raise InputError early for what could not be projected on a plane later; NotFoundError for a wrong name."""
        for name in paths:
            found = self.connection(name)
            if family_of(found.record).dimension != 1:
                raise InputError(f"{name} is a {found.kind}, not a path; only paths are projected on a plane.")

    def plot_map(
        self,
        path: str | PathLike[str],
        *,
        layout: str = "barrier",
        space: str | None = None,
        dark: bool = False,
        **criteria: Unpack[Criteria],
    ) -> Path:
        """Draw modes and edges, components shaded, laid out by ``barrier``, ``distance`` or ``disagreement``.

        The last two are distances in weight space, and in function space: the share of test examples that two modes
        sort into different classes. Several, with commas, are drawn side by side. Edges are coloured by what is
        compared, peak, barrier or drop, from 0 to the limit at least; components are those within the limit, if there
        is one.
        """
        from mgraph.figures import check_path
        from mgraph.query.matrix import chart
        from mgraph.report.graphplots import check_layout, plot_map

        check_path(Path(path))
        wanted = check_layout(layout)
        within = self._space_of(space)
        shown = chart(self.session.store, criterion_in(self.session.store, within, **criteria), within)
        layouts = {name: self._laid_out(name, shown) for name in wanted}
        return plot_map(shown, layouts, Path(path), look=self._look("map", dark=dark))

    def _laid_out(self, layout: str, shown: Chart) -> NDArray[np.float64]:
        """Return the distances between modes that a layout shows, shape (n, n)."""
        if layout == "distance":
            return self._distances(shown.modes)
        if layout == "disagreement":
            return self._disagreements(shown.modes)
        barriers = shown.direct["barrier"]
        return np.where(np.isfinite(barriers), barriers, shown.best_barrier)

    def _disagreements(self, modes: Sequence[Vertex]) -> NDArray[np.float64]:
        """Return how often modes disagree, shape (n, n); NaN between modes of different spaces."""
        from mgraph.operations.flips import disagreement

        nodes = [self._node(mode.id) for mode in modes]
        found = np.full((len(nodes), len(nodes)), np.nan)
        for space in {node.space_id for node in nodes}:
            same = [i for i, node in enumerate(nodes) if node.space_id == space]
            found[np.ix_(same, same)] = disagreement(self.session, self.session.space(space), [nodes[i] for i in same])
        return found

    def plot_dendrogram(
        self,
        path: str | PathLike[str],
        *,
        space: str | None = None,
        dark: bool = False,
        **criteria: Unpack[Criteria],
    ) -> Path:
        """Draw the values at which groups of modes merge, upright; what merges within a limit is coloured."""
        from mgraph.figures import check_path
        from mgraph.query.tree import dendrogram
        from mgraph.report.treeplots import plot_dendrogram

        check_path(Path(path))
        within = self._space_of(space)
        criterion = criterion_in(self.session.store, within, **criteria)
        tree = dendrogram(self.session.store, criterion.without_limit(), within)
        return plot_dendrogram(tree, criterion.limit, Path(path), look=self._look("dendrogram", dark=dark))

    def plot_matrix(
        self,
        path: str | PathLike[str],
        *,
        space: str | None = None,
        dark: bool = False,
        **criteria: Unpack[Criteria],
    ) -> Path:
        """Draw the matrix of all pairs as a heat map: below the diagonal by best edge, above by best route."""
        from mgraph.figures import check_path
        from mgraph.report.graphplots import plot_matrix

        check_path(Path(path))
        found = self.matrix(space=space, **criteria)
        return plot_matrix(found, Path(path), look=self._look("matrix", dark=dark))

    def _look(self, command: str, *, dark: bool) -> Look:
        """Say how a picture looks, and what its file says about itself."""
        from mgraph.figures import Look

        return Look(dark, {"command": f"mgraph {command}", "graph": self.session.store.path.name})

    def report(
        self,
        path: str | PathLike[str],
        *,
        watch: float | None = None,
        written: Callable[[Path], None] | None = None,
    ) -> Path:
        """Write a page of the whole graph, one HTML file that needs nothing else: ``g.report("report.html")``.

        It shows the graph, tables of nodes, connections and runs, a view of every connection with its points, the
        tree of merges and the matrix, and where everything came from. With ``watch`` it is written again every so many
        seconds, and reloads itself, with how far runs under way have come, until Ctrl-C; ``written`` is called each
        time. Raises InputError, leaving what was there, for a path that does not end in .html or cannot be written.
        """
        from mgraph.page.contents import Contents
        from mgraph.page.watching import watch_page
        from mgraph.page.writing import check_page, write_page

        check_page(Path(path))
        contents = Contents(self.session.store)
        if watch is not None:
            return watch_page(contents, Path(path), watch, written or (lambda _: None))
        return write_page(contents.read(), Path(path))

    def _distances(self, modes: Sequence[Vertex]) -> NDArray[np.float64]:
        """Return the distances between modes in weight space, shape (n, n); NaN between modes of different layouts."""
        points = [self.session.store.read_parameters(mode.id) for mode in modes]
        distances = np.full((len(points), len(points)), np.nan)
        for size in {len(point) for point in points}:
            same = [i for i, point in enumerate(points) if len(point) == size]
            G = gram([points[i] for i in same])
            squares = np.diag(G)[:, None] + np.diag(G)[None, :] - 2 * G
            distances[np.ix_(same, same)] = np.sqrt(np.clip(squares, 0, None))
        return distances
