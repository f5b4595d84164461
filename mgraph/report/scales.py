"""One meaning of colours and axes for all pictures: dark is good, and losses are logarithmic where they span a decade.

The colour map is viridis, whose lightness rises evenly, so that it survives colour blindness and a grey printer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mgraph.families import Floats
from mgraph.metric import Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize

DECADE = 10.0
_LINES = 7  # contour lines


@dataclass(frozen=True)
class Scale:
    """Values between ``low`` and ``high`` as colours; ``reversed`` if high values are good, which are always dark."""

    low: float
    high: float
    logarithmic: bool
    reversed: bool

    @property
    def colours(self) -> str:
        """The colour map."""
        return "viridis_r" if self.reversed else "viridis"

    def norm(self) -> Normalize:
        """Return how values become positions on the colour map."""
        from matplotlib.colors import LogNorm, Normalize

        return LogNorm(self.low, self.high, clip=True) if self.logarithmic else Normalize(self.low, self.high)

    def even(self, values: Floats) -> Floats:
        """Return values as equal steps of colour: their logarithms on a logarithmic scale."""
        return np.log10(np.maximum(values, self.low)) if self.logarithmic else values

    def back(self, even: Floats) -> Floats:
        """Return values from what :meth:`even` made of them."""
        return 10.0**even if self.logarithmic else even

    def levels(self, values: Floats) -> Floats:
        """Return the values of contour lines between the smallest and the largest of some."""
        space = np.geomspace if self.logarithmic else np.linspace
        found = np.asarray(space(self.low, self.high, _LINES + 2)[1:-1])
        finite = values[np.isfinite(values)]
        return found[(found > finite.min()) & (found < finite.max())] if len(finite) else found[:0]


def scale_of(metric: Metric, arrays: Iterable[Floats]) -> Scale:
    """Return the scale that several arrays of a metric share; what is not finite has no colour."""
    low, high = finite_range(arrays)
    rises = metric.better == "higher"
    logarithmic = not rises and is_wide(low, high)
    return Scale(low, high if high > low else low + max(abs(low), 1.0) * 1e-12, logarithmic, rises)


def scale_of_costs(values: Floats, limit: float | None = None) -> Scale:
    """Return the scale of costs such as peaks and barriers: from 0, unless they span a decade.

    It reaches to the limit at least: what is far within it then has the colour of what is good.
    """
    low, high = finite_range([values])
    high = high if limit is None else max(high, limit)
    if is_wide(low, high):
        return Scale(low, high, True, False)
    return Scale(min(low, 0.0), high if high > 0 or high > low else 1e-12, False, False)


def finite_range(arrays: Iterable[Floats]) -> tuple[float, float]:
    """Return the least and the largest finite value of all arrays; 0 and 1 if there is none."""
    values = np.concatenate([np.ravel(array) for array in arrays])
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)


def is_wide(low: float, high: float) -> bool:
    """Return whether values between these are all positive and span a decade."""
    return low > 0 and high >= DECADE * low


def scale_axis(axis: Axes, metric: Metric, arrays: Iterable[Floats]) -> None:
    """Make the upright axis of curves logarithmic for losses that span a decade, and fit it to the values."""
    low, high = finite_range(arrays)
    if metric.better != "higher" and is_wide(low, high):
        axis.set_yscale("log")
        axis.set_ylim(low / 1.3, high * 1.3)
        plain_ticks(axis.yaxis, low, high)
        return
    room = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
    axis.set_ylim(low - room, high + room)


def plain_ticks(axis: Any, scale_low: float, scale_high: float) -> None:
    """Write the numbers of a logarithmic XAxis or YAxis as 0.01, and enough of them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    narrow = scale_high < 1000 * scale_low  # then powers of ten alone would leave it almost without numbers
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if narrow else (1.0,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def colour_bar(image: Any, axes: Sequence[Axes], label: str, scale: Scale, **how: Any) -> Any:
    """Draw a labelled colour bar with the good, dark end below, and return it."""
    bar = axes[0].figure.colorbar(image, ax=list(axes), label=f"{label} (dark: better)", **how)
    if scale.logarithmic:
        plain_ticks(bar.ax.yaxis, scale.low, scale.high)
    if scale.reversed:
        bar.ax.invert_yaxis()
    return bar
