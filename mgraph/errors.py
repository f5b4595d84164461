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
    "UnconnectedError",
    "UntrustedError",
]
