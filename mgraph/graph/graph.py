"""The main class: a graph of modes, connections and merged models, as Python objects.

Nothing is computed here: every method calls one operation. Torch is loaded by the first operation that trains,
evaluates or reads tensors; listing and querying never load it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any, Unpack

from typing_extensions import override

from mgraph.bookkeeping import listing
from mgraph.errors import InputError
from mgraph.graph import shows
from mgraph.graph.alignment import Alignments
from mgraph.graph.exploration import Explorations
from mgraph.graph.handles import Connected, Point, counts_of
from mgraph.graph.housekeeping import Housekeeping
from mgraph.graph.imports import Imports
from mgraph.graph.keywords import AutoOptions, ConnectOptions, Joining, Listing, SpaceOptions
from mgraph.graph.pictures import Pictures
from mgraph.graph.planes import Planes
from mgraph.graph.queries import Queries
from mgraph.graph.sets import Sets
from mgraph.keywords import refuse_unknown
from mgraph.notebook import InNotebook
from mgraph.query.criterion import NODE_KINDS, PathLimit
from mgraph.query.metrics import criterion_in
from mgraph.shown import visible
from mgraph_store import Connection, GraphStore, Node, Space

if TYPE_CHECKING:
    from torch import nn

    from mgraph.bookkeeping.listed import Listed
    from mgraph.data.task import Task
    from mgraph.explore.auto import AutoResult
    from mgraph.jobs.base import Job
    from mgraph.jobs.connections import Following
    from mgraph.methods.base import Method
    from mgraph.operations.comparisons import Comparison
    from mgraph.progress import ProgressCallback
    from mgraph.query.routes import Route
    from mgraph.train.settings import TrainSettings

PathLike = str | os.PathLike[str]


def create(
    path: PathLike,
    *,
    arch: str | Callable[..., nn.Module] | nn.Module,
    data: str | Callable[..., Any] | Task | Mapping[str, Any],
    tensors: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    workers: int | None = None,
    **space: Unpack[SpaceOptions],
) -> Graph:
    """Create a graph directory with its first space and open it; ``tensors`` is a URL at which to keep the tensors.

    ``arch`` and ``data`` are spec strings such as ``cnn?channels=16,32`` and ``digits``, or factories
    ``package.module:factory`` and ``file.py:factory``; naming code here trusts it. They may also be objects: a function
    or class that builds the network, or makes the data, is recorded by its importable name, or else by its source,
    which is kept below the graph; an ``nn.Module``, a :class:`Task` or a dict as :func:`make_task` takes it is recorded
    by what it is, and given again to :func:`open`. Further keywords are ``loss`` (of your own, named likewise),
    ``name`` and ``codec`` (:class:`~mgraph.graph.keywords.SpaceOptions`). Raises InputError, and leaves nothing behind,
    if the path exists, a spec is wrong, or the data do not load.

    >>> g = mgraph.create("digits.mgraph", arch="cnn", data="digits")
    """
    from mgraph.session.objects import arch_spec, data_spec
    from mgraph.session.spaces import create_graph

    refuse_unknown("create", space, SpaceOptions)
    place = Path(path).absolute()
    specs = arch_spec(arch, place), data_spec(data, place)
    store = create_graph(place, *specs, tensors=tensors, **_with_loss(space, place))
    return Graph(store, device=device, threads=threads, workers=workers)


def open_graph(
    path: PathLike,
    *,
    device: str = "auto",
    trust: bool = False,
    threads: int | None = None,
    workers: int | None = None,
    arch: nn.Module | None = None,
    data: Task | Mapping[str, Any] | None = None,
) -> Graph:
    """Open a graph directory; ``trust`` allows the user code that its specs name to run.

    ``arch`` and ``data`` are the module, and the task or dict, that a space was made with, if it was made with such
    objects; InputError if none was made with these.

    ``threads`` is the number of CPU threads (default: one for a small network, torch's own for others), ``workers``
    that of the processes that read streamed data (default: by the number of processors; 0: none).

    Raises NotFoundError if there is no graph at ``path``.

    >>> g = mgraph.open("digits.mgraph")
    """
    graph = Graph(GraphStore.open(Path(path)), device=device, trust=trust, threads=threads, workers=workers)
    if arch is not None or data is not None:
        from mgraph.session.objects import given_again

        given_again(graph.session.store, arch, data)
    return graph


def unpack(path: PathLike, directory: PathLike, *, device: str = "auto", threads: int | None = None) -> Graph:
    """Make a new graph from a bundle and open it; raises InputError, leaving nothing behind, if either is wrong.

    >>> g = mgraph.unpack("s.mgraph.zip", "copy.mgraph")
    """
    from mgraph.bookkeeping.bundles import create_from_bundle

    return Graph(create_from_bundle(Path(path), Path(directory)), device=device, threads=threads)


def share(
    place: str,
    directory: PathLike,
    *,
    arch: str | Callable[..., nn.Module] | nn.Module,
    data: str | Callable[..., Any] | Task | Mapping[str, Any],
    device: str = "auto",
    threads: int | None = None,
    **space: Unpack[SpaceOptions],
) -> Graph:
    """Create a graph that other machines can :func:`join`, with its first space, and open it.

    ``place`` is a URL, or a directory on a disk that all of them have mounted: tensors and commits go there. Everything
    else is as for :func:`create`. Raises NameTakenError if there is something at the place, and StoreError if it cannot
    be reached or written.

    >>> g = mgraph.share("s3://bucket/digits", "digits.mgraph", arch="cnn", data="digits")
    """
    from mgraph.session.objects import arch_spec, data_spec
    from mgraph.session.spaces import create_graph

    refuse_unknown("share", space, SpaceOptions)
    path = Path(directory).absolute()
    specs = arch_spec(arch, path), data_spec(data, path)
    return Graph(create_graph(path, *specs, shared=place, **_with_loss(space, path)), device=device, threads=threads)


def join(
    place: str,
    directory: PathLike,
    *,
    device: str = "auto",
    trust: bool = False,
    threads: int | None = None,
) -> Graph:
    """Make this machine's directory of a graph that machines share at a URL or in a directory, and open it.

    :func:`share` makes such a graph; keywords are those of :func:`open`. Raises NotFoundError if there
    is none at the place, NameTakenError if there is something at ``directory``, and StoreError if the place cannot be
    reached; then nothing is left behind.

    >>> g = mgraph.join("s3://bucket/digits", "digits.mgraph")
    """
    from mgraph_store.machines import join

    return Graph(join(Path(directory), place), device=device, trust=trust, threads=threads)


def _with_loss(options: SpaceOptions, graph: Path) -> dict[str, Any]:
    """Record by name a loss that is given as a function."""
    if options.get("loss") is None:
        return dict(options)
    from mgraph.session.objects import loss_spec

    return {**options, "loss": loss_spec(options["loss"], graph)}


class Graph(Imports, Alignments, Planes, Queries, Explorations, Sets, Pictures, Housekeeping, InNotebook):
    """An open checkpoint graph. Use :func:`mgraph.create` or :func:`mgraph.open` to get one."""

    @property
    def path(self) -> Path:
        """The graph directory."""
        return self.session.store.path

    @override
    def __repr__(self) -> str:
        return f"<Graph {visible(str(self.path))}>"

    @override
    def _shown(self) -> dict[str, Any]:
        return shows.of_graph(self)

    # Spaces and modes

    def add_space(
        self,
        arch: str | Callable[..., nn.Module] | nn.Module,
        data: str | Callable[..., Any] | Task | Mapping[str, Any],
        **options: Unpack[SpaceOptions],
    ) -> Space:
        """Add a space, or return the one that is the same; arguments as for :func:`mgraph.create`."""
        from mgraph.session.objects import arch_spec, data_spec
        from mgraph.session.spaces import add_space, describe_space

        refuse_unknown("add_space", options, SpaceOptions)
        specs = arch_spec(arch, self.path), data_spec(data, self.path)
        space = describe_space(self.path, *specs, **_with_loss(options, self.path))
        return add_space(self.session.store, space, named=options.get("name") is not None)

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
        tensors. Keywords are fields of :class:`TrainSettings`; ``loss`` and ``augment`` may be functions, which are
        recorded by the names under which they can be imported, or else by their source, with all that it refers to.
        ``preset`` names a recipe to begin with (``mgraph recipes``), with a RecipeWarning where it is for another
        network or other data.

        With ``fge`` or ``snapshot`` the members are modes NAME-1, NAME-2, …, and the last one is returned; all of them
        are ``g.nodes(where="cycle >= 1 and name like 'f-%'")``. With ``swa`` or ``ema`` the average is NAME-swa or
        NAME-ema, with ``simplex`` the middle is returned, and the vertices are NAME-1, NAME-2, ….

        Raises InputError for a function that has neither, and NonFiniteError, naming the step, when training diverges;
        then only the failed run is recorded.
        """
        from mgraph.jobs.modes import TrainJob
        from mgraph.train.settings import TrainSettings

        if settings is not None and preset is not None:
            raise InputError("Give settings or a preset, not both.")
        changes |= {key: self._kept_function(changes[key], key) for key in ("loss", "augment") if key in changes}
        if preset is not None:
            chosen = TrainSettings.preset(preset, **changes)
        else:
            chosen = replace(settings, **changes) if settings else TrainSettings.parse(changes)
        begun = None if init is None else self._node(init).id
        job = TrainJob(space=self.session.space(space).id, settings=chosen, name=name, init=begun, preset=preset)
        return Point(self.session, job.run(self.session, **_progress(progress)))

    def _kept_function(self, value: Any, setting: str) -> Any:
        """Keep the source of a function without an importable name below the graph, and name it there."""
        if not isinstance(value, FunctionType) or value.__name__ == "<lambda>":
            return value  # a text, or what the setting itself refuses
        from mgraph import captured
        from mgraph.train.functions import name_of

        try:
            return name_of(value, setting)
        except InputError:
            spec = captured.spec_of(value, self.path)
        captured.write(self.path)
        return spec

    def add_point(self, coordinates: Sequence[float], *, name: str | None = None, space: str | None = None) -> Point:
        """Add a point by its coordinates as a mode, for small spaces: ``g.add_point([-1, 0], name="left")``.

        Raises InputError unless there are as many coordinates as the space has.
        """
        from mgraph.jobs.modes import AddPointJob

        values = tuple(float(value) for value in coordinates)
        job = AddPointJob(space=self.session.space(space).id, coordinates=values, name=name)
        return Point(self.session, job.run(self.session))

    # Connections

    def connect(
        self,
        *ends: Point | str,
        method: Method,
        sweep: bool = True,
        progress: ProgressCallback | None = None,
        **options: Unpack[ConnectOptions],
    ) -> Connected:
        """Connect modes: ``g.connect(a, b, c, d, method=mgraph.BezierSurface(degree=(2, 2)), name="s")``.

        Ends are modes, names or ids. Afterwards the connection is swept, unless ``sweep`` is False: on ``grid``, or for
        a chain at its control points and ``inner`` points on every piece.

        Further keywords are ``grid``, ``inner``, ``splits``, ``examples``, ``bn_examples`` and ``metrics`` of the sweep
        (see :meth:`Connected.sweep`), ``name``, ``init``, ``align``, ``same_layout`` and ``buffers_from``
        (:class:`~mgraph.graph.keywords.ConnectOptions`). With ``align``, every end but the last is first aligned to the
        last (:meth:`align`), as NAME-aligned, and what comes out is connected. With ``init``, control points start from
        those of that connection: refine a chain as a Bézier curve, raise a degree, take an edge of a surface as a
        curve, continue a band. Ends of different tasks are refused, unless ``same_layout`` says to use the first one's;
        ``buffers_from`` is the end whose buffers to use where they differ.

        Raises InputError for unsuitable ends or settings, or a bad grid, and NonFiniteError when training diverges.
        """
        from mgraph.jobs.connections import ConnectJob
        from mgraph.query.sweepdata import grid_counts, inner_grid

        refuse_unknown("connect", options, ConnectOptions)
        grid, inner = options.get("grid"), options.get("inner")
        if inner is not None:  # now, not after the training
            inner_grid(method.family(len(ends)), grid, inner)
        counts = counts_of(grid)
        if counts is not None:
            counts = grid_counts(method.family(len(ends)), counts, ())
        with self.session.store.reading():  # one for all of them
            nodes = [self._node(end) for end in ends]
        if options.get("align", False):
            method.family(len(ends))  # now, not after the alignment
            nodes = self._all_aligned(nodes, options)
        job = ConnectJob(
            ends=tuple(node.id for node in nodes),
            method=method,
            name=options.get("name"),
            init=None if (init := options.get("init")) is None else self._connection(init).id,
            same_layout=options.get("same_layout", False),
            buffers_from=None if (source := self._source_of_buffers(options)) is None else source.id,
            sweep=_following(counts, options) if sweep else None,
        )
        return Connected(self.session, job.run(self.session, **_progress(progress)))

    def connect_auto(
        self,
        *ends: Point | str,
        settings: Mapping[str, Any] | None = None,
        methods: Sequence[str] | None = None,
        say: Callable[[str], None] = lambda _: None,
        progress: ProgressCallback | None = None,
        **options: Unpack[AutoOptions],
    ) -> AutoResult[Connected]:
        """Connect two modes by the cheapest method that meets a limit: ``g.connect_auto(a, b, max_barrier=0.1)``.

        The limit is ``max_barrier``, ``max_peak`` or ``max_drop``, of a ``metric`` on a ``split`` (default: the loss on
        train). Methods are tried from the cheapest to the most expensive (or ``methods``, in that order), and every
        attempt is kept, called NAME-METHOD if a ``name`` is given. ``settings`` go to every method that has them.
        ``budget`` is in seconds, or text such as "30m": a method that would surely exceed it is not started, and one
        that has started stops then. ``say`` is called with every choice; ``winner`` of the result is None if no method
        meets the limit. ``same_layout`` and ``buffers_from`` are as for :meth:`connect`. Raises InputError, storing
        nothing, unless there are two ends, and for a limit that the ends themselves exceed.
        """
        from mgraph.durations import seconds
        from mgraph.explore.auto import Attempt, AutoRequest, AutoResult, connect_auto
        from mgraph.families import Segment

        refuse_unknown("connect_auto", options, AutoOptions)
        found = [self._node(end) for end in ends]
        with self.session.store.reading() as reader:
            within = reader.get(Space, id=found[0].space_id) if found else None
        limit: Any = {key: value for key, value in options.items() if key in PathLimit.__annotations__}
        counts = counts_of(options.get("grid"))
        if counts is not None:
            Segment().grid(counts)
        request = AutoRequest(
            ends=tuple(found),
            threshold=criterion_in(self.session.store, within, threshold=True, **limit),
            budget=None if (budget := options.get("budget")) is None else seconds(budget),
            settings=settings,
            methods=methods,
            grid=counts,
            name=options.get("name"),
            same_layout=options.get("same_layout", False),
            buffers_from=self._source_of_buffers(options),
        )
        result = connect_auto(self.session, request, say=say, **_progress(progress))
        made = [None if a.connection is None else Connected(self.session, a.connection) for a in result.attempts]
        attempts = zip(result.attempts, made, strict=True)
        return AutoResult(
            **{f.name: getattr(result, f.name) for f in fields(result) if f.name != "attempts"},
            attempts=tuple(Attempt(**{**vars(attempt), "connection": one}) for attempt, one in attempts),
        )

    def _source_of_buffers(self, options: Joining) -> Node | None:
        given = options.get("buffers_from")
        return None if given is None else self._node(given)

    def run(self, job: Job, *, progress: ProgressCallback | None = None) -> Any:
        """Run a job: ``g.run(mgraph.ConnectJob(ends=(a.id, b.id), method=mgraph.BezierCurve()))``.

        Returns what the method that makes such a job returns: a Point, a Connected, the data of a sweep, a report. Code
        that the job names runs, as if you had named it here, so read a job from somebody else first. Raises InputError
        if the job's code refers to another directory.
        """
        from mgraph.jobs.base import require_directory

        require_directory(job, f"The {job.kind} job", "run")
        made = job.run(self.session, **_progress(progress))
        notes: tuple[list[str], ...] = ()
        if job.kind in ("add-mode", "add-object", "add-curve"):
            made, *notes = made
        if isinstance(made, Connection):
            return Connected(self.session, made, *notes)
        return Point(self.session, made, *notes) if isinstance(made, Node) else made

    def resume(
        self, run: str | None = None, *, force: bool = False, progress: ProgressCallback | None = None
    ) -> Point | Connected:
        """Resume an interrupted run: ``g.resume("r2ab")``; by default the only one there is.

        ``run`` is an id, a prefix of one with at least four characters, or the name that the run was to give.
        Trainings, connections (with the sweep that was to follow) and sweeps continue from the last saved state, with
        the device and threads that they had. Without a saved state, and for all other runs, they start again. Returns
        what the run makes or measures. On a CPU the result is what the run would have given without interruption, bit
        for bit; a ResumedElsewhereWarning says if versions, device or threads differ. ``force`` takes over a run that
        may still be under way on another machine or in another container, where it cannot be seen from here; a run
        known to be alive is never taken over. Raises InputError, saying why, for a run that cannot be resumed.
        """
        from mgraph.operations.resume import resume

        made = resume(self.session, run, force=force, **_progress(progress))
        return Connected(self.session, made) if isinstance(made, Connection) else Point(self.session, made)

    def discard(self, run: str | None = None, *, force: bool = False) -> dict[str, Any]:
        """Give up an interrupted run, named as for :meth:`resume`, and what it saved; return its row of the log."""
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
        minimax route), or a whole route. Afterwards the whole is swept, unless ``sweep`` is False. With ``thin`` it
        becomes a polygonal chain through as few points as keep it within that share of its length. Raises InputError
        for pieces that do not share modes or a space.
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

    def nodes(self, *kinds: str, **which: Unpack[Listing]) -> list[dict[str, Any]]:
        """List nodes as rows, by default modes and merged nodes: ``g.nodes(where="test_accuracy > 0.9")``.

        Keywords are ``space``; ``where``, an expression over the columns of ``mgraph ls --list-columns``; ``sort``,
        columns, with ``-`` before those to sort in descending order; and ``limit``.
        """
        return listing.list_nodes(self.session.store, kinds=kinds or NODE_KINDS, **self._listed("nodes", which))

    def connections(self, **which: Unpack[Listing]) -> list[dict[str, Any]]:
        """List connections as rows, each with the worst of its pairs of ends; keywords as for :meth:`nodes`."""
        return listing.list_connections(self.session.store, **self._listed("connections", which))

    def ls(
        self, kind: str | None = None, *, columns: str | Sequence[str] | None = None, **which: Unpack[Listing]
    ) -> Listed:
        """List modes, merged nodes and connections, or one kind, as ``mgraph ls`` does: rows, and columns to show.

        ``columns`` are shown instead of the usual ones or, with a plus ("+created"), in addition to them. Nodes or
        connections are listed only if they have all columns that these, ``where`` and ``sort`` name.
        """
        from mgraph.bookkeeping.listed import list_kinds

        refuse_unknown("ls", which, Listing)

        def rows_of(side: str) -> list[dict[str, Any]]:
            kinds = [kind] if kind else []
            return self.nodes(*kinds, **which) if side == "nodes" else self.connections(**which)

        named_in = which.get("where"), which.get("sort", ())
        return list_kinds(self.session.store, kind, columns, named_in, rows_of)

    def columns(self, kind: str | None = None) -> list[dict[str, Any]]:
        """List the columns that ``where``, ``sort`` and ``columns`` can name, with type, unit and meaning."""
        from mgraph.bookkeeping.listed import columns_of

        return columns_of(self.session.store, kind)

    def _listed(self, function: str, which: Listing) -> dict[str, Any]:
        refuse_unknown(function, which, Listing)
        chosen = {"space": self._space_of(which.get("space")), "sort": listing.sort_keys(which.get("sort", ()))}
        return {**which, **chosen}

    def runs(self) -> list[dict[str, Any]]:
        """List everything that was run, with its status, as rows."""
        return listing.list_runs(self.session.store)

    # Measures

    def compare(self, *points: Point | str) -> Comparison:
        """Compare every pair of points, tensor by tensor: ``g.compare(a, b).pairs[0].similarity.median_cosine``.

        Gives cosine, distance, norms and variances, and whether the two look like the same run. Raises
        LayoutMismatchError, naming the first tensor, for points of different networks. Does not need torch.
        """
        from mgraph.operations.comparisons import compare

        return compare(self.session, [self._node(point) for point in points])


def _following(counts: tuple[int, ...] | None, options: ConnectOptions) -> Following:
    from mgraph.jobs.connections import Following

    given: dict[str, Any] = {**options}
    found: dict[str, Any] = {name: given[name] for name in ("inner", "examples", "bn_examples") if name in given}
    found |= {name: tuple(given[name]) for name in ("splits", "metrics") if name in given}
    return Following(counts, **found)


def _progress(progress: ProgressCallback | None) -> dict[str, Any]:
    return {} if progress is None else {"progress": progress}
