"""check, gc, rm, mv and du on a graph with every kind of connection."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mgraph
from mgraph_store import GraphStore


def test_check_is_silent_on_a_sound_graph(run: Any) -> None:
    assert run("check").stdout == "No problems.\n"
    assert run("check", "--deep", "--json").rows == []


def test_check_names_what_is_damaged_and_repairs_what_it_can(run: Any, path: Path) -> None:
    before = (path / "index.duckdb").read_bytes()
    run("mv", "a", "first")
    (path / "index.duckdb").write_bytes(before)  # of an older copy, from which the journal goes on
    assert "first" in run("ls").stdout
    run("mv", "first", "second")
    (path / "index.duckdb").write_bytes(before[:20_000])
    assert "is damaged" in (told := run("ls", code=1).stderr)
    assert "`mgraph check` says what can be done" in told
    found = run("check", code=1)
    assert "repairable" in found.stdout
    done = run("check", "--repair")
    assert "rebuilt from the journal" in done.stderr
    assert done.stdout == "No problems.\n"
    assert "second" in run("ls").stdout


def test_check_tells_what_a_lost_tensor_takes_along(run: Any, path: Path) -> None:
    with GraphStore.open(path).reading() as reader:
        merged = reader.find_node("m")
        node = next(n for n in (reader.find_node("a"), reader.find_node("b")) if n.digest != merged.digest)
    shutil.rmtree(path / "tensors.zarr" / str(node.tensor_key))
    rows = run("check", "--json", code=1).rows
    assert {row["outcome"] for row in rows} == {"remake", "lost"}
    told = " ".join(row["problem"] for row in rows)
    assert f"{node.id} ({node.name})" in told
    assert all(f"connection {name}" in told.lower() for name in ("line", "wall", "curve", "s"))
    assert "train it again as run" in next(r["remedy"] for r in rows if r["subject"] == node.id)


def test_rm_refuses_lists_and_removes(run: Any, path: Path, snapshot: Callable[..., Any]) -> None:
    before = snapshot(path)
    refused = run("rm", "a", code=2)
    assert "connection line (a is an end of it)" in refused.stderr
    assert "--cascade" in refused.stderr
    dry = run("rm", "a", "--cascade", "--dry-run", "--json")
    assert snapshot(path) == before
    done = run("rm", "a", "--cascade", "--json")
    assert done.rows == dry.rows
    names = {row["name"] for row in done.rows if row["name"]}
    assert names == {"a", "line", "wall", "curve", "s"}
    assert "freed" in done.stderr
    left = {row["name"] for row in run("ls", "--json").rows}
    assert left == {"b", "c", "d", "bare", "m"}
    assert run("check", "--deep").stdout == "No problems.\n"
    garbage = run("gc", "--older-than", "0", "--json").rows
    assert {row["kind"] for row in garbage} == {"predictions"}  # nothing is left of what was removed
    assert run("gc", "--older-than", "0").stdout == "No garbage.\n"
    run("export", "m", "-o", "m.safetensors")


def test_rm_of_a_connection_leaves_its_modes(run: Any) -> None:
    shown = run("rm", "s").stdout
    assert "of them" in shown  # samples are counted, not listed
    assert {row["name"] for row in run("ls", "--json").rows} == {
        "a",
        "b",
        "c",
        "d",
        "m",
        "line",
        "wall",
        "curve",
        "bare",
    }
    assert "No node or connection is called 's'" in run("rm", "s", code=2).stderr


def test_mv_renames_nodes_connections_and_spaces(run: Any, path: Path) -> None:
    assert run("mv", "a", "first", "--json").row["name"] == "first"
    run("mv", "line", "straight")
    space = run("spaces", "--json").rows[0]["name"]
    run("mv", space, "here")
    assert run("spaces", "--json").rows[0]["name"] == "here"
    assert "belongs to" in run("mv", "b", "first", code=2).stderr
    assert "not a usable name" in run("mv", "b", "1b", code=2).stderr
    assert run("mv", "b", "b", "--json").row["name"] == "b"
    assert [e.name for e in mgraph.open(path).connection("straight").ends] == ["first", "b"]


def test_gc_deletes_only_what_is_old(run: Any, path: Path) -> None:
    (path / "tmp" / "thalf").mkdir()
    (path / "tmp" / "thalf" / "chunk").write_bytes(bytes(1234))
    young = run("gc")
    assert young.stdout == "No garbage.\n"
    assert "1 more is younger than 24 h" in young.stderr
    dry = run("gc", "--older-than", "0", "--dry-run")
    assert "1.23 kB" in dry.stdout
    assert (path / "tmp" / "thalf").exists()
    run("gc", "--older-than", "0")
    assert not (path / "tmp" / "thalf").exists()
    assert "hours" in run("gc", "--older-than", "-1", code=2).stderr


def test_du_counts_what_recipes_save(run: Any) -> None:
    row = run("du", "--json").row
    kinds = {r["kind"]: r for r in row["kinds"]}
    assert kinds["sample"]["stored"] == kinds["sample"]["disk"] == 0
    assert kinds["sample"]["saved"] == kinds["sample"]["whole"] > 0
    assert kinds["mode"]["stored"] == 4
    assert {r["connection"] for r in row["connections"]} >= {"s", "curve"}
    assert row["total"] == pytest.approx(
        sum(r["disk"] for r in row["kinds"]) + row["buffers"] + row["garbage"] + sum(row["files"].values())
    )
    shown = run("du").stdout
    assert "total" in shown
    assert "journal" in shown
    assert "saved" in run("du", "--csv").stdout


def test_python_has_the_same(graph: Any, path: Path) -> None:
    assert graph.check(deep=True).ok
    assert mgraph.check(path).rows() == []
    with pytest.raises(mgraph.MGraphError, match="There is no graph"):
        mgraph.check(path / "nowhere")
    assert graph.gc(dry_run=True).rows == ()
    renamed = graph.rename(graph.node("a"), "first")
    assert renamed.name == "first"
    plan = graph.remove(graph.connection("line"), "curve", dry_run=True)
    assert {row["name"] for row in plan.rows if row["name"]} == {"line", "curve"}
    graph.remove("line")
    with pytest.raises(mgraph.MGraphError, match="at least one"):
        graph.remove()
    assert json.dumps(graph.usage())


def test_nobody_holds_the_lock_while_a_network_is_trained(graph: Any) -> None:
    """Whatever is reported happens in the middle of the computation: another may write then."""
    steps: list[int] = []

    def progress(*_: Any, **__: Any) -> None:
        if len(steps) < 2:
            with graph.session.store.lock.exclusive():  # would raise, or wait for itself, if this thread read or wrote
                steps.append(1)

    mode = graph.train(seed=9, epochs=1, progress=progress)
    graph.connect("a", mode, method=mgraph.BezierCurve(epochs=1), grid=3, progress=progress)
    assert steps


def test_a_graph_of_an_older_format_is_read_and_upgraded_when_asked(commands: Any, tmp_path: Path) -> None:
    shutil.unpack_archive(Path(__file__).parents[1] / "data" / "v1.mgraph.zip", tmp_path)
    run = commands(tmp_path)
    listed = run("ls")
    for write in (("rm", "c"), ("mv", "a", "first"), ("tag", "a", "good")):
        refused = run(*write, code=2)
        assert "has format 1, this mgraph writes format 4" in refused.stderr
        assert "give mgraph upgrade" in refused.stderr
        assert refused.stderr.count("\n") == 1
    assert run("rm", "c", "--dry-run").stdout
    assert run("sql", "SELECT count(*) FROM edges").stdout
    assert run("ls").stdout == listed.stdout
    assert run("upgrade", "--json").row == {"path": str(tmp_path / "v1.mgraph"), "before": 1, "format": 4}
    assert run("upgrade", "--json").row["before"] == 4
    assert run("ls").stdout == listed.stdout
    run("mv", "a", "first")
    assert run("check", "--deep").stdout == "No problems.\n"
