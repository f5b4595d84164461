"""An upgrade that is killed at any moment: the graph is of the one format or of the other, with all that it had."""

from __future__ import annotations

import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from faultkit import crash
from faultkit.model import Model
from test_faults import SEED, rounds

from mgraph_store import FORMAT_VERSION, GraphStore, Run, new_id
from mgraph_store.upkeep.check import examine

OLD = Path(__file__).parents[1] / "data" / "v1.mgraph.zip"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A graph that the first version made."""
    shutil.unpack_archive(OLD, tmp_path)
    return tmp_path / "v1.mgraph"


def _found(path: Path, before: Model) -> int:
    """Check a graph after a kill and return its format."""
    store = GraphStore.open(path)
    problems = examine(store, deep=True)
    assert Model.of(store) == before
    assert store.index.found is not None
    if store.index.found == FORMAT_VERSION:  # its journal may still be missing, which the next writer makes
        problems = [p for p in problems if (p.subject, p.outcome) != ("journal", "repairable")]
    assert problems == []
    return store.index.found


@pytest.mark.parametrize("kill", ["at an event", pytest.param("at a moment", marks=pytest.mark.stress)])
@rounds(1, 100)
def test_killed_while_upgrading(old: Path, tmp_path: Path, count: int, kill: str) -> None:
    before, draw = Model.of(GraphStore.open(old)), random.Random(SEED)
    begun = time.monotonic()
    shutil.copytree(old, tmp_path / "whole.mgraph")
    worker = crash.start(crash.upgrade, tmp_path / "whole.mgraph")
    worker.join()
    assert worker.exitcode == 0
    took = time.monotonic() - begun
    assert _found(tmp_path / "whole.mgraph", before) == FORMAT_VERSION
    formats = set()
    for number in range(count):
        path = tmp_path / f"{number}.mgraph"
        shutil.copytree(old, path)
        for _ in range(draw.randrange(1, 3)):  # the next attempt meets what the last one has left
            worker = crash.start(crash.upgrade, path, draw.randrange(1, 80) if kill == "at an event" else None)
            if kill == "at a moment":
                time.sleep(draw.uniform(0, took))
                worker.kill()
            worker.join()
            assert worker.exitcode in (0, -signal.SIGKILL)
            formats.add(_found(path, before))
        store = GraphStore.open(path)
        store.upgrade()
        assert examine(store, deep=True) == []
        with store.transaction() as tx:
            tx.add(Run(new_id("r"), "after", "{}"))
        assert examine(store, deep=True) == []
        assert _rows_of(Model.of(store)) == _rows_of(before)
        shutil.rmtree(path)
    if count > 50:
        assert formats == {1, FORMAT_VERSION}


def _rows_of(model: Model) -> object:
    return {table: rows for table, rows in model.rows.items() if table != "runs"}, model.values
