"""Modes that begin at a stored node, seeds of order apart from those of weights, and running averages."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mgraph
from mgraph.errors import InputError, LayoutMismatchError, NotFoundError
from mgraph.operations.modes import SimilarModeWarning
from mgraph.session.runs import RunInterrupted
from mgraph.train.recipes import RecipeWarning
from mgraph.train.settings import TrainSettings
from mgraph_store import Member

ARCH = "cnn?bn=true&channels=4,&hidden=8,"


@pytest.fixture(scope="module")
def g(tmp_path_factory: pytest.TempPathFactory) -> Any:
    graph = mgraph.create(tmp_path_factory.mktemp("starts") / "g.mgraph", arch=ARCH, data="digits", device="cpu")
    graph.train(seed=0, epochs=2, batch_size=128, name="parent")
    graph.train(seed=1, epochs=1, batch_size=128, name="other")
    return graph


def weights(point: Any) -> np.ndarray:
    """Parameters of a node, flat; statistics left out."""
    named = sorted(point.tensors().items())
    return np.concatenate([a.ravel() for name, a in named if "running" not in name and "num_batches" not in name])


def interrupt(begin: Callable[[Any], Any], steps: int) -> str:
    seen = []

    def progress(_: Any) -> None:
        seen.append(1)
        if len(seen) == steps:
            raise KeyboardInterrupt

    with pytest.raises(RunInterrupted) as caught:
        begin(progress)
    return caught.value.run_id


HOW: dict[str, Any] = {"batch_size": 128, "epochs": 1}


def test_a_mode_begins_where_a_node_is(g: Any) -> None:
    still = g.train(init="parent", lr=1e-30, weight_decay=0.0, **HOW)
    assert np.array_equal(weights(still), weights(g.node("parent")))
    child = g.train(init="parent", name="child", **HOW)
    assert child.evaluate("train")["loss"].value < g.node("parent").evaluate("train")["loss"].value
    assert not np.array_equal(weights(child), weights(g.node("parent")))


def test_its_ancestry_names_the_parent(g: Any, commands: Any) -> None:
    run = commands(g.path.parent)
    run("train", "--init", "parent", "--epochs", "1", "--order-seed", "5", "--name", "spawned")
    tree = g.node("spawned").ancestry()
    assert [(row["as"], row["name"]) for row in tree["from"]] == [("trained from", "parent")]
    assert "trained from: parent (mode)" in run("show", "spawned", "--ancestry").stdout


def test_whoever_begins_at_one_node_is_not_said_to_be_alike(g: Any, recwarn: pytest.WarningsRecorder) -> None:
    for order in (1, 2):
        g.train(init="parent", order_seed=order, **HOW)
    assert not [w for w in recwarn if issubclass(w.category, SimilarModeWarning)]


@pytest.mark.filterwarnings("ignore::mgraph.operations.modes.SimilarModeWarning")
def test_points_of_a_connection_can_be_trained_on(g: Any) -> None:
    line = g.connect("parent", "other", method=mgraph.Linear(), grid=3)
    with g.session.store.reading() as reader:
        (middle,) = [
            m.node_id for m in reader.all(Member, connection_id=line.id, role="sample") if m.parameter == (0.5,)
        ]
    made = g.train(init=middle, lr=1e-30, weight_decay=0.0, **HOW)
    half = (weights(g.node("parent")) + weights(g.node("other"))) / 2
    assert np.allclose(weights(made), half, atol=1e-6)


def test_fine_tuning_on_other_data_needs_the_same_network(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (40, 1, 8, 8), dtype=np.uint8), np.arange(40) % 10
    np.savez(tmp_path / "mine.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    g = mgraph.create(tmp_path / "g.mgraph", arch=ARCH, data="digits", name="digits", device="cpu")
    parent = g.train(seed=0, name="parent", **HOW)
    data = f"npz:{tmp_path / 'mine.npz'}"
    g.add_space(ARCH, data, name="mine")
    g.add_space("cnn?bn=true&channels=5,&hidden=8,", "digits", name="wider")
    made = g.train(init="parent", space="mine", lr=1e-30, weight_decay=0.0, batch_size=20, epochs=1)
    assert np.array_equal(weights(made), weights(parent))
    with pytest.raises(LayoutMismatchError, match="parent is of space digits, whose network is not that of wider"):
        g.train(init="parent", space="wider", **HOW)


@pytest.mark.filterwarnings("ignore::mgraph.operations.modes.SimilarModeWarning")
def test_order_has_a_seed_of_its_own(g: Any) -> None:
    plain = g.train(seed=7, **HOW)
    same = g.train(seed=7, order_seed=7, **HOW)
    other = g.train(seed=7, order_seed=8, **HOW)
    assert np.array_equal(weights(plain), weights(same))
    assert not np.array_equal(weights(plain), weights(other))
    start = g.train(seed=7, lr=1e-30, weight_decay=0.0, **HOW)
    moved = g.train(seed=7, order_seed=9, lr=1e-30, weight_decay=0.0, **HOW)
    assert np.allclose(weights(start), weights(moved), rtol=0, atol=1e-12)  # the same first weights


@pytest.mark.filterwarnings("ignore::mgraph.operations.modes.SimilarModeWarning")
def test_it_goes_on_bit_for_bit_with_its_average(g: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MGRAPH_SAVE_SECONDS", "0")
    how = HOW | {"epochs": 3, "init": "parent", "order_seed": 3, "ema": 0.9, "augment": "crop1"}
    whole = g.train(name="whole", **how)
    resumed = g.resume(interrupt(lambda progress: g.train(name="parted", progress=progress, **how), 14))
    assert resumed.record.digest == whole.record.digest
    assert g.node("parted-ema").record.digest == g.node("whole-ema").record.digest
    assert whole.record.digest != g.node("whole-ema").record.digest


@pytest.mark.filterwarnings("ignore::mgraph.operations.modes.SimilarModeWarning")
def test_the_average_is_that_of_the_steps(g: Any) -> None:
    """Copies of every epoch, at one step an epoch, are the points that the average is over."""
    steps, decay = 5, 0.5
    made = g.train(seed=3, batch_size=2000, epochs=steps, ema=decay, keep=tuple(range(1, steps)), lr=0.3, name="steps")
    points = [weights(g.node(f"steps-{epoch}")) for epoch in range(1, steps)] + [weights(made)]
    begun = g.train(seed=3, batch_size=2000, epochs=1, lr=1e-30, weight_decay=0.0)
    mean = weights(begun)
    for n, point in enumerate(points):
        d = min(decay, (1 + n) / (10 + n))
        mean = d * mean + (1 - d) * point
    average = g.node("steps-ema")
    assert np.allclose(weights(average), mean, atol=1e-5)
    assert average.describe()["info"]["ema"] == decay
    assert "ema" not in made.describe()["info"]
    # its BatchNorm statistics are its own
    recomputed = g.connect(made, average, method=mgraph.Linear(), grid=3).swept().values["train", "loss"]
    assert average.evaluate("train")["loss"].value == pytest.approx(recomputed[-1], rel=1e-3)


def test_what_is_not_there_is_refused(g: Any) -> None:
    with pytest.raises(NotFoundError):
        g.train(init="nobody", **HOW)
    with pytest.raises(InputError, match="NAME-ema"):
        g.train(ema=0.9, **HOW)
    g.train(name="taken-ema", **HOW, seed=30)
    with pytest.raises(InputError, match="taken-ema"):
        g.train(name="taken", ema=0.9, **HOW)


@pytest.mark.filterwarnings("ignore::mgraph.operations.modes.SimilarModeWarning")
def test_a_preset_is_recorded_and_says_what_it_is_for(g: Any, commands: Any) -> None:
    with pytest.warns(RecipeWarning, match=r"lenet5-mnist is for the network lenet5, not cnn.* and for mnist"):
        made = g.train(preset="lenet5-mnist", epochs=1, name="by-recipe")
    info = made.describe()["info"]
    assert info["preset"] == "lenet5-mnist"
    assert (info["settings"]["augment"], info["settings"]["lr"], info["settings"]["epochs"]) == ("rotate5", 0.01, 1)
    run = commands(g.path.parent)
    done = run("train", "--preset", "lenet5-mnist", "-s", "epochs=1", "--lr", "0.02", "--json")
    assert done.row["info"]["settings"] == info["settings"] | {"lr": 0.02}
    assert "preset lenet5-mnist is for" in done.stderr
    with pytest.raises(InputError, match="not both"):
        g.train(TrainSettings(), preset="lenet5-mnist")
    assert run("recipes", "--json").rows[0]["name"] == "lenet5-mnist"
    assert "rotate5" in run("recipes", "lenet5-mnist").stdout
    assert "learning rate" in run("recipes", "resnet18-cifar10").stdout
    assert "Did you mean lenet5-mnist" in run("recipes", "lenet5-mnst", code=2).stderr
