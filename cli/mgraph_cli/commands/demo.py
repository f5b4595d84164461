"""The demonstration: demo."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from mgraph_cli.options import output_options
from mgraph_cli.output import emit, note
from mgraph_cli.progress import progress_bars
from mgraph_cli.terminal import echo


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), default="demo", show_default=True, help="Directory.")
@click.option("--overwrite", is_flag=True, help="Replace the graph of an earlier demo.")
@click.option(
    "--toy", is_flag=True, help="Instead, show a band relaxing on landscapes of two weights, drawn as it moves."
)
@output_options
def demo(output: Path, overwrite: bool, toy: bool, form: str) -> None:
    """Show what mode connectivity gains on real digits of which half the labels are wrong, in a minute of CPU.

    This trains four modes, connects them by straight lines, a bilinear and a Bézier surface, merges a point, compares
    it with what the same training buys otherwise, and writes the graph, pictures, a page and an exported model.

    With --toy, it takes seconds and shows the nudged elastic band between two wells of three landscapes whose saddles
    are known.

    \b
    Example:
      mgraph demo -o demo
      mgraph demo --toy -o demo
    """
    if toy:
        _toy(output, overwrite, form)
        return
    from mgraph import run_demo

    if not (output / "digits.mgraph").exists() or overwrite:  # we may replace what Ctrl-C left behind
        click.get_current_context().obj.command = shlex.join(["mgraph", "demo", "-o", str(output), "--overwrite"])
    with progress_bars("demo") as progress:
        result = run_demo(output, overwrite=overwrite, progress=progress, say=note)
    if form != "table":
        emit([*result.rows, *result.models], result.columns, form=form)
        return
    emit(result.rows, result.columns)
    emit(result.models, result.model_columns)
    for sentence in result.story:
        echo(sentence)
    for path in result.files:
        echo(f"Wrote {path}")
    echo(f"Next:  mgraph ls --graph {result.files[-1]}")


def _toy(output: Path, overwrite: bool, form: str) -> None:
    from mgraph import run_toy_demo

    if not (output / "toy.mgraph").exists() or overwrite:
        words = ["mgraph", "demo", "--toy", "-o", str(output), "--overwrite"]
        click.get_current_context().obj.command = shlex.join(words)
    with progress_bars("demo") as progress:
        result = run_toy_demo(output, overwrite=overwrite, progress=progress, say=note)
    emit(result.rows, result.columns, form=form)
    if form == "table":
        for path in result.files:
            echo(f"Wrote {path}")
