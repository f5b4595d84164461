"""docs/store-format.md tells the truth: its Python block reads a graph without our package."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import zarr

PAGE = Path(__file__).parents[2] / "docs" / "store-format.md"


def _read(graph: Any, name: str) -> dict[str, Any]:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert "mgraph_store" not in block
    scope: dict[str, Any] = {"graph": str(graph.store.path), "name": name}
    exec(compile(block, str(PAGE), "exec"), scope)
    state: dict[str, Any] = scope["state"]
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
