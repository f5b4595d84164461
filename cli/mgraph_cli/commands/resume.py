"""Going on with what was interrupted: resume."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mgraph_cli.commands.connect import print_connection
from mgraph_cli.commands.modes import print_mode
from mgraph_cli.options import output_options, with_computing_graph
from mgraph_cli.output import emit_one
from mgraph_cli.progress import progress_bars

if TYPE_CHECKING:
    from mgraph.graph.graph import Graph


@click.command()
@click.argument("run", required=False)
@click.option("--discard", is_flag=True, help="Give the run up instead, and remove what it saved.")
@click.option(
    "--force",
    is_flag=True,
    help="Also if it may still be under way on another machine or in another container; you know that it is not.",
)
@with_computing_graph
@output_options
def resume(run: str | None, discard: bool, force: bool, graph: Graph, form: str) -> None:
    """Go on with an interrupted run: train, connect (and the sweep after it) or sweep.

    RUN is an id or prefix as mgraph log lists it, or the name that the run was to give; without it, the only
    interrupted run. It goes on from the last state saved (every 30 seconds, or $MGRAPH_SAVE_SECONDS), with the device
    and threads that it had, and on a CPU ends bit for bit where it would have ended.

    Whether a run still is under way on another machine cannot always be seen from here; then what is known of it is
    said, and --force goes on with it (or gives it up, with --discard). A run that is seen to be alive is never taken
    over.

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
