"""Merging looks at validation data and never at test data; a corner is its mode, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mgraph
from mgraph.evaluate.metrics import measure_with_scores
from mgraph.operations import merging
from mgraph.session.points import evaluate_splits
from mgraph_store import Member

# Mode a classifies by the first coordinate, mode b by the second. Validation data follow the first one; what the
# test data follow is a parameter: nothing that is chosen may depend on it.
OWN = """
import numpy as np
from torch import nn

def net():
    return nn.Linear(2, 2)

def data(test):
    x = np.random.default_rng(0).standard_normal((900, 2)).astype(np.float32)
    noise = np.random.default_rng(1).random(900) < 0.1
    first, second = (x[:, 0] > 0) ^ noise, (x[:, 1] > 0) ^ noise
    y = first.astype(int)
    shuffled = np.random.default_rng(2).permutation(first)
    labels = {"same": first, "other": second, "shuffled": shuffled}[test].astype(int)
    parts = {"train": (x[:300], y[:300]), "valid": (x[300:600], y[300:600]), "test": (x[600:], labels[600:])}
    return parts | {"classes": 2}
"""
KINDS = ("same", "shuffled")


def decide(directory: Path, test: str) -> dict[str, Any]:
    """Make a graph with these test labels and return everything that mgraph chooses in it."""
    g = mgraph.create(directory / f"{test}.mgraph", arch="own.py:net", data=f"own.py:data?test={test}", device="cpu")
    for name, weight in (("a", [[-4.0, 0.5], [4.0, -0.5]]), ("b", [[0.3, -4.0], [-0.3, 4.0]])):
        file = directory / f"{name}.pt"
        torch.save({"weight": torch.tensor(weight), "bias": torch.zeros(2)}, file)
        g.add_mode(file, name=name)
    line = g.connect("a", "b", method=mgraph.Linear(), name="line", grid=9)
    swept = line.swept()
    best, greedy, uniform = line.merge(best=True), line.merge(soup="greedy"), line.merge(soup="uniform")
    ruled, refined = line.merge(), line.merge(refine=6)
    cooked = g.soup("line@5", how="learned", force=True)
    voted = line.ensemble(grid=5, greedy=2, temperature=True)
    return {
        "chosen": {
            "parameter": best.parameter,
            "best": line.best().id == swept.node_ids[swept.best("valid")],
            "digests": [r.node.digest for r in (best, greedy, uniform, ruled, refined, cooked)],
            "weights": voted.weights.tolist(),
            "baseline": best.baseline,
            "single": voted.single_name,
            "selected on": [r.node.selected_on for r in (best, greedy, uniform)],
        },
        "valid": swept.values["valid", "accuracy"],
        "test": swept.values["test", "accuracy"],
        "losses": swept.values["valid", "loss"],
        "parameters": swept.parameters,
        "reported": best.results["test"]["accuracy"].value,
        "oracle": best.oracle,
    }


@pytest.fixture(scope="module")
def decisions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    directory = tmp_path_factory.mktemp("honesty")
    (directory / "own.py").write_text(OWN)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        patch.setenv("MGRAPH_CONFIG_DIR", str(directory))
        return {kind: decide(directory, kind) for kind in KINDS}


def test_nothing_that_is_chosen_depends_on_test_labels(decisions: dict[str, Any]) -> None:
    first = decisions["same"]["chosen"]
    assert all(d["chosen"] == first for d in decisions.values())
    assert first["selected on"] == ["valid", "valid", None]
    # The test labels did change, and with them everything that is only reported.
    assert len({d["reported"] for d in decisions.values()}) == len(KINDS)


def test_the_chosen_point_is_best_on_validation_data_and_not_on_test_data(decisions: dict[str, Any]) -> None:
    for kind, found in decisions.items():
        at = int(np.flatnonzero(found["parameters"][:, 0] == found["chosen"]["parameter"][0])[0])
        assert found["valid"][at] == found["valid"].max()
        ties = np.flatnonzero(found["valid"] == found["valid"].max())
        assert found["losses"][at] == found["losses"][ties].min()
        if kind != "same":
            # Choosing on test data would have taken another point, so this test would notice it.
            assert found["test"][at] < found["test"].max()
            assert found["reported"] < found["oracle"]
        assert found["oracle"] == found["test"].max()


def test_what_is_reported_on_test_is_what_the_stored_node_does(graph: Any) -> None:
    merged = graph.connection("s").merge(name="again", best=True)
    node = graph.node("again")
    assert node.record.selected_on == "valid"
    assert node.evaluate("test") == merged.results["test"]
    best = graph.connection("s").swept()
    at = best.best("valid")
    assert merged.parameter == tuple(best.parameters[at])
    assert merged.results["test"]["accuracy"].value == best.values["test", "accuracy"][at]
    assert merged.results["valid"]["loss"].value == best.values["valid", "loss"][at]
    difference = merged.results["test"]["accuracy"].value - merged.corners[merged.baseline]["test"]["accuracy"].value
    assert merged.difference.value == pytest.approx(difference)


@pytest.mark.parametrize("name", ["s", "line", *(pytest.param(n, marks=pytest.mark.stress) for n in ("wall", "curve"))])
def test_a_sample_at_a_corner_is_the_mode_itself(graph: Any, name: str) -> None:
    store = graph.session.store
    square = {(0, 0): "a", (0, 1): "b", (1, 0): "c", (1, 1): "d"}
    corners: dict[tuple[int, ...], str] = square if name in ("s", "wall") else {(0,): "a", (1,): "b"}
    connected = graph.connection(name)
    with store.reading() as reader:
        samples = {tuple(m.parameter): m.node_id for m in reader.all(Member, connection_id=connected.id, role="sample")}
    for corner, mode in corners.items():
        assert samples[corner] == graph.node(mode).id
        if name in ("wall", "line") and mode != "b":
            continue  # the same again
        merged = connected.merge(at=corner).node
        assert merged.digest == graph.node(mode).digest
        assert store.read_parameters(merged).tobytes() == store.read_parameters(mode).tobytes()


def test_a_sample_is_what_merging_there_stores(graph: Any) -> None:
    for name, at in (("s", (0.5, 0.5)), ("s", (0.0, 0.5)), ("curve", (0.25,))):
        connected = graph.connection(name)
        data = connected.swept()
        sample = data.node_ids[data.index_of(np.array(at))]
        assert graph.node(sample).kind == "sample"
        merged = connected.merge(at=at, force=True)  # some lie on a wall
        store = graph.session.store
        assert store.read_parameters(sample).tobytes() == store.read_parameters(merged.node).tobytes()
        for split in ("train", "valid", "test"):
            for metric in ("loss", "accuracy"):
                swept = data.values[split, metric][data.index_of(np.array(at))]
                assert merged.results[split][metric].value == swept
        assert {k: v.value for k, v in graph.node(sample).evaluate("test").items()} == {
            k: v.value for k, v in merged.results["test"].items()
        }


def test_a_merged_node_can_be_an_end(graph: Any) -> None:
    line = graph.connect("m", "a", method=mgraph.Linear(), grid=3)
    assert [p.kind for p in line.ends] == ["merged", "mode"]
    found = graph.components(max_barrier=1e9)
    assert len(found.groups) == 1
    assert len(found.groups[0]) == 5


@pytest.mark.parametrize("name", ["s", pytest.param("wall", marks=pytest.mark.stress)])
def test_greedy_soup_does_not_fall_below_the_best_point_on_validation(graph: Any, name: str) -> None:
    connected = graph.connection(name)
    greedy, best = connected.merge(soup="greedy"), connected.merge(best=True)
    assert greedy.results["valid"]["accuracy"].value >= best.results["valid"]["accuracy"].value
    terms = graph.node(greedy.node.id).describe()["terms"]
    assert sum(term["c"] for term in terms) == pytest.approx(1)


def test_nothing_is_measured_again_that_the_sweep_holds(graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []

    def counted(*given: Any) -> Any:
        measured.append(1)
        return evaluate_splits(*given)

    def counted_with_scores(*given: Any) -> Any:
        measured.append(1)
        return measure_with_scores(*given)

    monkeypatch.setattr(merging, "evaluate_splits", counted)
    monkeypatch.setattr(merging, "measure_with_scores", counted_with_scores)
    inside = graph.connection("s").merge(at=(0.5, 0.5), force=True)
    assert measured == []
    again = graph.connection("s").merge(at=(0.5, 0.5), force=True, bn_examples=500)  # under another policy it is
    assert len(measured) == 4 + 3  # the corners, and the three splits of the point, with its scores
    assert again.results != inside.results
    node = graph.node(inside.node.id)
    assert {split: node.evaluate(split) for split in inside.results} == inside.results


MARGINS = """
import torch

def net():
    return torch.nn.Linear(10, 2, bias=False)

def data():
    ones = torch.ones(10, dtype=torch.int64)
    train = torch.eye(10), torch.arange(10) % 2
    return {"train": train, "valid": (torch.eye(10), ones), "test": (torch.eye(10).flip(0), ones)}
"""


def test_the_best_corner_is_everywhere_the_one_with_the_best_primary_metric(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One corner is right more often, the other likelier: the first one is kept, and is what all is compared with."""
    (tmp_path / "margins.py").write_text(MARGINS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MGRAPH_CONFIG_DIR", str(tmp_path))
    g = mgraph.create("g.mgraph", arch="margins.py:net", data="margins.py:data", device="cpu")
    right_more_often = torch.tensor([0.2] * 6 + [-5.0] * 4)
    likelier = torch.tensor([5.0] * 5 + [-0.1] * 5)
    for name, margins in (("a", right_more_often), ("b", likelier)):
        torch.save({"weight": torch.stack([-margins, margins])}, f"{name}.pt")
        g.add_mode(f"{name}.pt", name=name)
    line = g.connect("a", "b", method=mgraph.Linear(), name="line", grid=21)
    merged = line.merge(name="m")
    assert (merged.parameter, merged.baseline, merged.difference.value) == ((0.0,), "a", 0.0)
    assert merged.results["valid"]["accuracy"].value == 0.6
    assert merged.decision.verdict == "even"
    others = [line.merge(**how, force=True) for how in ({"best": True}, {"at": 1}, {"soup": "uniform"})]
    soups = [g.soup("b", "a", how=how, force=True) for how in ("uniform", "greedy", "learned")]
    assert {one.baseline for one in (*others, *soups)} == {"a"}
    assert others[1].difference.value == pytest.approx(-0.1)
    assert g.ensemble("b", "a").single_name == "a"


def test_a_point_must_be_better_than_every_corner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path to a likelier corner gains nothing, though its points are likelier than the best corner."""
    (tmp_path / "margins.py").write_text(MARGINS.replace("10", "200"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MGRAPH_CONFIG_DIR", str(tmp_path))
    g = mgraph.create("g.mgraph", arch="margins.py:net", data="margins.py:data", device="cpu")
    noise = 0.1 * torch.randn(2, 200, generator=torch.Generator().manual_seed(0))
    sure = torch.where(torch.arange(200) % 10 < 8, 2.0, -0.5) + noise[0]
    right = torch.arange(200) % 100 < 83
    unsure = torch.where(right, 0.3, -1.0) + noise[1].abs() * torch.where(right, 1, -1)
    for name, margins in (("a", unsure), ("b", sure)):
        torch.save({"weight": torch.stack([-margins, margins])}, f"{name}.pt")
        g.add_mode(f"{name}.pt", name=name)
    merged = g.connect("a", "b", method=mgraph.Linear(), name="line", grid=9).merge()
    assert (merged.parameter, merged.baseline, merged.decision.verdict) == ((0.0,), "a", "even")
    assert "than corner b" in merged.notes[0]


NORMALISED = OWN.replace(
    "return nn.Linear(2, 2)", "return nn.Sequential(nn.BatchNorm1d(2, affine=False), nn.Linear(2, 2))"
)


def test_a_corner_that_is_kept_keeps_its_statistics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best corner is the best as its modes are, and is handed out as it is; recomputed statistics may be worse."""
    (tmp_path / "own.py").write_text(NORMALISED)
    monkeypatch.chdir(tmp_path)
    g = mgraph.create("g.mgraph", arch="own.py:net", data="own.py:data?test=same", device="cpu")
    for name, weight, mean in (("a", 4.0, 0.05), ("b", 0.2, 0.4)):
        state = {
            "0.running_mean": torch.tensor([mean, 0.0]),
            "0.running_var": torch.ones(2),
            "0.num_batches_tracked": torch.tensor(9),
            "1.weight": torch.tensor([[-weight, 0.5], [weight, -0.5]]),
            "1.bias": torch.zeros(2),
        }
        g.add_mode(state, name=name)
    line = g.connect("a", "b", method=mgraph.Linear(), name="line", grid=5)
    kept = line.merge(name="kept")
    assert (kept.baseline, kept.parameter) == ("a", (0.0,))
    assert kept.decision.verdict != "better"
    for name in ("a", "b"):
        assert kept.corners[name] == {split: g.node(name).evaluate(split) for split in ("train", "valid", "test")}
    statistics = {name: g.node(name).model().state_dict()["0.running_mean"] for name in ("a", "kept")}
    assert torch.equal(statistics["a"], statistics["kept"])
    assert kept.results == kept.corners["a"]
    assert g.node("kept").evaluate("test") == g.node("a").evaluate("test")
    # A point that was asked for, and all of them with --bn-examples, have statistics of these data.
    for merged in (line.merge(at=0, name="asked"), line.merge(name="all", bn_examples=300)):
        assert not torch.equal(statistics["a"], g.node(merged.node.name).model().state_dict()["0.running_mean"])
    assert "the chosen point is the corner a, with its BatchNorm statistics recomputed" in line.merge(at=0).notes
