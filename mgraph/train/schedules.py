"""Learning-rate schedules as functions of progress in [0, 1)."""

from __future__ import annotations


def curve_schedule(progress: float) -> float:
    """Return the factor on the learning rate used for modes and curves by [G]'s released code.

    Constant for the first half, linear to 1 % at 90 %, then 1 %.
    """
    if progress < 0.5:
        return 1.0
    if progress < 0.9:
        return 1.0 - 0.99 * (progress - 0.5) / 0.4
    return 0.01
