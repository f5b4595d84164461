"""Exploring: joins what it should, goes on where it stopped, and gives the same on every engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mgraph.errors import InputError
from mgraph_store import Node, Run, assert_consistent

CURVE = {"epochs": 1, "lr": 0.05}


@pytest.fixture
def g(four_modes: Any) -> Any:
    return four_modes


def curve(**settings: Any) -> Any:
    import mgraph

    return mgraph.BezierCurve(**(CURVE | settings))


def pairs(g: Any) -> list[tuple[str, ...]]:
    return [tuple(sorted(row["ends"])) for row in g.connections()]


def test_it_joins_all_to_the_lowest_and_then_has_nothing_to_do(g: Any) -> None:
    (first,) = g.suggest(method=curve())
    assert first.step == "join"
    plan = g.plan(method=curve(), until="components(10) == 1")
    assert (plan.estimate, plan.seconds, plan.nbytes) == (None, None, None)
    told: list[Any] = []
    found = g.explore(method=curve(), until="components(10) == 1", grid=3, tell=told.append)
    assert (found.goal_met, found.connected, found.state) == (True, 3, "components(10) = 1")
    assert found.stopped == "the goal is met: components(10) == 1"
    assert told == found.done
    assert [d.suggestion.ends for d in found.done] == [s.ends for s in plan.suggestions]
    assert found.done[0].suggestion.ends == first.ends
    lowest = min(g.nodes("mode"), key=lambda row: row["train_loss"])["name"]
    assert all(lowest in ends for ends in pairs(g))
    edges = {row["id"]: row["barrier"] for row in g.connections()}
    assert [d.barrier for d in found.done] == [edges[d.connection.id] for d in found.done]
    again = g.explore(method=curve(), until="components(10) == 1")
    assert (again.done, again.goal_met) == ([], True)
    assert g.suggest(method=curve(), until="components(10) == 1") == []


@pytest.mark.stress  # the tests below stop for either reason, of fewer pairs
def test_it_stops_after_so_many_pairs_and_goes_on(g: Any) -> None:
    found = g.explore(method=curve(), max_pairs=2, grid=3)
    assert (found.connected, found.goal_met, found.stopped) == (2, None, "2 pairs were to be connected")
    g.explore(method=curve(), max_pairs=1, grid=3)
    assert len(set(pairs(g))) == 3
    found = g.explore(method=curve(), max_pairs=100, grid=3)
    assert (found.connected, found.stopped) == (3, "every pair has been tried")
    assert len(set(pairs(g))) == 6
    assert {d.suggestion.step for d in found.done} <= {"improve", "fill"}
    # What one method has connected is new to another one.
    assert g.suggest(method=__import__("mgraph").Linear())[0].step in ("improve", "fill")


def test_the_graph_is_read_once_for_each_pair_and_once_at_the_end(g: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from mgraph.explore import exploring

    read: list[None] = []

    class Counted(exploring.PlannedGraph):
        def __init__(self, *given: Any, **more: Any) -> None:
            read.append(None)
            super().__init__(*given, **more)

    monkeypatch.setattr(exploring, "PlannedGraph", Counted)
    found = g.explore(method=curve(), until="components(0) == 1", max_pairs=2, grid=3)
    assert (found.connected, found.goal_met, len(read)) == (2, False, 3)


def test_a_plan_costs_what_the_runs_so_far_cost(g: Any) -> None:
    g.explore(method=curve(), max_pairs=2, grid=3)
    with g.session.store.reading() as reader:
        runs = [r for r in reader.all(Run) if r.command in ("connect", "sweep")]
        controls = reader.all(Node, kind="control")
    seconds = sum((r.ended - r.started).total_seconds() for r in runs) / 2  # the median of two is their mean
    plan = g.plan(method=curve(), max_pairs=3)
    assert len(plan.suggestions) == 3
    assert plan.seconds == pytest.approx(3 * seconds)
    assert plan.nbytes == 3 * controls[0].nbytes
    assert g.plan(method=curve(), max_pairs=3, engine="local:2").seconds == pytest.approx(2 * seconds)
    assert str(plan.estimate) == "the median of 2 earlier connections with the same settings"
    other = g.plan(method=curve(epochs=2), max_pairs=3)
    assert str(other.estimate) == "the median of 2 earlier connections with other settings"
    assert g.plan(method=curve(bends=1), budget=2.5 * seconds).seconds <= 2.5 * seconds
    assert len(g.plan(budget=1e6).suggestions) == 4  # all that are left
    assert g.plan(method=__import__("mgraph").PolygonalChain(), max_pairs=1).estimate is None
    before = pairs(g)
    assert g.explore(method=curve(), budget=seconds / 1e6).connected == 0
    assert pairs(g) == before


def test_unfinished_sweeps_come_first(g: Any) -> None:
    import mgraph

    c = g.connect("a", "b", method=mgraph.Linear(), name="bare", sweep=False)
    (first,) = g.suggest()
    assert (first.step, first.subject, first.command) == ("sweep", c.id, "mgraph sweep bare")
    found = g.explore(method=curve(), max_pairs=1, grid=3)
    assert [d.suggestion.step for d in found.done] == ["sweep", found.done[1].suggestion.step]
    assert found.connected == 1
    assert list(g.connection("bare").swept().sweep.grid) == [3]


def test_some_modes_only(g: Any) -> None:
    found = g.explore("d", "b", g.node("c"), method=curve(), max_pairs=9, grid=3)
    assert found.stopped == "every pair has been tried"
    assert set(pairs(g)) == {("b", "c"), ("b", "d"), ("c", "d")}


def test_a_pair_that_fails_twice_is_left_alone(g: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import mgraph
    from mgraph.errors import NonFiniteError

    real = mgraph.BezierCurve.run
    a, b = g.node("a"), g.node("b")
    vectors = [g.session.store.read_parameters(n.record) for n in (a, b)]

    def run(self: Any, flat: Any, task: Any, family: Any, start: Any, *more: Any, **further: Any) -> Any:
        if all(any((row == v).all() for v in vectors) for row in start.rows):
            raise NonFiniteError("It diverged.")
        return real(self, flat, task, family, start, *more, **further)

    monkeypatch.setattr(mgraph.BezierCurve, "run", run)
    for attempt in (1, 2):
        found = g.explore("a", "b", "c", method=curve(), max_pairs=9, grid=3)
        assert [d.problem for d in found.done if d.problem] == ["It diverged."]
        assert found.connected == (2 if attempt == 1 else 0)
    assert g.explore("a", "b", "c", method=curve(), max_pairs=9).done == []
    assert {r["status"] for r in g.runs() if r["reason"] == "It diverged."} == {"failed"}


def test_after_three_failures_in_a_row_it_stops(g: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import mgraph

    def run(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no memory")

    monkeypatch.setattr(mgraph.BezierCurve, "run", run)
    found = g.explore(method=curve(), max_pairs=9)
    assert found.stopped == "3 pairs in a row failed"
    assert {d.problem for d in found.done} == {"RuntimeError: no memory"}


def test_a_sweep_that_fails_is_not_tried_again_and_again(g: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import mgraph.operations.sweeps

    def measure(*_: Any) -> Any:
        raise RuntimeError("no memory")

    monkeypatch.setattr(mgraph.operations.sweeps, "_measure", measure)
    found = g.explore(method=curve(), max_pairs=2)
    assert [d.suggestion.step for d in found.done] == ["join", "join"]
    assert all(d.connection is not None and d.problem for d in found.done)
    monkeypatch.undo()
    assert [d.suggestion.step for d in g.explore(method=curve(), max_pairs=1, grid=3).done][:2] == ["sweep", "sweep"]


def test_ctrl_c_keeps_what_is_done_and_says_so(g: Any) -> None:
    told: list[Any] = []

    def progress(_: Any) -> None:
        if told:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stopped:
        g.explore(method=curve(), max_pairs=3, grid=3, tell=told.append, progress=progress)
    assert "1 pair is connected and stored, 1 was under way; exploring again continues" in stopped.value.__notes__[0]
    (next_one,) = g.suggest(method=curve())
    (run,) = [r for r in g.runs() if r["status"] == "interrupted"]
    assert (next_one.step, next_one.subject) == ("resume", run["id"])
    assert next_one.command == f"mgraph resume {run['id']}"
    g.explore(method=curve(), until="components(10) == 1", grid=3)
    assert len(set(pairs(g))) == len(pairs(g)) == 3
    assert_consistent(g.session.store)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "Say when to stop"),
        ({"max_pairs": 0}, "at least 1 pair"),
        ({"budget": "soon"}, "2h, 1h30m"),
        ({"budget": 0}, "a number above 0"),
        ({"max_pairs": 1, "engine": "dask"}, "no engine 'dask'"),
        ({"max_pairs": 1, "engine": "local:0"}, "at least 1 worker"),
        ({"until": "done"}, "is not one"),
        ({"until": "components(0.1) == 5"}, "only 4 modes"),
        ({"max_pairs": 1, "grid": 1}, "grid"),
        ({"max_pairs": 1, "metric": "f1"}, "sweeps measure loss, error, and 'f1' is not one of these"),
        ({"max_pairs": 1, "split": "dev"}, "no split 'dev'"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(g: Any, options: Any, says: str) -> None:
    before = g.runs()
    with pytest.raises(InputError, match=says):
        g.explore(method=curve(), **options)
    assert g.runs() == before


def test_what_no_pair_can_take_is_refused(g: Any) -> None:
    import mgraph

    with pytest.raises(InputError, match="4 modes"):
        g.suggest(method=mgraph.BezierSurface())
    with pytest.raises(InputError, match="no trainable parameter"):
        g.explore(method=curve(train_only=("nothing*",)), max_pairs=3)
    with pytest.raises(InputError, match="given twice"):
        g.suggest("a", "a")
    with pytest.raises(InputError, match="there is only a"):
        g.suggest("a")
    with pytest.raises(InputError, match="at least 1 suggestion"):
        g.suggest(count=0)
    g.add_space("mlp?hidden=4,", "digits", name="empty")
    with pytest.raises(InputError, match="there is none"):
        g.suggest(space="empty")
    with pytest.raises(InputError, match="in one space"):
        g.suggest("a", "b", space="empty")


def test_merged_nodes_may_be_named(path: Path) -> None:
    import mgraph

    g = mgraph.open(path, device="cpu")
    assert "m" not in {n for s in g.suggest(count=99, method=curve()) for n in s.names}
    assert {frozenset(s.names) for s in g.suggest("m", "a", "b", count=9, method=curve())} >= {frozenset("ma")}
    control = g.connection("curve").describe()["control_points"][1]["node"]
    with pytest.raises(InputError, match="is a control"):
        g.suggest("a", control)


def test_settings_are_those_of_the_default_method(g: Any) -> None:
    done = g.explore("a", "b", max_pairs=1, settings={"epochs": 1}, grid=3).done
    (connection,) = g.connections()
    assert len(done) == 1
    assert g.connection(connection["id"]).describe()["settings"]["epochs"] == 1
    with pytest.raises(InputError, match="A curve has no setting 'epoch'; did you mean 'epochs'"):
        g.suggest("a", "b", settings={"epoch": 2})
