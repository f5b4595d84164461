"""Splits in memory and streamed: the same examples in the same order, normalised alike."""

import pytest
import torch
from torch.utils.data import TensorDataset

from mgraph.data.splits import ArraySplit, Normalisation
from mgraph.data.streaming import DatasetSplit
from mgraph.errors import InputError

X = torch.randint(0, 256, (11, 3, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(11) % 4
MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)


def expected(x, mean=MEAN, std=STD):
    m, s = (torch.tensor(v, dtype=torch.float64).view(1, -1, 1, 1) for v in (mean, std))
    return ((x.double() / 255 - m) / s).float()


@pytest.fixture(params=["array", "dataset"])
def split(request):
    if request.param == "array":
        return ArraySplit(X, Y, MEAN, STD)
    return DatasetSplit(TensorDataset(X, Y), MEAN, STD)


@pytest.mark.parametrize("order", [None, torch.tensor([5, 0, 10, 3, 3, 7, 1])])
@pytest.mark.parametrize("drop_last", [False, True])
def test_batches_follow_the_order(split, order, drop_last):
    indices = torch.arange(11) if order is None else order
    got = list(split.batches(4, order=order, drop_last=drop_last))
    sizes = [4, 4, 3] if order is None else [4, 3]
    assert [len(y) for _, y in got] == (sizes[:-1] if drop_last else sizes)
    kept = indices[: sum(len(y) for _, y in got)]
    assert torch.equal(torch.cat([y for _, y in got]), Y[kept])
    torch.testing.assert_close(torch.cat([x for x, _ in got]), expected(X[kept]), rtol=1e-5, atol=1e-6)


def test_examples_targets_shape_and_subset(split):
    indices = torch.tensor([9, 2])
    x, y = split.examples(indices)
    torch.testing.assert_close(x, expected(X[indices]), rtol=1e-5, atol=1e-6)
    assert torch.equal(y, Y[indices])
    assert len(split) == 11
    assert torch.equal(split.targets, Y)
    assert split.input_shape == (3, 2, 2)
    part = split.subset([9, 2, 4]).subset([2, 0])
    assert torch.equal(part.targets, Y[[4, 9]])
    assert torch.equal(part.examples(torch.tensor([1]))[0], x[:1])


def test_neither_kind_touches_the_global_random_state(split):
    before = torch.get_rng_state()
    list(split.batches(4))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_stored_values_stay(split):
    first = [x.clone() for x, _ in split.batches(4)]
    assert all(torch.equal(a, b) for a, (b, _) in zip(first, split.batches(4), strict=True))
    assert X.dtype == torch.uint8


def test_bytes_without_constants_are_scaled_to_one():
    x = torch.tensor([[0, 51, 255]], dtype=torch.uint8)
    [(got, _)] = ArraySplit(x, Y[:1]).batches(1)
    torch.testing.assert_close(got, torch.tensor([[0.0, 0.2, 1.0]]))


def test_floats_and_integers():
    x = torch.rand(5, 2, 3)
    [(plain, _)] = ArraySplit(x, Y[:5]).batches(5)
    assert torch.equal(plain, x)
    [(normal, _)] = ArraySplit(x, Y[:5], (0.5, 0.1), (2.0, 4.0)).batches(5)
    constants = torch.tensor([0.5, 0.1]).view(1, 2, 1), torch.tensor([2.0, 4.0]).view(1, 2, 1)
    torch.testing.assert_close(normal, (x - constants[0]) / constants[1])
    [(double, _)] = ArraySplit(x.double(), Y[:5], (0.5,), (2.0,)).batches(5)
    assert double.dtype == torch.float64
    tokens = torch.arange(10).view(5, 2)
    [(same, _)] = ArraySplit(tokens, Y[:5]).batches(5)
    assert torch.equal(same, tokens)


@pytest.mark.parametrize("std", [(0.0,), (-1.0,), (float("nan"),)])
def test_impossible_std(std):
    with pytest.raises(InputError, match="std must be positive"):
        Normalisation(None, std)


def test_datasets_must_have_items_and_pairs():
    with pytest.raises(InputError, match="map-style"):
        DatasetSplit(iter([1, 2]))
    with pytest.raises(InputError, match="pairs"):
        list(DatasetSplit(TensorDataset(X)).batches(2))
