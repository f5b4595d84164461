"""Sets of models: ensembles, soups and predictions, a part of :class:`mgraph.Graph`."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from mgraph.bookkeeping import listing
from mgraph.errors import InputError
from mgraph.graph.base import Opened
from mgraph.graph.handles import Connected, Point
from mgraph.graph.keywords import EnsembleOptions, ExportSetOptions, PredictOptions, SetOptions, SoupOptions
from mgraph.graph.places import Place
from mgraph.keywords import refuse_unknown
from mgraph.progress import silent
from mgraph.query.criterion import NODE_KINDS

if TYPE_CHECKING:
    from mgraph.operations.predictions import Predicted
    from mgraph.operations.soups import SoupResult
    from mgraph.operations.voted import EnsembleResult
    from mgraph.progress import ProgressCallback

Model = Point | Connected | Place | str
"""A way to name models: a node, a place, a connection (nine points of it), or a text such as s@5."""

_OF_SET = ("where", "space")


class Sets(Opened):
    """Operations on several models at once.

    Models are nodes, connections, places on these, or texts: ``"a"``, ``"s@5"`` (a grid), ``"curve@0.25,0.5"`` (points
    by their parameter). A connection on its own stands for nine of its points. ``where`` chooses modes and merged nodes
    by an expression, as in :meth:`Graph.nodes`; the set is the union of all of these.
    """

    def ensemble(
        self, *models: Model, progress: ProgressCallback | None = None, **options: Unpack[EnsembleOptions]
    ) -> EnsembleResult:
        """Let models vote: ``g.ensemble("a", "b", "s@3", temperature=True).table()``.

        The default is all independent modes of the ``space``, and nine points of its best connection. The ensemble is
        compared with the best single model, the corners of the connections, and independent modes of equal number and
        equal cost. ``temperature``, ``weights`` and ``greedy`` (the largest number of members) are fitted on validation
        data. Nodes use their own BatchNorm statistics, points recomputed ones; with ``bn_examples``, all are
        recomputed. Raises InputError for models of different spaces, an expression that chooses none, and a task whose
        members cannot vote.
        """
        from mgraph.jobs.points import EnsembleJob

        refuse_unknown("ensemble", options, EnsembleOptions)
        further: dict[str, Any] = {name: value for name, value in options.items() if name not in _OF_SET}
        job = EnsembleJob(members=self._set(models, options, default=True), **further)
        voted: EnsembleResult = job.run(self.session, progress=progress or silent)
        return voted

    def soup(
        self,
        *models: Model,
        how: str = "uniform",
        progress: ProgressCallback | None = None,
        **options: Unpack[SoupOptions],
    ) -> SoupResult:
        """Average models into a merged node: ``g.soup("a", "b", "c", how="greedy", name="m")``.

        Weights are ``uniform``, ``greedy`` (from the best model to the worst, each that does not make validation worse)
        or ``learned`` (convex weights, by gradient steps on one half of the validation data). Its BatchNorm statistics
        are recomputed, from ``bn_examples``. The result's ``decision`` says on validation data whether it is better
        than the best ingredient. Raises InputError for fewer than two models, and, unless ``force``, if a measured or
        estimated barrier divides them, naming the connection to use instead.
        """
        from mgraph.jobs.points import SoupJob

        refuse_unknown("soup", options, SoupOptions)
        further: dict[str, Any] = {name: value for name, value in options.items() if name not in _OF_SET}
        job = SoupJob(members=self._set(models, options), how=how, **further)
        made: SoupResult = job.run(self.session, progress=progress or silent)
        return made

    def predict(
        self,
        *models: Model,
        path: str | PathLike[str] | None = None,
        progress: ProgressCallback | None = None,
        **options: Unpack[PredictOptions],
    ) -> Predicted:
        """Predict with one model, or the ensemble of several: ``g.predict("s@3", split="test").probabilities``.

        ``data`` is a spec of other data, whose inputs are normalised like the space's. With a ``path`` ending in
        .parquet, .csv or .npz, the predictions are written there. Raises InputError for inputs of another shape.
        """
        from mgraph.jobs.points import PredictJob

        refuse_unknown("predict", options, PredictOptions)
        further: dict[str, Any] = {name: value for name, value in options.items() if name not in _OF_SET}
        job = PredictJob(members=self._set(models, options), path=None if path is None else str(Path(path)), **further)
        found: Predicted = job.run(self.session, progress=progress or silent)
        return found

    def export_ensemble(
        self,
        path: str | PathLike[str],
        *models: Model,
        progress: ProgressCallback | None = None,
        **options: Unpack[ExportSetOptions],
    ) -> dict[str, Any]:
        """Write the ensemble of models: ``g.export_ensemble("e.pt2", "a", "b", "s@3", normalise=True)``.

        A ``path`` ending in .pt2 or .onnx is one program, which returns the mean of its members' votes; any other is a
        directory with one file of weights for each member, and a manifest, which is returned. Other keywords are those
        of :meth:`Point.export`. Raises InputError for members that cannot vote, or a network that the format cannot
        express.
        """
        from mgraph.jobs.points import ExportEnsembleJob

        refuse_unknown("export_ensemble", options, ExportSetOptions)
        further: dict[str, Any] = {name: value for name, value in options.items() if name not in _OF_SET}
        job = ExportEnsembleJob(members=self._set(models, options), path=str(Path(path)), **further)
        manifest: dict[str, Any] = job.run(self.session, progress=progress or silent)
        return manifest

    def _set(self, models: tuple[Model, ...], options: SetOptions, *, default: bool = False) -> tuple[str, ...]:
        """Return a set by ids, as in jobs."""
        from mgraph.models.sets import as_written, default_set

        parts: list[str] = []
        with self.session.store.reading() as reader:
            for model in models:
                if isinstance(model, Point | Connected):
                    parts.append(str(model.id))
                elif isinstance(model, Place):
                    parts.append(f"{model.connection.id}@{','.join(map(repr, model.parameter))}")
                else:
                    parts.append(as_written(reader, model))
        where = options.get("where")
        if where is not None:
            within = self._space_of(options.get("space"))
            rows = listing.list_nodes(self.session.store, kinds=NODE_KINDS, space=within, where=where)
            if not rows:
                raise InputError(f"No mode or merged node fits {where!r}; mgraph ls shows what there is.")
            parts += [row["id"] for row in rows]
        if not parts and default:
            parts = list(default_set(self.session, self.session.space(options.get("space"))))
        return tuple(dict.fromkeys(parts))
