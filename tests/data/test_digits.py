"""The embedded digits: the original images, in the fixed split."""

import numpy as np
import pytest
import torch

from mgraph.data.loading import load_task
from mgraph.data.stratify import VALID_SEED, stratified_choice


@pytest.fixture(scope="module")
def stored():
    from importlib.resources import files

    with (files("mgraph.data") / "digits.npz").open("rb") as file, np.load(file) as arrays:
        return dict(arrays)


def test_images_are_the_originals(stored):
    datasets = pytest.importorskip("sklearn.datasets")
    original = datasets.load_digits()
    assert np.array_equal(stored["images"], original.images)
    assert np.array_equal(stored["labels"], original.target)


def test_split_is_what_its_docstring_says(stored):
    labels = stored["labels"]
    test = stratified_choice(labels, 360, VALID_SEED)
    rest = np.setdiff1d(np.arange(1797), test)
    valid = rest[stratified_choice(labels[rest], 360, VALID_SEED)]
    assert np.array_equal(stored["test"], test)
    assert np.array_equal(stored["valid"], valid)
    assert np.array_equal(stored["train"], np.setdiff1d(rest, valid))


def test_task(stored):
    task = load_task("digits")
    assert [len(s) for s in task.splits.values()] == [1077, 360, 360]
    assert (task.input_shape, task.classes, task.loss_name) == ((1, 8, 8), 10, "cross_entropy")
    assert task.valid_seed is None
    for split in task.splits.values():
        counts = torch.bincount(split.targets)
        assert counts.max() - counts.min() <= 0.06 * len(split) / 10 + 1
    x, y = task.test.examples(torch.arange(360))
    assert x.dtype == torch.float32
    grey = torch.from_numpy(stored["images"][stored["test"]]) / 16
    torch.testing.assert_close(x[:, 0] * task.std[0] + task.mean[0], grey, rtol=1e-5, atol=1e-6)
    train = torch.from_numpy(stored["images"][stored["train"]]) / 16
    assert task.mean[0] == pytest.approx(train.mean().item(), abs=5e-5)
    assert task.std[0] == pytest.approx(train.std().item(), abs=5e-5)
    assert y.dtype == torch.int64
    # Stored graphs depend on it.
    assert task.fingerprint == "e783c8b353aa39599ba2666f81d4fa25"


def test_noisy_labels_are_those_of_the_seed_and_leave_the_test_labels_true():
    clean, noisy, again, other = (
        load_task(f"digits{end}")
        for end in ("", "?label_noise=0.5", "?label_noise=0.5", "?label_noise=0.5&label_seed=1")
    )
    for split in ("train", "valid"):
        true, given = (np.asarray(getattr(task, split).targets) for task in (clean, noisy))
        changed = true != given
        assert changed.sum() == round(0.5 * len(true))  # every label that is drawn is wrong afterwards
        assert set(np.unique(given)) == set(range(10))
        assert np.array_equal(given, getattr(again, split).targets)
        assert not np.array_equal(given, getattr(other, split).targets)
    assert np.array_equal(clean.test.targets, noisy.test.targets)
    assert load_task("digits?label_noise=0").fingerprint == clean.fingerprint
