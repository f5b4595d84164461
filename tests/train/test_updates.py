"""The implementations of the update of control points, and the choice between them."""

from itertools import product

import pytest
import torch

from mgraph.errors import InputError
from mgraph.train import updates
from mgraph.train.updates import COMPILE_FROM, BufferedUpdate, CompiledUpdate, EagerUpdate, UpdateRule, choose_update

ROWS, SIZE = 9, 33


def some(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def drive(kind, rule, free, groups, *, steps=4, lr=0.1, size=SIZE, dtype=torch.float64):
    """Make steps whose samples come in groups of the given sizes; yield P, Θ, and what was fed in.

    What was fed in: the coefficients and the gradients of the step's samples, and the coefficients that follow.
    """
    free = list(free)
    P = some(ROWS, size, dtype=dtype)
    most = max(groups)
    theta, grad = torch.zeros(most, size, dtype=dtype), torch.zeros(most, size, dtype=dtype)
    update = kind(P, free, theta, grad, rule)
    C = some(steps + 1, sum(groups), ROWS, seed=1, dtype=dtype).softmax(2)
    G = some(steps, sum(groups), size, seed=2, dtype=dtype)
    update.points(C[0, : groups[0]])
    for step in range(steps):
        begin = 0
        for i, n in enumerate(groups):
            part = slice(begin, begin + n)
            grad[:n] = G[step, part]
            pull = C[step, part][:, free].T.contiguous()
            begin += n
            if begin < sum(groups):
                update.accumulate(pull, i == 0)
                update.points(C[step, begin : begin + groups[i + 1]])
            else:
                update.apply(pull, i == 0, lr, C[step + 1, : groups[0]])
        yield P, theta[: groups[0]], C[step], G[step], C[step + 1, : groups[0]]


def only(free):
    chosen = torch.zeros(ROWS, 1, dtype=torch.float64)
    chosen[list(free)] = 1.0
    return chosen


@pytest.mark.parametrize("groups", [(1,), (2,), (3,), (2, 2), (3, 1, 2)], ids=str)
@pytest.mark.parametrize("free", [(1,), (3, 4, 5), (1, 3, 4, 5, 7)], ids=str)
@pytest.mark.parametrize(("weight_decay", "decay"), [(0.0, "point"), (0.1, "point"), (0.1, "control")])
def test_eager_steps_are_the_formula(free, groups, weight_decay, decay):
    """M ← μM + Σ c⊗(g + wd·θ), P ← P - lr·M, Θ ← C'P, in float64 by matrices."""
    rule = UpdateRule(weight_decay=weight_decay, decay=decay)
    expected, M = some(ROWS, SIZE), torch.zeros(ROWS, SIZE, dtype=torch.float64)
    for P, theta, C, G, following in drive(EagerUpdate, rule, free, groups):
        on_point, on_control = (weight_decay, 0.0) if decay == "point" else (0.0, weight_decay)
        M = 0.9 * M + C.T @ (G + on_point * (C @ expected)) + on_control * expected
        expected = expected - 0.1 * only(free) * M
        torch.testing.assert_close(P, expected, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(theta, following @ expected, rtol=1e-12, atol=1e-14)


# Each compiles for seconds: here the one that takes every branch; make stress has the others.
_COMPILED_HERE = [((2, 1), "control")]


# What torch itself warns about while compiling is not ours.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("groups", "decay"),
    [
        pytest.param(groups, decay, marks=[pytest.mark.stress] * ((groups, decay) not in _COMPILED_HERE))
        for groups, decay in product([(1,), (2,), (2, 1)], ["point", "control"])
    ],
    ids=str,
)
def test_the_compiled_update_is_the_eager_one(groups, decay):
    if not updates._compiler_works():
        pytest.skip("torch.compile does not work on this machine")
    free, rule = (1, 3, 4, 5, 7), UpdateRule(weight_decay=0.1, decay=decay)
    runs = [drive(kind, rule, free, groups, size=4096, dtype=torch.float32) for kind in (EagerUpdate, CompiledUpdate)]
    start = some(ROWS, 4096, dtype=torch.float32)
    for (P, theta, *_), (Q, phi, *_) in zip(*runs, strict=True):
        assert float((P - Q).norm() / P.norm()) <= 1e-6
        assert float((theta - phi).norm() / theta.norm()) <= 1e-6
        for moved in (P, Q):
            assert (start != moved).any(1).nonzero().flatten().tolist() == list(free)


@pytest.mark.parametrize("groups", [(1,), (3,), (2, 1)], ids=str)
@pytest.mark.parametrize("free", [(1,), (1, 3, 4, 5, 7)], ids=str)
@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize(
    "rule",
    [
        UpdateRule("adamw"),
        UpdateRule("adamw", momentum=0.7, beta2=0.9, weight_decay=0.3, decay="control"),
        UpdateRule("adamw", weight_decay=0.3, decay="point"),
        UpdateRule(nesterov=True),
        UpdateRule(nesterov=True, weight_decay=0.3, decay="control"),
        UpdateRule(nesterov=True, weight_decay=0.3, decay="point"),
        UpdateRule(clip=0.4, weight_decay=0.3, decay="point"),
    ],
    ids=str,
)
def test_buffered_steps_are_torchs_optimiser_on_autograds_gradients(rule, free, groups, clip):
    """AdamW on the point: P_k ← P_k - lr·wd·Σ c_k θ before the step; SGD on the point: wd·θ in the gradient."""
    rule = UpdateRule(**vars(rule) | ({"clip": clip} if clip else {}))
    if rule.is_plain:
        pytest.fail("this rule is not for the buffered update")
    expected = some(ROWS, SIZE)
    rows = [torch.nn.Parameter(row) for row in expected]
    on_control = rule.weight_decay if rule.decay == "control" else 0.0
    chosen = [rows[k] for k in free]
    if rule.optimizer == "adamw":
        optimiser = torch.optim.AdamW(chosen, lr=0.1, betas=(rule.momentum, rule.beta2), weight_decay=on_control)
    else:
        optimiser = torch.optim.SGD(
            chosen, lr=0.1, momentum=rule.momentum, nesterov=rule.nesterov, weight_decay=on_control
        )
    on_point = rule.weight_decay if rule.decay == "point" else 0.0
    clipped = 0
    for P, theta, C, G, following in drive(BufferedUpdate, rule, free, groups):
        points = C @ torch.stack(rows)
        energy = (points * G).sum()
        if rule.optimizer == "sgd":
            energy = energy + on_point / 2 * points.square().sum()
        optimiser.zero_grad()
        energy.backward()
        if rule.clip is not None:
            clipped += float(torch.nn.utils.clip_grad_norm_(chosen, rule.clip)) > rule.clip
        if rule.optimizer == "adamw":
            with torch.no_grad():
                for k in free:
                    rows[k] -= 0.1 * on_point * (C[:, k] @ points)
        optimiser.step()
        torch.testing.assert_close(P, expected, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(theta, following @ expected, rtol=1e-10, atol=1e-12)
    assert clipped or rule.clip is None


def test_the_update_is_chosen_by_rule_and_size_and_falls_back_without_a_compiler(monkeypatch):
    small, large = torch.empty(3, 10), torch.empty(3, COMPILE_FROM // 3 + 1, device="meta")
    plain = UpdateRule()
    for works, chosen in ((True, CompiledUpdate), (False, EagerUpdate)):
        monkeypatch.setattr(updates, "_compiler_works", lambda works=works: works)
        assert choose_update(small, "auto", plain) is EagerUpdate
        assert choose_update(large, "auto", plain) is chosen
        assert choose_update(large, "eager", plain) is EagerUpdate
        for rule in (UpdateRule("adamw"), UpdateRule(nesterov=True), UpdateRule(clip=1.0)):
            assert choose_update(large, "auto", rule) is BufferedUpdate
            assert choose_update(small, "eager", rule) is BufferedUpdate
            with pytest.raises(InputError, match="update=compiled is for SGD without Nesterov momentum or clipping"):
                choose_update(small, "compiled", rule)
    with pytest.raises(InputError, match="no working compiler"):
        choose_update(small, "compiled", plain)
    monkeypatch.setattr(updates, "_compiler_works", lambda: True)
    assert choose_update(small, "compiled", plain) is CompiledUpdate
    # Many control points, or many samples, are too many arrays for one pass; who asks for it gets it all the same.
    nine, many = (torch.empty(k, COMPILE_FROM // k + 1, device="meta") for k in (9, 25))
    assert choose_update(nine, "auto", plain, free=5, samples=8) is CompiledUpdate
    assert choose_update(nine, "auto", plain, free=7, samples=9) is EagerUpdate
    assert choose_update(many, "auto", plain, free=21, samples=1) is EagerUpdate
    assert choose_update(many, "compiled", plain, free=21, samples=1) is CompiledUpdate


@pytest.mark.filterwarnings("ignore")
def test_more_shapes_than_torch_compiles_by_default_stay_compiled():
    if not updates._compiler_works():
        pytest.skip("torch.compile does not work on this machine")
    with torch._dynamo.config.patch(recompile_limit=1, fail_on_recompile_limit_hit=True):
        for size in (48, 64):
            P, theta = some(3, size, dtype=torch.float32), torch.zeros(1, size)
            update = CompiledUpdate(P, (1,), theta, torch.zeros(1, size), UpdateRule())
            update.apply(torch.tensor([[0.5]]), True, 0.1, torch.tensor([[1.0, 0.0, 0.0]]))
            assert torch.equal(theta[0], P[0])
