"""Finding and making the next connections: suggest, explore."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from mgraph import METHODS, Aims, Bounds, method_named, spoken
from mgraph_cli.completion import NODES
from mgraph_cli.options import (
    Decorator,
    GivenSettings,
    grid_option,
    keyword_options,
    output_options,
    settings_options,
    with_computing_graph,
    with_graph,
)
from mgraph_cli.output import emit, emit_one, note
from mgraph_cli.progress import progress_bars
from mgraph_cli.terminal import echo

if TYPE_CHECKING:
    from mgraph import Done, Graph, Outlook, Suggestion

_STEPS = ("step", "ends", "reason")
_DONE = ("step", "ends", "connection", "peak", "barrier", "seconds", "problem")
_NOTHING = "Nothing to do: the goal is met, or every pair has been tried, or is being connected (mgraph log)."


def _what_options(aims: type) -> Decorator:
    """Add the options that suggest and explore share: modes, method with settings, and their aims."""

    def decorate(command: Any) -> Any:
        command = keyword_options(aims)(command)
        command = settings_options(METHODS, flags=False, presets=True)(command)
        command = click.option("--method", "method_name", default="curve", show_default=True, help="Which joins two.")(
            command
        )
        return click.argument("modes", nargs=-1, shell_complete=NODES)(command)

    return decorate


@click.command()
@_what_options(Aims)
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
    settings: GivenSettings,
    count: int,
    graph: Graph,
    form: str,
    **aims: Any,
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
    _say_test(aims["split"])
    method = settings.of(method_named(method_name))
    found = graph.suggest(*modes, method=method, count=count, **aims)
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
@_what_options(Bounds)
@grid_option("Points of each sweep (default: as for connect).")
@click.option("--plan", is_flag=True, help="Only say what would be done, and what it would cost.")
@with_computing_graph
@output_options
def explore(
    modes: tuple[str, ...],
    method_name: str,
    settings: GivenSettings,
    grid: list[int] | None,
    plan: bool,
    graph: Graph,
    form: str,
    **aims: Any,
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
    _say_test(aims["split"])
    aims["method"] = settings.of(method_named(method_name))
    if plan:
        _print_outlook(graph.plan(*modes, **aims), form)
        return
    with progress_bars("explore") as progress:
        result = graph.explore(*modes, grid=grid, tell=_teller(form), progress=progress, **aims)
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
