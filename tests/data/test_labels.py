"""Labels: which shapes and types are taken, which are explained, and those that stand for no label."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import Dataset, TensorDataset

from mgraph.data.labels import find_void, per_example, without_void
from mgraph.data.making import make_task
from mgraph.errors import InputError
from mgraph.evaluate.metric_names import resolve_metrics
from mgraph.evaluate.metrics import measure
from mgraph.network.flat import FlatModel

RNG = np.random.default_rng(0)
X = RNG.random((40, 5)).astype(np.float32)
Y = np.arange(40) % 4


def task(y, **more):
    return make_task(train=(X, y), test=(X[:8], y[:8]), **more)


def ignoring_255(outputs, targets):
    return F.cross_entropy(outputs, targets, ignore_index=255)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, ">i4", np.bool_])
def test_a_column_of_labels_is_a_row(dtype):
    y = (Y % 2).astype(dtype)
    assert task(y[:, None]).fingerprint == task(y).fingerprint
    streamed = TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)[:, None])
    assert make_task(train=streamed, test=streamed).train.targets.shape == (36,)
    assert next(make_task(train=streamed, test=streamed).test.batches(3))[1].shape == (3,)


def test_a_loss_of_ones_own_gets_the_column_as_it_is():
    assert task(Y[:, None], loss=lambda out, y: out.sum()).train.targets.shape == (36, 1)


ONE_HOT = np.eye(4, dtype=np.int64)[Y]


@pytest.mark.parametrize(
    ("y", "says"),
    [
        (ONE_HOT, r"look one-hot, shape \(40, 4\), .*y\.argmax\(1\)"),
        (ONE_HOT.astype(np.float32), r"look one-hot, shape \(40, 4\), .*y\.argmax\(1\)"),
        (Y.astype(np.float64), r"floats that are whole numbers, 0 to 3; .*astype\('int64'\)"),
        (Y + 0.5, "not integer labels; give labels"),
        (np.full(40, np.inf), "not integer labels"),
        (Y + 1, "begin at 1, and go to 4; .*subtract 1, or say classes=5"),
        (Y - 100, r"label -100; labels are 0, 1, ….*ignore_index=-100"),
        (np.where(Y > 1, 1, -1), "label -1; .*Map -1 and 1 to 0 and 1"),
        (np.where(Y > 2, 255, Y), "label 255, and none between 2 and 255; .*ignore_index=255, .*classes=256"),
        (np.array(["cat", "dog"])[Y % 2], r"words \('cat', …\).*names\.index"),
        (np.array([{"label": 1}] * 40), "Python objects"),
        (np.array(["2020-01-01"] * 40, "datetime64[D]"), "datetime64"),
    ],
)
def test_labels_that_need_a_word_of_the_user(y, says):
    with pytest.raises(InputError, match=says):
        task(y)


def test_ragged_arrays_are_a_sentence():
    with pytest.raises(InputError, match="y of the train split is not an array"):
        make_task(train=(X[:2], [[1], [1, 2]]), test=(X, Y))


def test_what_the_user_says_goes():
    assert task(Y + 1, classes=5).classes == 5
    assert task(np.where(Y > 2, 255, Y), classes=256).classes == 256
    assert task(ONE_HOT, classes=2).classes == 2


def test_classes_without_training_examples_are_said():
    assert task(np.where(Y == 1, 0, Y)).notes == ("1 of 4 classes have no training example: 1.",)
    assert task(Y).notes == ()


def test_a_declared_label_is_void_in_loss_and_metrics():
    y = np.where(np.arange(40) % 5 == 0, 255, Y)
    t = task(y, ignore_index=255)
    assert (t.classes, t.void, t.loss_name) == (4, (255,), "cross_entropy(ignore_index=255)")
    assert t.fingerprint != task(y, classes=256).fingerprint
    out, targets = torch.randn(40, 4), torch.from_numpy(y)
    torch.testing.assert_close(t.loss(out, targets), F.cross_entropy(out, targets, ignore_index=255))
    assert float(t.loss(out, torch.full((40,), 255))) == 0
    assert task(y, ignore_index=255, classes=4).classes == 4
    with pytest.raises(InputError, match="No label of the train split counts"):
        task(np.full(40, 255), ignore_index=255)


def test_class_0_may_be_void():
    t = task(Y, ignore_index=0)
    assert (t.classes, t.void, t.notes) == (4, (0,), ())


class Fixed(torch.nn.Module):
    """Gives its inputs out."""

    def __init__(self):
        super().__init__()
        self.one = torch.nn.Parameter(torch.ones(1))

    def forward(self, x):
        return x * self.one


def measured(x, y, names=(), **more):
    t = make_task(train=(x, y), valid=(x, y), test=(x, y), **more)
    return measure(FlatModel(Fixed(), device="cpu"), t, "test", metrics=resolve_metrics(names, t))


NAMES = ("nll", "brier", "ece", "top2")


@pytest.mark.parametrize("how", [{"ignore_index": 255}, {"loss": ignoring_255, "classes": 4}])
def test_no_metric_counts_void_examples(how):
    x = torch.randn(1100, 4).numpy()  # more than one batch
    y = np.arange(1100) % 4
    void = np.where(np.arange(1100) < 990, 255, y)
    found = measured(x, void, NAMES, **how)
    wanted = measured(x[990:], y[990:], NAMES)
    for name in ("loss", "accuracy", *NAMES):
        assert found[name].value == pytest.approx(wanted[name].value, abs=1e-6), name
        assert found[name].count == 110, name
    for name in ("accuracy", "nll", "brier", "top2"):
        assert found[name].standard_error == pytest.approx(wanted[name].standard_error), name


@pytest.mark.parametrize("how", [{"ignore_index": 255}, {"loss": ignoring_255, "classes": 2}])
def test_void_pixels_leave_an_example_its_others(how):
    x = RNG.normal(size=(6, 2, 3, 3)).astype(np.float32)
    y = x.argmax(1)
    y[:, 1:] = 1 - y[:, 1:]  # wrong below the first row
    y[:5, 1:] = 255  # and void there, but in the last example
    y[0] = 255
    found = measured(x, y, ("nll", "brier", "ece", "top2"), **how)
    assert found["accuracy"].value == pytest.approx((4 * 3 + 3) / (4 * 3 + 9))  # of all pixels that count
    assert (found["accuracy"].count, found["top2"].value, found["loss"].count) == (5, 1.0, 5)
    each = F.cross_entropy(torch.from_numpy(x), torch.from_numpy(np.where(y == 255, 0, y)), reduction="none")
    counts = torch.from_numpy(y) != 255
    mean = each[counts].mean()
    assert found["nll"].value == pytest.approx(float(mean))
    if "loss" not in how:
        assert found["loss"].value == pytest.approx(float(mean))


class Streamed(Dataset):
    """Has no list of its targets."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], self.y[i]


def test_void_labels_of_streamed_data_are_known_before_they_are_read():
    x = RNG.normal(size=(6, 2, 3, 3)).astype(np.float32)
    y = x.argmax(1)
    y[:, 1:] = 255
    data = Streamed(x, y)
    found = measured_by(make_task(train=data, valid=data, test=data, loss=ignoring_255, classes=2))
    assert found["accuracy"].value == 1
    with pytest.raises(InputError, match=r"label 255; .*ignore_index=255"):
        _ = make_task(train=data, valid=data, test=data, classes=2).fingerprint


def measured_by(task):
    _ = task.fingerprint  # reads all
    return measure(FlatModel(Fixed(), device="cpu"), task, "test")


def test_a_loss_that_takes_notice_of_a_strange_label_keeps_it_refused():
    def squares(outputs, targets):
        return (outputs[:, 0] - targets).square().mean()

    y = np.where(np.arange(40) == 3, 7, Y)
    with pytest.raises(InputError, match="label 7; labels of 4 classes"):
        task(y, loss=squares, classes=4)
    with pytest.raises(InputError, match="label 9"):  # another value than the loss ignores
        task(np.where(np.arange(40) == 3, 9, Y), loss=ignoring_255, classes=4)
    assert task(np.where(np.arange(40) == 3, 255, Y), loss=ignoring_255, classes=4).void == (255,)

    def minus_one(outputs, targets):
        return F.cross_entropy(outputs, targets, ignore_index=-1)

    assert task(np.where(np.arange(40) == 3, -1, Y), loss=minus_one).void == (-1,)


def test_where_a_loss_cannot_be_tried_only_customary_values_are_void():
    def strange(outputs, targets):
        raise ValueError("for five outputs only")

    for value in (255, -100):
        assert find_void([("train", torch.tensor([0, value]))], 2, None, strange) == (value,)
    with pytest.raises(InputError, match="label 77"):
        find_void([("train", torch.tensor([0, 77]))], 2, None, strange)


def test_without_void_labels_numbers_are_what_they_were():
    values, targets = torch.rand(3, 2, 2), torch.zeros(3, 2, 2, dtype=torch.int64)
    assert torch.equal(per_example(values, targets, (255,)), values.flatten(1).mean(1))
    assert without_void(values, targets, (255,))[0] is values


def test_networks_are_tried_on_examples_whose_labels_count_and_on_the_largest():
    y = np.where(np.arange(40) < 12, 255, 0)
    y[30] = 3
    for how in ({"ignore_index": 255}, {"loss": ignoring_255}):
        t = make_task(train=(X, y), test=(X, Y), classes=4, **how)
        labels = t.train.targets[t.typical(4)]
        assert labels.tolist() == [0, 0, 0, 3]
    assert task(Y).typical(4) == [0, 1, 2, 3]
    pixels = np.zeros((40, 2, 2), np.int64)
    pixels[7, 0, 1] = 1
    assert task(pixels).train.targets[task(pixels).typical(3)].max() == 1
    assert make_task(train=(X, X), test=(X, X), loss=F.mse_loss).typical(3) == [0, 1, 2]
