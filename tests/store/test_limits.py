"""Rows that ask for much, refused when they are written, unpacked and read."""

from __future__ import annotations

import io
import json
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from mgraph_store import Connection, Layout, Node, NodeTerm, Note, Run, Sweep, TensorSpec, columns, new_id
from mgraph_store.errors import CorruptError, InputError
from mgraph_store.index import journalrecord
from mgraph_store.rows import limits
from mgraph_store.rows.limits import fault
from mgraph_store.rows.schema import TABLES
from mgraph_store.rows.schema import columns as columns_of

SWEEP = Sweep(new_id("w"), "k", None, grid=(11,), batchnorm="none", precision="fp32")
CONNECTION = Connection(new_id("k"), "linear", "a", '{"family": "segment"}', "{}")
RUN = Run(new_id("r"), "train", "{}")
NODE = Node(new_id("m"), "mode", "a")
NOTE = Note(new_id("n"), "key", "value")


@pytest.mark.parametrize(
    ("record", "changes", "what"),
    [
        (SWEEP, {"grid": (10**9,)}, "its grid has 1000000000 points, of at most 4000000"),
        (SWEEP, {"grid": (10**5, 10**5)}, "its grid has 10000000000 points"),
        (SWEEP, {"grid": ()}, "its grid is"),
        (SWEEP, {"grid": (0,)}, "its grid is"),
        (SWEEP, {"axes": '[[0.0, "x"]]'}, "its axes do not have as many points"),
        (SWEEP, {"axes": "[[0.0, true]]", "grid": (2,)}, "its axes contain something other"),
        (SWEEP, {"axes": "[[0.0, NaN]]", "grid": (2,)}, "its axes contain something other"),
        (SWEEP, {"axes": "{}"}, "its axes is not a JSON list"),
        (CONNECTION, {"family": "segment"}, "its family is not JSON"),
        (CONNECTION, {"settings": "[]"}, "its settings is not a JSON object"),
        (CONNECTION, {"settings": '{"a":' * 70 + "1" + "}" * 70}, "its settings is 70 lists and objects deep"),
        (CONNECTION, {"settings": "[" * 10**6}, "lists and objects deep"),
        (CONNECTION, {"reason": "x" * (1 << 21)}, "its reason has 2097152 characters"),
        (RUN, {"versions": "3"}, "its versions is not a JSON object"),
        (RUN, {"resumptions": '[{"when": 3}]'}, "its resumptions is not a list of moments"),
        (NODE, {"info": "[1]"}, "its info is not a JSON object"),
        (NOTE, {"value": "x" * (1 << 21)}, "its value has 2097152 characters"),
    ],
)
def test_what_asks_for_too_much_is_named(record: Any, changes: dict[str, Any], what: str) -> None:
    assert fault(record) is None
    found = fault(replace(record, **changes))
    assert found is not None
    assert what in found


def test_what_is_in_use_is_far_below(graph: Any) -> None:
    assert fault(replace(SWEEP, grid=(1000, 1000))) is None
    deep = json.dumps({"text": '[{"' * 100, "list": [[1]] * 1000})
    assert fault(replace(NODE, info=deep)) is None


def test_every_json_column_has_a_form() -> None:
    named = {c.name for record in TABLES.values() for c in columns_of(record) if c.meaning.startswith("JSON")}
    assert named <= limits._JSON.keys()


@pytest.mark.parametrize("column", ["info", "settings"])
def test_refused_when_written_and_when_read(graph: Any, column: str) -> None:
    with pytest.raises(InputError, match="cannot be stored: its info"), graph.store.transaction() as tx:
        tx.add(replace(NODE, kernel=1, info="[]"))
    (node,) = graph.add(graph.parameters(), names=("a",))
    graph.counts()  # now the index has it
    with duckdb.connect(str(graph.store.index.path)) as con:
        con.execute("UPDATE nodes SET info = '[1]'")
    with pytest.raises(CorruptError, match=f"Row {node.id} of nodes cannot be read: its info is not a JSON object"):
        graph.store.read_parameters("a")
    with duckdb.connect(str(graph.store.index.path)) as con:
        con.execute("UPDATE nodes SET info = '{}'")


@pytest.mark.parametrize(
    "tensors",
    [
        [TensorSpec("w", (10**6, 10**6), "float32", "parameter")],
        [TensorSpec(f"w{i}", (1 << 30,), "float32", "parameter") for i in range(300)],
        [TensorSpec(f"w{i}", (1,), "float32", "parameter") for i in range(1001)],
    ],
)
def test_layouts(tensors: list[TensorSpec], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mgraph_store.rows.layout.LAYOUT_TENSORS", 1000)
    text = Layout(tuple(tensors)).to_json()
    with pytest.raises(CorruptError, match=r"elements, of at most|tensors, of at most"):
        Layout.from_json(text)


def test_a_chain_of_sums(graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mgraph_store.recipes.RECIPE_DEPTH", 5)
    row = graph.parameters()
    (node,) = graph.add(row, names=("a",))
    for _ in range(4):
        node = graph.partial([(0, 3)], row, [1.0], [node])
    assert graph.store.read_parameters(node).tobytes() == row.tobytes()
    node = graph.partial([(0, 3)], row, [1.0], [node])
    with pytest.raises(CorruptError, match="more than 5 sums deep"):
        graph.store.read_parameters(node)


def test_a_record_of_the_journal_that_unpacks_to_much(graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journalrecord, "UNPACKED_BYTES", 1000)
    document = {"add": {}, "x": " " * 10**6}
    packed = journalrecord.record(1, journalrecord.packed(document))
    assert len(zlib.compress(json.dumps(document).encode(), 1)) * limits.UNPACKED_RATIO < 10**6
    assert journalrecord.read_record(io.BytesIO(packed), len(packed), True)[0] is None
    small = journalrecord.record(1, journalrecord.packed({"x": "ab"}))
    entry, length = journalrecord.read_record(io.BytesIO(small), len(small), True)
    assert entry is not None
    assert length > 0


def test_terms_that_are_not_finite_come_in_no_bundle(graph: Any, tmp_path: Path) -> None:
    from mgraph_store.exchange.bundle import _check_record

    for coefficient in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="has the coefficient"):
            _check_record(NodeTerm(NODE.id, 0, NODE.id, coefficient))
    _check_record(NodeTerm(NODE.id, 0, NODE.id, 0.5))
    assert columns.count([(0, 3)]) == 3
    assert np.isfinite(0.5)
