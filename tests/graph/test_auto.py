"""The cheapest method that meets a limit: what is tried, what is kept, what is said."""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import replace
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest

import mgraph
from mgraph.errors import InputError
from mgraph.explore import auto
from mgraph.train.driver import LearningRateWarning
from mgraph_store import Connection, Run

QUICK = {"epochs": 1, "lr": 0.05, "batch_size": 256}
PATHS = ("linear", "curve", "chain")


def attempts(result: Any) -> dict[str, str]:
    return {a.method: a.outcome for a in result.attempts}


def rows(g: Any) -> tuple[int, int]:
    with g.session.store.reading() as reader:
        return len(reader.all(Connection)), len(reader.all(Run))


def test_the_first_method_within_the_limit_wins_and_the_dearer_ones_are_not_tried(g: Any) -> None:
    said: list[str] = []
    result = g.connect_auto("b", "d", max_barrier=100.0, name="bd", grid=5, methods=PATHS, say=said.append)
    assert attempts(result) == {"linear": "met"}
    assert result.winner.name == "bd-linear"
    assert result.winner.ends[0].name == "b"
    assert result.reason == "bd-linear connects b and d at train loss barrier <= 100."
    assert result.said == (*said, result.reason)
    assert said[0].startswith("b and d look like independent runs: the median cosine of 2 weight tensors is ")
    assert "variance" in said[1]
    assert said[2].startswith("linear: train loss barrier ")
    assert said[2].endswith("within 100: chosen.")
    # The reason is kept with the connection, too.
    assert "tried by --auto: train loss barrier " in g.connection("bd-linear").describe()["reason"]


def test_every_attempt_is_kept_until_one_meets_the_limit(g: Any) -> None:
    g.connection("line").sweep(5)
    wall = g.connection("line").describe()
    limit = next(e["barrier"] for e in wall["edges"] if (e["split"], e["metric"]) == ("train", "loss")) * 0.9
    result = g.connect_auto(
        "a", "b", max_barrier=limit, name="ab", settings=QUICK | {"lr": 0.2, "epochs": 6}, grid=5, methods=PATHS
    )
    assert attempts(result) == {"linear": "missed", "curve": "met"}
    first, second = result.attempts
    # The straight line that was there already is taken as it is.
    assert first.reused
    assert first.connection.name == "line"
    assert not second.reused
    assert second.connection.name == "ab-curve"
    edge = next(e for e in result.winner.describe()["edges"] if (e["split"], e["metric"]) == ("train", "loss"))
    assert second.edge.barrier == edge["barrier"] <= limit < first.edge.barrier
    assert g.connection("ab-curve").describe()["settings"]["epochs"] == 6
    found = g.components(max_barrier=limit)
    assert ["a", "b"] in [[n.name for n in group] for group in found.groups]


def test_a_second_call_goes_on_where_the_first_one_stopped(g: Any) -> None:
    first = g.connect_auto("b", "d", max_barrier=0.0, settings=QUICK, name="x", grid=5, methods=("linear", "curve"))
    assert first.winner is None
    assert attempts(first) == {"linear": "missed", "curve": "missed"}
    before = rows(g)
    again = g.connect_auto("b", "d", max_barrier=0.0, settings=QUICK, name="x", grid=5, methods=PATHS)
    assert [a.reused for a in again.attempts] == [True, True, False]
    assert rows(g)[0] == before[0] + 1
    assert [c["name"] for c in g.connections() if (c["name"] or "").startswith("x-")] == [
        "x-linear",
        "x-curve",
        "x-chain",
    ]
    assert again.reason.startswith("No method connects b and d at train loss barrier <= 0; the nearest was ")
    assert again.reason.endswith("What was tried is kept.")
    other = g.connect_auto("b", "d", max_barrier=100.0, settings=QUICK | {"seed": 1}, grid=5, methods=("curve",))
    assert not other.attempts[0].reused  # another seed is another run


def test_what_would_surely_exceed_the_budget_is_not_begun(g: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "seconds_per_example", lambda *_: 1.0)
    result = g.connect_auto("b", "d", max_barrier=0.0, settings=QUICK, budget="10m", grid=5, methods=PATHS)
    assert attempts(result) == {"linear": "missed", "curve": "skipped", "chain": "skipped"}
    assert result.attempts[1].expected == pytest.approx(1077, rel=0.1)  # so many examples, a second each
    reason = r"curve: skipped, it takes 1[78] m \d+ s or more, and only (9 m \d+ s|10 m) of the budget is left\."
    assert re.fullmatch(reason, result.attempts[1].reason)
    assert "not tried for lack of time: curve, chain (raise --budget)" in result.reason
    assert result.budget == 600


def test_a_past_run_tells_better_than_a_probe(g: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "seconds_per_example", lambda *_: 1.0)
    curve = mgraph.BezierCurve(**QUICK)
    g.connect("a", "d", method=curve, sweep=False)
    result = g.connect_auto("b", "d", max_barrier=0.0, settings=QUICK, budget=600, grid=5, methods=("curve",))
    assert result.attempts[0].expected < 60
    assert attempts(result) == {"curve": "missed"}


def test_a_spent_budget_ends_the_search(g: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = count(0.0, 30.0)  # of this module alone: others look at theirs as often as they like
    monkeypatch.setattr(auto, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    result = g.connect_auto("a", "b", max_barrier=0.0, settings=QUICK, budget=100, grid=5, methods=PATHS)
    assert result.attempts[-1].reason == "chain: skipped, the budget is used up."


def test_a_method_that_fails_is_no_end(g: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LearningRateWarning)
        result = g.connect_auto(
            "b", "d", max_barrier=0.0, settings=QUICK | {"lr": 1e29}, name="y", grid=5, methods=("linear", "curve")
        )
    assert attempts(result) == {"linear": "missed", "curve": "failed"}
    assert result.attempts[1].reason.startswith("curve: failed: ")
    assert result.attempts[1].connection is None


@pytest.mark.parametrize(
    ("limits", "quantity", "metric"),
    [({"max_peak": 50.0}, "peak", "loss"), ({"max_drop": 1.0, "split": "test"}, "drop", "error")],
)
def test_other_limits(g: Any, limits: Any, quantity: str, metric: str) -> None:
    result = g.connect_auto("a", "b", grid=5, methods=PATHS, **limits)
    assert attempts(result) == {"linear": "met"}
    row = result.describe()
    assert (row["threshold"]["quantity"], row["threshold"]["metric"]) == (quantity, metric)
    assert row["winner"] == "line"
    swept = g.connection("line").swept()
    key = (row["threshold"]["split"], "loss")
    values = swept.values[key] if metric == "loss" else 1 - swept.values[key[0], "accuracy"]
    assert list(row["measured"]["ends"].values()) == pytest.approx([values[0], values[-1]], rel=1e-6)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_peak": 1e-6}, r"No path can meet --max-peak 1e-06: the train loss of [ab] itself is 0\.\d+; raise"),
        ({"max_barrier": -0.1}, r"--max-barrier -0\.1: a barrier is never below 0"),
        ({"max_drop": -0.5}, r"No path can meet --max-drop -0\.5: the train error of [ab] itself is"),
        ({}, "Give exactly one of --max-barrier, --max-peak and --max-drop"),
        ({"max_barrier": 0.1, "max_peak": 1.0}, "Give exactly one of"),
        ({"max_barrier": float("nan")}, "A threshold must be a finite number"),
        ({"max_barrier": 0.1, "metric": "f1"}, "measured by loss, error, not by f1"),
        ({"max_barrier": 0.1, "split": "all"}, "no split 'all'"),
        ({"max_barrier": 0.1, "budget": "0"}, "A duration"),
        ({"max_barrier": 0.1, "budget": "soon"}, "A duration"),
        ({"max_barrier": 0.1, "settings": {"epoch": 3}}, "no setting 'epoch'"),
        ({"max_barrier": 0.1, "grid": 1}, "A grid for a segment"),
        ({"max_barrier": 0.1, "name": "a b"}, "name"),
        ({"max_barrier": 0.1, "buffers_from": "c"}, "Buffers can only be those of an end; c is not one"),
    ],
)
def test_bad_input_is_refused_before_anything_is_stored(g: Any, limits: Any, message: str, snapshot: Any) -> None:
    before = snapshot(g.path)
    with pytest.raises(InputError, match=message):
        g.connect_auto("a", "b", **limits)
    assert snapshot(g.path) == before


def test_names_that_are_taken_are_numbered(g: Any) -> None:
    g.connect("c", "d", method=mgraph.Linear(), name="z-linear", sweep=False)
    assert g.connect_auto("b", "d", max_barrier=100.0, name="z", grid=3).winner.name == "z-linear-2"


def test_a_method_that_can_end_at_any_time_gets_the_rest_of_the_budget(g: Any) -> None:
    few = {"cycles": "1x2", "dense": 1}
    first = g.connect_auto("b", "d", max_barrier=0.0, settings=few, budget=300, name="n", grid=3, methods=["neb"])
    (attempt,) = first.attempts
    assert attempt.outcome == "missed"
    assert 200 < json.loads(attempt.connection.record.settings)["max_seconds"] < 300
    assert json.loads(attempt.connection.record.settings)["pivots"] == 3  # the preset quick, but for what was set
    # It ended before, so there is nothing to repeat; one that was stopped by its limit is tried again.
    assert g.connect_auto("b", "d", max_barrier=0.0, settings=few, name="n", grid=3, methods=["neb"]).attempts[0].reused
    record = attempt.connection.record
    with g.session.store.transaction() as tx:
        tx.update(replace(record, settings=json.dumps(json.loads(record.settings) | {"max_seconds": 1e-6})))
    (again,) = g.connect_auto("b", "d", max_barrier=0.0, settings=few, name="n", grid=3, methods=["neb"]).attempts
    assert not again.reused
    assert again.connection.name == "n-neb-2"


@pytest.mark.parametrize(
    ("ends", "message"), [("abc", "exactly 2 modes; 3 given"), ("a", "1 given"), ("aa", "a is given twice")]
)
def test_ends_are_two_different_modes(g: Any, ends: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        g.connect_auto(*ends, max_barrier=0.1)


def test_not_under_torchrun(g: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(InputError, match="cannot be chosen under torchrun"):
        g.connect_auto("a", "b", max_barrier=0.1)
