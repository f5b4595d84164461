"""Pictures of a whole graph, and its report page: a part of :class:`mgraph.Graph` (no torch)."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from mgraph.errors import InputError
from mgraph.graph.base import Opened
from mgraph.graph.keywords import PlotOptions
from mgraph.query.criterion import Criteria
from mgraph.query.metrics import criterion_in
from mgraph.session.members import label
from mgraph.settings import words_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mgraph.figures import Look
    from mgraph.graph.handles import Connected
    from mgraph.query.edges import Vertex
    from mgraph.query.matrix import Chart, Matrix
    from mgraph.query.tree import Dendrogram
    from mgraph.report.pathplots import PathCurve


class Pictures(Opened):
    """Pictures of the edges that :class:`Criteria` choose; InputError if no edge was measured in that way.

    Files end in .png, .pdf or .svg, that of the report page in .html; ``dark`` draws on a dark background. What
    ``plot_map`` writes as a file, ``draw_map`` draws on a Matplotlib Axes, which it returns: ``ax``, or that of a new
    figure; and so on.
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
        from mgraph.query.sweepdata import family_of

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
        from mgraph.report.graphplots import check_layout, plot_map

        check_path(Path(path))
        wanted = check_layout(layout)
        shown = self._chart(space, criteria)
        layouts = {name: self._laid_out(name, shown) for name in wanted}
        look = self._look("map", *_named("--layout", layout, "barrier"), space=space, criteria=criteria, dark=dark)
        return plot_map(shown, layouts, Path(path), look=look)

    def draw_map(
        self, ax: Any = None, *, layout: str = "barrier", space: str | None = None, **criteria: Unpack[Criteria]
    ) -> Any:
        """Draw what :meth:`plot_map` does in one layout on an Axes, and return it."""
        from mgraph.figures import drawing_on
        from mgraph.report.graphplots import check_layout, draw_map

        (wanted,) = check_layout(layout, most=1)
        shown = self._chart(space, criteria)
        distances = self._laid_out(wanted, shown)
        with drawing_on(ax) as axes:
            return draw_map(axes, shown, distances, layout=wanted)

    def _chart(self, space: str | None, criteria: Criteria) -> Chart:
        from mgraph.query.matrix import chart

        within = self._space_of(space)
        return chart(self.session.store, criterion_in(self.session.store, within, **criteria), within)

    def _laid_out(self, layout: str, shown: Chart) -> NDArray[np.float64]:
        """Return the distances between modes that a layout shows, shape (n, n)."""
        import numpy as np

        if layout == "distance":
            return self._distances(shown.modes)
        if layout == "disagreement":
            return self._disagreements(shown.modes)
        barriers = shown.direct["barrier"]
        return np.where(np.isfinite(barriers), barriers, shown.best_barrier)

    def _disagreements(self, modes: Sequence[Vertex]) -> NDArray[np.float64]:
        """Return how often modes disagree, shape (n, n); NaN between modes of different spaces."""
        import numpy as np

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
        from mgraph.report.treeplots import plot_dendrogram

        check_path(Path(path))
        tree, limit = self._tree(space, criteria)
        look = self._look("dendrogram", space=space, criteria=criteria, dark=dark)
        return plot_dendrogram(tree, limit, Path(path), look=look)

    def draw_dendrogram(self, ax: Any = None, *, space: str | None = None, **criteria: Unpack[Criteria]) -> Any:
        """Draw what :meth:`plot_dendrogram` does on an Axes, and return it."""
        from mgraph.figures import drawing_on
        from mgraph.report.treeplots import draw_dendrogram

        tree, limit = self._tree(space, criteria)
        with drawing_on(ax) as axes:
            return draw_dendrogram(axes, tree, limit)

    def _tree(self, space: str | None, criteria: Criteria) -> tuple[Dendrogram, float | None]:
        from mgraph.query.tree import dendrogram

        within = self._space_of(space)
        criterion = criterion_in(self.session.store, within, **criteria)
        return dendrogram(self.session.store, criterion.without_limit(), within), criterion.limit

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
        return plot_matrix(found, Path(path), look=self._look("matrix", space=space, criteria=criteria, dark=dark))

    def draw_matrix(self, ax: Any = None, *, space: str | None = None, **criteria: Unpack[Criteria]) -> Any:
        """Draw what :meth:`plot_matrix` does on an Axes, and return it."""
        from mgraph.figures import drawing_on
        from mgraph.report.graphplots import draw_matrix

        found = self.matrix(space=space, **criteria)
        with drawing_on(ax) as axes:
            return draw_matrix(axes, found)

    def plot_paths(
        self,
        path: str | PathLike[str],
        *,
        paths: Sequence[Connected | str],
        splits: Sequence[str] = (),
        metrics: Sequence[str] = (),
        dark: bool = False,
    ) -> Path:
        """Draw several paths between the same two modes together: the segment, a chain and a curve, as in [G].

        There is a panel for each of ``metrics`` on each of ``splits`` (default: train loss, and the primary metric on
        test data). Raises InputError for connections that are no paths or have other ends, and for what one of them was
        not swept on.
        """
        from mgraph.figures import Look, check_path
        from mgraph.report.pathplots import plot_paths
        from mgraph.report.plots import Wanted

        check_path(Path(path))
        curves, ends = self._curves(paths)
        chosen = words_of(PlotOptions, {"splits": splits, "metrics": metrics})
        words = ["mgraph", "plot", *(one.label for one in curves), *chosen, *(["--dark"] if dark else [])]
        about = {"command": shlex.join(words), "graph": self.session.store.path.name}
        look = Look(dark, about | {"sweeps": " ".join(one.data.sweep.id for one in curves)}, " – ".join(ends))
        return plot_paths(curves, ends, Path(path), wanted=Wanted(tuple(splits), tuple(metrics)), look=look)

    def draw_paths(
        self, ax: Any = None, *, paths: Sequence[Connected | str], split: str = "train", metric: str = "loss"
    ) -> Any:
        """Draw one metric on one split along several paths between the same two modes on an Axes, and return it.

        Raises InputError as :meth:`plot_paths` does.
        """
        from mgraph.figures import drawing_on
        from mgraph.report.pathplots import draw_paths, panels_of
        from mgraph.report.plots import Wanted

        curves, ends = self._curves(paths)
        ((_, drawn),) = panels_of(curves, Wanted((split,), (metric,)))
        with drawing_on(ax) as axes:
            return draw_paths(axes, curves, ends, split, drawn)

    def _curves(self, paths: Sequence[Connected | str]) -> tuple[list[PathCurve], list[str]]:
        """Return swept paths and the names of the two modes that they all join."""
        from mgraph.query.sweepdata import family_of
        from mgraph.report.pathplots import PathCurve

        found = [self._connection(one) for one in paths]
        if not found:
            raise InputError("Name the paths that are to be drawn together.")
        for one in found:
            if family_of(one.record).coordinates != 1:
                raise InputError(f"{label(one.record)} is a {one.kind}; only paths are drawn together.")
            if sum(one.id == other.id for other in found) > 1:
                raise InputError(f"{label(one.record)} is given twice; draw different paths.")
        first = found[0].ends
        curves = []
        for one in found:
            ends = one.ends
            if {end.id for end in ends} != {end.id for end in first}:
                said = [" and ".join(label(end.record) for end in some) for some in (first, ends)]
                raise InputError(
                    f"{label(found[0].record)} joins {said[0]}, but {label(one.record)} joins {said[1]}; paths are "
                    f"drawn together if they join the same two modes."
                )
            curves.append(PathCurve(label(one.record), one.swept(), turned=ends[0].id != first[0].id))
        return curves, [label(end.record) for end in first]

    def _look(self, *words: str, space: str | None, criteria: Mapping[str, Any], dark: bool) -> Look:
        """Say how a picture looks, and what its file says about itself."""
        from mgraph.figures import Look

        typed = ["mgraph", *words, *_named("--space", space, None), *words_of(Criteria, criteria)]
        command = shlex.join([*typed, *(["--dark"] if dark else [])])
        return Look(dark, {"command": command, "graph": self.session.store.path.name})

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
        import numpy as np

        from mgraph.families.gram import gram

        points = [self.session.store.read_parameters(mode.id) for mode in modes]
        distances = np.full((len(points), len(points)), np.nan)
        for size in {len(point) for point in points}:
            same = [i for i, point in enumerate(points) if len(point) == size]
            G = gram([points[i] for i in same])
            squares = np.diag(G)[:, None] + np.diag(G)[None, :] - 2 * G
            distances[np.ix_(same, same)] = np.sqrt(np.clip(squares, 0, None))
        return distances


def _named(flag: str, value: str | None, usual: str | None) -> list[str]:
    return [] if value == usual or value is None else [flag, value]
