"""Modes: train, add-mode."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mgraph.errors import InputError, TrainedCurveError
from mgraph.train.settings import TrainSettings
from mgraph_cli.commands.connect import print_connection
from mgraph_cli.options import (
    SectionedCommand,
    chosen_settings,
    numbers,
    output_options,
    preset_option,
    settings_options,
    space_option,
    with_computing_graph,
)
from mgraph_cli.output import emit, emit_one, note
from mgraph_cli.progress import progress_bars

if TYPE_CHECKING:
    from mgraph.graph.graph import Graph


@click.command(cls=SectionedCommand)
@click.option("--name", help="Name of the mode.")
@click.option("--init", metavar="NODE", help="Begin with the weights of a node, not with fresh ones.")
@preset_option({"train": TrainSettings})
@settings_options({"train": TrainSettings})
@space_option
@with_computing_graph
@output_options
def train(
    name: str | None,
    init: str | None,
    preset: str | None,
    pairs: tuple[str, ...],
    config: Path | None,
    space: str | None,
    graph: Graph,
    form: str,
    **flags: Any,
) -> None:
    """Train a mode and add it with its losses and metrics.

    SGD with momentum; the learning rate is constant for half of the epochs, falls linearly to 1 % at 90 %, and stays.
    Presets are the recipes of papers: mgraph recipes.
    Under torchrun all processes train one mode together.

    \b
    Example:
      mgraph train --seed 1 --epochs 40 --lr 0.05 --name a
      mgraph train --init a --order-seed 2 --epochs 10 --name b
    """
    settings = chosen_settings(TrainSettings, flags, pairs, config, preset)
    from mgraph.train.parallel import follows

    with progress_bars("train") as progress:
        mode = graph.train(name=name, space=space, init=init, preset=preset, progress=progress, **asdict(settings))
    if follows():
        return
    row = mode.describe()
    if settings.max_steps is not None or settings.max_seconds is not None:
        for text in row["info"]["notes"]:
            note(f"Note: {text}")
    print_mode(row, form)


@click.command("add-mode")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--at", "coordinates", metavar="W1,W2,…", help="Instead of a file: the coordinates of a small space.")
@click.option("--name", help="Name of the mode.")
@click.option("--weights", metavar="raw|ema|KEY", help="Which weights, of a file that holds several sets.")
@click.option("--ignore", multiple=True, metavar="PATTERN", help="Leave out entries of the file, e.g. 'aux.*'.")
@click.option("--cast", is_flag=True, help="Round float64 tensors to float32.")
@click.option("--recompute-batchnorm", is_flag=True, help="Store BatchNorm statistics recomputed from training data.")
@click.option("--curve", "method", flag_value="curve", help="The file is a trained Bézier curve: add ends and bends.")
@click.option("--chain", "method", flag_value="chain", help="The file is a trained polygonal chain, likewise.")
@space_option
@with_computing_graph
@output_options
def add_mode(
    file: Path | None,
    coordinates: str | None,
    name: str | None,
    weights: str | None,
    ignore: tuple[str, ...],
    cast: bool,
    recompute_batchnorm: bool,
    method: str | None,
    space: str | None,
    graph: Graph,
    form: str,
) -> None:
    """Import a checkpoint as a mode, and evaluate it.

    Read are .safetensors, what torch.save writes (by Lightning, timm, Hugging Face, DeepSpeed, …), and shards by their
    index or directory. What the network's load_state_dict takes is taken, wherever it lies in the file and whatever
    prefix its names have; notes say what was done. Nothing in the file is executed. Where a file holds raw and
    averaged weights, say which with --weights. With --at the point is given by its coordinates, as suits a landscape of
    two weights.

    A curve that the field's reference code trained becomes two modes, NAME-start and NAME-end, and a connection.

    \b
    Example:
      mgraph add-mode checkpoint.safetensors --name b
      mgraph add-mode last.ckpt --weights ema --recompute-batchnorm
      mgraph add-mode --at 1,0 --name right
    """
    if (file is None) == (coordinates is None):
        raise InputError("Give a checkpoint file, or coordinates with --at.")
    if file is None:
        if weights or ignore or cast or recompute_batchnorm or method:
            raise InputError("--at gives a point by its coordinates: options for files do not go with it.")
        mode = graph.add_point(numbers(coordinates, "--at", float) or [], name=name, space=space)
    elif method is not None:
        if weights or ignore or recompute_batchnorm:
            raise InputError("--curve and --chain import a whole curve: --weights and its like do not go with them.")
        _add_curve(graph, form, file, method=method, name=name, space=space, cast=cast)
        return
    else:
        try:
            mode = graph.add_mode(
                file,
                name=name,
                space=space,
                cast=cast,
                weights=weights,
                ignore=ignore,
                recompute_batchnorm=recompute_batchnorm,
            )
        except TrainedCurveError as found:
            if found.method is None:
                raise
            _add_curve(graph, form, file, method=found.method, name=name, space=space, cast=cast)
            return
    for text in mode.notes:
        note(f"Note: {text}")
    print_mode(mode.describe(), form)


def _add_curve(graph: Graph, form: str, file: Path, **options: Any) -> None:
    connected = graph.add_curve(file, **options)
    for text in connected.notes:
        note(f"Note: {text}")
    print_connection(connected.describe(), form)


@click.command()
@click.argument("nodes", nargs=-1, required=True, metavar="NODE...")
@with_computing_graph
@output_options
def evaluate(nodes: tuple[str, ...], graph: Graph, form: str) -> None:
    """Measure modes or merged nodes on all splits now, and store the numbers that they have not yet.

    For a mode that was stored and could not be measured, or to see that stored numbers still hold: they stay as they
    are, and what is printed was measured now.

    \b
    Example:
      mgraph evaluate a
    """
    rows = []
    for point in [graph.node(node) for node in nodes]:
        measured = point.measure()
        rows.append(
            {"node": point.name or point.id}
            | {f"{split}_{name}": m.value for split, metrics in measured.items() for name, m in metrics.items()}
        )
    emit(rows, tuple(rows[0]), form=form)


def print_mode(row: dict[str, Any], form: str) -> None:
    """Print a mode with its numbers."""
    if form == "table":
        measured = {f"{e['split']} {e['metric']}": e["value"] for e in row["evaluations"]}
        row = {key: row[key] for key in ("id", "name", "kind", "space", "digest")} | measured
    emit_one(row, form=form)
