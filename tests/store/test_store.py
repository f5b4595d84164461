from __future__ import annotations

import dataclasses
import os
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from mgraph_store import (
    GraphStore,
    Layout,
    Member,
    Node,
    NodeBuffers,
    NodeTerm,
    Run,
    Sweep,
    combine,
    garbage,
    new_id,
    problems,
)
from mgraph_store.errors import (
    ConflictError,
    CorruptError,
    FormatError,
    InputError,
    NameTakenError,
    NonFiniteError,
    NotFoundError,
    StoreError,
)
from mgraph_store.exchange.bundle import pack
from mgraph_store.folder import Folder, put_in_place
from mgraph_store.index.journal import Journal
from mgraph_store.rows.records import now
from mgraph_store.upkeep.copying import copy

as_root = pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")

# --- create and open ---------------------------------------------------------------------------------------


LAYOUT = ("index.duckdb", "journal", "tensors.zarr", "tmp", "gate.lock", "index.lock")


def test_create_then_open(tmp_path: Path) -> None:
    made = GraphStore.create(tmp_path / "g.mgraph")
    assert GraphStore.open(str(tmp_path / "g.mgraph")).path == made.path
    assert [p.name for p in tmp_path.iterdir()] == ["g.mgraph"]
    assert {p.name for p in made.path.iterdir()} == set(LAYOUT)
    assert problems(made, deep=True) == []


@pytest.mark.parametrize("kind", ["directory", "file", "dangling"])
def test_create_refuses_what_exists(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "g.mgraph"
    {"directory": path.mkdir, "file": path.touch, "dangling": lambda: path.symlink_to("nowhere")}[kind]()
    with pytest.raises(NameTakenError, match="exists already"):
        GraphStore.create(path)
    assert [p.name for p in tmp_path.iterdir()] == ["g.mgraph"]


def test_create_needs_a_parent(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Cannot create"):
        GraphStore.create(tmp_path / "no" / "g.mgraph")


@as_root
def test_create_needs_permission(tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(InputError, match="Permission denied"):
        GraphStore.create(tmp_path / "g.mgraph")
    tmp_path.chmod(stat.S_IRWXU)


def test_a_failed_create_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Folder, "flush_tree", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        GraphStore.create(tmp_path / "g.mgraph")
    assert list(tmp_path.iterdir()) == []


def test_open_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no graph at"):
        GraphStore.open(tmp_path / "g.mgraph")
    with pytest.raises(NotFoundError, match="is not a graph"):
        GraphStore.open(tmp_path)
    lost = GraphStore.create(tmp_path / "lost.mgraph").path
    (lost / "index.duckdb").unlink()
    with pytest.raises(CorruptError, match=r"lost its index\.duckdb"):
        GraphStore.open(lost)


@pytest.mark.parametrize(("version", "what"), [(5, "newer mgraph"), (0, "reads only format 4")])
def test_other_formats_are_refused(store: GraphStore, version: int, what: str) -> None:
    with duckdb.connect(str(store.path / "index.duckdb")) as con:
        con.execute("UPDATE meta SET format_version = ?", [version])
    with pytest.raises(FormatError, match=what):
        GraphStore.open(store.path)
    with pytest.raises(FormatError, match=what), store.transaction() as tx:
        tx.add(Run(id=new_id("r"), command="x", settings="{}"))


@pytest.mark.parametrize(
    ("sql", "missing"),
    [
        ("ALTER TABLE nodes DROP columns; ALTER TABLE sweeps DROP axes", "lacks nodes.columns, sweeps.axes: make"),
        ("DROP TABLE edges", "lacks edges.connection_id, edges.sweep_id"),
    ],
)
def test_an_index_that_lacks_columns_is_refused_on_opening(store: GraphStore, sql: str, missing: str) -> None:
    with duckdb.connect(str(store.path / "index.duckdb")) as con:
        con.execute(sql)
    with pytest.raises(FormatError, match=f"unreleased mgraph, and its index {missing}"):
        GraphStore.open(store.path)


@pytest.mark.parametrize("content", [b"", b"no database at all" * 500, b"\0" * 20000])
def test_a_spoilt_index_is_reported(store: GraphStore, content: bytes) -> None:
    (store.path / "index.duckdb").write_bytes(content)
    with pytest.raises(CorruptError, match=r"index\.duckdb is damaged"):
        GraphStore.open(store.path)


def test_flipped_bytes_in_the_index_never_give_a_traceback(damaged: Any) -> None:
    damaged.add(damaged.parameters(), names=("a",))
    path = damaged.store.path / "index.duckdb"
    whole = path.read_bytes()
    noticed = 0
    for position in range(0, len(whole), len(whole) // 12):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 255]) + whole[position + 1 :])
        try:
            with damaged.store.reading() as reader:
                reader.all(Node)
        except StoreError:
            noticed += 1
    assert noticed > 0


def test_a_foreign_database_is_reported(store: GraphStore) -> None:
    (store.path / "index.duckdb").unlink()
    with duckdb.connect(str(store.path / "index.duckdb")) as con:
        con.execute("CREATE TABLE cats (name VARCHAR)")
    with pytest.raises(FormatError, match="not the index of a graph"):
        GraphStore.open(store.path)


def test_a_graph_that_may_only_be_read_can_be_read(graph: Any) -> None:
    (node,) = graph.add(graph.parameters(), names=("a",))
    path = graph.store.path
    for p in [path, *path.rglob("*")]:
        p.chmod(p.stat().st_mode & ~0o222)
    try:
        assert np.array_equal(GraphStore.open(path).read_parameters("a"), graph.parameters())
    finally:
        for p in [path, *path.rglob("*")]:
            p.chmod(p.stat().st_mode | 0o200)
    assert node.name == "a"


# --- transactions ------------------------------------------------------------------------------------------


def test_nodes_come_back(graph: Any) -> None:
    rows = [graph.parameters(i) for i in range(3)]
    nodes = graph.add(*rows, names=("a", "b", "c"))
    assert len({n.tensor_key for n in nodes}) == 1  # one segment
    (alone,) = graph.add(graph.parameters(9), names=("d",))
    assert alone.tensor_row is None
    for node, row in zip([*nodes, alone], [*rows, graph.parameters(9)], strict=True):
        assert graph.store.read_parameters(node).tobytes() == row.tobytes()
        assert graph.store.read_parameters(node.id).tobytes() == row.tobytes()
    with graph.store.reading() as reader:
        assert reader.all(Node) == [*nodes, alone]


def test_large_and_small_rows_find_their_places(graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mgraph_store.transaction.CHUNK_BYTES", 40)
    monkeypatch.setattr("mgraph_store.transaction.SEGMENT_BYTES", 100)
    sizes = [10, 11, 4, 10, 10, 11, 4]
    rows = [np.full(s, i, np.float32) for i, s in enumerate(sizes)]
    with graph.store.transaction() as tx:
        refs = tx.write_parameters(rows)
        tx.add(*(graph.node(r) for r in refs))
    assert [r.row for r in refs] == [0, None, 0, 1, None, None, 1]
    for ref, row in zip(refs, rows, strict=True):
        assert graph.store.tensor_store.read(ref.key, row=ref.row).tolist() == row.tolist()


@pytest.mark.parametrize("codec", ["none", "blosc"])
def test_buffers_and_names(graph: Any, codec: str, layout: Layout) -> None:
    row = graph.parameters()
    (node,) = graph.add(row, names=("a",), codec=codec)
    groups = {"float32": np.arange(4, dtype=np.float32), "int64": np.array([7])}
    graph.add_buffers(node, groups)
    found = graph.store.read_buffers("a")
    assert {k: v.tolist() for k, v in found.items()} == {"float32": [0, 1, 2, 3], "int64": [7]}
    view = graph.store.tensors("a", policy="own")
    assert list(view) == [t.name for t in layout.tensors] + ["third.weight"]
    assert view["third.weight"] is view["first.weight"]
    assert view["first.weight"].tolist() == row[:12].reshape(3, 4).tolist()
    assert view["first.num_batches_tracked"] == 7
    assert list(graph.store.tensors("a")) == ["first.weight", "second.bias", "third.weight"]
    with pytest.raises(NotFoundError, match=r"no buffers under the policy 'recomputed' .stored: own"):
        graph.store.read_buffers("a", "recomputed")
    with pytest.raises(KeyError):
        view["fourth"]


def test_buffers_of_which_some_are_gone_are_refused(graph: Any, tmp_path: Path) -> None:
    (node,) = graph.add(graph.parameters(), names=("a",))
    graph.add_buffers(node, {"float32": np.arange(4, dtype=np.float32), "int64": np.array([7])})
    with graph.store.reading() as reader:
        (row,) = reader.all(NodeBuffers)
    place = graph.store.path / "tensors.zarr" / row.tensor_key / "float32"
    place.rename(tmp_path / "away")
    for something in (False, True):  # nothing there, or a file
        if something:
            place.write_bytes(b"x")
        with pytest.raises(
            CorruptError, match=rf"{row.tensor_key} has 8 bytes, node {node.id} should have 24: restore"
        ):
            graph.store.read_buffers("a")
        with pytest.raises(CorruptError, match="has 8 bytes"):
            pack(graph.store, [node.id], tmp_path / "a.zip")
        assert not (tmp_path / "a.zip").exists()
    place.unlink()
    (tmp_path / "away").rename(place)


def test_derived_nodes_are_sums(graph: Any) -> None:
    rows = [graph.parameters(i) for i in range(3)]
    nodes = graph.add(*rows)
    for coefficients in ([0.25, 0.5, 0.25], [0.0, 1.0, 0.0], [0.1, 0.0, -3.0], [0.0, 0.0, 0.0]):
        derived = graph.derive(coefficients, nodes)
        assert graph.store.read_parameters(derived).tobytes() == combine(coefficients, rows).tobytes()


def test_derived_nodes_of_many_chunks(graph: Any, small_chunks: Any) -> None:
    small_chunks(400)
    rows = [np.random.default_rng(i).standard_normal(1001).astype(np.float32) for i in range(3)]
    nodes = [n for r in rows for n in graph.add(r)]
    derived = graph.derive([0.3, 0.3, 0.4], nodes)
    assert graph.store.read_parameters(derived).tobytes() == combine([0.3, 0.3, 0.4], rows).tobytes()


def test_another_kernel_is_refused(graph: Any) -> None:
    nodes = graph.add(graph.parameters())
    derived = dataclasses.replace(graph.derive([1.0], nodes), kernel=2)
    with pytest.raises(FormatError, match="version 2 of the summation kernel"):
        graph.store.read_parameters(derived)


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_no_trace(graph: Any, failure: type[BaseException]) -> None:
    graph.add(graph.parameters(), names=("a",))
    files, counts = graph.files(), graph.counts()
    with pytest.raises(failure), graph.store.transaction() as tx:  # noqa: PT012
        refs = tx.write_parameters([graph.parameters(1), graph.parameters(2)])
        tx.write_buffers({"int64": np.array([1])})
        tx.add(*(graph.node(r) for r in refs))
        raise failure
    assert graph.files() == files
    assert graph.counts() == counts
    assert garbage(graph.store) == []


def test_a_commit_cut_short_is_all_or_nothing(graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C right after the record was written: it is committed, so its tensors must stay."""
    real = Journal.append

    def interrupted(*given: Any) -> None:
        real(*given)
        raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "append", interrupted)
    with pytest.raises(KeyboardInterrupt):
        graph.add(graph.parameters(5), names=("kept",))
    monkeypatch.undo()
    assert graph.store.read_parameters("kept").tobytes() == graph.parameters(5).tobytes()


def test_an_empty_transaction_does_not_touch_the_index(graph: Any) -> None:
    index = graph.store.path / "index.duckdb"
    before, files = index.stat().st_mtime_ns, graph.files()
    with graph.store.transaction() as tx:
        pass
    with graph.store.transaction() as tx:
        tx.write_parameters([graph.parameters()])  # tensors that nothing refers to
    assert index.stat().st_mtime_ns == before
    assert graph.files() == files
    with pytest.raises(StoreError, match="has ended"):
        tx.add(graph.space)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(graph: Any, bad: float) -> None:
    files = graph.files()
    row = np.full(17, 3e38, np.float32)  # its float32 sum overflows: that is no reason
    with graph.store.transaction() as tx:
        tx.add(graph.node(tx.write_parameters([row])[0]))
    row[[3, 5]] = bad
    with pytest.raises(NonFiniteError, match=r"1 have 2 of 17 elements .* the first at 3"):
        graph.add(graph.parameters(), row)
    assert len(graph.files()) > len(files)


@pytest.mark.parametrize("row", [np.ones((2, 2), np.float32), np.ones(3), np.ones(0, np.float32)])
def test_parameters_must_be_flat_float32(graph: Any, row: Any) -> None:
    with pytest.raises(InputError, match="give a flat, not empty float32 array"):
        graph.add(row)


def test_names_are_unique_over_nodes_and_connections(graph: Any, space_factory: Any) -> None:
    (a,) = graph.add(graph.parameters(), names=("a",))
    with pytest.raises(NameTakenError, match=f"'a' belongs to {a.id}"):
        graph.add(graph.parameters(1), names=("a",))
    (other,) = graph.add(graph.parameters(3))
    connection, *ends = graph.connection(a, other)
    with pytest.raises(NameTakenError, match=a.id), graph.store.transaction() as tx:
        tx.add(dataclasses.replace(connection, name="a"))
    with pytest.raises(NameTakenError, match="given twice"):
        graph.add(graph.parameters(1), graph.parameters(2), names=("b", "b"))
    with pytest.raises(NameTakenError, match="'only' belongs to"), graph.store.transaction() as tx:
        tx.add(space_factory("only"))
    with pytest.raises(InputError, match="not a usable name"):
        graph.add(graph.parameters(1), names=("a b",))
    with graph.store.transaction() as tx:
        tx.add(dataclasses.replace(connection, name="only"), *ends)  # spaces have names of their own


def test_ids_are_unique(graph: Any) -> None:
    (a,) = graph.add(graph.parameters())
    with pytest.raises(InputError, match=f"id {a.id} is already used"), graph.store.transaction() as tx:
        tx.add(a)


def test_references_must_exist(graph: Any) -> None:
    (a,) = graph.add(graph.parameters())
    derived = graph.derive([1.0], [a])
    (b,) = graph.add(graph.parameters(1))
    k, *ends = graph.connection(a, b)
    ghost = "mghostghostgh"
    for records, what in (
        ([Member(k.id, a.id, "end", 0)], "members has connection_id"),
        ([k, Member(k.id, ghost, "end", 0)], f"node_id {ghost}, which is not in nodes"),
        ([NodeTerm(derived.id, 1, ghost, 0.5)], "source_id"),
        ([NodeTerm(derived.id, 1, derived.id, 0.5)], "is derived"),
        ([dataclasses.replace(a, id=new_id("m"), space_id="aghostghostgh")], "space_id"),
        ([Sweep(new_id("w"), ghost, None, (3,), "none", "fp32")], "sweeps has connection_id"),
        ([dataclasses.replace(a, id=new_id("m"), kernel=1)], "either stored"),
        ([dataclasses.replace(a, id=new_id("m"), tensor_key=None)], "either stored"),
    ):
        with pytest.raises(InputError, match=what), graph.store.transaction() as tx:
            tx.add(*records)
    with graph.store.transaction() as tx:  # the order of adding does not matter
        tx.add(*ends, k)


def test_buffers_of_one_policy_are_stored_once(graph: Any) -> None:
    (a,) = graph.add(graph.parameters())
    graph.add_buffers(a, {"int64": np.array([1])})
    with pytest.raises(InputError, match="already stored"):
        graph.add_buffers(a, {"int64": np.array([2])})
    graph.add_buffers(a, {"int64": np.array([2])}, policy="recomputed")


def test_updates_replace_rows(graph: Any) -> None:
    run = Run(id=new_id("r"), command="train", settings="{}")
    a, b = graph.add(graph.parameters(), graph.parameters(1), names=("a", "b"))
    with graph.store.transaction() as tx:
        tx.add(run)
    with graph.store.transaction() as tx:
        tx.update(dataclasses.replace(run, status="complete"))
        tx.update(dataclasses.replace(a, name="renamed"))
    with graph.store.reading() as reader:
        assert reader.get(Run, id=run.id).status == "complete"
        assert [n.name for n in reader.all(Node)] == ["renamed", "b"]
    with pytest.raises(NameTakenError, match=b.id), graph.store.transaction() as tx:
        tx.update(dataclasses.replace(a, name="b"))
    with graph.store.transaction() as tx:  # swap: only the end counts
        tx.update(dataclasses.replace(a, name="b"))
        tx.update(dataclasses.replace(b, name="renamed"))
    with pytest.raises(NotFoundError, match="cannot be updated"), graph.store.transaction() as tx:
        tx.update(dataclasses.replace(run, id=new_id("r")))
    with pytest.raises(InputError, match="no id"), graph.store.transaction() as tx:
        tx.update(NodeTerm(a.id, 0, b.id, 1.0))  # type: ignore[arg-type]


def test_a_sweep_grows_and_is_completed(graph: Any) -> None:
    k, *ends = graph.connection(*graph.add(graph.parameters(), graph.parameters(1)))
    plain = Sweep(new_id("w"), k.id, None, (3,), "none", "fp32")
    assert (plain.axes, plain.status) == (None, "complete")
    sweep = dataclasses.replace(plain, id=new_id("w"), axes="[[0,0.25,1]]", status="partial")
    with graph.store.transaction() as tx:
        tx.add(k, *ends, plain, sweep)
    done = dataclasses.replace(sweep, grid=(5,), axes="[[0,0.1,0.25,0.5,1]]", status="complete")
    with graph.store.transaction() as tx:
        tx.update(done)
    with graph.store.reading() as reader:
        assert reader.all(Sweep) == [plain, done]
    with pytest.raises(NotFoundError, match="cannot be updated"), graph.store.transaction() as tx:
        tx.update(dataclasses.replace(sweep, id=new_id("w")))


def test_committing_while_reading_is_refused_at_once(graph: Any) -> None:
    with graph.store.reading(), pytest.raises(StoreError, match="end that first, before"):
        graph.add(graph.parameters())
    assert garbage(graph.store) == []


def test_a_full_disk_at_the_commit_leaves_nothing(graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Any, con: Any) -> None:
        self._attempted = True
        con.execute("SELECT error('Could not write file: No space left on device')")

    files = graph.files()
    monkeypatch.setattr("mgraph_store.transaction.Transaction._commit_what_is_known_to_fit", lambda _: None)
    monkeypatch.setattr("mgraph_store.transaction.Transaction._store", full)
    with pytest.raises(StoreError, match=r"No space left for .*index\.duckdb"):
        graph.add(graph.parameters())
    assert graph.files() == files


def test_a_row_that_changed_meanwhile_is_not_overwritten(graph: Any) -> None:
    run = Run(new_id("r"), "train", "{}", status="interrupted", started=now())
    with graph.store.transaction() as tx:
        tx.add(run)
    mine, other = (dataclasses.replace(run, status="running", pid=pid) for pid in (1, 2))
    with graph.store.transaction() as tx:
        tx.expect(run)
        tx.update(other)

    def claim(by: Run, seen: Run) -> None:
        with graph.store.transaction() as tx:
            tx.expect(seen)
            tx.update(by)

    with pytest.raises(ConflictError, match=f"changed or removed {run.id}"):
        claim(mine, run)
    with graph.store.reading() as reader:
        assert reader.get(Run, id=run.id) == other
    with pytest.raises(ConflictError), graph.store.transaction() as tx:
        tx.expect(dataclasses.replace(run, id=new_id("r")))


@pytest.mark.parametrize("make", [GraphStore.create, None])
def test_of_many_who_make_a_graph_at_one_place_one_does(
    tmp_path: Path, store: GraphStore, make: Callable[[Path], Any] | None
) -> None:
    """Or copy one there; nobody's directory is replaced, not even an empty one."""
    place = tmp_path / "wanted.mgraph"
    start = threading.Barrier(4)

    def create(i: int) -> bool:
        start.wait()
        try:
            make(place) if make is not None else copy(store, place)
        except NameTakenError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(create, range(4))) == 1
    assert problems(GraphStore.open(place)) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["test.mgraph", "wanted.mgraph"]
    (tmp_path / "empty.mgraph").mkdir()
    with pytest.raises(NameTakenError):
        make(tmp_path / "empty.mgraph") if make is not None else copy(store, tmp_path / "empty.mgraph")


def test_a_place_that_somebody_takes_meanwhile_stays_theirs(tmp_path: Path) -> None:
    building, place = tmp_path / "building", tmp_path / "place"
    building.mkdir()
    place.mkdir()  # after whoever built it has looked
    with pytest.raises(FileExistsError):
        put_in_place(building, place)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["building", "place"]
