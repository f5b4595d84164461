"""Learning-rate schedules: the factor on the learning rate as a function of progress in [0, 1)."""

from __future__ import annotations

import math
from collections.abc import Callable


def curve_schedule(progress: float) -> float:
    """Return the factor used for modes and curves by [G]'s released code.

    Constant for the first half, linear to 1 % at 90 %, then 1 %.
    """
    if progress < 0.5:
        return 1.0
    if progress < 0.9:
        return 1.0 - 0.99 * (progress - 0.5) / 0.4
    return 0.01


def cosine_schedule(progress: float) -> float:
    """Return half a cosine, from 1 to 0 (Loshchilov & Hutter 2017, eq. 5, one cycle)."""
    return (1.0 + math.cos(math.pi * progress)) / 2.0


def constant_schedule(progress: float) -> float:
    """Return 1."""
    return 1.0


SCHEDULES: dict[str, Callable[[float], float]] = {
    "curve": curve_schedule,
    "cosine": cosine_schedule,
    "constant": constant_schedule,
}
