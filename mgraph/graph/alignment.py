"""Aligning modes: a part of :class:`mgraph.Graph`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

from mgraph.graph.base import Opened
from mgraph.graph.handles import Point
from mgraph.graph.keywords import AlignOptions
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

        The result is a new mode that computes what ``node`` does: hidden units, channels and attention heads have other
        places, and nothing else has changed. Which may change places is found by tracing the network; where they go is
        chosen by weight matching (Ainsworth et al. 2023, Git Re-Basin). ``restarts`` is the number of further starts of
        the search, in orders drawn with ``seed``. The node's info says what it is of, how far from ``to`` it was and is
        (L2), and by how much its outputs differ, at most 1e-5.

        Raises InputError for nodes of different spaces, a node and itself, and a network that cannot be traced, naming
        the operation.
        """
        from mgraph.jobs.modes import AlignJob

        refuse_unknown("align", options, AlignOptions)
        job = AlignJob(node=self._node(node).id, to=self._node(to).id, **options)
        reported: dict[str, Any] = {} if progress is None else {"progress": progress}
        return Point(self.session, job.run(self.session, **reported))

    def _all_aligned(self, ends: Sequence[Node], name: str | None) -> list[Node]:
        """Align every node but the last to that, and return them with it; ``name`` is that of what they are for."""
        *others, last = ends
        number = {node.id: f"-{k}" if len(others) > 1 else "" for k, node in enumerate(others, start=1)}
        names = {node.id: None if name is None else f"{name}-aligned{number[node.id]}" for node in others}
        for wanted in names.values():
            self._check_free(wanted)
        to = Point(self.session, last)
        return [*(self.align(Point(self.session, n), to=to, name=names[n.id]).record for n in others), last]

    def _check_free(self, name: str | None) -> None:
        from mgraph.session.storing import check_name_is_free

        check_name_is_free(self.session, name)
