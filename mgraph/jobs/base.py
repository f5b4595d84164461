"""The interface of a job."""

from __future__ import annotations

import json
from abc import ABC
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from mgraph.errors import CorruptError, InputError
from mgraph.factories import names_code
from mgraph.jobs.reading import read, written
from mgraph.progress import ProgressCallback, silent

if TYPE_CHECKING:
    from mgraph.session.session import Session
    from mgraph_store import Run

KIND = "job"
"""The field of a written job that states its kind."""

NAMING_CODE = ("loss", "augment")
"""The settings of trainings and methods that may name code."""


def _here() -> str:
    return str(Path.cwd())


@dataclass(frozen=True, kw_only=True)
class Job(ABC):
    """One operation with its arguments.

    ``directory`` is what names of the user's code (``file.py:name``) are relative to: where the job was made.
    """

    kind: ClassVar[str]
    operation: ClassVar[str]
    """The function that carries it out: ``package.module:function``, called with (session, job, report=, resumed=)."""

    resumes: ClassVar[bool] = True
    """Whether an interrupted run of it can be resumed; otherwise it is short, and the command is given again."""

    directory: str = field(default_factory=_here)

    def run(
        self, session: Session, *, progress: ProgressCallback = silent, resumed: Run | None = None, follow: bool = True
    ) -> Any:
        """Run it in a session and return the operation's result; then run what follows, unless told otherwise.

        With ``resumed``, an interrupted run of this same job, it continues where that run was saved.
        """
        progress = session.heard(progress)
        module, _, name = self.operation.partition(":")
        further = {} if resumed is None else {"resumed": resumed}
        made = getattr(import_module(module), name)(session, self, progress=progress, **further)
        following = self.following(made) if follow else None
        if following is not None:
            following.run(session, progress=progress)
        return made

    def following(self, made: Any) -> Job | None:
        """Return the job that follows once this one has made something, or None."""
        del made
        return None

    def names(self) -> Iterable[Any]:
        """Return the fields that may name code: losses, augmentations, metrics."""
        return ()

    @property
    def code(self) -> tuple[str, ...]:
        """The user's code that it names."""
        return tuple(name for name in self.names() if isinstance(name, str) and names_code(name))

    @property
    def can_be_written(self) -> bool:
        """Whether everything in it has a name: a function given as an object could not be found again."""
        return True

    def to_json(self) -> str:
        """Write it down; InputError if it holds a function, or another object without a name."""
        document = {f.name: written(getattr(self, f.name)) for f in fields(self)}
        return json.dumps({KIND: self.kind} | document, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what :meth:`to_json` wrote.

        Raises CorruptError, naming the field, for anything else, and InputError for a value that is out of range.
        """
        try:
            document = json.loads(text)
        except ValueError as error:
            raise CorruptError(f"A job is written in JSON: {error}.") from None
        return cls.from_document(document)

    @classmethod
    def from_document(cls, document: Any) -> Self:
        """Build it from parsed JSON."""
        if not isinstance(document, dict) or document.get(KIND) != cls.kind:
            raise CorruptError(f"This is not a job of the kind {cls.kind}.")
        return read(cls, {name: value for name, value in document.items() if name != KIND}, f"The {cls.kind} job")


def require_directory(job: Job, what: str, verb: str) -> None:
    """Raise InputError for a job that names code relative to a directory other than this one."""
    if job.code and job.directory != _here():
        raise InputError(f"{what} runs {', '.join(job.code)} from {job.directory}; go there to {verb} it.")
