"""A shared graph of an older format, with a machine that is behind its log, becomes one of the present format.

``v2.shared.zip`` was made by the version that had format 2, ``v3.shared.zip`` by that of format 3: what
``make_graph.py`` added, by a machine that is gone.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mgraph_store import FORMAT_VERSION, Evaluation, GraphStore, Node, NodeTerm, Run, Sweep, assert_consistent, new_id
from mgraph_store.errors import FormatError, OldFormatError, StoreError
from mgraph_store.folder import Folder
from mgraph_store.index import changes, index, migrations
from mgraph_store.index.changes import Changes
from mgraph_store.index.journal import Journal
from mgraph_store.index.journalrecord import packed, unpacked
from mgraph_store.index.shared import SharedJournal
from mgraph_store.machines import join
from mgraph_store.objectstorage import ObjectStorage
from mgraph_store.rows.blocks import gathered
from mgraph_store.rows.records import GridTerm, PointGrid
from mgraph_store.rows.schema import STORED, TABLES
from mgraph_store.sharedlog import SharedLog
from mgraph_store.tensors.claims import Place

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(params=[2, 3])
def old(request: pytest.FixtureRequest) -> int:
    """The format that it has."""
    return int(request.param)


@pytest.fixture
def place(old: int, tmp_path: Path) -> Path:
    """Where the graph is shared."""
    shutil.unpack_archive(DATA / f"v{old}.shared.zip", tmp_path)
    file = tmp_path / "late.mgraph" / "shared.json"
    file.write_text(file.read_text().replace("/mnt/", f"{tmp_path}/"))
    return tmp_path / f"v{old}.shared"


@pytest.fixture
def first(place: Path) -> GraphStore:
    """A machine's directory, of the old format and behind the log."""
    return GraphStore(place.parent / "late.mgraph", lock_timeout=10)


@pytest.fixture
def second(place: Path) -> Path:
    """Another one."""
    return shutil.copytree(place.parent / "late.mgraph", place.parent / "second.mgraph")


def records(place: Path) -> list[dict[str, Any]]:
    """What the log says."""
    return [unpacked(r.payload) or {} for r in SharedLog.at(place / "log").since()]


def announced(place: Path) -> int:
    """How many records say that there may be grids, and add none."""
    return sum(record.get("add", {}).get("point_grids", {}).get("rows") == [] for record in records(place))


def add(store: GraphStore, command: str) -> None:
    """Add a run."""
    with store.transaction() as tx:
        tx.add(Run(new_id("r"), command, "{}"))


def sweep(store: GraphStore) -> None:
    """Add a sweep of one point, in blocks."""
    with store.reading() as reader:
        connection, node = reader.find_connection("k"), reader.find_node("a")
    made, point = (
        Sweep(new_id("w"), connection.id, None, (1,), "fresh", "fp32"),
        Node(new_id("s"), "sample", node.space_id, kernel=1),
    )
    number = Evaluation(point.id, made.id, None, "test", "all", "fresh", "fp32", "loss", 1.5, 0.1, 10)
    with store.transaction() as tx:
        tx.add(made, *gathered([point, NodeTerm(point.id, 0, node.id, 1.0), number]))


def held(store: GraphStore) -> tuple[Any, ...]:
    """What a graph has, as this machine sees it."""
    store.pull()
    with store.reading() as reader:
        found = [reader.all(kind) for kind in (Node, NodeTerm, Evaluation, Run)]
    return tuple(sorted(map(repr, records)) for records in found)


def journal_format(store: GraphStore) -> int:
    """The format in which a journal begins: that of an older one is not compared with the rows."""
    count = store.index.journal.count()
    assert count is not None
    return int(next(store.index.journal.entries(count)).document["meta"]["format_version"])


def test_a_graph_of_an_old_format_is_read_with_all_that_others_have_committed(first: GraphStore, old: int) -> None:
    first = GraphStore.open(first.path)
    with first.reading() as reader:
        assert {n.name for n in reader.all(Node) if n.name} == {"a", "b", "c", "m"}  # m came after it had looked
        assert len(reader.all(Evaluation)) == {2: 3, 3: 4}[old]  # one of which is about no sample
    assert first.read_parameters("m").dtype == np.float32
    assert_consistent(first)
    with pytest.raises(OldFormatError, match=r"give mgraph upgrade here .* can open it on no machine any more"):
        add(first, "early")


def test_every_machine_upgrades_its_own_directory(first: GraphStore, second: Path, place: Path, old: int) -> None:
    assert first.upgrade() == old
    add(first, "one")
    sweep(first)
    other = GraphStore.open(second)
    assert held(other) == held(first)  # while its directory still has format 2
    with pytest.raises(OldFormatError):
        add(other, "early")
    assert other.upgrade() == old
    add(other, "two")
    sweep(other)
    assert first.upgrade() == FORMAT_VERSION
    assert announced(place) == 1
    third = join(place.parent / "third.mgraph", str(place))
    assert held(first) == held(other) == held(third)
    for store in (first, other, third):
        assert_consistent(store, deep=True)
        assert journal_format(store) == FORMAT_VERSION


@pytest.mark.stress
@pytest.mark.parametrize("scheme", ["memory", "s3"])
def test_at_a_url_it_is_the_same(
    first: GraphStore, place: Path, old: int, scheme: str, request: pytest.FixtureRequest
) -> None:
    if scheme == "s3":
        request.getfixturevalue("s3")
    url = f"{scheme}://bucket/{place.parent.name}"
    for folder in place.iterdir():
        storage = ObjectStorage(f"{url}/{folder.name}")
        for file in folder.rglob("*"):
            if file.is_file():
                storage.put(file.relative_to(folder).as_posix(), file.read_bytes())
    shutil.rmtree(place)
    said = first.path / "shared.json"
    said.write_text(said.read_text().replace(str(place), url))
    Place(f"{url}/tensors").write(Folder(first.path))
    second = shutil.copytree(first.path, place.parent / "second.mgraph")

    before = held(GraphStore.open(first.path))
    upgraded = GraphStore.open(first.path)
    assert upgraded.upgrade() == old
    add(upgraded, "one")
    sweep(upgraded)
    other = GraphStore.open(second)
    with pytest.raises(OldFormatError):
        add(other, "early")
    assert other.upgrade() == old
    third = join(place.parent / "third.mgraph", url)
    assert held(upgraded) == held(other) == held(third) != before
    for store in (upgraded, other, third):
        assert_consistent(store, deep=True)
        assert journal_format(store) == FORMAT_VERSION


def test_who_joins_does_not_upgrade_it_for_the_others(first: GraphStore, place: Path, old: int) -> None:
    new = place.parent / "new.mgraph"
    with pytest.raises(FormatError, match=rf"has format {old}.* give mgraph upgrade on a machine that has it"):
        join(new, str(place))
    assert not new.exists()
    first.upgrade()
    shutil.rmtree(place / "log" / "snapshots")  # as if the upgrade had been stopped before
    assert held(join(new, str(place))) == held(first)


def test_who_joins_reads_none_of_the_older_records(
    first: GraphStore, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first.upgrade()
    last, read = len(records(place)), list[int]()
    position = SharedLog._record

    def counted(log: SharedLog, number: int) -> Any:
        read.append(number)
        return position(log, number)

    monkeypatch.setattr(SharedLog, "_record", counted)
    made = join(place.parent / "new.mgraph", str(place))
    assert {number for number in read if number < last} == {1}
    assert held(made) == held(first)


def test_a_machine_of_an_old_format_takes_over_nothing_from_then_on(
    first: GraphStore, place: Path, old: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(records(place))
    first.upgrade()
    known = {table: kind for table, kind in STORED.items() if kind not in (PointGrid, GridTerm)}
    monkeypatch.setattr(changes, "STORED", TABLES if old == 2 else known)
    for document in records(place)[1:before]:
        Changes.from_document(document)
    with pytest.raises(FormatError, match="columns of point_grids"):
        Changes.from_document(records(place)[before])


STEPS: dict[str, tuple[Any, str]] = {
    "while the rows are written": (migrations, "take_steps"),
    "when the log knows": (Journal, "append"),
    "before the index has all commits": (index, "settle"),
    "before the new journal counts": (Journal, "adopt"),
}


@pytest.mark.parametrize(
    "step", [pytest.param(s, marks=[pytest.mark.stress] * (s == "while the rows are written")) for s in STEPS]
)
def test_who_is_stopped_upgrades_it_again(
    first: GraphStore, place: Path, old: int, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*STEPS[step], stop)
        with pytest.raises(KeyboardInterrupt):
            first.upgrade()
    again = GraphStore.open(first.path)
    with again.reading() as reader:
        assert len(reader.all(Node)) == 9
    assert again.upgrade() in (old, FORMAT_VERSION)
    add(again, "one")
    assert announced(place) == 1
    assert_consistent(again, deep=True)
    assert journal_format(again) == FORMAT_VERSION


def test_two_upgrade_it_at_once(
    first: GraphStore, second: Path, place: Path, old: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = SharedJournal.append

    def late(journal: SharedJournal, *what: Any) -> Any:
        monkeypatch.setattr(SharedJournal, "append", append)
        GraphStore.open(second).upgrade()
        return append(journal, *what)

    monkeypatch.setattr(SharedJournal, "append", late)
    assert first.upgrade() == old
    assert announced(place) == 1
    assert held(first) == held(GraphStore.open(second))


def test_what_a_machine_of_an_old_format_commits_meanwhile_comes_before(
    first: GraphStore, place: Path, old: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, log = SharedJournal.append, SharedLog.at(place / "log")

    def late(journal: SharedJournal, *what: Any) -> Any:
        monkeypatch.setattr(SharedJournal, "append", append)
        (*_, last) = log.since()
        assert log.append(packed(Changes.of({Run: [Run(new_id("r"), "late", "{}")]}, ()).document()), last.position)
        return append(journal, *what)

    monkeypatch.setattr(SharedJournal, "append", late)
    assert first.upgrade() == old
    assert [sorted(record["add"]) for record in records(place)[-2:]] == [["runs"], ["point_grids"]]
    with first.reading() as reader:
        assert reader.get(Run, command="late")
    assert_consistent(first, deep=True)


def test_without_the_place_nothing_changes(first: GraphStore, place: Path) -> None:
    before = held(first)
    place.rename(place.with_name("away"))
    with pytest.raises(StoreError, match="mount it"):
        GraphStore(first.path).upgrade()
    place.with_name("away").rename(place)
    assert (announced(place), held(GraphStore.open(first.path))) == (0, before)


@pytest.mark.parametrize(
    ("version", "message"), [(1, "in which none was ever made"), (FORMAT_VERSION + 1, "install a newer mgraph")]
)
def test_a_log_of_a_format_that_cannot_be_followed(
    place: Path, version: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (birth, *_) = SharedLog.at(place / "log").since()
    document = unpacked(birth.payload)
    assert document is not None
    document["meta"]["format_version"] = version
    monkeypatch.setattr("mgraph_store.index.shared.unpacked", lambda _: document)
    with pytest.raises(FormatError, match=message):
        join(place.parent / "new.mgraph", str(place))
