"""Better models from connections: merge, export."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mgraph import ExportSetOptions, MergeOptions
from mgraph.errors import InputError
from mgraph_cli.completion import CONNECTIONS, THINGS
from mgraph_cli.options import given, grid_option, keyword_options, numbers, output_options, with_computing_graph
from mgraph_cli.output import emit_one, note
from mgraph_cli.progress import progress_bars
from mgraph_cli.tables import print_models

if TYPE_CHECKING:
    from mgraph import Graph


@click.command()
@click.argument("connection", shell_complete=CONNECTIONS)
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
@click.argument("what", nargs=-1, metavar="NODE|[MODEL|CONN@POINTS]...", shell_complete=THINGS)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="File, or directory.")
@click.option("--ensemble", "as_ensemble", is_flag=True, help="Write the ensemble of a set of models.")
@grid_option("Of a single connection: members on a grid of n or n,m points (default: at most 9).")
@keyword_options(ExportSetOptions)
@with_computing_graph
@output_options
def export(
    what: tuple[str, ...],
    output: Path,
    as_ensemble: bool,
    grid: list[int] | None,
    graph: Graph,
    form: str,
    **options: Any,
) -> None:
    """Write a node, or the ensemble of a set of models, as files that run without mgraph.

    .safetensors and .pt hold weights, which plain PyTorch loads into the network. .pt2 (torch.export) and .onnx hold
    the network itself, for batches of any size; for an ensemble, all its members, and they return the mean of the
    members' votes. An ensemble can also be a directory of weights. A node of a network of transformers, or of LoRA
    adapters, can be a directory as from_pretrained of transformers and peft loads it.

    A model card is written beside the file. Before the file appears, it is run in a fresh process that cannot import
    mgraph, and its predictions must agree with the graph's within 1e-5.

    \b
    Example:
      mgraph export m -o m.safetensors
      mgraph export m -o m.onnx --normalise
      mgraph export s@3 --ensemble -o ensemble.pt2
      mgraph export a b c --ensemble -o ensemble/
      mgraph export m -o adapter/
    """
    chosen = given(options)
    if as_ensemble:
        _export_ensemble(what, output, grid, graph, form, chosen)
        return
    odd = next((name for name in ("where", "space", "bn_examples") if name in chosen), None) or (grid and "grid")
    if odd:
        flag = odd.replace("_", "-")
        raise InputError(f"--{flag} is for --ensemble; a single node has no {'grid' if odd == 'grid' else 'members'}.")
    if len(what) != 1:
        raise InputError(f"One node is exported at a time, not {len(what)}; --ensemble writes several as one ensemble.")
    connection, at, _ = what[0].partition("@")
    if at:
        raise InputError(
            f"{what[0]} is not a node: `mgraph merge {connection} --at …` makes one point of a connection a node, "
            "--ensemble writes several as one ensemble."
        )
    written = graph.node(what[0]).export(output, **chosen)
    files = list(output.iterdir()) if output.is_dir() else [output]
    row: dict[str, Any] = {"node": what[0], "output": str(output)}
    row["nbytes"] = sum(file.stat().st_size for file in files)
    row |= _program(None if written.program is None else written.program.to_dict())
    if written.card is not None:
        row["card"] = str(written.card)
    row |= _verified(None if written.verified is None else asdict(written.verified))
    emit_one(row, form=form)


def _export_ensemble(
    what: tuple[str, ...], output: Path, grid: list[int] | None, graph: Graph, form: str, chosen: dict[str, Any]
) -> None:
    with progress_bars("export") as progress:
        if grid is None:
            manifest = graph.export_ensemble(output, *what, progress=progress, **chosen)
        elif len(what) == 1 and not {"where", "space", "bn_examples"} & set(chosen):
            manifest = graph.connection(what[0]).export_ensemble(output, grid=grid, progress=progress, **chosen)
        else:
            raise InputError("--grid is for a single connection; write CONN@POINTS, e.g. s@5, where there are several.")
    row: dict[str, Any] = {"output": str(output), "members": len(manifest["members"]), "test": manifest["test"]}
    row |= _program(manifest.get("program")) | {"card": manifest["card"]} | _verified(manifest["verified"])
    emit_one(row, form=form)


def _program(program: dict[str, Any] | None) -> dict[str, Any]:
    """Say what a program takes and gives."""
    if program is None:
        return {}
    takes = []
    for one in program["takes"]:
        shape = ", ".join(str(extent) for extent in one["shape"])
        takes.append(f"{one['name']}: {one['dtype']} ({shape}), {one['values']}")
    return {"takes": "; ".join(takes), "gives": program["gives"]}


def _verified(verified: dict[str, Any] | None) -> dict[str, Any]:
    """Say how a file was checked, with a note where its predictions could not be."""
    if verified is None:
        return {}
    if verified["instead"] is not None:
        note(f"Note: the tensors of the file were compared, and not its predictions: {verified['instead']}.")
        return {"verified": {"tensors": "the same"}}
    return {"verified": {"examples": verified["examples"], "largest_difference": verified["difference"]}}
