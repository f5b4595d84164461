"""The update of the free control points: rank one per sample, and the next point in the same pass.

For a sample with coefficients c and gradient g at θ = cᵀP the gradient of row k is c_k g. SGD with momentum on
the free rows is then ``M ← μM + c⊗(g + wd·θ)``, ``P ← P - lr·M``, and the next point is ``θ ← c'ᵀP``. Two
implementations of the same arithmetic: *eager* (a few BLAS calls) and *compiled* (one fused pass over memory,
rows as a list of tensors, since slices of one tensor would be copied whole by the compiler).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from mgraph.errors import InputError

# Below this many control-point scalars (K·D) the seconds of compiling are not won back.
COMPILE_FROM = 4_000_000

_MOST_SHAPES = 256  # numbers of rows, free rows and columns in one process


class EagerUpdate:
    """A few library calls per sample: fastest for small networks, and needs no compiler."""

    name = "eager"

    def __init__(self, P: Tensor, free: Sequence[int], theta: Tensor, grad: Tensor, *, weight_decay: float) -> None:
        """Hold P, shape (K, size), and the momentum of the free rows, shape (F, size)."""
        self._P, self._theta, self._grad, self._decay = P, theta, grad, weight_decay
        self._free = list(free)
        self._M = torch.zeros(len(free), P.shape[1], dtype=P.dtype, device=P.device)
        self._free_rows = [P[k] for k in free]
        self._momentum_rows = list(self._M)
        first, count = self._free[0], len(self._free)
        contiguous = self._free == list(range(first, first + count))
        self._block = P[first : first + count] if contiguous else None

    def point(self, coefficients: Sequence[float]) -> None:
        """Write θ = cᵀP into the network's buffer."""
        c = torch.tensor([coefficients], dtype=self._P.dtype, device=self._P.device)
        torch.mm(c, self._P, out=self._theta.view(1, -1))

    def accumulate(self, coefficients: Sequence[float], keep: float) -> None:
        """Fold the gradient at θ into the momentum: ``M ← keep·M + c⊗(g + wd·θ)``."""
        if self._decay:
            self._grad.add_(self._theta, alpha=self._decay)
        c = torch.tensor([coefficients[k] for k in self._free], dtype=self._P.dtype, device=self._P.device)
        torch.addr(self._M, c, self._grad, beta=keep, out=self._M)

    def apply(self, coefficients: Sequence[float], keep: float, lr: float, following: Sequence[float]) -> None:
        """Accumulate, move the free rows by ``-lr·M``, and write the following θ."""
        self.accumulate(coefficients, keep)
        if self._block is not None:
            self._block.add_(self._M, alpha=-lr)
        else:
            torch._foreach_add_(self._free_rows, self._momentum_rows, alpha=-lr)
        self.point(following)


class CompiledUpdate(EagerUpdate):
    """Update and next point fused into one compiled pass, at the limit of memory bandwidth."""

    name = "compiled"

    def apply(self, coefficients: Sequence[float], keep: float, lr: float, following: Sequence[float]) -> None:
        """Do all three in one pass."""
        scalars = [keep, lr, self._decay]
        options: dict[str, Any] = {"dtype": self._P.dtype, "device": self._P.device}
        # Beyond its limit of shapes (8 by default) torch would go on uncompiled, several times slower.
        with torch._dynamo.config.patch(recompile_limit=_MOST_SHAPES):
            _fused_pass()(
                list(self._P.unbind(0)),
                list(self._M.unbind(0)),
                self._free,
                self._grad,
                self._theta,
                torch.tensor(coefficients, **options),
                torch.tensor(following, **options),
                torch.tensor(scalars, **options),
            )


@cache
def _fused_pass() -> Any:
    def fused(
        rows: list[Tensor],
        momentum: list[Tensor],
        free: list[int],
        grad: Tensor,
        theta: Tensor,
        c: Tensor,
        following: Tensor,
        scalars: Tensor,
    ) -> None:
        keep, lr, decay = scalars[0], scalars[1], scalars[2]
        g = grad + decay * theta
        moved = list(rows)
        for M, k in zip(momentum, free, strict=True):
            m = keep * M + c[k] * g
            M.copy_(m)
            moved[k] = rows[k] - lr * m
        point = following[0] * moved[0]
        for k in range(1, len(rows)):
            point = point + following[k] * moved[k]
        for k in free:
            rows[k].copy_(moved[k])
        theta.copy_(point)

    return torch.compile(fused, dynamic=False)


def choose_update(P: Tensor, choice: str) -> type[EagerUpdate]:
    """Choose by size: compiled for K·D of 4 million and more where a compiler works, else eager.

    Raises InputError if compiled is asked for and no compiler works.
    """
    if choice == "eager" or (choice == "auto" and P.numel() < COMPILE_FROM):
        return EagerUpdate
    if _compiler_works():
        return CompiledUpdate
    if choice == "compiled":
        raise InputError("torch.compile finds no working compiler here; take update=eager, which computes the same.")
    return EagerUpdate


@cache
def _compiler_works() -> bool:
    try:
        torch.compile(lambda x: x * 2 + 1, dynamic=False)(torch.zeros(8))
    except Exception:  # whatever is missing (compiler, headers, backend), the eager update does the same
        return False
    return True
