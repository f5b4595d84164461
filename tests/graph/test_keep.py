"""Copies of earlier epochs: modes of the same run, all or none."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mgraph.errors import InputError, NameTakenError, NonFiniteError
from mgraph.operations.modes import SimilarModeWarning
from mgraph_store import Run, assert_consistent


def test_epochs_that_are_kept_are_modes_of_the_run(g: Any, beside: Any, tables: Callable[..., Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", SimilarModeWarning)
        row = beside("train", "--seed", 7, "--epochs", 5, "--keep", "2,4", "--name", "e", "--json").row
    names = [r["name"] for r in beside("ls", "--kind", "mode", "--json").rows]
    assert names == [*"abcd", "e-2", "e-4", "e"]
    kept = [beside("show", name, "--json").row for name in ("e-2", "e-4", "e")]
    assert [k["info"]["epoch"] for k in kept] == [2, 4, 5]
    assert {k["run"]["id"] for k in kept} == {row["run"]["id"]}
    assert len({k["digest"] for k in kept}) == 3
    losses = [
        next(e["value"] for e in k["evaluations"] if (e["split"], e["metric"]) == ("train", "loss")) for k in kept
    ]
    assert losses == sorted(losses, reverse=True)
    for k in kept:  # with the statistics of that epoch
        found = g.node(k["name"]).evaluate("test")
        stored = {e["metric"]: e["value"] for e in k["evaluations"] if e["split"] == "test"}
        assert {name: m.value for name, m in found.items()} == stored
    assert len([r for r in tables(g, Run)["Run"] if r.seed == 7]) == 1
    assert_consistent(g.session.store)
    # They lie in one basin; that is what they are for.
    line = beside("connect", "e-2", "e-4", "e", "--simplex", "--grid", 3, "--json").row
    assert line["ends"] == ["e-2", "e-4", "e"]


@pytest.mark.stress  # of a stopped run in test_budgets, too
def test_a_kept_epoch_of_the_same_run_is_a_prefix_of_the_training(g: Any) -> None:
    """With a constant learning rate the copy after 2 epochs is what 2 epochs make."""
    settings: dict[str, Any] = {"seed": 5, "schedule": "constant"}
    short = g.train(epochs=2, name="short", **settings)
    with pytest.warns(SimilarModeWarning, match="short"):
        g.train(epochs=3, keep=(1, 2), name="long", **settings)
    assert g.node("long-2").digest == short.digest
    np.testing.assert_array_equal(g.node("long-2").evaluate("test")["loss"].value, short.evaluate("test")["loss"].value)


def test_all_are_stored_before_any_is_measured(g: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import mgraph.operations.evaluating as evaluating

    runs = len(g.runs())
    measure, calls = evaluating._Looking.measure, []

    def spoiled(looking: Any, workspace: Any) -> Any:
        calls.append({row["name"] for row in g.nodes("mode")} >= {"e-1", "e-2", "e"})
        results = measure(looking, workspace)
        if len(calls) == 3:
            bad = results["test"]["loss"]
            results["test"]["loss"] = type(bad)(float("nan"), None, bad.count)
        return results

    monkeypatch.setattr(evaluating._Looking, "measure", spoiled)
    with pytest.raises(NonFiniteError, match="e is stored, but it has a test loss of nan"):
        g.train(seed=7, epochs=3, keep=(1, 2), name="e")
    assert calls == [True, True, True]
    assert [r["status"] for r in g.runs()[runs:]] == ["complete"]


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"name": None, "keep": (1,)}, InputError, "keep needs a name"),
        ({"name": "x" * 63, "keep": (1,)}, InputError, "64 characters"),
        ({"name": "e", "keep": (3,)}, InputError, "below epochs=3"),
        ({"name": "e", "keep": (2, 1)}, InputError, "rising"),
        ({"name": "e", "keep": (0,)}, InputError, "at least 1"),
        ({"name": "a", "keep": (1,)}, NameTakenError, "name a "),
        ({"name": "line", "keep": (1, 2)}, NameTakenError, "name line "),
    ],
)
def test_names_and_epochs_are_checked_before_training(
    g: Any, snapshot: Callable[..., Any], options: dict[str, Any], error: type[Exception], said: str
) -> None:
    before = snapshot(g.path)
    with pytest.raises(error, match=said):
        g.train(seed=7, epochs=3, **options)
    assert snapshot(g.path) == before


def test_a_taken_name_of_a_copy_is_found_before_training(g: Any, beside: Any, snapshot: Callable[..., Any]) -> None:
    beside("connect", "a", "b", "--linear", "--no-sweep", "--name", "e-2")
    before = snapshot(g.path)
    said = beside("train", "--epochs", 3, "--keep", "1,2", "--name", "e", code=2).stderr
    assert "name e-2 belongs to linear" in said
    assert snapshot(g.path) == before
