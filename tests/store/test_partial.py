"""Partial nodes: some coordinates stored, the others a sum; and whatever refers to them."""

from __future__ import annotations

import dataclasses
import os
import tracemalloc
from typing import Any

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgraph_store import GraphStore, Layout, NodeTerm, TensorSpec, combine, garbage, new_id, problems
from mgraph_store.errors import CorruptError, FormatError, InputError
from mgraph_store.rows import columns

MANY = int(os.environ.get("MGRAPH_EXAMPLES", "1"))  # so many times more of them: make stress


def reference(ranges: Any, row: Any, coefficients: list[float], rows: list[Any]) -> Any:
    out = combine(coefficients, rows)
    for start, stop in ranges:
        out[start:stop] = row[start:stop]
    return out


def of_size(graph: Any, size: int, space_factory: Any) -> None:
    """Let the helper work in a new space with ``size`` coordinates."""
    graph.space = space_factory(f"of-{new_id('a')}", Layout((TensorSpec("weight", (size,), "float32", "parameter"),)))
    with graph.store.transaction() as tx:
        tx.add(graph.space)


coefficient = st.one_of(st.floats(-3, 3), st.sampled_from([0.0, 1.0, -0.0, 1e-60]))


@st.composite
def cases(draw: st.DrawFn) -> Any:
    size = draw(st.integers(1, 90))
    edges = draw(st.lists(st.integers(0, size), min_size=2, max_size=9, unique=True).map(sorted))
    pairs = [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=False)]
    return size, columns.merge(pairs), draw(st.integers(7, 100)), draw(st.integers(0, 2**32 - 1))


def test_any_partial_node_and_what_refers_to_it_agree_with_numpy_bit_for_bit(
    graph: Any, space_factory: Any, small_chunks: Any
) -> None:
    @settings(max_examples=5 * MANY, deadline=None)
    @given(cases(), st.data())
    def check(case: Any, data: st.DataObject) -> None:
        size, ranges, chunk, seed = case
        of_size(graph, size, space_factory)
        rng = np.random.default_rng(seed)
        rows = [rng.standard_normal(size).astype(np.float32) for _ in range(2)]

        def coefficients() -> list[float]:
            return data.draw(st.lists(coefficient, min_size=len(rows), max_size=len(rows)))

        small_chunks(4 * chunk)
        nodes = graph.add(*rows)
        for _ in range(2):  # the second refers to the first
            row, c = rng.standard_normal(size).astype(np.float32), coefficients()
            nodes.append(graph.partial(ranges, row, c, nodes))
            rows.append(reference(ranges, row, c, rows))
            assert graph.store.read_parameters(nodes[-1]).tobytes() == rows[-1].tobytes()
        c = coefficients()
        derived = graph.derive(c, nodes)
        pair = [nodes[-1], derived]
        blocks = list(graph.store.parameter_blocks(pair))
        assert [start for start, _ in blocks] == list(range(0, size, len(blocks[0][1][0])))
        for i, node in enumerate(pair):
            parts = np.concatenate([block[i] for _, block in blocks])
            assert parts.tobytes() == graph.store.read_parameters(node).tobytes()
        materialised = [graph.store.read_parameters(n) for n in nodes]
        assert graph.store.read_parameters(derived).tobytes() == combine(c, materialised).tobytes()

    check()


def test_only_the_columns_are_stored(graph: Any) -> None:
    a, b = graph.add(graph.parameters(0), graph.parameters(1))
    row = graph.parameters(2)
    node = graph.partial([(2, 4), (12, 17)], row, [0.5, 0.5], [a, b], "p")
    assert node.nbytes == 28
    assert graph.store.tensor_store.read(node.tensor_key).tolist() == [*row[2:4], *row[12:]]
    expected = reference([(2, 4), (12, 17)], row, [0.5, 0.5], [graph.parameters(0), graph.parameters(1)])
    assert graph.store.read_parameters("p").tobytes() == expected.tobytes()
    assert graph.store.tensors("p")["second.bias"].tolist() == row[12:].tolist()
    assert garbage(graph.store) == []


def test_partial_nodes_share_a_segment_and_a_transaction(graph: Any) -> None:
    """As a trained connection stores its control points: all at once, also where one refers to another."""
    corners = graph.add(graph.parameters(0), graph.parameters(1))
    ranges = [(3, 8)]
    rows = [graph.parameters(i) for i in (2, 3)]
    with graph.store.transaction() as tx:
        refs = tx.write_parameters([columns.take(r, ranges) for r in rows])
        nodes = [graph.node(r, kernel=1, columns="[[3,8]]") for r in refs]
        tx.add(*nodes, NodeTerm(nodes[0].id, 0, corners[0].id, 1.0), NodeTerm(nodes[0].id, 1, corners[1].id, -2.0))
        tx.add(NodeTerm(nodes[1].id, 0, nodes[0].id, 0.5))
    assert [r.row for r in refs] == [0, 1]
    first = reference(ranges, rows[0], [1.0, -2.0], [graph.parameters(0), graph.parameters(1)])
    assert graph.store.read_parameters(nodes[0]).tobytes() == first.tobytes()
    assert graph.store.read_parameters(nodes[1]).tobytes() == reference(ranges, rows[1], [0.5], [first]).tobytes()


def test_long_chains_of_partial_nodes_are_no_problem(graph: Any) -> None:
    """Each refers twice to the one before: 2 to the power of 60 sums if they were computed one by one."""
    (node,) = graph.add(graph.parameters())
    value = graph.parameters()
    nodes, terms = [], []
    with graph.store.transaction() as tx:
        (ref,) = tx.write_parameters([value[:2]])
        for _ in range(60):
            nodes.append(graph.node(ref, kernel=1, columns="[[0,2]]"))
            terms += [NodeTerm(nodes[-1].id, k, node.id, 0.5) for k in range(2)]
            node = nodes[-1]
        tx.add(*nodes, *terms)
    assert graph.store.read_parameters(node).tobytes() == value.tobytes()


def test_reading_takes_few_chunks_of_memory_and_few_looks_at_the_index(
    graph: Any, space_factory: Any, small_chunks: Any, looks: list[None]
) -> None:
    small_chunks(16_000)
    size = 400_000  # 1.6 MB, 100 chunks
    of_size(graph, size, space_factory)
    nodes = [graph.add(np.full(size, k, np.float32))[0] for k in range(4)]
    ranges = [(0, size // 4), (size // 2, 3 * size // 4)]
    nodes += [graph.partial(ranges, np.full(size, -k, np.float32), [0.25] * 4, nodes[:4]) for k in (1, 2, 3)]
    derived = graph.derive([1.0] * 7, nodes)
    graph.store.read_parameters(derived)
    store = GraphStore(graph.store.path)  # which remembers nothing
    looks.clear()
    tracemalloc.start()
    try:
        found = store.read_parameters(derived)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found[[0, size // 4, size // 2, size - 1]].tolist() == [0, 10.5, 0, 10.5]
    assert store.read_parameters(derived).tobytes() == found.tobytes()
    assert len(looks) == 1
    assert peak < 2 * found.nbytes  # the result, and less than one whole source


# --- what is refused ---------------------------------------------------------------------------------------


def test_a_node_is_exactly_one_of_three_kinds(graph: Any) -> None:
    (a,) = graph.add(graph.parameters())
    for key in (a.tensor_key, None):
        for kernel in (1, None):
            for text in ("[[0,17]]", None):
                node = dataclasses.replace(a, id=new_id("m"), tensor_key=key, kernel=kernel, columns=text)
                if (key is not None, kernel is not None, text is not None) in (
                    (True, False, False),
                    (False, True, False),
                    (True, True, True),
                ):
                    continue
                with (
                    pytest.raises(InputError, match=r"stored .* derived .* or partial"),
                    graph.store.transaction() as tx,
                ):
                    tx.add(node)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"columns": "["}, "not a JSON list of columns"),
        ({"columns": "[]"}, "no columns"),
        ({"columns": "[[5,5]]"}, "not a range of columns"),
        ({"columns": "[[0,2],[2,3]]"}, "join those that touch"),
        ({"columns": "[[0,4]]"}, "4 numbers of 4 bytes, but nbytes is 12"),
        ({"nbytes": 68}, "3 numbers of 4 bytes, but nbytes is 68"),
        ({"columns": "[[15,18]]"}, "go up to 18, but its space has only 17"),
    ],
)
def test_columns_must_be_right(graph: Any, change: dict[str, Any], what: str) -> None:
    (a,) = graph.add(graph.parameters())
    files, counts = graph.files(), graph.counts()
    with pytest.raises(InputError, match=what), graph.store.transaction() as tx:  # noqa: PT012
        (ref,) = tx.write_parameters([np.ones(3, np.float32)])
        node = dataclasses.replace(graph.node(ref, kernel=1, columns="[[0,1],[4,6]]"), **change)
        tx.add(node, NodeTerm(node.id, 0, a.id, 1.0))
    assert (graph.files(), graph.counts()) == (files, counts)
    good = graph.partial([(0, 1), (4, 6)], graph.parameters(), [1.0], [a])
    with pytest.raises(InputError, match=what), graph.store.transaction() as tx:
        tx.update(dataclasses.replace(good, **change))


def test_a_partial_node_needs_terms_with_tensors(graph: Any) -> None:
    (a,) = graph.add(graph.parameters())
    with pytest.raises(InputError, match=r"Partial node c?m\w* has no terms"):
        graph.partial([(0, 1)], graph.parameters(), [], [])
    with pytest.raises(InputError, match="is derived: a sum may only refer to stored and partial nodes"):
        graph.partial([(0, 1)], graph.parameters(), [1.0], [graph.derive([1.0], [a])])
    with pytest.raises(InputError, match="has no terms"), graph.store.transaction() as tx:
        tx.update(dataclasses.replace(a, nbytes=4, kernel=1, columns="[[0,1]]"))


def test_circles_are_refused(graph: Any) -> None:
    (a,) = graph.add(graph.parameters())
    b = graph.partial([(0, 1)], graph.parameters(), [1.0], [a])
    c = graph.partial([(0, 1)], graph.parameters(), [1.0], [b])
    for node, source in ((b, b), (b, c)):
        with pytest.raises(InputError, match="in a circle") as caught, graph.store.transaction() as tx:
            tx.add(NodeTerm(node.id, 1, source.id, 0.5))
        assert node.id in str(caught.value)
    new = [dataclasses.replace(b, id=new_id("m")) for _ in range(2)]
    with pytest.raises(InputError, match="in a circle"), graph.store.transaction() as tx:
        tx.add(*new, NodeTerm(new[0].id, 0, new[1].id, 1.0), NodeTerm(new[1].id, 0, new[0].id, 1.0))
    with graph.store.transaction() as tx:  # a stored node's terms say where it came from: no circle
        tx.add(NodeTerm(a.id, 0, b.id, 1.0))
    assert graph.store.read_parameters(c).tobytes() == graph.parameters().tobytes()


def test_another_kernel_is_refused_anywhere_in_a_recipe(graph: Any) -> None:
    (a,) = graph.add(graph.parameters())
    b = graph.partial([(0, 1)], graph.parameters(), [1.0], [a])
    derived = graph.derive([1.0], [b])
    with graph.store.transaction() as tx:
        tx.update(dataclasses.replace(b, kernel=2))
    for node in (b.id, derived):
        with pytest.raises(FormatError, match=f"{b.id} needs version 2 of the summation kernel"):
            graph.store.read_parameters(node)


# --- damage ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "problem", "error"),
    [
        ("UPDATE nodes SET columns = '[[0' WHERE id = $b", "not a JSON list of columns", "cannot be read"),
        (
            "UPDATE nodes SET columns = '[[3,5]]' WHERE id = $b",
            "2 numbers of 4 bytes, but nbytes is 12",
            "do not match",
        ),
        pytest.param(
            "UPDATE nodes SET columns = '[[15,18]]' WHERE id = $b",
            "up to 18, but its space has only 17",
            "do not match",
            marks=pytest.mark.stress,
        ),
        ("UPDATE nodes SET kernel = NULL WHERE id = $b", "exactly one of stored, derived and partial", "version None"),
        ("UPDATE nodes SET tensor_key = NULL WHERE id = $b", "is not exactly one", "has no tensors"),
        ("DELETE FROM term_rows WHERE node_id = $b", "Partial node $b has no recipe", "is incomplete"),
        ("DELETE FROM nodes WHERE id = $a", "source_id $a is not in nodes", "is incomplete"),
        ("UPDATE term_rows SET source_id = $b WHERE node_id = $b", "$b, $b refer to each other", "is circular"),
        ("UPDATE nodes SET digest = 'x' WHERE id = $b", "the digest of its parameters is not x", None),
        ("UPDATE nodes SET tensor_key = 'tmissingmissing22' WHERE id = $b", "is missing", "is missing"),
        ("UPDATE nodes SET columns = NULL WHERE id = $b", "is not exactly one", "differ in size"),
    ],
)
def test_damage_is_found_and_never_a_traceback(damaged: Any, sql: str, problem: str, error: str | None) -> None:
    (a,) = damaged.add(damaged.parameters())
    (other,) = damaged.add(damaged.parameters(1))
    b = damaged.partial([(2, 5)], damaged.parameters(2), [0.5], [a])
    derived = damaged.derive([1.0, 0.5], [b, other])
    assert problems(damaged.store, deep=True) == []

    def named(text: str) -> str:
        return text.replace("$a", a.id).replace("$b", b.id)

    with duckdb.connect(str(damaged.store.path / "index.duckdb")) as con:
        con.execute(sql, {k: v for k, v in {"a": a.id, "b": b.id}.items() if f"${k}" in sql})
    assert any(named(problem) in found for found in problems(damaged.store, deep=True))
    if error is None:
        assert damaged.store.read_parameters(derived).shape == (17,)
        return
    with pytest.raises((CorruptError, FormatError), match=error):
        damaged.store.read_parameters(derived)


def test_nodes_of_different_sizes_cannot_be_read_side_by_side(graph: Any, space_factory: Any) -> None:
    (a,) = graph.add(graph.parameters(0))
    of_size(graph, 3, space_factory)
    (b,) = graph.add(np.ones(3, np.float32))
    with pytest.raises(InputError, match=r"different numbers of parameters: 3, \d+\."):
        next(graph.store.parameter_blocks([a, b]))
