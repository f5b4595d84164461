"""Phases of a walk: from patterns, from the order of execution, all at once."""

import pytest

from mgraph.errors import InputError
from mgraph.methods.llpf.groups import GroupSpec, phases_of
from mgraph.network.order import Layer


def layer(name, normalises=False):
    return Layer(name, (f"{name}.weight", f"{name}.bias"), normalises)


TRACED = [layer("conv1"), layer("bn1", True), layer("conv2"), layer("bn2", True), layer("fc")]
IDLE = [layer("aux")]
EVERYTHING = frozenset(p for each in (*TRACED, *IDLE) for p in each.parameters)


def parameters(*names):
    return frozenset(f"{name}.{kind}" for name in names for kind in ("weight", "bias"))


def moving(text, *, traced=TRACED, idle=(), most=8):
    return [(p.name, p.parameters) for p in phases_of(text, traced, idle, most)]


def test_all_moves_everything_at_once():
    assert moving("all", idle=IDLE) == [("all", EVERYTHING)]


def test_fdf_follows_the_order_and_accumulates():
    assert moving("fdf") == [
        ("conv1 … bn1", parameters("conv1", "bn1")),
        ("conv2 … bn2", parameters("conv1", "bn1", "conv2", "bn2")),
        ("fc", parameters("conv1", "bn1", "conv2", "bn2", "fc")),
    ]


def test_fdf_moves_idle_layers_in_a_last_phase():
    phases = moving("fdf", idle=IDLE)
    assert len(phases) == 4
    assert phases[-1] == ("the rest", EVERYTHING)


def test_a_norm_before_any_weight_joins_the_first_group():
    assert moving("fdf", traced=[layer("norm", True), layer("fc"), layer("out")])[0] == (
        "norm … fc",
        parameters("norm", "fc"),
    )


@pytest.mark.parametrize("most", range(1, 8))
def test_fdf_joins_neighbours_to_so_many_groups(most):
    phases = moving("fdf", traced=[layer(f"l{i}") for i in range(7)], most=most)
    assert len(phases) == most
    sizes = [len(group) // 2 for _, group in phases]
    steps = [b - a for a, b in zip([0, *sizes[:-1]], sizes, strict=True)]
    assert max(steps) - min(steps) <= 1
    assert sizes[-1] == 7


def test_patterns_accumulate_and_carry_ticks_and_steps():
    phases = phases_of("conv1.*,bn1.*:50; conv2.*@0.5 ;*:7@1e-3", TRACED, [], 8)
    assert [(p.ticks, p.step) for p in phases] == [(50, None), (None, 0.5), (7, 1e-3)]
    assert phases[1].parameters == parameters("conv1", "bn1", "conv2")
    assert phases[2].parameters == EVERYTHING - parameters("aux")


def test_all_before_fdf_does_not_count_as_moving():
    phases = phases_of("all:10@5e-4;fdf", TRACED, [], 8)
    assert [p.name for p in phases] == ["all", "conv1 … bn1", "conv2 … bn2", "fc"]
    assert phases[1].parameters == parameters("conv1", "bn1")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("conv1.*;layer9.*;*", r"pattern 'layer9\.\*' in groups matches no parameter; there are conv1\.weight"),
        ("conv1.*;bn1.*", r"No group moves conv2\.weight, conv2\.bias, bn2\.weight, …; name every parameter, or end"),
        ("*;fc.*", r"group 'fc\.\*' adds nothing"),
        ("all,fc.*", "stand alone"),
        ("conv1.*:0;*", "at least 1"),
        ("conv1.*@2;*", "above 0, at most 1"),
        ("conv1.*@x;*", "Groups are written"),
        ("", "Groups are written"),
        (" ; ", "Groups are written"),
    ],
)
def test_bad_groups_say_what_is_wrong(text, said):
    with pytest.raises(InputError, match=said):
        phases_of(text, TRACED, [], 8)


def test_groups_are_checked_when_they_are_written():
    assert GroupSpec.parse_all("a.*:3@0.1")[0] == GroupSpec(("a.*",), 3, 0.1)
