"""The journal beside the index: what each crash window leaves, and what becomes of it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mgraph_store import FORMAT_VERSION, Evaluation, GraphStore, Node, NodeTerm, Run, new_id, problems
from mgraph_store.errors import CorruptError, FormatError, StoreError
from mgraph_store.index import changes as changes_module
from mgraph_store.index import commits
from mgraph_store.index import journal as journal_module
from mgraph_store.index.changes import Changes
from mgraph_store.index.journal import Journal
from mgraph_store.index.journalrecord import Entry, checksum_of, packed, record, record_size
from mgraph_store.rows.schema import Column
from mgraph_store.upkeep.check import examine, journal_state, sums
from mgraph_store.upkeep.problems import LOST, REPAIRABLE
from mgraph_store.upkeep.repair import repair
from mgraph_store.upkeep.shortening import shorten

MANY = int(os.environ.get("MGRAPH_EXAMPLES", "1"))  # so many times more of them: make stress


def rows(store: GraphStore) -> Any:
    with store.reading() as reader:
        return reader.snapshot()


def saved(store: GraphStore, to: Path) -> Callable[[str], None]:
    """Copy index and journal; the function that is returned puts one of them back."""
    shutil.copytree(store.path, to)

    def put_back(name: str) -> None:
        part = store.path / name
        if part.is_dir():
            shutil.rmtree(part)
            shutil.copytree(to / name, part)
        else:
            part.unlink()
            shutil.copyfile(to / name, part)

    return put_back


def test_every_commit_is_counted_and_in_the_journal(graph: Any) -> None:
    journal = graph.store.index.journal
    before = journal.count()
    graph.add(graph.parameters(), names=("a",))
    with graph.store.transaction():
        pass  # nothing to commit
    (node,) = graph.add(graph.parameters(1))
    count = journal.count()
    assert (before.number, count.number) == (1, 3)  # the first is the space
    numbers = [entry.number for entry in journal.entries(count)]
    assert numbers == [0, 1, 2, 3]
    with graph.store.transaction() as tx:
        tx.update(replace(node, name="b"))
    assert rows(graph.store)["meta"]["commits"] == 4


def test_an_index_from_an_older_copy_is_brought_up_to_date(graph: Any, tmp_path: Path) -> None:
    graph.add(graph.parameters(), names=("a",))
    put_back = saved(graph.store, tmp_path / "copy")
    b, c = graph.add(graph.parameters(1), graph.parameters(2), names=("b", "c"))
    graph.derive([0.5, 0.5], [b, c])
    with graph.store.transaction() as tx:
        tx.update(replace(b, name="d"))
    whole = rows(graph.store)
    put_back("index.duckdb")
    assert rows(graph.store) == whole
    put_back("index.duckdb")
    graph.add(graph.parameters(3), names=("e",))
    with graph.store.reading() as reader:
        assert {n.name for n in reader.all(Node)} == {"a", "c", "d", "e", None}


def test_an_index_older_than_its_journal_is_refused_and_rebuilt(damaged: Any, tmp_path: Path) -> None:
    damaged.add(damaged.parameters(), names=("a",))
    rows(damaged.store)
    put_back = saved(damaged.store, tmp_path / "copy")
    b, c = damaged.add(damaged.parameters(1), damaged.parameters(2), names=("b", "c"))
    derived = damaged.derive([0.5, 0.5], [b, c])
    with damaged.store.transaction() as tx:
        tx.add(Evaluation(b.id, None, None, "test", "all", "own", "fp32", "loss", float("nan"), None, 3))
    whole = rows(damaged.store)
    shorten(damaged.store)
    put_back("index.duckdb")
    with pytest.raises(CorruptError, match=r"lost its last 3 commits: the index has 2 of 5, .*: .mgraph check"):
        GraphStore.open(damaged.store.path)
    with pytest.raises(CorruptError, match="lost its last 3"), damaged.store.transaction() as tx:
        tx.add(Run(new_id("r"), "train", "{}"))
    (problem,) = examine(damaged.store)
    assert problem.outcome == REPAIRABLE
    assert "begins with all rows of commit 5" in problem.what
    (done,) = repair(damaged.store)
    assert "up to commit 5" in done
    assert repr(rows(damaged.store)) == repr(whole)
    assert problems(damaged.store, deep=True) == []
    assert damaged.store.read_parameters(derived.id) is not None
    assert list((damaged.store.path / "damaged").rglob("index.duckdb"))


@pytest.mark.parametrize("what", ["old", pytest.param("empty", marks=pytest.mark.stress), "gone"])
def test_the_slots_only_save_looking(graph: Any, tmp_path: Path, what: str) -> None:
    """As after a power cut: they are not flushed."""
    saved(graph.store, tmp_path / "copy")
    graph.add(graph.parameters(), names=("a",))
    graph.add(graph.parameters(1), names=("b",))
    journal, slots = graph.store.index.journal, graph.store.path / "journal" / "count"
    count = journal.count()
    slots.unlink()
    if what != "gone":
        slots.write_bytes((tmp_path / "copy" / "journal" / "count").read_bytes() if what == "old" else b"")
    assert journal.count() == count
    assert problems(graph.store, deep=True) == []
    GraphStore.open(graph.store.path)
    graph.add(graph.parameters(2))
    assert journal.count().number == count.number + 1
    assert problems(graph.store, deep=True) == []


def test_a_record_is_a_commit_once_it_is_whole(graph: Any) -> None:
    """A process that was stopped while it wrote one leaves nothing, or the commit that it did not live to report."""
    journal = graph.store.index.journal
    count = journal.count()
    file = graph.store.path / "journal" / count.file
    run = Run(new_id("r"), "train", "{}")
    done = journal.append(count, Changes.of({Run: [run]}, ()).document())
    whole, slots = file.read_bytes(), (graph.store.path / "journal" / "count").read_bytes()
    journal._note(count, 0)
    for length in (*range(count.length, done.length, 7), done.length - 1):
        file.write_bytes(whole[:length])
        assert journal.count() == count
    assert problems(graph.store, deep=True) == []
    file.write_bytes(whole)
    assert journal.count() == done
    with graph.store.reading() as reader:
        assert reader.get(Run, id=run.id) == run
    (graph.store.path / "journal" / "count").write_bytes(slots)
    graph.add(graph.parameters(), names=("a",))
    assert [e.number for e in journal.entries(journal.count())] == [0, 1, 2, 3]


def test_a_failed_commit_changes_nothing(graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = rows(graph.store)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "_write", full)
        with pytest.raises(StoreError, match="No space left"):
            graph.add(graph.parameters(), names=("a",))
    assert rows(graph.store) == before
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "_note", full)  # nobody relies on that: no failure
        graph.add(graph.parameters(), names=("a",))
    graph.add(graph.parameters(1), names=("b",))
    assert graph.store.index.journal.count().number == 3


@pytest.mark.parametrize("what", ["log", "everything"])
def test_a_journal_that_is_gone_is_named_and_begun_anew(damaged: Any, what: str) -> None:
    damaged.add(damaged.parameters(), names=("a",))
    before = rows(damaged.store)
    directory = damaged.store.path / "journal"
    for file in list(directory.iterdir()):
        if what == "everything" or file.name != "count":
            file.unlink()
    if what == "everything":
        with pytest.raises(CorruptError, match=r"has lost its journal, and perhaps commits with it: .*--repair"):
            GraphStore.open(damaged.store.path)
        with pytest.raises(CorruptError, match="has lost its journal"):
            damaged.add(damaged.parameters(1))
    (problem,) = examine(damaged.store)
    assert (problem.subject, problem.outcome) == ("journal", REPAIRABLE)
    assert "rebuilt" in repair(damaged.store)[0]
    assert rows(damaged.store) == before
    assert problems(damaged.store, deep=True) == []


def test_a_writer_begins_a_journal_that_lacks_commits_anew(damaged: Any, tmp_path: Path) -> None:
    put_back = saved(damaged.store, tmp_path / "copy")
    for seed in range(3):
        damaged.add(damaged.parameters(seed))
    rows(damaged.store)
    put_back("journal")
    assert "lacks 3 commits" in problems(damaged.store)[0]
    damaged.add(damaged.parameters(4))
    assert problems(damaged.store, deep=True) == []
    assert journal_state(damaged.store.index.journal, damaged.store.index.journal.count()).first.number == 4


def test_what_neither_index_nor_journal_has_is_lost_by_number(damaged: Any, tmp_path: Path) -> None:
    (a,) = damaged.add(damaged.parameters(), names=("a",))
    put_back = saved(damaged.store, tmp_path / "copy")
    for seed in (1, 2, 3):
        damaged.add(damaged.parameters(seed))
    put_back("index.duckdb")
    journal = damaged.store.index.journal
    (log,) = (damaged.store.path / "journal").glob("*.log")
    entries = list(journal.entries(journal.count()))
    data = bytearray(log.read_bytes())
    data[-1] ^= 1  # the last of three lost commits
    log.write_bytes(data)
    found = examine(damaged.store)
    assert [p.outcome for p in found if p.subject == "index"] == [LOST]
    assert "1 of which the journal has no record" in " ".join(p.what for p in found)
    done = repair(damaged.store)
    assert f"up to commit {entries[-2].number}" in done[0]
    assert problems(damaged.store, deep=True) == []
    with damaged.store.reading() as reader:
        assert len(reader.all(Node)) == 3
        assert reader.find_node("a") == a


def test_neither_index_nor_journal(damaged: Any) -> None:
    damaged.add(damaged.parameters())
    (damaged.store.path / "index.duckdb").write_bytes(b"rubbish")
    shutil.rmtree(damaged.store.path / "journal")
    found = examine(damaged.store)
    assert {p.subject for p in found} == {"index", "journal"}
    with pytest.raises(StoreError, match="Neither the index nor the journal"):
        repair(damaged.store)


def test_rows_that_somebody_changed_behind_our_back(damaged: Any) -> None:
    a, _b = damaged.add(damaged.parameters(), damaged.parameters(1), names=("a", "b"))
    whole = rows(damaged.store)
    with duckdb.connect(str(damaged.store.path / "index.duckdb")) as con:
        con.execute("UPDATE nodes SET info = '{\"x\": 1}' WHERE name = 'a'")
        con.execute("DELETE FROM nodes WHERE name = 'b'")
    assert problems(damaged.store) == []  # rows fit each other
    (problem,) = examine(damaged.store, deep=True)
    assert "2 of 2 rows that were committed are not there, 1 others are" in problem.what
    assert a.id in problem.what
    repair(damaged.store)
    assert rows(damaged.store) == whole


def test_a_journal_of_other_tables_is_refused(damaged: Any) -> None:
    journal = damaged.store.index.journal
    document = {"meta": {"format_version": FORMAT_VERSION, "created": "2026-01-01T00:00:00", "written_by": "0"}}
    journal.begin(1, [document | {"add": {"nodes": {"columns": ["id"], "rows": [["m"]]}}}])
    with pytest.raises(FormatError, match="columns of nodes"):
        examine(damaged.store, deep=True)


def test_an_index_without_a_counter_is_one_of_an_unreleased_version(store: GraphStore) -> None:
    with duckdb.connect(str(store.path / "index.duckdb")) as con:
        con.execute("ALTER TABLE meta DROP COLUMN commits")
    with pytest.raises(FormatError, match=r"lacks meta\.commits"):
        GraphStore.open(store.path)


some_id = st.sampled_from(["ra", "rb", "rc"])
a_run = st.builds(Run, id=some_id, command=st.sampled_from("xyz"), settings=st.just("{}"))
a_term = st.builds(
    NodeTerm, node_id=some_id, position=st.integers(0, 3), source_id=some_id, coefficient=st.floats(allow_nan=False)
)


@settings(max_examples=7 * MANY, deadline=None)
@given(
    st.lists(st.tuples(st.lists(a_term, max_size=3), st.booleans(), a_run, st.lists(some_id, max_size=2)), max_size=5)
)
def test_a_journal_gives_the_rows_that_the_database_has(steps: list[Any]) -> None:
    from mgraph_store.rows.schema import create_statements

    con, made, present = duckdb.connect(":memory:"), duckdb.connect(":memory:"), set[str]()
    for statement in create_statements(comments=False):
        con.execute(statement)
    meta = {"format_version": FORMAT_VERSION, "created": "2026-01-01T00:00:00", "written_by": "test"}
    entries = [Entry(0, {"meta": meta})]
    for i, (terms, removes, run, gone) in enumerate(steps):
        added = {Run: [run]} if run.id not in present else {}
        updated = [] if added else [run]
        present.add(run.id)
        removed = [("runs", "id", [run.id]), ("node_terms", "source_id", gone)] if removes else []
        present -= {run.id} if removes else set()
        changes = Changes.of(added | ({NodeTerm: terms} if terms else {}), updated, removed)
        changes.apply(con)
        entries.append(Entry(i + 1, json.loads(json.dumps(changes.document()))))
    assert commits.replay(made, entries) == len(steps)
    for table in ("runs", "node_terms"):
        expected = con.execute(f"SELECT * FROM {table}").fetchall()
        assert sorted(map(repr, expected)) == sorted(map(repr, made.execute(f"SELECT * FROM {table}").fetchall()))
    con.close()
    made.close()


def test_a_journal_of_many_rows_is_taken_up_in_portions(graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that DuckDB need not keep all of them in memory until the last one."""
    for seed in range(5):
        graph.add(graph.parameters(seed), graph.parameters(seed + 10))
    monkeypatch.setattr(commits, "_TOGETHER", 2)
    monkeypatch.setattr(commits, "_AT_ONCE", 4)
    journal = graph.store.index.journal
    with duckdb.connect(":memory:") as con, graph.store.reading() as reader:
        watched = Mock(wraps=con)
        commits.replay(watched, journal.entries(journal.count()))
        assert sums(con) == sums(reader.connection)
    assert watched.commit.call_count == 3


def test_torn_slots_lose_nothing(graph: Any) -> None:
    for seed in range(3):
        graph.add(graph.parameters(seed))
    slots = graph.store.path / "journal" / "count"
    data = slots.read_bytes()
    for slot in (0, 1):
        slots.write_bytes(data[: slot * 4096] + bytes(4096) + data[slot * 4096 + 4096 :])
        assert graph.store.index.journal.count().number == 4
        assert problems(graph.store, deep=True) == []


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_journal_with_a_counter_of_before_is_begun_anew(graph: Any, ahead: int) -> None:
    """There, a record behind the counter was a commit only if the index had it."""
    graph.add(graph.parameters(), names=("a",))
    rows(graph.store)
    journal, slots = graph.store.index.journal, graph.store.path / "journal" / "count"
    count = journal.count()
    entries = list(journal.entries(count))
    length = count.length - ahead * record_size(count.number, entries[-1].document)
    former = journal_module._SLOT.pack(b"mgcount1", count.number - ahead, count.generation, length)
    slots.write_bytes((former + checksum_of(former)).ljust(4096, b"\0"))
    if not ahead:
        stale = {"remove": [["nodes", "name", ["a"]]]}
        journal._write(count.file, record(count.number + 1, packed(stale)), count.length)
    assert journal.is_former()
    GraphStore.open(graph.store.path)
    assert problems(graph.store, deep=not ahead) == []
    graph.add(graph.parameters(1), names=("b",))
    assert journal.count().generation != count.generation
    with graph.store.reading() as reader:
        assert {n.name for n in reader.all(Node)} == {"a", "b"}
    assert problems(graph.store, deep=True) == []


@pytest.mark.parametrize("how", ["gone", pytest.param("empty", marks=pytest.mark.stress), "cut by a byte"])
def test_a_writer_notices_a_journal_that_is_gone_or_cut(damaged: Any, how: str) -> None:
    """What it writes behind a hole could not be read back, should the index be lost then."""
    store = damaged.store
    (a,) = damaged.add(damaged.parameters(), names=("a",))
    rows(store)
    file = store.path / "journal" / store.index.journal.count().file
    if how == "gone":
        file.unlink()
    else:
        data = file.read_bytes()
        file.write_bytes(b"" if how == "empty" else data[:-1])
    damaged.derive([0.5], [a])  # with rows that have no id
    for i in range(4):
        damaged.add(damaged.parameters(i + 1), names=(f"n{i}",))
    state = journal_state(store.index.journal, store.index.journal.count())
    assert (state.wrong, state.last) == (None, 7)
    assert problems(store, deep=True) == []
    (store.path / "index.duckdb").unlink()
    repair(store)
    with store.reading() as reader:
        assert {n.name for n in reader.all(Node)} == {"a", None, *(f"n{i}" for i in range(4))}
        assert len(reader.all(NodeTerm)) == 1


def test_a_record_is_never_the_beginning_of_a_file(damaged: Any) -> None:
    """Not even if the file goes while a writer is at work."""
    journal = damaged.store.index.journal
    count = journal.count()
    (damaged.store.path / "journal" / count.file).unlink()
    with pytest.raises(FileNotFoundError):
        journal.append(count, {})
    assert [p.name for p in (damaged.store.path / "journal").iterdir()] == ["count"]


texts = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
numbers = st.none() | st.integers(-(2**63), 2**63 - 1)
floats = st.none() | st.floats()
moments = st.none() | st.datetimes(min_value=datetime(1900, 1, 1), max_value=datetime(2200, 1, 1)).map(
    lambda moment: moment.replace(fold=0)
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(texts, numbers, floats, moments), min_size=1, max_size=8), st.booleans())
def test_many_rows_are_inserted_as_few_are(
    monkeypatch: pytest.MonkeyPatch, rows: list[tuple[Any, ...]], with_nan: bool
) -> None:
    """In whichever way, with every value as it was: NaN is not NULL."""
    kinds = [Column(n, t, True, "", "", lambda v: v, None) for n, t in zip("abcd", changes_module._DTYPES, strict=True)]
    if not with_nan:
        rows = [(a, b, None if c is not None and c != c else c, d) for a, b, c, d in rows]
    found: list[Any] = []
    with duckdb.connect(":memory:") as con, monkeypatch.context() as patch:
        con.execute("CREATE TABLE t (a VARCHAR, b BIGINT, c DOUBLE, d TIMESTAMP)")
        patch.setattr(changes_module, "TABLES", {"t": None})
        patch.setattr(changes_module, "columns", lambda _: kinds)
        for few, many in ((10**9, 10**9), (0, 10**9), (0, 1)):  # by values, by lists, by arrays
            patch.setattr(changes_module, "_FEW", few)
            patch.setattr(changes_module, "_MANY", many)
            changes_module.insert_rows(con, "t", rows)
            found.append(con.execute("SELECT * FROM t ORDER BY rowid").fetchall())
            assert con.execute("SELECT count(*) FROM duckdb_views() WHERE NOT internal").fetchall() == [(0,)]
            con.execute("DELETE FROM t")
    assert repr(found[0]) == repr(found[1]) == repr(found[2]) == repr(rows)


def test_a_sweep_of_many_points_is_stored_as_it_is(graph: Any) -> None:
    a, b = graph.add(graph.parameters(), graph.parameters(1))
    records: list[Any] = []
    for i in range(150):
        sample = Node(new_id("s"), "sample", graph.space.id, kernel=1)
        records += [sample, NodeTerm(sample.id, 0, a.id, i / 7), NodeTerm(sample.id, 1, b.id, 1 - i / 7)]
        value = float("nan") if i == 77 else float("inf") if i == 78 else i / 3
        records.append(Evaluation(sample.id, None, None, "test", "all", "own", "fp32", "loss", value, None, i))
    with graph.store.transaction() as tx:
        tx.add(*records)
    with graph.store.reading() as reader:
        for kind in (Node, NodeTerm, Evaluation):
            stored = [r for r in reader.all(kind, order="rowid") if r not in (a, b)]
            assert repr(stored) == repr([r for r in records if isinstance(r, kind)])
