"""What is said where the rows of a connection contradict each other: a damaged index, or a stranger's."""

from __future__ import annotations

from mgraph.errors import CorruptError


def contradiction(connection: str, what: str) -> CorruptError:
    """Make the error for a connection, by name or id, of which ``what`` is wrong."""
    return CorruptError(f"The rows of connection {connection} contradict each other ({what}): run `mgraph check`.")
