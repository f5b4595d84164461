"""Aligning modes: a part of :class:`mgraph.Graph`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

from mgraph.errors import InputError
from mgraph.graph.base import Opened
from mgraph.graph.handles import Point
from mgraph.graph.keywords import AlignOptions, ConnectOptions
from mgraph.keywords import refuse_unknown

if TYPE_CHECKING:
    from mgraph.progress import ProgressCallback
    from mgraph_store import Node


class Alignments(Opened):
    """Permutations of modes that bring them close to others."""

    def align(
        self,
        node: Point | str,
        *,
        to: Point | str,
        progress: ProgressCallback | None = None,
        **options: Unpack[AlignOptions],
    ) -> Point:
        """Permute the units of a mode so that its weights come close to another's: ``g.align("a", to="b", name="c")``.

        The result is a new mode that computes the same as ``node``: hidden units, channels and attention heads are
        reordered, and nothing else has changed. Tracing the network finds which units may be permuted; weight matching
        (Ainsworth et al. 2023, Git Re-Basin) chooses their order. ``restarts`` is the number of further starts of the
        search, in orders drawn with ``seed``. The node's info says from which node it was made, how far it was and is
        from ``to`` (L2), and by how much its outputs differ, at most 1e-5.

        Raises InputError for nodes of different spaces, a node and itself, and a network that cannot be traced, naming
        the operation.
        """
        from mgraph.jobs.modes import AlignJob

        refuse_unknown("align", options, AlignOptions)
        job = AlignJob(node=self._node(node).id, to=self._node(to).id, **options)
        reported: dict[str, Any] = {} if progress is None else {"progress": progress}
        return Point(self.session, job.run(self.session, **reported))

    def _all_aligned(self, ends: Sequence[Node], options: ConnectOptions) -> list[Node]:
        """Align every end except the last to the last, as NAME-aligned, and return all of them.

        Raises InputError, before anything is stored, for ends that cannot be aligned or connected.
        """
        from mgraph.operations.aligning import common_space
        from mgraph.session.storing import check_name_is_free

        *others, last = ends
        name, several = options.get("name"), len(others) > 1
        names = [name and f"{name}-aligned" + (f"-{k}" if several else "") for k in range(1, len(ends))]
        if options.get("init") is not None:
            raise InputError("A connection of aligned modes cannot start from one of others; give align or init.")
        for wanted in (name, *names):
            check_name_is_free(self.session, wanted)
        for node in others:
            common_space(self.session, node, last)
        to = Point(self.session, last)
        made = [self.align(Point(self.session, n), to=to, name=k).record for n, k in zip(others, names, strict=True)]
        return [*made, last]
