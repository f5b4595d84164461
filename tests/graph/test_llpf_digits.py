"""LLPF with its defaults on real modes: it arrives, and stays low where the straight line does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import mgraph
from mgraph.query.sweepdata import family_of

VIT = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.before, self.attention = nn.LayerNorm(width), nn.MultiheadAttention(width, 4, batch_first=True)
        self.after, self.mlp = nn.LayerNorm(width), nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width))

    def forward(self, x):
        h = self.before(x)
        x = x + self.attention(h, h, h, need_weights=False)[0]
        return x + self.mlp(self.after(x))

class ViT(nn.Module):
    def __init__(self, classes, width=32):
        super().__init__()
        self.head, self.norm = nn.Linear(width, classes), nn.LayerNorm(width)
        self.token, self.position = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(torch.zeros(1, 17, width))
        self.patches, self.blocks = nn.Conv2d(1, width, 2, 2), nn.Sequential(Block(width), Block(width))

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])

def vit(*, input_shape, classes):
    return ViT(classes)
"""


@pytest.mark.stress  # tests/methods compares walks with their definition in every run
def test_a_pair_of_digits_modes(tmp_path: Path) -> None:
    g = mgraph.create(tmp_path / "g.mgraph", arch="mlp?hidden=32,32", data="digits", device="cpu")
    for seed, name in enumerate("ab"):
        g.train(seed=seed, epochs=25, name=name)
    line = g.connect("a", "b", method=mgraph.Linear(), grid=11).swept().values["train", "loss"]
    path = g.connect("a", "b", method=mgraph.LLPF.preset("quick", keep_every=30), sweep=False)
    data = path.sweep(family_of(path.record).pieces_grid(2), splits=("train",))
    losses = data.values["train", "loss"]
    checks = path.describe()["checks"]
    assert line.max() > 0.3
    assert losses.max() < 0.1
    assert checks["most_left_of_a_layer"] <= 0.01
    assert checks["largest_rise_within_a_piece"] <= 0.01
    assert np.allclose(losses[[0, -1]], line[[0, -1]])


@pytest.mark.stress
def test_a_transformer_by_groups_that_were_found(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(VIT)
    g = mgraph.create(tmp_path / "g.mgraph", arch=f"{tmp_path}/nets.py:vit", data="digits", device="cpu")
    for seed, name in enumerate("ab"):
        g.train(seed=seed, epochs=60, name=name)
    line = g.connect("a", "b", method=mgraph.Linear(), grid=11).swept().values["train", "loss"]
    path = g.connect("a", "b", method=mgraph.LLPF(groups="fdf", max_groups=3, ticks=300), sweep=False)
    data = path.sweep(family_of(path.record).pieces_grid(1), splits=("train",))
    row = path.describe()
    print(row["reason"], row["checks"])
    assert line.max() > 1.0
    assert data.values["train", "loss"].max() < 0.1
    assert row["checks"]["left_before_the_last_piece"] < 0.02
    layers = [layer["layer"] for layer in row["layers"]]
    assert layers[:2] == ["network", "patches"]  # the class token and the position embedding, then the first layer
    assert layers.index("blocks.0.attention") + 1 == layers.index("blocks.0.attention.out_proj")
    assert layers[-1] == "head"
