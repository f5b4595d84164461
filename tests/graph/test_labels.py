"""Tags, notes, listing by them, lineage, and SQL on a graph."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import duckdb
import pytest

import mgraph
from mgraph.errors import InputError
from mgraph_store import Note, assert_consistent


def names(rows: list[dict[str, Any]]) -> list[str]:
    return [row["name"] for row in rows]


def test_tags_and_notes_are_written_replaced_and_removed(graph: Any) -> None:
    a = graph.node("a")
    assert a.tag("good", "base") == {"tags": ["base", "good"], "notes": {}}
    assert a.note(lr=0.1, by="me") == {"tags": ["base", "good"], "notes": {"by": "me", "lr": "0.1"}}
    assert a.note(lr=0.2, base="x") == {"tags": ["good"], "notes": {"base": "x", "by": "me", "lr": "0.2"}}
    assert graph.connection("s").tag("good")["tags"] == ["good"]
    assert a.unlabel("good", "by") == {"tags": [], "notes": {"base": "x", "lr": "0.2"}}
    assert a.describe()["notes"] == {"base": "x", "lr": "0.2"}
    assert graph.connection("s").describe()["tags"] == ["good"]
    with pytest.raises(InputError, match=r"a has no tag or note 'good'; it has base, lr"):
        a.unlabel("lr", "good")
    for wrong in ("", "two words", "1st", "x" * 65, "a=b"):
        with pytest.raises(InputError, match="not a tag or key"):
            a.tag("fine", wrong)
    with pytest.raises(InputError, match="at most 10000"):
        a.note(long="x" * 10001)
    assert a.describe()["tags"] == []  # nothing of what was refused
    assert_consistent(graph.session.store)


def test_a_tag_that_is_there_is_left_alone(graph: Any) -> None:
    graph.node("a").tag("good")
    with graph.session.store.reading() as reader:
        before = reader.all(Note)
    graph.node("a").tag("good")
    with graph.session.store.reading() as reader:
        assert reader.all(Note) == before


def test_labels_go_with_what_they_are_on(graph: Any) -> None:
    graph.connection("bare").tag("idle")
    graph.remove("bare")
    with graph.session.store.reading() as reader:
        assert reader.all(Note) == []
    assert_consistent(graph.session.store)


def test_listings_are_filtered_sorted_and_cut(graph: Any) -> None:
    graph.node("b").tag("x")
    graph.connection("line").note(round=2)
    best = graph.nodes("mode", sort="-test_accuracy", limit=2)
    accuracies = sorted((row["test_accuracy"] for row in graph.nodes("mode")), reverse=True)
    assert [row["test_accuracy"] for row in best] == accuracies[:2]
    assert names(graph.nodes(where="tag = 'x'")) == ["b"]
    assert names(graph.nodes(where="kind = 'merged'")) == ["m"]
    assert names(graph.nodes("mode", sort=["-name"], limit=3)) == ["d", "c", "b"]
    assert names(graph.connections(where="note.round > 1")) == ["line"]
    assert names(graph.connections(where="end = 'c' and kind != 'surface'", sort="name")) == ["bare", "wall"]
    assert names(graph.connections(where="barrier is null")) == ["bare"]
    assert {row["kind"] for row in graph.nodes("sample", limit=3)} == {"sample"}
    with pytest.raises(InputError, match="at least 1"):
        graph.nodes(limit=0)
    with pytest.raises(InputError, match="no column 'barrier'"):
        graph.nodes(where="barrier > 1")


def test_the_worst_pair_stands_for_a_connection(graph: Any) -> None:
    (row,) = graph.connections(where="name = 's'")
    edges = [e for e in graph.connection("s").describe()["edges"] if (e["split"], e["metric"]) == ("train", "loss")]
    assert row["peak"] == max(e["peak"] for e in edges)
    assert row["barrier"] == max(e["barrier"] for e in edges)
    assert row["ends"] == ["a", "b", "c", "d"]


def test_ancestry_goes_back_to_runs_and_files(graph: Any, tmp_path: Path) -> None:
    file = graph.node("a").export(tmp_path / "a.safetensors")
    with pytest.warns(UserWarning, match="exactly the parameters of a"):
        imported = graph.add_mode(file, name="twin")
    tree = imported.ancestry()
    assert (tree["origin"]["origin"], tree["origin"]["file"]) == ("file", "a.safetensors")
    assert len(tree["origin"]["blake2b"]) == 32
    assert tree["run"]["command"] == "add-mode"
    tree = graph.node("m").ancestry()
    (of,) = tree["from"]
    assert (of["as"], of["name"], of["kind"]) == ("point of", "s", "surface")
    assert [(end["as"], end["name"], end["run"]["seed"]) for end in of["from"]] == [
        ("end", name, seed) for seed, name in enumerate("abcd")
    ]
    joined = graph.compose("line", "s:b:c", name="ac", sweep=False)
    curve = graph.connect("a", "c", method=mgraph.PolygonalChain(epochs=1), init=joined, name="fit", sweep=False)
    tree = curve.ancestry()
    assert [branch["as"] for branch in tree["from"]] == ["end", "end", "started from"]
    assert [piece["name"] for piece in tree["from"][2]["from"]] == ["line", "s"]
    lines = curve.ancestry_lines()
    assert lines[0].startswith("fit (chain), connect r")
    assert any("started from: ac (composite)" in line for line in lines)
    assert sum("end: a (mode)" in line and "see above" not in line for line in lines) == 1
    sample = graph.node(graph.connection("line").swept().node_ids[1])
    assert [branch["name"] for branch in sample.ancestry()["from"]] == ["line"]
    json.dumps(tree)


def test_sql_answers_as_rows_and_files(graph: Any, tmp_path: Path) -> None:
    graph.node("a").tag("x")
    graph.node("a").note(k="v")
    answer = graph.sql("SELECT name, test_accuracy, tags, notes, created FROM modes WHERE kind = 'mode' ORDER BY name")
    assert answer.columns == ("name", "test_accuracy", "tags", "notes", "created")
    assert [row[0] for row in answer.rows] == list("abcd")
    first = answer.records()[0]
    assert (first["tags"], first["notes"]) == (["x"], {"k": "v"})
    written = answer.write(tmp_path / "modes.parquet")
    assert duckdb.sql(f"SELECT * FROM '{written}'").fetchall() == answer.rows
    rows = json.loads(answer.write(tmp_path / "modes.json").read_text())["rows"]
    assert rows == answer.records()
    text = answer.write(tmp_path / "modes.csv").read_text()
    table = list(csv.DictReader(io.StringIO(text)))
    assert [row["name"] for row in table] == list("abcd")
    empty = graph.sql("SELECT name FROM modes WHERE false")
    assert duckdb.sql(f"SELECT * FROM '{empty.write(tmp_path / 'none.parquet')}'").fetchall() == []
    twice = graph.sql("SELECT 1 AS x, 2 AS x, 3 AS x")
    assert twice.records() == [{"x": 1, "x_2": 2, "x_3": 3}]
    with pytest.raises(InputError, match="exists already"):
        answer.write(tmp_path / "modes.csv")
    answer.write(tmp_path / "modes.csv", overwrite=True)
    for wrong in ("modes.xlsx", "nowhere/modes.csv"):
        with pytest.raises(InputError):
            answer.write(tmp_path / wrong)


def test_edges_in_sql_are_those_that_count(graph: Any) -> None:
    graph.connection("line").sweep(grid=9)
    rows = graph.sql(
        "SELECT source, target, method, resolution, current FROM edges WHERE connection = 'line' "
        "AND split = 'train' AND metric = 'loss' ORDER BY resolution"
    ).rows
    assert rows == [("a", "b", "linear", 5, False), ("a", "b", "linear", 9, True)]
    ours = {(link.connection, link.peak) for link in graph.components(max_peak=1e9).edges}
    theirs = graph.sql("SELECT connection, peak FROM edges WHERE current AND split = 'train' AND metric = 'loss'").rows
    assert set(theirs) == ours


@pytest.mark.parametrize("module", ["pandas", "pyarrow"])
def test_frames_need_what_is_optional(graph: Any, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, module, None)
    answer = graph.sql("SELECT 1")
    with pytest.raises(InputError, match=f"pip install {module}"):
        answer.df() if module == "pandas" else answer.arrow()


def test_long_answers_of_every_type_are_written_as_parquet_part_by_part(
    graph: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mgraph.query.answers._PART", 300)
    answer = graph.sql(
        "SELECT i, i / 3 AS third, 'text ' || i AS text, DATE '2020-01-01' + i::INTEGER % 30 AS day, "
        "[i, NULL] AS many, [] AS nothing, "
        "{'a': i, 'b': NULL} AS pair, CASE WHEN i > 9 THEN MAP {'k': i} ELSE MAP {} END AS map, "
        "(i / 4)::DECIMAL(12, 2) AS money, i % 2 = 0 AS even, "
        "uuid() AS id, 'ab'::BLOB AS bytes, INTERVAL 3 SECONDS AS gap, NULL::INTEGER AS none "
        "FROM range(1000) t(i)"
    )
    written = answer.write(tmp_path / "long.parquet")
    assert duckdb.sql(f"SELECT * FROM '{written}'").fetchall() == answer.rows
