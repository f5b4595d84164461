"""Whether modes look memorised, and what is worth more than connecting them."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from mgraph.data.making import make_task
from mgraph.merge.calibration import guessed_classes
from mgraph.models.costs import Memory
from mgraph.operations.advising import otherwise
from mgraph_store import Node


def node(name: str) -> Node:
    return Node(id=f"m{name * 12}", name=name, kind="mode", space_id="s")


# Mean losses of the modes of benchmarks/merging.py, as far as they are of ten classes.
@pytest.mark.parametrize(
    ("train", "valid", "classes", "memorised"),
    [
        (0.93, 1.10, 10, False),  # 5000 images, augmented
        (0.42, 1.59, 10, True),  # 2500 images
        (0.96, 1.57, 10, True),  # the same with a fifth of the labels wrong
        (0.96, 1.57, None, False),  # a loss of which nobody knows what guessing costs
        (0.001, 0.09, None, True),
        (None, 1.0, 10, None),
    ],
)
def test_modes_look_memorised_by_their_losses(
    train: float | None, valid: float, classes: int | None, memorised: bool | None
) -> None:
    assert Memory(train, valid, None if classes is None else math.log(classes)).memorised is memorised


def test_the_advice_is_what_was_worth_the_most_at_equal_cost() -> None:
    ends = [node(name) for name in "ab"]
    improving, memorised, unknown = Memory(0.9, 1.0), Memory(0.1, 1.0), Memory(None, None)
    for spent, memory, advice in (
        (1.5, improving, "train one mode on for 1.5 T and average its late weights (mgraph train --init a --swa): the"),
        (1.5, memorised, "train 1 more mode and let 3 vote (mgraph ensemble): the modes look memorised"),
        (0.5, memorised, "let the 2 modes vote (mgraph ensemble): the modes look memorised"),
        (2.0, unknown, "train one mode on for 2 T (mgraph train --init a), or train 2 more modes and let 4 vote"),
    ):
        assert str(otherwise(spent, memory, ends)).startswith(advice)
    assert otherwise(None, memorised, ends) is None


def test_only_a_cross_entropy_of_labels_has_a_cost_of_guessing() -> None:
    x, labels, numbers = torch.randn(12, 3), torch.arange(12) % 4, torch.randn(12, 1)
    assert guessed_classes(make_task(train=(x, labels), test=(x, labels), classes=4)) == 4
    assert guessed_classes(make_task(train=(x, labels), test=(x, labels), classes=4, loss=F.multi_margin_loss)) is None
    assert guessed_classes(make_task(train=(x, numbers), test=(x, numbers), loss=F.mse_loss)) is None
