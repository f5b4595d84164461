"""Ctrl-C while DuckDB works.

DuckDB notices a signal between two of its steps, and stops with its own error: a RuntimeError that says "Query
interrupted" in the main thread, an InterruptException elsewhere. The KeyboardInterrupt that Python had pending is lost.
Code that catches errors would take an interruption for a failed query, and might continue.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import duckdb


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Turn DuckDB's errors for Ctrl-C inside this block back into KeyboardInterrupt.

    Do not use it for queries that a program interrupts itself (:meth:`duckdb.DuckDBPyConnection.interrupt`).
    """
    try:
        yield
    except duckdb.InterruptException as error:
        raise KeyboardInterrupt from error
    except RuntimeError as error:
        if type(error) is RuntimeError and "interrupted" in str(error).lower():
            raise KeyboardInterrupt from error
        raise
