"""Faults of every kind at random moments: what was done is there, what was not done is not, and every loss is named.

The quick part runs with the tests, the long one with ``make stress``. ``MGRAPH_FAULT_SEED`` chooses other faults.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faultkit import crash, damage, power
from faultkit.model import Model, verify
from faultkit.workload import OPERATIONS, Work, make_graph

from mgraph_store import GraphStore, Node, digest
from mgraph_store.errors import StoreError
from mgraph_store.upkeep.check import examine
from mgraph_store.upkeep.problems import Problem
from mgraph_store.upkeep.repair import repair

SEED = 1000 * int(os.environ.get("MGRAPH_FAULT_SEED", "0"))


def rounds(quick: int, long: int) -> Any:
    """Give the number of faults: a few with the tests, many with make stress."""
    return pytest.mark.parametrize("count", [quick, pytest.param(long, marks=pytest.mark.stress)])


@pytest.fixture(scope="session")
def sound(made_once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """A graph with a little of everything."""

    def fill(place: Path) -> None:
        make_graph(place / "g.mgraph")
        work = Work.at(place / "g.mgraph", SEED, place / "first.log")
        for operation in ("add", "add", "connect", "sweep", "merge"):
            work.play(operation)

    return made_once("sound", fill) / "g.mgraph"


@pytest.fixture
def path(sound: Path, tmp_path: Path) -> Path:
    """A copy of it, for one test to spoil."""
    return Path(shutil.copytree(sound, tmp_path / "g.mgraph"))


@pytest.mark.stress
def test_the_work_does_what_it_announces(path: Path, tmp_path: Path) -> None:
    """Without any fault, and every operation at least once: else the other tests prove little."""
    before, log = Model.of(GraphStore.open(path)), tmp_path / "work.log"
    work = Work.at(path, SEED + 1, log)
    for operation in (*OPERATIONS, "connect", "sweep", "rm"):
        work.play(operation)
    after = verify(path, before, log)
    assert after != before
    lost = Model({**after.rows, "nodes": after.rows["nodes"] - after.rows["nodes"]}, after.values)
    with pytest.raises(AssertionError):
        verify(path, lost, tmp_path / "none.log")


@pytest.mark.parametrize("kill", [pytest.param(crash.kill_at_random, marks=pytest.mark.stress), crash.kill_at_event])
@rounds(2, 260)
def test_killed_at_any_instant(
    path: Path, tmp_path: Path, count: int, kill: Callable[[Path, Model, int, Path], Model]
) -> None:
    first = now = Model.of(GraphStore.open(path))
    for seed in range(SEED, SEED + count):
        now = kill(path, now, seed, tmp_path)
    assert now != first  # else every kill came too early to prove anything


@rounds(1, 200)
def test_power_cut_at_any_flush(path: Path, tmp_path: Path, count: int) -> None:
    before = Model.of(GraphStore.open(path))
    changed = 0
    for seed in range(SEED, SEED + count):
        shutil.copytree(path, tmp_path / "copy.mgraph")
        after = power.cut_power(tmp_path / "copy.mgraph", before, seed, tmp_path)
        changed += after != before
        shutil.rmtree(tmp_path / "copy.mgraph")
        shutil.rmtree(tmp_path / f"{seed}.mgraph")
    assert changed


def test_a_power_cut_finds_out_who_does_not_flush(path: Path, tmp_path: Path) -> None:
    before = Model.of(GraphStore.open(path))
    for seed in range(8):
        shutil.copytree(path, tmp_path / "copy.mgraph")
        try:
            power.cut_power(tmp_path / "copy.mgraph", before, seed + 40, tmp_path, careless=True)
        except (AssertionError, StoreError):
            return
        shutil.rmtree(tmp_path / "copy.mgraph")
    pytest.fail("eight cuts of a careless process went unnoticed")


@rounds(2, 120)
def test_no_file_may_grow_beyond_some_size(path: Path, tmp_path: Path, count: int) -> None:
    now, told = Model.of(GraphStore.open(path)), list[str]()
    for seed in range(SEED, SEED + count):
        now, complaints = crash.limited(path, now, seed, tmp_path)
        told += complaints
    assert told
    assert {text.partition(" for ")[0] for text in told} == {"StoreError: No space left"}


@rounds(1, 30)
def test_a_full_disk(tmp_path: Path, count: int) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting a small disk is not allowed here")
    try:
        path, failed = disk / "g.mgraph", 0
        make_graph(path)
        now = Model.of(GraphStore.open(path))
        for seed in range(SEED, SEED + count):
            filler = disk / "filler"
            filler.write_bytes(bytes(int(random.Random(seed).uniform(0, 0.95) * shutil.disk_usage(disk).free)))
            log = tmp_path / f"{seed}.log"
            worker = crash.start(crash.work, path, seed, log, 10)
            worker.join()
            assert worker.exitcode == 0
            now = verify(path, now, log)
            failed += log.read_text().count('{"failed": "StoreError: No space left for')
            filler.unlink()
            crash.work(path, seed + 1, tmp_path / f"{seed}.gc", 0)
            work = Work.at(path, seed, tmp_path / "gc.log")
            for operation in ("gc", *["rm"] * 6, "gc"):
                work.play(operation)
            now = Model.of(GraphStore.open(path))
            del work  # a store keeps its directory open
        assert failed
    finally:
        subprocess.run(["umount", disk], check=True)


# Damage at rest


@pytest.fixture
def logged(path: Path, tmp_path: Path) -> Path:
    """The graph of a process that was killed: its last commits are only in DuckDB's write-ahead log."""
    worker = crash.start(crash.work_leaving_log, path, SEED, tmp_path / "log.log", 12)
    worker.join()
    assert worker.exitcode == 0
    assert (path / "index.duckdb.wal").stat().st_size > 5000
    return path


def judge(path: Path, sound: Model, what: str) -> list[Problem]:
    """Check a damaged graph: either nothing is missing, or it is named and a repair brings it all back."""
    store = GraphStore(path)
    found = examine(store, deep=True)
    if found:
        repair(store)
    assert Model.of(GraphStore.open(path)) == sound, what
    assert examine(store, deep=True) == [], what
    return found


def put_back(path: Path, copy: Path) -> None:
    """Undo whatever was done to index and journal."""
    for name in ("index.duckdb", "index.duckdb.wal"):
        (path / name).unlink(missing_ok=True)
        shutil.copyfile(copy / name, path / name)
    for name in ("journal", "damaged"):
        shutil.rmtree(path / name, ignore_errors=True)
    shutil.copytree(copy / "journal", path / "journal")


@rounds(2, 600)
def test_flipped_bits_in_index_log_and_journal(logged: Path, tmp_path: Path, count: int) -> None:
    copy, sound = Path(shutil.copytree(logged, tmp_path / "copy")), Model.of(GraphStore.open(logged))
    named = dict.fromkeys(("index.duckdb", "index.duckdb.wal", "log", "count"), 0)
    for seed in range(SEED, SEED + count):
        draw = random.Random(seed)
        files = {
            "index.duckdb": logged / "index.duckdb",
            "index.duckdb.wal": logged / "index.duckdb.wal",
            "log": next((logged / "journal").glob("*.log")),
            "count": logged / "journal" / "count",
        }
        kind = draw.choices(list(files), [4, 5, 2, 1])[0]
        what = damage.flip_bit(files[kind], draw)
        named[kind] += bool(judge(logged, sound, f"seed {seed}: {what}"))
        put_back(logged, copy)
    assert sum(named.values()) > 0
    assert count < 100 or all(named[kind] for kind in ("index.duckdb", "index.duckdb.wal", "log")), named


@rounds(1, 12)
def test_cut_and_removed_files(logged: Path, tmp_path: Path, count: int) -> None:
    copy, sound = Path(shutil.copytree(logged, tmp_path / "copy")), Model.of(GraphStore.open(logged))
    cases = itertools.product(("index.duckdb", "index.duckdb.wal", "log", "count"), (damage.cut, damage.remove))
    for name, how in list(cases)[:: 1 if count > 1 else 5]:
        for seed in range(SEED, SEED + count):
            journal = logged / "journal"
            files = {"log": next(journal.glob("*.log")), "count": journal / "count"}
            what = how(files.get(name, logged / name), random.Random(seed))
            found = judge(logged, sound, what)
            # The slots only save looking, and what DuckDB's log has lost, the journal gives back without a word.
            assert found or name in ("count", "index.duckdb.wal"), what
            put_back(logged, copy)


def pieces(path: Path) -> dict[str, list[tuple[Path, range]]]:
    """List what a tensor object consists of, by class: descriptions, numbers, checksums, indexes of shards."""
    found: dict[str, list[tuple[Path, range]]] = {}
    for file in sorted((path / "tensors.zarr").rglob("*")):
        size = file.stat().st_size
        if file.is_dir() or file.parent.name == "tensors.zarr":
            continue
        if file.name == "zarr.json":
            kind = "group" if '"node_type": "group"' in file.read_text() else "array"
            found.setdefault(kind, []).append((file, range(size)))
        elif file.parent.parent.name == "c":  # a shard: rows, then 16 bytes for each and a checksum
            rows = json.loads((file.parents[2] / "zarr.json").read_text())["shape"][0]
            index = size - 16 * rows - 4
            found.setdefault("shard", []).append((file, range(index)))
            found.setdefault("shard index", []).append((file, range(index, size)))
        else:
            found.setdefault("chunk", []).append((file, range(size - 4)))
            found.setdefault("checksum", []).append((file, range(size - 4, size)))
    return found


@rounds(1, 60)
def test_damaged_tensor_objects(path: Path, count: int) -> None:
    store = GraphStore.open(path)
    sound = Model.of(store)
    named: dict[str, int] = {}
    for kind, places in pieces(path).items():
        for seed in range(SEED, SEED + count):
            draw = random.Random(f"{kind}{seed}")
            file, where = draw.choice(places)
            whole = file.read_bytes()
            how = draw.choice([_flip_in(where), _flip_in(where), damage.cut, damage.remove])
            what = f"{kind}, seed {seed}: {how(file, draw)} of {file}"
            found = examine(store, deep=True)
            named[kind] = named.get(kind, 0) + bool(found)
            told = " ".join(f"{p.subject} {p.what}" for p in found)
            with store.reading() as reader:
                nodes = [n for n in reader.all(Node) if n.id not in told]
                assert {n.id: digest(store.read_parameters(n)) for n in nodes} == {
                    n.id: sound.values[n.id] for n in nodes
                }, what
            file.write_bytes(whole)
    assert all(named[kind] for kind in ("array", "chunk", "checksum", "shard", "shard index")), named
    assert examine(store, deep=True) == []


def _flip_in(where: range) -> Callable[[Path, random.Random], str]:
    def flip(file: Path, draw: random.Random) -> str:
        data = bytearray(file.read_bytes())
        place, bit = draw.choice(where), draw.randrange(8)
        data[place] ^= 1 << bit
        file.write_bytes(data)
        return f"bit {bit} of byte {place} of {len(data)}"

    return flip
