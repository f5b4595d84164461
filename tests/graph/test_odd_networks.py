"""Odd networks through the whole of mgraph: handled so that their numbers hold, or refused by name."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import mgraph
from mgraph.errors import InputError, MGraphWarning, NonFiniteError
from mgraph.operations.endcheck import EndsDifferWarning
from mgraph.session.constants import BuffersWarning
from mgraph.session.meeting import NetworkWarning
from mgraph_store import Edge, Evaluation, Node, assert_consistent

HEAD = """
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations as P, prune

def data(train=120, valid=40):
    r = np.random.default_rng(0)
    def draw(n):
        x = r.normal(0, 1, (n, 4)).astype(np.float32)
        return x, (x[:, 0] * x[:, 1] > 0).astype(np.int64)
    return {"train": draw(train), "valid": draw(valid), "test": draw(40)}
"""


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make a graph of a network of this source, with modes a and b."""
    monkeypatch.chdir(tmp_path)

    def make(source: str, data: str = "data", modes: str = "ab", said: str = "", **settings: Any) -> Any:
        Path("n.py").write_text(HEAD + source)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            g = mgraph.create("g.mgraph", arch="n.py:net", data=f"n.py:{data}", device="cpu")
        texts = [str(w.message) for w in seen if issubclass(w.category, NetworkWarning)]
        assert len(texts) == bool(said)
        assert all(said in text for text in texts)
        for seed, name in enumerate(modes):
            g.train(name=name, **{"seed": seed, "epochs": 3, "lr": 0.1, "batch_size": 16} | settings)
        return g

    return make


def own(g: Any, name: str) -> dict[str, float]:
    """Return a mode's numbers, as they were stored with it."""
    with g.session.store.reading() as reader:
        rows = reader.all(Evaluation, node_id=g.node(name).id, sweep_id=None)
    return {f"{e.split} {e.metric}": e.value for e in rows}


def at_ends(g: Any, connection: str) -> list[dict[str, float]]:
    data = g.connection(connection).swept()
    return [{f"{s} {m}": float(v[i]) for (s, m), v in data.values.items()} for i in (0, -1)]


def edges(g: Any) -> list[Edge]:
    with g.session.store.reading() as reader:
        return reader.all(Edge)


def modes(g: Any) -> int:
    with g.session.store.reading() as reader:
        return len(reader.all(Node, kind="mode"))


def policies(g: Any) -> set[str]:
    with g.session.store.reading() as reader:
        return {e.batchnorm for e in reader.all(Evaluation)}


IN_PLACE = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    def forward(self, x):
        x -= 0.5
        x *= 3
        return self.body(x)
def net():
    return Net()
"""


def test_a_network_that_changes_its_input_does_not_change_the_data(made: Any) -> None:
    g = made(IN_PLACE, said="changes its input in place, in the network's own forward")
    before = own(g, "a")
    for _ in range(3):
        assert {f"test {m}": v.value for m, v in g.node("a").evaluate("test").items()}.items() <= before.items()
    g.connect("a", "b", method=mgraph.Linear(), name="l", grid=3)
    assert at_ends(g, "l") == [before, own(g, "b")]
    method = mgraph.METHODS["neb"](cycles="1x4@0.01")
    for name, how in (("band", method), ("curve", mgraph.BezierCurve(epochs=1, samples=2, batch_size=16))):
        g.connect("a", "b", method=how, name=name, grid=3)
        assert at_ends(g, name) == [before, own(g, "b")]
    assert mgraph.open("g.mgraph").node("a").evaluate("test")["loss"].value == before["test loss"]


FROZEN = """
class FrozenBN(nn.BatchNorm1d):
    def train(self, mode=True):
        return super().train(False)
def norm(kind):
    if kind == "live":
        return nn.BatchNorm1d(16)
    m = FrozenBN(16) if kind == "train" else nn.BatchNorm1d(16, momentum=0.0 if kind == "momentum" else 0.1)
    m.running_mean.copy_(torch.linspace(-2, 2, 16))
    m.running_var.copy_(torch.linspace(1, 9, 16))
    return m
class Net(nn.Module):
    def __init__(self, kinds):
        super().__init__()
        self.kinds = kinds
        self.layers = nn.ModuleList([nn.Linear(4 if i == 0 else 16, 16) for i in range(len(kinds))])
        self.norms = nn.ModuleList([norm(k) for k in kinds])
        self.out = nn.Linear(16, 2)
    def forward(self, x):
        for layer, norm, kind in zip(self.layers, self.norms, self.kinds):
            if kind == "forward":
                norm.eval()
            x = norm(layer(x)).relu()
        return self.out(x)
"""


@pytest.mark.parametrize(
    "kind", ["forward", *(pytest.param(kind, marks=pytest.mark.stress) for kind in ("train", "momentum"))]
)
def test_frozen_statistics_stay_frozen(made: Any, kind: str) -> None:
    g = made(FROZEN + f"def net():\n    return Net(['{kind}'])\n", said="statistics of module norms.0 frozen")
    g.connect("a", "b", method=mgraph.BezierCurve(epochs=1, batch_size=16), name="c", grid=3)
    merged = g.connection("c").merge(at=0.5, name="m", force=True)
    for name in ("a", "b", merged.node.id):
        state = g.node(name).state_dict()
        assert torch.equal(state["norms.0.running_mean"], torch.linspace(-2, 2, 16))
        assert torch.equal(state["norms.0.running_var"], torch.linspace(1, 9, 16))
    assert at_ends(g, "c") == [own(g, "a"), own(g, "b")]
    assert policies(g) == {"frozen"}
    assert_consistent(g.session.store)


def test_what_is_frozen_in_part_is_recomputed_in_part(made: Any) -> None:
    g = made(FROZEN + "def net():\n    return Net(['train', 'live'])\n", said="statistics of module norms.0 frozen")
    g.connect("a", "b", method=mgraph.Linear(), name="l", grid=3)
    assert policies(g) == {"own", "recompute(examples=120,batch=120,seed=0)+frozen(1)"}
    half = g.connection("l").merge(at=0.5, force=True)
    state = g.node(half.node.id).state_dict()
    assert torch.equal(state["norms.0.running_mean"], torch.linspace(-2, 2, 16))
    assert not torch.equal(state["norms.1.running_mean"], g.node("a").state_dict()["norms.1.running_mean"])
    other = g.node("b").state_dict() | {"norms.0.running_mean": torch.zeros(16)}
    save_file(other, "other.safetensors")
    with pytest.warns(NetworkWarning, match="frozen"), pytest.warns(MGraphWarning, match="same checkpoint twice"):
        g.add_mode("other.safetensors", name="c")
    with pytest.raises(
        InputError, match=r"running statistic norms\.0\.running_mean differs between a and c"
    ) as refused:
        g.connect("a", "c", method=mgraph.Linear())
    assert "--buffers-from" not in str(refused.value)


@pytest.mark.parametrize("add", ["P.spectral_norm", pytest.param("nn.utils.spectral_norm", marks=pytest.mark.stress)])
def test_vectors_of_spectral_normalisation_are_each_points_own(made: Any, add: str) -> None:
    layers = f"{add}(nn.Linear(4, 16)), nn.ReLU(), {add}(nn.Linear(16, 16)), nn.ReLU(), nn.Linear(16, 2)"
    g = made(f"def net():\n    return nn.Sequential({layers})\n", epochs=10)
    g.connect("a", "b", method=mgraph.Linear(), name="l", grid=3)
    for found, name in zip(at_ends(g, "l"), "ab", strict=True):
        assert found["train loss"] == pytest.approx(own(g, name)["train loss"], rel=0.02)
    assert [e.doubt for e in edges(g)] == [None] * 6
    assert policies(g) == {"own", "spectral"}
    merged = g.connection("l").merge(at=0.5, force=True)
    assert merged.results["train"]["loss"].value == g.connection("l").swept().values["train", "loss"][1]
    g.train(seed=2, epochs=2, batch_size=16, name="c")
    g.connect("b", "c", method=mgraph.BezierCurve(epochs=1, batch_size=16), name="curve", grid=3)
    g.compose("l", "curve")


PRUNED = """
def net():
    m = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))
    prune.random_unstructured(m[0], "weight", 0.5)
    return m
"""


def test_buffers_that_are_part_of_the_function_are_not_lent_in_silence(made: Any) -> None:
    g = made(PRUNED, epochs=8, lr=0.3)
    with pytest.raises(
        InputError, match=r"buffer 0\.weight_mask differs between a and b.*part of what they"
    ) as refused:
        g.connect("a", "b", method=mgraph.Linear())
    assert "--buffers-from" not in str(refused.value)
    with (
        pytest.warns(EndsDifferWarning, match=r"of b is \S+ on its own and \S+ in this sweep"),
        pytest.warns(BuffersWarning, match=r"With the buffers of a \(first 0\.weight_mask\), b is another function"),
    ):
        g.connect("a", "b", method=mgraph.Linear(), buffers_from="a", name="l", grid=3)
    found = edges(g)
    assert found
    assert all("of b is" in (e.doubt or "") for e in found)
    assert at_ends(g, "l")[0] == own(g, "a")


COUNTER = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 2)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
    def forward(self, x):
        if self.training:
            self.steps += 1
        return self.body(x)
def net():
    return Net()
"""


def test_buffers_that_change_no_output_may_be_lent(made: Any) -> None:
    g = made(COUNTER, modes="a")
    g.train(name="b", seed=1, epochs=2, batch_size=16)
    with pytest.raises(InputError, match=r"steps differs between a and b.*outputs are the same.*--buffers-from a"):
        g.connect("a", "b", method=mgraph.Linear())
    g.connect("a", "b", method=mgraph.Linear(), buffers_from="a", grid=3)
    assert {e.doubt for e in edges(g)} == {None}


ANNEALED = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.heat = nn.Linear(4, 2), 1.0
    def forward(self, x):
        if self.training:
            self.heat *= 0.9
        return self.body(x) / self.heat
def net():
    return Net()
"""


def test_a_mode_whose_tensors_do_not_make_its_function_is_refused_and_not_lost(made: Any) -> None:
    g = made(ANNEALED, modes="")
    with pytest.raises(
        InputError, match=r"trained network is more than its tensors.*by up to .*heat \(a plain float\).*x-1-refused"
    ):
        g.train(name="x", epochs=2, keep=(1,))
    assert modes(g) == 0
    saved = load_file("x-1-refused.safetensors")
    assert {name: tuple(t.shape) for name, t in saved.items()} == {"body.weight": (2, 4), "body.bias": (2,)}
    assert_consistent(g.session.store)


UNTRACKED = """
def net():
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.ReLU(), nn.Linear(8, 2))
def odd():
    return data(train=97, valid=1001)
"""


def test_batch_statistics_without_running_ones_are_trained_and_measured(made: Any) -> None:
    g = made(
        UNTRACKED, "odd", said="let examples that share a batch change each other's outputs".replace("let", "lets")
    )
    g.connect("a", "b", method=mgraph.BezierCurve(epochs=1, batch_size=64, samples=2), name="c", grid=3)
    assert at_ends(g, "c") == [own(g, "a"), own(g, "b")]
    again = mgraph.open("g.mgraph", device="cpu").node("a").evaluate("valid")
    assert {f"valid {m}": v.value for m, v in again.items()}.items() <= own(g, "a").items()
    with pytest.raises(InputError, match="at least 2 examples"):
        g.train(batch_size=1, epochs=1)
    with pytest.raises(InputError, match="at least 2 examples in a batch, even in evaluation"):
        g.connection("c").sweep(3, examples=1)


SQUEEZED = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 2)
    def forward(self, x):
        return self.body(x).squeeze()
def net():
    return Net()
def odd():
    return data(train=97, valid=1001)
"""


def test_a_network_that_cannot_take_a_single_example_is_never_given_one(made: Any) -> None:
    g = made(SQUEEZED, "odd")
    assert set(own(g, "a")) == {f"{s} {m}" for s in ("train", "valid", "test") for m in ("loss", "accuracy")}


AUXILIARY = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(8, 2)
    def forward(self, x):
        h = self.a(x).relu()
        return (self.b(h), self.c(h)) if self.training else self.b(h)
def net():
    return Net()
def both(outputs, targets):
    return F.cross_entropy(outputs[0], targets) + 0.3 * F.cross_entropy(outputs[1], targets)
"""


def test_auxiliary_outputs_train_by_a_loss_that_takes_them(made: Any) -> None:
    g = made(AUXILIARY, modes="", said="returns a tuple of 2 in training")
    with pytest.raises(InputError, match="cross_entropy failed on two examples, given a tuple of 2 in training mode"):
        g.train(name="a", epochs=1)
    g.train(name="a", epochs=1, loss="n.py:both")
    assert own(g, "a")["test loss"] > 0


def test_a_network_that_became_random_is_refused_before_it_is_trained(made: Any) -> None:
    g = made(IN_PLACE.replace("x -= 0.5\n", "\n").replace("x *= 3\n", "\n"))
    assert not edges(g)
    Path("n.py").write_text(Path("n.py").read_text().replace("self.body(x)", "F.dropout(self.body(x))"))
    again = mgraph.open("g.mgraph", device="cpu", trust=True)
    state = again.node("a").state_dict()
    torch.save(state, "a.pt")
    for add in (lambda: again.train(name="c", epochs=1), lambda: again.add_mode("a.pt", name="c")):
        with pytest.raises(InputError, match=r"random in evaluation.*the network's own forward"):
            add()
    assert modes(again) == 2


def test_a_checkpoint_is_probed_with_its_weights(made: Any, recwarn: pytest.WarningsRecorder) -> None:
    g = made("def net():\n    return nn.Sequential(nn.Linear(4, 2), nn.Softplus())\n", modes="")
    save_file({"0.weight": torch.full((2, 4), 1e38), "0.bias": torch.zeros(2)}, "huge.safetensors")
    with pytest.raises((InputError, NonFiniteError)):
        g.add_mode("huge.safetensors")
    assert modes(g) == 0


def test_ends_that_are_doubted_are_told_on_the_command_line(made: Any, commands: Any, tmp_path: Path) -> None:
    made(PRUNED, epochs=8, lr=0.3)
    said = commands(tmp_path)("connect", "a", "b", "--linear", "--buffers-from", "a", "--grid", 3, "--name", "l").stderr
    assert "is another function" in said
    assert "on its own" in said
    row = commands(tmp_path)("init", "h.mgraph", "--arch", "n.py:net", "--data", "n.py:data", "--json")
    assert json.loads(row.stdout)["row"]["parameters"] == 4 * 32 + 32 + 64 + 2


def test_numbers_of_ordinary_networks_are_not_touched(tmp_path: Path) -> None:
    """The probe draws from no stream."""
    torch.manual_seed(5)
    state = torch.get_rng_state()
    g = mgraph.create(tmp_path / "g.mgraph", arch="cnn?bn=true&channels=2&hidden=4,", data="digits", device="cpu")
    assert torch.equal(torch.get_rng_state(), state)
    first = g.train(seed=0, epochs=1, name="a")
    with pytest.warns(MGraphWarning, match="same checkpoint twice"):
        second = g.train(seed=0, epochs=1, name="b")  # probed before already
    assert second.digest == first.digest
