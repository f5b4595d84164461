"""Alignment: align."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mgraph import AlignOptions
from mgraph_cli.completion import NODES
from mgraph_cli.options import given, keyword_options, output_options, with_computing_graph
from mgraph_cli.output import note
from mgraph_cli.progress import progress_bars
from mgraph_cli.tables import print_mode

if TYPE_CHECKING:
    from mgraph import Graph


@click.command()
@click.argument("node", shell_complete=NODES)
@click.option(
    "--to", required=True, metavar="NODE", help="The mode to which it is to come close.", shell_complete=NODES
)
@keyword_options(AlignOptions)
@with_computing_graph
@output_options
def align(node: str, to: str, graph: Graph, form: str, **options: Any) -> None:
    """Permute the units of a mode so that its weights come close to another's.

    The result is a new mode with the same outputs: hidden units, channels and attention heads have changed places,
    together with all that belongs to them. Which may do so is found by tracing the network; where they go is chosen by
    weight matching (Git Re-Basin). Outputs are compared on a batch before anything is stored.

    \b
    Example:
      mgraph align a --to b --name a-aligned
    """
    with progress_bars("align") as progress:
        mode = graph.align(node, to=to, progress=progress, **given(options))
    row = mode.describe()
    info = row["info"]
    note(
        f"Its distance to {to} is {info['distance_after']:.4g}, where that of {node} is {info['distance_before']:.4g}; "
        f"its outputs are those of {node} within 1e-05."
    )
    print_mode(row, form)
