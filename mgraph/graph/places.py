"""Points of a connection that are not nodes of the graph, as its users hold them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from typing_extensions import override

from mgraph.errors import InputError
from mgraph.graph.keywords import ExportOptions, evaluation
from mgraph.keywords import refuse_unknown
from mgraph.notebook import InNotebook
from mgraph.session.members import label
from mgraph.session.session import Session
from mgraph.shown import visible

if TYPE_CHECKING:
    import torch
    from torch import nn

    from mgraph.evaluate.metrics import Measured
    from mgraph.exporting.writing import Exported
    from mgraph.graph.handles import Connected
    from mgraph.graph.keywords import EvaluateOptions, MergeOptions
    from mgraph.operations.merging import MergeResult
    from mgraph.operations.places import Place as Where
    from mgraph.progress import ProgressCallback


class Place(InNotebook):
    """A point of a connection that no sweep has measured (``curve.at(0.3)``): computed when looked at, never stored.

    It can do what a :class:`Point` can that needs no row of the graph; :meth:`merge` makes it a node. Its BatchNorm
    statistics are recomputed from the training data, as in a sweep.
    """

    def __init__(self, session: Session, connection: Connected, where: Where) -> None:
        self._session, self._where = session, where
        self.connection = connection

    @property
    def parameter(self) -> tuple[float, ...]:
        """Where it lies on the connection: t, or (u, v), or barycentric coordinates."""
        return self._where.parameter

    @property
    def coefficients(self) -> tuple[float, ...]:
        """Its coefficients: one number for each node of the connection's control points, in order."""
        return self._where.coefficients

    @override
    def __repr__(self) -> str:
        return visible(f"<place {','.join(f'{x:g}' for x in self.parameter)} of {label(self.connection.record)}>")

    @override
    def _shown(self) -> dict[str, Any]:
        return {"connection": label(self.connection.record), "parameter": self.parameter}

    def evaluate(self, split: str = "test", **options: Unpack[EvaluateOptions]) -> dict[str, Measured]:
        """Measure it now on a split, as :meth:`Point.evaluate` does; nothing is stored, so ``save`` is refused."""
        from mgraph.operations.evaluating import evaluate_place

        job = evaluation(self.connection.id, [split], options)
        if job.save:
            raise InputError(f"{self!r} is not a node, and has no numbers of its own; make it one with merge(name=…).")
        return evaluate_place(self._session, self._where, job)[split]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return parameters and buffers as plain PyTorch loads them."""
        from mgraph.operations.places import place_state

        return place_state(self._session, self._where)

    def model(self, *, device: str = "cpu") -> nn.Module:
        """Build the network at this place, as :meth:`Point.model` does."""
        from mgraph.operations.places import place_module

        return place_module(self._session, self._where, device)

    def export(self, path: str | os.PathLike[str], **options: Unpack[ExportOptions]) -> Exported:
        """Write it as weights or as a program, as :meth:`Point.export` does."""
        from mgraph.exporting.writing import export_place
        from mgraph.jobs.points import ExportJob

        refuse_unknown("export", options, ExportOptions)
        job = ExportJob(node=self.connection.id, path=str(Path(path)), **options)
        return export_place(self._session, self._where, job)

    def merge(self, *, progress: ProgressCallback | None = None, **options: Unpack[MergeOptions]) -> MergeResult:
        """Store it as a merged node, as :meth:`Connected.merge` does at its parameter."""
        return self.connection.merge(at=self.parameter, progress=progress, **options)
