"""Points between modes that were trained on augmented images get BatchNorm statistics of augmented images."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import mgraph
from mgraph.errors import InputError
from mgraph.evaluate import batchnorm, sweep
from mgraph.evaluate.batchnorm import BatchNormPolicy, recompute_statistics
from mgraph.evaluate.metrics import measure
from mgraph.operations import sweeps
from mgraph.session.policies import augments_behind
from mgraph.session.runs import RunInterrupted
from mgraph_store import NodeBuffers

pytestmark = pytest.mark.filterwarnings(
    "ignore::mgraph.operations.modes.SimilarModeWarning", "ignore::mgraph.operations.endcheck.EndsDifferWarning"
)

PLAIN = "recompute(examples=1077,batch=359,seed=0)"
AUGMENTED = "recompute(examples=1077,batch=359,seed=0,augment=cutout5)"
POLICY = BatchNormPolicy(1077, 359, augment="cutout5")


@pytest.fixture(scope="module")
def g(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two modes of one augmentation, one without, one of a function of the user's own; lines between them."""
    place = tmp_path_factory.mktemp("augmented")
    (place / "own.py").write_text("def noisy(x):\n    return x + 1\n")
    graph = mgraph.create(place / "g.mgraph", arch="cnn?bn=true&channels=4,&hidden=8,", data="digits", device="cpu")
    how: dict[str, Any] = {"epochs": 2, "lr": 0.05}
    graph.train(seed=0, name="a", augment="cutout5", **how)
    graph.train(seed=1, name="b", augment="cutout5", ema=0.9, **how)
    graph.train(seed=2, name="plain", **how)
    for seed in (3, 4):
        graph.train(seed=seed, name=f"own{seed}", augment=f"{place}/own.py:noisy", **how)
    for one, other in ("ab", ("a", "plain"), ("own3", "own4")):
        graph.connect(one, other, method=mgraph.Linear(), name=f"{one}-{other}", sweep=False)
    return graph


def loss_by(g: Any, theta: Any, policy: BatchNormPolicy) -> float:
    """Measure a point's test loss with statistics by a policy, without the machinery of sweeps."""
    here = g.session.workspace(g.session.space())
    here.flat.theta.copy_(here.flat.pack(torch.from_numpy(np.array(theta))))
    recompute_statistics(here.flat, here.task.train, policy)
    return measure(here.flat, here.task, "test")["loss"].value


def parameters(g: Any, name: str) -> Any:
    return g.session.points.read(g.node(name).record)


def policies_of(g: Any, node: Any) -> list[str]:
    with g.session.store.reading() as reader:
        return [row.policy for row in reader.all(NodeBuffers, node_id=node.id)]


def behind(g: Any, *things: Any) -> set[str]:
    with g.session.store.reading() as reader:
        return set(augments_behind(reader, things))


def test_points_of_a_path_have_statistics_of_images_augmented_as_its_ends_were_trained(g: Any) -> None:
    found = g.connection("a-b").sweep(grid=3)
    middle = (parameters(g, "a") + parameters(g, "b")) / 2
    losses = found.values["test", "loss"]
    assert found.sweep.batchnorm == AUGMENTED
    assert losses[1] == pytest.approx(loss_by(g, middle, POLICY), rel=1e-5)
    assert losses[0] == loss_by(g, parameters(g, "a"), POLICY)
    assert abs(losses[1] / loss_by(g, middle, replace(POLICY, augment="")) - 1) > 0.01
    again = mgraph.open(g.path, device="cpu").connection("a-b").sweep(grid=3, reuse=False)
    assert np.array_equal(again.values["test", "loss"], losses)
    assert g.connection("a-b").at(0.25).evaluate("test")["loss"].value == pytest.approx(
        loss_by(g, 0.75 * parameters(g, "a") + 0.25 * parameters(g, "b"), POLICY), rel=1e-5
    )


def test_where_ends_share_no_augmentation_that_is_built_in_images_stay_as_they_are_and_the_sweep_says_so(
    g: Any,
) -> None:
    mixed, own = (g.connection(name).sweep(grid=2) for name in ("a-plain", "own3-own4"))
    assert mixed.sweep.batchnorm == own.sweep.batchnorm == PLAIN
    assert any("no augmentation in common (none known, cutout5)" in note for note in mixed.notes)
    assert any("own.py:noisy, a function of your own" in note for note in own.notes)
    assert mixed.values["test", "loss"][0] == loss_by(g, parameters(g, "a"), replace(POLICY, augment=""))


def test_merged_models_and_averages_of_training_are_stored_with_such_statistics(g: Any) -> None:
    line = g.connection("a-b")
    merged = line.merge(at=0.5, name="halfway", force=True)
    soup = g.soup("a", "b", force=True)
    for made in (merged, soup):
        assert json.loads(made.node.info)["batchnorm"] == AUGMENTED
        assert policies_of(g, made.node) == [AUGMENTED]
        middle = g.session.points.read(made.node)
        assert made.results["test"]["loss"].value == loss_by(g, middle, POLICY)
    assert merged.corners["a"]["test"] == g.node("a").evaluate("test")  # an end keeps its own
    assert policies_of(g, g.soup("a", "plain", force=True).node) == [PLAIN]
    average = g.node("b-ema")
    assert average.evaluate("test")["loss"].value == loss_by(g, parameters(g, "b-ema"), POLICY)


def test_what_is_made_of_modes_has_the_augmentations_of_all_of_them(g: Any) -> None:
    curve = g.connect("a", "b", method=mgraph.BezierCurve(epochs=1), name="curve", grid=3)
    (bend,) = {p["node"] for p in curve.describe()["control_points"]} - {g.node("a").id, g.node("b").id}
    merged, soup = curve.merge(at=0.4, force=True).node, g.soup("a", "b-ema", force=True).node
    aligned, archived = g.align("b", to="a"), g.node("a").archive("bf16").node
    alike = [curve.record, g.node(bend).record, merged, soup, aligned.record, archived]
    assert [behind(g, thing) for thing in alike] == [{"cutout5"}] * len(alike)
    composite = g.compose("a-b", "a-plain", sweep=False)
    for thing in (composite.record, g.soup("plain", soup.id, force=True).node):
        assert behind(g, thing) == {"cutout5", ""}
    assert behind(g, g.node("plain").record) == {""}
    file = g.path.parent / "a.pt"
    torch.save(g.node("a").state_dict(), file)
    assert behind(g, g.add_mode(file).record) == {""}


@pytest.mark.parametrize("name", ["neb", pytest.param("llpf", marks=pytest.mark.stress)])
def test_methods_that_measure_on_the_way_do_so_as_a_sweep_would(
    g: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()

    def noting(flat: Any, train: Any, policy: BatchNormPolicy) -> None:
        seen.add(policy.augment)
        recompute_statistics(flat, train, policy)

    for module in (batchnorm, sweep):
        monkeypatch.setattr(module, "recompute_statistics", noting)
    how: dict[str, Any] = {
        "neb": {"pivots": 1, "cycles": ("1x2",), "dense": 1, "dense_examples": 50},
        "llpf": {"ticks": 2, "min_iters": 1, "max_iters": 1, "check_examples": 50, "groups": "all"},
    }[name]
    g.connect("a", "b", method=mgraph.METHODS[name](**how), sweep=False)
    assert seen == {"cutout5"}
    seen.clear()
    g.connect("a", "plain", method=mgraph.METHODS[name](**how), sweep=False)
    assert seen == {""}


def test_a_sweep_never_mixes_numbers_of_two_policies(g: Any, monkeypatch: pytest.MonkeyPatch, reporter: Any) -> None:
    """Numbers of a version that knew no augmentation are measured again, and its interrupted sweep is not continued."""
    line = g.connect("b", "a", method=mgraph.Linear(), name="older", sweep=False)
    with monkeypatch.context() as older:
        older.setattr(sweeps, "policy_after", lambda workspace, found, examples: workspace.policy(examples))
        assert line.sweep(grid=3).sweep.batchnorm == PLAIN
        with pytest.raises(RunInterrupted) as stopped:
            line.sweep(grid=5, progress=reporter(after=2))
    with pytest.raises(InputError, match=r"seed=0\), and now they would be by .*augment=cutout5\); give the command"):
        g.resume(stopped.value.run_id)
    found = line.sweep(grid=5)
    assert found.sweep.batchnorm == AUGMENTED
    assert not any("measured before" in note for note in found.notes)
    assert found.values["test", "loss"][0] == loss_by(g, parameters(g, "b"), POLICY)
