"""The errors of mgraph: one small tree, grouped by what a caller would do about them.

Every error has a stable ``kind`` (for programs) and one sentence (for people): what was wrong, what was expected, what
to do.
"""

from __future__ import annotations

from typing_extensions import override

from mgraph_store.visible import visible


class MGraphError(Exception):
    """Base class of every error that mgraph raises on purpose.

    ``kind`` is a stable word for programs; ``exit_code`` is what the command line returns. As text it is one line that
    is safe to show, whatever names it quotes (see :mod:`mgraph_store.visible`).
    """

    kind = "failed"
    exit_code = 1

    @override
    def __str__(self) -> str:
        return visible(super().__str__())


class InputError(MGraphError, ValueError):
    """The caller gave something unusable: correct it and call again."""

    kind = "input"
    exit_code = 2


class NotFoundError(InputError, LookupError):
    """Nothing in the graph (or on disk) has that name."""

    kind = "not-found"


class AmbiguousError(InputError):
    """A prefix matches several things."""

    kind = "ambiguous"


class NameTakenError(InputError):
    """A name or a path is already in use."""

    kind = "name-taken"


class StillNeededError(InputError):
    """Something else in the graph depends on what is to be removed."""

    kind = "still-needed"


class LayoutMismatchError(InputError):
    """Tensors do not have the names, shapes or types that the space requires."""

    kind = "layout-mismatch"


class UntrustedError(InputError, PermissionError):
    """The graph names code that this user has not trusted yet."""

    kind = "untrusted"


class NonFiniteError(InputError, ArithmeticError):
    """A NaN or an infinity where only finite numbers are allowed."""

    kind = "non-finite"


class UnconnectedError(MGraphError):
    """No method that was tried meets the limit; the request itself is fine."""

    kind = "unconnected"


class StoreError(MGraphError):
    """The graph directory itself is at fault, not the request."""

    kind = "store"


class EntryError(StoreError):
    """Something in the graph's directory is not what it should be: a link, a pipe, a device."""

    kind = "entry"
    exit_code = 2


class MovedError(StoreError):
    """The graph's directory is gone, or replaced by another one."""

    kind = "moved"


class MGraphWarning(UserWarning):
    """Something that the user should know before trusting a number; as text, one line that is safe to show."""

    @override
    def __str__(self) -> str:
        return visible(super().__str__())


class MovedWarning(MGraphWarning):
    """The graph's directory was moved while it was in use."""


class UnseenCommitsWarning(MGraphWarning):
    """The graph is shared with other machines, and what they have committed cannot be read now."""


class ConflictError(StoreError):
    """Another process has changed what this one was about to change."""

    kind = "conflict"


class FormatError(StoreError):
    """The graph has a format that this version does not read."""

    kind = "format"
    exit_code = 2


class OldFormatError(FormatError):
    """The graph has an older format, which can be migrated to the current one."""


class CorruptError(StoreError):
    """Stored data is missing or damaged."""

    kind = "corrupt"


class BehindError(CorruptError):
    """The index lacks commits that the journal has; whoever may write brings it up to date."""


class OutcomeUnknownError(StoreError):
    """The disk failed so that nobody can say whether a commit was stored."""

    kind = "unknown"


class LockTimeoutError(StoreError, TimeoutError):
    """Another process kept the graph's lock for too long."""

    kind = "locked"
