"""``limit=…``: how many examples of each split are used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mgraph.data.limits import limits_of
from mgraph.data.loading import load_task
from mgraph.errors import InputError
from mgraph.specs import Spec


@pytest.fixture
def base(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, splits in (("whole", ("train", "valid", "test")), ("two", ("train", "test"))):
        arrays: dict[str, Any] = {f"x_{s}": rng.integers(0, 256, (60, 2, 2), np.uint8) for s in splits}
        np.savez(tmp_path / f"{name}.npz", **arrays, **{f"y_{s}": np.arange(60) % 3 for s in splits})
    return tmp_path


def sizes(task: Any) -> list[int]:
    return [len(task.splits[split]) for split in ("train", "valid", "test")]


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("limit=20", [20, 60, 60]),
        ("limit=20,test=10", [20, 60, 10]),
        ("limit=test=10,valid=5", [60, 5, 10]),
        ("limit=train=20,valid=1000", [20, 60, 60]),
    ],
)
def test_every_split_can_be_limited(base: Path, limit: str, expected: list[int]) -> None:
    task = load_task(f"npz:whole.npz?{limit}", base=base)
    assert sizes(task) == expected
    whole = load_task("npz:whole.npz", base=base)
    assert task.test.targets.tolist() == whole.test.targets[: expected[2]].tolist()
    assert str(Spec.parse(str(Spec.parse(f"npz:whole.npz?{limit}")))) == str(Spec.parse(f"npz:whole.npz?{limit}"))


def test_validation_data_that_are_held_out_are_limited_with_train(base: Path) -> None:
    assert sizes(load_task("npz:two.npz?limit=20,test=7", base=base)) == [18, 2, 7]
    with pytest.raises(InputError, match=r"no valid split of their own: .* limit these"):
        load_task("npz:two.npz?limit=valid=5", base=base)


def test_images_are_taken_from_all_classes(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for split in ("train", "test"):
        for kind in "ab":
            (tmp_path / split / kind).mkdir(parents=True)
            for i in range(12):
                image.new("RGB", (4, 4), (i, 0, 0)).save(tmp_path / split / kind / f"{i}.png")
    task = load_task("imagefolder:.?size=4&limit=20,test=8", base=tmp_path)
    assert sizes(task) == [18, 2, 8]
    assert set(task.test.targets.tolist()) == {0, 1}


def test_texts_have_limits_too(tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / f"{name}.txt").write_text("abcd" * 50)
    task = load_task("text:.?level=char&length=2&limit=40,test=9", base=tmp_path)
    assert (sizes(task)[0] + sizes(task)[1], sizes(task)[2]) == (40, 9)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("1",), "limit must be at least 2, not 1"),
        (("test=0",), "limit of test must be at least 1, not 0"),
        (("ten",), "limit must be at least 2, not ten"),
        (("tets=5",), r"no split 'tets'; did you mean 'test'\?"),
        (("5", "train=6"), "limit gives train twice"),
        (("test=-4",), "limit of test must be at least 1"),
    ],
)
def test_what_is_no_limit_is_refused(given: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        limits_of(given)
