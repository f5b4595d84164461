"""Aligning modes of a graph: the same function, nearer to another mode, and knowing where it is from."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

import mgraph
from mgraph.errors import InputError, MGraphWarning
from mgraph_store import Run


def distance(graph: Any, a: Any, b: Any) -> float:
    return float(graph.compare(a, b).pairs[0].similarity.whole.distance)


def test_an_aligned_mode_is_the_same_function_nearer_to_another(graph: Any, run: Any) -> None:
    aligned = graph.align("a", to="b", name="near")
    info = aligned.describe()["info"]
    a, b = graph.node("a"), graph.node("b")
    assert (info["origin"], info["of"], info["to"]) == ("align", a.id, b.id)
    assert info["distance_before"] == pytest.approx(distance(graph, a, b), rel=1e-5)
    assert info["distance_after"] == pytest.approx(distance(graph, aligned, b), rel=1e-5)
    assert info["distance_after"] < info["distance_before"]
    x = torch.randn(50, 1, 8, 8)
    assert torch.allclose(a.model()(x), aligned.model()(x), atol=1e-5)  # its statistics moved, too
    for split in ("train", "test"):
        assert aligned.evaluate(split)["loss"].value == pytest.approx(a.evaluate(split)["loss"].value, rel=1e-4)
    with graph.session.store.reading() as reader:
        (made,) = reader.all(Run, id=aligned.record.run_id)
    assert (made.command, made.status, made.plan) == ("align", "complete", None)  # short: given again, not resumed

    pair = graph.compare("a", aligned).pairs[0]
    assert pair.permuted
    assert not pair.identical
    assert pair.describe()["same_run"]
    assert pair.verdict.startswith("a and near are permuted copies of one mode")
    assert not graph.compare("a", "b").pairs[0].permuted

    back = graph.align(aligned, to="a")  # a permutation of one mode is found exactly
    assert distance(graph, back, "a") == 0
    assert graph.compare(back, "a").pairs[0].identical
    assert back.state_dict().keys() == a.state_dict().keys()
    assert all(torch.equal(back.state_dict()[k], v) for k, v in a.state_dict().items())

    assert [row["as"] for row in aligned.ancestry()["from"]] == ["a permutation of", "aligned to"]
    assert "a permutation of: a (mode)" in run("show", "near", "--ancestry").stdout


def test_connect_aligns_first(graph: Any, run: Any) -> None:
    done = run("connect", "c", "d", "--linear", "--align", "--name", "cd", "--grid", 3, "--splits", "train", "--json")
    assert done.row["ends"] == ["cd-aligned", "d"]
    straight = graph.connect("c", "d", method=mgraph.Linear(), grid=3, splits=("train",))
    losses = {
        name: g.swept().values["train", "loss"][1] for name, g in (("cd", graph.connection("cd")), ("", straight))
    }
    assert losses["cd"] < losses[""]


def test_the_command_says_how_near_it_came(run: Any) -> None:
    done = run("align", "b", "--to", "a", "--restarts", 0, "--name", "b-near", "--json")
    assert done.row["info"]["of"]
    assert "Its distance to a is " in done.stderr


def test_a_permuted_tensor_is_told_from_another_of_the_same_norm(graph: Any) -> None:
    state = {key: value.numpy().copy() for key, value in graph.node("a").state_dict().items()}
    name = next(key for key, value in state.items() if value.ndim == 4)
    flipped = {**state, name: state[name][::-1].copy()}
    with pytest.warns(MGraphWarning, match="not an independent run"):
        graph.add_mode({k: torch.from_numpy(np.asarray(v)) for k, v in flipped.items()}, name="turned")
    assert graph.compare("a", "turned").pairs[0].permuted
    flipped[name].reshape(-1)[:2] = flipped[name].reshape(-1)[:2] * [1 + 1e-6, 1 - 1e-6]
    with pytest.warns(MGraphWarning, match="not an independent run"):
        graph.add_mode({k: torch.from_numpy(np.asarray(v)) for k, v in flipped.items()}, name="changed")
    assert not graph.compare("a", "changed").pairs[0].permuted


FOURIER = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(64, 8), nn.Linear(8, 10)

    def forward(self, x):
        return self.two(torch.fft.fft(self.one(x.flatten(1))).abs())
"""


def test_what_cannot_be_aligned_is_said_in_one_sentence(graph: Any, run: Any, snapshot: Any) -> None:
    graph.add_space("mlp?hidden=4,", "digits", name="mlp")
    graph.train(seed=0, epochs=1, space="mlp", name="z")
    (graph.path.parent / "fourier.py").write_text(FOURIER)
    graph.add_space(f"{graph.path.parent / 'fourier.py'}:Net", "digits", name="fourier")
    for seed in (0, 1):
        graph.train(seed=seed, epochs=1, space="fourier", name=f"s{seed}")
    before = snapshot(graph.path)
    for arguments, message in (
        (("a", "--to", "a"), "a cannot be aligned to itself; name another mode"),
        (("a", "--to", "z"), "a .* and z .* are of different spaces: 0.weight .*; only nodes of one space"),
        (("s0", "--to", "s1"), "of space fourier cannot be aligned: the operation _fft_r2c is not one"),
        (("a", "--to", "b", "--name", "c"), "The name c belongs to mode"),
        (("a", "--to", "nowhere"), "nowhere"),
    ):
        refused = run("align", *arguments, code=2).stderr
        assert refused.startswith("Error: ")
        assert refused.count("\n") == 1
        assert re.search(message, refused), refused
    refused = run("connect", "a", "z", "--linear", "--align", code=2).stderr
    assert "only nodes of one space can be aligned" in refused
    with pytest.raises(InputError, match="give align or init"):
        graph.connect("a", "b", method=mgraph.BezierCurve(), align=True, init="curve")
    assert snapshot(graph.path) == before
