"""Phases of a surface: how they are written, what they sample, and which rows they move."""

import numpy as np
import pytest

from mgraph.errors import InputError
from mgraph.families import BezierCurveFamily, BezierSurfaceFamily
from mgraph.methods.curves.surface import BezierSurface, PhaseSpec

THREE = ("edges:1", "columns:2", "surface:3")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("surface:40", PhaseSpec("surface", 40, None, "all")),
        ("edges:6", PhaseSpec("edges", 6, None, "edges")),
        ("columns:9", PhaseSpec("columns", 9, None, "inner")),
        ("surface:0", PhaseSpec("surface", 0, None, "all")),
        (" edges:10@0.05 ", PhaseSpec("edges", 10, 0.05, "edges")),
        ("edges:10@1e-4", PhaseSpec("edges", 10, 1e-4, "edges")),
        ("surface:3@2", PhaseSpec("surface", 3, 2.0, "all")),
        ("columns:10/all", PhaseSpec("columns", 10, None, "all")),
        ("surface:10/inner", PhaseSpec("surface", 10, None, "inner")),
        ("surface:1/1+4", PhaseSpec("surface", 1, None, "1+4")),
        ("surface:1/4", PhaseSpec("surface", 1, None, "4")),
        ("edges:10@.5/1+7", PhaseSpec("edges", 10, 0.5, "1+7")),
    ],
)
def test_a_phase_is_read_from_text(text, expected):
    assert PhaseSpec.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "surface",
        "surface:",
        "surface:-1",
        "surface:1.5",
        "surface:ten",
        "curves:10",
        "Surface:10",
        "surface 10",
        "surface:10@",
        "surface:10@nan",
        "surface:10@inf",
        "surface:10/",
        "surface:10/all@0.1",
        "surface:10/1,4",
        "surface:10 edges:3",
        "surface:10;edges:3",
        "10:surface",
    ],
)
def test_what_is_no_phase_is_refused_with_how_one_is_written(text):
    with pytest.raises(
        InputError, match=r"A phase is written SAMPLED:EPOCHS\[@LR\]\[/MOVES\].*edges, columns, surface"
    ):
        PhaseSpec.parse(text)
    with pytest.raises(InputError, match="A phase is written"):
        BezierSurface(phases=("edges:1", text))


@pytest.mark.parametrize("lr", ["0", "-0.1", "1e30", "1e400", "1-2", "..", "e", "0.0"])
def test_a_phases_learning_rate_is_a_number_above_0(lr):
    with pytest.raises(InputError, match=f"learning rate of phase 'edges:3@{lr}' must be a number above 0"):
        PhaseSpec.parse(f"edges:3@{lr}")


@pytest.mark.parametrize("moves", ["corners", "1+", "+1", "1++2", "a", "all+1"])
def test_what_a_phase_moves_is_a_group_or_rows(moves):
    with pytest.raises(InputError, match=r"what moves is edges, inner, all or rows like 1\+4, not"):
        PhaseSpec.parse(f"surface:3/{moves}")


@pytest.mark.parametrize("row", [0, 2, 6, 8, 9, 1000])
def test_a_phase_cannot_move_a_corner_or_a_row_that_is_not_there(row):
    method = BezierSurface(phases=("edges:1", f"surface:1/1+{row}"))
    with pytest.raises(InputError, match=rf"cannot move row {row}; the free control points are \[1, 3, 4, 5, 7\]"):
        method.family(4)


def test_by_default_there_is_one_phase_the_whole_surface():
    method = BezierSurface(epochs=7)
    family = method.family(4)
    (phase,) = method.plan(family)
    assert (phase.name, phase.epochs, phase.lr, phase.free) == ("surface", 7, None, family.free)
    assert [curve.family for curve in phase.curves] == [family]


def test_phases_are_instead_of_epochs_and_in_the_order_given():
    method = BezierSurface(epochs=7, phases=("surface:1@0.3", "edges:2", "surface:3"))
    plan = method.plan(method.family(4))
    assert [(p.name, p.epochs, p.lr) for p in plan] == [("surface", 1, 0.3), ("edges", 2, None), ("surface", 3, None)]


@pytest.mark.parametrize(
    ("degree", "outer", "inner"),
    [
        ((2, 2), {1, 7}, {3, 4, 5}),
        ((1, 1), set(), set()),
        ((2, 1), set(), {2, 3}),
        ((1, 3), {1, 2, 5, 6}, set()),
        ((3, 2), {1, 10}, {3, 4, 5, 6, 7, 8}),
    ],
)
def test_the_three_phases_of_a_surface_go_from_its_edges_inwards(degree, outer, inner):
    method = BezierSurface(degree=degree, phases=THREE)
    family = method.family(4)
    edges, columns, whole = method.plan(family)
    assert [p.epochs for p in (edges, columns, whole)] == [1, 2, 3]
    assert set(edges.free) == outer
    assert set(columns.free) == inner
    assert set(whole.free) == outer | inner == set(family.free)
    n, m = degree
    assert (len(edges.curves), len(columns.curves)) == (2, m + 1)
    t = np.linspace(0, 1, 5)[:, None]
    for u, curve in zip((0.0, 1.0), edges.curves, strict=True):
        on_surface = family.coefficients(np.concatenate([np.full_like(t, u), t], axis=1))
        np.testing.assert_array_equal(curve.coefficients(t), on_surface)
    for j, curve in enumerate(columns.curves):
        expected = np.zeros((5, family.size))
        expected[:, [i * (m + 1) + j for i in range(n + 1)]] = BezierCurveFamily(n - 1).coefficients(t)
        np.testing.assert_array_equal(curve.coefficients(t), expected)
    assert whole.curves[0].family.dimension == 2


def test_fixed_rows_are_in_no_phase():
    method = BezierSurface(phases=(*THREE, "surface:1/1+4"), fixed=(4, 7))
    assert [p.free for p in method.plan(method.family(4))] == [(1,), (3, 5), (1, 3, 5), (1,)]


def test_rows_may_be_named_twice_and_in_any_order():
    method = BezierSurface(phases=("surface:1/5+1+5",))
    assert method.plan(method.family(4))[0].free == (1, 5)


def test_the_papers_schedule_is_a_preset():
    method = BezierSurface.preset("paper", degree=(3, 3))
    assert [(p.name, p.epochs) for p in method.plan(BezierSurfaceFamily((3, 3)))] == [
        ("edges", 6),
        ("columns", 9),
        ("surface", 10),
    ]
    assert (method.optimizer, method.lr, method.batch_size, method.samples) == ("adamw", 1e-4, 512, 15)
    assert (method.batch, method.draw) == ("whole", "iid")


def test_the_three_phase_preset_has_the_three_phases():
    method = BezierSurface.preset("three-phase")
    assert [p.name for p in method.plan(method.family(4))] == ["edges", "columns", "surface"]
    assert all(phase.epochs > 0 for phase in method.plan(method.family(4)))
    assert (method.optimizer, method.samples, method.batch) == (
        "sgd",
        None,
        "split",
    )  # this package's way, as by default
