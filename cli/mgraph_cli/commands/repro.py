"""The papers' experiments: repro."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mgraph.errors import InputError
from mgraph_cli.options import output_options
from mgraph_cli.output import emit, emit_one, note
from mgraph_cli.progress import progress_bars
from mgraph_cli.terminal import echo

if TYPE_CHECKING:
    from mgraph import Reproduction

_SHOWN = (
    *("row", "quantity", "unit", "published", "faithful", "faithful_error", "faithful_difference"),
    *("ours", "ours_error", "ours_difference", "status"),
)
_COSTS = ("row", "time", "nbytes", "at_most")


@click.command()
@click.argument("name", required=False)
@click.option("--scale", help="tiny (a minute on digits), small (an hour on two cores), paper.  [default: tiny]")
@click.option("--only", multiple=True, metavar="ROW", help="Only this row; may be repeated.")
@click.option(
    "--graph",
    "graph_path",
    type=click.Path(path_type=Path),
    help="Its graph, made if it is not there.  [default: repro-PAPER-SCALE.mgraph]",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Where the data are: an .npz file, or a directory with the data set.",
)
@click.option(
    "--budget", metavar="TIME", help="Keep within this time, such as 90s, 30m or 2h; what is left out is marked."
)
@click.option(
    "--engine",
    metavar="ENGINE",
    help="Train and connect with several workers: local:N, ray or ray:N, slurm:N?partition=…, or file.py:function.",
)
@click.option("--estimate", is_flag=True, help="Only say what it will cost, and on what that rests.")
@click.option("--dry-run", is_flag=True, help="Only try every network and recipe for one step, on synthetic data.")
@click.option("--show", is_flag=True, help="Only print the table of what has been run.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda[:i] or mps.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads (default: by the network's size).")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "tf32", "bf16"]),
    help="Train in this precision, and measure in fp32.  [default: fp32, or that of the graph]",
)
@output_options
def repro(name: str | None, estimate: bool, dry_run: bool, show: bool, form: str, **where: Any) -> None:
    """Run a paper's table or figure again, and print our numbers beside the published ones; without NAME, list them.

    What is done is in the graph, for all other commands, and is not done again: after Ctrl-C, or when a budget is used
    up, the same command goes on. The table is written beside the graph, as Markdown and CSV.

    \b
    Example:
      mgraph repro
      mgraph repro s-table2 --only 3x3
      mgraph repro g-table2 --scale small --data cifar10.npz --budget 2h
      mgraph repro s-table2 --scale small --precision bf16
      mgraph repro s-table1 --scale paper --dry-run
      mgraph repro s-table1 --scale paper --engine ray
    """
    if name is None:
        _list(form)
        return
    if estimate + dry_run + show > 1:
        raise InputError("--estimate, --dry-run and --show exclude each other.")
    from mgraph import Reproduction

    limits = {key: where.pop(key) for key in ("budget", "engine")}
    with progress_bars("repro") as progress:
        chosen = Reproduction(name, graph=where.pop("graph_path"), progress=progress, **where)
        if estimate:
            _print_estimate(chosen, form, limits["engine"])
        elif dry_run:
            _dry_run(chosen, form)
        else:
            _run(chosen, form, show=show, **limits)


def _list(form: str) -> None:
    from mgraph import EXPERIMENTS

    rows = [
        {"name": e.name, "what": e.title, "rows": [row.name for row in e.rows], "scales": list(e.scales)}
        | {"paper": e.paper, "deviations": e.deviations}
        for e in EXPERIMENTS.values()
    ]
    emit(rows, ("name", "what", "scales"), form=form)


def _run(chosen: Reproduction, form: str, *, show: bool, **limits: Any) -> None:
    if show and not chosen.path.exists():
        raise InputError(f"There is no graph {chosen.path} yet; leave --show out to run it.")
    table = chosen.table() if show else chosen.run(**limits, say=note)
    shown = [column for column in _SHOWN if any(record[column] is not None for record in table.records)]
    emit(table.records, shown, form=form)
    if form == "table":
        for text in table.notes:
            echo(text)
        for file in table.files:
            echo(f"Wrote {file}")


def _print_estimate(chosen: Reproduction, form: str, engine: str | None) -> None:
    outlook = chosen.estimate(engine=engine)
    rows = outlook.listed()
    if form != "table":
        emit(rows, _COSTS, form=form)
        return
    emit(rows, tuple(rows[0]) if rows else _COSTS, empty="Everything has been run.")
    for line in outlook.words():
        echo(line)


def _dry_run(chosen: Reproduction, form: str) -> None:
    tried = chosen.dry_run(say=note)
    outlook = chosen.estimate()
    rows = [vars(one) for one in tried]
    if form == "json":
        emit_one({"tried": rows, "estimate": outlook.listed(), "basis": outlook.words()}, form=form)
        return
    emit(rows, ("net", "what", "batch_size", "seconds"), form=form)
    if form == "table":
        for line in outlook.words():
            echo(line)
