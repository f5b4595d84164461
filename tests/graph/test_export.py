"""Exported files, loaded by plain PyTorch with no mgraph, do what was reported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mgraph

# A user's script: the architecture in plain torch, the raw digits, and nothing of ours.
_SCRIPT = """
import json, sys
import numpy as np
import torch
from pathlib import Path
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

def cnn(bn):
    layers, depth = [], 1
    for channels in (4, 8):
        layers.append(nn.Conv2d(depth, channels, 3, padding=1))
        if bn:
            layers.append(nn.BatchNorm2d(channels))
        layers += [nn.ReLU(), nn.MaxPool2d(2)]
        depth = channels
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 2 * 2, 16), nn.ReLU(), nn.Linear(16, 10))

raw = np.load(sys.argv[1])
digits, labels = raw["images"][raw["test"]], torch.from_numpy(raw["labels"][raw["test"]].astype(np.int64))

def inputs(data):
    low, high = data["range"]
    x = torch.from_numpy(digits.astype(np.float32)) / 16 * (high - low) + low  # grey levels are 0 to 16
    x = x.reshape(-1, *data["input_shape"])
    return (x * data["scale"] - torch.tensor(data["mean"])) / torch.tensor(data["std"])

def accuracy(model, x):
    with torch.no_grad():
        return (model.eval()(x).argmax(1) == labels).double().mean().item()

found = {}
for name, bn in json.loads(sys.argv[2]).items():
    file = Path(name)
    facts = json.loads(safe_open(file.with_suffix(".safetensors"), "pt").metadata()["mgraph"])
    state = load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=True)
    model = cnn(bn)
    model.load_state_dict(state)
    found[file.name] = accuracy(model, inputs(facts["data"]))

# The ensemble, as the manual shows it.
directory = Path(sys.argv[3])
manifest = json.loads((directory / "manifest.json").read_text())
x, votes = inputs(manifest["data"]), 0
for member in manifest["members"]:
    model = cnn(bn=True)
    model.load_state_dict(load_file(directory / member["file"]))
    with torch.no_grad():
        votes = votes + model.eval()(x).softmax(dim=1)
found["ensemble"] = (votes.argmax(dim=1) == labels).double().mean().item()

assert not any(m.startswith("mgraph") for m in sys.modules)
print(json.dumps(found))
"""


def without_batchnorm(directory: Path) -> Any:
    """A graph of two modes, a line and a merged point of the network without BatchNorm."""
    g = mgraph.create(directory / "p.mgraph", arch="cnn?channels=4,8&hidden=16,", data="digits", device="cpu")
    for seed, name in enumerate("ab"):
        g.train(seed=seed, epochs=4, name=name)
    g.connect("a", "b", method=mgraph.Linear(), name="curve", grid=3).merge(at=0.25, name="m", force=True)
    return g


@pytest.mark.parametrize("bn", [True, pytest.param(False, marks=pytest.mark.stress)])
def test_plain_torch_reproduces_the_reported_accuracies(
    graph: Any, tmp_path: Path, python: Callable[..., str], bn: bool
) -> None:
    g = graph if bn else without_batchnorm(tmp_path)
    sample = g.connection("curve").swept().node_ids[1]
    files: dict[str, bool] = {}
    reported: dict[str, float] = {}
    for what in ("a", "m", sample):
        for suffix in (".safetensors", ".pt"):
            file = g.node(what).export(tmp_path / f"{what}{suffix}").path
            files[str(file)] = bn
            reported[file.name] = g.node(what).evaluate("test")["accuracy"].value
    manifest = graph.connection("s").export_ensemble(tmp_path / "ensemble", grid=3)
    reported["ensemble"] = manifest["test"]["accuracy"]
    assert graph.connection("s").ensemble(grid=3).evaluate("test")["accuracy"].value == reported["ensemble"]
    digits = Path(mgraph.__file__).parent / "data" / "digits.npz"
    found = json.loads(python(_SCRIPT, digits, json.dumps(files), tmp_path / "ensemble", cwd=tmp_path))
    assert found == reported


def test_the_recipe_travels_in_the_file(graph: Any, tmp_path: Path) -> None:
    from safetensors import safe_open

    graph.node("m").export(tmp_path / "m.safetensors")
    with safe_open(tmp_path / "m.safetensors", "np") as file:
        facts = json.loads(file.metadata()["mgraph"])
    assert (facts["kind"], facts["name"], facts["selected_on"]) == ("merged", "m", "valid")
    assert (facts["arch"], facts["data"]["spec"]) == (graph.spaces()[0]["arch"], "digits")
    assert facts["digest"] == graph.node("m").digest
    assert facts["info"]["connection"] == graph.connection("s").id
    assert sum(t["c"] for t in facts["terms"]) == pytest.approx(1)
    assert facts["evaluations"]["test_accuracy"] == graph.node("m").evaluate("test")["accuracy"].value
    assert facts["versions"]["mgraph"] == mgraph.__version__
    manifest = graph.connection("curve").export_ensemble(tmp_path / "e", grid=3)
    with safe_open(tmp_path / "e" / manifest["members"][1]["file"], "np") as file:
        member = json.loads(file.metadata()["mgraph"])
    assert (member["parameter"], member["connection"]) == ([0.5], graph.connection("curve").id)
    assert {t["name"] for t in member["terms"]} > {"a", "b"}
    assert member["batchnorm"] == "recompute(examples=1077,batch=359,seed=0)"
    assert manifest["batchnorm"] == f"own, {member['batchnorm']}"  # the ends are the modes themselves


def test_an_exported_node_comes_back_as_it_was(graph: Any, tmp_path: Path) -> None:
    from mgraph.operations.modes import SimilarModeWarning

    for suffix in (".safetensors", ".pth"):
        file = graph.node("b").export(tmp_path / f"b{suffix}")
        with pytest.warns(SimilarModeWarning):
            back = graph.add_mode(file)
        assert back.digest == graph.node("b").digest
        assert back.evaluate("test") == graph.node("b").evaluate("test")


def test_raw_pixels_are_described(tmp_path: Path) -> None:
    import numpy as np
    from safetensors import safe_open

    random = np.random.default_rng(0)
    x, y = random.integers(0, 256, (20, 3, 4, 4), np.uint8), random.integers(0, 2, 20)
    np.savez(tmp_path / "d.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    data = f"npz:{tmp_path / 'd.npz'}?mean=0.5,0.4,0.3&std=0.1"
    g = mgraph.create(tmp_path / "g.mgraph", arch="mlp?hidden=3,", data=data, device="cpu")
    g.train(epochs=1, name="a").export(tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", "np") as file:
        facts = json.loads(file.metadata()["mgraph"])["data"]
    assert facts["dtype"] == "uint8"
    assert facts["scale"] == 1 / 255
    seen, _ = g.session.workspace(g.session.space()).task.test.examples(__import__("torch").arange(20))
    mean, std = (np.array(facts[k], np.float32).reshape(-1, 1, 1) for k in ("mean", "std"))
    assert np.allclose((x.astype(np.float32) * facts["scale"] - mean) / std, seen.numpy(), atol=1e-5)
