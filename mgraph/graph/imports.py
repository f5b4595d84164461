"""Importing checkpoints from elsewhere: a part of :class:`mgraph.Graph`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mgraph.graph.base import Opened
from mgraph.graph.handles import Connected, Point

if TYPE_CHECKING:
    pass

PathLike = str | os.PathLike[str]


class Imports(Opened):
    """Modes, and trained curves, from files."""

    def add_mode(
        self,
        path: PathLike,
        *,
        name: str | None = None,
        space: str | None = None,
        cast: bool = False,
        weights: str | None = None,
        ignore: Sequence[str] = (),
        recompute_batchnorm: bool = False,
    ) -> Point:
        """Import a checkpoint as a mode and evaluate it; ``notes`` of the point say what was done.

        Reads .safetensors, whatever ``torch.save`` writes (nothing in it is run), and shards by their index or
        directory, and accepts what the network's ``load_state_dict`` accepts. ``weights`` chooses among several sets in
        one file: "raw", "ema", or the key of one. ``ignore`` has patterns of entries to leave out, ``cast`` allows
        float64 tensors to be rounded to float32, and ``recompute_batchnorm`` stores statistics recomputed from the
        training data instead of the file's.

        Raises LayoutMismatchError or NonFiniteError naming the tensor that does not fit; InputError if the file leaves
        a choice; TrainedCurveError if it holds a trained curve (see :meth:`add_curve`). Warns when the mode is not
        independent of one that is already there, and when its BatchNorm statistics are stale.
        """
        from mgraph.jobs.modes import AddModeJob

        job = AddModeJob(
            space=self.session.space(space).id,
            file=str(path),
            name=name,
            cast=cast,
            weights=weights,
            ignore=tuple(ignore),
            recompute_batchnorm=recompute_batchnorm,
        )
        node, notes = job.run(self.session)
        return Point(self.session, node, notes)

    def add_curve(
        self,
        path: PathLike,
        *,
        method: str | None = None,
        name: str | None = None,
        space: str | None = None,
        cast: bool = False,
    ) -> Connected:
        """Import a trained curve of the field's reference code (dnn-mode-connectivity): its ends, and its bends.

        The ends become modes NAME-start and NAME-end. ``method`` is "curve" (Bézier) or "chain" (polygonal), needed if
        the file does not say. BatchNorm statistics are recomputed. The curve is not swept yet. Raises InputError for a
        file that does not hold a curve of this network.
        """
        from mgraph.operations.importing import add_imported_curve

        where = self.session.space(space)
        connection, notes = add_imported_curve(self.session, where, Path(path), name=name, method=method, cast=cast)
        return Connected(self.session, connection, notes)
