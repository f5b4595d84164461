"""Datasets that are streamed: what their items may be, what identifies them, and what is said of the others."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import Dataset, TensorDataset

from mgraph.data import streaming
from mgraph.data.making import make_task
from mgraph.data.streaming import DatasetSplit
from mgraph.errors import InputError, NonFiniteError

X = torch.rand(300, 3, generator=torch.Generator().manual_seed(0))
Y = torch.arange(300) % 3


class Made(Dataset):
    """Items are made by a function of their place."""

    def __init__(self, make, length=300):
        self.make, self.length = make, length

    def __len__(self):
        return self.length

    def __getitem__(self, i):
        return self.make(i)


def task(make, **more):
    return make_task(train=Made(make), valid=Made(make), test=Made(make), **more)


PLAIN = task(lambda i: (X[i], int(Y[i]))).fingerprint


@pytest.mark.parametrize(
    "make",
    [
        lambda i: (X[i].numpy(), int(Y[i])),
        lambda i: (X[i].double(), Y[i]),
        lambda i: [X[i].tolist(), np.int16(Y[i])],
        lambda i: (X[i].numpy().astype(">f8"), Y[i].to(torch.uint8)),
        lambda i: (np.broadcast_to(X[i].numpy(), (3,)), [int(Y[i])]),  # read-only, and a column
    ],
)
def test_items_of_any_type_are_the_same_data(make):
    made = task(make)
    assert made.fingerprint == PLAIN
    x, y = next(made.test.batches(4))
    assert (x.dtype, y.dtype, x.shape, y.shape) == (torch.float32, torch.int64, (4, 3), (4,))


def test_python_floats_are_targets_like_those_of_arrays():
    made = task(lambda i: (X[i], float(X[i, 0] * 2)), loss=F.mse_loss)
    _, y = next(made.train.batches(5))
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, X[:5, 0] * 2)


def test_a_buffer_that_is_handed_out_again_is_copied():
    buffer = torch.empty(3)

    def make(i):
        buffer.copy_(X[i])
        return buffer, int(Y[i])

    assert task(make).fingerprint == PLAIN


def test_batches_are_read_in_one_request_where_that_is_offered():
    class Whole(Made):
        asked = 0

        def __getitems__(self, places):
            Whole.asked += 1
            return [self[i] for i in places]

    split = DatasetSplit(Whole(lambda i: (X[i], Y[i])))
    assert torch.equal(torch.cat([x for x, _ in split.batches(100)]), X)
    assert Whole.asked == 3


IMAGE = Image.new("RGB", (4, 4))


@pytest.mark.parametrize(
    ("item", "says"),
    [
        (
            {"image": X[0], "class": 1},
            r"Item 0 of the train split is a dict with 'image', 'class', and it is unknown which .* 'labels'",
        ),
        ((X[0], 1, "file.png"), "Item 0 of the train split is 3 things; items of a Dataset must be .* pairs"),
        (X[0], "is a Tensor; items"),
        (((X[0], "word"), 1), "input 1 of item 0 of the train split is a str; give a tensor"),
        (({"a": "word"}, 1), "input a of item 0 of the train split is a str; give a tensor"),
        (({0: X[0]}, 1), "input of item 0 of the train split is a dict with the key 0; keys are the names"),
        (({}, 1), "is an empty dict"),
        ((IMAGE, 1), "is a PIL image; .*ToTensor"),
        ((X[0], "cat"), r"labels of the train split are words \('cat'"),
        ((X[0], None), "Python objects"),
        (("text", 1), "input of item 0 of the train split is a str; give a tensor"),
        ((X[0] + 1j, 1), "complex"),
        (([1, [2, 3]], 1), "is not an array"),
    ],
)
def test_items_that_are_no_pairs_of_numbers_are_a_sentence(item, says):
    with pytest.raises(InputError, match=says):
        task(lambda i: item)


def at(place, other):
    return lambda i: other if i == place else (X[i], int(Y[i]))


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (at(299, (X[0, :2], 1)), InputError, r"Input 299 of the train split has shape \[2\], and input 256 \[3\]"),
        (at(270, (X[0], [1, 2])), InputError, r"Target 270 .* has shape \[2\]"),
        (at(3, (torch.ones(3, dtype=torch.uint8), 1)), InputError, "Input 3 of the train split is of type torch.uint8"),
        (lambda i: (np.zeros(3, np.uint16), 1), InputError, "is of type uint16, .*16-bit images divided by 65535"),
        (at(5, (X[0] / 0, 1)), NonFiniteError, "input in the train split has 3 values .* first in example 5"),
        (at(280, (X[0] * float("nan"), 1)), NonFiniteError, "first in example 280"),
        (at(280, (X[0], -2)), InputError, "label -2"),
    ],
)
def test_one_odd_item_is_named(make, error, says):
    with pytest.raises(error, match=says):
        _ = task(make).fingerprint


def test_infinite_targets_are_named():
    with pytest.raises(NonFiniteError, match=r"target in the train split has 1 values .* first in example 7"):
        _ = task(lambda i: (X[i], float("inf") if i == 7 else 1.0), loss=F.mse_loss).fingerprint
    y = np.ones(20)
    y[4] = np.nan
    with pytest.raises(NonFiniteError, match=r"y of the train split has 1 values .* first in example 4"):
        make_task(train=(np.ones((20, 2)), y), test=(np.ones((20, 2)), y), loss=F.mse_loss)


def test_errors_of_the_dataset_name_the_item():
    def broken(i):
        if i == 12:
            raise OSError("cannot open 12.png")
        return X[i], 1

    with pytest.raises(InputError, match=r"Item 12 of the train split cannot be read: OSError: cannot open 12\.png\."):
        task(broken)


def test_a_dataset_keeps_its_length():
    data = Made(lambda i: (X[i], int(Y[i])))
    made = make_task(train=data, valid=data, test=data)
    data.length = 290
    with pytest.raises(InputError, match="The train split had 300 items and now has 290"):
        next(made.train.batches(10))


def random_flip(p):
    random = torch.Generator().manual_seed(1)

    def make(i):
        flip = torch.rand((), generator=random) < p
        return (X[i].flip(0) if flip else X[i]), int(Y[i])

    return make


@pytest.mark.parametrize("p", [0.5, 0.1])
def test_random_augmentation_is_recognised(p):
    with pytest.raises(InputError, match=r"The train split is random: .*augmentation is a training setting, --augment"):
        _ = task(random_flip(p)).fingerprint


def test_random_targets_are_recognised():
    with pytest.raises(InputError, match=r"the target of item .* changed"):
        _ = task(lambda i: (X[i], float(torch.rand(()))), loss=F.mse_loss).fingerprint


def test_the_fingerprint_covers_every_example():
    prints = {PLAIN}
    for place in (1, 150, 299):
        prints.add(task(at(place, (X[place] + 1e-3, int(Y[place])))).fingerprint)
        prints.add(task(at(place, (X[place], int(Y[place] + 1) % 3))).fingerprint)
    assert len(prints) == 7


def test_every_example_is_read_once_for_it(monkeypatch):
    monkeypatch.setattr(streaming, "_SMALL", (100, 1 << 24))
    read = np.zeros(400, int)

    def make(i):
        read[i] += 1
        return X[i % 300], int(Y[i % 300])

    data = Made(make, 400)
    data.targets = [int(Y[i % 300]) for i in range(400)]
    made = make_task(train=data, valid=TensorDataset(X, Y), test=TensorDataset(X, Y))
    read[:] = 0
    _ = made.fingerprint
    again = set(streaming.spread(400))
    assert all(read[i] == 1 for i in range(400) if i not in again)


def test_small_data_are_compared_whole_and_large_ones_by_a_sample(monkeypatch):
    def same(make):
        return task(make).matches(PLAIN)

    assert same(lambda i: (X[i], int(Y[i])))
    assert not same(at(1, (X[1] + 1e-3, int(Y[1]))))
    monkeypatch.setattr(streaming, "_SMALL", (100, 1 << 24))
    large = task(lambda i: (X[i], int(Y[i]))).fingerprint
    read = np.zeros(300, int)

    def make(i):
        read[i] += 1
        return X[i], int(Y[i])

    data = Made(make)
    data.targets = Y.tolist()
    made = make_task(train=data, valid=data, test=data)
    assert made.matches(large)
    assert (read > 0).sum() <= 64 + 8
    assert not task(at(299, (X[0], 0))).matches(large)
    assert not make_task(train=data, valid=data, test=Made(make, 299)).matches(large)


def test_graphs_that_recorded_eight_examples_still_open():
    import hashlib

    data = TensorDataset(X.double(), Y)
    made = make_task(train=data, valid=data, test=data, mean=0.5, std=2.0)

    # what the first version did
    hasher = hashlib.blake2b(digest_size=16)
    for name in ("train", "valid", "test"):
        hasher.update(f"\n{name} (0.5,) (2.0,) ".encode())
        chosen = torch.linspace(0, 299, 8).long()
        hasher.update(b"dataset 300")
        n = made.train.normalisation
        for tensor in (n(X.double()[chosen]), Y[chosen]):
            hasher.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            hasher.update(tensor.flatten().view(torch.uint8).numpy())
    hasher.update(b"\n3 cross_entropy")
    assert made.matches(hasher.hexdigest())
    assert not made.matches("0" * 32)
    assert made.fingerprint != hasher.hexdigest()


def test_a_list_of_targets_that_is_not_the_items_is_not_believed():
    data = Made(lambda i: (X[i], int(Y[i]) % 2))  # as by a target_transform
    data.targets = Y.tolist()
    made = make_task(train=data, test=data)
    assert made.classes == 2
    assert set(made.train.targets.tolist()) == {0, 1}


def test_anything_with_items_and_a_length_is_a_dataset():
    class Foreign:
        def __len__(self):
            return 300

        def __getitem__(self, i):
            return {"x": X[i]}

    with pytest.raises(InputError, match="is a dict with 'x'"):
        make_task(train=Foreign(), test=Foreign())
    with pytest.raises(InputError, match="train split is a dict; give"):
        make_task(train={"x": X, "y": Y}, test=(X, Y))
