"""What is written without Zarr is what Zarr writes, byte for byte; what differs in one byte is left to Zarr."""

from __future__ import annotations

import errno
import gc
import json
import os
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mgraph_store import Layout, TensorSpec, digest
from mgraph_store.errors import CorruptError, InputError, StoreError
from mgraph_store.folder import Folder
from mgraph_store.tensors.attributes import of_buffers, of_parameters
from mgraph_store.tensors.objects import CHUNK_BYTES, TensorStore, create_array
from mgraph_store.tensors.rawzarr import GROUP, RawArray, recognised

CHUNK = CHUNK_BYTES // 4


@pytest.fixture
def tensors(tmp_path: Path) -> TensorStore:
    (tmp_path / "tensors.zarr").mkdir()
    return TensorStore(tmp_path / "tensors.zarr", tmp_path / "tmp")


def files(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def by_zarr(tensors: TensorStore, monkeypatch: pytest.MonkeyPatch, write: Any) -> None:
    """Let an object be written by Zarr alone."""
    original = TensorStore._publish

    def publish(store: TensorStore, key: str, build: Any, codec: str, _: Any) -> None:
        original(store, key, build, codec, lambda _: build(partial(create_array, store._temporary.sub(key))))

    with monkeypatch.context() as patch:
        patch.setattr("mgraph_store.tensors.objects.is_raw", lambda _: False)
        patch.setattr(TensorStore, "_publish", publish)
        write()


def array_of(dtype: str, size: int) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(size)
    if dtype == "int64":
        return rng.integers(-(2**63), 2**63 - 1, size, np.int64)
    return rng.standard_normal(size).astype(dtype)


@pytest.mark.parametrize("sizes", [
    {"float32": 1}, {"float32": 17}, {"float32": CHUNK}, {"float32": CHUNK + 1}, {"float32": 2 * CHUNK + 5},
    {"float64": CHUNK // 2 + 3, "int64": 3, "float32": 70_000}, {"int64": CHUNK},
])  # fmt: skip
def test_objects(tensors: TensorStore, sizes: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = {dtype: array_of(dtype, size) for dtype, size in sizes.items()}
    tensors.write("tours00000", arrays)
    by_zarr(tensors, monkeypatch, lambda: tensors.write("tzarrs0000", arrays))
    ours, theirs = (files(tmp_path / "tensors.zarr" / key) for key in ("tours00000", "tzarrs0000"))
    assert ours == theirs
    for dtype, array in arrays.items():
        assert tensors.open("tzarrs0000", dtype).is_raw
        assert tensors.read("tours00000", dtype).tobytes() == array.tobytes()


STRANGE = Layout(
    (
        TensorSpec('ä "quoted"\n.weight', (5, 3), "float32", "parameter"),
        TensorSpec("scale", (), "float32", "parameter"),
        TensorSpec("0", (0, 7), "float32", "parameter"),
        TensorSpec("mean", (4,), "float64", "statistic"),
        TensorSpec("count", (), "int64", "statistic"),
    )
)


@pytest.mark.parametrize("ranges", [[None], [((0, 3), (7, 20))], [None, ((2, 18),)], [None] * 3])
def test_attributes_are_written_as_zarr_writes_them(
    tensors: TensorStore, ranges: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [array_of("float32", 16) + i for i in range(len(ranges))]
    digests = [digest(row) for row in rows]
    said = of_parameters(digests, 16, STRANGE, ranges, segment=len(rows) > 1)

    def write(key: str) -> None:
        if len(rows) > 1:
            tensors.write_segment(key, rows, attributes=said)
        else:
            tensors.write(key, {"float32": rows[0]}, attributes={"float32": said})

    write("tours00000")
    by_zarr(tensors, monkeypatch, lambda: write("tzarrs0000"))
    ours, theirs = (files(tmp_path / "tensors.zarr" / key) for key in ("tours00000", "tzarrs0000"))
    assert ours == theirs
    opened = tensors.open("tours00000", row=0 if len(rows) > 1 else None)
    assert opened.is_raw
    assert opened.attributes() == json.loads(said)
    assert [t["name"] for t in json.loads(said)["tensors"]] == [t.name for t in STRANGE.parameters]
    assert ("columns" in json.loads(said)) == any(ranges)


def test_attributes_of_a_very_long_layout_are_its_hash_alone() -> None:
    layout = Layout(tuple(TensorSpec(f"layers.{i}.weight", (1, 1), "float32", "parameter") for i in range(2000)))
    said = json.loads(of_parameters(["sha256-" + "0" * 64], 2000, layout, [None], segment=False))
    assert said == {"digest": "sha256-" + "0" * 64, "layout_hash": layout.fingerprint}


def test_what_does_not_fit_the_layout_is_not_described() -> None:
    with pytest.raises(InputError, match="A row of 17 numbers does not fit a layout of 16"):
        of_parameters(["x"], 17, STRANGE, [None], segment=False)
    with pytest.raises(InputError, match="A row of 16 numbers does not fit a layout of 3"):
        of_parameters(["x", "y"], 16, STRANGE, [None, ((0, 3),)], segment=True)
    with pytest.raises(InputError, match="2 numbers of int64 buffers do not fit a layout of 1"):
        of_buffers("x", "int64", 2, STRANGE)
    assert [s["name"] for s in json.loads(of_buffers("x", "float64", 4, STRANGE))["tensors"]] == ["mean"]


@pytest.mark.parametrize(("rows", "size"), [(1, 1), (2, 17), (9, 70_000), (3, CHUNK)])
def test_segments(tensors: TensorStore, rows: int, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = [array_of("float32", size) + i for i in range(rows)]
    tensors.write_segment("tours00000", vectors)
    by_zarr(tensors, monkeypatch, lambda: tensors.write_segment("tzarrs0000", vectors))
    ours, theirs = (files(tmp_path / "tensors.zarr" / key) for key in ("tours00000", "tzarrs0000"))
    assert ours == theirs
    for i, vector in enumerate(vectors):
        assert tensors.read("tours00000", row=i).tobytes() == vector.tobytes()


def test_a_raw_object_is_written_and_read_without_zarr(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
import numpy as np
from mgraph_store.tensors.objects import TensorStore
root = Path(sys.argv[1])
(root / "tensors.zarr").mkdir()
tensors = TensorStore(root / "tensors.zarr", root / "tmp")
row = np.arange(9, dtype=np.float32)
tensors.write("tobject00", {"float32": row, "int64": np.arange(3)})
tensors.write_segment("tsegment0", [row, row + 1])
assert tensors.read("tobject00").tobytes() == row.tobytes()
assert tensors.read("tsegment0", row=1).tobytes() == (row + 1).tobytes()
assert "zarr" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True, timeout=60)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_description_that_differs_in_a_byte_is_not_recognised(data: st.DataObject) -> None:
    shape = data.draw(st.sampled_from([(5,), (3, 5)]))
    sound = RawArray(shape, "float32", 5).describe()
    assert recognised(sound) == RawArray(shape, "float32", 5)
    place, value = data.draw(st.integers(0, len(sound) - 1)), data.draw(st.integers(0, 255))
    other = sound[:place] + bytes([value]) + sound[place + 1 :]
    found = recognised(other)
    assert found is None or found.describe() == other


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_description_with_attributes_is_recognised_and_any_other_difference_is_not(data: st.DataObject) -> None:
    array, attributes = RawArray((5,), "float32", 5), json.dumps({"digest": "x", "tensors": ["é", {}]}, indent=2)
    sound = array.describe(attributes)
    assert recognised(sound) == array
    assert recognised(array.describe("[]")) is recognised(array.describe("{")) is None
    assert recognised(array.describe('{}, "codecs": []')) is None
    place, value = data.draw(st.integers(0, len(sound) - 1)), data.draw(st.integers(0, 255))
    other = sound[:place] + bytes([value]) + sound[place + 1 :]
    start = sound.index(b'"attributes": ') + 14
    inside = start <= place < start + len(attributes)
    found = recognised(other)
    if inside:
        assert found in (array, None)
    else:  # what is recognised is written just so: with another digit, it is another array
        assert found is None or found.describe(attributes) == other
        assert found == array or other != sound


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"null", GROUP, b"[" * 100_000, b'{"shape": 3}', b'{"shape": ["x"]}']
)
def test_what_is_no_description_is_not_recognised(text: bytes) -> None:
    assert recognised(text) is None


def test_arrays_of_another_writer_are_read_by_zarr(tensors: TensorStore, tmp_path: Path) -> None:
    row = array_of("float32", 1000)
    tensors.write("tobject00", {"float32": row})
    file = tmp_path / "tensors.zarr" / "tobject00" / "float32" / "zarr.json"
    file.write_text(json.dumps(json.loads(file.read_text())))
    assert recognised(file.read_bytes()) is None
    assert tensors.read("tobject00").tobytes() == row.tobytes()


def test_compressed_arrays_are_written_and_read_by_zarr(tensors: TensorStore) -> None:
    row = array_of("float32", 1000)
    tensors.write("tobject00", {"float32": row}, codec="blosc")
    tensors.write_segment("tsegment0", [row, row], codec="blosc")
    assert not tensors.open("tobject00").is_raw
    assert tensors.read("tobject00").tobytes() == tensors.read("tsegment0", row=1).tobytes() == row.tobytes()


def test_what_was_opened_is_kept_and_damage_is_found_when_it_is_read(tensors: TensorStore, tmp_path: Path) -> None:
    row = array_of("float32", 1000)
    tensors.write("tobject00", {"float32": row})
    opened = tensors.open_again("tobject00")
    assert tensors.open_again("tobject00") is opened
    chunk = tmp_path / "tensors.zarr" / "tobject00" / "float32" / "c" / "0"
    data = bytearray(chunk.read_bytes())
    data[7] ^= 4
    chunk.write_bytes(data)
    with pytest.raises(CorruptError, match="checksum"):
        tensors.open_again("tobject00").read()
    chunk.write_bytes(data[:-9])
    with pytest.raises(CorruptError, match="ends too soon"):
        tensors.open_again("tobject00").read()
    tensors.remove("tobject00")
    with pytest.raises(CorruptError, match="is missing"):
        tensors.open_again("tobject00").read()


# Flushing


def test_every_file_and_directory_is_flushed_before_the_object_is_there(
    tensors: TensorStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: set[Path] = set()
    lock, fsync, rename = threading.Lock(), os.fsync, Folder.rename

    def watched(descriptor: int) -> None:
        fsync(descriptor)
        with lock:
            flushed.add(Path(f"/proc/self/fd/{descriptor}").readlink())

    def renamed(folder: Folder, name: str, to: Folder, new: str) -> None:
        made = tmp_path / "tmp" / name
        assert flushed >= {made, *made.rglob("*")}
        rename(folder, name, to, new)

    monkeypatch.setattr(os, "fsync", watched)
    monkeypatch.setattr(Folder, "rename", renamed)
    tensors.write("tobject00", {"float32": array_of("float32", 40 * CHUNK), "int64": array_of("int64", 3)})
    assert len(flushed) == 40 + 1 + 3 + 5 + 1  # chunks, descriptions, directories, the root


@pytest.mark.parametrize("which", [0, pytest.param(3, marks=pytest.mark.stress), 5])
def test_a_flush_that_fails_leaves_nothing(
    tensors: TensorStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: int
) -> None:
    numbers, lock, fsync = iter(range(1000)), threading.Lock(), os.fsync

    def failing(descriptor: int) -> None:
        with lock:
            number = next(numbers)
        if number == which:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    tensors.write("tobject00", {"float32": array_of("float32", 2)})  # which opens the directories
    tensors.remove("tobject00")
    gc.collect()  # what earlier tests have left open
    before = len(list(Path("/proc/self/fd").iterdir()))
    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(StoreError, match="No space left"):
        tensors.write("tobject00", {"float32": array_of("float32", 2 * CHUNK)})
    monkeypatch.undo()
    assert files(tmp_path) == {}
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_zarr_itself_is_still_asked(tmp_path: Path) -> None:
    """By way of :func:`create_array`, for what is compressed or lies elsewhere."""
    folder = Folder(tmp_path)
    create = partial(create_array, folder)
    create("", None, (), None, "none")
    assert (tmp_path / "zarr.json").read_bytes() == GROUP
