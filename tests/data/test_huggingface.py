"""Data of Hugging Face's ``datasets``: saved on disk, local files, and what is in its cache; nothing is fetched."""

from __future__ import annotations

import importlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mgraph.data.loading import load_task
from mgraph.data.splits import ArraySplit
from mgraph.data.streaming import DatasetSplit
from mgraph.data.task import Task
from mgraph.errors import InputError, NotFoundError, UntrustedError
from mgraph.factories import source_of
from mgraph.specs import Spec

datasets: Any = None  # imported by the first test: every process of the tests imports this file

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (24, 6, 6, 3), dtype=np.uint8)
WORDS = ["the cat sat", "a dog ran\nhome", "the dog sat", "oh no"]


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    global datasets
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def png(pixels: Any) -> dict[str, Any]:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def photos(count: int = 24, labels: Any = None) -> Any:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    rows = {"image": [png(p) for p in PIXELS[:count]], "label": labels or [i % 2 for i in range(count)]}
    return datasets.Dataset.from_dict(rows, features=features)


def save(where: Path, **splits: Any) -> Path:
    datasets.DatasetDict(splits).save_to_disk(str(where))
    return where.parent


def table(**columns: Any) -> Any:
    return datasets.Dataset.from_dict(columns)


def test_images_are_those_that_were_saved_held_and_streamed(tmp_path: Path) -> None:
    base = save(tmp_path / "photos", train=photos(), validation=photos(6), test=photos(10))
    held = load_task("hf:./photos?mean=0.5", base=base)
    assert isinstance(held.train, ArraySplit)
    assert torch.equal(held.train.inputs, torch.from_numpy(PIXELS.transpose(0, 3, 1, 2)))
    assert held.train.targets.tolist() == [i % 2 for i in range(24)]
    assert [len(split) for split in held.splits.values()] == [24, 6, 10]
    assert (held.classes, held.input_shape, held.valid_seed) == (2, (3, 6, 6), None)
    streamed = load_task("hf:./photos?mean=0.5&stream=true", base=base)
    assert isinstance(streamed.train, DatasetSplit)
    streamed.read_by(1)
    order = torch.arange(24).flip(0)
    for (x, y), (u, v) in zip(held.train.batches(7, order=order), streamed.train.batches(7, order=order), strict=True):
        assert torch.equal(x, u)
        assert torch.equal(y, v)
    assert held.matches(streamed.fingerprint)
    assert streamed.matches(held.fingerprint)
    save(tmp_path / "photos", train=photos(labels=[0] + [1] * 23), validation=photos(6), test=photos(10))
    changed = load_task("hf:./photos?mean=0.5&stream=true", base=base)
    assert not changed.matches(streamed.fingerprint)
    assert not changed.matches(held.fingerprint)


def test_a_share_of_train_is_test_data_where_there_are_none(tmp_path: Path) -> None:
    base = save(tmp_path / "photos", train=photos())
    prints = set()
    for query, sizes in (
        ("", (17, 2, 5)),
        ("?test=0.5", (11, 1, 12)),
        ("?seed=1", (17, 2, 5)),
        ("?limit=8", (7, 1, 5)),
    ):
        task = load_task(f"hf:./photos{query}", base=base)
        assert tuple(len(split) for split in task.splits.values()) == sizes
        streamed = load_task(f"hf:./photos{query}{'&' if query else '?'}stream=true", base=base)
        assert task.matches(streamed.fingerprint)
        prints |= {task.fingerprint, streamed.fingerprint}
    assert len(prints) == 8
    save(tmp_path / "both", train=photos(), validation=photos(6), test=photos(10, [-1] * 10))
    assert len(load_task("hf:./both?test=validation", base=base).test) == 6
    with pytest.raises(InputError, match=r"test split of .* has no labels \(all are -1\); .* as in test=validation"):
        load_task("hf:./both", base=base)


def test_numbers_lists_and_quantities(tmp_path: Path) -> None:
    save(tmp_path / "n", train=table(a=np.arange(20.0), b=list(range(20)), y=np.arange(20.0) / 2, word=["u", "v"] * 10))
    task = load_task("hf:./n?x=a,b&y=y", base=tmp_path)
    assert (task.loss_name, task.input_shape, task.classes) == ("mse_loss", (2,), None)
    assert isinstance(task.train, ArraySplit)
    assert torch.equal(task.train.targets, task.train.inputs[:, :1] / 2)
    task = load_task("hf:./n?x=a&y=word", base=tmp_path)
    assert (task.classes, task.notes[0]) == (2, "Labels of column word: u = 0, v = 1.")
    (tmp_path / "p").mkdir()
    ids = RNG.integers(0, 9, (20, 5)).tolist()
    table(ids=ids, mask=np.ones((20, 5), int).tolist(), label=[0, 1] * 10).to_parquet(tmp_path / "p" / "train.parquet")
    task = load_task("hf:./p?x=ids,mask", base=tmp_path)
    assert task.input_shape == {"ids": (5,), "mask": (5,)}
    x, _ = task.train.examples(torch.tensor([0]))
    assert isinstance(x, dict)
    assert x["ids"].tolist()[0] in ids


def test_texts_become_tokens(tmp_path: Path) -> None:
    save(tmp_path / "t", train=table(text=WORDS * 5, label=["b", "a"] * 10), test=table(text=["the gnu"], label=["a"]))
    task = load_task("hf:./t?length=4", base=tmp_path)
    assert task.classes == 2
    assert task.notes[0] == "The vocabulary has 12 words."
    x, y = task.test.examples(torch.tensor([0]))
    assert isinstance(x, dict)
    # <pad> is 0, <unk> 1, and the most frequent token, the end of a line, 2.
    assert x["input_ids"][0, 1:].tolist() == [1, 2, 0]
    assert x["attention_mask"].tolist() == [[1, 1, 1, 0]]
    assert y.tolist() == [0]


def test_texts_alone_are_a_language(tmp_path: Path) -> None:
    save(tmp_path / "t", train=table(text=WORDS * 5), validation=table(text=WORDS), test=table(text=WORDS))
    task = load_task("hf:./t?length=3", base=tmp_path)
    assert task.input_shape == (3,)
    assert [metric.name for metric in task.metrics] == ["perplexity", "accuracy"]
    x, y = task.train.examples(torch.tensor([0]))
    assert torch.equal(x[0, 1:], y[0, :-1])


def cached(tmp_path: Path, name: str) -> None:
    """Put a data set into the cache, as the library does when it has fetched one."""
    place = tmp_path / "cache" / name.replace("/", "___") / "default" / "0.0.0" / "abc"
    place.mkdir(parents=True)
    data = photos()
    short = name.split("/")[-1]
    with datasets.arrow_writer.ArrowWriter(path=str(place / f"{short}-train.arrow"), features=data.features) as writer:
        for row in data.cast_column("image", datasets.Image(decode=False)):
            writer.write(row)
        writer.finalize()
    split = {"name": "train", "num_bytes": 1, "num_examples": 24, "dataset_name": short}
    info = {"features": data.features.to_dict(), "builder_name": short, "dataset_name": short}
    info |= {"config_name": "default", "version": {"version_str": "0.0.0"}, "splits": {"train": split}}
    (place / "dataset_info.json").write_text(json.dumps(info))


def test_what_was_fetched_before_goes_by_its_name(tmp_path: Path) -> None:
    cached(tmp_path, "someone/toy")
    task = load_task("hf:someone/toy", base=tmp_path)
    assert [len(split) for split in task.splits.values()] == [17, 2, 5]
    with pytest.raises(NotFoundError, match=r"hf:someone/else is not in the cache .*; add download=true to fetch it"):
        load_task("hf:someone/else", base=tmp_path)


def test_a_graph_alone_does_not_have_data_fetched(tmp_path: Path) -> None:
    class Nobody:
        writes = False

    with pytest.raises(UntrustedError, match=r"hf:someone/toy is not in the cache, and only the graph says to fetch"):
        load_task("hf:someone/toy?download=true", base=tmp_path, consent=Nobody())  # type: ignore[arg-type]


def test_names_stay_and_paths_become_relative_to_the_graph(tmp_path: Path) -> None:
    (tmp_path / "data" / "toy").mkdir(parents=True)

    def stored(text: str) -> str:
        return str(source_of(Spec.parse(text), typed_in=tmp_path, base=tmp_path / "g.mgraph")[0])

    assert stored("hf:someone/toy") == "hf:someone/toy"
    assert stored("hf:toy") == "hf:toy"
    assert stored("hf:./toy") == "hf:../toy"
    assert stored("hf:data/toy") == "hf:../data/toy"


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("?x=imag", r"has no column 'imag'; did you mean 'image'\? it has image \(image\), label \(label\)"),
        ("?x=label&y=label", "Column label of .* is the target, and cannot be an input, too"),
        ("?test=tset", "test is another split .* not 'tset'; there are train, test"),
        ("?test=1.5", r"test is a split, or a share of the rows between 0 and 1, not 1\.5"),
        ("?size=0", "size must be at least 1, not 0"),
        ("?limit=valid=3", "limit names valid, and .* has no such split of its own"),
        ("?columns=3", "has no parameter 'columns'"),
    ],
)
def test_what_is_asked_wrongly(tmp_path: Path, query: str, says: str) -> None:
    base = save(tmp_path / "photos", train=photos(), test=photos(4))
    with pytest.raises(InputError, match=says):
        load_task(f"hf:./photos{query}", base=base)


def odd(tmp_path: Path, **columns: Any) -> Task:
    save(tmp_path / "odd", train=datasets.Dataset.from_dict(columns))
    return load_task("hf:./odd", base=tmp_path)


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"a": [1.0, None] * 5, "label": [0, 1] * 5}, r"Column a of hf:.*odd has no value in row \d"),
        ({"a": [[1], [1, 2]] * 5, "label": [0, 1] * 5}, "Column a of .* has lists of 2 lengths, 1 to 2; pad them"),
        ({"a": [{"b": 1}] * 10, "label": [0, 1] * 5}, "Column a of .* is of a kind that cannot be an input"),
        ({"a": [1.0] * 10, "label": [1, 2] * 5}, "The labels of the train split begin at 1"),
        ({"a": [1.0] * 10, "b": ["x"] * 10, "c": ["y"] * 10}, r"Say which columns .* a \(number\), b \(text\)"),
        ({"a": [1.0] * 10}, "Say which column .* is the target, as in y=…"),
    ],
)
def test_columns_that_cannot_be_used(tmp_path: Path, columns: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        odd(tmp_path, **columns)


def test_images_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    rows = [png(p) for p in PIXELS[:10]] + [{"bytes": b"no image", "path": None}] * 5
    data = datasets.Dataset.from_dict({"image": rows, "label": [0, 1, 2] * 5}, features=features)
    save(tmp_path / "odd", train=data, test=photos(4).cast_column("label", datasets.Value("int64")))
    for query in ("", "?stream=true"):
        with pytest.raises(InputError, match=r"has 5 of 15 images that cannot be read: row 10 \(not an image file"):
            load_task(f"hf:./odd{query}", base=tmp_path)
    other = datasets.Dataset.from_dict(
        {"image": [png(np.zeros((6, 9, 3), np.uint8))] * 4, "label": [0, 1] * 2}, features=features
    )
    save(tmp_path / "wide", train=other)
    with pytest.raises(InputError, match="has images of 9×6 pixels; say to what size to resize them"):
        load_task("hf:./wide", base=tmp_path)


def test_without_the_library_it_is_said_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mgraph.data.huggingface import huggingface

    def gone(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", gone)
    with pytest.raises(InputError, match=r"pip install 'mgraph\[datasets\]'"):
        huggingface("someone/toy")
