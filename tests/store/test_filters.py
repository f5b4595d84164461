"""The expressions of --where: read right, refused in a sentence, and no way past them to the database."""

from __future__ import annotations

import math
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgraph_store import Evaluation, GraphStore, Layout, Node, Note, Space, TensorSpec, new_id
from mgraph_store.errors import InputError
from mgraph_store.index.filters import names_in, order, parse
from mgraph_store.rows.relations import CONNECTIONS, NODES, VIEWS

MANY = int(os.environ.get("MGRAPH_EXAMPLES", "1"))  # so many times more of them: make stress

LAYOUT = Layout((TensorSpec("w", (2,), "float32", "parameter"),))
# name → accuracy, tags, notes
MODES: dict[str, tuple[float | None, list[str], dict[str, str]]] = {
    "a": (0.9, ["good", "old"], {"lr": "0.1"}),
    "b": (0.5, ["good"], {"lr": "0.02", "by": "it's me"}),
    "c": (math.nan, [], {}),
    "d": (None, ["new"], {"by": "you"}),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> GraphStore:
    store = GraphStore.create(tmp_path_factory.mktemp("filters") / "g.mgraph")
    layout = (LAYOUT.to_json(), LAYOUT.fingerprint, "0" * 32)
    space = Space(new_id("a"), "only", "mlp", "digits", "cross_entropy", *layout)
    with store.transaction() as tx:
        tx.add(space)
        for i, (name, (accuracy, tags, notes)) in enumerate(MODES.items()):
            made = datetime(2026, 1, 1 + i, tzinfo=UTC)
            node = Node(new_id("m"), "mode", space.id, name=name, kernel=1, created=made)
            tx.add(node, *[Note(new_id("n"), tag, node_id=node.id) for tag in tags])
            tx.add(*[Note(new_id("n"), key, value, node_id=node.id) for key, value in notes.items()])
            if accuracy is not None:
                how = (None, None, "test", "all", "own", "fp32", "accuracy", accuracy, None, 10)
                tx.add(Evaluation(node.id, *how))
    return store


def select(store: GraphStore, expression: str) -> str:
    condition = parse(expression, NODES.by_name)
    sql = f"SELECT name FROM ({NODES.select()}) WHERE {condition.sql} ORDER BY name"
    with store.reading() as reader:
        return "".join(row[0] for row in reader.query(sql, condition.parameters)[1])


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        ("test_accuracy > 0.6", "a"),
        ("kind=mode, test_acc>0.6", "a"),  # a comma for and, a word without quotes, a shortened column
        ("(name = a, tag = good) or name in (c, d)", "acd"),
        ("test_accuracy >= .5", "ab"),
        ("test_accuracy <= 5e-1", "b"),
        ("test_accuracy != 0.9", "b"),
        ("test_accuracy <> 0.9 or test_accuracy == 0.9", "ab"),
        ("not test_accuracy > 0.6", "b"),
        ("test_accuracy is null", "cd"),
        ("test_accuracy is not null", "ab"),
        ("name = 'a' or name = \"b\" and test_accuracy > 0.6", "a"),
        ("(name = 'a' or name = 'b') and test_accuracy < 0.6", "b"),
        ("NOT (name IN ('a', 'b'))", "cd"),
        ("name not in ('a','b') and name like '%'", "cd"),
        ("name like '_' and not name like 'd%'", "abc"),
        ("tag = 'good'", "ab"),
        ("tag != 'good'", "cd"),
        ("tag = 'good' and tag = 'old'", "a"),
        ("tag in ('new', 'old')", "ad"),
        ("tag not in ('new', 'old')", "bc"),
        ("tag like 'n%'", "d"),
        ("tag is null", "c"),
        ("tag is not null", "abd"),
        ("note.lr > 0.05", "a"),
        ("note.lr = '0.02'", "b"),
        ("note.lr in (0.1, 0.02)", "ab"),
        ("note.by = 'it''s me'", "b"),
        ("note.by like 'y%'", "d"),
        ("note.by is null", "ac"),
        ("note.nothing = 'x'", ""),
        ("created >= '2026-01-03'", "cd"),
        ("created < '2026-01-02T01:00:00+01:00'", "a"),
        ("stored = false", "abcd"),
        ("seed = -1", ""),
        ("kind='mode'and(name='a')", "a"),
    ],
)
def test_expressions_select(store: GraphStore, expression: str, found: str) -> None:
    assert select(store, expression) == found


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("", "at its end, a column is expected"),
        ("name", "at its end, an operator"),
        ("name =", "at its end, a value"),
        ("test_accuracy = a", "a number or a 'text' in quotes is expected"),
        ("name = 'a' name = 'b'", "the end, 'and' or 'or' is expected"),
        ("name = 'a' and", "a column is expected"),
        ("(name = 'a'", r"'\)' is expected"),
        ("name = 'a')", "the end"),
        ("name = 'a", "has no meaning in it"),
        ("name = 'a'; drop table nodes", "';.*' has no meaning in it"),
        ("name = 'a' -- and", "has no meaning in it"),
        ("1 = 1", "a column is expected"),
        ("test_acuracy > 0.9", "did you mean test_accuracy"),
        ("barrier > 0.9", "There is no column 'barrier'; there are id, name"),
        ("name > 3", "name is a text; compare it with one"),
        ("test_accuracy > 'high'", "test_accuracy is a number"),
        ("test_accuracy like '9%'", "only texts can be compared by like"),
        ("stored > true", "can only be compared by = or !="),
        ("stored = 'yes'", "yes/no"),
        ("tags = 'x'", "compare any of them: tag = 'x'"),
        ("tag > 'x'", "can only be compared by = or !="),
        ("tag = 3", "tag"),
        ("created > 'yesterday'", "is a time"),
        ("created > 3", "is a time"),
        ("name in ()", "is expected"),
        ("name not = 'a'", "'in' or 'like'"),
        ("name is 'a'", "'null' is expected"),
        ("(" * 60 + "name = 'a'" + ")" * 60, "nested at most 50"),
        ("not " * 60 + "name = 'a'", "nested at most 50"),
        ("name = '" + "x" * 20000 + "'", "at most 10000 characters"),
        ("select = 1", "no column 'select'"),
        ("note. = 1", "no column"),
    ],
)
def test_what_is_no_expression_is_refused(expression: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse(expression, NODES.by_name)


@settings(max_examples=15 * MANY, deadline=None)
@given(st.text(st.sampled_from("name tg.=<>'\"()%-;,*\\\n1e0andornotinlikeisnull_;--/"), max_size=30))
def test_any_text_is_an_expression_or_refused(store: GraphStore, text: str) -> None:
    try:
        condition = parse(text, NODES.by_name)
    except InputError:
        return
    # What passes runs, and nothing of the text is in the SQL but names of columns.
    sql = f"SELECT count(*) FROM ({NODES.select()}) WHERE {condition.sql}"
    with store.reading() as reader:
        reader.query(sql, condition.parameters)
    assert ";" not in condition.sql
    assert "--" not in condition.sql


@settings(max_examples=10 * MANY, deadline=None)
@given(st.text(max_size=20), st.sampled_from(["name", "note.k", "tag"]))
def test_any_value_is_compared_as_it_is(text: str, column: str) -> None:
    quoted = text.replace("'", "''")
    condition = parse(f"{column} = '{quoted}'", NODES.by_name)
    assert condition.parameters[-1] == text
    assert text not in condition.sql or len(text) < 6


def test_columns_that_are_named() -> None:
    assert names_in("a > 1 and not (b like 'c' or note.d in (1))") == ["a", "b", "note.d"]
    assert parse("tag = 'x' and name = 'tag'", NODES.by_name).columns == ("tags", "name")


def test_sorting(store: GraphStore) -> None:
    def sorted_by(*keys: str) -> str:
        sql = f"SELECT name FROM ({NODES.select()}) ORDER BY {order(keys, NODES.by_name)}"
        with store.reading() as reader:
            return "".join(row[0] for row in reader.query(sql)[1])

    assert sorted_by("-name") == "dcba"
    # What has no value comes last, either way.
    assert sorted_by("test_accuracy", "name") == "bacd"
    assert sorted_by("-test_accuracy", "-name") == "abdc"
    with pytest.raises(InputError, match="no column 'acc'"):
        order(["acc"], NODES.by_name)


def test_relations_have_the_columns_that_they_describe(store: GraphStore) -> None:
    with store.reading() as reader:
        for relation in (NODES, CONNECTIONS, *VIEWS.values()):
            names, _ = reader.query(relation.select())
            assert names == [f.name for f in relation.fields]
            assert all(f.meaning for f in relation.fields)


def test_views_answer_the_users_sql(store: GraphStore, tmp_path: Path) -> None:
    def ask(sql: str) -> Any:
        return store.query_guarded(sql).rows

    assert ask("SELECT name, tags, notes['lr'] FROM modes WHERE test_accuracy = 0.9") == [("a", ["good", "old"], "0.1")]
    assert ask("SELECT node, kind, connection FROM evaluations WHERE value = 0.5") == [("b", "mode", None)]
    for view, relation in VIEWS.items():
        assert [row[0] for row in ask(f"DESCRIBE {view}")] == [f.name for f in relation.fields]
