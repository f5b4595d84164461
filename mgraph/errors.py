"""The error tree, one for the whole project (see :mod:`mgraph_store.errors`)."""

from __future__ import annotations

from mgraph_store.errors import (
    AmbiguousError,
    ConflictError,
    CorruptError,
    EntryError,
    FormatError,
    InputError,
    LayoutMismatchError,
    LockTimeoutError,
    MGraphError,
    MGraphWarning,
    MovedError,
    NameTakenError,
    NonFiniteError,
    NotFoundError,
    StoreError,
    UnconnectedError,
    UntrustedError,
)


class TrainedCurveError(InputError):
    """A checkpoint holds a trained curve, not a mode; ``method`` is curve or chain, or None if it does not say."""

    def __init__(self, message: str, method: str | None = None) -> None:
        super().__init__(message)
        self.method = method


__all__ = [
    "AmbiguousError",
    "ConflictError",
    "CorruptError",
    "EntryError",
    "FormatError",
    "InputError",
    "LayoutMismatchError",
    "LockTimeoutError",
    "MGraphError",
    "MGraphWarning",
    "MovedError",
    "NameTakenError",
    "NonFiniteError",
    "NotFoundError",
    "StoreError",
    "TrainedCurveError",
    "UnconnectedError",
    "UntrustedError",
]
