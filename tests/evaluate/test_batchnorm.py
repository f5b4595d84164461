"""BatchNorm statistics of a point: computed by hand, and never those of another point."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from mgraph.data.splits import ArraySplit
from mgraph.evaluate.batchnorm import BatchNormPolicy, applicable, recompute_statistics
from mgraph.network.flat import FlatModel


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(12, 4),
        nn.BatchNorm1d(4),
    )


def data(count=60):
    generator = torch.Generator().manual_seed(1)
    return ArraySplit(3 * torch.randn(count, 2, 4, 4, generator=generator) + 1, torch.zeros(count, dtype=torch.int64))


def statistics(flat):
    return [b.clone() for m in flat.statistics for b in (m.running_mean, m.running_var, m.num_batches_tracked)]


def by_hand(module, split, policy):
    """Mean over batches of the batch means and of the unbiased batch variances, dropout off."""
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(policy.seed))
    conv, norm, _, _, flatten, linear, _ = module
    means, variances = ([], []), ([], [])
    batches = policy.examples // policy.batch_size
    for i in range(batches):
        x, _ = split.examples(order[i * policy.batch_size : (i + 1) * policy.batch_size])
        h = conv(x)
        means[0].append(h.mean((0, 2, 3)))
        variances[0].append(h.var((0, 2, 3), correction=1))
        centred = (h - h.mean((0, 2, 3), keepdim=True)) / (
            h.var((0, 2, 3), correction=0, keepdim=True) + norm.eps
        ).sqrt()
        h = linear(flatten((norm.weight[:, None, None] * centred + norm.bias[:, None, None]).relu()))
        means[1].append(h.mean(0))
        variances[1].append(h.var(0, correction=1))
    return [torch.stack(rows).mean(0).detach() for pair in zip(means, variances, strict=True) for rows in pair], batches


@pytest.mark.parametrize(
    "policy", [BatchNormPolicy(60, 20), BatchNormPolicy(50, 16, seed=3), BatchNormPolicy(7, 7)], ids=str
)
def test_statistics_are_cumulative_means_over_the_batches_of_the_policy(policy):
    plain = network()
    flat, split = FlatModel(copy.deepcopy(plain)), data()
    recompute_statistics(flat, split, policy)
    expected, batches = by_hand(plain, split, policy)
    mine = statistics(flat)
    for ours, theirs in zip([mine[0], mine[1], mine[3], mine[4]], expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert mine[2].item() == mine[5].item() == batches


def test_statistics_do_not_depend_on_earlier_ones_or_on_chance():
    flat, split = FlatModel(network()), data()
    policy = BatchNormPolicy.default(split)
    recompute_statistics(flat, split, policy)
    first = statistics(flat)
    for m in flat.statistics:
        m.running_mean.fill_(torch.nan)
        m.running_var.fill_(17.0)
        m.num_batches_tracked.fill_(1000)
    torch.manual_seed(12345)
    flat.module.train()
    recompute_statistics(flat, split, policy)
    for a, b in zip(first, statistics(flat), strict=True):
        assert torch.equal(a, b)


def test_another_seed_or_size_gives_other_statistics():
    flat, split = FlatModel(network()), data()
    seen = []
    for policy in (BatchNormPolicy(30, 30), BatchNormPolicy(30, 30, seed=1), BatchNormPolicy(30, 15)):
        recompute_statistics(flat, split, policy)
        seen.append(torch.cat([s.flatten().double() for s in statistics(flat)[:2]]))
    assert not any(torch.equal(seen[i], seen[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


def test_only_statistics_change_and_the_module_is_left_as_found():
    flat, split = FlatModel(network()), data()
    flat.statistics[0].momentum = 0.3
    theta, generator = flat.theta.clone(), torch.get_rng_state()
    recompute_statistics(flat, split, BatchNormPolicy.default(split))
    assert torch.equal(flat.theta, theta)
    assert torch.equal(torch.get_rng_state(), generator)
    assert torch.count_nonzero(flat.grad) == 0
    assert [m.momentum for m in flat.statistics] == [0.3, 0.1]
    assert not any(m.training for m in flat.module.modules())


def test_momentum_is_restored_when_the_pass_fails():
    flat = FlatModel(network())
    with pytest.raises(RuntimeError):
        recompute_statistics(flat, ArraySplit(torch.zeros(4, 5, 4, 4), torch.zeros(4)), BatchNormPolicy(4, 4))
    assert [m.momentum for m in flat.statistics] == [0.1, 0.1]
    assert not flat.module.training


def test_a_network_without_statistics_is_only_put_into_eval_mode():
    flat = FlatModel(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.Dropout()))
    flat.module.train()
    calls = []
    flat.module.register_forward_hook(lambda *_: calls.append(1))
    recompute_statistics(flat, data(), BatchNormPolicy.default(data()))
    assert (calls, flat.module.training) == ([], False)


@pytest.mark.parametrize(
    ("available", "shape", "examples", "expected"),
    [
        (60, (3,), 2000, (60, 60)),
        (5000, (3, 32, 32), 2000, (2000, 500)),
        (5000, (3,), 501, (501, 250)),
        (1077, (3,), 2000, (1077, 359)),
        (1, (3,), 2000, (1, 1)),
        (600, (3, 96, 96), 2000, (600, 150)),
        (20, (3, 1024, 1024), 2000, (20, 10)),
    ],
)
def test_the_default_policy_takes_equal_batches_of_at_most_500_and_fewer_of_large_images(
    available, shape, examples, expected
):
    images = torch.zeros(available, *shape, dtype=torch.uint8)
    policy = BatchNormPolicy.default(ArraySplit(images, torch.zeros(available)), examples)
    assert (policy.examples, policy.batch_size) == expected
    assert policy.examples - policy.batch_size * policy.whole_batches < policy.whole_batches


def test_policies_are_named_with_all_that_the_estimate_depends_on():
    names = {str(BatchNormPolicy(*values)) for values in np.ndindex(3, 3, 3) if values[0] * values[1]}
    assert len(names) == 12
    assert str(BatchNormPolicy(2000, 500)) == "recompute(examples=2000,batch=500,seed=0)"
    assert str(BatchNormPolicy(60, 20, 0, "crop4+flip")) == "recompute(examples=60,batch=20,seed=0,augment=crop4+flip)"


def ones(count=2000):
    return ArraySplit(torch.ones(count, 1, 8, 8), torch.zeros(count, dtype=torch.int64))


def of_inputs(split, policy):
    """Return mean and variance of the inputs themselves, as a BatchNorm that comes first in a network sees them."""
    flat = FlatModel(nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 2)))
    recompute_statistics(flat, split, policy)
    return flat.statistics[0].running_mean.item(), flat.statistics[0].running_var.item()


def test_statistics_of_a_policy_with_augmentation_are_those_of_augmented_images():
    """A square of side 4 around a random pixel of 8 covers 3.5 rows, and as many columns, on average."""
    kept = 1 - (3.5 / 8) ** 2
    assert of_inputs(ones(), BatchNormPolicy(2000, 500)) == (1.0, 0.0)
    mean, variance = of_inputs(ones(), BatchNormPolicy(2000, 500, augment="cutout4"))
    assert mean == pytest.approx(kept, abs=0.005)
    assert variance == pytest.approx(kept * (1 - kept), abs=0.005)


def test_augmentation_knows_black_and_draws_from_a_generator_of_its_own():
    """Of a white image, cut from a border of 7 at random, 64/15 of 8 rows remain on average, and as many columns."""
    white = torch.full((1000, 1, 8, 8), 255, dtype=torch.uint8)
    split = ArraySplit(white, torch.zeros(1000), mean=(0.5,), std=(0.25,))  # to the network: white 2, black -2
    policy = BatchNormPolicy(1000, 250, augment="crop7+flip")
    torch.manual_seed(1)
    found = of_inputs(split, policy)
    assert found[0] == pytest.approx(4 * (64 / 15 / 8) ** 2 - 2, abs=0.1)
    flat = FlatModel(nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 2)))
    torch.manual_seed(2)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    recompute_statistics(flat, split, policy)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    assert (flat.statistics[0].running_mean.item(), flat.statistics[0].running_var.item()) == found
    assert of_inputs(split, BatchNormPolicy(1000, 250, 1, "crop7+flip")) != found


@pytest.mark.parametrize(
    ("given", "applied"),
    [(None, ""), ("flip+crop4", "flip+crop4"), ("randaugment", "randaugment9"), ("own.py:noisy", "")],
)
def test_a_policy_applies_built_in_parts_and_no_function_of_the_users_own(given, applied):
    assert applicable(given) == applied
