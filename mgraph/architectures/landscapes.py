"""Toy landscapes: "networks" with two weights whose output is a potential, so that the loss is the potential.

On the data set ``toy`` they are ordinary spaces: one can see modes, connections and sweeps at a glance, and compare the
results with known values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn
from typing_extensions import override

from mgraph.errors import InputError
from mgraph.specs import suggestion

Potential = Callable[[Tensor], Tensor]

VALLEY_TILT = 0.4
VALLEY_STEEP = 5.0
# Müller and Brown (1979), Theoret. Chim. Acta 53, 75: A, a, b, c, x⁰, y⁰ of the four terms.
_MULLER_BROWN = (
    (-200.0, -1.0, 0.0, -10.0, 1.0, 0.0),
    (-100.0, -1.0, 0.0, -10.0, 0.0, 0.5),
    (-170.0, -6.5, 11.0, -6.5, -0.5, 1.5),
    (15.0, 0.7, 0.6, 0.7, -1.0, 1.0),
)
_LOWEST = 146.69951  # depth of Müller and Brown's deepest minimum, below 0


def ring(w: Tensor) -> Tensor:
    """Return (w₁² + w₂² - 1)²: a ring of minima around a maximum of 1; w has shape (…, 2)."""
    return (w.square().sum(dim=-1) - 1.0).square()


def valley(w: Tensor) -> Tensor:
    """Return f(w₁) + 5 (w₂ - w₁² + 1)²: two wells joined by a curved valley, f(x) = (x² - 1)² + 0.4 (x³/3 - x + 2/3).

    On the valley floor w₂ = w₁² - 1, the gradient vanishes where f' = (x² - 1)(4x + 0.4) does: the wells are at (-1, 0)
    with 8/15 = 0.5333 and at (1, 0) with 0, the saddle at (-0.1, -0.99) with f(-0.1) = 1.28663.
    """
    x, y = w[..., 0], w[..., 1]
    floor = (x.square() - 1.0).square() + VALLEY_TILT * (x**3 / 3.0 - x + 2.0 / 3.0)
    return floor + VALLEY_STEEP * (y - x.square() + 1.0).square()


def muller_brown(w: Tensor) -> Tensor:
    """Return the potential of Müller and Brown (1979) divided by 100 and shifted so that its lowest well is at 0.

    Wells at (-0.558, 1.442) with 0, (0.623, 0.028) with 0.385 and (-0.050, 0.467) with 0.659; saddles at (-0.822,
    0.624) with 1.060 and (0.212, 0.293) with 0.744.
    """
    x, y = w[..., 0], w[..., 1]
    total = torch.zeros_like(x)
    for height, a, b, c, x0, y0 in _MULLER_BROWN:
        dx, dy = x - x0, y - y0
        total = total + height * torch.exp(a * dx.square() + b * dx * dy + c * dy.square())
    return (total + _LOWEST) / 100.0


POTENTIALS: Mapping[str, Potential] = MappingProxyType({"ring": ring, "valley": valley, "muller-brown": muller_brown})


class Landscape(nn.Module):
    """Two weights; the output for every example is their potential."""

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        self.potential = potential
        self.w = nn.Parameter(torch.randn(2))

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Return the potential, repeated for every example, shape (N,)."""
        return self.potential(self.w).expand(len(x))


def landscape(potential: str) -> Landscape:
    """Return the landscape of that name; raise InputError, listing the available ones, for any other."""
    if potential not in POTENTIALS:
        raise InputError(
            f"There is no potential {potential!r};{suggestion(potential, POTENTIALS)} there are "
            f"{', '.join(POTENTIALS)}."
        )
    return Landscape(POTENTIALS[potential])
