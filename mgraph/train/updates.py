"""The update of the free control points: rank one per sample, with the next points computed in the same pass.

For samples j with coefficients c_j and gradients g_j at θ_j = c_jᵀP, the gradient of row k is Σ_j w_j c_jk g_j. The
coefficients of the free rows, times the weights w, form the matrix *pull*, shape (F, n). SGD with momentum is then ``M
← μM + pull·(G + wd·Θ)``, ``P ← P - lr·M``, and the next points are ``Θ ← C'P``. *Eager* does this in a few BLAS calls,
*compiled* in one fused pass over memory (with rows as a list of tensors, since the compiler would copy slices of one
tensor whole). *Buffered* keeps the gradient of every free row and leaves the step to torch optimisers: AdamW, Muon,
Nesterov momentum, clipping, and, for a mode, any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from mgraph.errors import InputError
from mgraph.train.compiler import compiled
from mgraph.train.optimisers import Views, optimisers, parameters_of
from mgraph.train.settings import Optimisation, TrainSettings

# Below this many control-point scalars (K·D), compiling takes longer than it saves.
COMPILE_FROM = 4_000_000

# The most arrays that the fused pass traverses side by side: control points, momenta, and the samples' points and
# gradients. With more, it runs out of registers and prefetching and loses to library calls (at K = 20 by a quarter).
MOST_ARRAYS = 32

_MOST_SHAPES = 256  # combinations of rows, free rows, samples and columns in one process


@dataclass(frozen=True)
class UpdateRule:
    """The optimiser, its constants, and what weight decay acts on (the point, or the control points).

    The optimiser is sgd, adamw, muon, or a class of torch.optim with its ``options``. ``momentum`` is AdamW's β₁.
    ``clip`` bounds the norm of the gradient of all free control points together.
    """

    optimizer: str = "sgd"
    momentum: float = 0.9
    nesterov: bool = False
    beta2: float = 0.999
    weight_decay: float = 0.0
    decay: str = "point"
    clip: float | None = None
    options: tuple[str, ...] = ()
    decay_norms: bool = True  # whether one-dimensional tensors decay as well

    @classmethod
    def of(cls, how: Optimisation, decay: str = "point") -> UpdateRule:
        """Take the rule from the settings."""
        more = (how.optimizer_settings, how.decay_norms) if isinstance(how, TrainSettings) else ()
        return cls(how.optimizer, how.momentum, how.nesterov, how.beta2, how.weight_decay, decay, how.clip, *more)

    @property
    def is_plain(self) -> bool:
        """Whether momentum is its only state, so that gradients can be folded into it directly."""
        return self.optimizer == "sgd" and not self.nesterov and self.clip is None


class EagerUpdate:
    """A few library calls per step: fastest for small networks, and needs no compiler."""

    name = "eager"

    def __init__(
        self,
        P: Tensor,
        free: Sequence[int],
        theta: Tensor,
        grad: Tensor,
        rule: UpdateRule,
        views: Views | None = None,
    ) -> None:
        """Hold P, shape (K, T), and the momentum of the free rows, shape (F, T).

        Points are written to ``theta`` and gradients read from ``grad``, both of shape (n, T). ``views`` splits a row
        into its tensors, for optimisers that need them.
        """
        self._P, self._theta, self._grad, self._rule = P, theta, grad, rule
        self._free = list(free)
        self._M = torch.zeros(len(free), P.shape[1], dtype=P.dtype, device=P.device)
        self._free_rows = [P[k] for k in free]
        self._momentum_rows = list(self._M)
        first, count = self._free[0], len(self._free)
        contiguous = self._free == list(range(first, first + count))
        self._block = P[first : first + count] if contiguous else None
        self._decaying = None if rule.decay_norms or views is None else _decaying(P[0], views)

    def points(self, coefficients: Tensor) -> None:
        """Write Θ = CP into the lanes, for C of shape (n, K)."""
        torch.mm(coefficients, self._P, out=self._theta[: len(coefficients)])

    def accumulate(self, pull: Tensor, first: bool) -> None:
        """Fold the gradients in the lanes into what the step will use; the ``first`` call of a step starts afresh."""
        self._fold(self._M, pull, self._rule.momentum if first else 1.0)
        if first and self._rule.weight_decay and self._rule.decay == "control":
            torch._foreach_add_(self._momentum_rows, self._free_rows, alpha=self._rule.weight_decay)

    def apply(self, pull: Tensor, first: bool, lr: float, following: Tensor, stretch: Tensor | None = None) -> None:
        """Accumulate, move the free rows, and write the following points.

        ``stretch``, shape (F, K), times P is an additional part of the gradient of the free rows.
        """
        self.accumulate(pull, first)
        if stretch is not None:
            torch.addmm(self._M, stretch, self._P, out=self._M)
        self._move(lr)
        self.points(following)

    def state(self) -> dict[str, Tensor]:
        """Return, between two steps, what the next step depends on besides P."""
        return {"momentum": self._M}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore a state, after P and the points."""
        self._M.copy_(state["momentum"])

    def _fold(self, buffer: Tensor, pull: Tensor, keep: float) -> None:
        """Set ``buffer ← keep·buffer + pull·(G + wd·Θ)``."""
        n = pull.shape[1]
        grad = self._grad[:n]
        if self._decays_gradient:
            if self._decaying is None:
                grad.add_(self._theta[:n], alpha=self._rule.weight_decay)
            else:
                grad.addcmul_(self._theta[:n], self._decaying, value=self._rule.weight_decay)
        if n == 1:
            torch.addr(buffer, pull[:, 0], grad[0], beta=keep, out=buffer)
        else:
            torch.addmm(buffer, pull, grad, beta=keep, out=buffer)

    @property
    def _decays_gradient(self) -> bool:
        return self._rule.weight_decay > 0 and self._rule.decay == "point" and self._rule.optimizer == "sgd"

    def _move(self, lr: float) -> None:
        if self._block is not None:
            self._block.add_(self._M, alpha=-lr)
        else:
            torch._foreach_add_(self._free_rows, self._momentum_rows, alpha=-lr)


class CompiledUpdate(EagerUpdate):
    """The update and the next points, fused into one compiled pass at the limit of memory bandwidth."""

    name = "compiled"

    @override
    def apply(self, pull: Tensor, first: bool, lr: float, following: Tensor, stretch: Tensor | None = None) -> None:
        """Do all three in one pass."""
        assert stretch is None, "the fused pass has no room for a further part of the gradient"
        rule = self._rule
        on_point = rule.decay == "point"
        scalars = [
            rule.momentum if first else 1.0,
            lr,
            rule.weight_decay if on_point else 0.0,
            0.0 if on_point or not first else rule.weight_decay,
        ]
        # Beyond its limit on shapes (8 by default), torch would continue uncompiled, several times slower.
        with torch._dynamo.config.patch(recompile_limit=_MOST_SHAPES):
            _fused_pass()(
                list(self._P.unbind(0)),
                list(self._M.unbind(0)),
                self._free,
                list(self._grad[: pull.shape[1]].unbind(0)),
                list(self._theta[: max(pull.shape[1], len(following))].unbind(0)),
                pull,
                following,
                torch.tensor(scalars, dtype=self._P.dtype, device=self._P.device),
            )

    @override
    def state(self) -> dict[str, Tensor]:
        """Include the points, because this pass rounds them differently from :meth:`points`."""
        return super().state() | {"points": self._theta}

    @override
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore the points as well."""
        super().restore(state)
        self._theta.copy_(state["points"])


class BufferedUpdate(EagerUpdate):
    """Gradients of all free rows, clipped if requested, and a step of a torch optimiser with its moments per row.

    AdamW decouples weight decay: ``P_k ← P_k - lr·wd·Σ_j w_j c_jk θ_j`` on the point, ``- lr·wd·P_k`` on the control
    points.
    """

    name = "eager"

    def __init__(
        self,
        P: Tensor,
        free: Sequence[int],
        theta: Tensor,
        grad: Tensor,
        rule: UpdateRule,
        views: Views | None = None,
    ) -> None:
        """Hold P and the gradient of its free rows; the optimiser holds their moments."""
        super().__init__(P, free, theta, grad, rule, views)
        by_tensor = rule.optimizer not in ("sgd", "adamw")
        parameters = parameters_of(self._free_rows, self._momentum_rows, views if views and by_tensor else _whole)
        on_control = rule.weight_decay if rule.decay == "control" else 0.0
        self._optimizers: list[torch.optim.Optimizer]
        if rule.optimizer == "adamw":
            betas = (rule.momentum, rule.beta2)
            self._optimizers = [torch.optim.AdamW(parameters, betas=betas, weight_decay=on_control, fused=True)]
        elif rule.optimizer == "sgd":
            self._optimizers = [
                torch.optim.SGD(
                    parameters, momentum=rule.momentum, nesterov=rule.nesterov, weight_decay=on_control, fused=True
                )
            ]
        else:
            self._optimizers = optimisers(rule, parameters)
        decoupled = rule.optimizer in ("adamw", "muon")
        self._shrinks_point = decoupled and rule.weight_decay > 0 and rule.decay == "point"
        self._pulled = torch.zeros_like(self._M) if self._shrinks_point else None

    @override
    def accumulate(self, pull: Tensor, first: bool) -> None:
        """Add the gradients in the lanes to those of the rows."""
        self._fold(self._M, pull, 0.0 if first else 1.0)
        if self._pulled is not None:
            theta = self._theta[: pull.shape[1]]
            torch.addmm(self._pulled, pull, theta, beta=0.0 if first else 1.0, out=self._pulled)

    @override
    def state(self) -> dict[str, Tensor]:
        """Return the optimisers' moments and counters, parameter by parameter."""
        return {
            f"{number}.{parameter}.{name}": torch.as_tensor(value)
            for number, optimizer in enumerate(self._optimizers)
            for parameter, kept in optimizer.state_dict()["state"].items()
            for name, value in kept.items()
            if value is not None
        }

    @override
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Load them back into the optimisers."""
        found: list[dict[int, dict[str, Tensor]]] = [{} for _ in self._optimizers]
        for key, tensor in state.items():
            number, parameter, name = key.split(".", 2)
            found[int(number)].setdefault(int(parameter), {})[name] = tensor.clone()
        for optimizer, kept in zip(self._optimizers, found, strict=True):
            optimizer.load_state_dict(optimizer.state_dict() | {"state": kept})

    @override
    def _move(self, lr: float) -> None:
        rule = self._rule
        if rule.clip is not None:
            norm = torch.linalg.vector_norm(self._M)
            self._M.mul_(torch.clamp(rule.clip / (norm + 1e-6), max=1.0))
        if self._pulled is not None:
            if self._decaying is not None:
                self._pulled.mul_(self._decaying)
            torch._foreach_add_(self._free_rows, list(self._pulled), alpha=-lr * rule.weight_decay)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()


def _decaying(row: Tensor, views: Views) -> Tensor:
    """Return 1 in the columns of tensors with two or more dimensions, 0 in those of biases and norms, shape (T,)."""
    mask = torch.zeros_like(row)
    for tensor in views(mask).values():
        if tensor.ndim > 1:
            tensor.fill_(1.0)
    return mask


def _whole(row: Tensor) -> dict[str, Tensor]:
    return {"": row}


@cache
def _fused_pass() -> Any:
    def fused(
        rows: list[Tensor],
        momentum: list[Tensor],
        free: list[int],
        grads: list[Tensor],
        thetas: list[Tensor],
        pull: Tensor,
        following: Tensor,
        scalars: Tensor,
    ) -> None:
        keep, lr, on_point, on_control = scalars[0], scalars[1], scalars[2], scalars[3]
        felt = [g + on_point * theta for g, theta in zip(grads, thetas, strict=False)]
        moved = list(rows)
        for f, (M, k) in enumerate(zip(momentum, free, strict=True)):
            m = keep * M + on_control * rows[k]
            for j, g in enumerate(felt):
                m = m + pull[f, j] * g
            M.copy_(m)
            moved[k] = rows[k] - lr * m
        points = []
        for j in range(following.shape[0]):
            point = following[j, 0] * moved[0]
            for k in range(1, len(rows)):
                point = point + following[j, k] * moved[k]
            points.append(point)
        for k in free:
            rows[k].copy_(moved[k])
        for theta, point in zip(thetas, points, strict=False):
            theta.copy_(point)

    return compiled(fused, dynamic=False)


def choose_update(P: Tensor, choice: str, rule: UpdateRule, *, free: int = 0, samples: int = 0) -> type[EagerUpdate]:
    """Choose by rule and size: compiled if K·D is at least 4 million and a compiler works, else eager.

    ``free`` is the number of rows that move, ``samples`` the number of points per step: with too many arrays in one
    pass (K + free + 2·samples above 32) the update is eager as well.

    Raises InputError if compiled is requested although no compiler works or the rule is not plain SGD.
    """
    if not rule.is_plain:
        if choice == "compiled":
            raise InputError("update=compiled is for SGD without Nesterov momentum or clipping; take update=auto.")
        return BufferedUpdate
    crowded = len(P) + free + 2 * samples > MOST_ARRAYS
    if choice == "eager" or (choice == "auto" and (P.numel() < COMPILE_FROM or crowded)):
        return EagerUpdate
    if _compiler_works():
        return CompiledUpdate
    if choice == "compiled":
        raise InputError("torch.compile finds no working compiler here; take update=eager, which computes the same.")
    return EagerUpdate


@cache
def _compiler_works() -> bool:
    try:
        compiled(lambda x: x * 2 + 1, dynamic=False)(torch.zeros(8))
    except Exception:  # whatever is missing (compiler, headers, backend), the eager update gives the same result
        return False
    return True
