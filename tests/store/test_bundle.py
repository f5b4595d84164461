"""Bundles: what goes in comes out, in any graph, once; and what no bundle has is refused before anything happens."""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
import stat
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mgraph_store import (
    Connection,
    Edge,
    Evaluation,
    GraphStore,
    Member,
    Node,
    Note,
    Run,
    Space,
    Sweep,
    assert_consistent,
    garbage,
    new_id,
)
from mgraph_store.errors import CorruptError, FormatError, InputError, MGraphError, NotFoundError
from mgraph_store.exchange.arrival import unpack
from mgraph_store.exchange.bundle import MANIFEST, Bundle, pack
from mgraph_store.folder import Folder

EVERYTHING = (
    "spaces",
    "nodes",
    "node_terms",
    "node_buffers",
    "connections",
    "members",
    "sweeps",
    "evaluations",
    "notes",
)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, graph_helper: Callable[[Path], Any]) -> Any:
    """A graph with a connection of two modes by a control point, swept, and a mode apart; tests only read it."""
    graph = graph_helper(tmp_path_factory.mktemp("original") / "g.mgraph")
    run = Run(new_id("r"), "connect", "{}", seed=3)
    a, b, c, apart = graph.add(*[graph.parameters(i) for i in range(4)])
    with graph.store.transaction() as tx:
        tx.add(run)
        for node, name in ((a, "a"), (b, "b"), (apart, "apart")):
            tx.update(replace(node, name=name))
        tx.update(replace(c, kind="control", run_id=run.id))
    for node in (a, b):
        graph.add_buffers(node, {"float32": np.ones(4, np.float32), "int64": np.array([5])})
    sample = graph.derive([0.25, 0.5, 0.25], [a, c, b])
    connection = Connection(new_id("k"), "curve", graph.space.id, '{"name": "x"}', "{}", run_id=run.id, name="k")
    sweep = Sweep(new_id("w"), connection.id, run.id, (3,), "none", "fp32")
    measured = Evaluation(sample.id, sweep.id, run.id, "test", "all", "own", "fp32", "loss", float("nan"), None, 7)
    route = (a.id, sample.id, b.id)
    edge = Edge(connection.id, sweep.id, a.id, b.id, "test", "loss", 0.1, 0.2, 0.3, 1.0, 3, 7, "own", "fp32", route)
    with graph.store.transaction() as tx:
        tx.add(connection, sweep, measured, replace(measured, sweep_id=None, value=0.5), edge)
        members = [(a, "end", 0, 0, None), (b, "end", 1, 2, None), (c, "control", 0, 1, None)]
        tx.add(*(Member(connection.id, n.id, role, i, row, p) for n, role, i, row, p in members))
        tx.add(Member(connection.id, sample.id, "sample", 0, None, (0.5,)))
        tx.add(
            Note(new_id("n"), "best", node_id=a.id), Note(new_id("n"), "why", "it works", connection_id=connection.id)
        )
        tx.add(Note(new_id("n"), "apart", node_id=apart.id))
    graph.k, graph.sample, graph.apart = connection, sample, apart
    graph.packed = tmp_path_factory.mktemp("packed") / "k.mgraph.zip"
    pack(graph.store, [graph.k.id], graph.packed)
    return graph


@pytest.fixture
def rich(original: Any, tmp_path: Path, graph_helper: Callable[[Path], Any]) -> Any:
    """A copy of it, to be changed."""
    shutil.copytree(original.store.path, tmp_path / "g.mgraph")
    graph = copy.copy(original)
    graph.store = GraphStore(tmp_path / "g.mgraph", lock_timeout=30)
    return graph


@pytest.fixture
def bundle(original: Any, tmp_path: Path) -> Path:
    return Path(shutil.copy(original.packed, tmp_path / "k.mgraph.zip"))


@pytest.fixture
def other(tmp_path: Path) -> Any:
    store = GraphStore.create(tmp_path / "other.mgraph", lock_timeout=30)
    yield store
    with store.reading() as reader:
        ((empty,),) = reader.query("SELECT (SELECT count(*) FROM nodes) + (SELECT count(*) FROM spaces) = 0")[1]
    assert not garbage(store)
    if not empty:
        assert_consistent(store)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An empty graph that stays empty, for bundles that are refused."""
    store = GraphStore.create(tmp_path_factory.mktemp("untouched") / "g.mgraph", lock_timeout=30)
    yield store
    with store.reading() as reader:
        for table in EVERYTHING:
            assert reader.query(f"SELECT count(*) FROM {table}")[1] == [(0,)]
    assert not garbage(store)


def rows(store: GraphStore, table: str) -> set[str]:
    left_out = "EXCLUDE (tensor_key, tensor_row)" if table == "nodes" else ""
    left_out = "EXCLUDE (tensor_key)" if table == "node_buffers" else left_out
    with store.reading() as reader:
        return {repr(row) for row in reader.query(f"SELECT * {left_out} FROM {table}")[1]}


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Change the manifest of a bundle, and nothing else."""
    with zipfile.ZipFile(path) as archive:
        content = {i.filename: archive.read(i) for i in archive.infolist()}
    document = json.loads(content[MANIFEST])
    change(document)
    content[MANIFEST] = json.dumps(document).encode()
    return write(path, content)


def write(path: Path, content: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return path


def cell(document: dict[str, Any], table: str, column: str, value: Any, row: int = 0) -> None:
    where = document["tables"][table]
    where["rows"][row][where["columns"].index(column)] = value


def test_a_connection_arrives_with_everything_it_needs(original: Any, bundle: Path, other: Any) -> None:
    done = unpack(other, bundle)
    assert done.connections == [original.k.id]
    assert not done.present
    assert not done.renamed
    for table in (*EVERYTHING, "edges", "runs"):
        missing = rows(original.store, table) - rows(other, table)
        assert all("apart" in row for row in missing), table
        assert not rows(other, table) - rows(original.store, table)
    assert "apart" not in str(rows(other, "nodes"))
    for node in (original.sample.id, "a", "b"):
        assert other.read_parameters(node).tobytes() == original.store.read_parameters(node).tobytes()
    assert other.read_buffers("a")["int64"].tolist() == [5]


def test_twice_is_once(rich: Any, bundle: Path, other: Any) -> None:
    unpack(other, bundle)
    before = {t: rows(other, t) for t in (*EVERYTHING, "edges", "runs")}
    done = unpack(other, bundle)
    assert not done.nodes
    assert not done.connections
    assert len(done.present) == 5
    assert {t: rows(other, t) for t in before} == before
    assert not unpack(rich.store, bundle).nodes  # and where it comes from


def test_a_graph_takes_up_what_came_later(rich: Any, bundle: Path, other: Any, tmp_path: Path) -> None:
    unpack(other, bundle)
    sweep = Sweep(new_id("w"), rich.k.id, None, (5,), "none", "fp32")
    with rich.store.transaction() as tx:
        tx.add(sweep, Evaluation(rich.sample.id, sweep.id, None, "test", "all", "own", "fp32", "loss", 1.0, None, 7))
    pack(rich.store, [rich.k.id], tmp_path / "later.zip")
    unpack(other, tmp_path / "later.zip")
    assert rows(other, "sweeps") == rows(rich.store, "sweeps")
    assert rows(other, "evaluations") == rows(rich.store, "evaluations")


def test_notes_of_two_graphs_do_not_overwrite_each_other(original: Any, bundle: Path, other: Any) -> None:
    unpack(other, bundle)
    with other.reading() as reader:
        theirs = reader.get(Note, key="why")
    with other.transaction() as tx:
        tx.remove(Note, "id", [theirs.id])
        tx.add(replace(theirs, id=new_id("n"), value="I think so"))
    unpack(other, bundle)
    with other.reading() as reader:
        assert [n.value for n in reader.all(Note, key="why")] == ["I think so"]


def test_the_same_part_gives_the_same_bytes(original: Any, bundle: Path, tmp_path: Path) -> None:
    pack(original.store, [original.k.id], tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == bundle.read_bytes()
    with pytest.raises(InputError, match="exists already"):
        pack(original.store, [original.k.id], bundle)


def test_nodes_bring_what_they_are_computed_from(rich: Any, other: Any, tmp_path: Path) -> None:
    partial = rich.partial([(0, 3)], rich.parameters(9), [1.0], [rich.apart], name="p")
    pack(rich.store, [partial.id], tmp_path / "p.zip")
    done = unpack(other, tmp_path / "p.zip")
    assert set(done.nodes) == {partial.id, rich.apart.id}
    assert other.read_parameters("p").tobytes() == rich.store.read_parameters("p").tobytes()
    pack(rich.store, [rich.sample.id], tmp_path / "s.zip")  # its constants are those of its connection
    assert unpack(other, tmp_path / "s.zip").connections == [rich.k.id]
    with pytest.raises(InputError, match="nothing to pack"):
        pack(rich.store, [], tmp_path / "x.zip")
    with pytest.raises(NotFoundError, match="no node or connection mxxxx"):
        pack(rich.store, ["mxxxx"], tmp_path / "x.zip")
    assert not list(tmp_path.glob("*x.zip*"))


def test_names_that_are_taken_change(original: Any, bundle: Path, other: Any) -> None:
    with other.transaction() as tx:
        tx.add(replace(original.space, id=new_id("a"), data_hash="1" * 32))
        (space,) = [r for kind in tx._added.values() for r in kind]
        (ref,) = tx.write_parameters([original.parameters()])
        for name in ("a", "a-2"):
            tx.add(
                Node(new_id("m"), "mode", space.id, name=name, tensor_key=ref.key, digest=ref.digest, nbytes=ref.nbytes)
            )
    done = unpack(other, bundle)
    assert done.renamed == {"a": "a-3", "only": "only-2"}
    assert other.read_parameters("a-3").tobytes() == original.store.read_parameters("a").tobytes()


def test_a_prefix_goes_before_every_name(original: Any, bundle: Path, other: Any) -> None:
    done = unpack(other, bundle, prefix="x.")
    assert done.renamed == {"a": "x.a", "b": "x.b", "k": "x.k"}
    with pytest.raises(InputError, match="usable name"):
        unpack(other, bundle, prefix="../")
    assert unpack(other, bundle, prefix="y.").renamed == {}  # nothing is new


def test_spaces_are_matched_by_what_they_are(original: Any, bundle: Path, other: Any) -> None:
    mine = replace(original.space, id=new_id("a"), name="mine", codec="blosc")
    with other.transaction() as tx:
        tx.add(mine)
    done = unpack(other, bundle)
    assert not done.spaces
    with other.reading() as reader:
        assert {n.space_id for n in reader.all(Node)} == {mine.id}
        assert reader.all(Connection)[0].space_id == mine.id
    assert other.read_parameters("a").tobytes() == original.store.read_parameters("a").tobytes()
    assert not unpack(other, bundle).nodes


def test_an_id_that_is_something_else_is_refused(original: Any, bundle: Path, other: Any) -> None:
    with other.transaction() as tx:
        tx.add(original.space)
        (ref,) = tx.write_parameters([original.parameters(77)])
        with original.store.reading() as reader:
            theirs = reader.find_node("a")
        tx.add(replace(theirs, run_id=None, tensor_key=ref.key, tensor_row=ref.row, digest=ref.digest))
    before = rows(other, "nodes")
    with pytest.raises(InputError, match=f"{theirs.id} of the bundle has another digest"):
        unpack(other, bundle)
    assert rows(other, "nodes") == before


def refused(path: Path, into: Any, match: str, error: type[Exception] = InputError) -> None:
    with pytest.raises(error, match=match):
        unpack(into, path)


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "/etc/evil",
        "tensors/../../evil",
        "C:\\evil",
        "tensors/" + "0" * 31,
        "tensors/",
        "MANIFEST.JSON",
        "tensors/" + "0" * 32 + "/",
        "tensors\\" + "0" * 32,
        "buffers/" + "0" * 32 + "/object",
        "tensors/" + "0" * 32 + "\n",
    ],
)
def test_an_entry_of_another_name_is_refused(bundle: Path, untouched: Any, tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(bundle, "a") as archive:
        archive.writestr(zipfile.ZipInfo(name), b"x")
    listed = set(tmp_path.rglob("*"))
    refused(bundle, untouched, "which no bundle has")
    assert {p for p in tmp_path.rglob("*") if "untouched" not in str(p)} == {
        p for p in listed if "untouched" not in str(p)
    }


def test_archives_that_play_tricks_are_refused(bundle: Path, untouched: Any, tmp_path: Path) -> None:
    good = bundle.read_bytes()

    def spoiled(change: Callable[[zipfile.ZipFile], None]) -> Path:
        bundle.write_bytes(good)
        with pytest.warns() if change is twice else _nothing(), zipfile.ZipFile(bundle, "a") as archive:
            change(archive)
        return bundle

    def twice(archive: zipfile.ZipFile) -> None:
        archive.writestr(zipfile.ZipInfo(MANIFEST), b"{}")

    def link(archive: zipfile.ZipFile) -> None:
        info = zipfile.ZipInfo("tensors/" + "0" * 32)
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, b"/etc/passwd")

    def bomb(archive: zipfile.ZipFile) -> None:
        archive.writestr(zipfile.ZipInfo("tensors/" + "0" * 32), bytes(10**7), zipfile.ZIP_DEFLATED)

    refused(spoiled(twice), untouched, "twice")
    refused(spoiled(link), untouched, "as a link")
    refused(spoiled(bomb), untouched, "compressed")
    with zipfile.ZipFile(spoiled(lambda archive: None), "a") as archive:  # two names for the same bytes
        info = archive.infolist()[-1]
        again = zipfile.ZipInfo("tensors/" + "f" * 32)
        again.file_size = again.compress_size = info.file_size
        again.CRC, again.header_offset = info.CRC, info.header_offset
        archive.filelist.append(again)
        archive.NameToInfo[again.filename] = again
        archive._didModify = True
    refused(bundle, untouched, "overlap")


class _nothing:
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def test_what_is_no_bundle_is_said_to_be_none(untouched: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    refused(path, untouched, "There is no file", NotFoundError)
    path.write_bytes(b"")
    refused(path, untouched, "is not a bundle")
    refused(write(path, {"tensors/" + "0" * 32: b""}), untouched, "has no manifest.json")
    for text in (b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"format": "mgraph-bundle"}', b'{"version": 1}'):
        refused(write(path, {MANIFEST: text}), untouched, "The manifest of")
    refused(
        write(path, {MANIFEST: b'{"format": "mgraph-bundle", "version": 2, "graph_format": 1, "tables": {}}'}),
        untouched, "install a newer", FormatError,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("table", "column", "value", "match"),
    [
        ("nodes", "id", "../../x", "is not an id"),
        ("nodes", "name", "../evil", "not a usable name"),
        ("nodes", "name", 5, "does not fit"),
        ("nodes", "nbytes", -1, "not what its rows say"),
        ("nodes", "digest", "../../../etc/passwd", "not a digest"),
        ("nodes", "digest", "0" * 32, "lacks tensors/0000"),
        ("nodes", "info", "{", "row of nodes"),
        ("nodes", "created", "yesterday", "row of nodes"),
        ("nodes", "space_id", "aaaaaaaaaaaaa", "lacks space"),
        ("node_terms", "source_id", "maaaaaaaaaaaa", "not in nodes"),
        ("node_terms", "coefficient", "many", "row of node_terms"),
        ("node_buffers", "digest", "0" * 32, "lacks buffers/0000"),
        ("members", "parameter", 1, "is not a list"),
        ("spaces", "layout", "{}", "row of spaces"),
        ("spaces", "layout_hash", "0" * 32, "the layout of space"),
        ("connections", "settings", "not json", "row of connections"),
        ("edges", "route", [["x"]], "row of edges"),
    ],
)
def test_rows_that_do_not_fit_are_refused(
    bundle: Path, untouched: Any, table: str, column: str, value: Any, match: str
) -> None:
    refused(rewrite(bundle, lambda d: cell(d, table, column, value)), untouched, match, MGraphError)


def test_unknown_tables_and_columns_are_refused(bundle: Path, untouched: Any) -> None:
    good = bundle.read_bytes()
    refused(rewrite(bundle, lambda d: d["tables"].update(meta={})), untouched, "table 'meta', which is unknown")
    bundle.write_bytes(good)
    refused(rewrite(bundle, lambda d: d["tables"]["runs"]["columns"].append("x")), untouched, "columns are not")
    bundle.write_bytes(good)
    refused(rewrite(bundle, lambda d: d["tables"]["runs"]["rows"][0].pop()), untouched, "row of runs")


def test_tensors_that_are_not_those_of_the_rows_are_refused(bundle: Path, untouched: Any) -> None:
    good = bundle.read_bytes()
    with zipfile.ZipFile(bundle) as archive:
        content = {i.filename: archive.read(i) for i in archive.infolist()}
        places = {i.filename: i.header_offset for i in archive.infolist()}
    for name in content:
        if name != MANIFEST:
            changed = bytearray(content[name])
            changed[-1] ^= 1
            refused(write(bundle, content | {name: bytes(changed)}), untouched, "are damaged", CorruptError)
            longer = content[name] + bytes(8)
            refused(
                write(bundle, content | {name: longer}), untouched, "are damaged|not what its rows say", CorruptError
            )
            flipped = bytearray(good)
            flipped[places[name] + 100] ^= 1  # past the name: in the data, whose CRC then is wrong
            bundle.write_bytes(flipped)
            refused(bundle, untouched, "damaged", CorruptError)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_spoiled_bundle_is_refused_or_the_same(bundle: Path, tmp_path_factory: Any, data: st.DataObject) -> None:
    spoiled = bytearray(bundle.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(spoiled) - 1))
        kind = data.draw(st.sampled_from(["flip", "cut", "insert"]))
        if kind == "flip":
            spoiled[place] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "cut":
            del spoiled[place : place + data.draw(st.integers(1, 2000))]
        else:
            spoiled[place:place] = data.draw(st.binary(min_size=1, max_size=20))
        if not spoiled:
            break
    path = bundle.with_name("spoiled.zip")
    path.write_bytes(spoiled)
    with Bundle(bundle) as good:
        try:
            with Bundle(path) as bad:
                for kind, records in bad.rows.items():
                    assert repr(records) == repr(good.rows[kind])
                for node in bad.rows[Node]:
                    if node.digest is not None:
                        bad.parameters(node.digest, node.nbytes)
        except MGraphError:
            pass


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_manifest_is_read_or_refused(bundle: Path, data: st.DataObject) -> None:
    with zipfile.ZipFile(bundle) as archive:
        document = json.loads(archive.read(MANIFEST))
    table = data.draw(st.sampled_from(sorted(document["tables"])))
    content = document["tables"][table]
    what = data.draw(st.sampled_from(["cell", "cell", "cell", "row", "columns", "table", "document"]))
    if what == "cell" and content["rows"]:
        row = data.draw(st.sampled_from(content["rows"]))
        row[data.draw(st.integers(0, len(row) - 1))] = data.draw(JSON)
    elif what == "row":
        content["rows"].append(data.draw(JSON))
    elif what == "columns":
        content["columns"] = data.draw(JSON)
    elif what == "table":
        document["tables"][table] = data.draw(JSON)
    else:
        document = data.draw(JSON)
    path = write(bundle.with_name("odd.zip"), {MANIFEST: json.dumps(document).encode()})
    with contextlib.suppress(MGraphError):
        Bundle(path).__exit__()


def test_a_full_disk_leaves_no_bundle(original: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Folder, "flush", full)
    before = set(tmp_path.iterdir())
    with pytest.raises(InputError, match="No space left"):
        pack(original.store, [original.k.id], tmp_path / "x.zip")
    assert set(tmp_path.iterdir()) == before


def test_space_of_another_layout_keeps_its_id(original: Any, bundle: Path, other: Any) -> None:
    unpack(other, bundle)
    with other.reading() as reader:
        assert [s.id for s in reader.all(Space)] == [original.space.id]
