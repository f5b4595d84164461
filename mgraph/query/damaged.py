"""The error for contradictory rows of a connection: the index is damaged, or a stranger's."""

from __future__ import annotations

from mgraph.errors import CorruptError


def contradiction(connection: str, what: str) -> CorruptError:
    """Make the error for a connection, by name or id; ``what`` says what is wrong."""
    return CorruptError(f"The rows of connection {connection} contradict each other ({what}): run `mgraph check`.")
