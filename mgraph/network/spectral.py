"""Spectral normalisation: its vectors u and v belong to one point, and are determined by that point's weight.

A layer with spectral normalisation computes with W/σ, σ = uᵀWv, where u and v are buffers that training moves towards
the first singular vectors by one power iteration per step (Miyato et al. 2018). They are not coordinates, and they
differ from point to point. So they are recomputed wherever a point is not the mode with which they were stored: by
power iterations from a fixed start until σ converges.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.spectral_norm import SpectralNorm

_MOST_ITERATIONS = 2000
_STANDS_STILL = 1e-7  # relative change of σ, three times in a row
_PATIENCE = 3


@dataclass(frozen=True)
class Normalised:
    """One normalised weight, shape (rows, columns) by ``matrix``, and its vectors, by name."""

    u: Tensor
    v: Tensor
    names: tuple[str, str]
    _matrix: object
    _weight: object

    def matrix(self) -> Tensor:
        """Return the current weight as the matrix to be normalised."""
        return self._matrix(self._weight())  # type: ignore[operator, no-any-return]


def spectral_vectors(module: nn.Module) -> list[Normalised]:
    """Find the weights under spectral normalisation, of the current or the older kind, whose vectors are buffers.

    If another parametrisation lies between the stored tensors and the norm, the weight is what reaches the norm.
    """
    return [found for name, part in module.named_modules() for found in _of(name, part)]


@torch.no_grad()
def recompute_vectors(vectors: list[Normalised]) -> None:
    """Set u and v to the first singular vectors of the current weights, in place."""
    for one in vectors:
        matrix = one.matrix()
        start = torch.randn(matrix.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        v = F.normalize(start.to(matrix), dim=0)
        sigma, still = 0.0, 0
        for _ in range(_MOST_ITERATIONS):
            u = F.normalize(torch.mv(matrix, v), dim=0)
            v = torch.mv(matrix.t(), u)
            before, sigma = sigma, float(v.norm())
            v = F.normalize(v, dim=0)
            still = still + 1 if abs(sigma - before) <= _STANDS_STILL * sigma else 0
            if still == _PATIENCE:
                break
        one.u.copy_(F.normalize(torch.mv(matrix, v), dim=0))
        one.v.copy_(v)


def _of(name: str, part: nn.Module) -> Iterator[Normalised]:
    dot = f"{name}." if name else ""
    if isinstance(part, ParametrizationList):
        for number, step in enumerate(part):
            if isinstance(step, _SpectralNorm) and "_u" in step._buffers:
                names = (f"{dot}{number}._u", f"{dot}{number}._v")
                yield Normalised(
                    step._u, step._v, names, step._reshape_weight_to_matrix, lambda n=number: _reaching(part, n)
                )
    for hook in part._forward_pre_hooks.values():
        if isinstance(hook, SpectralNorm):
            u, v = (part._buffers[f"{hook.name}_{x}"] for x in "uv")
            assert u is not None
            assert v is not None
            names = (f"{dot}{hook.name}_u", f"{dot}{hook.name}_v")
            yield Normalised(u, v, names, hook.reshape_weight_to_matrix, lambda h=hook: getattr(part, f"{h.name}_orig"))


def _reaching(steps: ParametrizationList, number: int) -> Tensor:
    """Return what a list of parametrisations passes to the one with this number."""
    value = steps.original if steps.is_tensor else [getattr(steps, f"original{i}") for i in range(steps.ntensors)]
    for index in range(number):
        value = steps[index](*value) if index == 0 and isinstance(value, list) else steps[index](value)
    assert isinstance(value, Tensor)
    return value
