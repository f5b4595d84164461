"""Numbers on logarithmic axes are set as powers of ten, and not as the formula that makes them."""

import re
from pathlib import Path

import matplotlib as mpl

from mgraph.report.history import plot_history
from mgraph.train.watch import Observed


def drawn(path: Path, title: str) -> str:
    steps = tuple(float(step) for step in range(1, 30))
    rates = Observed("learning_rate", "", steps, tuple(0.1 / step**2 for step in steps))
    losses = Observed("train_loss", "", steps, tuple(2.4 - step / 40 for step in steps))
    return plot_history([losses, rates], path, title=title).read_text()


def test_ticks_of_logarithmic_axes_are_numbers_and_titles_are_literal(tmp_path: Path) -> None:
    with mpl.rc_context({"svg.fonttype": "none"}):  # texts as texts
        picture = drawn(tmp_path / "a.svg", "$x$")
    texts = re.findall(r">([^<>]*)</t", picture)
    assert "$x$" in texts
    assert not any("mathdefault" in text for text in texts)
