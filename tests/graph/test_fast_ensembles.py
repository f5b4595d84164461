"""Fast ensembles, weight averages and simplices in a graph: members are modes that know their cycle, all or none."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mgraph
from mgraph.errors import InputError, NameTakenError
from mgraph.session.runs import RunInterrupted

ARCH = "cnn?bn=true&channels=4,&hidden=8,"
HOW: dict[str, Any] = {"batch_size": 20}  # five steps an epoch
pytestmark = pytest.mark.filterwarnings("ignore::mgraph.operations.modes.SimilarModeWarning")


@pytest.fixture(scope="module")
def g(tmp_path_factory: pytest.TempPathFactory) -> Any:
    place = tmp_path_factory.mktemp("fast")
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (110, 1, 8, 8), dtype=np.uint8), np.arange(110) % 10
    np.savez(place / "few.npz", x_train=x, y_train=y, x_test=x[:30], y_test=y[:30])
    graph = mgraph.create(place / "g.mgraph", arch=ARCH, data=f"npz:{place / 'few.npz'}", device="cpu")
    graph.train(seed=0, epochs=2, name="parent", **HOW)
    return graph


def named(g: Any, name: str) -> dict[str, Any]:
    """The nodes of a training by what follows its name."""
    rows = g.nodes("mode", where=f"name like '{name}%'")
    return {row["name"].removeprefix(name): g.node(row["id"]) for row in rows}


def weights(point: Any) -> np.ndarray:
    """Parameters of a node, flat; statistics left out."""
    parts = sorted(point.tensors().items())
    return np.concatenate([a.ravel() for name, a in parts if "running" not in name and "num_batches" not in name])


def test_members_know_their_cycle(g: Any, commands: Any) -> None:
    run = commands(g.path.parent)
    typed = ("--batch-size", 20, "--epochs", 5, "--schedule", "cyclic?period=2ep&low=0.1", "--name", "f", "--json")
    made = run("train", "--fge", "--init", "parent", *typed)
    assert made.row["name"] == "f-3"
    assert "also stored: f-1, f-2" in made.stderr
    members = [run("show", f"f-{k}", "--json").row for k in (1, 2, 3)]
    assert [(m["info"]["cycle"], m["info"]["epoch"], m["info"]["step"]) for m in members] == [
        (k, 2 * k - 1, 5 * (2 * k - 1)) for k in (1, 2, 3)
    ]
    assert len({m["run"]["id"] for m in members}) == 1
    assert len({m["digest"] for m in members}) == 3
    assert all(m["info"]["init"] == g.node("parent").id for m in members)
    assert set(named(g, "f-")) == {"1", "2", "3"}
    assert [r["name"] for r in run("ls", "--where", "cycle >= 2 and name like 'f-%'", "--json").rows] == ["f-2", "f-3"]
    assert [r["cycle"] for r in g.nodes("mode", where="name like 'f-%'", sort="-cycle")] == [3, 2, 1]
    assert [r["cycle"] for r in g.nodes("mode", where="name = 'parent'")] == [None]
    assert "cycle 2" in run("show", "f-2", "--ancestry").stdout
    assert g.node("f-3").series()  # the history is that of the whole run
    assert not g.node("f-1").series()


def test_members_have_the_statistics_of_their_step(g: Any) -> None:
    made = g.train(name="s", snapshot=True, epochs=2, schedule="restarts?cycles=2", sam=0.05, **HOW)
    assert made.name == "s-2"
    for k in (1, 2):
        point = g.node(f"s-{k}")
        stored = {e["metric"]: e["value"] for e in point.describe()["evaluations"] if e["split"] == "test"}
        assert {name: m.value for name, m in point.evaluate("test").items()} == stored
    assert "s" not in {row["name"] for row in g.nodes("mode")}


def test_the_average_is_a_mode_beside_the_last(g: Any, commands: Any) -> None:
    run = commands(g.path.parent)
    typed = ("--schedule", "constant", "--epochs", 2, "--batch-size", 20, "--keep", 1, "--name", "w", "--json")
    made = run("train", "--swa", "--init", "parent", *typed)
    assert made.row["name"] == "w"
    assert "also stored: w-1, w-swa" in made.stderr
    average = g.node("w-swa")
    assert average.describe()["info"]["swa"] == 2
    assert np.allclose(weights(average), (weights(g.node("w-1")) + weights(g.node("w"))) / 2, atol=1e-6)
    line = g.connect("w-1", "w", method=mgraph.Linear(), grid=3).swept().values["train", "loss"]
    assert average.evaluate("train")["loss"].value == pytest.approx(line[1], rel=1e-3)  # statistics of its own


def test_the_middle_of_a_simplex_is_the_model(g: Any, commands: Any) -> None:
    made = g.train(name="x", simplex=3, epochs=1, seed=4, **HOW)
    assert made.name == "x"
    assert made.describe()["info"]["simplex"] == 3
    vertices = [g.node(f"x-{k}") for k in (1, 2, 3)]
    assert [v.describe()["info"]["vertex"] for v in vertices] == [1, 2, 3]
    assert np.allclose(weights(made), np.mean([weights(v) for v in vertices], axis=0), atol=1e-6)
    assert np.corrcoef(weights(vertices[0]), weights(vertices[1]))[0, 1] < 0.5  # fresh weights of their own
    swept = g.connect(*vertices, method=mgraph.Simplex(), grid=4).swept()
    assert made.evaluate("train")["loss"].value < max(swept.values["train", "loss"])
    run = commands(g.path.parent)
    assert "simplex 3" in run("show", "x", "--ancestry").stdout


KINDS: dict[str, dict[str, Any]] = {
    "fge": {"fge": True, "init": "parent", "schedule": "cyclic?period=2ep&low=0.1", "epochs": 5, "augment": "crop1"},
    "snapshot": {"snapshot": True, "schedule": "restarts?cycles=3", "epochs": 3, "ema": 0.9},
    "swa": {"swa": True, "epochs": 4, "sam": 0.1},
    "simplex": {"simplex": 2, "epochs": 2},
}


@pytest.mark.parametrize(
    "kind", ["fge", *(pytest.param(k, marks=pytest.mark.stress) for k in ("snapshot", "swa", "simplex"))]
)
def test_all_are_resumed_bit_for_bit(g: Any, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setenv("MGRAPH_SAVE_SECONDS", "0")
    how = HOW | KINDS[kind] | {"seed": 9}
    g.train(name=f"whole-{kind}", **how)
    steps: list[int] = []

    def progress(_: Any) -> None:
        steps.append(1)
        if len(steps) == 8:
            raise KeyboardInterrupt

    with pytest.raises(RunInterrupted) as caught:
        g.train(name=f"parted-{kind}", progress=progress, **how)
    g.resume(caught.value.run_id)
    whole, parted = (named(g, f"{which}-{kind}") for which in ("whole", "parted"))
    assert {suffix: point.digest for suffix, point in parted.items()} == {s: p.digest for s, p in whole.items()}
    assert len(whole) > 1
    for suffix, point in parted.items():  # statistics, too
        assert point.evaluate("valid")["loss"].value == whole[suffix].evaluate("valid")["loss"].value


def test_what_a_budget_stops_is_kept_beside_the_members(g: Any) -> None:
    how = HOW | {"snapshot": True, "schedule": "restarts?cycles=3", "epochs": 3}
    whole = g.train(name="all", **how)
    made = g.train(name="cut", max_steps=12, **how)
    assert (whole.name, made.name) == ("all-3", "cut")
    assert set(named(g, "cut")) == {"", "-1", "-2"}
    assert [g.node(f"cut-{k}").digest for k in (1, 2)] == [g.node(f"all-{k}").digest for k in (1, 2)]
    early = g.train(name="early", swa=True, epochs=4, max_steps=3, **HOW)
    assert set(named(g, "early")) == {""}  # nothing was averaged yet
    assert "epoch" not in early.describe()["info"]


def test_a_mode_of_another_optimiser_is_refused(g: Any) -> None:
    g.train(name="adam", optimizer="adamw", lr=0.003, epochs=1, **HOW)
    with pytest.raises(InputError, match=r"adam was trained by adamw, and fge by sgd .*: add --optimizer adamw"):
        g.train(name="n", fge=True, init="adam", epochs=6, **HOW)
    how = HOW | {"fge": True, "epochs": 2, "schedule": "cyclic?period=1ep", "lr": 0.003}
    assert g.train(name="n", init="adam", optimizer="adamw", **how).name == "n-2"


REFUSED = [
    ("--fge --name n", "fge goes on from a trained mode: add --init NODE"),
    ("--fge --init parent", "fge needs a name: the members are called NAME-1"),
    ("--swa", "swa needs a name: the average is called NAME-swa"),
    ("--simplex 3", "simplex needs a name"),
    ("--simplex 3 --name n --init parent", "leave --init out"),
    ("--swa --schedule constant --name n", "goes on from a trained mode: add --init NODE"),
    ("--swa --schedule cosine --name n", "not cosine: it averages weights at a rate that stays high"),
    ("--fge --schedule curve --init parent --name n", "fge needs a schedule cyclic, not curve"),
    ("--fge --init parent --name n --epochs 2", "In the schedule of the learning rate, 4ep is"),
    ("--fge --snapshot --name n", "ask for one of fge, snapshot"),
    ("--snapshot --keep 1 --name n", "leave keep out"),
    ("--snapshot no --name n", "snapshot must be true or false"),
    ("--sam 0 --name n", "sam must be above 0"),
    ("--fge --init nobody --name n", "nobody"),
]


def test_what_cannot_be_is_refused_before_anything_is_trained(
    g: Any, commands: Any, snapshot: Callable[[Path], Any]
) -> None:
    before, run = snapshot(g.path), commands(g.path.parent)
    for typed, message in REFUSED:
        assert message in run("train", *typed.split(), code=2).stderr
    assert snapshot(g.path) == before


def test_a_taken_name_of_a_member_is_found_before_training(g: Any) -> None:
    g.train(name="t-2", epochs=1, **HOW)
    for how in ({"snapshot": True}, {"simplex": 2, "epochs": 1}):
        with pytest.raises(NameTakenError, match="t-2"):
            g.train(name="t", **how, **HOW)
    g.train(name="u-swa", epochs=1, **HOW)
    with pytest.raises(NameTakenError, match="u-swa"):
        g.train(name="u", swa=True, **HOW)


def test_averages_and_members_are_no_modes_of_their_own_and_sam_costs_twice(g: Any) -> None:
    from mgraph.models.costs import costs_of, independent_modes

    space = g.session.space()
    g.train(name="steep", epochs=2, seed=21, sam=0.05, **HOW)
    g.train(name="mean", epochs=3, seed=22, swa=True, **HOW)
    with g.session.store.reading() as reader:
        names = {node.name for node in independent_modes(reader, space)}
    assert {"parent", "steep", "mean"} <= names
    assert not names & {"mean-swa", "f-1", "f-2", "f-3", "s-1", "x-1"}
    cost = {n: costs_of(g.session, space, [g.node(n).id], []).modes for n in ("parent", "steep")}
    assert cost["steep"] == 2 * cost["parent"]
