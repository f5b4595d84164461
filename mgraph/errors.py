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


class MGraphWarning(UserWarning):
    """Something that the user should know before trusting a number."""


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
