"""The stratified choice: proportional, sorted, fixed by its seed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mgraph.data.stratify import stratified_choice


@given(st.lists(st.integers(0, 4), min_size=2, max_size=60), st.data())
def test_every_class_in_proportion(labels, data):
    labels = np.array(labels)
    count = data.draw(st.integers(1, len(labels) - 1))
    chosen = stratified_choice(labels, count, 0)
    assert len(set(chosen.tolist())) == count
    assert (np.diff(chosen) > 0).all()
    for c in np.unique(labels):
        share = (labels == c).sum() * count / len(labels)
        assert abs((labels[chosen] == c).sum() - share) < 1


def test_seed_fixes_the_choice_for_ever():
    labels = np.arange(40) % 4
    assert stratified_choice(labels, 4, 1).tolist() == stratified_choice(labels, 4, 1).tolist()
    assert stratified_choice(labels, 4, 1).tolist() == [8, 11, 34, 37]
    assert stratified_choice(labels, 4, 2).tolist() != stratified_choice(labels, 4, 1).tolist()


@pytest.mark.parametrize("count", [0, 5, 6])
def test_part_must_be_proper(count):
    with pytest.raises(ValueError, match="cannot choose"):
        stratified_choice(np.zeros(5), count, 0)
