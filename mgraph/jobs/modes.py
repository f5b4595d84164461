"""Jobs that make modes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from typing_extensions import override

from mgraph.errors import InputError
from mgraph.jobs.base import NAMING_CODE, Job
from mgraph.train.settings import TrainSettings

MOST_RESTARTS = 1000

ALIGNED = "align"
"""The origin, in its info, of a mode that an :class:`AlignJob` made."""


@dataclass(frozen=True, kw_only=True)
class TrainJob(Job):
    """Train a mode in a space (its id), and copies of earlier epochs, if its settings ask for them.

    It starts from a fresh network, or at the node ``init`` (its id). ``preset`` is the recipe on which the settings are
    based, if any.
    """

    kind: ClassVar[str] = "train"
    operation: ClassVar[str] = "mgraph.operations.modes:add_trained_mode"

    space: str
    settings: TrainSettings = TrainSettings()
    name: str | None = None
    init: str | None = None
    preset: str | None = None

    @override
    def names(self) -> Iterable[Any]:
        return [getattr(self.settings, setting) for setting in NAMING_CODE]


@dataclass(frozen=True, kw_only=True)
class _ImportJob(Job):
    """The fields for importing a mode, wherever it comes from."""

    operation: ClassVar[str] = "mgraph.operations.modes:add_imported_mode"
    resumes: ClassVar[bool] = False

    space: str
    name: str | None = None
    cast: bool = False
    weights: str | None = None
    ignore: tuple[str, ...] = ()
    recompute_batchnorm: bool = False


@dataclass(frozen=True, kw_only=True)
class AddModeJob(_ImportJob):
    """Import the checkpoint ``file`` as a mode of a space (its id); other fields as in :meth:`mgraph.Graph.add_mode`.

    It is short, and a file may have changed by the time it is read again, so it is given again instead of resumed.
    """

    kind: ClassVar[str] = "add-mode"

    file: str


@dataclass(frozen=True, kw_only=True)
class AddObjectJob(_ImportJob):
    """Import weights in memory, an nn.Module or a dict of tensors, as a mode; fields as in an AddModeJob.

    ``recorded`` says which training they are of, and after which epoch, if a :class:`mgraph.Recorder` gives them. Its
    tensors have no name under which they could be found again, so it is not written down, resumed or sent.
    """

    kind: ClassVar[str] = "add-object"

    weights_of: Any = field(compare=False, repr=False)
    recorded: Mapping[str, Any] | None = None

    @property
    @override
    def can_be_written(self) -> bool:
        return False

    @override
    def to_json(self) -> str:
        """Raise InputError: the tensors are in memory."""
        raise InputError(
            f"The tensors of an {self.kind} job are in memory, so it cannot be written down or sent to another "
            "process; save them to a file, and make an AddModeJob of that."
        )


@dataclass(frozen=True, kw_only=True)
class AddPointJob(Job):
    """Add the point with these ``coordinates``, in canonical order, as a mode of a space (its id). It is short."""

    kind: ClassVar[str] = "add-point"
    operation: ClassVar[str] = "mgraph.operations.modes:add_placed_mode"
    resumes: ClassVar[bool] = False

    space: str
    coordinates: tuple[float, ...]
    name: str | None = None


@dataclass(frozen=True, kw_only=True)
class AlignJob(Job):
    """Permute the units of a ``node`` so that it comes close to the node ``to`` (both ids), as a new mode.

    ``restarts`` are further starts of the search after the first, in orders drawn with ``seed``. It is short: given
    again, not resumed.
    """

    kind: ClassVar[str] = "align"
    operation: ClassVar[str] = "mgraph.operations.aligning:align"
    resumes: ClassVar[bool] = False

    node: str
    to: str
    name: str | None = None
    restarts: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.restarts <= MOST_RESTARTS:
            raise InputError(f"restarts must be between 0 and {MOST_RESTARTS}, not {self.restarts}.")
        if self.seed < 0:
            raise InputError(f"The seed must not be negative; it is {self.seed}.")


@dataclass(frozen=True, kw_only=True)
class AddCurveJob(Job):
    """Import the trained curve in ``file`` into a space (its id): ends as modes NAME-start and NAME-end, and bends.

    ``method`` is curve or chain, or None if the file says it. Like an AddModeJob, it is given again instead of resumed.
    """

    kind: ClassVar[str] = "add-curve"
    operation: ClassVar[str] = "mgraph.operations.importing:add_imported_curve"
    resumes: ClassVar[bool] = False

    space: str
    file: str
    method: str | None = None
    name: str | None = None
    cast: bool = False
