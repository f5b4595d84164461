"""Layouts: canonical order, roles, ties, and networks that cannot be stored."""

import numpy as np
import pytest
import torch
from torch import nn

from mgraph.errors import InputError
from mgraph.network.layout import layout_of, tensors_from_module


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.norm = nn.BatchNorm1d(3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight
        self.again = self.norm
        self.register_buffer("mask", torch.tensor([True, False]))
        self.register_buffer("scratch", torch.zeros(3), persistent=False)
        self.frozen = nn.Parameter(torch.ones(2, dtype=torch.bfloat16), requires_grad=False)
        self.absent = None


def test_order_roles_and_aliases():
    layout = layout_of(Tied())
    assert [(t.name, t.shape, t.dtype, t.role) for t in layout.tensors] == [
        ("frozen", (2,), "bfloat16", "frozen"),
        ("embedding.weight", (5, 3), "float32", "parameter"),
        ("norm.weight", (3,), "float32", "parameter"),
        ("norm.bias", (3,), "float32", "parameter"),
        ("mask", (2,), "bool", "buffer"),
        ("norm.running_mean", (3,), "float32", "statistic"),
        ("norm.running_var", (3,), "float32", "statistic"),
        ("norm.num_batches_tracked", (), "int64", "statistic"),
    ]
    assert layout.aliases == {
        "head.weight": "embedding.weight",
        "again.weight": "norm.weight",
        "again.bias": "norm.bias",
        "again.running_mean": "norm.running_mean",
        "again.running_var": "norm.running_var",
        "again.num_batches_tracked": "norm.num_batches_tracked",
    }
    assert layout.size == 21
    assert set(Tied().state_dict()) == {t.name for t in layout.tensors} | set(layout.aliases)


def test_statistics_need_running_ones():
    norm = nn.BatchNorm1d(3, track_running_stats=False)
    assert [t.role for t in layout_of(norm).tensors] == ["parameter", "parameter"]


def test_values_are_copies():
    module = Tied()
    arrays = tensors_from_module(module, layout_of(module).tensors)
    assert list(arrays) == [t.name for t in layout_of(module).tensors]
    assert np.array_equal(arrays["embedding.weight"], module.head.weight.detach().numpy())
    assert (arrays["frozen"].dtype, arrays["mask"].dtype) == (np.float32, np.bool_)
    assert arrays["norm.num_batches_tracked"].shape == ()
    arrays["norm.weight"][:] = 7
    assert module.norm.weight[0] == 1


def test_channels_last_weights_are_read_in_canonical_order():
    module = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    array = tensors_from_module(module, layout_of(module).tensors)["weight"]
    assert array.flags.c_contiguous
    assert np.array_equal(array, module.weight.detach().contiguous().numpy())


def with_parameter(value, **kwargs):
    module = nn.Linear(2, 2)
    module.extra = nn.Parameter(value, **kwargs)
    return module


def with_buffer(value):
    module = nn.Linear(2, 2)
    module.register_buffer("extra", value)
    return module


def sharing():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[1].weight.data = module[0].weight.data
    return module


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: nn.Linear(2, 2).half(), "weight is float16; build the network in float32"),
        (lambda: nn.Linear(2, 2).bfloat16(), "weight is bfloat16"),
        (lambda: nn.Linear(2, 2).double(), "weight is float64"),
        (lambda: nn.Linear(2, 2, dtype=torch.complex64), "weight is complex"),
        (lambda: with_buffer(torch.zeros(2, dtype=torch.complex64)), "extra is complex"),
        (lambda: with_buffer(torch.eye(2).to_sparse()), "extra is sparse"),
        (lambda: with_buffer(torch.zeros(2, dtype=torch.uint64)), "extra is uint64"),
        (lambda: nn.LazyLinear(3), "weight is not initialised yet"),
        (lambda: nn.Linear(2, 2, device="meta"), "weight is on the meta device"),
        (sharing, "0.weight and 1.weight share memory"),
        (lambda: nn.Linear(2, 2).requires_grad_(False), "no trainable parameter"),
        (nn.ReLU, "no trainable parameter"),
        (lambda: with_parameter(torch.zeros(3, dtype=torch.float64)), "extra is float64"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_refused(make, says):
    with pytest.raises(InputError, match=says):
        layout_of(make())


def test_frozen_integers_are_stored():
    layout = layout_of(with_parameter(torch.zeros(3, dtype=torch.int8), requires_grad=False))
    assert [(t.name, t.dtype) for t in layout.buffers] == [("extra", "int8")]
