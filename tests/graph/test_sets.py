"""Sets of models: how they are written, what they predict, and what ensembles and soups of them are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mgraph
from mgraph.errors import InputError
from mgraph.evaluate import metrics
from mgraph.models.predicting import Predictor
from mgraph.models.sets import as_written, resolve
from mgraph_store.folder import Folder
from mgraph_store.predictions import Predictions


def labels_of(graph: Any, *texts: str) -> list[str]:
    with graph.session.store.reading() as reader:
        parts = [as_written(reader, text) for text in texts]
    return [member.label for member in resolve(graph.session, parts).members]


def probabilities(point: Any, split: str = "test") -> np.ndarray:
    """What a stored node or a place says, through a network of its own."""
    task = point._session.workspace(point._session.space()).task if hasattr(point, "_session") else None
    assert task is not None
    x = torch.cat([x for x, _ in task.splits[split].batches(500)])
    with torch.no_grad():
        return point.model()(x).double().softmax(1).numpy()


@pytest.mark.parametrize(
    ("texts", "labels"),
    [
        (["a", "b"], ["a", "b"]),
        (["curve@0.25,0.5"], ["curve@0.25", "curve@0.5"]),
        (["curve@3"], ["curve@0", "curve@0.5", "curve@1"]),
        (["s@2"], ["s@0,0", "s@0,1", "s@1,0", "s@1,1"]),
        (["s@2,3"], [f"s@{u},{v}" for u in (0, 1) for v in (0, 0.5, 1)]),
        (["s@0.5,0.5,0,1"], ["s@0.5,0.5", "s@0,1"]),
        (["a", "curve@2", "a", "b"], ["a", "curve@1"]),  # an end of the curve is that mode, and in a union once
        (["curve@1"], ["curve@1"]),
    ],
)
def test_a_set_is_what_is_written(graph: Any, texts: list[str], labels: list[str]) -> None:
    assert labels_of(graph, *texts) == labels


def test_a_connection_by_itself_is_at_most_nine_of_its_points(graph: Any) -> None:
    assert len(labels_of(graph, "curve")) == 9
    assert len(labels_of(graph, "s")) == 9
    graph.connect(*"abcd", method=mgraph.Simplex(), name="tri", sweep=False)
    assert len(labels_of(graph, "tri")) == 4  # ten points of a finer grid would be more than nine


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a@3", "a is a mode, which has no points"),
        ("s@0.5", "2 numbers u,v, and 1 numbers are not a multiple"),
        ("s@x", "points are numbers with commas"),
        ("s@", "is not a set of models"),
        ("curve@0.5,1.5", r"lie in \[0, 1\]"),
        ("nobody", "nobody"),
    ],
)
def test_what_is_no_set_is_refused(graph: Any, text: str, message: str) -> None:
    with pytest.raises(mgraph.MGraphError, match=message):
        labels_of(graph, text)


def test_an_ensemble_is_the_mean_of_what_its_members_say(graph: Any) -> None:
    curve = graph.connection("curve")
    found = graph.ensemble("c", "curve@0.3,1")
    said = np.stack([probabilities(graph.node("c")), _of_place(graph, curve.at(0.3)), probabilities(graph.node("b"))])
    y = graph.session.workspace(graph.session.space()).task.test.targets.numpy()
    mean = said.mean(0)
    assert found.evaluate("test")["accuracy"].value == pytest.approx((mean.argmax(1) == y).mean())
    assert found.evaluate("test")["loss"].value == pytest.approx(-np.log(mean[np.arange(len(y)), y]).mean(), rel=1e-4)
    onehot = np.eye(10)[y]
    assert found.evaluate("test")["brier"].value == pytest.approx(((mean - onehot) ** 2).sum(1).mean(), rel=1e-4)
    differ = (said.argmax(2)[:, None] != said.argmax(2)[None]).mean(2)
    np.testing.assert_allclose(found.disagreement, differ, atol=1e-12)
    predicted = graph.predict("c", curve.at(0.3), "curve@1")
    np.testing.assert_allclose(predicted.probabilities, mean, atol=1e-6)


def _of_place(graph: Any, place: Any) -> np.ndarray:
    x = _inputs(graph)
    with torch.no_grad():
        return place.model()(x).double().softmax(1).numpy()


def _inputs(graph: Any) -> torch.Tensor:
    task = graph.session.workspace(graph.session.space()).task
    return torch.cat([x for x, _ in task.test.batches(500)])


def test_what_it_is_compared_with_is_always_there(graph: Any) -> None:
    """Single model, corners, and independent modes of equal number and cost; also where there are fewer of these."""
    found = graph.connection("s").ensemble(grid=3)
    assert [row["what"] for row in found.table()] == [
        f"single corner {found.single_name}",
        "ensemble of the corners",
        "4 independent modes (equal number: 9)",
        "4 independent modes (equal cost: 5)",
        "ensemble of 9 points",
    ]
    costs = [row["cost"] for row in found.table()]
    assert costs == pytest.approx([1, 4, 4, 4, 4 + 8 / 6])  # epochs of the surface, in those of a mode
    assert found.to_dict()["grid"] == [3, 3]
    everything = graph.ensemble()
    assert everything.labels[:4] == tuple("abcd")
    assert everything.members == 9  # the four modes, and five further points of the surface
    pair = graph.ensemble("a", "b")
    assert [row["what"] for row in pair.table()][1:] == [
        "2 independent modes (equal number)",
        "2 independent modes (equal cost)",
        "ensemble of 2 models",
    ]
    assert pair.corners is None
    assert pair.gain is not None
    by_hand = [pair.whole["test"]["accuracy"].value - pair.single["test"]["accuracy"].value]
    assert pair.gain.value == pytest.approx(by_hand[0])


def test_members_are_asked_once_and_stale_answers_cannot_be(graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    real = metrics.outputs

    def counted(*given: Any, **options: Any) -> Any:
        passes.append(1)
        return real(*given, **options)

    monkeypatch.setattr("mgraph.models.predicting.outputs", counted)
    graph.gc(older_than=0)  # merging asked some already
    graph.ensemble("a", "s@3")
    asked = len(passes)
    assert asked == 2 * 9  # valid and test of nine models: a and the other modes are corners of s
    first = graph.ensemble("a", "s@3")
    assert len(passes) == asked  # everything was cached
    cache = graph.path / "predictions"
    forger = Predictions(Folder(graph.path), b"a stranger's")
    for file in sorted(cache.iterdir()):
        forger.put(file.name, np.zeros((1, 1), np.float32))
    assert graph.ensemble("a", "s@3").whole == first.whole
    assert len(passes) == 2 * asked  # nothing of a stranger's was taken
    passes.clear()
    passes.extend([1] * asked)
    again = graph.ensemble("a", "s@3", bn_examples=500)  # another BatchNorm policy has numbers of its own
    assert len(passes) == 2 * asked
    assert again.whole["test"]["loss"].value != first.whole["test"]["loss"].value
    graph.gc(older_than=0)
    assert not (graph.path / "predictions").exists()
    assert graph.ensemble("a", "s@3").whole == first.whole
    predictor = Predictor(graph.session, graph.session.space())
    with graph.session.store.reading() as reader:
        (member,) = resolve(graph.session, [as_written(reader, "c")]).members
    point = predictor._point(member)
    moved = type(point)(np.nextafter(point.theta, 1, dtype=np.float32), point.buffers, point.policy)
    assert predictor._identity(moved) != predictor._identity(point)


def test_memory_does_not_grow_with_the_members(graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many members, votes of one and the running sums are held at a time, never all."""
    from mgraph.merge import ensemble as voting

    alive: list[int] = []
    most = 0
    real = voting.said

    def counted(*given: Any, **options: Any) -> Any:
        nonlocal most
        import weakref

        vote = real(*given, **options)
        alive.append(1)
        weakref.finalize(vote, alive.pop)
        most = max(most, len(alive))
        return vote

    monkeypatch.setattr(voting, "said", counted)
    few = graph.connection("curve").ensemble(grid=3)
    held, most = most, 0
    many = graph.connection("curve").ensemble(grid=15)
    assert (few.members, many.members) == (3, 15)
    assert most <= held + 1


def test_temperatures_weights_and_selection_are_fitted_on_validation(graph: Any) -> None:
    plain = graph.ensemble("s@2,3")
    warm = graph.ensemble("s@2,3", temperature=True)
    assert not np.allclose(warm.temperatures, 1.0)
    assert np.allclose(plain.temperatures, 1.0)
    weighted = graph.ensemble("s@2,3", weights=True)
    assert weighted.weights.sum() == pytest.approx(1.0)
    assert weighted.whole["valid"]["nll"].value <= weighted.plain["valid"]["nll"].value
    assert weighted.plain == plain.whole
    few = graph.ensemble("s@2,3", greedy=2)
    assert 1 <= np.count_nonzero(few.weights) <= 2
    assert few.whole["valid"]["nll"].value <= few.single["valid"]["nll"].value
    with pytest.raises(InputError, match="either weighted or chosen greedily"):
        graph.ensemble("s@3", weights=True, greedy=2)


def test_classes_are_counted(graph: Any) -> None:
    found = graph.ensemble("a", "d")
    predicted = graph.predict("a", "d")
    said, y = predicted.predicted, predicted.labels
    for c, row in enumerate(found.classes):
        assert (row["class"], row["examples"]) == (c, (y == c).sum())
        assert row["recall"] == pytest.approx((said[y == c] == c).mean())
        assert row["precision"] == pytest.approx((y[said == c] == c).mean())
        assert row["f1"] == pytest.approx(2 / (1 / row["recall"] + 1 / row["precision"]))
    assert len(found.classes) == 10


def test_a_soup_is_the_average_of_its_ingredients(graph: Any) -> None:
    made = graph.soup("curve@0.4,0.6", name="stew", force=True)
    stored = graph.session.store
    node = graph.node("stew")
    halves = [next(iter(graph.connection("curve").at(t).state_dict().values())).numpy() for t in (0.4, 0.6)]
    first = next(iter(graph.node("stew").state_dict().values())).numpy()
    np.testing.assert_allclose(first, np.mean(halves, axis=0), atol=1e-6)
    assert made.results["test"] == node.evaluate("test")
    assert sum(term["c"] for term in node.describe()["terms"]) == pytest.approx(1.0)
    assert (node.record.kind, node.record.selected_on) == ("merged", None)
    assert json.loads(node.record.info)["origin"] == "soup"
    assert len(stored.read_parameters("stew")) > 0
    assert made.decision is not None
    assert made.to_dict()["verdict"] == made.decision.verdict
    best = graph.soup("a", "b", force=True)  # of nodes: as they are, with their own BatchNorm statistics
    assert best.ingredient == {split: graph.node(best.baseline).evaluate(split) for split in best.ingredient}


def test_greedy_and_learned_soups_do_not_fall_below_their_ingredients(graph: Any) -> None:
    parts = ("curve@0,0.9,1",)
    greedy = graph.soup(*parts, how="greedy", force=True)
    singles = [graph.connection("curve").merge(at=t, force=True).results["valid"] for t in (0, 0.9, 1)]
    assert greedy.results["valid"]["accuracy"].value >= max(one["accuracy"].value for one in singles)
    assert greedy.node.selected_on == "valid"
    learned = graph.soup(*parts, how="learned", force=True)
    assert learned.weights.sum() == pytest.approx(1.0)
    assert learned.decision is not None
    with pytest.raises(InputError, match="two models or more; this set has 1"):
        graph.soup("a")
    with pytest.raises(InputError, match="A soup is uniform, greedy, learned, not 'hot'"):
        graph.soup("a", "b", how="hot")


def test_models_with_a_barrier_between_them_are_not_averaged(graph: Any, run: Any) -> None:
    before = len(graph.nodes("merged"))
    done = run("soup", "a", "b", code=2)  # line was swept
    assert "A barrier divides a and b (the line line has a valid error of" in done.stderr
    estimated = (
        r"c and d \(halfway between them the validation accuracy is .* s joins them without it.*mgraph merge s\)"
    )
    with pytest.raises(InputError, match=estimated):
        graph.soup("c", "d", how="greedy")
    assert len(graph.nodes("merged")) == before
    assert run("soup", "a", "b", "--force", "--name", "forced", "--json").row["used"] == 2
    assert graph.node("forced").kind == "merged"


def test_predictions_are_written_with_their_examples(graph: Any, run: Any, path: Path) -> None:
    import duckdb

    here = path.parent
    row = run("predict", "s@2", "--split", "valid", "-o", "p.parquet", "--json").row
    assert (row["members"], row["examples"]) == (4, 360)
    found = graph.predict("s@2", split="valid")
    table = duckdb.sql(f"SELECT * FROM '{here / 'p.parquet'}' ORDER BY example").fetchnumpy()
    np.testing.assert_array_equal(table["example"], np.arange(360))
    np.testing.assert_array_equal(table["predicted"], found.predicted)
    np.testing.assert_array_equal(np.stack([table[f"p_{c}"] for c in range(10)], 1), found.probabilities)
    np.testing.assert_allclose(found.probabilities.sum(1), 1.0)
    assert row["accuracy"] == pytest.approx((table["label"] == table["predicted"]).mean())
    run("predict", "s@2", "--split", "valid", "-o", "p.csv")
    lines = (here / "p.csv").read_text().splitlines()
    assert (len(lines), lines[0].split(",")[:4]) == (361, ["example", "label", "predicted", "p_0"])
    run("predict", "a", "-o", "p.npz")
    with np.load(here / "p.npz") as arrays:
        assert arrays["p"].shape == (360, 10)
        accuracy = (arrays["predicted"] == arrays["label"]).mean()
    assert accuracy == graph.node("a").evaluate("test")["accuracy"].value  # with its own statistics
    assert "exists; choose another name" in run("predict", "a", "-o", "p.npz", code=2).stderr
    assert found.table()[7]["p_3"] == found.probabilities[7, 3]


def test_other_data_are_predicted_as_the_networks_own(graph: Any, run: Any, path: Path) -> None:
    task = graph.session.workspace(graph.session.space()).task
    x, y = task.test.inputs.numpy(), task.test.targets.numpy()
    np.savez(path.parent / "new.npz", x_train=x[:40], y_train=y[:40], x_test=x[40:60], y_test=y[40:60])
    run("predict", "a", "--data", "npz:new.npz", "-o", "new.csv")
    mine = graph.predict("a").probabilities[40:60]
    theirs = np.loadtxt(path.parent / "new.csv", delimiter=",", skiprows=1)[:, 3:]
    np.testing.assert_allclose(theirs, mine, atol=1e-6)
    np.savez(path.parent / "odd.npz", x_train=x[:40, :, :4], y_train=y[:40], x_test=x[:9, :, :4], y_test=y[:9])
    assert (
        "An example of npz:odd.npz has shape"
        in run("predict", "a", "--data", "npz:odd.npz", "-o", "n.csv", code=2).stderr
    )


def test_a_query_chooses_modes_and_merged_nodes(graph: Any) -> None:
    assert graph.ensemble(where="kind=mode, name in (a, d)").labels == ("a", "d")
    assert graph.ensemble("b", where="name = a").labels == ("b", "a")
    with pytest.raises(InputError, match="No mode or merged node fits 'test_acc > 2'"):
        graph.ensemble(where="test_acc > 2")


def test_models_of_two_spaces_are_no_set(graph: Any) -> None:
    graph.add_space("mlp?hidden=4,", "digits", name="other")
    graph.train(space="other", epochs=1, name="z")
    with pytest.raises(InputError, match="a is of space cnn-digits and z of space other"):
        graph.ensemble("a", "z")


def test_ensembles_are_drawn(graph: Any, path: Path) -> None:
    drawn = graph.connection("curve").plot_ensemble(path.parent / "votes.svg", grid=3)
    assert "ensemble of a and" in drawn.read_text()
    assert graph.connection("s").plot_ensemble(path.parent / "votes.png", grid=2).stat().st_size > 5000


def test_what_was_trained_on_costs_both_and_is_no_independent_mode(graph: Any) -> None:
    graph.train(init="a", epochs=3, seed=9, name="longer")
    graph.train(epochs=6, seed=8, name="sharp", sam=0.05)
    found = graph.ensemble("longer", "sharp")
    costs = {row["what"]: row["cost"] for row in found.table()}
    assert costs["ensemble of 2 models"] == pytest.approx(1 + 3 / 6 + 2)
    assert costs[f"single {found.single_name}"] == pytest.approx({"longer": 1.5, "sharp": 2}[found.single_name])
    assert costs["3 independent modes (equal cost)"] == 3  # of a, b, c, d and sharp
