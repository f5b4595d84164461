"""What an experiment will cost: counted work, times the speed of a second's measurement here, or of a GPU by its data
sheet."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from mgraph.architectures.loading import build_network
from mgraph.durations import spoken
from mgraph.network.precision import check_precision, computing_in
from mgraph.report.sizes import size_of
from mgraph.repro.data import DATA, DataSet
from mgraph.repro.experiment import Net, Row
from mgraph.repro.steps import Size, Step, Train, Work

if TYPE_CHECKING:
    from mgraph.repro.lab import Lab

FP32 = "fp32"
"""The precision in which everything is measured."""

SECONDS = 1.0
"""Time spent on measuring the speed of one network."""

BACKWARD = 3.0
"""Cost of a forward and backward pass, in forward passes."""

H200_PEAK = 494.5e12
"""FLOP/s of an H200 (SXM) in TF32 without sparsity, by NVIDIA's data sheet."""

H200_SHARE = 0.1
"""Share of that peak which is assumed: small images keep a GPU far from it. It has not been measured."""

_MEASURED_AT_ONCE = 500  # examples of a pass that only measures

H200_PASS = 2e-3
"""Seconds that a pass over a batch is assumed to take at least, because hundreds of kernels are started for it."""


@dataclass(frozen=True)
class Cost:
    """Seconds, bytes, and what they rest on."""

    seconds: float = 0.0
    nbytes: float = 0.0
    at_most: bool = False

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.seconds + other.seconds, self.nbytes + other.nbytes, self.at_most or other.at_most)

    @override
    def __str__(self) -> str:
        most = "at most " if self.at_most else "about "
        return f"{most}{spoken(max(self.seconds, 0.1))}, {self.nbytes / 1e6:.3g} MB"


class Speed:
    """How long work takes, by network."""

    basis: str

    def seconds(self, net: Net, work: Work, batch_size: int) -> float:
        """Return the seconds of some work."""
        raise NotImplementedError


class MeasuredHere(Speed):
    """The speed on a device of this machine, measured on the network itself for a second."""

    def __init__(
        self, device: str, threads: int | None = None, seconds: float = SECONDS, precision: str = FP32
    ) -> None:
        self._device, self._seconds, self._threads, self._precision = torch.device(device), seconds, threads, precision
        check_precision(precision, self._device)
        self._known: dict[tuple[str, str, int, str], float] = {}
        trained = "" if precision == FP32 else f", trained in {precision}"
        self.basis = f"counted passes × the speed of each network, measured for {seconds:g} s on {device}{trained}"

    @override
    def seconds(self, net: Net, work: Work, batch_size: int) -> float:
        key = (net.arch, net.data, batch_size)
        for precision in {FP32, self._precision}:
            if (*key, precision) not in self._known:
                self._known[*key, precision] = self._measure(net, batch_size, precision)
        measured = work.forward / BACKWARD * self._known[*key, FP32]
        return measured + (work.trained * self._known[*key, self._precision] if work.trained else 0)

    def _measure(self, net: Net, batch_size: int, precision: str) -> float:
        """Return the seconds that one example takes, forward and backward."""
        before = torch.get_num_threads()
        torch.set_num_threads(self._threads or before)
        try:
            module, x, y = _probe(net, batch_size, self._device)
            with computing_in(precision, self._device):
                _pass(module, x, y)  # the first one allocates
                begin, done = time.perf_counter(), 0
                while done == 0 or time.perf_counter() - begin < self._seconds:
                    _pass(module, x, y)
                    done += 1
            return (time.perf_counter() - begin) / done / batch_size
        finally:
            torch.set_num_threads(before)


class OfH200(Speed):
    """An H200, by its data sheet."""

    def __init__(self) -> None:
        self.basis = (
            f"2 FLOP for each of the counted multiply-adds, 3 times as many for a forward and backward pass, at "
            f"{100 * H200_SHARE:g} % of {H200_PEAK / 1e12:g} TFLOP/s, an H200's peak in TF32 without sparsity, and at "
            f"least {1000 * H200_PASS:g} ms for every batch (both are assumptions: no such run has been made)"
        )

    @override
    def seconds(self, net: Net, work: Work, batch_size: int) -> float:
        forward = work.forward + BACKWARD * work.trained
        batches = work.trained / batch_size + work.forward / _MEASURED_AT_ONCE
        return max(2 * _counted(net)[1] * forward / (H200_SHARE * H200_PEAK), batches * H200_PASS)


def cost_of(
    lab: Lab | None, rows: Iterable[Row], scale: str, speed: Speed, seen: set[str] | None = None, places: int = 1
) -> Cost:
    """Return what the steps of some rows cost that are neither in the graph nor among those ``seen``, which grows.

    With ``places``, so many workers share the trainings and connections, each as fast as this machine.
    """
    seen = set() if seen is None else seen
    total = Cost()
    for step in steps_of(rows, scale):
        if step.name in seen:
            continue
        seen.add(step.name)
        if lab is not None and lab.exists and _is_there(lab, step):
            continue
        cost = cost_of_step(step, speed)
        total += replace(cost, seconds=cost.seconds / places) if step.shared else cost
    return total


def cost_of_step(step: Step, speed: Speed) -> Cost:
    """Return what a step costs."""
    work = step.work(_size(step.net))
    return Cost(speed.seconds(step.net, work, _batch(step.net)), work.nbytes, work.at_most)


def steps_of(rows: Iterable[Row], scale: str) -> list[Step]:
    """List the steps of rows at a scale, each once."""
    found: dict[str, Step] = {}
    for row in rows:
        for trial in row.trials(scale):
            for step in row.steps(trial):
                found.setdefault(step.name, step)
    return list(found.values())


def _is_there(lab: Lab, step: Step) -> bool:
    return all(lab.known(name) is not None for name in step.makes)


def _batch(net: Net) -> int:
    settings: Any = Train.of(net, "probe", 0).settings
    return int(settings.batch_size)


def _size(net: Net) -> Size:
    data, (parameters, _, batchnorm) = DATA[net.data], _counted(net)
    train, valid = data.train, data.valid
    if net.limit is not None:
        valid = net.limit // 10
        train = net.limit - valid
    return Size(parameters, train, valid, data.test, batchnorm)


def _counted(net: Net) -> tuple[int, int, bool]:
    return _count(net.arch, net.data)


@cache
def _count(arch: str, data: str) -> tuple[int, int, bool]:
    """Return parameters, multiply-adds of an example, and whether there is BatchNorm."""
    of = DATA[data]
    if arch.partition("?")[0] == "toy":
        return 2, 1, False
    size = size_of(arch, input_shape=of.shape, classes=of.classes)
    with torch.device("meta"):
        module = build_network(arch, input_shape=of.shape, classes=of.classes, seed=0)
    return (
        size.parameters,
        size.multiply_adds,
        any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in module.modules()),
    )


def _probe(net: Net, batch_size: int, device: torch.device) -> tuple[nn.Module, Tensor, Tensor]:
    of: DataSet = DATA[net.data]
    module = build_network(net.arch, input_shape=of.shape, classes=of.classes, seed=0).to(device).train()
    if any(isinstance(m, nn.Conv2d) for m in module.modules()):
        module = module.to(memory_format=torch.channels_last)
    labels = torch.zeros(batch_size, dtype=torch.int64, device=device)
    if of.tokens and net.data != "toy":
        return module, torch.zeros(batch_size, *of.shape, dtype=torch.int64, device=device), labels
    x = torch.randn(batch_size, *of.shape, device=device)
    return module, x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x, labels


def _pass(module: nn.Module, x: Tensor, y: Tensor) -> None:
    """Make one forward and backward pass over a batch, and wait for it."""
    out = module(x)
    loss = out.float().mean() if out.ndim != 2 or out.shape[1] == 1 else nn.functional.cross_entropy(out.float(), y)
    loss.backward()
    float(loss.detach())
