"""Learning-rate schedules, as they are written and as torch has them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mgraph.data.making import make_task
from mgraph.data.splits import ArraySplit
from mgraph.errors import InputError
from mgraph.methods.curves.path import BezierCurve
from mgraph.methods.curves.surface import BezierSurface
from mgraph.network.flat import FlatModel
from mgraph.train.batches import Batches, batches_per_pass
from mgraph.train.mode import check_training, train_mode
from mgraph.train.schedules import SCHEDULES, Span, schedule_of
from mgraph.train.settings import TrainSettings

STEPS, EPOCH = 40, 4


def factors(text, steps=STEPS, epoch=EPOCH):
    schedule = schedule_of(text, Span(steps, epoch))
    return [schedule(done / steps) for done in range(steps)]


def torchs(make, steps=STEPS):
    """What a scheduler of torch does to a learning rate of 1."""
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler, found = make(optimiser), []
    for _ in range(steps):
        found.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    return found


SCHEDULERS = torch.optim.lr_scheduler


@pytest.mark.parametrize(
    ("text", "make"),
    [
        ("multistep?at=5ep,30", lambda o: SCHEDULERS.MultiStepLR(o, [20, 30])),
        ("multistep?at=0.25,0.5&factor=0.2", lambda o: SCHEDULERS.MultiStepLR(o, [10, 20], 0.2)),
        ("multistep?at=3", lambda o: SCHEDULERS.MultiStepLR(o, [3])),
        ("restarts?cycles=4", lambda o: SCHEDULERS.CosineAnnealingWarmRestarts(o, 10)),
        ("restarts?cycles=3&grow=3&low=0.1", lambda o: SCHEDULERS.CosineAnnealingWarmRestarts(o, 4, 3, eta_min=0.1)),
        ("cosine", lambda o: SCHEDULERS.CosineAnnealingLR(o, STEPS)),
    ],
)
def test_schedules_are_torchs(text, make):
    steps = 52 if "grow" in text else STEPS
    assert factors(text, steps) == pytest.approx(torchs(make, steps), abs=1e-9)


def test_one_cycle_is_torchs_but_for_where_its_last_step_lies():
    """Torch takes the last step at the end of the cycle; here a factor is that of a step's beginning."""
    found = factors("onecycle?rise=0.25&start=0.04&end=0.001", 4000)

    def make(optimiser):
        return SCHEDULERS.OneCycleLR(
            optimiser, 1.0, total_steps=4000, pct_start=0.25, div_factor=25, final_div_factor=40, cycle_momentum=False
        )

    assert found == pytest.approx(torchs(make, 4000), abs=2e-3)
    assert max(found) == found[1000] == 1.0
    assert found[0] == pytest.approx(0.04)


def test_cyclic_is_that_of_fast_geometric_ensembling():
    c, low = 8, 0.1
    expected = []
    for i in range(1, STEPS + 1):  # [G] section 5
        t = ((i - 1) % c + 1) / c
        expected.append((1 - 2 * t) + 2 * t * low if t <= 0.5 else (2 - 2 * t) * low + (2 * t - 1))
    assert factors("cyclic?period=8&low=0.1") == pytest.approx(expected)
    assert factors("cyclic?period=2ep&low=0.1") == factors("cyclic?period=0.2&low=0.1") == pytest.approx(expected)


@pytest.mark.parametrize("name", ["cosine", "curve", "constant", "restarts?cycles=2", "onecycle"])
def test_a_warm_up_rises_to_the_schedule_which_fills_the_rest(name):
    warm = factors(name + ("&" if "?" in name else "?") + "warmup=2ep")
    start = factors(name, STEPS - 8)[0]
    assert warm[:8] == pytest.approx([start * (i + 1) / 9 for i in range(8)])
    assert warm[8:] == pytest.approx(factors(name, STEPS - 8))


def test_a_warm_up_moves_no_milestone():
    plain, warm = factors("multistep?at=10,20"), factors("multistep?at=10,20&warmup=4")
    assert warm[4:] == plain[4:]
    assert warm[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])


def test_plain_names_are_what_they_were():
    for name, schedule in SCHEDULES.items():
        assert factors(name) == [schedule(i / STEPS) for i in range(STEPS)]


@given(
    st.sampled_from(["curve", "cosine", "onecycle", "multistep?at=0.3", "cyclic?period=7", "restarts?cycles=3&grow=2"]),
    st.integers(8, 300),
    st.one_of(st.none(), st.integers(1, 7)),
)
def test_a_factor_is_never_above_one_or_below_nothing(text, steps, warmup):
    text = text if warmup is None else f"{text}{'&' if '?' in text else '?'}warmup={warmup}"
    assert all(0.0 <= factor <= 1.0 + 1e-12 for factor in factors(text, steps))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cosin", "did you mean 'cosine'"),
        ("step", "schedule must be one of curve, .*multistep"),
        ("cosine?warm=5", "no parameter 'warm'; did you mean 'warmup'"),
        ("multistep", "needs at, as in multistep"),
        ("cyclic", "needs period"),
        ("restarts", "needs cycles"),
        ("restarts?cycles=0", "whole number from 1"),
        ("multistep?at=0.5&factor=2", "factor from 0 to 1"),
        ("multistep?at=60x", "a number of steps"),
        ("multistep?at=1.5", "a number of steps"),
        ("cosine?warmup=0", "a number of steps"),
        ("cosine?warmup=-1", "a number of steps"),
        ("cosine?warmup=1,2", "one number"),
    ],
)
@pytest.mark.parametrize("settings", [TrainSettings, BezierCurve])
def test_what_is_no_schedule_is_refused(settings, text, message):
    with pytest.raises(InputError, match=message):
        settings(schedule=text)


def test_places_beyond_the_end_are_refused_before_anything_runs():
    x, y = torch.randn(40, 6), torch.arange(40) % 3
    task = make_task(train=(x, y), valid=(x, y), test=(x, y))
    flat = FlatModel(torch.nn.Linear(6, 3))
    with pytest.raises(InputError, match=r"9ep is 27 steps, and the phase has only 27 \(an epoch has 3\)"):
        check_training(flat, task, TrainSettings(epochs=9, batch_size=16, schedule="multistep?at=9ep"))
    check_training(flat, task, TrainSettings(epochs=9, batch_size=16, schedule="multistep?at=8ep"))
    surface = BezierSurface(epochs=20, batch_size=16, schedule="cosine?warmup=20ep")
    with pytest.raises(InputError, match="train longer, or give a schedule with less"):
        surface.check(flat, task, surface.family(4))
    with pytest.raises(InputError, match="must rise"):
        check_training(flat, task, TrainSettings(epochs=9, schedule="multistep?at=0.5,0.2"))


def test_a_mode_is_trained_by_it():
    x, y = torch.randn(40, 6), torch.arange(40) % 3
    task = make_task(train=(x, y), valid=(x, y), test=(x, y))

    def trained(text, lr):
        torch.manual_seed(0)
        flat = FlatModel(torch.nn.Linear(6, 3))
        train_mode(flat, task, TrainSettings(epochs=2, batch_size=20, lr=lr, schedule=text))
        return flat.theta

    assert torch.equal(trained("multistep?at=0.5&factor=1", 0.1), trained("constant", 0.1))
    assert not torch.equal(trained("multistep?at=0.5", 0.1), trained("constant", 0.1))


@pytest.mark.parametrize("least", [None, 2, 5])
@pytest.mark.parametrize("count", [1, 7, 12, 13, 15])
def test_the_length_of_a_pass_is_known_beforehand(count, least):
    split = ArraySplit(torch.zeros(count, 2), torch.zeros(count))
    batches = Batches(split, 4, torch.Generator(), torch.device("cpu"), least=least)
    assert batches.per_pass == batches_per_pass(count, 4, least)
    seen = 0
    for _ in range(batches.per_pass):
        seen += len(next(batches)[0])
    assert seen == count or seen == count - count % 4
    assert batches.position == batches.per_pass
