"""Asking in SQL: sql."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mgraph.errors import InputError
from mgraph_cli.options import output_options, with_graph
from mgraph_cli.output import CSV_SAFE, emit, note

if TYPE_CHECKING:
    from mgraph import Graph


@click.command()
@click.argument("query", required=False)
@click.option("--views", is_flag=True, help="Only list the views and their columns, with meaning and unit.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write .csv, .json or .parquet instead.")
@click.option("--overwrite", is_flag=True, help="Replace that file.")
@click.option("--max-seconds", type=float, help="Give up after this many seconds (default: 10).")
@with_graph
@output_options
def sql(
    query: str | None,
    views: bool,
    output: Path | None,
    overwrite: bool,
    max_seconds: float | None,
    graph: Graph,
    form: str,
) -> None:
    """Run one SQL statement that reads the graph's index; - takes it from standard input.

    Besides the tables there are views with names and numbers: modes, connections, edges (current: those that count),
    samples (swept points) and evaluations. A query cannot write anything, nor reach any file or setting.

    \b
    Example:
      mgraph sql "SELECT name, test_accuracy FROM modes ORDER BY 2 DESC LIMIT 3"
      mgraph sql "SELECT * FROM samples" -o samples.parquet
    """
    if views:
        emit(graph.views(), ("view", "column", "type", "unit", "meaning"), form=form)
        return
    if query is None:
        raise InputError('Give a query, e.g. "SELECT name FROM modes"; --views lists what you can query.')
    csv_safe = bool(click.get_current_context().meta[CSV_SAFE])
    if output is not None and form != "table" and not (csv_safe and output.suffix == ".csv"):
        raise InputError("-o writes a file by its ending; --json and --csv print.")
    text = sys.stdin.read() if query == "-" else query
    answer = graph.sql(text, max_seconds=max_seconds)
    if output is not None:
        answer.write(output, overwrite=overwrite, csv_safe=csv_safe)
        note(f"{len(answer)} rows written to {output}.")
        return
    rows = answer.records()
    columns = list(rows[0]) if rows else answer.columns
    emit(rows, columns, heads=columns, form=form, empty="no rows")  # the names that another query can take
