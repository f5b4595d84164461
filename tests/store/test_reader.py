"""Looking things up: by name, by column, by SQL."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from mgraph_store import (
    Connection,
    Member,
    Node,
    Run,
    new_id,
)
from mgraph_store.errors import (
    AmbiguousError,
    InputError,
    NotFoundError,
)
from mgraph_store.index import reader as reader_module


def test_find(graph: Any, space_factory: Any) -> None:
    a, b = graph.add(graph.parameters(), graph.parameters(1), names=("alpha", "beta"))
    k, *ends = graph.connection(a, b, "path")
    with graph.store.transaction() as tx:
        tx.add(k, *ends)
    with graph.store.reading() as reader:
        assert reader.find("alpha") == reader.find(a.id) == reader.find(a.id[:8]) == a
        assert reader.find_connection("path") == k
        for text, what in (
            ("alpa", "No node or connection is called 'alpa'; did you mean alpha"),
            (b.id[:3], "No node or connection"),
            ("zzz", "there are"),
        ):
            with pytest.raises(NotFoundError, match=what):
                reader.find(text)
        with pytest.raises(NotFoundError, match=f"is connection {k.id} .path., but a node is expected"):
            reader.find_node("path")
        assert reader.find_space() == reader.find_space("only") == reader.find_space(graph.space.id[:5])
        with pytest.raises(NotFoundError, match="did you mean only"):
            reader.find_space("onyl")
    with graph.store.transaction() as tx:
        tx.add(space_factory("second"))
    with graph.store.reading() as reader, pytest.raises(InputError, match=r"2 spaces, say which: only, second\."):
        reader.find_space()


def test_an_ambiguous_prefix_lists_what_fits_and_an_exact_name_wins(graph: Any) -> None:
    refs = graph.add(graph.parameters(), names=("a",))
    twins = [dataclasses.replace(refs[0], id=f"mtwin{i}aaaaaaa", name=f"twin{i}") for i in "234"]
    named = dataclasses.replace(refs[0], id=new_id("m"), name="mtwin")
    with graph.store.transaction() as tx:
        tx.add(*twins)
    with graph.store.reading() as reader, pytest.raises(AmbiguousError, match=r"mtwin2aaaaaaa .twin2., node mtwin3"):
        reader.find("mtwin")
    with graph.store.transaction() as tx:
        tx.add(named)
    with graph.store.reading() as reader:
        assert reader.find("mtwin") == named


def test_all_filters_and_orders(graph: Any) -> None:
    a, b, c = graph.add(*(graph.parameters(i) for i in range(3)), names=("a", "b", "c"))
    run = Run(id=new_id("r"), command="train", settings="{}")
    d = dataclasses.replace(c, id=new_id("g"), kind="merged", name="d", run_id=run.id)
    with graph.store.transaction() as tx:
        tx.add(d, run)
    with graph.store.reading() as reader:
        assert reader.all(Node, kind="mode") == [a, b, c]
        assert reader.all(Node, run_id=None, order="name DESC") == [c, b, a]
        assert reader.all(Node, name=["d", "a"], limit=1) == [a]
        assert reader.all(Node, name=[]) == []
        assert reader.all(Node, where="name > ? AND run_id IS NULL", parameters=["a"], kind="mode") == [b, c]
        assert reader.get(Node, name="d") == d
        with pytest.raises(NotFoundError, match="Nothing in nodes has name x"):
            reader.get(Node, name="x")
        with pytest.raises(AmbiguousError, match="Several of nodes"):
            reader.get(Node, kind="mode")
        with pytest.raises(InputError, match="no column 'colour'"):
            reader.all(Node, colour="red")
        with pytest.raises(InputError, match="syntax error"):
            reader.all(Node, where="name >")


def test_members_and_terms_come_in_order_of_position(graph: Any) -> None:
    nodes = graph.add(*(graph.parameters(i) for i in range(3)))
    k = Connection(id=new_id("k"), kind="linear", space_id=graph.space.id, family="{}", settings="{}")
    with graph.store.transaction() as tx:
        tx.add(k, *(Member(k.id, n.id, "end", 2 - i, None, (0.5, i / 2)) for i, n in enumerate(nodes)))
    with graph.store.reading() as reader:
        members = reader.all(Member, connection_id=k.id)
    assert [m.position for m in members] == [0, 1, 2]
    assert members[0].parameter == (0.5, 1.0)


def test_sql(graph: Any) -> None:
    graph.add(graph.parameters(), graph.parameters(1), names=("a", "b"))
    with graph.store.reading() as reader:
        columns = reader.fetch("SELECT name, nbytes, tensor_row FROM nodes WHERE nbytes > ? ORDER BY name", [10])
        assert columns["name"].tolist() == ["a", "b"]
        assert columns["nbytes"].dtype == np.int64
        assert reader.query("SELECT name AS n, 1.5::DOUBLE AS x FROM nodes ORDER BY name") == (
            ["n", "x"],
            [("a", 1.5), ("b", 1.5)],
        )
        for sql in (
            "selec",
            "SELECT * FROM cats",
            "DELETE FROM nodes",
            "COPY nodes TO 'x.csv'",
            "SELECT * FROM read_text('/etc/hostname')",
            "ATTACH 'x.duckdb'",
            "INSTALL httpfs",
            "SELECT 'x'::INTEGER",
            f"COPY nodes TO '{graph.store.index.path}'",
            f"EXPLAIN ANALYZE COPY nodes TO '{graph.store.index.path}'",
            "CREATE TEMP TABLE cats AS SELECT 1",
            "USE memory",
            "SELECT 1; SELECT 2",
            "",
        ):
            with pytest.raises(InputError):
                reader.query(sql)
            with pytest.raises(InputError):
                reader.fetch(sql)
        for read in (reader.query, reader.fetch):
            with pytest.raises(InputError, match="cast them"):
                read("SELECT now()")


def test_rows_that_come_in_portions_are_those_of_the_query(graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "_AT_ONCE", 2)
    graph.add(*(graph.parameters(seed) for seed in range(5)))
    sql = "SELECT id, kind FROM nodes WHERE kind = ? ORDER BY id"
    with graph.store.reading() as reader:
        assert list(reader.each(sql, ["mode"])) == reader.query(sql, ["mode"])[1]
        with pytest.raises(InputError, match="only those are run here"):
            list(reader.each("DROP TABLE nodes"))
