"""Better models from connections: merge, export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mgraph import MergeOptions
from mgraph.errors import InputError
from mgraph_cli.options import given, grid_option, keyword_options, numbers, output_options, with_computing_graph
from mgraph_cli.output import emit_one, note
from mgraph_cli.progress import progress_bars
from mgraph_cli.tables import print_models

if TYPE_CHECKING:
    from mgraph import Graph


@click.command()
@click.argument("connection")
@click.option("--at", "at_text", metavar="T|U,V|A,B,C", help="The point at this parameter.")
@keyword_options(MergeOptions)
@with_computing_graph
@output_options
def merge(connection: str, at_text: str | None, graph: Graph, form: str, **options: Any) -> None:
    """Store a point of a connection as a merged node, with its own BatchNorm statistics.

    The best corner is kept, unless the best swept point is better than it on validation data, by the
    temperature-scaled likelihood of the labels and allowing for all the points that were looked at. What is stored is
    reported on test data, once. 'oracle' is what choosing on test data would have shown; it is never the result.
    'path cost' is what the connection cost to train, in trainings of one mode.

    \b
    Example:
      mgraph merge s --name m
      mgraph merge s --best --name m
    """
    ways = [options["best"], at_text is not None, options["soup"] is not None, options["refine"] is not None]
    if sum(ways) > 1:
        raise InputError("Give only one of --best, --at and --soup, or --refine.")
    at = numbers(at_text, "--at", float)
    with progress_bars("merge") as progress:
        result = graph.connection(connection).merge(at=at, progress=progress, **given(options))
    facts = result.to_dict()
    for text in facts.pop("notes"):
        note(f"Note: {text}.")
    print_models(facts, result.metric, form)


@click.command()
@click.argument("what")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="File, or directory.")
@click.option("--ensemble", "as_ensemble", is_flag=True, help="Write every member of a connection's grid.")
@grid_option("Members of the ensemble: n or n,m (default: at most 9 points).")
@click.option("--overwrite", is_flag=True, help="Replace what is there.")
@with_computing_graph
@output_options
def export(
    what: str,
    output: Path,
    as_ensemble: bool,
    grid: list[int] | None,
    overwrite: bool,
    graph: Graph,
    form: str,
) -> None:
    """Write a node as .safetensors or .pt, or a connection's ensemble as a directory.

    Plain PyTorch loads the files, without mgraph. A node of a network of transformers, or of LoRA adapters, can also be
    a directory, as from_pretrained of transformers and peft loads it.

    \b
    Example:
      mgraph export m -o m.safetensors
      mgraph export s --ensemble --grid 5 -o ensemble/
      mgraph export m -o adapter/
    """
    if as_ensemble:
        with progress_bars("export") as progress:
            manifest = graph.connection(what).export_ensemble(output, grid=grid, overwrite=overwrite, progress=progress)
        row: dict[str, Any] = {"output": str(output), "members": len(manifest["members"]), "test": manifest["test"]}
        emit_one(row, form=form)
        return
    if grid is not None:
        raise InputError("--grid is for --ensemble; a single node has no grid.")
    path = graph.node(what).export(output, overwrite=overwrite)
    files = list(path.iterdir()) if path.is_dir() else [path]
    emit_one({"node": what, "output": str(path), "nbytes": sum(file.stat().st_size for file in files)}, form=form)
