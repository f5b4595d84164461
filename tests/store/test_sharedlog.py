"""The shared log: one owner of each number, whoever is killed, lags behind or has the wrong time."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from logwriter import Replica, write

from mgraph_store.errors import CorruptError, InputError, StoreError
from mgraph_store.objectstorage import ObjectStorage
from mgraph_store.sharedlog import START, SharedLog

if TYPE_CHECKING:
    from s3server import S3Server

pytest.importorskip("obstore", reason="obstore is not installed")


OTHERS = [pytest.param(name, marks=pytest.mark.stress) for name in ("gs", "az")]


@pytest.fixture(params=["directory", "memory", "s3", *OTHERS])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place for a log."""
    if request.param == "directory":
        (tmp_path / "log").mkdir()
        return str(tmp_path / "log")
    if request.param != "memory":
        request.getfixturevalue(request.param)
    return f"{request.param}://bucket/{tmp_path.name}"


def spoil(place: str, name: str, data: bytes | None) -> None:
    """Change or delete what is stored under a name."""
    if "://" not in place:
        Path(place, name).unlink() if data is None else Path(place, name).write_bytes(data)
    elif data is None:
        ObjectStorage(place).delete([name])
    else:
        ObjectStorage(place).put(name, data)


def kept(place: str, name: str) -> bytes:
    """Read what is stored under a name."""
    return ObjectStorage(place).read(name) if "://" in place else Path(place, name).read_bytes()


def fill(place: str, count: int) -> SharedLog:
    log, last = SharedLog.at(place), START
    for i in range(count):
        position = log.append(b"%d" % i, last)
        assert position is not None
        last = position
    return log


def test_records_are_read_in_order_from_anywhere(place: str) -> None:
    log = fill(place, 40)
    records = list(log.since())
    assert [(r.position.number, r.payload) for r in records] == [(i + 1, b"%d" % i) for i in range(40)]
    assert list(log.since(records[36].position)) == records[37:]
    assert list(log.since(records[-1].position)) == []


def test_of_many_who_want_a_number_one_gets_it(place: str) -> None:
    log = SharedLog.at(place)
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda i: log.append(b"%d" % i, START), range(8)))
    assert sum(position is not None for position in got) == 1
    (record,) = log.since()
    assert got[int(record.payload)] == record.position


@pytest.mark.parametrize("change", ["deleted", "written anew", "flipped", "moved"])
def test_a_changed_log_is_recognised(place: str, change: str) -> None:
    log = fill(place, 3)
    _, second, third = log.since()
    name = "records/000000000003"
    if change in ("deleted", "written anew"):
        spoil(place, name, None)
        if change == "written anew":
            log.append(b"another one", second.position)
        with pytest.raises(CorruptError, match="does not continue record 3"):
            list(log.since(third.position))
        return
    data = bytearray(kept(place, name if change == "flipped" else "records/000000000002"))
    data[-1] ^= change == "flipped"
    spoil(place, name, bytes(data))
    with pytest.raises(CorruptError, match=r"Record 3 .* is damaged"):
        list(log.since(second.position))


def test_a_record_that_follows_another_one_is_recognised(place: str) -> None:
    log = fill(place, 2)
    first, second = log.since()
    spoil(place, "records/000000000002", None)
    log.append(b"another one", first.position)
    log.append(b"and one more", list(log.since())[-1].position)
    with pytest.raises(CorruptError, match="does not continue record 2"):
        list(log.since(second.position))


def test_a_new_machine_begins_with_the_newest_whole_snapshot(place: str) -> None:
    log = fill(place, 12)
    assert log.snapshot() is None
    records = list(log.since())
    for number in (4, 8, 10):
        assert log.put_snapshot(b"up to %d" % number, records[number - 1].position)
    assert not log.put_snapshot(b"another one", records[3].position)
    assert log.snapshot() == (records[9].position, b"up to 10")
    spoil(place, "snapshots/000000000010", b"half")
    found = log.snapshot()
    assert found == (records[7].position, b"up to 8")
    assert list(log.since(found[0])) == records[8:]


def test_a_lost_answer_is_not_taken_for_a_conflict(s3: S3Server, tmp_path: Path) -> None:
    log = SharedLog.at(f"s3://bucket/{tmp_path.name}")
    s3.answers_lost = 1
    position = log.append(b"mine", START)
    assert s3.answers_lost == 0
    assert [r.position for r in log.since()] == [position]


def test_what_cannot_hold_a_log_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no directory"):
        SharedLog.at(tmp_path / "missing")

    def link(*_: Any, **__: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(StoreError, match="no hard links"):
        SharedLog.at(tmp_path).append(b"", START)
    assert list(SharedLog.at(tmp_path).since()) == []


@pytest.mark.parametrize("number", [5, 116])  # an error of the disk, and a file that the server has replaced
def test_a_disk_that_fails_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    log = fill(str(tmp_path), 2)

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreError, match=r"^Cannot read the shared log in .* \(.*\)\.$"):
        list(log.since())
    with pytest.raises(StoreError, match=r"^Cannot write the shared log in .* \(.*\)\.$"):
        log.append(b"", START)


def contend(place: str, folder: Path, until: int, kills: int) -> None:
    """Four writers, one with a wrong clock and one that is behind, of which some are killed and start again."""
    spawn = multiprocessing.get_context("spawn")
    names = {"a": {}, "b": {"skew": 86_400.0}, "c": {"stale": True}, "d": {"skew": -1e7}}

    def start(owner: str) -> multiprocessing.Process:
        process = spawn.Process(target=write, args=(place, owner, until, str(folder)), kwargs=names[owner])
        process.start()
        return process  # type: ignore[return-value]

    log, seen, deadline = SharedLog.at(place), Replica(), time.monotonic() + 300
    running = {owner: start(owner) for owner in names}
    for k in range(1, kills + 1):
        while seen.follow(log).at.number < k * until // (kills + 1):  # who is killed has something to do
            assert time.monotonic() < deadline
            time.sleep(0.01)
        owner = random.choice(sorted(names))
        running[owner].kill()
        running[owner].join()
        running[owner] = start(owner)
    for process in running.values():
        process.join(max(0.0, deadline - time.monotonic()))
        assert process.exitcode == 0
    assert list(folder.glob("*.lost"))  # numbers were contested
    whole = Replica().follow(log)  # which checks that no name has two owners
    assert whole.at.number >= until
    said = {name: owner for owner in names for name in (folder / f"{owner}.said").read_text().split()}
    assert said.items() <= whole.owners.items()  # at most those of who was killed before saying so are more
    assert len(whole.owners) - len(said) <= kills
    replicas = [Replica.load((folder / f"{owner}.json").read_bytes()).follow(log) for owner in names]
    begun = log.snapshot()
    assert begun is not None
    for replica in (*replicas, Replica.load(begun[1]).follow(log)):
        assert (replica.at, replica.owners) == (whole.at, whole.owners)


@pytest.mark.parametrize("place", ["directory"], indirect=True)
def test_nothing_is_lost_when_writers_are_killed(place: str, tmp_path: Path) -> None:
    contend(place, tmp_path, until=150, kills=2)


@pytest.mark.stress
@pytest.mark.parametrize("place", ["directory", "s3", "gs", "az"], indirect=True)
def test_nothing_is_lost_when_many_are_killed(place: str, tmp_path: Path) -> None:
    contend(place, tmp_path, until=4000 if "://" not in place else 600, kills=40)
