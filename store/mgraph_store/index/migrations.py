"""The way from an older format of the index to the present one: a numbered step for each version.

A step gets an open transaction on an index of its version and makes it one of the next. All steps that a graph needs
run in one transaction when it is opened, and the journal begins anew; so a graph is of one format or of the other.
Every released format has a small graph in ``tests/data`` that must keep opening. What each version changed:

1. the first
"""

from __future__ import annotations

from collections.abc import Callable

import duckdb

from mgraph_store.index.changes import snapshot
from mgraph_store.index.commits import number_of
from mgraph_store.index.journal import Journal
from mgraph_store.rows import schema

Step = Callable[[duckdb.DuckDBPyConnection], None]

STEPS: dict[int, Step] = {}
"""Version → the step from it to the next."""


def can_migrate(version: int) -> bool:
    """Say whether steps lead from a version to the present one."""
    return all(v in STEPS for v in range(version, schema.FORMAT_VERSION))


def migrate(con: duckdb.DuckDBPyConnection, journal: Journal, version: int) -> None:
    """Bring an index that is open for writing to the present format, under the exclusive lock."""
    con.begin()
    for step in range(version, schema.FORMAT_VERSION):
        STEPS[step](con)
    con.execute("UPDATE meta SET format_version = ?, commits = commits + 1", [schema.FORMAT_VERSION])
    con.commit()
    journal.begin(number_of(con), snapshot(con))
