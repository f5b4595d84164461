"""Every method that trains stops when its budget of steps or seconds is spent, keeps what it has, and says so."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import pytest

import mgraph
from mgraph.errors import InputError, NotFoundError
from mgraph.methods.registry import METHODS
from mgraph.operations import modes
from mgraph.operations.modes import SimilarModeWarning
from mgraph.train.mode import TrainedMode
from mgraph_store import Connection

TRAINED = {
    "curve": (mgraph.BezierCurve(max_steps=3), "ab", "3 steps are spent after step 3 of "),
    "chain": (mgraph.PolygonalChain(max_steps=3, bends=2), "ab", "3 steps are spent after step 3 of "),
    "surface": (
        mgraph.BezierSurface(max_seconds=1e-9, phases=("edges:2", "surface:2")),
        "abcd",
        "1e-09 s are spent after step 0 of ",
    ),
    "neb": (mgraph.NudgedElasticBand(max_steps=3, dense=1), "ab", "3 steps are spent after step 3 of 60 (cycle 1)"),
    "llpf": (mgraph.LLPF(max_steps=3, max_iters=5, check_examples=20), "ab", "3 steps are spent after step 3 of "),
}


@pytest.mark.parametrize("name", TRAINED)
def test_what_a_stopped_method_has_is_kept_with_the_reason(g: Any, name: str) -> None:
    method, ends, why = TRAINED[name]
    made = g.connect(*ends, method=method, name="stopped", sweep=False)
    record = made.record
    assert record.status == "complete"
    assert record.reason.startswith(f"{name} stopped by its budget; ")
    run = next(r for r in g.runs() if r["id"] == record.run_id)
    assert (run["status"], run["reason"][: len(why)]) == ("complete", why)


def test_every_method_that_trains_has_both_limits_and_the_same_names() -> None:
    trained = {name: cls for name, cls in METHODS.items() if name not in ("linear", "simplex")}
    for cls in (*trained.values(), mgraph.TrainSettings):
        assert {"max_steps", "max_seconds"} <= {info.name for info in cls.infos()}


def test_a_mode_that_is_stopped_is_where_it_had_come_to(g: Any) -> None:
    settings: dict[str, Any] = {"seed": 13, "schedule": "constant"}
    whole = g.train(epochs=1, name="whole", **settings)
    steps = -(-len(g.session.workspace(g.session.space()).task.train) // 64)
    with pytest.warns(SimilarModeWarning, match="whole"):
        stopped = g.train(max_steps=steps, epochs=4, keep=(1, 2), name="m", **settings)
    assert stopped.digest == whole.digest == g.node("m-1").digest
    assert stopped.describe()["info"]["notes"] == [f"{steps} steps are spent after step {steps} of {4 * steps} (train)"]
    assert "epoch" not in stopped.describe()["info"]
    with pytest.raises(NotFoundError):
        g.node("m-2")


def test_of_an_epoch_that_was_trained_again_the_last_copy_counts(g: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt that diverges after an epoch to keep leaves its copy behind."""

    epoch = -(-len(g.session.workspace(g.session.space()).task.train) // 64)

    def twice(flat: Any, *_: Any, collect: Any, **__: Any) -> TrainedMode:
        for scale in (3.0, 1 / 3):
            flat.theta.mul_(scale)
            collect(epoch)
        return TrainedMode("eager")

    monkeypatch.setattr(modes, "train_mode", twice)
    made = g.train(epochs=2, keep=(1,), name="m", seed=14)
    assert g.node("m-1").digest == made.digest


@pytest.mark.stress  # test_auto gives it to one in every run
def test_auto_gives_every_method_what_is_left_of_the_budget(g: Any) -> None:
    few = {"epochs": 1, "cycles": "1x2", "dense": 1, "ticks": 2, "check_examples": 20, "max_iters": 5}
    result = g.connect_auto("b", "d", max_barrier=0.0, settings=few, budget=300, grid=3, name="z")
    assert [a.outcome for a in result.attempts] == ["missed"] * 5
    with g.session.store.reading() as reader:
        made = {c.kind: json.loads(c.settings) for c in reader.all(Connection) if (c.name or "").startswith("z-")}
    assert "max_seconds" not in made.pop("linear")
    assert all(100 < settings["max_seconds"] < 300 for settings in made.values())
    # They ended by themselves, so there is nothing to repeat.
    again = g.connect_auto("b", "d", max_barrier=0.0, settings=few, grid=3, name="z")
    assert all(a.reused for a in again.attempts)


def test_settings_of_earlier_versions_are_understood() -> None:
    old = {k: v for k, v in asdict(mgraph.LLPF()).items() if k not in ("max_seconds", "max_steps")} | {"seconds": 7.0}
    assert mgraph.LLPF.parse(old) == mgraph.LLPF(max_seconds=7.0)
    assert mgraph.LLPF.brought_up(old) == asdict(mgraph.LLPF(max_seconds=7.0))
    assert mgraph.LLPF.brought_up(old | {"init": "k1"})["init"] == "k1"
    with pytest.raises(InputError, match="seconds is the earlier name of max_seconds; give only max_seconds"):
        mgraph.LLPF.parse({"seconds": 1, "max_seconds": 2})


def test_a_connection_of_an_earlier_version_is_taken_as_it_is(g: Any) -> None:
    few = {"ticks": 2, "check_examples": 20, "max_iters": 5}
    g.connect_auto("b", "d", max_barrier=0.0, settings=few, grid=3, name="old", methods=["llpf"])
    record = g.connection("old-llpf").record
    stored = json.loads(record.settings)
    stored["seconds"] = stored.pop("max_seconds")
    del stored["max_steps"]
    with g.session.store.transaction() as tx:
        tx.update(replace(record, settings=json.dumps(stored)))
    (again,) = g.connect_auto("b", "d", max_barrier=0.0, settings=few, grid=3, methods=["llpf"]).attempts
    assert again.reused
