"""Finding and making the next connections: suggest, explore."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mgraph.methods.registry import METHODS, method_named
from mgraph_cli.options import (
    chosen_settings,
    grid_option,
    output_options,
    preset_option,
    space_option,
    with_computing_graph,
    with_graph,
)
from mgraph_cli.output import emit, emit_one, note
from mgraph_cli.progress import progress_bars
from mgraph_cli.terminal import echo

if TYPE_CHECKING:
    from mgraph.explore.exploring import Done, Outlook
    from mgraph.explore.suggestions import Suggestion
    from mgraph.graph.graph import Graph

_STEPS = ("step", "ends", "reason")
_DONE = ("step", "ends", "connection", "peak", "barrier", "seconds", "problem")
_NOTHING = "Nothing to do: every pair has been tried, or the goal is met."
_UNTIL = "Stop at this goal: 'components(0.1) == 1', 'max_barrier <= 0.05', 'max_peak < 0.3', joined by and."


def _what_options(command: Any) -> Any:
    """Add the options that suggest and explore share: modes, method with settings, goal, metric, space."""
    command = space_option(command)
    command = click.option("--split", default="train", show_default=True, help="train, valid or test.")(command)
    command = click.option("--metric", default="loss", show_default=True, help="Any metric that is measured.")(command)
    command = click.option("--until", metavar="GOAL", help=_UNTIL)(command)
    command = click.option(
        "--config", type=click.Path(path_type=Path), help="TOML file of the method's settings; -s wins over it."
    )(command)
    command = preset_option(METHODS)(command)
    command = click.option(
        "-s", "--set", "pairs", multiple=True, metavar="KEY=VALUE", help="A setting of the method, as for connect."
    )(command)
    command = click.option("--method", "method_name", default="curve", show_default=True, help="Which joins two.")(
        command
    )
    return click.argument("modes", nargs=-1)(command)


def _method(name: str, pairs: Sequence[str], config: Path | None, preset: str | None) -> Any:
    return chosen_settings(method_named(name), {}, pairs, config, preset)


@click.command()
@_what_options
@click.option(
    "-n",
    "--count",
    type=int,
    default=1,
    show_default=True,
    help="How many, each assuming that those before it succeeded.",
)
@with_graph
@output_options
def suggest(
    modes: tuple[str, ...],
    method_name: str,
    pairs: tuple[str, ...],
    preset: str | None,
    config: Path | None,
    until: str | None,
    metric: str,
    split: str,
    space: str | None,
    count: int,
    graph: Graph,
    form: str,
) -> None:
    """Say which pair of modes to connect next, and why.

    Unfinished things come first. Then components are joined, the lowest mode of one with the lowest of another; then
    the worst edge of the spanning tree is to be replaced by a pair across its cut; then come pairs that are not
    connected yet. MODES restricts this to some modes (default: all of the space).

    \b
    Example:
      mgraph suggest
      mgraph suggest a b c d -n 3 --until "components(0.1) == 1"
    """
    _say_test(split)
    chosen = _method(method_name, pairs, config, preset)
    found = graph.suggest(*modes, method=chosen, count=count, until=until, metric=metric, split=split, space=space)
    if form != "table":
        emit([s.row() for s in found], (*_STEPS, "command"), form=form)
        return
    for suggestion in found:
        _print_suggestion(suggestion)
        echo(f"  {suggestion.command}")
    if not found:
        echo(_NOTHING)


def _say_test(split: str) -> None:
    if split == "test":
        note("Note: pairs are chosen on test data, as you asked: their test numbers are no longer unbiased.")


def _print_suggestion(suggestion: Suggestion) -> None:
    echo(f"{suggestion.step} {' '.join(suggestion.names)}: {suggestion.reason}")


@click.command()
@_what_options
@click.option("--budget", metavar="TIME", help="Start nothing that would exceed this total time: 2h, 1h30m, 90s.")
@click.option("--max-pairs", type=int, metavar="N", help="Connect at most this many pairs.")
@grid_option("Points of each sweep (default: as for connect).")
@click.option(
    "--engine",
    metavar="ENGINE",
    help="Several at once: local:N (processes), ray or ray:N (a Ray cluster), slurm:N?partition=… (jobs), "
    "or file.py:function, which returns an executor.",
)
@click.option("--plan", is_flag=True, help="Only say what would be done, and what it would cost.")
@with_computing_graph
@output_options
def explore(
    modes: tuple[str, ...],
    method_name: str,
    pairs: tuple[str, ...],
    preset: str | None,
    config: Path | None,
    until: str | None,
    metric: str,
    split: str,
    space: str | None,
    budget: str | None,
    max_pairs: int | None,
    grid: list[int] | None,
    engine: str | None,
    plan: bool,
    graph: Graph,
    form: str,
) -> None:
    """Connect and sweep pair after pair, as mgraph suggest names them, until there is a reason to stop.

    Give at least one of --until, --max-pairs and --budget. After Ctrl-C, or later, the same command continues: the
    graph shows what has been tried.

    \b
    Example:
      mgraph explore --until "components(0.1) == 1" --max-pairs 20 --plan
      mgraph explore --until "components(0.1) == 1" --max-pairs 20 -s epochs=10
      mgraph explore --budget 2h --engine local:4
    """
    _say_test(split)
    chosen = _method(method_name, pairs, config, preset)
    common: dict[str, Any] = {
        "method": chosen,
        "until": until,
        "metric": metric,
        "split": split,
        "space": space,
        "budget": budget,
        "max_pairs": max_pairs,
        "engine": engine,
    }
    if plan:
        _print_outlook(graph.plan(*modes, **common), form)
        return
    with progress_bars("explore") as progress:
        result = graph.explore(*modes, grid=grid, tell=_teller(form), progress=progress, **common)
    rows = [done.row() for done in result.done]
    if form == "table":
        emit(rows, _DONE, empty="Nothing was connected.")
        echo(f"Stopped: {result.stopped}.")
        if result.goal_met is not None:
            echo(f"Goal {'met' if result.goal_met else 'not met'}: {result.state}.")
        return
    if form == "csv":
        emit(rows, _DONE, form=form)
        return
    emit_one(
        {
            "done": rows,
            "stopped": result.stopped,
            "connected": result.connected,
            "goal_met": result.goal_met,
            "state": result.state,
        },
        form=form,
    )


def _teller(form: str) -> Callable[[Done], None]:
    def tell(done: Done) -> None:
        ends = "-".join(done.suggestion.names)
        if done.problem is not None:
            note(f"{ends}: {done.problem}")
        elif form == "table":
            note(f"{ends}: barrier {done.barrier:.3g}, peak {done.peak:.3g}. {done.suggestion.reason}")

    return tell


def _print_outlook(outlook: Outlook, form: str) -> None:
    from mgraph.durations import spoken

    rows = [s.row() for s in outlook.suggestions]
    if form == "csv":
        emit(rows, _STEPS, form=form)
        return
    if form == "json":
        numbers = {"seconds": outlook.seconds, "nbytes": outlook.nbytes}
        basis = None if outlook.estimate is None else str(outlook.estimate)
        emit_one({"steps": rows, **numbers, "basis": basis}, form=form)
        return
    for suggestion in outlook.suggestions:
        _print_suggestion(suggestion)
    if not rows:
        echo(_NOTHING)
    if outlook.seconds is None or outlook.nbytes is None:
        echo("No estimate yet: this method has connected nothing in this space.")
    elif rows:
        size = f"{outlook.nbytes / 1e6:.3g} MB"
        echo(f"About {spoken(outlook.seconds)} and {size} of tensors, by {outlook.estimate}.")
