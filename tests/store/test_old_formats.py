"""A graph of every format that was ever released opens, is sound, and holds what it held."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from mgraph_store import (
    FORMAT_VERSION,
    Evaluation,
    GraphStore,
    Member,
    Node,
    NodeTerm,
    Run,
    Space,
    Sweep,
    new_id,
    problems,
)
from mgraph_store.errors import FormatError, InputError
from mgraph_store.exchange.arrival import unpack
from mgraph_store.exchange.bundle import pack
from mgraph_store.index import migrations
from mgraph_store.index.changes import Changes
from mgraph_store.rows import schema
from mgraph_store.rows.schema import STORED, TABLES, columns
from mgraph_store.upkeep.repair import repair

DATA = Path(__file__).parents[1] / "data"
VERSIONS = range(1, FORMAT_VERSION + 1)
# An upgrade from format 1 takes all steps; the formats between it and this one alone: with make stress.
ENDS = pytest.mark.parametrize(
    "version",
    [pytest.param(v, marks=[pytest.mark.stress] * (v not in (1, FORMAT_VERSION))) for v in VERSIONS],
    indirect=True,
)


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def path(version: int, tmp_path: Path) -> Path:
    shutil.unpack_archive(DATA / f"v{version}.mgraph.zip", tmp_path)
    return tmp_path / f"v{version}.mgraph"


def tables_of(version: int) -> set[str]:
    """The tables that there were."""
    return set(TABLES) if version < 3 else set(STORED) - ({"point_grids", "grid_terms"} if version < 4 else set())


def read_only(path: Path) -> None:
    """Let nobody but root write."""
    for place in [path, *path.rglob("*")]:
        place.chmod(place.stat().st_mode & ~0o222)


@pytest.mark.parametrize("upgraded", [False, True])
def test_it_opens_and_holds_what_it_held(version: int, path: Path, upgraded: bool) -> None:
    spec = importlib.util.spec_from_file_location("make_graph", DATA / "make_graph.py")
    assert spec is not None
    assert spec.loader is not None
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    if upgraded:
        assert GraphStore.open(path).upgrade() == version
    files = {p: p.read_bytes() for p in path.rglob("*") if p.is_file() and p.suffix != ".lock"}
    store = GraphStore.open(path)
    assert problems(store, deep=True) == []
    expected = json.loads((DATA / f"v{version}.json").read_text())
    assert maker.describe(store) == expected
    assert set(expected["rows"]) == tables_of(version)  # something of everything
    assert {p: p.read_bytes() for p in files} == files  # to read is to change nothing


READ_AS_NOBODY = """
import os, sys
from pathlib import Path
from mgraph_store import GraphStore, Node, problems

def read(path):
    store = GraphStore.open(path)
    with store.reading() as reader:
        names = [n.name for n in reader.all(Node) if n.name]
    return len(names), store.read_parameters(names[0]).size, problems(store, deep=True)

first = read(sys.argv[1])  # and imports all that is needed, which nobody may not read
os.geteuid() or os.setuid(65534)  # root may write anywhere
try:
    Path(sys.argv[2], "x").touch()
except PermissionError:
    assert read(sys.argv[2]) == first, first
    print(*first)
"""


@ENDS
def test_it_is_read_where_it_cannot_be_written(path: Path, tmp_path: Path) -> None:
    """By a user who may not write there; as on a medium that nobody can write."""
    mine = shutil.copytree(path, tmp_path / "mine.mgraph")
    with tempfile.TemporaryDirectory() as place:  # pytest's own is for its user alone
        Path(place).chmod(0o755)
        theirs = Path(shutil.copytree(path, Path(place) / "theirs.mgraph"))
        read_only(theirs)
        command = [sys.executable, "-c", READ_AS_NOBODY, mine, theirs]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        for folder in [theirs, *(p for p in theirs.rglob("*") if p.is_dir())]:
            folder.chmod(0o755)  # so that it can be deleted
    assert (done.returncode, done.stdout.split()[1:]) == (0, ["17", "[]"]), done.stderr


@ENDS
def test_its_journal_makes_it_anew(version: int, path: Path) -> None:
    if version != FORMAT_VERSION:
        GraphStore.open(path).upgrade()  # it begins anew
    (path / "index.duckdb").unlink()
    store = GraphStore(path)
    repair(store)
    assert problems(store, deep=True) == []


def test_a_way_leads_from_every_version_to_this_one() -> None:
    assert all(migrations.can_migrate(version) for version in VERSIONS)
    assert not migrations.can_migrate(0)


# Format 2: what chose the route of an edge


def chosen(store: GraphStore) -> dict[tuple[str, str, str], set[str]]:
    """What chose the routes, by method, split and metric."""
    with store.reading() as reader:
        sql = "SELECT c.kind, e.split, e.metric, e.chosen_on, e.doubt FROM edges e JOIN connections c"
        rows = reader.query(f"{sql} ON c.id = e.connection_id")[1]
    assert {row[4] for row in rows} == {None}
    found: dict[tuple[str, str, str], set[str]] = {}
    for *key, value, _ in rows:
        found.setdefault(tuple(key), set()).add(value)
    return found


OF_VERSION_1 = {
    ("curve", "test", "loss"): {"path"},
    ("simplex", "train", "loss"): {"train loss"},
    ("simplex", "valid", "loss"): {"oracle"},
    ("simplex", "test", "loss"): {"oracle"},
    ("simplex", "test", "error"): {"oracle"},
}


def test_edges_of_format_1_say_what_chose_their_routes(tmp_path: Path) -> None:
    shutil.unpack_archive(DATA / "v1.mgraph.zip", tmp_path)
    path = tmp_path / "v1.mgraph"
    with duckdb.connect(str(path / "index.duckdb")) as con:  # three ends more, as format 1 stored a simplex
        con.execute(
            "INSERT INTO connections SELECT * REPLACE ('k7' AS id, 'simplex' AS kind, 'three' AS name) FROM connections"
        )
        con.execute("INSERT INTO sweeps SELECT * REPLACE ('w7' AS id, 'k7' AS connection_id) FROM sweeps")
        con.execute(
            "INSERT INTO members SELECT 'k7', id, 'end', row_number() OVER (), row_number() OVER (), NULL "
            "FROM nodes WHERE name IN ('a', 'b', 'm')"
        )
        for key in OF_VERSION_1:
            if key[0] == "simplex":
                other = "'k7' AS connection_id, 'w7' AS sweep_id, ? AS split, ? AS metric"
                con.execute(
                    f"INSERT INTO edges SELECT * REPLACE ({other}) FROM edges WHERE connection_id <> 'k7'", key[1:]
                )
    store = GraphStore.open(path)
    assert chosen(store) == OF_VERSION_1
    store.upgrade()
    assert chosen(store) == OF_VERSION_1
    with duckdb.connect() as con:  # and the table is the one of a graph made anew
        con.execute(f"ATTACH '{path / 'index.duckdb'}' AS old (READ_ONLY)")
        con.execute(f"ATTACH '{GraphStore.create(tmp_path / 'new.mgraph').path / 'index.duckdb'}' AS new (READ_ONLY)")
        sql = "SELECT column_name, data_type, is_nullable, column_default, comment FROM duckdb_columns() "
        old, new = (con.execute(f"{sql} WHERE database_name = ? ORDER BY ALL", [d]).fetchall() for d in ("old", "new"))
        assert old == new


def test_metrics_of_format_1_have_the_direction_that_accuracy_had(tmp_path: Path) -> None:
    """What a mode was measured by is its task's; of metrics of one's own nothing more than the name is known."""
    shutil.unpack_archive(DATA / "v1.mgraph.zip", tmp_path)
    path = tmp_path / "v1.mgraph"
    with duckdb.connect(str(path / "index.duckdb")) as con:
        one, sweep = "(SELECT min(id) FROM nodes WHERE kind = 'mode')", "(SELECT min(id) FROM sweeps)"
        for metric, owner in (("speed", "NULL"), ("accuracy", "NULL"), ("accuracy", sweep), ("a'b", sweep)):
            con.execute(
                f"INSERT INTO evaluations SELECT * REPLACE ({one} AS node_id, {owner} AS sweep_id, ? AS metric) "
                "FROM evaluations LIMIT 1",
                [metric],
            )
    store = GraphStore.open(path)
    accuracy = {"name": "accuracy", "better": "higher", "best": 1.0, "cost": "error"}
    with store.reading() as reader:
        space_of = {n.id: n.space_id for n in reader.all(Node)}
        (space,) = (s for s in reader.all(Space) if s.id == space_of[min(n.id for n in reader.all(Node, kind="mode"))])
        assert json.loads(space.metrics) == [accuracy, {"name": "speed"}]
        assert [json.loads(s.metrics) for s in reader.all(Sweep)] == [[accuracy]]
    found = store.query_guarded("SELECT test_speed, test_accuracy FROM modes")
    assert list(found.columns) == ["test_speed", "test_accuracy"]


def test_columns_that_came_later_are_those_that_the_steps_add(tmp_path: Path) -> None:
    """So that the rows of a bundle go into the tables that its format had."""
    for version in VERSIONS:
        shutil.unpack_archive(DATA / f"v{version}.mgraph.zip", tmp_path)
        with duckdb.connect(str(tmp_path / f"v{version}.mgraph" / "index.duckdb")) as con:
            found = con.execute("SELECT table_name, column_name FROM duckdb_columns() WHERE NOT internal").fetchall()
        tables = {table for table, _ in found}
        assert tables_of(version) <= tables
        present = {(table, c.name) for table, record in STORED.items() if table in tables for c in columns(record)}
        lacking = {f"{table}.{name}" for table, name in present - set(found)}
        assert lacking == {name for name in migrations.new_since(version) if name.partition(".")[0] in tables}


def with_manifest(bundle: Path, change: Callable[[dict[str, Any]], object], to: Path) -> Path:
    """Write a bundle again with another manifest."""
    with zipfile.ZipFile(bundle) as source, zipfile.ZipFile(to, "w") as target:
        for info in source.infolist():
            data = source.read(info)
            if info.filename == "manifest.json":
                document = json.loads(data)
                change(document)
                data = json.dumps(document).encode()
            target.writestr(info, data)
    return to


def test_a_bundle_is_upgraded_by_the_steps_of_graphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one nullable column more, and with one that a step fills."""
    old = with_manifest(DATA / "v1.bundle", lambda _: None, tmp_path / "old.zip")
    met: list[int] = []

    def step(con: duckdb.DuckDBPyConnection) -> None:
        met.append(len(con.execute("SELECT * FROM edges").fetchall()))
        con.execute("UPDATE nodes SET info = '{\"step\": 3}'")

    monkeypatch.setattr(schema, "FORMAT_VERSION", FORMAT_VERSION + 1)
    monkeypatch.setattr("mgraph_store.exchange.bundle.FORMAT_VERSION", FORMAT_VERSION + 1)
    monkeypatch.setitem(migrations.STEPS, FORMAT_VERSION, step)
    store = GraphStore.create(tmp_path / "g.mgraph")
    unpack(store, old)
    with store.reading() as reader:
        assert {n.info for n in reader.all(Node)} == {'{"step": 3}'}
    assert met == [len(json.loads(zipfile.ZipFile(old).read("manifest.json"))["tables"]["edges"]["rows"])]
    assert chosen(store) == OF_VERSION_1


@pytest.mark.parametrize("version", [0, -1, FORMAT_VERSION + 1])
def test_a_bundle_of_a_format_that_never_was(version: int, tmp_path: Path) -> None:
    bundle = with_manifest(DATA / "v1.bundle", lambda d: d.update(graph_format=version), tmp_path / "odd.zip")
    store = GraphStore.create(tmp_path / "g.mgraph")
    with pytest.raises((InputError, FormatError), match=r"never existed|install a newer mgraph"):
        unpack(store, bundle)


def test_a_bundle_of_format_1_with_columns_of_format_2_is_refused(tmp_path: Path) -> None:
    def add(document: dict[str, Any]) -> None:
        table = document["tables"]["edges"]
        table["columns"].append("doubt")
        for row in table["rows"]:
            row.append("why")

    bundle = with_manifest(DATA / "v1.bundle", add, tmp_path / "odd.zip")
    with pytest.raises(InputError, match="has a row of edges that does not fit"):
        unpack(GraphStore.create(tmp_path / "g.mgraph"), bundle)


def test_a_bundle_of_format_1_is_taken_up(tmp_path: Path) -> None:
    store = GraphStore.create(tmp_path / "new.mgraph")
    unpack(store, DATA / "v1.bundle")
    assert problems(store, deep=True) == []
    assert chosen(store) == OF_VERSION_1
    with store.reading() as reader:
        assert {n.name for n in reader.all(Node) if n.name} == {"a", "b", "c", "m"}
    again = unpack(store, DATA / "v1.bundle")
    assert (again.nodes, again.connections) == ([], [])
    assert chosen(store) == OF_VERSION_1


# Format 3: what a sweep stores is in blocks


@pytest.fixture
def behind(tmp_path: Path) -> tuple[Path, Run]:
    """A graph of format 2 whose index lacks the last commit of its journal."""
    shutil.unpack_archive(DATA / "v2.mgraph.zip", tmp_path)
    path, run = tmp_path / "v2.mgraph", Run(new_id("r"), "late", "{}")
    journal = GraphStore.open(path).index.journal
    count = journal.count()
    assert count is not None
    journal.append(count, Changes.of({Run: [run]}, ()).document())
    return path, run


def test_an_index_of_format_2_that_is_behind_its_journal_is_read_and_upgraded(behind: tuple[Path, Run]) -> None:
    """As a process that was stopped leaves it."""
    path, run = behind
    for upgraded in (False, True):
        store = GraphStore.open(path)
        if upgraded:
            assert store.upgrade() == 2
        with store.reading() as reader:
            assert reader.all(Run, command="late") == [run]
        assert problems(store, deep=True) == []


def test_a_bundle_of_format_2_or_3_is_taken_up(tmp_path: Path) -> None:
    """They have the same rows as one of this format."""
    shutil.unpack_archive(DATA / "v3.mgraph.zip", tmp_path)
    store = GraphStore.open(tmp_path / "v3.mgraph")
    with store.reading() as reader:
        connection = reader.find("k")
    pack(store, [connection.id], tmp_path / "new.zip")
    bundles = [tmp_path / "new.zip"]
    for version in (2, 3):
        said = {"graph_format": version}
        bundles.append(with_manifest(bundles[0], lambda d, said=said: d.update(said), tmp_path / f"{version}.zip"))
    found = []
    for bundle in bundles:
        other = GraphStore.create(tmp_path / f"{bundle.stem}.mgraph")
        unpack(other, bundle)
        assert problems(other, deep=True) == []
        with other.reading() as reader:
            assert reader.query("SELECT count(*) FROM evaluation_blocks")[1] == [(1,)]
            found.append({kind: sorted(map(repr, reader.all(kind))) for kind in (NodeTerm, Member, Evaluation)})
    assert found[0] == found[1] == found[2]
