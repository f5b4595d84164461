"""Continuing interrupted runs: resume."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mgraph_cli.options import output_options, with_computing_graph
from mgraph_cli.output import emit_one
from mgraph_cli.progress import progress_bars
from mgraph_cli.tables import print_connection, print_mode

if TYPE_CHECKING:
    from mgraph import Graph


@click.command()
@click.argument("run", required=False)
@click.option("--discard", is_flag=True, help="Give up the run instead, and remove what it saved.")
@click.option(
    "--force",
    is_flag=True,
    help="Act even if the run might still be alive on another machine or in another container; you know it is not.",
)
@with_computing_graph
@output_options
def resume(run: str | None, discard: bool, force: bool, graph: Graph, form: str) -> None:
    """Resume an interrupted run: train, connect (and the sweep after it), sweep, and others.

    RUN is an id or prefix as listed by mgraph log, or the name that the run was to give; the default is the only
    interrupted run. It continues from the last saved state (every 30 seconds, or $MGRAPH_SAVE_SECONDS), with its former
    device and threads, and on a CPU ends bit for bit where it would have ended.

    It is not always possible to tell whether a run is still under way on another machine. In that case mgraph says what
    it knows, and --force resumes the run (or gives it up, with --discard). A run known to be alive is never taken over.

    \b
    Example:
      mgraph resume
      mgraph resume r2ab
      mgraph resume r2ab --discard
    """
    if discard:
        emit_one(graph.discard(run, force=force), form=form)
        return
    with progress_bars("resume") as progress:
        made = graph.resume(run, force=force, progress=progress)
    row = made.describe()
    if "ends" in row:
        print_connection(row, form)
    else:
        print_mode(row, form)
