"""docs/store-format.md tells the truth: its Python blocks read a graph without our package."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from mgraph_store import Node
from tests.store.test_grids import surface

PAGE = Path(__file__).parents[2] / "docs" / "store-format.md"


def _run(graph: Any, number: int, **scope: Any) -> dict[str, Any]:
    block = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[number]
    assert "mgraph_store" not in block
    scope["graph"] = str(graph.store.path)
    exec(compile(block, str(PAGE), "exec"), scope)
    return scope


def _read(graph: Any, name: str) -> dict[str, Any]:
    state: dict[str, Any] = _run(graph, 0, name=name)["state"]
    return state


def test_nodes_of_every_kind_can_be_read_without_us(graph: Any) -> None:
    a, b = graph.add(graph.parameters(0), graph.parameters(1), names=("a", "b"))
    (alone,) = graph.add(graph.parameters(2), names=("alone",), codec="blosc")
    derived = graph.derive([0.3, 0.0, 0.7], [a, b, alone])
    with graph.store.transaction() as tx:
        tx.update(dataclasses.replace(derived, name="derived"))
    partial = graph.partial([(1, 3), (8, 17)], graph.parameters(3), [0.5, 0.5], [a, b], "partial")
    graph.partial([(0, 2)], graph.parameters(4), [0.25, 0.75], [partial, a], "nested")
    graph.partial([(2, 4)], graph.parameters(4), [0.0], [a], "zeros")
    for name in ("a", "b", "alone", "derived", "partial", "nested", "zeros"):
        ours, theirs = graph.store.tensors(name), _read(graph, name)
        assert set(theirs) == {"first.weight", "second.bias"}
        assert all(np.array_equal(ours[k], v) for k, v in theirs.items())


def test_points_of_a_grid_can_be_read_without_us(graph: Any) -> None:
    rows, _, _ = surface(graph, side=8)
    sample = [r for r in rows if isinstance(r, Node)][27]
    with graph.store.transaction() as tx:
        tx.update(dataclasses.replace(sample, name="sample"))
    ours, theirs = graph.store.tensors("sample"), _read(graph, "sample")
    assert all(np.array_equal(ours[k], v) for k, v in theirs.items())


def test_tensors_can_be_read_without_the_index(graph: Any, layout: Any) -> None:
    with graph.store.transaction() as tx:
        refs = tx.write_parameters([graph.parameters(0), graph.parameters(1)], layout=layout)
        refs += tx.write_parameters([graph.parameters(2)], layout=layout, codec="blosc")
        tx.write_buffers({"float32": np.ones(4, np.float32)}, layout=layout)
        nodes = [graph.node(ref) for ref in refs]
        tx.add(*nodes)
    graph.partial([(1, 3)], graph.parameters(3), [1.0], [nodes[0]])
    found = _run(graph, 1)["found"]
    for node in nodes:
        ours = graph.store.tensors(node)
        assert list(found[node.digest]) == ["first.weight", "second.bias"]
        assert all(np.array_equal(ours[name], value) for name, value in found[node.digest].items())
    assert sum("first.weight" in state for state in found.values()) == 3


def test_the_tensors_are_one_plain_zarr_group(graph: Any) -> None:
    graph.add(graph.parameters(0), graph.parameters(1))
    (alone,) = graph.add(graph.parameters(2))
    root = zarr.open_group(str(graph.store.path / "tensors.zarr"), mode="r")
    assert {key for key, _ in root.members()} == graph.store.tensor_store.keys()
    array = root[f"{alone.tensor_key}/float32"]
    assert isinstance(array, zarr.Array)
    assert array.metadata.to_dict()["zarr_format"] == 3
    assert np.isnan(array.fill_value)


def test_the_layout_on_the_page_is_the_layout_on_disk(graph: Any) -> None:
    graph.add(graph.parameters(0), graph.parameters(1))
    page = PAGE.read_text()
    assert all(f"{p.name}" in page for p in graph.store.path.iterdir())
