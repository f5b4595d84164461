"""Importing checkpoints from elsewhere: a part of :class:`mgraph.Graph`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Unpack

from mgraph.graph.base import Opened
from mgraph.graph.handles import Connected, Point
from mgraph.graph.keywords import ImportOptions
from mgraph.keywords import refuse_unknown

if TYPE_CHECKING:
    from torch import nn

PathLike = str | os.PathLike[str]


class Imports(Opened):
    """Modes, and trained curves, from files."""

    def add_mode(self, source: PathLike | nn.Module | Mapping[str, Any], **options: Unpack[ImportOptions]) -> Point:
        """Import a checkpoint as a mode and evaluate it: ``g.add_mode("last.ckpt", name="a", weights="ema")``.

        In place of a file, an nn.Module or a dict of tensors is taken: ``g.add_mode(module, name="a")``. ``notes`` of
        the point say what was done.

        Reads .safetensors, whatever ``torch.save`` writes (nothing in it is run), and shards by their index or
        directory, and accepts what the network's ``load_state_dict`` accepts. ``weights`` chooses among several sets in
        one file: "raw", "ema", or the key of one. ``ignore`` has patterns of entries to leave out, ``cast`` allows
        float64 tensors to be rounded to float32, and ``recompute_batchnorm`` stores statistics recomputed from the
        training data instead of the file's.

        Raises LayoutMismatchError or NonFiniteError naming the tensor that does not fit; InputError if the file leaves
        a choice; TrainedCurveError if it holds a trained curve (see :meth:`add_curve`). Warns when the mode is not
        independent of one that is already there, and when its BatchNorm statistics are stale.
        """
        from mgraph.jobs.modes import AddModeJob, AddObjectJob

        refuse_unknown("add_mode", options, ImportOptions)
        given: dict[str, Any] = {**options, "ignore": tuple(options.get("ignore", ()))}
        given["space"] = self.session.space(options.get("space")).id
        job = (
            AddModeJob(file=os.fspath(source), **given)
            if isinstance(source, str | os.PathLike)
            else AddObjectJob(weights_of=source, **given)
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
        from mgraph.jobs.modes import AddCurveJob

        where = self.session.space(space).id
        job = AddCurveJob(space=where, file=str(path), method=method, name=name, cast=cast)
        connection, notes = job.run(self.session)
        return Connected(self.session, connection, notes)
