"""First contact with a network: the probe on a task's own examples, and what the user is told."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from mgraph.calling import call, chosen
from mgraph.data.task import is_cross_entropy
from mgraph.errors import MGraphWarning
from mgraph.evaluate.metrics import check_metrics
from mgraph.fields import copied, numbers_in
from mgraph.network.probing.probe import Finding, Judged, probe
from mgraph.network.probing.untouched import random_states

if TYPE_CHECKING:
    from mgraph.data.splits import Batch
    from mgraph.data.task import Task

_EXAMPLES, _FEW = 8, 4
_LARGE = 1 << 16  # numbers in one input; for larger inputs fewer examples are used


class NetworkWarning(MGraphWarning):
    """A network does something that its user should know: see :class:`~mgraph.network.probing.probe.Finding`."""


def first_examples(task: Task, device: torch.device | str = "cpu") -> Batch:
    """Return the few training examples that networks are tried on, with labels that count; never views of the data."""
    count = min(_FEW if numbers_in(task.input_shape) > _LARGE else _EXAMPLES, len(task.train))
    return task.train.examples(torch.tensor(task.typical(count)), device=device)


def meet(module: nn.Module, twin: nn.Module, task: Task, *, arch: str, data: str, fresh: bool = True) -> list[Finding]:
    """Probe a network and its task's metrics against its ``twin``, built from another seed; both are changed.

    A ``fresh`` network must have a finite loss. Raises InputError for a network that cannot be handled, and for a
    metric of the task that does not accept its outputs.
    """
    device = next(module.parameters()).device
    x, y = first_examples(task, device)
    classes = task.classes if is_cross_entropy(task.loss) else None
    judged = Judged(task.loss, task.loss_name, task.example_loss, task.outputs, classes)
    found = probe(module, twin.to(device), copied(x), y, judged, arch=arch, data=data, finite=fresh)
    with random_states(module), torch.no_grad():
        check_metrics(task, *task.without_void(chosen(call(module.eval(), x), task.outputs), y))
    return found


def tell(findings: Sequence[Finding], *, stacklevel: int = 3) -> None:
    """Report each kind of finding once, as a NetworkWarning."""
    for finding in {f.kind: f for f in reversed(findings)}.values():
        warnings.warn(finding.text, NetworkWarning, stacklevel=stacklevel + 1)
