"""The page as a file: what it holds, what a stranger's text becomes in it, and how it is written."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mgraph
from mgraph.page import writing
from mgraph.page.plain import number, plain, quoted
from mgraph.page.sweeps import EDGE
from mgraph.session import headway
from mgraph.shown import visible
from mgraph_store import new_id
from mgraph_store.headway import Headway, HeadwayFile
from mgraph_store.rows.records import now

Read = Callable[[Path], dict[str, Any]]


def test_the_page_has_the_numbers_of_the_graph(looked_at: Any, page: Path, contents: Read) -> None:
    data, graph = contents(page), looked_at
    assert [row["name"] for row in data["nodes"]] == [row["name"] for row in graph.nodes()]
    assert [row["name"] for row in data["connections"]] == ["line", "wall", "curve", "s", "bare"]
    for name in ("s", "curve"):
        swept, described = graph.connection(name).swept(), graph.connection(name).describe()
        detail = data["connection_details"][described["id"]]
        points = detail["points"]
        assert points["nodes"] == swept.node_ids
        assert {tuple(key.split()) for key in points["values"]} == set(swept.values)
        for (split, metric), values in swept.values.items():
            np.testing.assert_allclose(points["values"][f"{split} {metric}"], values, rtol=1e-3)
        assert points["best"] == swept.best("valid")
        told = [dict(zip(EDGE, edge, strict=True)) for edge in detail["edges"]]
        assert [e["split"] for e in told if (e["source"], e["target"]) == (0, 1)] == [
            e["split"] for e in described["edges"] if (e["source"], e["target"]) == ("a", "b")
        ]
        assert [e["peak"] for e in told] == pytest.approx([e["peak"] for e in described["edges"]], rel=1e-4)
    assert "points" not in data["connection_details"][graph.connection("bare").id]
    found = graph.matrix(by="barrier")
    told = next(one for one in data["structures"] if one["quantity"] == "barrier")
    assert [graph.node(i).name for i in told["order"]] == found.labels
    assert np.array(told["direct"], float) == pytest.approx(found.direct, rel=1e-3, nan_ok=True)
    assert len(data["runs"]["rows"]) == len(graph.runs())
    assert data["spaces"][0]["data_hash"]
    assert data["runs"]["places"][0]["torch"]


def test_basins_of_the_page_are_those_of_the_graph(looked_at: Any, page: Path, contents: Read) -> None:
    wall = looked_at.connection("wall")
    told = contents(page)["connection_details"][wall.id]["points"]["basins"]
    assert set(told) == {f"{split} {metric}" for split, metric in wall.swept().values}
    for key, found in told.items():
        split, metric = key.split()
        basins = wall.basins(split=split, metric=metric)
        assert [row[0] for row in found["rows"]] == basins.points
        assert sorted(row[1] for row in found["rows"] if row[1] >= 0) == sorted(m.saddle for m in basins.merges)
        depths = [row["depth"] for row in basins.rows()]
        assert [row[3] for row in found["rows"]] == [None if d is None else pytest.approx(d, rel=1e-4) for d in depths]
        assert found["left"] == basins.shallow


def test_ancestries_that_are_left_out_are_told(
    looked_at: Any, tmp_path: Path, contents: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mgraph.page.contents.LINEAGES", 2)
    data = contents(looked_at.report(tmp_path / "r.html"))
    lineages = [data["node_details"][row["id"]]["ancestry"] for row in data["nodes"]]
    assert [lineage is None for lineage in lineages] == [False, False, True, True, True]


def test_an_empty_graph_has_a_page(tmp_path: Path, contents: Read) -> None:
    g = mgraph.create(tmp_path / "e.mgraph", arch="mlp?hidden=4,", data="digits", device="cpu")
    assert contents(g.report(tmp_path / "e.html"))["structures"] == []


@given(st.dictionaries(st.text(), st.text() | st.integers()))
@settings(max_examples=30)
def test_nothing_in_the_data_ends_the_script_or_is_lost(data: dict[str, Any]) -> None:
    data |= {"end": "</script><!-- \u2028\u2029 ]]>"}
    text = writing.island(data)
    assert not set("<>&") & set(text)
    assert text.isascii()
    assert json.loads(text) == data


@pytest.mark.parametrize(
    "text", ["plain", "two words", "it's", "a\x1b[31mred\x07", "x\u202ey", "new\nline", "back\\slash\x00"]
)
def test_a_word_for_the_shell_is_that_word_and_harmless_to_look_at(text: str) -> None:
    word = quoted(text)
    assert visible(word) == word
    said = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=True).stdout
    assert said.decode() == text.partition("\x00")[0]  # no argument holds a zero byte


def test_what_json_cannot_say_is_text() -> None:
    assert [number(float(x)) for x in ("nan", "inf", "0.123456789", "3", "1e-9")] == ["nan", "inf", 0.12346, 3, 1e-9]
    assert plain({"a\x1b": ["b\x07", None, True, np.float64(0.1)]}) == {"a\\x1b": ["b\\x07", None, True, 0.1]}


def test_the_page_allows_only_its_own_scripts_and_no_request(page: Path) -> None:
    text = page.read_text()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy[1].split(";"))
    assert rules["default-src"] == "'none'"
    assert re.fullmatch(r"'sha256-\S+' 'sha256-\S+'", rules["script-src"])
    assert text.count("<script") == 3  # in all of it, the library included
    assert not re.search(r"<[^>]*\s(src|href)=[\"']?(https?:)?//", text)
    assert 'http-equiv="refresh"' not in text


def test_scripts_write_no_markup() -> None:
    for script in (Path(writing.__file__).parent / "assets").glob("*.js"):
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function", script.read_text()
        )


def test_a_page_that_cannot_be_written_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "r.html"
    page.write_text("before")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(mgraph.MGraphError, match=r"r\.html cannot be written: No space left"):
        writing.write_page({"graph": "g"}, page)
    assert page.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]


@pytest.mark.parametrize("count", [10, pytest.param(200, marks=pytest.mark.stress)])
def test_two_hundred_connections_fit_below_five_megabytes(
    path: Path, page: Path, tmp_path: Path, contents: Read, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Each has a sweep of 121 points, with six numbers at each; what does not fit is left out, and the page says so."""
    g = mgraph.open(path)
    alone = page.stat().st_size  # of the same graph without them
    with duckdb.connect(str(path / "index.duckdb")) as con:
        con.execute(_MANY.replace("COUNT", str(count)))
    page = g.report(tmp_path / "r.html")
    each = (page.stat().st_size - alone) / count
    assert each > 9000
    assert alone + 200 * each < 5_000_000
    data = contents(page)
    assert len(data["connections"]) == count + 5
    assert data["left_out"] == []
    copies = [detail for key, detail in data["connection_details"].items() if key.startswith("kaaa")]
    assert [len(copy["points"]["values"]["train loss"]) for copy in copies] == [121] * count

    monkeypatch.setattr("mgraph.page.contents.POINTS_BUDGET", 60_000)
    data = contents(g.report(page))
    shown = [key for key, detail in data["connection_details"].items() if "points" in detail]
    assert 5 < len(shown) < count + 4
    assert len(shown) + len(data["left_out"]) == count + 4  # one was never swept


_MANY = """
CREATE TEMP TABLE many AS SELECT lpad(n::VARCHAR, 12, 'a') AS n FROM range(COUNT) r(n);
CREATE TEMP TABLE points AS SELECT n, u, v, 's' || right(n, 6) || lpad((11 * u + v)::VARCHAR, 6, 'b') AS id
FROM many, range(11) a(u), range(11) b(v);
CREATE TEMP TABLE wall AS SELECT id FROM connections WHERE name = 'wall';
INSERT INTO connections SELECT c.* REPLACE ('k' || n AS id, 'copy' || n AS name)
FROM connections c, many WHERE id = (FROM wall);
INSERT INTO member_rows SELECT m.* REPLACE ('k' || n AS connection_id)
FROM members m, many WHERE connection_id = (FROM wall) AND role = 'end';
INSERT INTO member_rows SELECT 'k' || n, id, 'sample', 11 * u + v, NULL, [u / 10, v / 10] FROM points;
INSERT INTO edges SELECT e.* REPLACE ('k' || n AS connection_id, 'w' || n AS sweep_id)
FROM edges e, many WHERE connection_id = (FROM wall);
INSERT INTO sweeps SELECT w.* REPLACE ('w' || n AS id, 'k' || n AS connection_id, [11, 11] AS grid)
FROM sweeps w, many WHERE connection_id = (FROM wall);
INSERT INTO evaluation_rows SELECT e.* REPLACE (p.id AS node_id, 'w' || n AS sweep_id, random() AS value)
FROM (SELECT DISTINCT ON (split, metric) * FROM evaluations WHERE sweep_id IN (
    SELECT id FROM sweeps WHERE connection_id = (FROM wall)
)) e, points p;
DROP TABLE many; DROP TABLE points; DROP TABLE wall
"""


def test_a_stranger_s_graph_has_a_page_that_says_what_is_damaged(
    template: Path, tmp_path: Path, contents: Read
) -> None:
    path = Path(shutil.copytree(template, tmp_path / "it's $(mine)\x1b[31m.mgraph"))
    with duckdb.connect(str(path / "index.duckdb")) as con:
        con.execute("""UPDATE connections SET family = '{"family": "bezier-curve", "bends": 4}' WHERE name = 's'""")
        con.execute("UPDATE connections SET family = '{}' WHERE name = 'line'")
    data = contents(mgraph.open(path).report(tmp_path / "r.html"))
    by_name = {row["name"]: data["connection_details"][row["id"]] for row in data["connections"]}
    assert "damaged" in by_name["line"]
    assert "points" in by_name["curve"]
    said = subprocess.run(["bash", "-c", f"printf %s {data['beside']}"], capture_output=True, check=True).stdout
    assert said.decode() == path.name  # as the commands of the page name it
    assert "\x1b" not in data["beside"]


# Under way


def test_a_page_written_while_a_mode_is_trained_shows_how_far_it_is(
    graph: Any, tmp_path: Path, contents: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(headway, "SECONDS", 0.0)
    seen: list[dict[str, Any]] = []

    def look_on(progress: Any) -> None:
        if progress.done == 10:
            seen.extend(contents(mgraph.open(graph.path).report(tmp_path / "r.html"))["under_way"])

    graph.train(seed=9, epochs=1, name="e", progress=look_on)
    ((one, told),) = [(run, run["headway"]) for run in seen]
    assert (one["command"], one["name"]) == ("train", "e")
    assert (told["done"], told["total"]) == (10, 17)
    assert told["loss"] > 0
    assert [done for _, done, _ in told["losses"]] == list(range(1, 11))
    assert told["seconds_left"] > 0
    assert contents(mgraph.open(graph.path).report(tmp_path / "r.html"))["under_way"] == []
    assert not (graph.path / "states").exists()


def test_headway_is_written_seldom_thinned_and_removed(tmp_path: Path) -> None:
    time_ = [0.0]
    file = HeadwayFile(tmp_path, new_id("r"))
    log = headway.HeadwayLog(file, clock=lambda: time_[0])
    for step in range(1, 601):
        time_[0] += 1.0
        log.note(mgraph.Progress("train", step, 600, 1.0 / step))
    found = file.read()
    assert found is not None
    assert (found.phase, found.total, found.first) == ("train", 600, 1)
    assert found.done >= 598
    steps = [done for _, done, _ in found.losses]
    assert 50 < len(steps) <= 200
    assert len(set(np.diff(steps))) == 1
    log.close()
    assert file.read() is None
    assert not any((tmp_path / "states").iterdir())


@pytest.mark.parametrize("text", ["", "{", "[]", '{"phase": 1}', "\x00", '{"phase":"a","done":1e999}', "[" * 10_000])
def test_headway_that_is_not_ours_is_no_headway(tmp_path: Path, text: str) -> None:
    run = new_id("r")
    (tmp_path / "states" / run).mkdir(parents=True)
    (tmp_path / "states" / run / "headway.json").write_text(text)
    assert HeadwayFile(tmp_path, run).read() is None


def test_the_time_left_follows_from_the_pace_of_the_phase() -> None:
    start = now()
    told = Headway("train", 30, 100, 0.5, start + timedelta(seconds=10), start, 10)
    assert told.seconds_left == pytest.approx(35)
    assert replace(told, done=10).seconds_left is None
    assert replace(told, done=100).seconds_left == 0


def test_watching_ends_at_ctrl_c_with_a_whole_page(process: Any, path: Path, contents: Read) -> None:
    page = path.parent / "r.html"
    child = process("report", "-o", "r.html", "--watch", 1, cwd=path.parent)
    deadline = time.monotonic() + 60
    while not page.exists():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert contents(page)["seconds"] == 1
    assert '<noscript><meta http-equiv="refresh" content="1"></noscript>' in page.read_text()
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out) == (0, "r.html\n"), err
    assert contents(page)["seconds"] is None
    assert 'http-equiv="refresh"' not in page.read_text()
    assert sorted(p.name for p in path.parent.iterdir()) == ["digits.mgraph", "r.html"]
