"""The two implementations of the update of control points, and the choice between them."""

import pytest
import torch

from mgraph.errors import InputError
from mgraph.train import updates
from mgraph.train.updates import COMPILE_FROM, CompiledUpdate, EagerUpdate, choose_update


def some(size, rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, size, generator=generator)


@pytest.mark.parametrize("free", [(1,), (3, 4, 5), (1, 3, 4, 5, 7)], ids=str)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_eager_steps_are_the_formula(free, weight_decay):
    """M ← μM + Σ w c⊗(g + wd·θ), P ← P - lr·M, θ ← c'ᵀP, in float64 by matrices."""
    rows, size, lr, keep = 9, 33, 0.1, 0.9
    P = some(size, rows).double()
    theta, grad = torch.zeros(size).double(), torch.zeros(size).double()
    update = EagerUpdate(P, free, theta, grad, weight_decay=weight_decay)
    expected, M = P.clone(), torch.zeros(rows, size).double()
    free_rows = torch.zeros(rows, 1).double().index_fill_(0, torch.tensor(free), 1.0)
    coefficients = some(rows, 7, seed=1).double()
    update.point(coefficients[0].tolist())
    for step in range(3):
        first, second, following = coefficients[2 * step : 2 * step + 3]
        gradients = some(size, 2, seed=step).double()
        total = torch.zeros(rows, size).double()
        for c, g in zip((first, second), gradients, strict=True):
            total += torch.outer(c, g + weight_decay * (c @ expected))
        M = keep * M + total
        grad.copy_(gradients[0])
        update.accumulate(first.tolist(), keep)
        update.point(second.tolist())
        grad.copy_(gradients[1])
        update.apply(second.tolist(), 1.0, lr, following.tolist())
        expected = expected - lr * free_rows * M
        torch.testing.assert_close(P, expected, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(theta, following @ expected, rtol=1e-12, atol=1e-14)


# What torch itself warns about while compiling is not ours.
@pytest.mark.filterwarnings("ignore")
def test_the_compiled_update_is_the_eager_one():
    if not updates._compiler_works():
        pytest.skip("torch.compile does not work on this machine")
    size, free = 4096, (1, 3, 4, 5, 7)
    states = []
    for kind in (EagerUpdate, CompiledUpdate):
        P, theta, grad = some(size, 9), torch.zeros(size), torch.zeros(size)
        update = kind(P, free, theta, grad, weight_decay=0.1)
        coefficients = some(9, 9, seed=1).softmax(1)
        update.point(coefficients[0].tolist())
        for step in range(4):
            first, second, following = coefficients[2 * step : 2 * step + 3].tolist()
            gradients = some(size, 2, seed=step)
            grad.copy_(gradients[0])
            update.accumulate(first, 0.9)
            update.point(second)
            grad.copy_(gradients[1])
            update.apply(second, 1.0, 0.1, following)
        states.append((P, update._M, theta))
    start = some(size, 9)
    for eager, compiled in zip(*states, strict=True):
        assert float((eager - compiled).norm() / eager.norm()) <= 1e-6
    for P, _, _ in states:
        changed = (start != P).any(1)
        assert changed.nonzero().flatten().tolist() == list(free)


def test_auto_goes_by_size_and_falls_back_without_a_compiler(monkeypatch):
    small, large = torch.empty(3, 10), torch.empty(3, COMPILE_FROM // 3 + 1, device="meta")
    for works, chosen in ((True, CompiledUpdate), (False, EagerUpdate)):
        monkeypatch.setattr(updates, "_compiler_works", lambda works=works: works)
        assert choose_update(small, "auto") is EagerUpdate
        assert choose_update(large, "auto") is chosen
        assert choose_update(large, "eager") is EagerUpdate
    with pytest.raises(InputError, match="no working compiler"):
        choose_update(small, "compiled")
    monkeypatch.setattr(updates, "_compiler_works", lambda: True)
    assert choose_update(small, "compiled") is CompiledUpdate


@pytest.mark.filterwarnings("ignore")
def test_more_shapes_than_torch_compiles_by_default_stay_compiled():
    if not updates._compiler_works():
        pytest.skip("torch.compile does not work on this machine")
    with torch._dynamo.config.patch(recompile_limit=1, fail_on_recompile_limit_hit=True):
        for size in (48, 64):
            P, theta = some(size, 3), torch.zeros(size)
            update = CompiledUpdate(P, (1,), theta, torch.zeros(size), weight_decay=0.0)
            update.apply([0.25, 0.5, 0.25], 0.0, 0.1, [1.0, 0.0, 0.0])
            assert torch.equal(theta, P[0])
