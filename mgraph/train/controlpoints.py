"""Control points during training, on their device: held columns, and the Gram matrix of the rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mgraph.families import Floats

_CHUNK = 1 << 20  # columns per float64 block


@dataclass(frozen=True)
class Held:
    """The untrained columns of all control points: ``matrix`` (K, R) times ``rows`` (R, H)."""

    matrix: Floats
    rows: Tensor


class GramMeasure:
    """Computes the current Gram matrix of P's centred rows, shape (K, K); the held columns contribute a constant."""

    def __init__(self, P: Tensor, held: Held | None) -> None:
        self._P = P
        self._held: Tensor | float = 0.0
        if held is not None:
            matrix = torch.from_numpy(held.matrix).to(P.device)
            moves = matrix - matrix[:1]
            self._held = moves @ _centred(held.rows) @ moves.T

    def gram(self) -> Floats:
        """Return the current G."""
        G: Floats = (_centred(self._P) + self._held).cpu().numpy()
        return G


def _centred(rows: Tensor) -> Tensor:
    """Return (rows - first)(rows - first)ᵀ in float64."""
    total = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
    for start in range(0, rows.shape[1], _CHUNK):
        wide = rows[:, start : start + _CHUNK].double()
        wide = wide - wide[:1]  # not in place: float64 rows would be changed themselves
        total += wide @ wide.T
    return total
