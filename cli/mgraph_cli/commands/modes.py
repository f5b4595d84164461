"""Modes: train, add-mode."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mgraph.errors import InputError
from mgraph.train.settings import TrainSettings
from mgraph_cli.options import (
    SectionedCommand,
    chosen_settings,
    numbers,
    output_options,
    settings_options,
    space_option,
    with_computing_graph,
)
from mgraph_cli.output import emit_one, note
from mgraph_cli.progress import progress_bars

if TYPE_CHECKING:
    from mgraph.graph.graph import Graph


@click.command(cls=SectionedCommand)
@click.option("--name", help="Name of the mode.")
@settings_options({"train": TrainSettings})
@space_option
@with_computing_graph
@output_options
def train(
    name: str | None,
    pairs: tuple[str, ...],
    config: Path | None,
    space: str | None,
    graph: Graph,
    form: str,
    **flags: Any,
) -> None:
    """Train a mode from scratch and add it with its losses and accuracies.

    SGD with momentum; the learning rate is constant for half of the epochs, falls linearly to 1 % at 90 %, and stays.
    Under torchrun all processes train one mode together.

    \b
    Example:
      mgraph train --seed 1 --epochs 40 --lr 0.05 --name a
    """
    settings = chosen_settings(TrainSettings, flags, pairs, config)
    from mgraph.train.parallel import follows

    with progress_bars("train") as report:
        mode = graph.train(settings, name=name, space=space, report=report)
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
@click.option("--cast", is_flag=True, help="Round float64 tensors to float32.")
@space_option
@with_computing_graph
@output_options
def add_mode(
    file: Path | None,
    coordinates: str | None,
    name: str | None,
    cast: bool,
    space: str | None,
    graph: Graph,
    form: str,
) -> None:
    """Import a checkpoint (.pt, .pth, .safetensors) as a mode, and evaluate it.

    The state_dict may sit in a common wrapper (state_dict, model, model_state, model_state_dict) and carry DDP or
    compile prefixes. Nothing in the file is executed. With --at the point is given by its coordinates, as suits a
    landscape of two weights.

    \b
    Example:
      mgraph add-mode checkpoint.safetensors --name b
      mgraph add-mode --at 1,0 --name right
    """
    if (file is None) == (coordinates is None):
        raise InputError("Give a checkpoint file, or coordinates with --at.")
    if file is not None:
        mode = graph.add_mode(file, name=name, space=space, cast=cast)
    else:
        mode = graph.add_point(numbers(coordinates, "--at", float) or [], name=name, space=space)
    for text in mode.notes:
        note(f"Note: {text}")
    print_mode(mode.describe(), form)


def print_mode(row: dict[str, Any], form: str) -> None:
    """Print a mode with its numbers."""
    if form == "table":
        measured = {f"{e['split']} {e['metric']}": e["value"] for e in row["evaluations"]}
        row = {key: row[key] for key in ("id", "name", "kind", "space", "digest")} | measured
    emit_one(row, form=form)
