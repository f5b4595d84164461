"""Measure metrics one batch at a time: what is kept between batches, and the result at the end.

For a metric of examples, one float64 per example is kept for the standard error; for one with running sums, the sums;
for a ``torchmetrics.Metric``, its own state. Only a function that needs a whole split at once keeps the outputs, on the
CPU and in their own type, and is refused if these would take more than 4 GiB.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from mgraph.data.metrics import of_torchmetrics
from mgraph.errors import InputError, MGraphError
from mgraph.fields import Fields, examples_in, joined, over, tensors_of
from mgraph.metric import Metric

WHOLE_BYTES = 4 << 30
"""The most memory for a split's outputs and targets, kept for a function that needs all of them at once."""


@dataclass(frozen=True)
class Measured:
    """A mean over ``count`` examples, with its standard error if single examples were seen.

    The standard error is s/√count: that of the mean as an estimate for data like these. It is not corrected for the
    size of the split, so a subset's mean is closer to the whole split's than it suggests.
    """

    value: float
    standard_error: float | None
    count: int

    @classmethod
    def of(cls, values: Tensor, weights: Tensor | None = None) -> Measured:
        """Average per-example values, shape (N,), in float64, weighted by ``weights``, shape (N,), if given.

        The standard error of a weighted mean m is that of a ratio: √(n/(n-1) Σ w²(v - m)²) / Σ w.
        """
        values = values.double()
        if weights is not None and not bool((weights == weights[:1]).all()):
            w = weights.double()
            mean = (w * values).sum() / w.sum()
            spread = (w * (values - mean)).square().sum()
            n = len(values)
            return cls(float(mean), float((spread * n / (n - 1)).sqrt() / w.sum()) if n > 1 else None, n)
        error = float(values.std(correction=1)) / len(values) ** 0.5 if len(values) > 1 else None
        return cls(float(values.mean()), error, len(values))


class Running(Protocol):
    """A metric in the course of being measured on a split."""

    def add(self, out: Any, y: Fields) -> None:
        """Add a batch: outputs and targets of at least one example."""

    def result(self) -> Measured:
        """Return the value over all batches, possibly non-finite; raise InputError if there is none."""

    def examples(self) -> Tensor | None:
        """Return the value of each example, shape (N,) in float64; None if examples have none.

        If examples count differently, each value is scaled so that their plain mean is the metric.
        """


def start(metric: Metric, examples: int) -> Running:
    """Begin to measure a metric on a split of ``examples`` examples."""
    if of_torchmetrics(metric.function):
        return _TorchMetrics(metric)
    if metric.compute is not None:
        return _Sums(metric)
    return _Function(metric, examples)


def weights_of(weigh: Callable[[Any], Any], y: Fields) -> Tensor:
    """Return how much each example counts, shape (N,) in float64; raise InputError if the result is not that."""
    weights = torch.as_tensor(weigh(y)).detach().double().cpu()
    if tuple(weights.shape) != (examples_in(y),) or not bool((torch.isfinite(weights) & (weights >= 0)).all()):
        raise InputError(
            f"The weights of examples must be one finite number ≥ 0 for each, shape [{examples_in(y)}] here, not "
            f"{weights.dtype} of shape {list(weights.shape)}."
        )
    return weights


def scaled(values: Tensor, weights: Tensor | None) -> Tensor:
    """Scale per-example values, shape (N,), so that their plain mean is the weighted one."""
    return values if weights is None or not len(values) else values * (weights * (len(values) / weights.sum()))


class _Function:
    """A function whose first batch shows whether it gives one value per example; otherwise it needs all of them."""

    def __init__(self, metric: Metric, examples: int) -> None:
        self._metric, self._examples = metric, examples
        self._values: list[Tensor] = []
        self._weights: list[Tensor] = []
        self._whole: list[tuple[Fields, Fields]] | None = [] if metric.whole else None
        self._failed: Exception | None = None

    def add(self, out: Any, y: Fields) -> None:
        if self._whole is None:
            try:
                values = _called(self._metric.name, self._metric.function, out, y)
            except _UsersError as error:
                if self._values or examples_in(y) == self._examples:
                    raise
                self._failed, values = error, torch.zeros(())  # perhaps it accepts only a whole split
            if values.ndim or examples_in(y) == 1:
                self._values.append(_of_examples(self._metric.name, values, y).double().cpu())
                if self._metric.weights is not None:
                    self._weights.append(weights_of(self._metric.weights, y))
                return
            if self._values:
                raise InputError(
                    f"The metric {self._metric.name} returned one number for some batches and one for each example "
                    "for others; it must always return the same."
                )
            self._whole = []
        self._keep(out, y)

    def _keep(self, out: Any, y: Fields) -> None:
        assert self._whole is not None
        per_example = sum(t.nbytes for part in (out, y) for t in tensors_of(part)) / examples_in(y)
        if per_example * self._examples > WHOLE_BYTES:
            if self._failed is not None:
                raise self._failed
            raise InputError(
                f"The metric {self._metric.name} needs the outputs of a whole split at once, which are "
                f"{per_example * self._examples / 2**30:.1f} GiB, more than {WHOLE_BYTES / 2**30:g}: return one value "
                "for each example, or running sums: mgraph.Metric(name, function, compute=…)."
            )
        self._whole.append((over(Tensor.cpu, out), over(Tensor.cpu, y)))

    def result(self) -> Measured:
        if self._whole is None:
            return Measured.of(_joined(self._values), torch.cat(self._weights) if self._weights else None)
        out, y = map(joined, zip(*self._whole, strict=True)) if self._whole else 2 * (_NONE,)
        values = _called(self._metric.name, self._metric.function, out, y)
        if values.ndim == 0:
            return Measured(float(values), None, examples_in(y))
        return Measured.of(_of_examples(self._metric.name, values, y).cpu())

    def examples(self) -> Tensor | None:
        if self._whole is not None:
            return None
        return scaled(_joined(self._values), torch.cat(self._weights) if self._weights else None)


class _Sums:
    """Running sums, in float64 if they are floats."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self._sums: list[Tensor] | None = None
        self._count = 0

    def add(self, out: Any, y: Fields) -> None:
        name = self._metric.name
        found = _guarded(name, self._metric.function, out, y)
        parts = found if isinstance(found, tuple | list) else (found,)
        new = [_guarded(name, _summand, part) for part in parts]
        before = self._sums or [torch.zeros_like(part) for part in new]
        if [part.shape for part in new] != [part.shape for part in before]:
            raise InputError(f"The metric {name} must return the same running sums for every batch.")
        self._sums = [a + b for a, b in zip(before, new, strict=True)]
        self._count += examples_in(y)

    def result(self) -> Measured:
        value = _guarded(self._metric.name, self._metric.compute, *(self._sums or ()))
        return Measured(_one_number(self._metric.name, value), None, self._count)

    def examples(self) -> Tensor | None:
        return None


class _TorchMetrics:
    """A torchmetrics object or class; an object is copied, so that the original stays unchanged."""

    def __init__(self, metric: Metric) -> None:
        self._name = metric.name
        given: Any = metric.function
        self._state = _guarded(self._name, given) if isinstance(given, type) else copy.deepcopy(given)
        self._state.reset()
        self._count = 0
        self._labels = type(self._state).__module__.startswith("torchmetrics.classification")

    def add(self, out: Any, y: Fields) -> None:
        if self._labels and isinstance(y, Tensor) and y.is_floating_point() and bool((y == y.round()).all()):
            y = y.long()  # several labels per example: floats for losses, but integers for torchmetrics
        if not self._count:
            self._state.to(tensors_of(y)[0].device)
        _guarded(self._name, self._state.update, out, y)
        self._count += examples_in(y)

    def result(self) -> Measured:
        return Measured(_one_number(self._name, _guarded(self._name, self._state.compute)), None, self._count)

    def examples(self) -> Tensor | None:
        return None


_NONE = torch.zeros(0)


class _UsersError(InputError):
    """The metric's own code failed."""


def _guarded(name: str, function: Callable[..., Any] | None, *arguments: Any) -> Any:
    assert function is not None, f"the metric {name} is known only by name"
    try:
        return function(*arguments)
    except MGraphError:
        raise
    except Exception as error:  # the user's own code
        raise _UsersError(f"The metric {name} failed: {type(error).__name__}: {error}.") from error


def _called(name: str, function: Callable[..., Any] | None, out: Any, y: Fields) -> Tensor:
    """Call a function on some outputs and targets; raise InputError for complex numbers or a non-tensor."""
    values: Tensor = _guarded(name, lambda: torch.as_tensor(_guarded(name, function, out, y)))
    return values if values.ndim == 0 and not values.is_complex() else _of_examples(name, values, y)


def _of_examples(name: str, values: Tensor, y: Fields) -> Tensor:
    if values.is_complex() or (values.ndim and tuple(values.shape) != (examples_in(y),)):
        raise InputError(
            f"The metric {name} returned {values.dtype} of shape {list(values.shape)} for {examples_in(y)} examples; "
            "it must return one real number, or one for each example."
        )
    return values.reshape(examples_in(y))


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if parts else _NONE.double()


def _summand(part: Any) -> Tensor:
    tensor = torch.as_tensor(part).detach().cpu()
    return tensor.double() if tensor.is_floating_point() else tensor.to(torch.int64)


def _one_number(name: str, value: Any) -> float:
    number = _guarded(name, torch.as_tensor, value)
    if number.numel() != 1 or number.is_complex():
        raise InputError(
            f"The metric {name} gives {number.dtype} of shape {list(number.shape)} for a split; it must give one real "
            "number (an average over the classes, say)."
        )
    return float(number)
