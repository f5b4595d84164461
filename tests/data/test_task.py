"""Tasks: how they are put together from arrays, what identifies them, and what is refused."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from mgraph.data.making import make_task
from mgraph.data.splits import ArraySplit
from mgraph.data.stratify import VALID_SEED
from mgraph.errors import InputError, NonFiniteError

RNG = np.random.default_rng(0)
X = RNG.random((40, 5))
Y = np.arange(40) % 4
TEST = (X[:8], Y[:8])


def mse(outputs, targets):
    return (outputs - targets).square().mean()


def test_plain_arrays():
    task = make_task(train=(X, Y), test=TEST)
    assert (task.classes, task.input_shape, task.loss_name) == (4, (5,), "cross_entropy")
    assert task.train.examples(torch.tensor([0]))[0].dtype == torch.float32
    assert [(m.name, m.better, m.cost(0.75)) for m in task.metrics] == [("accuracy", "higher", 0.25)]


def test_validation_is_a_stratified_tenth_by_a_fixed_seed():
    task = make_task(train=(X, Y), test=TEST)
    assert [len(s) for s in task.splits.values()] == [36, 4, 8]
    assert task.valid.targets.sort().values.tolist() == [0, 1, 2, 3]
    assert task.valid_seed == VALID_SEED
    both = torch.cat([task.train.inputs, task.valid.inputs]).sort(0).values
    assert torch.equal(both, torch.from_numpy(X).float().sort(0).values)
    again = make_task(train=(X, Y), test=TEST)
    assert torch.equal(task.valid.inputs, again.valid.inputs)
    assert task.fingerprint == again.fingerprint
    given = make_task(train=(X, Y), test=TEST, valid=TEST)
    assert (len(given.train), given.valid_seed) == (40, None)


def test_carved_validation_keeps_the_normalisation():
    task = make_task(train=(X, Y), test=TEST, mean=0.5, std=2)
    assert (task.mean, task.std) == ((0.5,), (2.0,))
    assert {s.normalisation.mean for s in task.splits.values()} == {(0.5,)}


def test_losses_and_metrics_per_example():
    task = make_task(train=(X, Y), test=TEST)
    outputs, targets = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    each = task.example_loss(outputs, targets)
    assert each.shape == (6,)
    torch.testing.assert_close(each.mean(), task.loss(outputs, targets))
    right = task.metrics[0].function(outputs, targets)
    assert right.shape == (6,)
    assert right.mean() == (outputs.argmax(1) == targets).float().mean()


def test_labels_per_pixel_give_one_number_per_example():
    labels = np.arange(40 * 6).reshape(40, 2, 3) % 4
    task = make_task(train=(RNG.random((40, 1, 2, 3)), labels), test=(RNG.random((4, 1, 2, 3)), labels[:4]))
    outputs, targets = torch.randn(4, 4, 2, 3), torch.from_numpy(labels[:4])
    assert task.example_loss(outputs, targets).shape == (4,)
    torch.testing.assert_close(task.example_loss(outputs, targets).mean(), F.cross_entropy(outputs, targets))
    assert task.metrics[0].function(outputs, targets).shape == (4,)


def test_a_loss_of_ones_own():
    target = RNG.random((40, 1))
    task = make_task(train=(X, target), test=(X[:8], target[:8]), loss=mse)
    assert (task.classes, task.loss_name, task.example_loss, task.metrics) == (None, "mse", None, ())
    assert task.train.targets.dtype == torch.float32
    named = make_task(train=(X, target), test=(X[:8], target[:8]), loss=mse, loss_name="squares", classes=1)
    assert (named.loss_name, named.classes) == ("squares", 1)


def test_datasets_and_splits_are_taken_too():
    data = TensorDataset(torch.from_numpy(X).float(), torch.from_numpy(Y))
    arrays = make_task(train=(X, Y), test=TEST)
    streamed = make_task(train=data, test=TEST)
    assert (streamed.classes, len(streamed.train), len(streamed.valid)) == (4, 36, 4)
    assert torch.equal(streamed.valid.targets, arrays.valid.targets)
    split = ArraySplit(torch.from_numpy(X).float(), torch.from_numpy(Y))
    assert make_task(train=split, test=TEST).fingerprint == arrays.fingerprint


def test_fingerprint_changes_with_all_that_matters():
    def fingerprint(x=X, y=Y, test=TEST, **more):
        return make_task(train=(x, y), test=test, **more).fingerprint

    other = X.copy()
    other[3, 3] += 1e-3
    labels = Y.copy()
    labels[[0, 1]] = labels[[1, 0]]
    variants = [
        fingerprint(),
        fingerprint(x=other),
        fingerprint(y=labels),
        fingerprint(test=(X[:7], Y[:7])),
        fingerprint(mean=0.5),
        fingerprint(std=0.5),
        fingerprint(loss=F.cross_entropy, loss_name="other"),
        fingerprint(classes=5),
        fingerprint(x=(X * 255).astype(np.uint8), test=((X[:8] * 255).astype(np.uint8), Y[:8])),
        fingerprint(x=X.reshape(40, 5, 1), test=(X[:8].reshape(8, 5, 1), Y[:8])),
    ]
    assert len(set(variants)) == len(variants)
    assert all(len(v) == 32 for v in variants)
    assert fingerprint(x=X.astype(np.float32), test=(X[:8].astype(np.float32), Y[:8])) == variants[0]


def nan_at(where):
    x = X.copy()
    x[where] = np.nan
    return x


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"train": (X, Y)}, InputError, "no test split"),
        ({"train": (X, Y[:-1]), "test": TEST}, InputError, "train split has 40 inputs but 39 targets"),
        ({"train": (X, Y), "test": (X[:0], Y[:0])}, InputError, "test split is empty"),
        ({"train": (X[:0], Y[:0]), "test": TEST}, InputError, "train split is empty"),
        ({"train": (X[:1], Y[:1]), "test": TEST}, InputError, "needs at least 2"),
        ({"train": (X, Y), "test": (nan_at((0, 0)), Y)}, NonFiniteError, "x of the test split has 1 values"),
        ({"train": (X, Y), "test": (X * np.inf, Y)}, NonFiniteError, "test split has 200 values"),
        ({"train": (X * 1e300, Y), "test": TEST}, NonFiniteError, "train split"),
        ({"train": (X, Y), "test": TEST, "classes": 3}, InputError, "train split has a label 3; .* 0 to 2"),
        ({"train": (X, Y), "test": (X, Y + 1)}, InputError, "test split has a label 4"),
        ({"train": (X, Y - 1), "test": TEST}, InputError, "train split has a label -1"),
        ({"train": (X, Y), "valid": (X, Y - 1), "test": TEST}, InputError, "valid split has a label -1"),
        ({"train": (X, Y), "test": (X[:, :4], Y)}, InputError, r"test split has shape \(4,\), expected \(5,\)"),
        ({"train": (X, X[:, 0]), "test": TEST}, InputError, "not integer labels"),
        ({"train": (X + 1j, Y), "test": TEST}, InputError, "complex128"),
        ({"train": (np.ones(X.shape, np.uint16), Y), "test": TEST}, InputError, "uint16, .*16-bit images divided"),
        ({"train": (X.astype(str), Y), "test": TEST}, InputError, "real numbers"),
        ({"train": "digits", "test": TEST}, InputError, "train split is a str"),
        ({"train": (X, Y), "test": TEST, "std": 0}, InputError, "std must be positive"),
        ({"train": (X, Y), "test": TEST, "mean": (1, 2)}, InputError, "mean has 2 values"),
    ],
)
def test_refused(arguments, error, says):
    with pytest.raises(error, match=says):
        make_task(**arguments)
