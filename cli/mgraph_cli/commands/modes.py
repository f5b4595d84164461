"""Modes: train, add-mode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mgraph import EvaluateJob, EvaluateOptions, ImportOptions, TrainSettings
from mgraph.errors import InputError, TrainedCurveError
from mgraph_cli.completion import NODES
from mgraph_cli.options import (
    GivenSettings,
    SectionedCommand,
    given,
    keyword_options,
    numbers,
    output_options,
    settings_options,
    space_option,
    with_computing_graph,
)
from mgraph_cli.output import emit, note
from mgraph_cli.progress import follows, progress_bars
from mgraph_cli.tables import print_connection, print_mode

if TYPE_CHECKING:
    from mgraph import Graph, Measured


@click.command(cls=SectionedCommand)
@click.option("--name", help="Name of the mode.")
@click.option(
    "--init", metavar="NODE", help="Begin with the weights of a node, not with fresh ones.", shell_complete=NODES
)
@settings_options({"train": TrainSettings}, presets=True)
@space_option
@with_computing_graph
@output_options
def train(
    name: str | None, init: str | None, settings: GivenSettings, space: str | None, graph: Graph, form: str
) -> None:
    """Train a mode and add it with its losses and metrics.

    The default is SGD with momentum; the learning rate is constant for half of the epochs, falls linearly to 1 % by
    90 %, and stays there. Presets are the recipes of papers (mgraph recipes). Under torchrun, all processes train one
    mode together.

    --fge and --snapshot keep a member, NAME-1, NAME-2, …, for every cycle of the learning rate; --swa keeps the mean of
    late weights; --simplex trains several vertices and their middle.

    \b
    Example:
      mgraph train --seed 1 --epochs 40 --lr 0.05 --name a
      mgraph train --init a --order-seed 2 --epochs 10 --name b
      mgraph train --fge --init a --epochs 22 --name f
      mgraph train --swa --sam --name w
    """
    chosen = settings.of(TrainSettings)
    with progress_bars("train") as progress:
        mode = graph.train(
            name=name, space=space, init=init, preset=settings.preset, progress=progress, **asdict(chosen)
        )
    if follows():
        return
    row = mode.describe()
    if chosen.max_steps is not None or chosen.max_seconds is not None:
        for text in row["info"]["notes"]:
            note(f"Note: {text}")
    if chosen.fge or chosen.snapshot or chosen.swa or chosen.simplex:
        rows = graph.nodes("mode", where=f"run_id = '{row['run']['id']}'")
        note(f"Note: also stored: {', '.join(one['name'] for one in rows if one['id'] != mode.id)}.")
    print_mode(row, form)


@click.command("add-mode")
@click.argument("files", type=click.Path(path_type=Path), nargs=-1, metavar="[FILE]...")
@click.option("--at", "coordinates", metavar="W1,W2,…", help="Coordinates in a small space, instead of a file.")
@keyword_options(ImportOptions)
@click.option("--curve", "method", flag_value="curve", help="The file is a trained Bézier curve: add ends and bends.")
@click.option(
    "--chain", "method", flag_value="chain", help="The file is a trained polygonal chain: add ends and bends."
)
@with_computing_graph
@output_options
def add_mode(
    files: tuple[Path, ...], coordinates: str | None, method: str | None, graph: Graph, form: str, **options: Any
) -> None:
    """Import a checkpoint as a mode, and evaluate it.

    It reads .safetensors, what torch.save writes (by Lightning, timm, Hugging Face, DeepSpeed, …), and shards by their
    index or directory. It accepts what the network's load_state_dict accepts, wherever that is in the file and whatever
    prefix its names have; notes say what was done. Nothing in the file is executed. If a file holds raw and averaged
    weights, choose with --weights. --at gives a point by its coordinates instead, for landscapes of two weights.

    A curve trained by the field's reference code becomes two modes, NAME-start and NAME-end, and a connection.

    Several FILEs are added one after another: those that fail are listed with the reason, and the others are kept.
    Their --name is a pattern with {stem}, {parent} (the directory) or {number}. With such a name, a directory stands
    for all checkpoints in it.

    \b
    Example:
      mgraph add-mode checkpoint.safetensors --name b
      mgraph add-mode runs/*/last.ckpt --name {parent}
      mgraph add-mode last.ckpt --weights ema --recompute-batchnorm
      mgraph add-mode --at 1,0 --name right
    """
    if bool(files) == (coordinates is not None):
        raise InputError("Give a checkpoint file, or coordinates with --at.")
    if len(files) > 1 or (files and "{" in (options["name"] or "") and files[0].is_dir()):
        if method is not None:
            raise InputError("--curve and --chain are for one file; give them one after the other.")
        _add_several(graph, form, files, options)
        return
    file = files[0] if files else None
    told = {name: options[name] for name in ("weights", "ignore", "recompute_batchnorm") if options[name]}
    named = {name: options[name] for name in ("name", "space")}
    if file is None:
        if told or options["cast"] or method:
            raise InputError("--at gives a point by its coordinates, so it cannot be combined with options for files.")
        mode = graph.add_point(numbers(coordinates, "--at", float) or [], **named)
    elif method is not None:
        if told:
            raise InputError(
                "--curve and --chain import a whole curve: they cannot be combined with --weights and the like."
            )
        _add_curve(graph, form, file, method=method, cast=options["cast"], **named)
        return
    else:
        try:
            mode = graph.add_mode(file, **given(options))
        except TrainedCurveError as found:
            if found.method is None:
                raise
            _add_curve(graph, form, file, method=found.method, cast=options["cast"], **named)
            return
    for text in mode.notes:
        note(f"Note: {text}")
    print_mode(mode.describe(), form)


def _add_several(graph: Graph, form: str, files: tuple[Path, ...], options: Mapping[str, Any]) -> None:
    found = graph.add_modes(files, **given(options))
    rows = [one.row() for one in found]
    numbers = [key for row in rows for key in row if key.startswith("test_")]
    columns = ("file", "name", "id", *dict.fromkeys(numbers), "problem")
    if form == "table" and not any(one.problem for one in found):
        columns = columns[:-1]
    emit(rows, columns, form=form)
    for one in found:
        for text in one.mode.notes if one.mode else ():
            note(f"Note: {one.file}: {text}")
    bad = [one for one in found if one.problem]
    if bad:
        raise InputError(
            f"{len(bad)} of {len(found)} files could not be added, the first of them {bad[0].file}: {bad[0].problem}"
        )


def _add_curve(graph: Graph, form: str, file: Path, **options: Any) -> None:
    connected = graph.add_curve(file, **options)
    for text in connected.notes:
        note(f"Note: {text}")
    print_connection(connected.describe(), form)


@click.command()
@click.argument("nodes", nargs=-1, required=True, metavar="NODE...", shell_complete=NODES)
@click.option(
    "--split", "splits", multiple=True, metavar="SPLIT", help="Measure train, valid or test; may be repeated."
)
@keyword_options(EvaluateOptions)
@with_computing_graph
@output_options
def evaluate(nodes: tuple[str, ...], splits: tuple[str, ...], graph: Graph, form: str, **options: Any) -> None:
    """Measure points now, on all splits or some, with any metrics, and print the numbers with their standard errors.

    With --save, numbers that a mode or merged node lacks are stored with it, for ls and show. If only NODEs are given,
    they are stored as well: this measures a mode whose measurement failed, or shows that stored numbers still hold.
    Numbers that are already stored stay as they are.

    \b
    Example:
      mgraph evaluate a
      mgraph evaluate a m --split test --metric ece --metric top3
      mgraph evaluate a --metric mine.py:score --save
    """
    plain = not (splits or options["metrics"] or options["save"] or options["examples"] is not None)
    wanted: dict[str, Any] = {"splits": splits} if splits else {}
    wanted |= {"metrics": options["metrics"], "examples": options["examples"], "save": plain or options["save"]}
    points = [graph.node(node) for node in nodes]
    measured = {p.name or p.id: graph.run(EvaluateJob(node=p.id, **wanted)) for p in points}
    if form != "table":
        emit([_wide(name, found) for name, found in measured.items()], (), form=form)
        return
    rows = [
        {"node": node, "split": split, "metric": metric, "value": m.value, "standard_error": m.standard_error}
        | {"examples": m.count}
        for node, splits_found in measured.items()
        for split, metrics in splits_found.items()
        for metric, m in metrics.items()
    ]
    emit(rows, tuple(rows[0]))


def _wide(node: str, measured: Mapping[str, Mapping[str, Measured]]) -> dict[str, Any]:
    """Return one row of all numbers of a node."""
    row: dict[str, Any] = {"node": node}
    for split, metrics in measured.items():
        for name, m in metrics.items():
            row |= {f"{split}_{name}": m.value, f"{split}_{name}_standard_error": m.standard_error}
        row[f"{split}_examples"] = next(iter(metrics.values())).count
    return row
