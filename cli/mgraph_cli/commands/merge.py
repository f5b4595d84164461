"""Better models from connections: merge, ensemble, export."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mgraph import ExportOptions, MergeOptions
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
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="File, or directory of an ensemble."
)
@click.option("--ensemble", "as_ensemble", is_flag=True, help="Write the ensemble of a connection's grid.")
@grid_option("Members of the ensemble: n or n,m (default: 11 along each parameter).")
@keyword_options(ExportOptions)
@with_computing_graph
@output_options
def export(
    what: str, output: Path, as_ensemble: bool, grid: list[int] | None, graph: Graph, form: str, **options: Any
) -> None:
    """Write a node, or a connection's ensemble, as files that run without mgraph.

    .safetensors and .pt hold weights, which plain PyTorch loads into the network. .pt2 (torch.export) and .onnx hold
    the network itself, for batches of any size; of an ensemble, all its members, and it returns the mean of their
    votes. An ensemble can also be a directory of weights. A model card is written beside the file, and before it is
    there it is run in a fresh process without mgraph, whose predictions must be those of the graph within 1e-5.

    \b
    Example:
      mgraph export m -o m.safetensors
      mgraph export m -o m.onnx --normalise
      mgraph export s --ensemble --grid 3 -o ensemble.pt2
      mgraph export s --ensemble --grid 5 -o ensemble/
    """
    if as_ensemble:
        with progress_bars("export") as progress:
            manifest = graph.connection(what).export_ensemble(output, grid=grid, progress=progress, **given(options))
        row: dict[str, Any] = {"output": str(output), "members": len(manifest["members"]), "test": manifest["test"]}
        row |= _program(manifest.get("program")) | {"card": manifest["card"]} | _verified(manifest["verified"])
        emit_one(row, form=form)
        return
    if grid is not None:
        raise InputError("--grid is for --ensemble; a single node has no grid.")
    written = graph.node(what).export(output, **given(options))
    row = {"node": what, "output": str(output), "nbytes": output.stat().st_size}
    row |= _program(None if written.program is None else written.program.to_dict()) | {"card": str(written.card)}
    row |= _verified(None if written.verified is None else asdict(written.verified))
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
