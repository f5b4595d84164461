"""Bundles through the front door: a connection packed in one graph works in another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import mgraph
from mgraph.errors import InputError, NameTakenError


def test_a_surface_goes_to_another_graph_and_works_there(graph: Any, tmp_path: Path) -> None:
    row = graph.pack("curve", graph.node("m"), path=tmp_path / "x.mgraph.zip")
    assert row["connections"] >= 1
    assert row["nbytes"] == (tmp_path / "x.mgraph.zip").stat().st_size
    there = mgraph.unpack(tmp_path / "x.mgraph.zip", tmp_path / "there.mgraph", device="cpu")
    assert there.connection("curve").table() == graph.connection("curve").table()
    assert there.node("m").evaluate("test") == graph.node("m").evaluate("test")
    assert there.node("m").describe()["evaluations"] == graph.node("m").describe()["evaluations"]
    assert there.connection("curve").sweep(grid=2).values
    arrived = graph.unpack(tmp_path / "x.mgraph.zip")
    assert not arrived.new
    assert arrived.present
    with pytest.raises(NameTakenError):
        mgraph.unpack(tmp_path / "x.mgraph.zip", tmp_path / "there.mgraph")


def test_a_bundle_that_is_refused_makes_no_graph(graph: Any, tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_text("no zip")
    with pytest.raises(InputError, match="is not a bundle"):
        mgraph.unpack(tmp_path / "x.zip", tmp_path / "there.mgraph")
    assert not (tmp_path / "there.mgraph").exists()
    with pytest.raises(InputError, match=r"must end in \.zip"):
        graph.pack("m", path=tmp_path / "x")
