"""The error tree, one for the whole project (see :mod:`mgraph_store.errors`)."""

from __future__ import annotations

from mgraph_store.errors import (
    AmbiguousError,
    ConflictError,
    CorruptError,
    FormatError,
    InputError,
    LayoutMismatchError,
    LockTimeoutError,
    MGraphError,
    NameTakenError,
    NonFiniteError,
    NotFoundError,
    StoreError,
    UnconnectedError,
    UntrustedError,
)
from mgraph_store.visible import visible


class MGraphWarning(UserWarning):
    """Something that the user should know before trusting a number; as text, one line that is safe to show."""

    def __str__(self) -> str:
        return visible(super().__str__())


__all__ = [
    "AmbiguousError",
    "ConflictError",
    "CorruptError",
    "FormatError",
    "InputError",
    "LayoutMismatchError",
    "LockTimeoutError",
    "MGraphError",
    "MGraphWarning",
    "NameTakenError",
    "NonFiniteError",
    "NotFoundError",
    "StoreError",
    "UnconnectedError",
    "UntrustedError",
]
