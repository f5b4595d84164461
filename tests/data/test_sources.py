"""Data sets by spec: fetched ones, files, folders, and factories."""

import inspect
import pickle
import shutil
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from mgraph.builtin import DATASETS
from mgraph.data.loading import load_task
from mgraph.errors import InputError, NotFoundError

RNG = np.random.default_rng(0)


def write_idx(path, array):
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.fixture
def mnist(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    arrays = {}
    for part, n in (("train", 40), ("t10k", 10)):
        x, y = RNG.integers(0, 256, (n, 28, 28), dtype=np.uint8), np.arange(n) % 10
        write_idx(raw / f"{part}-images-idx3-ubyte", x)
        write_idx(raw / f"{part}-labels-idx1-ubyte", y)
        arrays[part] = x, y
    return tmp_path, arrays


def test_mnist_from_its_files(mnist):
    root, arrays = mnist
    task = load_task(f"mnist?root={root}")
    assert (task.input_shape, task.classes) == ((1, 28, 28), 10)
    assert [len(s) for s in task.splits.values()] == [36, 4, 10]
    x, y = next(task.test.batches(10))
    want = (arrays["t10k"][0][:, None] / 255 - 0.1307) / 0.3081
    np.testing.assert_allclose(x, want, rtol=1e-5, atol=1e-5)
    assert y.tolist() == arrays["t10k"][1].tolist()
    assert task.train.inputs.dtype == torch.uint8


def test_limit_takes_the_first_training_examples(mnist):
    root, arrays = mnist
    task = load_task(f"mnist?root={root}&limit=20")
    assert [len(s) for s in task.splits.values()] == [18, 2, 10]
    whole = torch.cat([task.train.inputs, task.valid.inputs])[:, 0].double().mean((1, 2)).sort().values
    want = np.sort(arrays["train"][0][:20].mean((1, 2)))
    np.testing.assert_allclose(whole, want)


def test_relative_root_is_below_the_base(mnist):
    root, _ = mnist
    assert len(load_task(f"mnist?root={root.name}", base=root.parent).test) == 10


@pytest.mark.parametrize("name", ["mnist", "fashionmnist", "cifar10", "cifar100"])
def test_missing_files_say_how_to_get_them(name, tmp_path):
    with pytest.raises(NotFoundError, match=rf"^{name} is not in .*\?download=true.*\?root=DIR"):
        load_task(f"{name}?root={tmp_path}")


def test_default_root_is_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: str(tmp_path / name))
    with pytest.raises(NotFoundError, match=str(tmp_path / "mgraph" / "datasets")):
        load_task("mnist")


def test_cifar_is_channels_first(tmp_path, monkeypatch):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    images = RNG.integers(0, 256, (12, 3, 32, 32), dtype=np.uint8)
    content = {"data": images.reshape(12, -1), "labels": [i % 10 for i in range(12)]}
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    task = load_task(f"cifar10?root={tmp_path}")
    assert (task.input_shape, task.classes, len(task.test)) == ((3, 32, 32), 10, 12)
    assert torch.equal(task.test.inputs, torch.from_numpy(images))
    assert len(task.mean) == 3


def npz(path, **arrays):
    labels = np.arange(20) % 3
    given = {"x_train": RNG.random((20, 4)), "y_train": labels, "x_test": RNG.random((6, 4))}
    given |= {"y_test": labels[:6]} | arrays
    np.savez(path, **{k: v for k, v in given.items() if v is not None})
    return path


def test_npz_of_floats(tmp_path):
    npz(tmp_path / "d.npz")
    task = load_task("npz:d.npz?classes=5&mean=0.5&std=2", base=tmp_path)
    assert (task.input_shape, task.classes, task.mean, task.std) == ((4,), 5, (0.5,), (2.0,))
    assert load_task(f"npz:{tmp_path}/d.npz").classes == 3
    assert len(load_task("npz:d.npz?limit=10", base=tmp_path).train) == 9


@pytest.mark.parametrize(
    ("shape", "seen"),
    [((8, 9), (1, 8, 9)), ((8, 9, 3), (3, 8, 9)), ((3, 8, 9), (3, 8, 9)), ((8, 9, 1), (1, 8, 9))],
)
def test_npz_of_images(tmp_path, shape, seen):
    x = RNG.integers(0, 256, (20, *shape), dtype=np.uint8)
    npz(tmp_path / "d.npz", x_train=x, x_test=x[:6], x_valid=x[:5], y_valid=np.zeros(5, np.int64))
    task = load_task("npz:d.npz", base=tmp_path)
    assert task.input_shape == seen
    assert [len(s) for s in task.splits.values()] == [20, 5, 6]
    if shape == (8, 9, 3):
        assert torch.equal(task.test.inputs, torch.from_numpy(x[:6]).permute(0, 3, 1, 2))


def test_npz_errors(tmp_path):
    def load(text):
        return load_task(text, base=tmp_path)

    with pytest.raises(NotFoundError, match=r"none\.npz does not exist"):
        load("npz:none.npz")
    npz(tmp_path / "d.npz", y_test=None)
    with pytest.raises(InputError, match=r"no array 'y_test' \(it has x_test, x_train, y_train\)"):
        load("npz:d.npz")
    npz(tmp_path / "whole.npz")
    npz(tmp_path / "v.npz", x_valid=RNG.random((3, 4)))
    with pytest.raises(InputError, match="no array 'y_valid'"):
        load("npz:v.npz")
    npz(tmp_path / "o.npz", x_train=np.array([object()] * 20))
    with pytest.raises(InputError, match=r"x_train of .* is an array of Python objects; make it one of plain"):
        load("npz:o.npz")
    whole = (tmp_path / "v.npz").read_bytes()
    for content in (b"", b"text", b"PK\x03\x04", whole[: len(whole) // 2]):
        (tmp_path / "b.npz").write_bytes(content)
        with pytest.raises(InputError, match=r"b\.npz cannot be read"):
            load("npz:b.npz")
    np.save(tmp_path / "a.npy", np.ones(3))
    with pytest.raises(InputError, match=r"a\.npy cannot be read"):
        load("npz:a.npy")
    with pytest.raises(InputError, match="limit must be at least 2"):
        load("npz:whole.npz?limit=1")


def test_image_folder(tmp_path):
    for split, count in (("train", 20), ("test", 2)):
        for c, colour in (("cat", (255, 0, 0)), ("dog", (0, 0, 255))):
            (tmp_path / split / c).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (10, 7), colour).save(tmp_path / split / c / f"{i}.png")
    task = load_task("imagefolder:.?size=4", base=tmp_path)
    assert (task.input_shape, task.classes) == ((3, 4, 4), 2)
    x, y = next(task.test.batches(4))
    assert y.tolist() == [0, 0, 1, 1]
    assert x[0, :, 0, 0].tolist() == [1, 0, 0]
    limited = load_task("imagefolder:.?size=4&limit=20", base=tmp_path)
    assert len(limited.train) == 18
    assert set(limited.train.targets.tolist()) == {0, 1}
    (tmp_path / "test" / "eel").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "test" / "eel" / "0.png")
    with pytest.raises(InputError, match="'eel'"):
        load_task("imagefolder:.", base=tmp_path)
    with pytest.raises(NotFoundError, match="does not exist"):
        load_task("imagefolder:none", base=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file is not a folder; give the one that has train/CLASS/"):
        load_task("imagefolder:file", base=tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty has no folder train; put images into train/CLASS/ and test/CLASS/"):
        load_task("tiny-imagenet:empty", base=tmp_path)
    shutil.rmtree(tmp_path / "test" / "eel")
    (tmp_path / "train" / "cat" / "0.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="cannot be read"):
        load_task("imagefolder:.", base=tmp_path)


FACTORY = """
import numpy as np
from mgraph.data.making import make_task
def arrays(n=20, test=True):
    x, y = np.ones((n, 3)), np.arange(n) % 2
    data = {"train": (x, y), "loss": None}
    if test:
        data["test"] = x, y
    return data
def task(): return make_task(**arrays())
def odd(): return arrays() | {"tset": 1}
def nothing(): return None
def untrained(): return {"test": 1}
"""


def test_factories(tmp_path):
    (tmp_path / "d.py").write_text(FACTORY)

    def load(text):
        return load_task(text, base=tmp_path)

    assert len(load("d.py:arrays?n=30").train) == 27
    assert load("d.py:task").fingerprint == load("d.py:arrays").fingerprint
    for text, says in (
        ("d.py:arrays?test=false", "no test split"),
        ("d.py:odd", "unknown key 'tset'; did you mean 'test'"),
        ("d.py:nothing", "returned a NoneType"),
        ("d.py:untrained", "returned no 'train'"),
    ):
        with pytest.raises(InputError, match=says):
            load(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("digit", r"no data set 'digit'; did you mean 'digits'\?"),
        ("my/cifar10.npz", r"no data set 'my/cifar10.npz'; did you mean 'npz:my/cifar10.npz'\?"),
        ("flowers.csv?label=kind", r"did you mean 'csv:flowers.csv'\?"),
        ("nothing", "there are digits, mnist, .*npz:FILE"),
        ("digits?limit=3", "digits has no parameter 'limit'; it has label_noise, label_seed"),
        ("digits?label_noise=1", "at least 0 and below 1, not 1"),
        ("digits?label_noise=0.5&label_seed=-1", "label_seed must be a whole number from 0"),
        ("mnist?dowload=true", "did you mean 'download'"),
        ("npz", "write npz:FILE"),
        ("imagefoldr:photos", "Module imagefoldr cannot be found; did you mean 'imagefolder:…'"),
        ("hff:./photos", "does not name a factory; did you mean 'hf:…'"),
    ],
)
def test_unknown_names_and_parameters(text, says):
    with pytest.raises(InputError, match=says):
        load_task(text)


@pytest.mark.parametrize("entry", DATASETS.values(), ids=lambda e: e.name)
def test_registry_describes_the_functions(entry):
    signature = inspect.signature(entry.function())
    keyword = {n: p for n, p in signature.parameters.items() if p.kind is p.KEYWORD_ONLY}
    typed = [p for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD]  # by a TypedDict
    if not typed:
        assert {n: p.default for n, p in keyword.items()} == {p.name: p.default for p in entry.params}
    assert len(signature.parameters) - len(keyword) - len(typed) == bool(entry.argument)
    assert entry.params or entry.name == "toy"
    assert not entry.further
    assert entry.summary
    assert all(p.help for p in entry.params)
