"""The order in which layers compute, of networks whose order is known."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mgraph.network.order import execution_order, layers_of


class Attention(nn.Module):
    """Parameters of the network itself, attention with an output projection that is never called, a pre-norm."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 3)  # made first, computes last
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.patches = nn.Linear(4, 8)

    def forward(self, x):
        x = self.patches(x) + self.token
        return self.head(self.block(x).mean(1))


class Branches(nn.Module):
    """Two parallel branches, a layer that is not used, and one that is used by its weight alone."""

    def __init__(self):
        super().__init__()
        self.idle = nn.Linear(5, 5)
        self.left, self.right = nn.Linear(5, 6), nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6))
        self.stem, self.out = nn.Linear(5, 5), nn.Linear(6, 3)

    def forward(self, x):
        x = self.stem(x)
        return self.out(self.right(x) + F.relu(self.left(x)))


class Tied(nn.Module):
    """The last layer has the weight of one that is named first and called first."""

    def __init__(self):
        super().__init__()
        self.decode, self.middle, self.embed = nn.Linear(6, 4, bias=False), nn.Linear(6, 6), nn.Embedding(4, 6)
        self.decode.weight = self.embed.weight

    def forward(self, x):
        return self.decode(self.middle(self.embed(x)))


def names(layers):
    return [layer.name for layer in layers]


def test_a_transformer_is_ordered_by_its_forward_pass():
    traced, idle = execution_order(Attention(), torch.randn(2, 5, 4))
    order = names(traced)
    assert order[:2] == ["", "patches"]  # the token lies in the network itself, which is called first
    assert order.index("block.self_attn") + 1 == order.index("block.self_attn.out_proj")
    for first, then in zip(("patches", "block.self_attn", "block.norm1", "block.linear1", "block.linear2"),
                           ("block.self_attn", "block.norm1", "block.linear1", "block.linear2", "block.norm2"),
                           strict=True):  # fmt: skip
        assert order.index(first) < order.index(then)
    assert order[-1] == "head"
    assert idle == []
    attention = traced[order.index("block.self_attn")]
    assert attention.parameters == ("block.self_attn.in_proj_weight", "block.self_attn.in_proj_bias")
    assert attention.weights == ("block.self_attn.in_proj_weight",)
    norm = traced[order.index("block.norm2")]
    assert norm.normalises
    assert norm.weights == ()


def test_branches_come_one_by_one_and_idle_layers_apart():
    traced, idle = execution_order(Branches(), torch.randn(4, 5))
    assert names(traced) == ["stem", "right.0", "right.1", "left", "out"]
    assert names(idle) == ["idle"]
    assert [layer.normalises for layer in traced] == [False, False, True, False, False]


def test_a_tied_parameter_is_placed_where_it_is_first_used():
    traced, idle = execution_order(Tied(), torch.tensor([[0, 1], [2, 3]]))
    assert names(traced) == ["decode", "middle"]
    assert traced[0].parameters == ("decode.weight",)
    assert idle == []


def test_tracing_changes_nothing():
    module = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 2))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    execution_order(module, torch.randn(4, 5, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.rand(4), expected)
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])
    assert not any(m._forward_pre_hooks for m in module.modules())


def test_frozen_parameters_are_no_layers():
    module = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 2))
    module[0].requires_grad_(False)
    assert names(layers_of(module)) == ["1"]


NORMS = [nn.LayerNorm(6), nn.GroupNorm(2, 6), nn.BatchNorm1d(6), nn.InstanceNorm1d(6, affine=True)]


@pytest.mark.parametrize("norm", NORMS)
def test_normalisation_layers_are_known(norm):
    (layer,) = layers_of(nn.Sequential(norm))
    assert layer.normalises
