"""Nodes computed chunk by chunk: the same bits as all at once, in little memory, and only the parts looked at."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mgraph_store import GraphStore, Layout, Node, NodeTerm, Space, TensorSpec, combine, new_id, recipes
from mgraph_store.errors import CorruptError, InputError
from mgraph_store.folder import Folder
from mgraph_store.root import HAS_PROC
from mgraph_store.tensors.arrays import StoredArray

CHUNK = 1 << 20
LARGE = Layout(
    (
        TensorSpec("a", (1000,), "float32", "parameter"),
        TensorSpec("b", (2, CHUNK), "float32", "parameter"),
        TensorSpec("c", (5, 100), "float32", "parameter"),
    ),
    {"d": "c"},
)
ROWS = [np.random.default_rng(i).standard_normal(LARGE.size).astype(np.float32) for i in range(3)]
TERMS = [(0.5, 0), (-1.0, 1), (2.0, 0), (0.25, 2)]
SUM = combine([c for c, _ in TERMS], [ROWS[i] for _, i in TERMS])


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> GraphStore:
    """A store with nodes a, b, c of three chunks each, and their sum."""
    store = GraphStore.create(tmp_path_factory.mktemp("large") / "g.mgraph", lock_timeout=60)
    space = Space(
        id=new_id("a"),
        name="large",
        arch="-",
        data="-",
        loss="-",
        layout=LARGE.to_json(),
        layout_hash=LARGE.fingerprint,
        data_hash="0" * 32,
    )
    total = Node(id=new_id("s"), kind="sample", space_id=space.id, name="sum", kernel=1)
    with store.transaction() as tx:
        nodes = [
            Node(new_id("m"), "mode", space.id, name=name, tensor_key=r.key, digest=r.digest, nbytes=r.nbytes)
            for name, r in zip("abc", tx.write_parameters(ROWS), strict=True)
        ]
        tx.add(space, total, *nodes)
        tx.add(*(NodeTerm(total.id, k, nodes[i].id, c) for k, (c, i) in enumerate(TERMS)))
    return store


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """The ranges [start, stop) that are read from stored arrays."""
    seen: list[tuple[int, int]] = []
    real = StoredArray.read_into

    def spy(self: StoredArray, out: Any, start: int = 0) -> None:
        seen.append((start, start + out.shape[0]))
        real(self, out, start)

    monkeypatch.setattr(StoredArray, "read_into", spy)
    return seen


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_stream_covers_a_node_once_with_the_bits_of_the_kernel(large: GraphStore, threads: int) -> None:
    found, times = np.full(LARGE.size, np.nan, np.float32), np.zeros(LARGE.size, int)
    workers, lock = set(), threading.Lock()

    def write(offset: int, values: Any) -> None:
        with lock:
            workers.add(threading.get_ident())
            found[offset : offset + values.shape[0]] = values
            times[offset : offset + values.shape[0]] += 1

    large.computation("sum").stream(write, threads=threads)
    assert found.tobytes() == SUM.tobytes()
    assert (times == 1).all()
    assert len(workers) <= threads
    assert large.read_parameters("sum").tobytes() == SUM.tobytes()


def test_ctrl_c_never_breaks_into_the_work_on_a_chunk(large: GraphStore) -> None:
    """It is raised in the calling thread, which only waits: Zarr would go on, and what is written would be half."""
    at_work = set[threading.Thread]()
    for threads in (1, 2):
        large.computation("sum").stream(lambda *_: at_work.add(threading.current_thread()), threads=threads)
    assert at_work
    assert threading.current_thread() not in at_work


def test_a_sum_that_is_no_node_has_the_same_bits(large: GraphStore) -> None:
    names = ["abc"[i] for _, i in TERMS]
    assert large.combination([c for c, _ in TERMS], names).run().tobytes() == SUM.tobytes()
    assert large.combination([1], ["a"]).run().tobytes() == ROWS[0].tobytes()
    assert not large.combination([0, 0], ["a", "b"]).run().any()
    with pytest.raises(InputError, match="1 coefficients for 2 nodes"):
        large.combination([1], ["a", "b"])
    with pytest.raises(InputError, match="is derived"):
        large.combination([1, 1], ["a", "sum"])
    with pytest.raises(InputError, match="finite"):
        large.combination([1, float("nan")], ["a", "b"])


def test_streaming_needs_less_memory_than_a_node(large: GraphStore) -> None:
    large.computation("sum").stream(lambda *_: None)  # imports, and what they keep
    computation = large.computation("sum")
    tracemalloc.start()
    try:
        computation.stream(lambda *_: None, threads=1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * SUM.nbytes  # though these nodes are only three chunks long


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir())) if HAS_PROC else 0


@pytest.mark.parametrize("most", [1, 64])
def test_folders_are_opened_once_for_all_chunks(large: GraphStore, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Of as many nodes as there may be folders open; and none is left open."""
    monkeypatch.setattr(recipes, "_MOST_HELD", most)
    stepped: list[str] = []
    real = Folder._step

    def step(self: Folder, descriptor: int, depth: int, name: str, create: bool) -> int:
        stepped.append(name)
        return real(self, descriptor, depth, name, create)

    computation = large.computation("sum")
    monkeypatch.setattr(Folder, "_step", step)
    before = open_files()
    assert computation.run().tobytes() == SUM.tobytes()
    held = min(most, 3)
    assert stepped.count("c") == held + 3 * (3 - held)
    with pytest.raises(ZeroDivisionError):
        computation.stream(lambda offset, values: 1 // 0)  # type: ignore[arg-type,return-value]
    assert open_files() == before


def test_an_error_while_streaming_stops_it(large: GraphStore) -> None:
    written: list[int] = []

    def full(offset: int, values: Any) -> None:
        written.append(offset)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        large.computation("sum").stream(full)
    assert 1 <= len(written) <= 2


def test_a_part_is_computed_alone(large: GraphStore, reads: list[tuple[int, int]]) -> None:
    computation = large.computation("sum")
    for start, stop in ((0, 10), (CHUNK - 700, CHUNK + 5), (LARGE.size - 3, LARGE.size)):
        assert computation.read(start, stop).tobytes() == SUM[start:stop].tobytes()
    assert sum(b - a for a, b in reads) == 4 * (10 + 705 + 3) - 718  # a is read once for its two terms


@pytest.mark.parametrize("name", ["a", "sum"])
def test_a_tensor_is_read_from_the_chunks_it_lies_in(
    large: GraphStore, name: str, reads: list[tuple[int, int]]
) -> None:
    expected = LARGE.parameter_views(SUM if name == "sum" else ROWS[0])
    view = large.tensors(name)
    assert not reads
    c = view["c"]
    assert c.tobytes() == expected["c"].tobytes()
    assert all(start > 2 * LARGE.size // 3 - 10 for start, _ in reads)
    assert view["d"] is c
    for tensor, values in view.items():
        assert values.tobytes() == expected["c" if tensor == "d" else tensor].tobytes()
        assert values.shape == expected["c" if tensor == "d" else tensor].shape


def test_all_small_tensors_of_a_chunk_are_views_of_one_read(graph: Any, reads: list[tuple[int, int]]) -> None:
    row = graph.parameters()
    graph.add(row, names=("a",))
    values = list(graph.store.tensors("a").values())
    assert np.concatenate([v.reshape(-1) for v in values[:2]]).tobytes() == row.tobytes()
    assert values[0].base is not None
    assert reads == [(0, row.size)]


@pytest.mark.parametrize("place", ["first", "last", "checksum"])
def test_a_flipped_bit_is_found_by_a_direct_read_too(damaged: Any, place: str) -> None:
    (node,) = damaged.add(np.arange(CHUNK + 7, dtype=np.float32))
    file = damaged.store.path / "tensors.zarr" / node.tensor_key / "float32/c/1"
    data = bytearray(file.read_bytes())
    data[{"first": 0, "last": -5, "checksum": -1}[place]] ^= 1
    file.write_bytes(data)
    for read in (damaged.store.read_parameters, lambda n: damaged.store.computation(n).read(CHUNK, CHUNK + 1)):
        with pytest.raises(CorruptError, match="checksum"):
            read(node)
    assert damaged.store.computation(node).read(0, 3).tolist() == [0, 1, 2]


_DAMAGED_HERE = [(0, "flip"), (1, "lost"), (1, "filling"), (2, "cut")]


@pytest.mark.parametrize(
    ("which", "what"),
    [
        pytest.param(which, what, marks=[pytest.mark.stress] * ((which, what) not in _DAMAGED_HERE))
        for which in range(3)
        for what in ("flip", "cut", "lost", "filling")
    ],
)
def test_a_sum_names_the_source_that_is_damaged(damaged: Any, which: int, what: str) -> None:
    size = 2 * CHUNK if what != "filling" else CHUNK + 7
    nodes = damaged.add(*[np.random.default_rng(i).standard_normal(size).astype(np.float32) for i in range(3)])
    total = damaged.derive([0.5, 0.25, 0.25], nodes)
    computation = damaged.store.computation(total)
    file = damaged.store.path / "tensors.zarr" / nodes[which].tensor_key / "float32/c/1"
    data = bytearray(file.read_bytes())
    data[100] ^= 1
    if what == "lost":
        file.unlink()
    else:
        file.write_bytes(data[:1000] if what == "cut" else data)
    with pytest.raises(CorruptError, match=nodes[which].tensor_key):
        computation.run()


@pytest.mark.parametrize(
    ("size", "codec"),
    [
        *((1, "none"), (1000, "blosc"), (CHUNK, "blosc"), (2 * CHUNK + 3, "none"), (2 * CHUNK + 3, "blosc")),
        *(pytest.param(*case, marks=pytest.mark.stress) for case in ((1, "blosc"), (1000, "none"), (CHUNK, "none"))),
    ],
)
def test_direct_reads_and_writes_agree_with_those_of_zarr(graph: Any, codec: str, size: int, tmp_path: Path) -> None:
    import zarr

    row = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    (node,) = graph.add(row, codec=codec)
    array = graph.store.tensor_store.open(node.tensor_key)
    theirs = zarr.open_array(str(graph.store.path / "tensors.zarr" / node.tensor_key / "float32"), mode="r")
    for start, stop in ((0, size), (0, 1), (size // 2, size), (size // 3, size // 2 + 1), (size - 1, size)):
        assert array.read(start, stop).tobytes() == theirs[start:stop].tobytes()
    copy = zarr.create_array(
        str(tmp_path / "copy"),
        shape=theirs.shape,
        dtype=theirs.dtype,
        chunks=theirs.chunks,
        filters=None,
        compressors=theirs.compressors,
        fill_value=theirs.fill_value,
        attributes=theirs.attrs.asdict(),
        config={"write_empty_chunks": True},
    )
    copy[...] = row
    mine = graph.store.path / "tensors.zarr" / node.tensor_key / "float32"
    files = {str(p.relative_to(mine)): p.read_bytes() for p in mine.rglob("*") if p.is_file()}
    expected = {
        str(p.relative_to(tmp_path / "copy")): p.read_bytes() for p in (tmp_path / "copy").rglob("*") if p.is_file()
    }
    assert files == expected
