"""The demonstration: demo."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from mgraph_cli.options import output_options
from mgraph_cli.output import emit, note
from mgraph_cli.progress import progress_bars


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), default="demo", show_default=True, help="Directory.")
@click.option("--overwrite", is_flag=True, help="Replace the graph of an earlier demo.")
@output_options
def demo(output: Path, overwrite: bool, form: str) -> None:
    """Show on real digits what mode connectivity gives, in a minute or two on a CPU.

    Trains four modes, connects them by straight lines, a bilinear and a Bézier surface, merges, ensembles, and writes
    the graph, pictures and an exported model.

    \b
    Example:
      mgraph demo -o demo
    """
    from mgraph.demo import COLUMNS, MAX_BARRIER, run_demo

    if not (output / "digits.mgraph").exists() or overwrite:  # what Ctrl-C leaves behind is ours to replace
        click.get_current_context().obj.command = shlex.join(["mgraph", "demo", "-o", str(output), "--overwrite"])
    with progress_bars("demo") as report:
        result = run_demo(output, overwrite=overwrite, report=report, say=note)
    emit(result.rows, COLUMNS, form=form)
    if form == "table":
        click.echo(
            f"Components at train barrier <= {MAX_BARRIER:g}: {result.components_before} by straight lines, "
            f"{result.components_after} with the trained surface."
        )
        for path in result.files:
            click.echo(f"Wrote {path}")
        click.echo(f"Go on:  mgraph ls --graph {result.files[-1]}")
