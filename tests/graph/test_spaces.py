"""Nodes of different spaces, and tensors that are not coordinates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mgraph
from mgraph.errors import InputError, LayoutMismatchError, MGraphWarning, NotFoundError

FROZEN = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.features = nn.Linear(64, 12)
        self.features.weight.requires_grad_(False)
        self.out = nn.Linear(12, classes)
        self.register_buffer("temperature", torch.rand(1) + 0.5)

    def forward(self, x):
        return self.out(self.features(x.flatten(1)).relu()) / self.temperature

def net(classes):
    return Net(classes)
"""


@pytest.fixture
def other_task(graph: Any, tmp_path: Path) -> Any:
    """Add a space of the same network on other data, with a mode z."""
    random = np.random.default_rng(0)
    x, y = random.random((60, 1, 8, 8), np.float32), np.arange(60) % 10
    np.savez(tmp_path / "other.npz", x_train=x, y_train=y, x_valid=x, y_valid=y, x_test=x, y_test=y)
    graph.add_space(graph.spaces()[0]["arch"], f"npz:{tmp_path / 'other.npz'}", name="noise")
    graph.train(epochs=1, seed=5, name="z", space="noise")
    return graph


def test_the_same_network_on_other_data_needs_a_word(other_task: Any, run: Any) -> None:
    before = other_task.connections(), other_task.runs()
    with pytest.raises(
        InputError, match=r"a and z have the same tensors but different tasks: .*digits.*npz.*--same-layout"
    ):
        other_task.connect("a", "z", method=mgraph.Linear())
    refused = run("connect", "a", "z", "--linear", code=2)
    assert "--same-layout" in refused.stderr
    assert (other_task.connections(), other_task.runs()) == before
    row = run("connect", "a", "z", "--linear", "--same-layout", "--name", "az", "--grid", 3, "--json").row
    assert row["space"] == "cnn-digits"
    data = other_task.connection("az").swept()
    assert data.counts["test", "loss"] == 360  # on the first end's task
    row = run("connect", "z", "a", "--curve", "--epochs", 1, "--same-layout", "--name", "za", "--grid", 3, "--json").row
    assert row["space"] == "noise"
    assert other_task.connection("za").swept().counts["test", "loss"] == 60
    assert other_task.connection("za").merge(name="mix").node.space_id == other_task.node("z").record.space_id


def test_components_of_a_space_include_what_is_connected_to_it(other_task: Any) -> None:
    other_task.connect("a", "z", method=mgraph.Linear(), same_layout=True, grid=3)

    def sizes(space: str | None) -> list[int]:
        return [len(g) for g in other_task.components(max_barrier=1e9, space=space).groups]

    assert sizes(None) == [5]
    assert sizes("cnn-digits") == [5]
    with pytest.raises(InputError, match="no edge"):
        sizes("noise")
    nx_graph = other_task.to_networkx(space="cnn-digits")
    assert all("kind" in attributes for _, attributes in nx_graph.nodes(data=True))
    assert len(other_task.to_networkx(space="noise")) == 1


def test_other_networks_never_connect(graph: Any) -> None:
    graph.add_space("mlp?hidden=16,", "digits", name="mlp")
    graph.train(epochs=1, name="z", space="mlp")
    for flag in (False, True):
        with pytest.raises(LayoutMismatchError, match=r"different networks: 0\.weight \[4, 1, 3, 3\].*1\.weight"):
            graph.connect("a", "z", method=mgraph.Linear(), same_layout=flag)


def test_the_same_space_is_made_once(graph: Any) -> None:
    first = graph.spaces()[0]
    # The same parameters in another order are the same spec.
    again = graph.add_space("cnn?hidden=16,&channels=4,8&bn=true", "digits", name="other")
    assert (again.id, again.name) == (first["id"], first["name"])
    assert graph.add_space("mlp?hidden=3", "digits").name == "mlp-digits"
    assert graph.add_space("mlp?hidden=4", "digits").name == "mlp-digits-2"
    assert len(graph.spaces()) == 3
    with pytest.raises(NotFoundError):
        graph.train(space="nowhere")


def test_a_long_spec_still_makes_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "a_rather_long_name_for_a_factory_of_networks_that_nobody_would_ever_like_to_type"
    (tmp_path / "own.py").write_text(FROZEN.replace("def net(", f"def {name}("))
    monkeypatch.chdir(tmp_path)
    g = mgraph.create("g.mgraph", arch=f"own.py:{name}", data="digits")
    assert g.spaces()[0]["name"].startswith("a_rather_long")


@pytest.fixture
def frozen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A graph whose modes a and b differ in a frozen parameter and in a buffer."""
    (tmp_path / "own.py").write_text(FROZEN)
    monkeypatch.chdir(tmp_path)
    g = mgraph.create("g.mgraph", arch="own.py:net", data="digits", device="cpu")
    for seed, name in enumerate("ab"):
        g.train(seed=seed, epochs=2, name=name)
    return g


def test_frozen_tensors_that_differ_are_pointed_out(frozen: Any) -> None:
    with pytest.raises(
        InputError, match=r"frozen features\.weight differs between a and b.*what they compute"
    ) as refused:
        frozen.connect("a", "b", method=mgraph.Linear())
    assert "--buffers-from" not in str(refused.value)  # b would be another function with those of a
    assert frozen.connections() == []


def test_the_end_whose_buffers_to_use_is_remembered(frozen: Any, tmp_path: Path) -> None:
    state = {name: frozen.node(name).state_dict() for name in "ab"}
    with pytest.warns(MGraphWarning, match=r"With the buffers of b.*a is another function"):
        line = frozen.connect("a", "b", method=mgraph.Linear(), buffers_from="b", sweep=False, name="line")
    with pytest.warns(MGraphWarning, match=r"of a is \S+ on its own and \S+ in this sweep"):
        line.sweep(3)
    swept = frozen.connection("line").swept()
    # The end b is itself there; the end a has b's frozen features.
    assert swept.values["test", "loss"][2] == frozen.node("b").evaluate("test")["loss"].value
    assert swept.values["test", "loss"][0] != frozen.node("a").evaluate("test")["loss"].value
    again = mgraph.open("g.mgraph", device="cpu")  # nothing of it lives in the session
    with pytest.warns(MGraphWarning, match="on its own"):
        anew = again.connection("line").sweep(3)
    assert np.array_equal(anew.values["test", "loss"], swept.values["test", "loss"])
    middle = again.connection("line").merge(at=0.5, force=True)
    assert middle.results["test"]["loss"].value == swept.values["test", "loss"][1]
    for found in (again.node(middle.node.id).state_dict(), again.node(swept.node_ids[1]).state_dict()):
        assert torch.equal(found["features.weight"], state["b"]["features.weight"])
        assert torch.equal(found["temperature"], state["b"]["temperature"])
    manifest = again.connection("line").export_ensemble(tmp_path / "e", grid=2)
    assert manifest["test"] == {k: m.value for k, m in line.ensemble(grid=2).evaluate("test").items()}
    with pytest.raises(InputError, match="those of an end"):
        frozen.connect("a", "b", method=mgraph.Linear(), buffers_from=middle.node.id)
