"""The cache of predictions: whole or not there, within its budget, and never in the way."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from mgraph_store import GraphStore
from mgraph_store.errors import EntryError
from mgraph_store.folder import Folder
from mgraph_store.predictions import PREDICTIONS, Predictions, sizes_of
from mgraph_store.upkeep.collect import plan_collection
from mgraph_store.upkeep.copying import copy

KEYS = [f"{i:032x}" for i in range(6)]
SECRET = b"ours"


def test_what_is_put_is_got_bit_for_bit(tmp_path: Path) -> None:
    cache = Predictions(Folder(tmp_path), SECRET)
    assert cache.get(KEYS[0]) is None
    for key, array in zip(KEYS, (np.arange(6.0).reshape(2, 3), np.zeros((0, 4), np.float32)), strict=False):
        assert cache.put(key, array)
        found = cache.get(key)
        assert found is not None
        assert (found.dtype, found.tobytes(), found.shape) == (array.dtype, array.tobytes(), array.shape)
    assert sorted(p.name for p in (tmp_path / PREDICTIONS).iterdir()) == KEYS[:2]


def test_a_damaged_file_is_not_there(tmp_path: Path) -> None:
    cache = Predictions(Folder(tmp_path), SECRET)
    cache.put(KEYS[0], np.arange(100.0))
    file = tmp_path / PREDICTIONS / KEYS[0]
    content = bytearray(file.read_bytes())
    content[200] ^= 1
    file.write_bytes(content)
    assert cache.get(KEYS[0]) is None
    assert not file.exists()


def test_what_somebody_else_has_put_there_is_not_there(tmp_path: Path) -> None:
    """Neither a file signed by another user, nor one of ours under another key."""
    ours, theirs = (Predictions(Folder(tmp_path), secret) for secret in (SECRET, b"theirs"))
    theirs.put(KEYS[0], np.ones(3))
    assert ours.get(KEYS[0]) is None
    ours.put(KEYS[1], np.ones(3))
    (tmp_path / PREDICTIONS / KEYS[1]).rename(tmp_path / PREDICTIONS / KEYS[2])
    assert ours.get(KEYS[2]) is None
    (tmp_path / PREDICTIONS / KEYS[3]).write_bytes(b"short")
    assert ours.get(KEYS[3]) is None


def test_the_oldest_make_room_for_the_newest(tmp_path: Path) -> None:
    array = np.zeros(1000)
    cache = Predictions(Folder(tmp_path), SECRET, budget=3 * 9000)
    for age, key in enumerate(KEYS):
        cache.put(key, array)
        os.utime(tmp_path / PREDICTIONS / key, (1000 + age, 1000 + age))
    assert [cache.get(key) is not None for key in KEYS] == [False] * 3 + [True] * 3
    assert sum(sizes_of(Folder(tmp_path / PREDICTIONS)).values()) <= cache.budget
    assert not cache.put(KEYS[0], np.zeros(10_000))  # more than half of all


def test_a_full_disk_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Folder, name: str, data: bytes) -> None:
        (tmp_path / PREDICTIONS / name).write_bytes(data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Folder, "write", full)
    assert not Predictions(Folder(tmp_path), SECRET).put(KEYS[0], np.zeros(3))
    assert list((tmp_path / PREDICTIONS).iterdir()) == []


def test_only_keys_are_names(tmp_path: Path) -> None:
    cache = Predictions(Folder(tmp_path), SECRET)
    for key in ("../x", "", "A" * 32):
        with pytest.raises(ValueError, match="not a key"):
            cache.get(key)


def test_a_link_in_its_place_is_refused(tmp_path: Path) -> None:
    store = GraphStore.create(tmp_path / "g.mgraph")
    (tmp_path / "outside").mkdir()
    (store.path / PREDICTIONS).symlink_to(tmp_path / "outside")
    with pytest.raises(EntryError, match=r"predictions in graph .* is a symbolic link"):
        GraphStore.open(store.path)


def test_gc_names_what_it_frees_and_a_copy_leaves_it_out(tmp_path: Path) -> None:
    store = GraphStore.create(tmp_path / "g.mgraph")
    store.predictions(SECRET).put(KEYS[0], np.zeros(100))
    assert [(i.kind, i.why) for i in plan_collection(store, 3600).items] == []
    plan = plan_collection(store, 0)
    assert [(i.kind, i.why) for i in plan.items] == [(PREDICTIONS, "1 cached, computed again when they are needed")]
    assert plan.nbytes > 800
    copy(store, tmp_path / "copy.mgraph")
    assert not (tmp_path / "copy.mgraph" / PREDICTIONS).exists()
    plan.apply(store)
    assert not (store.path / PREDICTIONS).exists()
