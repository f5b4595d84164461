"""The history of a mode's training in the graph: stored, shown, drawn, packed and removed with it."""

import shutil
from pathlib import Path
from typing import Any

import pytest

import mgraph
from mgraph.errors import InputError
from mgraph_store import Series


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("history") / "g.mgraph"
    g = mgraph.create(path, arch="mlp?hidden=8,", data="digits", device="cpu")
    g.train(seed=0, epochs=2, batch_size=128, lr=0.1, keep=(1,), ema=0.9, name="a")
    g.train(seed=1, epochs=1, batch_size=128, name="b")
    g.connect("a", "b", method=mgraph.Linear(), grid=3, name="line")
    return path


@pytest.fixture
def g(made: Path, tmp_path: Path) -> Any:
    return mgraph.open(shutil.copytree(made, tmp_path / "g.mgraph"), device="cpu")


def test_a_mode_has_its_history(g: Any) -> None:
    rows = g.node("a").series()
    assert {row["quantity"] for row in rows} == {"train_loss", "train_accuracy", "learning_rate", "distance"}
    losses = [row["value"] for row in rows if row["quantity"] == "train_loss"]
    assert len(losses) == 18
    assert losses[-1] < losses[0]
    distances = [row["value"] for row in rows if row["quantity"] == "distance"]
    assert 0 < distances[0] < distances[-1]
    assert next(row["value"] for row in rows if row["quantity"] == "learning_rate") == 0.1
    assert g.node("a-1").series() == g.node("a-ema").series() == []
    summary = {row["quantity"]: row["count"] for row in g.node("a").describe()["series"]}
    assert summary["train_loss"] == 18
    assert g.connection("line").series() == []


def test_it_is_shown_and_drawn(g: Any, commands: Any) -> None:
    run = commands(g.path.parent)
    rows = run("show", "a", "--series", "--json").rows
    assert rows == g.node("a").series()
    assert "learning_rate" in run("show", "a", "--series").stdout
    assert "Nothing was recorded" in run("show", "a-1", "--series").stdout
    assert "4; --series prints them" in run("show", "a").stdout
    assert "series" not in run("show", "a-1").stdout
    run("plot", "a", "-o", "a.png")
    first = (g.path.parent / "a.png").read_bytes()
    assert first.startswith(b"\x89PNG")
    g.node("a").plot(g.path.parent / "again.png")
    assert (g.path.parent / "again.png").read_bytes() == first
    assert "have a history" in run("plot", "a-1", "-o", "x.png", code=2).stderr
    assert "must end in" in run("plot", "a", "-o", "a.txt", code=2).stderr
    with pytest.raises(InputError, match="does not exist"):
        g.node("a").plot(g.path.parent / "no" / "a.png")


def test_it_goes_with_its_mode(g: Any, commands: Any, tmp_path: Path) -> None:
    run = commands(g.path.parent)
    run("pack", "a", "-o", "a.mgraph.zip")
    (tmp_path / "other").mkdir()
    other = mgraph.create(tmp_path / "other" / "other.mgraph", arch="mlp?hidden=8,", data="digits", device="cpu")
    run("unpack", "a.mgraph.zip", "--graph", str(other.path))
    assert mgraph.open(other.path).node("a").series() == g.node("a").series()
    run("unpack", "a.mgraph.zip", "--graph", str(other.path))
    assert mgraph.open(other.path).node("a").series() == g.node("a").series()
    run("rm", "a", "--cascade")
    with g.session.store.reading() as reader:
        (b,) = {s.node_id for s in reader.all(Series)}
    assert b == g.node("b").id
    assert run("check").code == 0
