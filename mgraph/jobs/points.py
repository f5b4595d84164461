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
    """Make one point of a connection (its id) a node: the best on validation, the one ``at`` a parameter, or a soup.

    A ``soup`` is uniform or greedy. ``bn_examples`` are those that BatchNorm statistics are recomputed from; with
    ``force`` a point on a wall between the corners is stored all the same.
    """

    kind: ClassVar[str] = "merge"
    operation: ClassVar[str] = "mgraph.operations.merging:merge"

    connection: str
    at: tuple[float, ...] | None = None
    soup: str | None = None
    name: str | None = None
    bn_examples: int | None = None
    force: bool = False


@dataclass(frozen=True, kw_only=True)
class EnsembleJob(Job):
    """Evaluate the ensembles of a connection's (its id) corners and of its whole grid (default: step 0.1)."""

    kind: ClassVar[str] = "ensemble"
    operation: ClassVar[str] = "mgraph.operations.ensembles:ensemble"

    connection: str
    grid: tuple[int, ...] | None = None
    bn_examples: int | None = None


@dataclass(frozen=True, kw_only=True)
class EvaluateJob(Job):
    """Measure a node (its id) on ``splits``; with ``save`` numbers that are not stored yet are, with the node.

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
    """Write a node (its id) as a file, .safetensors, .pt or .pth, or as its network's library has it, a directory.

    It leaves no run, and is given again.
    """

    kind: ClassVar[str] = "export"
    operation: ClassVar[str] = "mgraph.operations.export:export_node"
    resumes: ClassVar[bool] = False

    node: str
    path: str
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class ExportEnsembleJob(Job):
    """Write every member of a connection's (its id) grid as a file, and a manifest, into the directory ``path``."""

    kind: ClassVar[str] = "export-ensemble"
    operation: ClassVar[str] = "mgraph.operations.ensembles:export_ensemble"
    resumes: ClassVar[bool] = False

    connection: str
    path: str
    grid: tuple[int, ...] | None = None
    bn_examples: int | None = None
    overwrite: bool = False
