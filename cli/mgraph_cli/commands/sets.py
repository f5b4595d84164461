"""Sets of models: ensemble, soup, predict."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mgraph import EnsembleOptions, PredictOptions, SoupOptions
from mgraph.errors import InputError
from mgraph_cli.completion import THINGS
from mgraph_cli.options import Decorator, given, grid_option, keyword_options, output_options, with_computing_graph
from mgraph_cli.output import emit, emit_one, note
from mgraph_cli.progress import progress_bars
from mgraph_cli.tables import print_models
from mgraph_cli.terminal import echo

if TYPE_CHECKING:
    from mgraph import Graph

_FURTHER = ("members", "cost", "test_nll", "test_ece", "test_brier")


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL|CONN@POINTS]...", shell_complete=THINGS)
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
    chosen_by = [f"where {chosen['where']}"] if "where" in chosen else []
    facts = {"set": " ".join([*models, *chosen_by]) or None} | result.to_dict()
    for text in facts.pop("notes"):
        note(f"Note: {text}.")
    if form != "json":
        for name in ("member_rows", "classes", "disagreement_matrix"):
            facts.pop(name)
    print_models(facts, result.metric, form)
    if form == "table":
        rows = result.table()
        echo()
        emit(rows, ("what", *(name for name in _FURTHER if any(row.get(name) is not None for row in rows))))
    if form == "table" and per_class:
        echo()
        emit(result.classes, ("class", "examples", "precision", "recall", "f1"), empty="This task has no classes.")
    if form == "table" and per_member:
        echo()
        emit(result.member_table(), ("member", "weight", "temperature", "disagreement"))


def _recipe(name: str, help: str) -> Decorator:
    return click.option(f"--{name}", "recipes", flag_value=name, multiple=True, help=help)


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL|CONN@POINTS]...", shell_complete=THINGS)
@_recipe("greedy", "From the best model on, those that do no harm.")
@_recipe("learned", "Convex weights, learned on half of the validation data.")
@_recipe("uniform", "Equal weights (the default).")
@keyword_options(SoupOptions)
@with_computing_graph
@output_options
def soup(models: tuple[str, ...], recipes: tuple[str, ...], graph: Graph, form: str, **options: Any) -> None:
    """Average the weights of a set of models into a merged node, with BatchNorm statistics recomputed.

    Models are given as for 'ensemble'. If a barrier divides them, as measured by a swept straight line or estimated
    halfway between them, nothing is stored, and the connection to use instead is named. Validation data decide whether
    the soup is better than its best ingredient; both are reported on test data.

    \b
    Example:
      mgraph soup a-20 a-30 a --greedy --name m
      mgraph soup s@5 --learned
    """
    if len(set(recipes)) > 1:
        raise InputError(f"A soup has one recipe; choose one of {', '.join('--' + recipe for recipe in recipes)}.")
    how = recipes[0] if recipes else "uniform"
    with progress_bars("soup") as progress:
        result = graph.soup(*models, how=how, progress=progress, **given(options))
    facts = result.to_dict()
    for text in facts.pop("notes"):
        note(f"Note: {text}.")
    weights = facts.pop("weights") if form != "json" else None
    print_models(facts, result.metric, form)
    if form == "table" and weights:
        echo()
        emit([row for row in weights if row["weight"] > 0], ("member", "weight"))


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL|CONN@POINTS]...", shell_complete=THINGS)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="File: .parquet, .csv or .npz.")
@keyword_options(PredictOptions)
@with_computing_graph
@output_options
def predict(models: tuple[str, ...], output: Path, graph: Graph, form: str, **options: Any) -> None:
    """Write what a model, or the ensemble of several, predicts: the class probabilities of every example.

    Models are given as for 'ensemble'. A row has the example's index in its split, its label if it has one, the
    predicted class, and a probability for each class (outputs, where the task's members vote by these).

    \b
    Example:
      mgraph predict m -o preds.parquet
      mgraph predict s@3 --data new.npz --split test -o preds.csv
    """
    with progress_bars("predict") as progress:
        result = graph.predict(*models, path=output, progress=progress, **given(options))
    facts = {"output": str(output)} | result.to_dict()
    for text in facts.pop("notes"):
        note(f"Note: {text}.")
    emit_one(facts, form=form)
