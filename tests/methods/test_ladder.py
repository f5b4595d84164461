"""Which methods are tried, in which order, with which settings, and what they cost."""

import pytest

from mgraph.errors import InputError
from mgraph.methods.curves.path import BezierCurve, PolygonalChain
from mgraph.methods.curves.surface import BezierSurface
from mgraph.methods.ladder import LADDER, ladder, within
from mgraph.methods.linear import Linear
from mgraph.methods.registry import METHODS


def test_every_method_for_two_modes_is_tried_once_and_in_order():
    methods = ladder()
    assert [m.name for m in methods] == [name for name in LADDER if name in METHODS]
    assert methods[:3] == [Linear(), BezierCurve(), PolygonalChain()]
    joins_two = []
    for name, cls in METHODS.items():
        try:
            cls().family(2)
            joins_two.append(name)
        except InputError:
            pass
    assert {m.name for m in methods} == set(joins_two)


def test_presets_for_trying_are_taken_where_there_are_any():
    for method in ladder():
        quick = method.presets.get("quick")
        if quick is not None:
            assert method == type(method).preset("quick")


def test_a_setting_goes_to_every_method_that_has_it():
    linear, curve, chain = ladder({"epochs": "3", "seed": 7}, ["linear", "curve", "chain"])
    assert linear == Linear()
    assert (curve.epochs, curve.seed, chain.epochs, chain.seed) == (3, 7, 3, 7)
    assert ladder({"degree": "2,3"}, ["curve", "surface"])[1] == BezierSurface(degree=(2, 3))


def test_a_setting_of_none_and_an_unknown_method_are_refused():
    with pytest.raises(InputError, match=r"There is no setting 'degrees' of linear, curve; known are .*bends, beta2"):
        ladder({"degrees": 3}, ["linear", "curve"])
    with pytest.raises(InputError, match="no method 'bezier'"):
        ladder({}, ["bezier"])
    with pytest.raises(InputError, match="epochs must be a whole number"):
        ladder({"epochs": "many"})


def test_costs_count_examples_of_every_pass():
    curve = BezierCurve(epochs=3, batch_size=128)
    assert curve.cost(curve.family(2), 1000) == 3 * 1000  # a split batch is one pass
    whole = BezierCurve(epochs=3, batch="whole", samples=4)
    assert whole.cost(whole.family(2), 1000) == 4 * 3 * 1000
    assert Linear().cost(Linear().family(2), 1000) == 0
    band = METHODS["neb"].preset("quick", pivots=4, stop=())
    assert band.cost(band.family(2), 1000) == 5 * 60 * 4 * 256  # without the pivots that are inserted
    assert METHODS["neb"](pivots=4).cost(band.family(2), 1000) == 2 * 60 * 4 * 256  # it may rest after two cycles
    assert METHODS["neb"](target=0.1).cost(band.family(2), 1000) is None
    phases = BezierSurface(degree=(2, 2), phases=("edges:1", "columns:2", "surface:5"))
    assert phases.cost(phases.family(4), 10) == 10 * (1 * 2 + 2 * 3 + 5)


def test_methods_are_told_how_long_they_have():
    assert within(Linear(), 5.0) == Linear()
    for name in ("curve", "chain", "surface", "neb", "llpf"):
        cls = METHODS[name]
        assert within(cls(), 5.0).max_seconds == 5.0
        assert within(cls(max_seconds=3.0), 5.0).max_seconds == 3.0
        assert within(cls(max_seconds=7.0), 5.0).max_seconds == 5.0
