"""Better models from connections: merge, ensemble, export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mgraph import MergeOptions
from mgraph.errors import InputError
from mgraph_cli.options import given, grid_option, keyword_options, numbers, output_options, with_computing_graph
from mgraph_cli.output import emit, emit_one, note
from mgraph_cli.progress import progress_bars
from mgraph_cli.terminal import echo

if TYPE_CHECKING:
    from mgraph import Difference, Graph, Measured

_LOSS = "loss"


@click.command()
@click.argument("connection")
@click.option("--best", is_flag=True, help="The swept point that is best on validation data (the default).")
@click.option("--at", "at_text", metavar="T|U,V|A,B,C", help="The point at this parameter.")
@keyword_options(MergeOptions)
@with_computing_graph
@output_options
def merge(connection: str, best: bool, at_text: str | None, graph: Graph, form: str, **options: Any) -> None:
    """Store a point of a connection as a merged node, with its own BatchNorm statistics.

    The point is chosen on validation data, which also decide whether it is better than the best corner, allowing for
    all the points that were looked at; then it is reported on test data, once. 'oracle' is what choosing on test data
    would have shown; it is never the result. Better and worse refer to the task's primary metric.

    \b
    Example:
      mgraph merge s --best --name m
    """
    if best + (at_text is not None) + (options["soup"] is not None) > 1:
        raise InputError("Give only one of --best, --at and --soup.")
    at = numbers(at_text, "--at", float)
    with progress_bars("merge") as progress:
        result = graph.connection(connection).merge(at=at, progress=progress, **given(options))
    for text in result.notes:
        note(f"Note: {text}.")
    rows = [_measured_row(result.node.name or result.node.id, result.results, result.metric)]
    rows += [_measured_row(f"corner {corner}", m, result.metric) for corner, m in result.corners.items()]
    facts: dict[str, Any] = {
        "id": result.node.id,
        "name": result.node.name,
        "parameter": None if result.parameter is None else list(result.parameter),
        "selected_on": result.node.selected_on,
        "against": f"corner {result.baseline}",
        "oracle": result.oracle,
    }
    if result.decision is not None:
        d = result.decision
        facts |= {"points_looked_at": d.looked_at, "valid_difference": d.value, "by_luck": d.p, "verdict": d.verdict}
    if result.difference is not None:
        facts |= _difference(f"test_{result.scored_by}_difference", result.difference)
    _print(facts, rows, result.metric, form)


@click.command()
@click.argument("connection")
@grid_option("Members: n or n,m (default: 11 in each direction, fewer on a simplex of many modes).")
@click.option("--bn-examples", type=int, help="Examples for BatchNorm statistics (default: at most 2000).")
@with_computing_graph
@output_options
def ensemble(
    connection: str,
    grid: list[int] | None,
    bn_examples: int | None,
    graph: Graph,
    form: str,
) -> None:
    """Evaluate the ensemble of a connection's corners and that of a whole grid.

    Members vote by the mean of their softmax outputs, or as the task says (combine); the single model to beat is the
    corner that is best on validation data.

    \b
    Example:
      mgraph ensemble s --grid 5
    """
    with progress_bars("ensemble") as progress:
        result = graph.connection(connection).ensemble(grid=grid, bn_examples=bn_examples, progress=progress)
    rows = [
        _measured_row(f"single corner {result.single_name}", result.single, result.metric),
        _measured_row("ensemble of the corners", result.corners, result.metric),
        _measured_row(f"ensemble of {result.members} points", result.whole, result.metric),
    ]
    facts = {
        "connection": connection,
        "grid": list(result.grid),
        **_difference("corners_minus_single", result.corners_gain),
        **_difference("grid_minus_corners", result.grid_gain),
    }
    _print(facts, rows, result.metric, form)


@click.command()
@click.argument("what")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="File, or directory.")
@click.option("--ensemble", "as_ensemble", is_flag=True, help="Write every member of a connection's grid.")
@grid_option("Members of the ensemble: n or n,m (default: 11 along each parameter).")
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


def _measured_row(what: str, results: dict[str, dict[str, Measured]], primary: str) -> dict[str, Any]:
    row: dict[str, Any] = {"what": what}
    for split, metrics in results.items():
        for metric, m in metrics.items():
            row[f"{split}_{metric}"] = m.value
    row["test_error_bar"] = results["test"][primary].standard_error
    return row


def _difference(name: str, d: Difference | None) -> dict[str, Any]:
    if d is None:
        return {}
    return {name: d.value, f"{name}_standard_error": d.standard_error, f"{name}_verdict": d.verdict}


def _print(facts: dict[str, Any], rows: list[dict[str, Any]], primary: str, form: str) -> None:
    columns: tuple[str, ...] = ("what", f"valid_{primary}", f"test_{primary}", "test_error_bar")
    if primary != _LOSS:
        columns += (f"valid_{_LOSS}", f"test_{_LOSS}")
    if form == "json":
        emit_one(facts | {"models": rows}, form=form)
    elif form == "csv":
        emit(rows, columns, form=form)
    else:
        emit_one(facts)
        echo()
        emit(rows, columns)
