"""An experiment's modes and connections are made by the workers of an engine, to the same numbers."""

from __future__ import annotations

import importlib.util
from collections import deque
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

import mgraph
from mgraph.engines.base import Engine, Finished, Here
from mgraph.errors import InputError, MGraphError
from mgraph.progress import silent
from mgraph.repro import costing, running, spreading

HAS_RAY = importlib.util.find_spec("ray") is not None


@pytest.fixture(autouse=True)
def _quick_estimates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costing, "SECONDS", 0.01)


class Beside(Engine):
    """An engine whose two workers are this process: the last call that was submitted ends first."""

    def __init__(self) -> None:
        self.places = 2
        self.calls: deque[Any] = deque()
        self.log: list[str] = []
        self.most = 0

    @override
    def submit(self, key: Any, function: Any, *arguments: Any) -> None:
        self.calls.append((key, function, arguments))
        self.log.append(key)
        self.most = max(self.most, len(self.calls))

    @override
    def wait(self, timeout: float | None = None) -> Finished | None:
        if not self.calls:
            return None
        key, function, arguments = self.calls.pop()
        return Finished(key, function(*arguments))

    @override
    def interrupt(self) -> None:
        self.log.append("interrupt")
        self.calls.clear()

    @override
    def __exit__(self, *_: object) -> None:
        self.log.append("closed")


def reproduction(path: Path, *rows: str, name: str = "s-simplex", **more: Any) -> Any:
    return mgraph.Reproduction(name, only=rows, graph=path / "g.mgraph", device="cpu", **more)


def test_workers_make_what_a_row_needs_after_what_that_needs(tmp_path: Path, done: Path) -> None:
    engine, beside = Beside(), tmp_path / "beside"
    beside.mkdir()
    table = reproduction(beside).run(engine=engine)
    # A place is filled again as soon as there is one, and the simplex waits for its three modes.
    assert (engine.log, engine.most) == (["cnn-0-a", "cnn-0-b", "cnn-0-c", "cnn-0-simplex", "closed"], 2)
    assert table.records == mgraph.Reproduction("s-simplex", graph=done / "repro-s-tiny.mgraph").table().records
    # What is there is not made again.
    again, chosen = Beside(), reproduction(beside)
    place = spreading.Place("s-simplex", "tiny", chosen.path)
    steps = costing.steps_of(chosen.rows, "tiny")
    spreading.spread(steps, chosen.lab, again, place, progress=silent, check=lambda: None)
    assert again.log == []


def test_an_estimate_shares_out_what_workers_make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costing.MeasuredHere, "_measure", lambda *_: 1.0)
    chosen = reproduction(tmp_path)
    alone, four = (chosen.estimate(engine=engine).total for engine in (None, "local:4"))
    assert (four.seconds, four.nbytes) == (pytest.approx(alone.seconds / 4), alone.nbytes)  # all of it is made
    with pytest.raises(InputError, match="no engine 'lokal'"):
        chosen.estimate(engine="lokal")


def test_a_step_that_fails_is_told_in_its_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for count, error in enumerate((InputError, MGraphError), 1):  # the second finds the modes of the first

        def fail(*_: Any, error: type[MGraphError] = error, **__: Any) -> None:
            raise error("The loss is NaN.")

        engine = Beside()
        with monkeypatch.context() as patched:
            patched.setattr("mgraph.graph.graph.Graph.connect", fail)
            with pytest.raises(MGraphError, match=r"cnn-0-simplex: The loss is NaN\.") as told:
                reproduction(tmp_path).run(engine=engine)
        assert isinstance(told.value, InputError) == (error is InputError)
        assert engine.log[-2:] == ["interrupt", "closed"]
        status = [run["status"] for run in mgraph.open(tmp_path / "g.mgraph").runs() if run["command"] == "repro"]
        assert status == ["failed"] * count


def test_a_budget_stops_the_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(running.time, "monotonic", lambda: now[0])

    class Late(Beside):
        @override
        def wait(self, timeout: float | None = None) -> Finished | None:
            finished = super().wait(timeout)
            now[0] = 1e9
            return finished

    engine = Late()
    table = reproduction(tmp_path).run(engine=engine, budget="1h")
    assert engine.log == ["cnn-0-a", "cnn-0-b", "interrupt", "closed"]
    assert table.records[0]["status"].startswith("not run: the budget was used up")
    now[0] = 0.0
    assert {record["status"] for record in reproduction(tmp_path).run().records} == {"run"}


def test_without_workers_nothing_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spreading, "spread", lambda *_, **__: pytest.fail("sent"))
    monkeypatch.setattr(running.Reproduction, "_run_row", lambda self, _: not self._engine.remote)
    chosen = reproduction(tmp_path)
    chosen.run(engine="none")
    assert isinstance(chosen._engine, Here)


@pytest.mark.stress
@pytest.mark.parametrize(
    "engine",
    [
        "local:2",
        pytest.param(
            "ray:2",
            marks=[
                pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed: pip install 'mgraph[ray]'"),
                pytest.mark.filterwarnings("ignore"),
            ],
        ),
    ],
)
def test_processes_give_the_same_numbers(tmp_path: Path, engine: str) -> None:
    apart, alone = tmp_path / "apart", tmp_path / "alone"
    apart.mkdir()
    alone.mkdir()
    rows = {"name": "s-table2", "threads": 1}
    table = reproduction(apart, "3x3", **rows).run(engine=engine)
    assert table.records == reproduction(alone, "3x3", **rows).run().records
