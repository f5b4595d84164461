"""Sets of models: ensemble, soup, predict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mgraph import EnsembleOptions
from mgraph.errors import InputError
from mgraph_cli.options import given, grid_option, keyword_options, output_options, with_computing_graph
from mgraph_cli.output import emit, note
from mgraph_cli.progress import progress_bars
from mgraph_cli.tables import print_models
from mgraph_cli.terminal import echo

if TYPE_CHECKING:
    from mgraph import Graph

_COLUMNS = ("test_loss", "test_ece", "test_brier", "cost")


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL|CONN@POINTS]...")
@grid_option("Of a single connection: members on a grid of n or n,m points (s --grid 5 is s@5).")
@keyword_options(EnsembleOptions)
@click.option("--per-class", is_flag=True, help="Print precision, recall and F1 of every class on test data.")
@click.option("--per-member", is_flag=True, help="Print weight, temperature and disagreement of every member.")
@with_computing_graph
@output_options
def ensemble(
    models: tuple[str, ...],
    grid: list[int] | None,
    per_class: bool,
    per_member: bool,
    graph: Graph,
    form: str,
    **options: Any,
) -> None:
    """Evaluate the ensemble of a set of models, and what it is to be compared with.

    Models are nodes, points of connections (s@5: a grid, curve@0.25,0.5: parameters), or connections, which stand for
    nine of their points. Without any, all independent modes and nine points of the best connection vote. Beside them
    stand the best single model, the corners alone, and independent modes of equal number and equal cost; 'cost' is in
    trainings of one mode. Members vote by the mean of their softmax outputs, or as the task says (combine).

    \b
    Example:
      mgraph ensemble a b c d
      mgraph ensemble s@3 --temperature
      mgraph ensemble --where 'kind=mode, test_accuracy > 0.9' --greedy 3
    """
    chosen = given(options)
    with progress_bars("ensemble") as progress:
        if grid is None:
            result = graph.ensemble(*models, progress=progress, **chosen)
        elif len(models) == 1 and "where" not in chosen:
            result = graph.connection(models[0]).ensemble(grid=grid, progress=progress, **chosen)
        else:
            raise InputError("--grid is for a single connection; write CONN@POINTS, e.g. s@5, where there are several.")
    facts = {"set": " ".join(models) or None} | result.to_dict()
    for text in facts.pop("notes"):
        note(f"Note: {text}.")
    if form != "json":
        for name in ("member_rows", "classes", "disagreement_matrix"):
            facts.pop(name)
    print_models(facts, result.metric, form, columns=_COLUMNS)
    if form == "table" and per_class:
        echo()
        emit(result.classes, ("class", "examples", "precision", "recall", "f1"), empty="This task has no classes.")
    if form == "table" and per_member:
        echo()
        emit(result.member_table(), ("member", "weight", "temperature", "disagreement"))
