"""The flat view of a network: nothing about the network changes, and points come back as they went in."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from mgraph.errors import InputError
from mgraph.network.flat import FlatModel, combine

widths = st.integers(1, 9)


@st.composite
def networks(draw):
    """A module with random shapes, some parameters frozen, one maybe tied."""
    torch.manual_seed(draw(st.integers(0, 99)))
    a, b, kernel = draw(widths), draw(widths), draw(st.integers(1, 3))
    module = nn.Module()
    kinds = draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=4))
    for i, kind in enumerate(kinds):
        module.add_module(f"part{i}", KINDS[kind](a, b, kernel))
    parameters = list(module.parameters())
    for p in parameters[1:]:
        p.requires_grad_(draw(st.booleans()))
    if draw(st.booleans()):
        module.register_parameter("alias", parameters[0])
    return module


KINDS = {
    "linear": lambda a, b, k: nn.Linear(a, b),
    "conv1": lambda a, b, k: nn.Conv1d(a, b, k),
    "conv2": lambda a, b, k: nn.Conv2d(a, b, (k, k + 1)),
    "grouped": lambda a, b, k: nn.Conv2d(a, 2 * a, k, groups=a),
    "norm": lambda a, b, k: nn.BatchNorm2d(a),
    "embedding": lambda a, b, k: nn.Embedding(a, b),
    "lstm": lambda a, b, k: nn.LSTM(a, b),
}


def canonical(module):
    return torch.cat([p.detach().reshape(-1) for p in module.parameters() if p.requires_grad])


@settings(max_examples=30, deadline=None)
@given(module=networks(), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_points_go_in_and_out_bit_for_bit(module, dtype):
    module = module.to(dtype)
    before = canonical(module).clone()
    names = [name for name, p in module.named_parameters() if p.requires_grad]
    flat = FlatModel(module)
    assert flat.dimension == len(before)
    assert torch.equal(flat.unpack(flat.theta), before)
    assert torch.equal(canonical(module), before)
    assert [name for name, p in module.named_parameters() if p.requires_grad] == names

    point = torch.randn(len(before), dtype=dtype)
    row = flat.pack(point)
    assert row.shape == flat.theta.shape
    assert torch.equal(flat.unpack(row), point)
    flat.theta.copy_(row)
    assert torch.equal(canonical(module), point)
    assert torch.count_nonzero(row) == torch.count_nonzero(point)  # the padding stays zero


@settings(max_examples=20, deadline=None)
@given(module=networks())
def test_parameters_are_aligned_views_and_gradients_too(module):
    flat = FlatModel(module)
    start, stop = flat.theta.data_ptr(), flat.theta.data_ptr() + 4 * flat.size
    for name, p in module.named_parameters():
        inside = start <= p.data_ptr() < stop
        assert inside == p.requires_grad
        if inside:
            assert p.data_ptr() % 64 == 0
            assert torch.equal(flat.theta[flat.columns(name)].sort().values, p.detach().reshape(-1).sort().values)
            p.grad.fill_(1.0)
    assert torch.count_nonzero(flat.grad) == flat.dimension


def convolutional():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 4, 3, groups=2),
        nn.Flatten(),
        nn.Linear(4 * 16, 5),
    )


def test_a_flattened_network_computes_what_it_computed_before():
    plain = convolutional()
    flat = FlatModel(copy.deepcopy(plain))
    x, y = torch.randn(7, 3, 6, 6), torch.arange(7) % 5
    assert flat.channels_last
    for module, inputs in ((plain, x), (flat.module, flat.inputs(x))):
        F.cross_entropy(module(inputs), y).backward()
    torch.testing.assert_close(flat.module(flat.inputs(x)), plain(x), rtol=1e-5, atol=1e-5)
    gradient = torch.cat([p.grad.reshape(-1) for p in plain.parameters()])
    torch.testing.assert_close(flat.unpack(flat.grad), gradient, rtol=1e-4, atol=1e-6)


def test_convolutions_lie_in_channels_last_order():
    flat = FlatModel(convolutional())
    assert flat.module[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert flat.module[0].weight.grad.is_contiguous(memory_format=torch.channels_last)
    assert flat.inputs(torch.zeros(2, 3, 6, 6)).is_contiguous(memory_format=torch.channels_last)
    x = torch.zeros(2, 3)
    assert flat.inputs(x) is x
    dense = FlatModel(nn.Linear(2, 2))
    assert dense.inputs(torch.zeros(2, 3, 6, 6)).is_contiguous()


def test_tied_weights_are_one_coordinate_and_sum_their_gradients():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(6, 3)
            self.head = nn.Linear(3, 6, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, x):
            return self.head(self.embedding(x))

    torch.manual_seed(0)
    plain = Tied()
    flat = FlatModel(copy.deepcopy(plain))
    assert flat.dimension == 18
    assert flat.module.head.weight is flat.module.embedding.weight
    x = torch.tensor([0, 3, 5])
    for module in (plain, flat.module):
        module(x).square().sum().backward()
    assert torch.equal(flat.unpack(flat.grad), plain.embedding.weight.grad.reshape(-1))


def test_a_sparse_gradient_lands_in_the_flat_buffer():
    flat = FlatModel(nn.Embedding(5, 2, sparse=True))
    flat.module(torch.tensor([1, 1, 4])).sum().backward()
    assert flat.unpack(flat.grad).tolist() == [0, 0, 2, 2, 0, 0, 0, 0, 1, 1]


def test_frozen_parameters_and_buffers_are_no_coordinates_and_load_by_name():
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    network[0].weight.requires_grad_(False)
    flat = FlatModel(network)
    assert flat.dimension == 3 + 3 + 3 + 3 + 1
    assert network[0].weight.grad is None
    weight, mean = torch.arange(6.0).view(3, 2), torch.tensor([1.0, 2, 3])
    before = flat.theta.clone()
    flat.load_buffers({"0.weight": weight, "1.running_mean": mean, "1.num_batches_tracked": torch.tensor([7])})
    assert torch.equal(network[0].weight, weight)
    assert torch.equal(network[1].running_mean, mean)
    assert network[1].num_batches_tracked.item() == 7
    assert torch.equal(flat.theta, before)


def test_only_modules_with_running_statistics_are_listed():
    network = nn.Sequential(
        nn.BatchNorm1d(2), nn.LayerNorm(2), nn.BatchNorm1d(2, track_running_stats=False), nn.Dropout()
    )
    assert FlatModel(network).statistics == [network[0]]


class Parameters(nn.Module):
    def __init__(self, **parameters):
        super().__init__()
        for name, (tensor, trainable) in parameters.items():
            self.register_parameter(name, nn.Parameter(tensor, requires_grad=trainable))


@pytest.mark.parametrize(
    ("network", "named"),
    [
        (Parameters(good=(torch.ones(2), True), odd=(torch.ones(2, dtype=torch.float64), True)), "odd"),
        (Parameters(good=(torch.ones(2), True), odd=(torch.ones(2, dtype=torch.complex64), True)), "odd"),
        (Parameters(odd=(torch.ones(2, dtype=torch.complex64), True)), "odd"),
        (Parameters(frozen=(torch.ones(2), False)), "no trainable parameter"),
        (nn.ReLU(), "no trainable parameter"),
    ],
)
def test_networks_that_cannot_be_a_point_are_refused_by_name(network, named):
    with pytest.raises(InputError, match=named):
        FlatModel(network)


def test_frozen_parameters_may_be_of_any_type():
    flat = FlatModel(
        Parameters(
            weight=(torch.ones(3), True),
            table=(torch.arange(4), False),
            phase=(torch.ones(2, dtype=torch.complex64), False),
        )
    )
    assert flat.dimension == 3


@pytest.mark.parametrize("count", [0, 5, 7])
def test_a_point_of_another_size_is_refused(count):
    with pytest.raises(InputError, match=f"{count} numbers, the network 6"):
        FlatModel(nn.Linear(2, 2)).pack(torch.zeros(count))


def test_combine_is_the_weighted_sum_in_every_float_type():
    rng = np.random.default_rng(0)
    coefficients, rows = rng.normal(size=4), rng.normal(size=(4, 11))
    for dtype, tolerance in ((torch.float64, 1e-15), (torch.float32, 1e-6), (torch.bfloat16, 5e-2)):
        out = torch.empty(11, dtype=dtype)
        assert combine(coefficients, list(torch.from_numpy(rows).to(dtype)), out) is out
        np.testing.assert_allclose(out.double().numpy(), coefficients @ rows, rtol=tolerance, atol=tolerance)


def test_combine_of_nothing_is_zero():
    assert combine([0.0], [torch.full((3,), torch.nan)], torch.empty(3)).tolist() == [0, 0, 0]


def gradients(module, x, y):
    module.zero_grad()
    F.cross_entropy(module(x), y).backward()
    return {name: p.grad for name, p in module.named_parameters()}


@settings(max_examples=30, deadline=None)
@given(module=networks(), data=st.data())
def test_training_only_some_lays_them_first_and_restores_all(module, data):
    flat = FlatModel(module)
    names, before = flat.names, canonical(module).clone()
    assert names == tuple(name for name, p in module.named_parameters() if p.requires_grad)
    order = [id(p) for p in module.parameters()]
    chosen = data.draw(st.sets(st.sampled_from(names)))
    point = torch.randn(flat.dimension)
    with flat.training_only(chosen):
        assert flat.names == names
        assert {name for name, p in module.named_parameters() if p.requires_grad} == chosen
        assert torch.equal(flat.unpack(flat.theta), before)
        assert len(flat.grad) == flat.trained
        trained = sum(p.numel() for name, p in module.named_parameters() if name in chosen)
        row = flat.pack(point)
        assert torch.equal(flat.unpack(row), point)
        assert torch.count_nonzero(row[: flat.trained]) == trained  # padding stays zero
        for name, p in module.named_parameters():
            if name in names:
                columns = flat.columns(name)
                assert (columns.stop <= flat.trained) if name in chosen else (columns.start >= flat.trained)
                assert p.data_ptr() == flat.theta[columns].data_ptr()
                assert p.data_ptr() % 64 == 0
                assert (p.grad is None) == (name not in chosen)
        flat.theta.copy_(row)
    assert flat.trained == flat.size == len(flat.theta) == len(flat.grad)
    assert {name for name, p in module.named_parameters() if p.requires_grad} == set(names)
    assert [id(p) for p in module.parameters()] == order
    assert torch.equal(canonical(module), point)  # what was computed inside is there outside
    assert not flat.grad.any()
    for name, p in module.named_parameters():
        if name in names:
            assert p.grad.data_ptr() == flat.grad[flat.columns(name)].data_ptr()


def test_inside_the_gradients_are_those_of_the_named_parameters():
    plain = convolutional()
    flat = FlatModel(copy.deepcopy(plain))
    x, y = torch.randn(7, 3, 6, 6), torch.arange(7) % 5
    chosen = {"3.weight", "1.bias", "5.weight"}
    expected = gradients(plain, x, y)
    with flat.training_only(chosen):
        F.cross_entropy(flat.module(flat.inputs(x)), y).backward()
        for name, p in flat.module.named_parameters():
            if name in chosen:
                torch.testing.assert_close(p.grad, expected[name], rtol=1e-4, atol=1e-6)
                ordered = flat.grad[flat.columns(name)].sort().values
                assert torch.equal(ordered, p.grad.reshape(-1).sort().values)
            else:
                assert p.grad is None


def test_an_error_inside_restores_all_parameters_too():
    flat = FlatModel(convolutional())

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), flat.training_only({"5.bias"}):
        stop()
    assert flat.trained == flat.size
    assert all(p.requires_grad for p in flat.module.parameters())


def test_several_lanes_are_several_points_with_a_gradient_each():
    flat = FlatModel(convolutional())
    x, y = torch.randn(7, 3, 6, 6), torch.arange(7) % 5
    points = [torch.randn(flat.dimension) / 3 for _ in range(3)]
    before, own = flat.unpack(flat.theta), [(p.data_ptr(), p.grad.data_ptr()) for p in flat.module.parameters()]
    lanes = flat.lanes(3)
    assert len(lanes) == 3
    for theta, point in zip(lanes.theta, points, strict=True):
        theta.copy_(flat.pack(point))
    for i in (2, 0, 1, 0):
        lanes.enter(i)
        assert torch.equal(canonical(flat.module), points[i])
        assert flat.module[0].weight.is_contiguous(memory_format=torch.channels_last)
        F.cross_entropy(flat.module(flat.inputs(x)), y).backward()
    lanes.leave()
    assert [(p.data_ptr(), p.grad.data_ptr()) for p in flat.module.parameters()] == own
    assert torch.equal(flat.unpack(flat.theta), before)
    assert not flat.grad.any()
    for i, point in enumerate(points):
        alone = FlatModel(convolutional())
        alone.theta.copy_(alone.pack(point))
        F.cross_entropy(alone.module(alone.inputs(x)), y).backward()
        times = 2 if i == 0 else 1  # a lane's gradient adds up until it is zeroed
        torch.testing.assert_close(lanes.grad[i], times * alone.grad, rtol=1e-4, atol=1e-6)


def test_a_single_lane_is_the_networks_own_buffer():
    flat = FlatModel(nn.Linear(3, 2))
    lanes = flat.lanes(1)
    lanes.enter(0)
    assert lanes.theta.data_ptr() == flat.theta.data_ptr()
    assert lanes.grad.data_ptr() == flat.grad.data_ptr()
    lanes.leave()
    assert flat.module.weight.data_ptr() == flat.theta.data_ptr()


@pytest.mark.parametrize("count", [1, 2])
def test_lanes_of_some_parameters_have_gradients_of_those(count):
    flat = FlatModel(convolutional())
    with flat.training_only({"5.weight", "5.bias"}):
        lanes = flat.lanes(count)
        assert lanes.theta.shape == (count, flat.size)
        assert lanes.grad.shape == (count, flat.trained)
        for i in range(count):
            lanes.enter(i)
            F.cross_entropy(flat.module(torch.randn(4, 3, 6, 6)), torch.arange(4)).backward()
            assert lanes.grad[i].any()
        lanes.leave()


@pytest.mark.parametrize(("statistics", "size", "refused"), [(True, 1, True), (True, 2, False), (False, 1, False)])
def test_a_batch_of_one_is_refused_where_statistics_need_two(statistics, size, refused):
    flat = FlatModel(convolutional() if statistics else nn.Linear(2, 2))
    if not refused:
        flat.check_batch(size)
        return
    with pytest.raises(InputError, match="at least 2 examples, not 1"):
        flat.check_batch(size)
