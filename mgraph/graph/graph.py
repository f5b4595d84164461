"""The front door: a graph of modes, connections and merged models, as Python objects.

Nothing is computed here: every method calls one operation of this package. Torch loads with the first operation
that trains, evaluates or reads tensors; listing and querying never load it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from mgraph.bookkeeping import listing
from mgraph.errors import InputError
from mgraph.families import Segment
from mgraph.graph.exploration import Explorations
from mgraph.graph.handles import Connected, Point, counts_of
from mgraph.graph.housekeeping import Housekeeping
from mgraph.graph.imports import Imports
from mgraph.graph.pictures import Pictures
from mgraph.graph.queries import Queries
from mgraph.query.criterion import NODE_KINDS
from mgraph.query.metrics import criterion_in
from mgraph.shown import visible
from mgraph_store import Connection, GraphStore, Node, Space

if TYPE_CHECKING:
    from mgraph.explore.auto import AutoResult
    from mgraph.jobs.base import Job
    from mgraph.methods.base import Method
    from mgraph.operations.comparisons import Comparison
    from mgraph.progress import ProgressCallback
    from mgraph.query.routes import Route
    from mgraph.train.settings import TrainSettings

PathLike = str | os.PathLike[str]


def create(
    path: PathLike,
    *,
    arch: str,
    data: str,
    loss: str | None = None,
    name: str | None = None,
    codec: str = "none",
    tensors: str | None = None,
    device: str = "auto",
    threads: int | None = None,
) -> Graph:
    """Create a graph directory with its first space and open it; with ``tensors``, a URL, those lie there.

    ``arch`` and ``data`` are spec strings such as ``cnn?channels=16,32`` and ``digits``, or factories
    ``package.module:factory`` and ``file.py:factory``; naming code here trusts it. ``loss`` names a function
    (outputs, targets) → scalar mean likewise, to train and evaluate by instead of the data's loss. Raises
    InputError, and leaves nothing behind, if the path exists, a spec is wrong, or the data do not load.

    >>> g = mgraph.create("digits.mgraph", arch="cnn", data="digits")
    """
    from mgraph.session.spaces import create_graph

    store = create_graph(Path(path), arch, data, loss=loss, name=name, codec=codec, tensors=tensors)
    return Graph(store, device=device, threads=threads)


def open_graph(path: PathLike, *, device: str = "auto", trust: bool = False, threads: int | None = None) -> Graph:
    """Open a graph directory; ``trust`` allows the user code that its specs name to run.

    ``threads`` is the number of CPU threads (default: one for a small network, torch's own for others).

    Raises NotFoundError if there is no graph at ``path``.

    >>> g = mgraph.open("digits.mgraph")
    """
    return Graph(GraphStore.open(Path(path)), device=device, trust=trust, threads=threads)


def unpack(path: PathLike, directory: PathLike, *, device: str = "auto", threads: int | None = None) -> Graph:
    """Make a new graph of a bundle and open it; raises InputError, and leaves nothing, if either is wrong.

    >>> g = mgraph.unpack("s.mgraph.zip", "copy.mgraph")
    """
    from mgraph.bookkeeping.bundles import create_from_bundle

    return Graph(create_from_bundle(Path(path), Path(directory)), device=device, threads=threads)


class Graph(Imports, Queries, Explorations, Pictures, Housekeeping):
    """An open checkpoint graph. Use :func:`mgraph.create` or :func:`mgraph.open` to get one."""

    @property
    def path(self) -> Path:
        """The graph directory."""
        return self.session.store.path

    @override
    def __repr__(self) -> str:
        return f"<Graph {visible(str(self.path))}>"

    # Spaces and modes

    def add_space(
        self, arch: str, data: str, *, loss: str | None = None, name: str | None = None, codec: str = "none"
    ) -> Space:
        """Add a space, or return the one that is the same already; arguments as of :func:`mgraph.create`."""
        from mgraph.session.spaces import add_space, describe_space

        space = describe_space(self.path, arch, data, loss=loss, name=name, codec=codec)
        return add_space(self.session.store, space, named=name is not None)

    def spaces(self) -> list[dict[str, Any]]:
        """List the spaces as rows."""
        return listing.list_spaces(self.session.store)

    def train(
        self,
        settings: TrainSettings | None = None,
        *,
        name: str | None = None,
        space: str | None = None,
        init: Point | str | None = None,
        preset: str | None = None,
        progress: ProgressCallback | None = None,
        **changes: Any,
    ) -> Point:
        """Train a mode: ``g.train(seed=1, epochs=40, lr=0.05, name="a")``.

        It begins with fresh weights, or at the node ``init``, also one of another space whose network has the same
        tensors. Keywords are fields of :class:`TrainSettings`; ``preset`` names a recipe to begin with (``mgraph
        recipes``), with a RecipeWarning where it is for another network or other data. Raises NonFiniteError, naming
        the step, when training diverges; nothing but the failed run is then recorded.
        """
        from mgraph.jobs.modes import TrainJob
        from mgraph.train.settings import TrainSettings

        if settings is not None and preset is not None:
            raise InputError("Give settings or a preset, not both.")
        if preset is not None:
            chosen = TrainSettings.preset(preset, **changes)
        else:
            chosen = replace(settings, **changes) if settings else TrainSettings.parse(changes)
        begun = None if init is None else self._node(init).id
        job = TrainJob(space=self.session.space(space).id, settings=chosen, name=name, init=begun, preset=preset)
        return Point(self.session, job.run(self.session, **_progress(progress)))

    def add_point(self, coordinates: Sequence[float], *, name: str | None = None, space: str | None = None) -> Point:
        """Add a point by its coordinates as a mode, for small spaces: ``g.add_point([-1, 0], name="left")``.

        Raises InputError for another number of coordinates than the space has.
        """
        from mgraph.operations.modes import add_placed_mode

        return Point(self.session, add_placed_mode(self.session, self.session.space(space), coordinates, name=name))

    # Connections

    def connect(
        self,
        *ends: Point | str,
        method: Method,
        name: str | None = None,
        sweep: bool = True,
        grid: int | Sequence[int] | None = None,
        inner: int | None = None,
        init: Connected | str | None = None,
        same_layout: bool = False,
        buffers_from: Point | str | None = None,
        progress: ProgressCallback | None = None,
    ) -> Connected:
        """Connect modes: ``g.connect(a, b, c, d, method=mgraph.BezierSurface(degree=(2, 2)))``.

        Ends are modes, names or ids; afterwards the connection is swept on ``grid``, or a chain at its control points
        and ``inner`` points on every piece, unless ``sweep`` is False. Control points start where the connection
        ``init`` has them, if one is given: refine a chain as a Bézier curve, raise a degree, take an edge of a
        surface as a curve, go on with a band. Raises InputError for ends or settings that do not suit, or a bad
        grid, and NonFiniteError when training diverges.
        """
        from mgraph.jobs.connections import ConnectJob, Following
        from mgraph.query.sweepdata import grid_counts, inner_grid

        if inner is not None:  # now, not after the training
            inner_grid(method.family(len(ends)), grid, inner)
        counts = counts_of(grid)
        if counts is not None:
            counts = grid_counts(method.family(len(ends)), counts, ())
        job = ConnectJob(
            ends=tuple(self._node(end).id for end in ends),
            method=method,
            name=name,
            init=None if init is None else self._connection(init).id,
            same_layout=same_layout,
            buffers_from=None if buffers_from is None else self._node(buffers_from).id,
            sweep=Following(counts, inner) if sweep else None,
        )
        return Connected(self.session, job.run(self.session, **_progress(progress)))

    def connect_auto(
        self,
        *ends: Point | str,
        max_barrier: float | None = None,
        max_peak: float | None = None,
        max_drop: float | None = None,
        metric: str | None = None,
        split: str = "train",
        budget: float | str | None = None,
        settings: Mapping[str, Any] | None = None,
        methods: Sequence[str] | None = None,
        name: str | None = None,
        grid: int | Sequence[int] | None = None,
        same_layout: bool = False,
        buffers_from: Point | str | None = None,
        say: Callable[[str], None] = lambda _: None,
        progress: ProgressCallback | None = None,
    ) -> AutoResult[Connected]:
        """Connect two modes by the cheapest method that meets a limit: ``g.connect_auto(a, b, max_barrier=0.1)``.

        Methods are tried from the cheapest to the dearest (or ``methods``, in that order), and every attempt is kept,
        called NAME-METHOD where a name is given. ``settings`` go to every method that has them. ``budget`` is in
        seconds, or such as "30m": a method that would surely exceed it is not begun, one that has begun stops then.
        ``say`` is told every choice; ``winner`` of the result is None where no method meets the limit. Raises
        InputError, storing nothing, for other than two ends, and for a limit that the ends themselves exceed.
        """
        from mgraph.durations import seconds
        from mgraph.explore.auto import Attempt, AutoResult, connect_auto

        found = [self._node(end) for end in ends]
        with self.session.store.reading() as reader:
            within = reader.get(Space, id=found[0].space_id) if found else None
        limit = criterion_in(
            self.session.store,
            within,
            max_barrier=max_barrier,
            max_peak=max_peak,
            max_drop=max_drop,
            metric=metric,
            split=split,
            threshold=True,
        )
        counts = counts_of(grid)
        if counts is not None:
            Segment().grid(counts)
        result = connect_auto(
            self.session,
            found,
            limit,
            budget=None if budget is None else seconds(budget),
            settings=settings,
            methods=methods,
            name=name,
            grid=counts,
            same_layout=same_layout,
            buffers_from=None if buffers_from is None else self._node(buffers_from),
            say=say,
            **_progress(progress),
        )
        made = [None if a.connection is None else Connected(self.session, a.connection) for a in result.attempts]
        attempts = zip(result.attempts, made, strict=True)
        return AutoResult(
            **{f.name: getattr(result, f.name) for f in fields(result) if f.name != "attempts"},
            attempts=tuple(Attempt(**{**vars(attempt), "connection": one}) for attempt, one in attempts),
        )

    def run(self, job: Job, *, progress: ProgressCallback | None = None) -> Any:
        """Do a job: ``g.run(mgraph.ConnectJob(ends=(a.id, b.id), method=mgraph.BezierCurve()))``.

        Returns what the method that makes such a job returns: a Point, a Connected, the data of a sweep, a report.
        Code that the job names runs, as if you had named it here; read a job that somebody else has written first.
        Raises InputError for one whose code is meant in another directory.
        """
        from mgraph.jobs.base import require_directory

        require_directory(job, f"The {job.kind} job", "run")
        made = job.run(self.session, **_progress(progress))
        if job.kind == "add-mode":
            return Point(self.session, *made)
        if isinstance(made, Connection):
            return Connected(self.session, made)
        return Point(self.session, made) if isinstance(made, Node) else made

    def resume(
        self, run: str | None = None, *, force: bool = False, progress: ProgressCallback | None = None
    ) -> Point | Connected:
        """Go on with an interrupted run: ``g.resume("r2ab")``; by default with the only one there is.

        ``run`` is an id, a prefix of one of at least four characters, or the name that the run was to give. Trainings,
        connections (with the sweep that was to follow) and sweeps go on from the last state saved, or begin again if
        there is none, as all others do, with the device and threads that they had. Returned is what the run makes, or
        what it measures. On a CPU the result is the one that the run would
        have had without interruption, bit for bit; a ResumedElsewhereWarning says if versions, device or threads are
        others. ``force`` takes over a run that may still be under way on another machine or in another container,
        where it cannot be seen from here; a run that is known to be alive is never taken over. Raises InputError for a
        run that cannot go on, saying why.
        """
        from mgraph.operations.resume import resume

        made = resume(self.session, run, force=force, **_progress(progress))
        return Connected(self.session, made) if isinstance(made, Connection) else Point(self.session, made)

    def discard(self, run: str | None = None, *, force: bool = False) -> dict[str, Any]:
        """Give up an interrupted run, named as for :meth:`resume`, with what it saved; return its row of the log."""
        from mgraph.operations.resume import discard

        given_up = discard(self.session.store, run, force=force)
        return next(row for row in self.runs() if row["id"] == given_up.id)

    def compose(
        self,
        *pieces: Connected | str | Route,
        name: str | None = None,
        thin: float | None = None,
        sweep: bool = True,
        grid: int | Sequence[int] | None = None,
        progress: ProgressCallback | None = None,
    ) -> Connected:
        """Join connections end to end into one: ``g.compose("ab", "bc")``, or ``g.compose(g.route("a", "d"))``.

        A piece is a connection or its name, ``"s:a:d"`` where it has several ends (a surface is crossed along its swept
        minimax route), or a whole route. Afterwards it is swept, unless ``sweep`` is False. With ``thin`` it becomes a
        polygonal chain through as few points as keep it within that share of its length. Raises InputError for pieces
        that do not share modes or a space.
        """
        from mgraph.jobs.connections import ComposeJob, Following
        from mgraph.operations.composing import ResolvedLeg, leg_from, legs_of
        from mgraph.query.routes import Route

        legs: list[ResolvedLeg] = []
        with self.session.store.reading() as reader:
            for piece in pieces:
                if isinstance(piece, Route):
                    legs += legs_of(reader, piece)
                else:
                    legs.append(ResolvedLeg(piece.record) if isinstance(piece, Connected) else leg_from(reader, piece))
        job = ComposeJob(
            pieces=tuple(leg.stretch() for leg in legs),
            name=name,
            thin=thin,
            sweep=Following(counts_of(grid)) if sweep else None,
        )
        return Connected(self.session, job.run(self.session, **_progress(progress)))

    # Looking things up

    def nodes(
        self,
        *kinds: str,
        space: str | None = None,
        where: str | None = None,
        sort: str | Sequence[str] = (),
        limit: int | None = None,
    ) -> list[dict[str, Any]]:
        """List nodes as rows, by default modes and merged nodes: ``g.nodes(where="test_accuracy > 0.9")``.

        ``where`` is an expression over the columns of ``mgraph ls --help-columns`` (:mod:`mgraph_store.index.filters`),
        ``sort`` names columns, with ``-`` before those that descend.
        """
        return listing.list_nodes(
            self.session.store,
            kinds=kinds or NODE_KINDS,
            space=self._space_of(space),
            where=where,
            sort=listing.sort_keys(sort),
            limit=limit,
        )

    def connections(
        self,
        *,
        space: str | None = None,
        where: str | None = None,
        sort: str | Sequence[str] = (),
        limit: int | None = None,
    ) -> list[dict[str, Any]]:
        """List connections as rows, each with the worst of its pairs of ends; arguments as of :meth:`nodes`."""
        return listing.list_connections(
            self.session.store,
            space=self._space_of(space),
            where=where,
            sort=listing.sort_keys(sort),
            limit=limit,
        )

    def runs(self) -> list[dict[str, Any]]:
        """List everything that was run, with its status, as rows."""
        return listing.list_runs(self.session.store)

    # Measures

    def compare(self, *points: Point | str) -> Comparison:
        """Compare every two points, tensor by tensor: ``g.compare(a, b).pairs[0].similarity.median_cosine``.

        Cosine, distance, norms and variances, and whether the two look like the same run. Raises
        LayoutMismatchError, naming the first tensor, for points of different networks. Needs no torch.
        """
        from mgraph.operations.comparisons import compare

        return compare(self.session, [self._node(point) for point in points])


def _progress(progress: ProgressCallback | None) -> dict[str, Any]:
    return {} if progress is None else {"progress": progress}
