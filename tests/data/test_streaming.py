"""Folders of images that are read when they are needed: the same batches as in memory, whoever reads them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from mgraph.data import digests, files, imagefiles, machine, reading
from mgraph.data.loading import load_task
from mgraph.data.making import make_task
from mgraph.data.splits import ArraySplit
from mgraph.data.streaming import DatasetSplit
from mgraph.data.task import Task
from mgraph.data.workers import AHEAD, Workers
from mgraph.errors import InputError
from mgraph.train.batches import Batches


def _fill(root: Path, size: int = 6) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 6)):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i:02}.png")
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return _fill(tmp_path / "photos")


def load(folder: Path, query: str = "") -> Task:
    return load_task(f"imagefolder:.?size=4&mean=0.4,0.5,0.6&std=0.2{query}", base=folder)


def same(a: Any, b: Any) -> bool:
    return all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(a, b, strict=True))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_are_those_of_data_in_memory(folder: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    held, streamed = load(folder), load(folder, "&stream=true")
    assert isinstance(held.train, ArraySplit)
    assert isinstance(streamed.train, DatasetSplit)
    monkeypatch.setattr(reading, "PIECE", 150)  # bytes: a batch comes in several pieces
    streamed.read_by(workers)
    order = torch.randperm(36, generator=torch.Generator().manual_seed(1))
    before = torch.get_rng_state()
    for _ in range(2):  # workers are kept
        for name in ("train", "valid"):  # and shared by the parts of a Dataset
            assert same(held.splits[name].batches(7), streamed.splits[name].batches(7))
        assert same(held.train.batches(8, order=order), streamed.train.batches(8, order=order))
    assert torch.equal(torch.get_rng_state(), before)
    assert len(active_children()) == workers
    del streamed
    assert not active_children()


def test_passes_within_passes_and_passes_that_are_left(folder: Path) -> None:
    held, streamed = load(folder), load(folder, "&stream=true")
    streamed.read_by(1)
    order = torch.arange(36).flip(0)
    outer = zip(held.train.batches(6, order=order), streamed.train.batches(6, order=order), strict=True)
    for number, (one, other) in enumerate(outer):
        assert same([one], [other])
        assert same(held.train.batches(9), streamed.train.batches(9))
        if number == 2:
            break
    del outer
    assert same(held.train.batches(5), streamed.train.batches(5))
    assert len(active_children()) == 2


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stream_of_batches_goes_on_where_another_one_stood(folder: Path, workers: int) -> None:
    def stream(query: str = "&stream=true") -> Batches:
        task = load(folder, query)
        task.read_by(workers)
        return Batches(task.train, 8, torch.Generator().manual_seed(3), torch.device("cpu"))

    whole, first = stream(""), stream()
    expected = [next(whole) for _ in range(11)]
    assert same(expected[:6], [next(first) for _ in range(6)])
    resumed = stream()
    resumed.go_to(first.position, first.pass_state, first.number)
    assert same(expected[6:], [next(resumed) for _ in range(5)])


def test_what_is_read_ahead_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many examples there are, and however large a batch is: so many pieces of so many bytes."""
    count = torch.zeros(1, dtype=torch.int64).share_memory_()

    class Counting(Dataset[Any]):
        def __len__(self) -> int:
            return 2000

        def __getitem__(self, place: int) -> Any:
            count.add_(1)
            return np.full(100, place % 251, np.uint8), place % 2

        def examples_digest(self, places: Any = None) -> bytes:
            return b""

    monkeypatch.setattr(reading, "PIECE", 1000)  # bytes: 10 examples
    split = DatasetSplit(Counting())
    split.read_by(Workers(1))
    split.raw([0])
    taken = -1
    ahead = []
    for x, y in split.batches(200):
        time.sleep(0.01)  # let the worker get as far as it can
        taken += len(y)
        assert x.shape == (200, 100)
        ahead.append(int(count) - 1 - taken)
    assert max(ahead) <= 10 * (AHEAD + 1)
    assert int(count) >= 2000


def test_what_fits_is_held_and_what_does_not_is_streamed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 3 * 4 * 4 * 52
    monkeypatch.setattr(machine, "memory", lambda: 4 * size)
    assert isinstance(load(folder).train, ArraySplit)
    monkeypatch.setattr(machine, "memory", lambda: 4 * size - 4)
    assert isinstance(load(folder).train, DatasetSplit)
    assert isinstance(load(folder, "&stream=false").train, ArraySplit)
    assert isinstance(load(folder, "&limit=20").train, ArraySplit)  # before anything is read
    assert machine.memory() > 0
    assert files.fits is machine.fits


def test_a_graph_opens_on_a_machine_of_another_size(folder: Path) -> None:
    held, streamed = load(folder), load(folder, "&stream=true")
    assert held.fingerprint != streamed.fingerprint  # every byte in memory, every byte of the files
    assert held.matches(streamed.fingerprint)
    assert streamed.matches(held.fingerprint)
    image = folder / "train" / "cat" / "03.png"
    Image.new("RGB", (6, 6)).save(image)
    for query in ("", "&stream=true"):
        changed = load(folder, query)
        assert not changed.matches(held.fingerprint)
        assert not changed.matches(streamed.fingerprint)


def test_identity_knows_files_labels_and_how_they_are_read(folder: Path) -> None:
    prints = {load(folder, query).fingerprint for query in ("&stream=true", "&stream=true&background=white")}
    prints.add(load_task("imagefolder:.?size=5&stream=true", base=folder).fingerprint)
    (folder / "train" / "cat" / "03.png").rename(folder / "train" / "dog" / "03b.png")
    prints.add(load(folder, "&stream=true").fingerprint)
    (folder / "test" / "cat" / "00.png").unlink()
    prints.add(load(folder, "&stream=true").fingerprint)
    assert len(prints) == 5


def test_every_file_is_read_once_until_it_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    decode = imagefiles.decode

    def counting(data: bytes, size: int | None, background: str | None) -> Any:
        seen.append(size is None)
        return decode(data, size, background)

    def looked_at() -> int:
        seen.clear()
        load(folder, "&stream=true")
        return sum(seen)

    monkeypatch.setattr(imagefiles, "decode", counting)
    assert looked_at() == 52
    assert looked_at() == 52  # what changed a moment ago might change again, and have the same times
    monkeypatch.setattr(digests, "_JUST_NOW", 0)
    assert looked_at() == 52
    assert looked_at() == 0
    (folder / "train" / "dog" / "05.png").write_bytes((folder / "train" / "dog" / "06.png").read_bytes())
    assert looked_at() == 1
    os.utime(folder / "train" / "dog" / "07.png")
    assert looked_at() == 1
    for file in (Path(os.environ[digests.VARIABLE]) / "digests").glob("*.npy"):
        file.write_bytes(b"damaged")
    assert looked_at() == 52


def test_a_file_that_changes_while_it_is_in_use_is_named(folder: Path) -> None:
    task = load(folder, "&stream=true")
    file = folder / "test" / "dog" / "02.png"
    pixels = file.read_bytes()
    file.write_bytes(pixels + b"0")
    for workers in (0, 1):
        task.read_by(workers)
        with pytest.raises(InputError, match=r"test/dog/02\.png changed while it was in use: restore it"):
            list(task.test.batches(4))
    file.unlink()
    with pytest.raises(InputError, match=r"Item 8 of the test split cannot be read: FileNotFoundError: .*02\.png"):
        list(task.test.batches(4))


def test_what_cannot_be_read_is_named_and_counted(folder: Path) -> None:
    for name in ("01", "04", "07", "09"):
        (folder / "train" / "cat" / f"{name}.png").write_bytes(b"no image")
    for query in ("", "&stream=true"):
        with pytest.raises(
            InputError, match=r"^4 of 40 images in .*train cannot be read: cat/01\.png \(not an image file"
        ):
            load(folder, query)


def test_16_bits_and_clear_pixels_are_known_before_they_are_read(folder: Path) -> None:
    deep = np.arange(36, dtype=np.uint16).reshape(6, 6) * 1800
    Image.fromarray(deep).save(folder / "train" / "dog" / "00.png")
    held, streamed = load(folder), load(folder, "&stream=true")
    assert same(held.train.batches(9), streamed.train.batches(9))
    assert streamed.train.raw([0])[0].dtype == torch.float32
    assert held.notes == streamed.notes
    Image.new("RGBA", (6, 6), (9, 9, 9, 100)).save(folder / "train" / "dog" / "01.png")
    with pytest.raises(InputError, match=r"1 of 40 images in .* have transparent pixels: dog/01\.png; say what lies"):
        load(folder, "&stream=true")
    assert same(
        load(folder, "&background=black").train.batches(9),
        load(folder, "&background=black&stream=true").train.batches(9),
    )


def test_all_splits_are_read_by_the_same_workers(folder: Path) -> None:
    task = load(folder, "&stream=true")
    task.read_by(1)
    expected = [load(folder).train.batches(9), load(folder).test.batches(9)]
    assert same(expected[0], task.train.batches(9))
    (worker,) = active_children()
    assert same(expected[1], task.test.batches(9))
    assert active_children() == [worker]
    outer, inner = task.train.batches(9), task.test.batches(9)  # passes that overlap have workers of their own
    next(outer)
    next(inner)
    assert len(active_children()) == 2
    outer.close()
    inner.close()


def test_a_worker_that_is_killed_is_a_sentence(folder: Path) -> None:
    task = load(folder, "&stream=true")
    task.read_by(1)
    passed = task.train.batches(1)
    next(passed)
    (worker,) = active_children()
    worker.kill()
    worker.join()
    with pytest.raises(InputError, match=r"process that read the train split ended .* with fewer --workers, or 0"):
        list(passed)
    assert len(list(task.train.batches(9))) == 4  # others are started


class Elsewhere(Dataset[Any]):
    """Has other items in another process, as what reads an open file through its position."""

    def __init__(self) -> None:
        self._pid = os.getpid()

    def __len__(self) -> int:
        return 40

    def __getitem__(self, place: int) -> Any:
        return np.full(3, place + (os.getpid() != self._pid), np.float32), place % 2


def test_a_dataset_of_ones_own_is_read_by_workers_if_they_are_asked_for() -> None:
    data = Elsewhere()
    task = make_task(train=data, valid=data, test=data)
    list(task.train.batches(8))
    assert not active_children()
    task.read_by(1)
    with pytest.raises(InputError, match="The train split has other items in a worker process than here"):
        list(task.train.batches(8))


def test_data_too_large_for_a_device_go_there_by_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = torch.arange(60, dtype=torch.uint8).reshape(20, 3), torch.arange(20) % 2
    split = ArraySplit(x, y, (0.5,), (0.5,))
    expected = list(split.batches(6))
    monkeypatch.setattr(ArraySplit, "_fits", lambda *_: False)
    assert same(expected, split.batches(6))
    order = torch.arange(20).flip(0)
    assert torch.equal(next(split.batches(20, order=order))[1], y.flip(0))


@pytest.mark.stress
def test_memory_does_not_grow_with_the_folder(tmp_path: Path) -> None:
    """4 GB of images take hardly more than a tenth of them, of which 200 MiB would be held; read by one worker."""
    few, many = (_measured(tmp_path / str(count), count) for count in (2100, 21_000))
    assert many["bytes"] > 4e9
    assert many["MiB"] - few["MiB"] < 60
    assert many["MiB"] * 2**20 < 600e6


def _measured(directory: Path, count: int) -> dict[str, float]:
    script = Path(__file__).with_name("measure_streaming.py")
    directory.mkdir()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, str(directory), str(count), "256"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"MGRAPH_CACHE_DIR": str(directory / "cache")},
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found
