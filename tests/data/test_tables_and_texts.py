"""Texts, tables and further image sets by spec."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image

from mgraph.data.loading import load_task
from mgraph.errors import InputError, NotFoundError

RNG = np.random.default_rng(0)
LINES = ["the cat sat on the mat", "the dog sat", "a cat and a dog"]


def texts(where: Path, pattern: str = "{}.txt", **changed: str) -> Path:
    where.mkdir(exist_ok=True)
    contents = {"train": "\n".join(LINES * 4) + "\n", "valid": LINES[0] + "\n" + LINES[1], "test": LINES[1] + " bird\n"}
    for name, text in (contents | changed).items():
        (where / pattern.format(name)).write_text(text)
    return where


@pytest.mark.parametrize("pattern", ["{}.txt", "ptb.{}.txt", "wiki.{}.tokens"])
def test_texts_are_streams_of_words(tmp_path: Path, pattern: str) -> None:
    texts(tmp_path / "t", pattern)
    task = load_task("text:t?length=3", base=tmp_path)
    x, y = next(task.train.batches(1000))
    words = [*" <eos> ".join(LINES * 4).split(), "<eos>"]
    assert x.shape == y.shape == ((len(words) - 1) // 3, 3)
    stream = torch.cat([x.flatten(), y.flatten()[-1:]]).tolist()
    assert y.flatten().tolist() == stream[1:]
    pairs = set(zip(stream, words, strict=False))
    assert len({number for number, _ in pairs}) == len({word for _, word in pairs}) == len(pairs)  # one for each word
    assert task.classes == len(set(words)) + 1  # and the unknown
    assert "1 of 5 tokens of test" in task.notes[0]
    assert task.primary.name == "perplexity"


def test_rare_words_are_unknown_and_frequent_ones_come_first(tmp_path: Path) -> None:
    texts(tmp_path / "t", train="a a a b b c\n" * 2 + "d")
    x, _ = next(load_task("text:t?length=2&least=2", base=tmp_path).train.batches(100))
    assert x.flatten().tolist()[:7] == [0, 0, 0, 1, 1, 3, 2]  # a, b, <eos> (of three lines), c
    assert load_task("text:t?length=2&least=2", base=tmp_path).classes == 5


def test_characters(tmp_path: Path) -> None:
    texts(tmp_path / "t", train="abab\nabab\n", valid="ab", test="ba\n")
    task = load_task("text:t?level=char&length=1&limit=4", base=tmp_path)
    assert task.classes == 3
    assert len(task.train) == 4


@pytest.mark.parametrize(
    ("spec", "changed", "error", "says"),
    [
        ("text:none", {}, NotFoundError, "The text directory .*none does not exist"),
        ("text:t?level=syllable", {}, InputError, "level is word or char, not 'syllable'"),
        ("text:t?length=0", {}, InputError, "length must be at least 1"),
        ("text:t?length=500", {}, InputError, "tokens, too few for one example of 500"),
        ("text:.", {}, InputError, r"has no texts to train and test on; name them train\.txt, or ptb\.train\.txt"),
        ("text:t?tokenizer=x.json", {}, InputError, "needs the library tokenizers: pip install tokenizers"),
    ],
)
def test_texts_that_cannot_be_used(tmp_path: Path, spec: str, changed: Any, error: Any, says: str) -> None:
    if "tokenizer" in spec and importlib.util.find_spec("tokenizers"):
        pytest.skip("the library is there")
    texts(tmp_path / "t", **changed)
    with pytest.raises(error, match=says):
        load_task(spec, base=tmp_path)


def test_what_is_not_utf8_is_named(tmp_path: Path) -> None:
    texts(tmp_path / "t")
    (tmp_path / "t" / "test.txt").write_bytes(b"caf\xe9 au lait")
    with pytest.raises(InputError, match=r"test\.txt is not text in UTF-8: byte 3"):
        load_task("text:t", base=tmp_path)


# Tables


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Write 40 rows as CSV and as Parquet: two numbers, a label, a word, a quantity, and the split."""
    rows = "\n".join(
        f"{i},{i % 7}.5,{i % 2},{'dog' if i % 3 else 'cat'},{i / 8},{'test' if i % 4 == 0 else 'train'}"
        for i in range(40)
    )
    (tmp_path / "d.csv").write_text(f"a,b,label,word,size,part\n{rows}\n")
    with duckdb.connect() as connection:
        source, target = tmp_path / "d.csv", tmp_path / "d.parquet"
        connection.execute(f"COPY (SELECT * FROM read_csv('{source}')) TO '{target}' (FORMAT parquet)")
    return tmp_path


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_of_labels(table: Path, kind: str) -> None:
    task = load_task(f"{kind}:d.{kind}?y=label&x=a,b&split=part&standardise=false", base=table)
    x, y = next(task.test.batches(100))
    assert x.tolist() == [[i, i % 7 + 0.5] for i in range(0, 40, 4)]
    assert y.tolist() == [0] * 10
    assert (task.classes, task.primary.name) == (2, "accuracy")
    assert len(task.train) + len(task.valid) == 30


def test_both_kinds_are_the_same_data(table: Path) -> None:
    prints = {load_task(f"{kind}:d.{kind}?y=label&x=a,b", base=table).fingerprint for kind in ("csv", "parquet")}
    assert len(prints) == 1


def test_inputs_are_standardised_by_train(table: Path) -> None:
    task = load_task("csv:d.csv?y=label&x=a,b&test=0.25&seed=3", base=table)
    assert len(task.test) == 10
    whole = torch.cat([next(split.batches(100))[0] for split in (task.train, task.valid)])
    assert torch.allclose(whole.mean(0), torch.zeros(2), atol=1e-6)
    assert torch.allclose(whole.std(0, correction=0), torch.ones(2), atol=1e-5)
    other = load_task("csv:d.csv?y=label&x=a,b&test=0.25&seed=4", base=table)
    assert other.fingerprint != task.fingerprint


def test_words_are_labels_and_numbers_with_a_point_are_quantities(table: Path) -> None:
    words = load_task("csv:d.csv?y=word&x=a,b", base=table)
    assert words.notes[0] == "Labels of column word: cat = 0, dog = 1."
    sizes = load_task("csv:d.csv?y=size&x=[ab]", base=table)
    assert (sizes.classes, sizes.primary.name, sizes.combine) == (None, "mae", "mean")
    assert next(sizes.test.batches(3))[1].shape == (3, 1)


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ("y=lable&x=a", "has no column 'lable'; did you mean 'label'.* it has a, b, label"),
        ("y=label&x=c*", r"has no column 'c\*' for x"),
        ("y=label", r"Column word of .*d\.csv holds no numbers \('cat'\); name the columns of the inputs with x="),
        ("y=label&x=a&split=word", "says of every row whether it is train, valid or test; it has 'cat'"),
        ("y=label&x=a&test=1.5", "test is a share of the rows between 0 and 1, not 1.5"),
        ("x=a", r"Say which column of .* is the target, as in y=part; it has a, b, label, word"),
    ],
)
def test_tables_that_cannot_be_used(table: Path, params: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        load_task(f"csv:d.csv?{params}", base=table)


def test_missing_values_are_counted(table: Path) -> None:
    text = (table / "d.csv").read_text().replace("\n5,", "\n,")
    (table / "d.csv").write_text(text)
    with pytest.raises(InputError, match=r"Column a of .*d\.csv has 1 missing values, the first in row 6"):
        load_task("csv:d.csv?y=label&x=a,b", base=table)
    (table / "b.parquet").write_bytes(b"no table")
    with pytest.raises(InputError, match=r"b\.parquet cannot be read as a table"):
        load_task("parquet:b.parquet?y=label", base=table)


def test_a_table_trains_from_the_command_line(table: Path, commands: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = commands(table)
    monkeypatch.setenv("MGRAPH_CONFIG_DIR", str(table / "config"))
    run("init", "g.mgraph", "--arch", "mlp?hidden=4,", "--data", "csv:d.csv?y=label&x=a,b")
    run("train", "--epochs", 1, "--name", "a")
    assert run("ls", "--json").rows[0]["test_accuracy"] is not None
    (table / "d.csv").write_text((table / "d.csv").read_text().replace("\n5,", "\n6,"))
    assert "their content or normalisation changed" in run("train", "--epochs", 1, code=2).stderr


# Image sets


def test_svhn_and_stl10_from_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = RNG.integers(0, 256, (12, 3, 32, 32), dtype=np.uint8), np.arange(12) % 10 + 1
    for part in ("train", "test"):
        file = tmp_path / f"{part}_32x32.mat"
        scipy.io.savemat(file, {"X": images.transpose(2, 3, 1, 0), "y": labels[:, None]})
    monkeypatch.setattr("torchvision.datasets.svhn.check_integrity", lambda *_: True)
    task = load_task(f"svhn?root={tmp_path}&valid=last3")
    assert torch.equal(task.test.inputs, torch.from_numpy(images))
    assert task.test.targets.tolist() == (labels % 10).tolist()  # ten is the digit 0
    assert [len(split) for split in task.splits.values()] == [9, 3, 12]
    assert torch.equal(task.valid.inputs, torch.from_numpy(images[9:]))
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    photos = RNG.integers(0, 256, (12, 3, 96, 96), dtype=np.uint8)
    for part in ("train", "test"):
        photos.transpose(0, 1, 3, 2).tofile(folder / f"{part}_X.bin")
        labels.astype(np.uint8).tofile(folder / f"{part}_y.bin")
    (folder / "class_names.txt").write_text("\n".join("abcdefghij"))
    monkeypatch.setattr("torchvision.datasets.stl10.STL10._check_integrity", lambda _: True)
    task = load_task(f"stl10?root={tmp_path}")
    assert torch.equal(task.test.inputs, torch.from_numpy(photos))
    assert task.test.targets.tolist() == (labels - 1).tolist()


@pytest.mark.parametrize("rule", ["first5", "last0", "last12", "last"])
def test_a_rule_for_validation_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str) -> None:
    images = RNG.integers(0, 256, (12, 3, 32, 32), dtype=np.uint8)
    for part in ("train", "test"):
        content = {"X": images.transpose(2, 3, 1, 0), "y": np.ones((12, 1))}
        scipy.io.savemat(tmp_path / f"{part}_32x32.mat", content)
    monkeypatch.setattr("torchvision.datasets.svhn.check_integrity", lambda *_: True)
    with pytest.raises(InputError, match=rf"valid is lastN, as in last5000, with N below the 12 .*, not '{rule}'"):
        load_task(f"svhn?root={tmp_path}&valid={rule}")


def test_tiny_imagenet_as_it_is_unpacked(tmp_path: Path) -> None:
    root = tmp_path / "tiny"
    for number, name in enumerate(("n01", "n02")):
        folder = root / "train" / name / "images"
        folder.mkdir(parents=True)
        (folder.parent / f"{name}_boxes.txt").write_text("")
        for i in range(10):
            Image.fromarray(np.full((64, 64, 3), 10 * number + i, np.uint8)).save(folder / f"{name}_{i}.png")
    (root / "val" / "images").mkdir(parents=True)
    for i in range(4):
        Image.fromarray(np.full((64, 64, 3), 100 + i, np.uint8)).save(root / "val" / "images" / f"val_{i}.png")
    annotations = root / "val" / "val_annotations.txt"
    annotations.write_text("".join(f"val_{i}.png\tn0{2 - i % 2}\t0\t0\t62\t62\n" for i in range(4)))
    task = load_task("tiny-imagenet:tiny", base=tmp_path)
    assert (task.input_shape, task.classes) == ((3, 64, 64), 2)
    assert task.test.targets.tolist() == [1, 0, 1, 0]
    assert task.test.inputs[:, 0, 0, 0].tolist() == [100, 101, 102, 103]
    assert [len(split) for split in task.splits.values()] == [18, 2, 4]
    annotations.write_text("val_0.png\tn09\n")
    with pytest.raises(InputError, match=r"names no class of train: 'val_0\.png n09'"):
        load_task("tiny-imagenet:tiny", base=tmp_path)
    annotations.write_text("gone.png\tn01\n")
    with pytest.raises(InputError, match=r"1 of 1 images that .* names are missing: gone\.png"):
        load_task("tiny-imagenet:tiny", base=tmp_path)
