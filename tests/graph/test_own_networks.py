"""A user's own network and data, from the first day: factories, tied and frozen weights, regression, torchvision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mgraph
from mgraph.data.task import DataWarning
from mgraph.errors import InputError
from mgraph_store import assert_consistent

# Which token comes first? Tied embeddings, frozen positions, an LSTM and attention.
SEQUENCES = """
import torch
from torch import nn

TOKENS = 7

class Reader(nn.Module):
    def __init__(self, width, classes):
        super().__init__()
        self.embedding = nn.Embedding(classes, width)
        self.positions = nn.Parameter(torch.linspace(-1, 1, 5 * width).reshape(5, width), requires_grad=False)
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, classes, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, tokens):
        x = self.embedding(tokens) + self.positions
        x = x + self.lstm(x)[0]
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.out(self.norm(x.mean(1)))

def net(classes, width=8):
    return Reader(width, classes)

def data(examples=120):
    tokens = torch.randint(0, TOKENS, (examples, 5), generator=torch.Generator().manual_seed(0))
    first = tokens[:, 0]
    half = examples // 2
    return {"train": (tokens[:half], first[:half]), "test": (tokens[half:], first[half:]), "classes": TOKENS}
"""

REGRESSION = """
import torch
from torch import nn

def net(input_shape, bn=False):
    norm = nn.BatchNorm1d(8) if bn else nn.Identity()
    return nn.Sequential(nn.Linear(input_shape[0], 8), norm, nn.Tanh(), nn.Linear(8, 1))

def huber(outputs, targets):
    return nn.functional.huber_loss(outputs, targets)

def data():
    x = torch.linspace(-2, 2, 90)[:, None]
    y = torch.sin(2 * x)
    return {"train": (x[::3], y[::3]), "valid": (x[1::3], y[1::3]), "test": (x[2::3], y[2::3]), "loss": huber}
"""


@pytest.mark.stress  # the tied archetype of test_architectures does in every run
def test_a_network_of_ones_own_goes_the_whole_road(commands: Any, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(SEQUENCES)
    run = commands(tmp_path)
    made = run("init", "g.mgraph", "--arch", "own.py:net?width=4", "--data", "own.py:data?examples=90", "--json").row
    # Tied once, frozen not at all.
    assert made["parameters"] == 7 * 4 + 2 * (4 * 4 * 4 + 4 * 4) + (3 * 16 + 12) + (16 + 4) + 8
    for seed, name in enumerate("abcd"):
        run("train", "--seed", seed, "--epochs", 2, "--name", name)
    for args in (["ab", "--curve", "--epochs", 1], ["abcd", "--surface", "--epochs", 2]):
        ends, method, *rest = args
        row = run("connect", *ends, method, *rest, "--name", method[2:], "--grid", 3, "--json").row
        assert row["status"] == "complete"
    assert run("components", "--max-barrier", 1e9, "--json").row["components"][0]["size"] == 4
    merged = run("merge", "surface", "--name", "m", "--json").row["models"][0]
    run("ensemble", "surface", "--grid", 2)
    run("plot", "surface", "-o", "s.png")
    run("export", "m", "-o", "m.pt")
    state = torch.load(tmp_path / "m.pt", weights_only=True)
    scope: dict[str, Any] = {}
    exec(SEQUENCES, scope)  # what a user's script does with it
    network = scope["net"](7, width=4)
    network.load_state_dict(state)
    assert state["out.weight"].data_ptr() == state["embedding.weight"].data_ptr()
    assert torch.equal(state["positions"], scope["net"](7, width=4).positions)
    x, y = scope["data"](90)["test"]
    found = (network.eval()(x).argmax(1) == y).double().mean().item()
    assert found == merged["test_accuracy"]
    assert_consistent(mgraph.open(tmp_path / "g.mgraph").session.store)
    # The graph and its code move together.
    moved = tmp_path / "moved"
    moved.mkdir()
    (tmp_path / "g.mgraph").rename(moved / "g.mgraph")
    (tmp_path / "own.py").rename(moved / "own.py")
    assert "--trust" in commands(moved)("train", "--epochs", 1, code=2).stderr
    commands(moved)("train", "--epochs", 1, "--trust")


def test_a_factory_in_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site" / "own_package_of_tests"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "sizes.py").write_text("WIDTH = 3\n")
    (package / "nets.py").write_text(
        "from torch import nn\nfrom .sizes import WIDTH\n\ndef make(in_channels, num_classes, input_shape):\n"
        "    assert input_shape == (1, 8, 8)\n"
        "    return nn.Sequential(nn.Conv2d(in_channels, WIDTH, 8), nn.Flatten(), nn.Linear(WIDTH, num_classes))\n"
    )
    monkeypatch.syspath_prepend(package.parent)
    g = mgraph.create(tmp_path / "g.mgraph", arch="own_package_of_tests.nets:make", data="digits", device="cpu")
    a, b = (g.train(seed=s, epochs=1) for s in range(2))
    line = g.connect(a, b, method=mgraph.Linear(), grid=3)
    assert line.swept().values["test", "loss"].shape == (3,)
    again = mgraph.open(tmp_path / "g.mgraph", device="cpu")
    assert again.node(a.id).evaluate("test") == a.evaluate("test")


@pytest.mark.stress  # the archetypes of test_architectures go the same road in every run
def test_a_network_of_torchvision(tmp_path: Path) -> None:
    import torchvision

    random = np.random.default_rng(0)
    arrays = {
        f"{kind}_{split}": random.integers(0, 256, (12, 8, 8, 3), np.uint8) if kind == "x" else np.arange(12) % 3
        for split in ("train", "valid", "test")
        for kind in "xy"
    }
    np.savez(tmp_path / "tiny.npz", **arrays)
    g = mgraph.create(
        tmp_path / "g.mgraph",
        arch="torchvision:resnet18?stem=cifar",
        data=f"npz:{tmp_path / 'tiny.npz'}",
        device="cpu",
    )
    assert g.spaces()[0]["parameters"] == 11_170_371
    a, b = (g.train(seed=s, epochs=1, batch_size=6, lr=0.01) for s in range(2))
    curve = g.connect(a, b, method=mgraph.BezierCurve(epochs=1, batch_size=6, lr=0.01, update="eager"), grid=3)
    assert curve.record.status == "complete"
    data = curve.swept()
    merged = curve.merge(at=0.5)
    assert merged.results["test"]["loss"].value == data.values["test", "loss"][1]
    network = torchvision.models.resnet18(num_classes=3)
    network.conv1, network.maxpool = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False), torch.nn.Identity()
    network.load_state_dict(g.node(merged.node.id).state_dict())


def _samples(run: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = run("sql", "SELECT * FROM samples", "--json").document["rows"]
    return rows


@pytest.mark.parametrize("arch", [pytest.param("own.py:net", marks=pytest.mark.stress), "own.py:net?bn=true"])
def test_regression_with_a_loss_of_ones_own(commands: Any, tmp_path: Path, arch: str) -> None:
    (tmp_path / "own.py").write_text(REGRESSION)
    run = commands(tmp_path)
    row = run("init", "g.mgraph", "--arch", arch, "--data", "own.py:data", "--json").row
    assert row["loss"] == "huber"
    for seed, name in enumerate("ab"):
        row = run("train", "--seed", seed, "--epochs", 3, "--batch-size", 8, "--name", name, "--json").row
        assert {e["metric"] for e in row["evaluations"]} == {"loss"}
    row = run("connect", "a", "b", "--curve", "--epochs", 2, "--name", "c", "--grid", 5, "--json").row
    assert {(e["split"], e["metric"]) for e in row["edges"]} == {(s, "loss") for s in ("train", "valid", "test")}
    found = run("components", "--max-barrier", 1e9, "--json").row
    assert [c["nodes"] for c in found["components"]] == [["a", "b"]]
    assert "train loss drop <= 1" in run("components", "--max-drop", 1).stdout
    merged = run("merge", "c", "--best", "--json").row
    assert (merged["selected_on"], merged["oracle"]) == ("valid", min(s["test_loss"] for s in _samples(run)))
    assert not [key for key in merged if key.startswith("test_")]  # the loss of single examples is not known
    values = run("merge", "c", "--soup", "greedy", "--json").row["models"]
    assert values[0]["valid_loss"] <= merged["models"][0]["valid_loss"] + 1e-12
    assert "valid loss" in run("merge", "c").stdout
    single, *_, whole = run("ensemble", "c", "--grid", 3, "--json").row["models"]
    assert 0 < whole["test_loss"] < 2 * single["test_loss"]
    run("export", "c", "--ensemble", "--grid", 3, "-o", "e")
    assert json.loads((tmp_path / "e" / "manifest.json").read_text())["combine"] == "mean of outputs"
    run("plot", "c", "-o", "c.png")
    assert run("ls").code == 0
    assert run("show", "c").code == 0
    run("export", "a", "-o", "a.safetensors")
    assert json.loads(run("show", "a", "--json").stdout)["row"]["evaluations"][0]["standard_error"] is None


@pytest.mark.stress  # blobs of test_forms_of_batches are in every run
def test_per_class_outputs_of_images_are_scored_and_voted(commands: Any, tmp_path: Path) -> None:
    """Segmentation: outputs (N, C, H, W), an accuracy per example, and votes on every pixel."""
    (tmp_path / "own.py").write_text(
        "import torch\nfrom torch import nn\n\ndef net():\n    return nn.Conv2d(1, 2, 3, padding=1)\n\n"
        "def data():\n    x = torch.rand(60, 1, 4, 4, generator=torch.Generator().manual_seed(0))\n"
        "    y = (x[:, 0] > 0.5).long()\n"
        "    return {'train': (x[:40], y[:40]), 'test': (x[40:], y[40:]), 'classes': 2}\n"
    )
    run = commands(tmp_path)
    run("init", "g.mgraph", "--arch", "own.py:net", "--data", "own.py:data")
    for seed, name in enumerate("ab"):
        run("train", "--seed", seed, "--epochs", 2, "--name", name)
    run("connect", "a", "b", "--linear", "--name", "l", "--grid", 3)
    row = run("merge", "l", "--at", 0.5, "--json").row
    gain = row["models"][0]["test_accuracy"] - next(
        m["test_accuracy"] for m in row["models"] if m["what"] == row["against"]
    )
    assert row["test_accuracy_difference"] == pytest.approx(gain)
    single, corners, *_ = run("ensemble", "l", "--grid", 3, "--json").row["models"]
    assert corners["test_loss"] > 0
    assert single["test_accuracy"] > 0.5


def test_a_loss_that_is_no_mean_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.py").write_text(
        REGRESSION.replace("huber_loss(outputs, targets)", "huber_loss(outputs, targets, reduction='none')")
    )
    monkeypatch.chdir(tmp_path)
    with (
        pytest.warns(DataWarning, match="vote by the mean of their outputs"),
        pytest.raises(InputError, match=r"huber must return a scalar tensor.*\[8, 1\]"),
    ):
        mgraph.create("g.mgraph", arch="own.py:net", data="own.py:data")
    assert not (tmp_path / "g.mgraph").exists()


ODD = """
import torch
from torch import nn

class Odd(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.first = nn.Linear(64, 8)
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.1)
        self.out = nn.Linear(8, classes)
        self.register_buffer("mask", torch.tensor([True] * 6 + [False] * 2))
        self.register_buffer("causal", torch.tensor([0.0, float("-inf")]))
        self.register_buffer("brain", torch.ones(3, dtype=torch.bfloat16) / 3)
        self.register_buffer("wide", torch.ones(3, dtype=torch.float64) / 3)
        self.register_buffer("short", torch.arange(3, dtype=torch.int32))
        self.register_buffer("scalar", torch.tensor(2.0))
        self.register_buffer("unsaved", torch.ones(2), persistent=False)
        self.halved = nn.Parameter(torch.ones(4, dtype=torch.float16) / 3, requires_grad=False)

    def forward(self, x):
        return self.out(self.drop((self.norm(self.first(x.flatten(1))) * self.mask).relu()))

def net(classes):
    return Odd(classes)

class Images(torch.utils.data.Dataset):
    def __init__(self, count, seed):
        self.x = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
        self.y = (self.x.mean((1, 2, 3)) * 1000).long() % 3

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], int(self.y[i])

def data():
    return {"train": Images(80, 0), "test": Images(40, 1), "classes": 3, "mean": 0.5, "std": 0.2}
"""


def test_tensors_of_every_type_and_data_that_stream(commands: Any, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(ODD)
    run = commands(tmp_path)
    run("init", "g.mgraph", "--arch", "own.py:net", "--data", "own.py:data")
    for seed, name in enumerate("ab"):
        run("train", "--seed", seed, "--epochs", 1, "--name", name)
    run("connect", "a", "b", "--curve", "--epochs", 1, "--grid", 3, "--name", "c")
    run("merge", "c", "--at", 0.5, "--name", "m")
    run("export", "c", "--ensemble", "--grid", 2, "-o", "e")
    scope: dict[str, Any] = {}
    exec(ODD, scope)
    g = mgraph.open(tmp_path / "g.mgraph", device="cpu")
    for suffix in ("pt", "safetensors"):
        run("export", "m", "-o", f"m.{suffix}")
        back = run("add-mode", f"m.{suffix}", "--json").row
        assert back["digest"] == g.node("m").digest
        assert back["info"]["notes"] == []
    state = torch.load(tmp_path / "m.pt", weights_only=True)
    fresh = scope["net"](3)
    assert {k: (v.dtype, v.shape) for k, v in state.items()} == {
        k: (v.dtype, v.shape) for k, v in fresh.state_dict().items()
    }
    for name in ("mask", "causal", "brain", "wide", "short", "scalar", "halved"):
        assert torch.equal(state[name], fresh.state_dict()[name]), name
    assert_consistent(g.session.store)
