"""Planes of a graph: a part of :class:`mgraph.Graph`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

from mgraph.errors import InputError
from mgraph.graph.base import Opened
from mgraph.graph.handles import Connected, Point, counts_of
from mgraph.graph.keywords import PlaneOptions
from mgraph.keywords import refuse_unknown
from mgraph_store import Connection

if TYPE_CHECKING:
    from mgraph.jobs.connections import PlaneJob
    from mgraph.progress import ProgressCallback


class Planes(Opened):
    """The plane through nodes, or around them."""

    def plane(
        self,
        *nodes: Point | str,
        sweep: bool = True,
        progress: ProgressCallback | None = None,
        **options: Unpack[PlaneOptions],
    ) -> Connected:
        """Look at a plane in weight space, ``g.plane("a", "b", "c").plot("plane.png", paths=["curve"])`` ([G] fig. 1).

        It goes through three nodes (modes, merged nodes, control points of a curve), with a ``margin`` around them.
        With ``random`` it lies around one node, along two filter-normalised random directions that are orthogonal (Li
        et al. 2018), ``radius`` times each to both sides; with ``pca`` it is that of the two principal components of
        three or more nodes, through the last.

        The plane is a connection whose points are its cells: it is swept on ``grid`` (default 21×21), with BatchNorm
        statistics recomputed for every cell, unless ``sweep`` is False, and sweeping, merging and exporting work on it.
        A plane of the same nodes that is there already is taken, and only measured where it was not. Further keywords
        are those of a sweep. Raises InputError for a wrong number of nodes, nodes on a line or of different spaces, and
        a bad grid.
        """
        from mgraph.jobs.connections import Following, PlaneJob

        refuse_unknown("plane", options, PlaneOptions)
        if options.get("random") and options.get("pca"):
            raise InputError("A plane is drawn along random directions or by principal components, not both.")
        counts = counts_of(options.get("grid"))
        how = "random" if options.get("random") else "pca" if options.get("pca") else "through"
        every: dict[str, Any] = {**options}
        given = {name: every[name] for name in ("margin", "radius", "seed", "name") if name in every}
        measured = {name: every[name] for name in ("splits", "examples", "bn_examples", "metrics") if name in every}
        measured |= {name: tuple(measured[name]) for name in ("splits", "metrics") if name in measured}
        job = PlaneJob(
            nodes=tuple(self._node(node).id for node in nodes),
            how=how,
            sweep=Following(counts, **measured) if sweep else None,
            **given,
        )
        told: dict[str, Any] = {} if progress is None else {"progress": progress}
        known = self._same_plane(job)
        if known is None:
            return Connected(self.session, job.run(self.session, **told))
        if job.sweep is not None:
            job.sweep.of(known).run(self.session, **told)
        return Connected(self.session, known)

    def _same_plane(self, job: PlaneJob) -> Connection | None:
        """Find a plane that this job would make again: of the same nodes, in the same way, and of that name."""
        wanted = job.settings()
        with self.session.store.reading() as reader:
            found: Sequence[Connection] = reader.all(Connection, kind="plane")
        for one in reversed(found):
            settings = json.loads(one.settings)
            if {key: settings.get(key) for key in wanted} == wanted and job.name in (None, one.name):
                return one
        return None
