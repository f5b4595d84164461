"""A timed pass leaves no trace."""

import torch
from torch import nn
from torch.nn import functional as F

from mgraph.data.splits import ArraySplit
from mgraph.network.flat import FlatModel
from mgraph.train.probe import seconds_per_example


def test_a_timed_pass_leaves_everything_as_it_was():
    torch.manual_seed(0)
    flat = FlatModel(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2)))
    split = ArraySplit(torch.randn(30, 3), torch.arange(30) % 2)
    flat.module.eval()
    before = [t.clone() for t in (flat.theta, *flat.module.buffers(), torch.get_rng_state())]
    found = seconds_per_example(flat, F.cross_entropy, split, 64)
    assert 0 < found < 1
    after = [flat.theta, *flat.module.buffers(), torch.get_rng_state()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert not flat.grad.any()
    assert not flat.module.training
