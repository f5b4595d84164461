"""Data of the user's own from init to the next command: what is said, once, and what is refused for its reason."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

import mgraph
from mgraph.data import repeatable
from mgraph.data.loading import load_task
from mgraph.data.task import DataWarning
from mgraph.errors import InputError

CODE = """
import numpy as np, torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset
class Points(Dataset):
    def __init__(self, flip=False):
        self.x = torch.from_numpy(np.random.default_rng(0).normal(0, 1, (60, 4)).astype(np.float32)); self.flip = flip
    def __len__(self): return len(self.x)
    def __getitem__(self, i):
        x = self.x[i]
        return (x.flip(-1) if self.flip and torch.rand(()) < 0.5 else x), int(x[0] > 0)
def net(classes=2): return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, classes))
def streamed(): return {name: Points() for name in ("train", "valid", "test")}
def augmented(): return streamed() | {"train": Points(flip=True)}
def unseeded():
    x = np.random.default_rng().normal(0, 1, (60, 4)).astype(np.float32)
    return {name: (x, (x[:, 0] > 0).astype(np.int64)) for name in ("train", "valid", "test")}
def globally_unseeded():
    x = np.random.normal(0, 1, (60, 4)).astype(np.float32)
    return {name: (x, (x[:, 0] > 0).astype(np.int64)) for name in ("train", "valid", "test")}
class Dicts(Points):
    def __getitem__(self, i): return {"image": self.x[i], "category": 0}
def dicts(): return {name: Dicts() for name in ("train", "valid", "test")}
def void():
    x = np.random.default_rng(0).normal(0, 1, (60, 4)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)
    y[::3] = -100
    return {"train": (x, y), "valid": (x, y), "test": (x, y), "ignore_index": -100}
"""


@pytest.fixture
def run(tmp_path, commands):
    (tmp_path / "n.py").write_text(CODE)
    (tmp_path / "seeded.py").write_text(CODE.replace("def globally_unseeded", "np.random.seed(0)\ndef data"))
    return commands(tmp_path)


def test_streamed_data_are_the_same_in_the_next_command(run):
    run("init", "g.mgraph", "--arch", "n.py:net", "--data", "n.py:streamed")
    assert run("train", "--epochs", 1, "--name", "a").code == 0
    assert run("add-space", "--arch", "n.py:net", "--data", "n.py:streamed", "--json").row["modes"] == 1


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("augmented", "The train split is random: .*augmentation is a training setting"),
        ("unseeded", "n.py:unseeded makes other data when it is called a second time, .*default_rng"),
        ("globally_unseeded", "makes other data when it is called a second time"),
        ("dicts", "Item 0 of the train split is a dict with 'image', 'category', .*wrap the Dataset"),
    ],
)
def test_what_cannot_be_taken_is_refused_at_init(run, tmp_path, data, says):
    told = run("init", "g.mgraph", "--arch", "n.py:net", "--data", f"n.py:{data}", code=2).stderr
    with pytest.raises(InputError, match=says):
        raise InputError(told)
    assert not (tmp_path / "g.mgraph").exists()


def test_a_module_that_seeds_the_global_generators_is_repeatable(tmp_path, run):
    """In every process, that is: it does so when it is imported."""
    task = load_task("seeded.py:data", base=tmp_path, first=True)
    left = np.random.get_state()[1].copy()
    np.random.seed(0)
    x = np.random.normal(0, 1, (60, 4)).astype(np.float32)
    assert torch.equal(task.train.inputs, torch.from_numpy(x))
    assert (np.random.get_state()[1] == left).all()  # as if it had been called once


def test_large_data_that_are_drawn_anew_are_told_from_data_that_changed(run, tmp_path, monkeypatch):
    monkeypatch.setattr(repeatable, "_LARGEST", 100)
    run("init", "g.mgraph", "--arch", "n.py:net", "--data", "n.py:unseeded")
    assert "called a second time: random numbers in it must be" in run("train", "--epochs", 1, code=2).stderr
    run("init", "h.mgraph", "--arch", "n.py:net", "--data", "n.py:streamed")
    (tmp_path / "n.py").write_text(CODE.replace("self.x = torch", "self.x = 2 * torch"))
    told = run("train", "--epochs", 1, "--graph", "h.mgraph", "--trust", code=2).stderr
    assert "(their content or normalisation changed); restore them or add a new space." in told


@pytest.mark.stress  # blobs of test_forms_of_batches have void labels
def test_void_labels_from_training_to_the_ensemble(run, tmp_path):
    run("init", "g.mgraph", "--arch", "n.py:net", "--data", "n.py:void")
    g = mgraph.open(tmp_path / "g.mgraph", device="cpu")
    for seed, name in enumerate("ab"):
        g.train(seed=seed, epochs=2, name=name, label_smoothing=0.1)
    found = g.node("a").evaluate("test")
    assert {m.count for m in found.values()} == {40}
    line = g.connect("a", "b", method=mgraph.Linear(), name="line", grid=3)
    line.sweep(3, metrics=["top1", "nll", "ece"])
    assert line.merge(name="m").results["test"]["accuracy"].count == 40
    assert line.ensemble(grid=3).whole["test"]["accuracy"].count == 40


def test_how_images_were_read_is_said_once(run, tmp_path):
    for split in ("train", "test"):
        for c in ("a", "b"):
            (tmp_path / "img" / split / c).mkdir(parents=True)
            for i in range(4):
                Image.fromarray(np.full((4, 4), 60 * i, np.uint8)).save(tmp_path / "img" / split / c / f"{i}.png")
        (tmp_path / "img" / split / ".ipynb_checkpoints").mkdir()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DataWarning)
        mgraph.create(tmp_path / "g.mgraph", arch="mlp?hidden=4,", data=f"imagefolder:{tmp_path}/img?size=4")
    assert [w.filename for w in caught] == [__file__] * 2
    for w, split in zip(caught, ("train", "test"), strict=True):
        assert f"not read in {tmp_path}/img/{split}: .ipynb_checkpoints." in str(w.message)
    assert run("train", "--epochs", 1, "--graph", "g.mgraph").stderr == ""
