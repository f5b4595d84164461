from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mgraph_store import digest, digest_groups
from mgraph_store.errors import CorruptError, InputError, StoreError
from mgraph_store.tensors import objects as tensors
from mgraph_store.tensors.digests import has_digest
from mgraph_store.tensors.objects import TensorStore, new_key

ZEROS = "sha256-c63f5294cab43b8ac6be91d3600a5c2b0ecc8f3835adc7635a2d66a22801f96e"


@pytest.fixture
def objects(tmp_path: Path) -> TensorStore:
    (tmp_path / "tensors.zarr").mkdir()
    return TensorStore(tmp_path / "tensors.zarr", tmp_path / "tmp")


@pytest.fixture
def tiny_chunks(small_chunks: Any) -> None:
    """Chunks of 104 bytes at most."""
    small_chunks(104)


def put(objects: TensorStore, codec: str = "none", **groups: Any) -> str:
    key = new_key()
    objects.write(key, groups, codec)
    return key


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), codec=st.sampled_from(["none", "blosc"]))
@pytest.mark.usefixtures("tiny_chunks")
def test_any_array_comes_back_bit_for_bit(objects: TensorStore, data: st.DataObject, codec: str) -> None:
    """NaN, infinities, negative zero and the fill values themselves included."""
    groups = {
        name: data.draw(arrays(name, st.integers(1, 120)), label=name)
        for name in data.draw(st.sets(st.sampled_from(["float32", "float64", "int64"]), min_size=1))
    }
    key = put(objects, codec, **groups)
    found = objects.groups(key)
    assert {n: a.tobytes() for n, a in found.items()} == {n: a.tobytes() for n, a in groups.items()}
    assert digest_groups(found) == digest_groups(groups)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 20))), codec=st.sampled_from(tensors.CODECS))
def test_any_segment_comes_back_row_by_row(objects: TensorStore, rows: Any, codec: str) -> None:
    key = new_key()
    objects.write_segment(key, list(rows), codec)
    for i, row in enumerate(rows):
        assert objects.read(key, row=i).tobytes() == row.tobytes()


@pytest.mark.usefixtures("tiny_chunks")
def test_parts_and_chunks_make_up_the_whole(objects: TensorStore) -> None:
    data = np.arange(60, dtype=np.float32)
    array = objects.open(put(objects, float32=data))
    assert (array.size, array.nbytes, array.chunk) == (60, 240, 20)
    assert [(start, part.size) for start, part in array.chunks()] == [(0, 20), (20, 20), (40, 20)]
    assert np.concatenate([p for _, p in array.chunks()]).tolist() == data.tolist()
    for start in range(61):
        for stop in range(start, 61):
            assert array.read(start, stop).tolist() == data[start:stop].tolist(), (start, stop)


@pytest.mark.usefixtures("tiny_chunks")
def test_a_damaged_chunk_is_noticed_whichever_thread_reads_it(objects: TensorStore, tmp_path: Path) -> None:
    """An array of several chunks is read by several threads, none of which is left at work after an error."""
    key = put(objects, float32=np.arange(200, dtype=np.float32))
    before = threading.active_count()
    for chunk in (tmp_path / "tensors.zarr" / key / "float32/c").iterdir():
        whole = chunk.read_bytes()
        chunk.write_bytes(b"x" + whole[1:])
        with pytest.raises(CorruptError, match="checksum do not match"):
            objects.read(key)
        assert threading.active_count() == before
        chunk.write_bytes(whole)
    assert objects.read(key).tolist() == list(range(200))


@pytest.mark.usefixtures("tiny_chunks")
def test_who_reads_a_part_of_a_chunk_notices_damage_anywhere_in_it(objects: TensorStore, tmp_path: Path) -> None:
    data = np.arange(59, dtype=np.float32)  # the last of three chunks has one number that is no part of it
    key = put(objects, float32=data)
    chunk = tmp_path / "tensors.zarr" / key / "float32/c/2"
    whole = chunk.read_bytes()
    array = objects.open(key)
    for position in range(len(whole)):
        chunk.write_bytes(whole[:position] + bytes([whole[position] ^ 8]) + whole[position + 1 :])
        for start, stop in ((40, 59), (41, 45), (58, 59), (30, 41), (0, 59)):
            with pytest.raises(CorruptError, match="checksum do not match"):
                array.read(start, stop)
        assert array.read(0, 40).tolist() == data[:40].tolist()
    chunk.write_bytes(whole)
    assert array.read(30, 59).tolist() == data[30:].tolist()


def test_chunks_are_equal_whole_pages_and_at_most_four_mebibytes(objects: TensorStore, tmp_path: Path) -> None:
    key = put(objects, float32=np.zeros(2 * 2**20 + 3, np.float32), float64=np.zeros(2**19, np.float64))
    root = tmp_path / "tensors.zarr" / key
    sizes = [p.stat().st_size for p in sorted((root / "float32" / "c").iterdir())]
    assert sizes == [683 * 4096 + 4] * 3  # ceil(P / 3) elements, on to the next page, and a CRC
    assert [p.stat().st_size for p in (root / "float64" / "c").iterdir()] == [2**22 + 4]


def test_a_segment_is_two_files(objects: TensorStore, tmp_path: Path) -> None:
    key = new_key()
    objects.write_segment(key, [np.ones(10, np.float32)] * 7)
    files = [p for p in (tmp_path / "tensors.zarr" / key).rglob("*") if p.is_file()]
    assert sorted(p.name for p in files) == ["0", "zarr.json"]


@pytest.mark.parametrize("codec", tensors.CODECS)
def test_every_flipped_bit_is_noticed(objects: TensorStore, tmp_path: Path, codec: str) -> None:
    data = np.random.default_rng(0).standard_normal(50).astype(np.float32)
    key, segment = put(objects, codec, float32=data), new_key()
    objects.write_segment(segment, [data, data + 1], codec)
    for chunk, row in (
        (tmp_path / "tensors.zarr" / key / "float32/c/0", None),
        (tmp_path / "tensors.zarr" / segment / "c/0/0", 0),
    ):
        whole = chunk.read_bytes()
        # Of a shard, row 0: its 50 numbers and CRC, and the index at the end.
        positions = range(len(whole)) if row is None else [*range(50), *range(len(whole) - 36, len(whole))]
        for position in list(positions)[:: 7 if codec == "none" else 5]:
            spoilt = bytearray(whole)
            spoilt[position] ^= 1 << (position % 8)
            chunk.write_bytes(spoilt)
            with pytest.raises(CorruptError, match=r"restore tensors\.zarr/t"):
                objects.read(key if row is None else segment, row=row)
        chunk.write_bytes(whole)
        assert objects.read(key if row is None else segment, row=row).tobytes() == data.tobytes()


@pytest.mark.usefixtures("tiny_chunks")
@pytest.mark.parametrize("codec", tensors.CODECS)
def test_a_lost_or_cut_chunk_is_noticed_on_opening(objects: TensorStore, tmp_path: Path, codec: str) -> None:
    key = put(objects, codec, float32=np.arange(60, dtype=np.float32))
    chunk = tmp_path / "tensors.zarr" / key / "float32/c/1"
    whole = chunk.read_bytes()
    for rest in (b"", whole[:-1], whole[:5]):
        chunk.write_bytes(rest)
        with pytest.raises(CorruptError, match=key):
            (objects.open if codec == "none" else objects.read)(key)
    chunk.unlink()
    with pytest.raises(CorruptError, match="lacks chunk c/1"):
        objects.open(key)


@pytest.mark.parametrize("codec", tensors.CODECS)
def test_a_lost_or_cut_shard_is_noticed(objects: TensorStore, tmp_path: Path, codec: str) -> None:
    key = new_key()
    objects.write_segment(key, [np.arange(30, dtype=np.float32)] * 3, codec)
    shard = tmp_path / "tensors.zarr" / key / "c/0/0"
    whole = shard.read_bytes()
    for rest in (b"", whole[:-1], whole[: len(whole) // 2], whole[-52:]):
        shard.write_bytes(rest)
        for row in range(3):
            with pytest.raises(CorruptError, match=key):
                objects.read(key, row=row)
    shard.unlink()
    with pytest.raises(CorruptError, match="lacks chunk"):
        objects.read(key, row=1)


def test_what_is_not_there_is_reported(objects: TensorStore, tmp_path: Path) -> None:
    key = put(objects, float32=np.ones(3, np.float32))
    segment = new_key()
    objects.write_segment(segment, [np.ones(3, np.float32)] * 2)
    for question in (
        lambda: objects.read(new_key()),
        lambda: objects.read(key, "int64"),
        lambda: objects.read(key, row=0),
        lambda: objects.read(segment),
        lambda: objects.read(segment, row=2),
        lambda: objects.read("../../etc"),
        lambda: objects.groups(new_key()),
    ):
        with pytest.raises(CorruptError):
            question()
    (tmp_path / "tensors.zarr" / key / "float32/zarr.json").write_text("{")
    with pytest.raises(CorruptError, match=key):
        objects.read(key)


@pytest.mark.parametrize(
    "groups",
    [
        {},
        {"float32": np.ones(0, np.float32)},
        {"float32": np.ones(3, np.float64)},
        {"float16": np.ones(3, np.float16)},
        {"float32": np.ones((2, 2), np.float32)},
    ],
)
def test_what_is_not_stored_is_refused(objects: TensorStore, groups: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError):
        objects.write(new_key(), groups)
    with pytest.raises(InputError, match="codec"):
        objects.write(new_key(), {"float32": np.ones(3, np.float32)}, "zip")
    with pytest.raises(InputError):
        objects.write_segment(new_key(), [np.ones(3, np.float32), np.ones(4, np.float32)])
    assert list((tmp_path / "tensors.zarr").iterdir()) == []


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt(), ValueError("x")])
@pytest.mark.parametrize("where", ["flush", "write_array"])
def test_a_failed_write_leaves_nothing(
    objects: TensorStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException, where: str
) -> None:
    calls: list[int] = []
    original: Callable[..., None] = getattr(tensors, where)

    def fail(*arguments: Any) -> None:
        original(*arguments)
        calls.append(1)
        if where != "flush" or arguments[0].path == tmp_path / "tensors.zarr":
            raise failure

    monkeypatch.setattr(tensors, where, fail)
    expected = StoreError if isinstance(failure, OSError) else type(failure)
    with pytest.raises(expected) as caught:
        put(objects, float32=np.ones(1000, np.float32), int64=np.ones(3, np.int64))
    assert calls
    if isinstance(failure, OSError):
        assert "No space left" in str(caught.value)
    assert [p.name for p in tmp_path.rglob("*")] in (["tensors.zarr", "tmp"], ["tmp", "tensors.zarr"])


def test_what_is_read_begins_on_a_page(objects: TensorStore) -> None:
    for size in (1, 1000, 3_000_000):  # a part of a chunk, too
        numbers = np.arange(size, dtype=np.float32)
        key = put(objects, float32=numbers)
        for start in (0, size // 2):
            found = objects.open(key).read(start)
            assert found.ctypes.data % 4096 == 0 or found.nbytes < 10_000
            assert found.flags.c_contiguous
            assert found.flags.writeable
            assert (found == numbers[start:]).all()


def test_digests_depend_on_dtype_shape_and_bits() -> None:
    zeros = np.zeros(4, np.float32)
    variants = [zeros, -zeros, zeros.astype(np.float64), zeros.reshape(2, 2), zeros[:3], zeros.view(np.int32)]
    assert len({digest(v) for v in variants}) == len(variants)
    strided = np.arange(8, dtype=np.float32)[::2]
    assert digest(strided) == digest(strided.copy()) == digest(strided.astype(">f4"))
    assert digest(zeros) == ZEROS  # part of the format


def test_digests_of_format_1_are_those_of_blake2b() -> None:
    zeros = np.zeros(4, np.float32)
    assert has_digest(zeros, "2cf2ef5926c1adaddf73f71160a299b5")
    assert not has_digest(-zeros, "2cf2ef5926c1adaddf73f71160a299b5")
    assert has_digest(zeros, ZEROS)
    assert not has_digest(-zeros, ZEROS)
    assert not has_digest(zeros, None)


def test_the_setting_for_zarr_is_put_back(objects: TensorStore) -> None:
    before = zarr.config.get("async.concurrency")
    objects.read(put(objects, float32=np.ones(3, np.float32)))
    with pytest.raises(CorruptError):
        objects.read(new_key())
    assert zarr.config.get("async.concurrency") == before


def test_removing_takes_everything(objects: TensorStore, tmp_path: Path) -> None:
    key, other = put(objects, float32=np.ones(3, np.float32)), put(objects, int64=np.ones(3, np.int64))
    assert objects.keys() == {key, other}
    objects.remove(key)
    objects.remove(key)
    assert objects.keys() == {other}
    assert not list((tmp_path / "tmp").iterdir())
    shutil.rmtree(tmp_path / "tmp")
    objects.remove(other)
    assert objects.keys() == set()
