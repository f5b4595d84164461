"""Metrics of one point: means over examples with their standard errors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mgraph.data.splits import Split
from mgraph.data.task import Task
from mgraph.network.flat import FlatModel

SPLITS = ("train", "valid", "test")
_BATCH = 1000


@dataclass(frozen=True)
class Measured:
    """A mean over ``count`` examples; its standard error, if single examples were seen."""

    value: float
    standard_error: float | None
    count: int

    @classmethod
    def of(cls, values: Tensor) -> Measured:
        """Average per-example values, shape (N,), in float64."""
        values = values.double()
        error = float(values.std(correction=1)) / len(values) ** 0.5 if len(values) > 1 else None
        return cls(float(values.mean()), error, len(values))


@dataclass(frozen=True)
class Subset:
    """Which examples of a split were used; ``name`` is 'all' or a hash of their indices."""

    name: str = "all"
    order: Tensor | None = None

    @classmethod
    def random(cls, available: int, examples: int | None, seed: int = 0) -> Subset:
        """Take a fixed random subset, sorted; all examples if None or more than there are."""
        if examples is None or examples >= available:
            return cls()
        order = torch.randperm(available, generator=torch.Generator().manual_seed(seed))[:examples]
        order = order.sort().values
        return cls(hashlib.blake2b(order.numpy().tobytes(), digest_size=8).hexdigest(), order)


def outputs(flat: FlatModel, split: Split, subset: Subset | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (outputs, targets) by batches at the present θ and statistics, in eval mode, without gradients."""
    flat.module.eval()
    order = subset.order if subset else None
    with torch.no_grad():
        for x, y in split.batches(_BATCH, order=order, device=flat.device):
            yield flat.module(flat.inputs(x)), y


def measure(flat: FlatModel, task: Task, split: str, subset: Subset | None = None) -> dict[str, Measured]:
    """Measure the task's loss and every metric of the point on a split (train, valid or test).

    Non-finite values are returned as they are: whoever stores or compares them must see them.
    """
    losses: list[Tensor] = []
    values: dict[str, list[Tensor]] = {name: [] for name in task.metrics}
    sizes: list[int] = []
    for out, y in outputs(flat, getattr(task, split), subset):
        sizes.append(len(y))
        losses.append((task.example_loss or task.loss)(out, y).double().cpu())
        for name, metric in task.metrics.items():
            values[name].append(metric(out, y).double().cpu())
    if task.example_loss is not None:
        loss = Measured.of(torch.cat(losses))
    else:  # only batch means are known: weigh them by size, and claim no standard error
        total = sum(sizes)
        mean = sum(n * float(batch) for n, batch in zip(sizes, losses, strict=True)) / total
        loss = Measured(mean, None, total)
    return {"loss": loss} | {name: Measured.of(torch.cat(parts)) for name, parts in values.items()}
