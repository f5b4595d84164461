"""What DuckDB complains of, in a sentence that says what to do."""

from __future__ import annotations

import os
from pathlib import Path

import duckdb

from mgraph_store.errors import CorruptError, FormatError, LockTimeoutError, MGraphError, StoreError

LOCKED = "Could not set lock"
"""DuckDB's message if another process has the file open."""

IN_THIS_PROCESS = "Unique file handle conflict"
"""DuckDB's message if another connection of the same process has the file open."""


def translated(error: duckdb.Error, path: Path) -> MGraphError:
    """Translate an error that DuckDB raised about the index at a path into one sentence."""
    text = str(error)
    first = text.splitlines()[0].rstrip(".")
    if LOCKED in text:
        holder = text.partition("held in ")[2].partition(". See")[0] or "another program"
        return LockTimeoutError(f"{path} is open in {holder}: close it there and try again.")
    if IN_THIS_PROCESS in text:
        return LockTimeoutError(
            f"{path} is open in this very process ({os.getpid()}), by a DuckDB connection that is not "
            "mgraph's: close it (con.close(), or end the notebook's kernel) and try again. To look into an index "
            "for longer, copy the graph (mgraph copy), or ask with mgraph sql."
        )
    if "version number" in text:
        return FormatError(f"{path} needs another version of DuckDB ({first}).")
    if "No space left" in text or "Disk quota" in text or "File too large" in text:
        return StoreError(
            f"No space left for {path}: nothing was stored; free some disk space (or quota) and try again."
        )
    if "disabled by configuration" in text:
        return StoreError(
            f"The index of graph {path.parent} leads to a file elsewhere, which is not read ({first}): "
            "index.duckdb must be an ordinary file, without views of other files."
        )
    if "Permission denied" in text or "Read-only file system" in text:
        return StoreError(f"{path} is not accessible to this user ({first}).")
    damaged = (
        "not a valid DuckDB",
        "Corrupt",
        "corrupt",
        "checksum",
        "WAL file",
        "deserialize",
        "read enough bytes",
    )
    fatal = (duckdb.FatalException, duckdb.InternalException, duckdb.SerializationException)
    if isinstance(error, fatal) or any(word in text for word in damaged):
        return CorruptError(f"{path} is damaged ({first}): `mgraph check` says what can be done.")
    return StoreError(f"DuckDB failed on {path}: {first}")
