"""Rows that are updated: what others changed meanwhile stays, and what they name must be there."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mgraph_store import Connection, Node, Run, Sweep, new_id
from mgraph_store.errors import ConflictError, InputError, NotFoundError, StoreError


@pytest.fixture
def node(graph: Any) -> Node:
    (made,) = graph.add(graph.parameters(), names=("line",))
    found: Node = made
    return found


def stored(graph: Any, record: Any) -> Any:
    with graph.store.reading() as reader:
        return reader.get(type(record), id=record.id)


def rename(graph: Any, record: Any, name: str) -> None:
    with graph.store.transaction() as tx:
        tx.update(replace(record, name=name), since=record)


def test_only_what_was_changed_is_written(graph: Any, node: Node) -> None:
    with graph.store.transaction() as tx:
        tx.update(replace(node, info='{"a": 1}'), since=node)
        rename(graph, node, "better")
    assert stored(graph, node) == replace(node, name="better", info='{"a": 1}')


def test_the_same_column_changed_by_two_is_a_conflict(graph: Any, node: Node) -> None:
    rename(graph, node, "better")
    with pytest.raises(ConflictError, match=f"changed name of {node.id} meanwhile"):
        rename(graph, node, "best")
    rename(graph, node, "better")  # both wanted the same
    assert stored(graph, node).name == "better"


def test_several_updates_of_one_row_follow_each_other(graph: Any, node: Node) -> None:
    with graph.store.transaction() as tx:
        tx.update(second := replace(node, info='{"a": 1}'), since=node)
        tx.update(replace(second, info='{"a": 2}'), since=second)
        rename(graph, node, "better")
    assert stored(graph, node) == replace(node, name="better", info='{"a": 2}')


def test_a_row_of_the_same_transaction(graph: Any) -> None:
    run = Run(new_id("r"), "train", "{}")
    with graph.store.transaction() as tx:
        tx.add(run)
        tx.update(replace(run, status="complete"), since=run)
    assert stored(graph, run).status == "complete"


def test_lists_and_times_are_compared_as_they_are_stored(graph: Any, node: Node) -> None:
    (other,) = graph.add(graph.parameters(1))
    with graph.store.transaction() as tx:
        connection, *ends = graph.connection(node, other)
        sweep = Sweep(new_id("w"), connection.id, None, [3, 3], "none", "fp32")  # a list, which is read as a tuple
        tx.add(connection, *ends, sweep)
    with graph.store.transaction() as tx:
        tx.update(replace(sweep, grid=(5, 3)), since=sweep)
    assert stored(graph, sweep).grid == (5, 3)


def test_what_is_gone_or_another_thing(graph: Any, node: Node) -> None:
    with pytest.raises(InputError, match="cannot be an update of"), graph.store.transaction() as tx:
        tx.update(node, since=replace(node, id=new_id("m")))
    with graph.store.transaction() as tx:
        tx.remove(Node, "id", [node.id])
    with pytest.raises(NotFoundError, match="cannot be updated"):
        rename(graph, node, "late")


@pytest.mark.parametrize("since", [True, False])
def test_an_update_to_tensors_that_are_gone_is_refused(graph: Any, node: Node, since: bool) -> None:
    with graph.store.transaction() as tx:
        (ref,) = tx.write_parameters([graph.parameters(7)])
        graph.store.tensor_store.remove(ref.key)
        changed = replace(node, tensor_key=ref.key, digest=ref.digest)
        tx.update(changed, since=node if since else None)
        with pytest.raises(StoreError, match="was removed before its row"):
            tx.commit()
        tx._updated.clear(), tx._since.clear()
    assert stored(graph, node) == node


def test_a_node_whose_tensors_are_lost_may_be_renamed(damaged: Any) -> None:
    (node,) = damaged.add(damaged.parameters(), names=("line",))
    damaged.store.tensor_store.remove(node.tensor_key)
    rename(damaged, node, "lost")
    assert stored(damaged, node).name == "lost"


# In the whole package


def updates() -> Iterator[tuple[str, ast.FunctionDef, ast.Call]]:
    root = Path(__file__).parents[2]
    for file in [*root.glob("mgraph/**/*.py"), *root.glob("cli/**/*.py"), *root.glob("store/**/*.py")]:
        for function in ast.walk(ast.parse(file.read_text())):
            if isinstance(function, ast.FunctionDef):
                for call in ast.walk(function):
                    if isinstance(call, ast.Call) and ast.unparse(call.func) == "tx.update":
                        yield f"{file.relative_to(root)}:{call.lineno}", function, call


def test_every_update_says_what_it_knew() -> None:
    """By what it was made of, or by what it expects; else a renaming is undone in silence."""
    found = list(updates())
    assert len(found) > 10
    for place, function, call in found:
        assert any(k.arg == "since" for k in call.keywords) or "tx.expect(" in ast.unparse(function), place


def test_a_conflict_leaves_the_row(graph: Any, node: Node) -> None:
    (other,) = graph.add(graph.parameters(1))
    with graph.store.transaction() as tx:
        tx.add(*(rows := graph.connection(node, other, "line2")))
    connection: Connection = rows[0]
    rename(graph, connection, "kept")
    with pytest.raises(ConflictError), graph.store.transaction() as tx:
        tx.update(replace(connection, name="x", reason="why"), since=connection)
    assert stored(graph, connection) == replace(connection, name="kept")
