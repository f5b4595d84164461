"""Questions, composite paths, listings, labels and SQL on the command line; and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import pytest


def test_questions_answer_people_and_programs(run: Any) -> None:
    done = run("route", "a", "d", "--json")
    assert (done.row["from"], done.row["to"], done.row["quantity"]) == ("a", "d", "peak")
    assert [edge["connection"] for edge in done.row["edges"]] == ["s"]
    assert done.row["edges"][0]["parameters"][0] == [0.0, 0.0]
    assert done.row["edges"][0]["parameters"][-1] == [1.0, 1.0]
    assert done.row["value"] == done.row["edges"][0]["peak"]
    text = run("route", "a", "d")
    assert "a → d: train loss peak" in text.stdout
    assert "0,0 → 1,1" in text.stdout
    assert "? marks uncertain" in text.stderr
    tree = run("mst", "--by", "barrier", "--json").row
    assert len(tree["edges"]) == 3
    assert tree["trees"] == 1
    assert tree["total"] == pytest.approx(sum(edge["barrier"] for edge in tree["edges"]))
    assert run("mst", "--csv").stdout.splitlines()[0].startswith("source,target,connection")
    drawn = run("dendrogram").stdout
    assert [sum(f" {name}  " in line for line in drawn.splitlines()) for name in "abcd"] == [1, 1, 1, 1]
    linkage = run("dendrogram", "--json").row
    assert [len(row) for row in linkage["linkage"]] == [4, 4, 4]
    assert [leaf["name"] for leaf in linkage["leaves"]] == list("abcd")
    assert len(run("dendrogram", "--csv").stdout.splitlines()) == 4
    assert {row["target"] for row in run("neighbours", "a", "--json").rows} == {"b", "c", "d"}
    assert run("isolated").stdout.strip() == "No mode is isolated."
    rows = run("isolated", "--max-peak", "0.0001", "--json").rows
    assert [row["name"] for row in rows] == list("abcd")
    assert all(row["lowest"] > 0.0001 for row in rows)


def test_a_route_is_saved_and_pieces_are_composed(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mgraph.families.composite._PER_PIECE", 6)
    done = run("route", "a", "c", "--save", "ac", "--by", "barrier")
    assert "Saved as ac: a → " in done.stderr
    assert run("show", "ac", "--json").row["ends"] == ["a", "c"]
    row = run("compose", "line", "ac", "--name", "bc", "--thin", "0.05", "--grid", "5", "--json").row
    assert (row["kind"], row["ends"]) == ("composite", ["b", "c"])
    assert row["family"]["family"] == "polygonal-chain"
    shown = run("show", "ac").stdout
    assert "pieces=bezier-surface" in shown
    assert "started" not in run("compose", "curve", "--no-sweep").stdout


def test_listing_by_expression_and_labels(run: Any) -> None:
    assert run("tag", "a", "good", "base", "--json").row == {"what": "a", "tags": ["base", "good"], "notes": {}}
    assert run("note", "line", "by=me", "x=1", "--json").row["notes"] == {"by": "me", "x": "1"}
    assert "tags   base good" in run("tag", "a").stdout
    rows = run("ls", "--kind", "mode", "--where", "tag = 'good' or name = 'b'", "--sort", "-name", "--json").rows
    assert [row["name"] for row in rows] == ["b", "a"]
    listed = run("ls", "--where", "end = 'b' and note.x >= 1")
    assert "line" in listed.stdout
    assert "nodes" not in listed.stdout
    assert [row["name"] for row in run("ls", "--where", "name like '%r%'", "--json").rows] == ["curve", "bare"]
    assert run("ls", "--where", "name = 'nobody'").stdout.strip() == "Nothing for which this is true."
    assert run("ls", "--columns", "name,barrier", "--csv").code == 0
    columns = run("ls", "--list-columns", "--json").rows
    assert {"of": "nodes", "name": "nbytes", "type": "number", "unit": "bytes", "meaning": "size of these"} in columns
    assert run("tag", "a", "base", "--remove", "--json").row["tags"] == ["good"]
    assert run("note", "line", "--remove", "x", "--json").row["notes"] == {"by": "me"}
    assert "tags" in run("ls").stdout
    assert "m (merged)" in run("show", "m", "--ancestry").stdout
    assert run("show", "m", "--ancestry", "--json").row["from"][0]["name"] == "s"


def test_sql_prints_and_writes(run: Any, path: Path) -> None:
    rows = run("sql", "SELECT name, test_accuracy FROM modes WHERE kind = 'mode' ORDER BY name", "--json").rows
    assert [row["name"] for row in rows] == list("abcd")
    assert run("sql", "SELECT 1 AS one", "--csv").stdout == "one\n1\n"
    assert "no rows" in run("sql", "SELECT name FROM modes WHERE false").stdout
    names = run("sql", "SELECT name, test_accuracy FROM modes").stdout.split("\n")[0].split()
    assert names == ["name", "test_accuracy"]  # as the next query must write them
    run("sql", "SELECT * FROM samples", "-o", "samples.parquet")
    (count,) = duckdb.sql(f"SELECT count(*) FROM '{path.parent / 'samples.parquet'}'").fetchall()
    assert count == tuple(run("sql", "SELECT count(*) AS n FROM samples", "--json").rows[0].values())
    run("sql", "SELECT 2 AS two", "-o", "samples.parquet", code=2)
    run("sql", "SELECT 2 AS two", "-o", "samples.parquet", "--overwrite")
    assert {row["view"] for row in run("sql", "--views", "--json").rows} == {
        *("modes", "connections", "edges", "samples", "evaluations")
    }


def test_sql_from_standard_input(process: Any, path: Path) -> None:
    import subprocess

    child = process("sql", "-", "--csv", cwd=path.parent, stdin=subprocess.PIPE)
    out, err = child.communicate("SELECT count(*) AS n FROM modes\n", timeout=60)
    assert (child.returncode, out, err) == (0, "n\n5\n", "")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("components --max-barrier 0.1 --metric f1", "knows no metric 'f1'; edges are measured by error, loss."),
        ("components --max-barrier 0.1 --split all", "no split 'all'"),
        ("components --max-barrier 0.1 --max-peak 1", "Give exactly one of"),
        ("components", "Give exactly one of --max-barrier"),
        ("mst --max-barrier 1 --max-drop 1", "Give at most one of"),
        ("mst --by height", "not a 'height'"),
        ("mst --by peak --max-barrier 1", "contradict each other"),
        ("mst --max-barrier nan", "finite number"),
        ("mst --min-examples 0", "at least 1"),
        ("mst --certified", "sweep finer"),
        ("mst --batchnorm own", "has the BatchNorm policy 'own'; there are: recompute("),
        ("route a", "Missing argument"),
        ("route a a", "both start and goal"),
        ("route a nobody", "called 'nobody'"),
        ("route a line", "is a connection, not a node"),
        ("route a d --max-peak 0.0001", "join a and d"),
        ("route a d --thin 0.1", "--save"),
        ("route a d --save b", "belongs to"),
        ("compose line bare", "share no mode"),
        ("compose line --thin 2", "share of the path's length"),
        ("neighbours m", "nor connected to one"),
        ("ls --where test_accuracy", "an operator"),
        ("ls --where barrier>0.1,drop", "not an expression"),
        ("ls --where seed=1;delete", "not an expression"),
        ("ls --kind mode --where barrier>1", "no column 'barrier'"),
        ("ls --where seed=1 --sort barrier", "No list has all of seed, barrier"),
        ("ls --sort acc", "no column 'acc'"),
        ("ls --limit 0", "at least 1"),
        ("tag a two=words", "not a tag or key"),
        ("tag a nothing --remove", "no tag or note 'nothing'; it has none"),
        ("note a word", "key=value"),
        ("sql", "Give a query"),
        ("sql delete+from+nodes", "only SELECT and the like"),
        ("sql select+1;select+2", "2 SQL statements"),
        pytest.param("sql copy+nodes+to+'x.csv'", "only SELECT and the like", marks=pytest.mark.stress),
        pytest.param("sql select+*+from+'/etc/passwd'", "does not exist", marks=pytest.mark.stress),
        ("sql select+*+from+read_text('/etc/passwd')", "disabled"),
        pytest.param("sql install+httpfs", "only SELECT", marks=pytest.mark.stress),
        ("sql select+1 -o x.xlsx", "must end in"),
        ("sql select+1 -o x.csv --json", "-o writes a file"),
        ("sql selec+1", "syntax"),
        ("show m --ancestry --table", "Give only one of"),
        ("show m --ancestry --csv", "not a table"),
    ],
)
def test_bad_input_is_one_line(run: Any, command: str, message: str) -> None:
    done = run(*(word.replace("+", " ") for word in command.split()), code=2)
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


def test_a_question_to_a_graph_without_edges(run: Any) -> None:
    run("init", "empty.mgraph", "--arch", "mlp?hidden=4,", "--data", "digits")
    for command in ("components --max-barrier 1", "mst", "dendrogram", "isolated"):
        done = run(*command.split(), "--graph", "empty.mgraph", code=2)
        assert "no edge with a train loss; connect modes first: mgraph connect A B --linear" in done.stderr


@pytest.mark.stress
def test_questions_load_no_torch(python: Any, path: Path) -> None:
    script = """
import sys
import mgraph
g = mgraph.open(sys.argv[1])
g.components(max_barrier=9); g.route("a", "d"); g.mst(); str(g.dendrogram()); g.neighbours("a"); g.isolated()
g.nodes(where="tag = 'x'"); g.node("m").ancestry(); g.node("a").tag("x"); g.sql("SELECT 1").records()
print("torch" in sys.modules)
"""
    assert python(script, path).strip() == "False"


def test_json_of_all_questions_is_valid(run: Any) -> None:
    for command in ("components --max-peak 9", "route a d", "mst", "dendrogram", "neighbours a", "isolated", "ls"):
        assert json.loads(run(*command.split(), "--json").stdout)["format"] == 1
