"""Memory that one array leaves to the next is never that of an array which somebody still refers to."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mgraph_store.errors import CorruptError
from mgraph_store.tensors import memory
from mgraph_store.tensors.memory import new_array
from mgraph_store.tensors.objects import TensorStore

FLOAT32 = np.dtype(np.float32)
SIZE = 80_000  # of float32: above 256 KiB


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(memory, "KEPT_ABOVE", 1 << 18)
    monkeypatch.setattr(memory, "KEPT_UP_TO", 1 << 19)
    monkeypatch.setattr(memory, "_kept", [])
    yield
    gc.collect()


VIEWS: dict[str, Callable[[Any], Any]] = {
    "itself": lambda a: a,
    "a part": lambda a: a[7:50],
    "a part of a part": lambda a: a[5:][2:50].reshape(8, 6).T,
    "other numbers": lambda a: a.view(np.int16)[3:9],
    "a single number": lambda a: a[3:4].reshape(()),
    "a memoryview": lambda a: a[2:8].data,
    "from a buffer": lambda a: np.frombuffer(a, np.uint8)[4:40],
    "by another library": lambda a: np.from_dlpack(a)[3:9],
    "of another class": lambda a: a.view(np.recarray)[3:9],
    "broadcast": lambda a: np.broadcast_to(a[:5], (3, 5)),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_memory_is_lent_again_only_when_the_last_view_is_gone(view: Callable[[Any], Any]) -> None:
    first = new_array(SIZE, FLOAT32)
    first[:] = np.arange(SIZE)
    at, last = first.ctypes.data, view(first)
    before = bytes(np.ascontiguousarray(last))
    del first
    second = new_array(SIZE, FLOAT32)
    second[:] = -1
    assert second.ctypes.data != at
    assert bytes(np.ascontiguousarray(last)) == before

    del last
    third = new_array(SIZE, FLOAT32)
    assert third.ctypes.data == at


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([SIZE, SIZE + 1, 2 * SIZE, 50])), max_size=30))
def test_no_two_arrays_share_memory(steps: list[tuple[int, int]]) -> None:
    living: dict[int, tuple[Any, int]] = {}
    for number, (place, size) in enumerate(steps):
        living.pop(place, None)
        array = new_array(size, FLOAT32)
        array[:] = number
        living[place] = array[size // 2 :], number
        assert all((part == its).all() for part, its in living.values())
        assert len(memory._kept) <= 1


def test_what_is_kept_is_bounded() -> None:
    for size, kept in ((50_000, 0), (SIZE, 1), (1 << 17, 1), ((1 << 17) + 1, 0)):
        memory._kept.clear()
        new_array(size, FLOAT32)
        assert len(memory._kept) == kept
    new_array(SIZE, FLOAT32)
    new_array(SIZE + 1, FLOAT32)  # of another size: what was kept for the one before is given back
    assert [m.nbytes for m in memory._kept] == [4 * (SIZE + 1) + 4096]


def test_threads_get_memory_of_their_own() -> None:
    failed: list[int] = []

    def work(number: int) -> None:
        for _ in range(200):
            array = new_array(SIZE, FLOAT32)
            array[::1000] = number
            other = new_array(SIZE, FLOAT32)
            other[::1000] = -1
            if not (array[::1000] == number).all():
                failed.append(number)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_what_was_read_before_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "tensors.zarr").mkdir()
    objects = TensorStore(tmp_path / "tensors.zarr", tmp_path / "tmp")
    for number, key in enumerate(("ta00000000", "tb00000000", "tc00000000")):
        objects.write(key, {"float32": np.full(SIZE, number, np.float32)})
    part = objects.open("ta00000000").read()[-3:]
    first = objects.open("tb00000000").read()
    at = first.ctypes.data
    del first
    path = tmp_path / "tensors.zarr/tb00000000/float32/c/0"
    path.write_bytes(b"x" + path.read_bytes()[1:])
    with pytest.raises(CorruptError):  # the memory of a failed read is kept, too, but not what was read into it
        objects.open("tb00000000").read()
    gc.collect()
    again = objects.open("tc00000000").read()
    assert again.ctypes.data == at
    assert (again == 2).all()
    assert (part == 0).all()
