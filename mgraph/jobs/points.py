"""Jobs on single points: merging, voting, measuring, rounding, writing them as files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from typing_extensions import override

from mgraph.evaluate.sharpness import SharpnessSettings
from mgraph.jobs.base import Job
from mgraph.query.criterion import SPLITS


@dataclass(frozen=True, kw_only=True)
class MergeJob(Job):
    """Make one point of a connection (its id) a node: the best swept one, if it is better than the best corner.

    Otherwise it is that corner, unless ``best`` asks for the swept point that is best on validation in any case.
    Instead it may be the point ``at`` a parameter, a ``soup``, uniform or greedy, or what a search of at most
    ``refine`` more points finds. ``bn_examples`` are those from which BatchNorm statistics are recomputed; with
    ``force``, a point on a wall between the corners is stored nevertheless.
    """

    kind: ClassVar[str] = "merge"
    operation: ClassVar[str] = "mgraph.operations.merging:merge"

    connection: str
    at: tuple[float, ...] | None = None
    soup: str | None = None
    best: bool = False
    refine: int | None = None
    name: str | None = None
    bn_examples: int | None = None
    force: bool = False


@dataclass(frozen=True, kw_only=True)
class EnsembleJob(Job):
    """Evaluate the ensemble of ``members``, a set of models by ids (:mod:`mgraph.models.sets`): "mabc", "kabc@5".

    With ``temperature``, each member has its own; members have learned ``weights``, or are the at most ``greedy`` that
    help most, all fitted on validation data. With ``bn_examples``, BatchNorm statistics of all are recomputed.
    """

    kind: ClassVar[str] = "ensemble"
    operation: ClassVar[str] = "mgraph.operations.voting:ensemble"

    members: tuple[str, ...]
    bn_examples: int | None = None
    temperature: bool = False
    weights: bool = False
    greedy: int | None = None


@dataclass(frozen=True, kw_only=True)
class SoupJob(Job):
    """Store the average of ``members``, a set of models by ids (:mod:`mgraph.models.sets`), as a merged node.

    Weights are uniform, greedy or learned, the latter two on validation data. ``bn_examples`` are those from which its
    BatchNorm statistics are recomputed; with ``force``, models are averaged even if a barrier divides them.
    """

    kind: ClassVar[str] = "soup"
    operation: ClassVar[str] = "mgraph.operations.soups:soup"

    members: tuple[str, ...]
    how: str = "uniform"
    name: str | None = None
    bn_examples: int | None = None
    force: bool = False


@dataclass(frozen=True, kw_only=True)
class PredictJob(Job):
    """Write what ``members``, a set of models by ids, predict together on a ``split`` into the file ``path``.

    ``data`` is a spec of data other than the space's. With ``temperature``, each member has its own, fitted on the
    space's validation data. It leaves no run, and is given again.
    """

    kind: ClassVar[str] = "predict"
    operation: ClassVar[str] = "mgraph.operations.predictions:predict"
    resumes: ClassVar[bool] = False

    members: tuple[str, ...]
    path: str | None = None
    data: str | None = None
    split: str = "test"
    bn_examples: int | None = None
    temperature: bool = False
    overwrite: bool = False

    @override
    def names(self) -> Iterable[Any]:
        return (self.data,)


@dataclass(frozen=True, kw_only=True)
class EvaluateJob(Job):
    """Measure a node (its id) on ``splits``; with ``save``, numbers that are not stored yet are stored with the node.

    ``metrics`` are measured besides the loss and the task's own: names, or functions and :class:`mgraph.Metric` (with
    one of these the job cannot be written down). ``examples`` limits each split to a fixed random subset of that size.
    It is short, and given again.
    """

    kind: ClassVar[str] = "evaluate"
    operation: ClassVar[str] = "mgraph.operations.evaluating:evaluate"
    resumes: ClassVar[bool] = False

    node: str
    splits: tuple[str, ...] = SPLITS
    metrics: tuple[Any, ...] = ()
    examples: int | None = None
    save: bool = False

    @override
    def names(self) -> Iterable[Any]:
        return self.metrics

    @property
    @override
    def can_be_written(self) -> bool:
        """Whether every metric is a name: a function cannot be found again."""
        return all(isinstance(metric, str) for metric in self.metrics)


@dataclass(frozen=True, kw_only=True)
class SharpnessJob(Job):
    """Measure how sharp the minimum around a node (its id) is."""

    kind: ClassVar[str] = "sharpness"
    operation: ClassVar[str] = "mgraph.operations.surroundings:measure_sharpness"

    node: str
    settings: SharpnessSettings = SharpnessSettings()


@dataclass(frozen=True, kw_only=True)
class ArchiveJob(Job):
    """Store a copy of a node (its id) with rounded parameters: bf16, or bitround:N for N bits of the mantissa."""

    kind: ClassVar[str] = "archive"
    operation: ClassVar[str] = "mgraph.operations.archiving:archive"

    node: str
    rounding: str
    name: str | None = None


@dataclass(frozen=True, kw_only=True)
class ExportJob(Job):
    """Write a node (its id) as a file: weights (.safetensors, .pt, .pth), or a program (.pt2, .onnx).

    A path without an ending is a directory as the network's library has it. A program that is to ``normalise`` takes
    inputs as the data hold them. ``verify``: the file is run in a fresh process without mgraph first. It leaves no run,
    and is given again.
    """

    kind: ClassVar[str] = "export"
    operation: ClassVar[str] = "mgraph.exporting.writing:export_node"
    resumes: ClassVar[bool] = False

    node: str
    path: str
    normalise: bool = False
    verify: bool = True
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class ExportEnsembleJob(Job):
    """Write the ensemble of ``members``, a set of models by ids: a program (.pt2, .onnx), or a directory of weights.

    It is normalised and verified as in an :class:`ExportJob`. With ``bn_examples`` BatchNorm statistics of all members
    are recomputed.
    """

    kind: ClassVar[str] = "export-ensemble"
    operation: ClassVar[str] = "mgraph.exporting.ensembles:export_ensemble"
    resumes: ClassVar[bool] = False

    members: tuple[str, ...]
    path: str
    bn_examples: int | None = None
    normalise: bool = False
    verify: bool = True
    overwrite: bool = False
