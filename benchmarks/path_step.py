"""What a training step on a path costs beside a plain SGD step of the same network.

For each network and batch size, a plain step (the flat view of the network and torch's own fused SGD) alternates with
a step on a Bézier curve, on polygonal chains, and on Bézier surfaces of 3×3, 4×4 and 5×5 control points: by the engine
with its eager update, by the engine with the update that it chooses by itself, and, on the smallest curve and surface,
by a straightforward formulation, ``functional_call`` with autograd through all control points. One parameter value sees
the whole batch, or four values split it ("split 4"), which then is compared with one plain step on the whole batch. All
have the same batch, the same memory order and control points next to the plain weights, at a learning rate of 1e-6,
since the speed of ReLU and max-pooling depends on the values.

Time is CPU time of the process, on one thread, of blocks of steps; a figure is the median over pairs of neighbouring
blocks of the ratio to the plain step, and half the distance between its quartiles.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from harness import invocation, machine, quieten
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from mgraph.architectures.loading import build_network
from mgraph.families import BezierCurveFamily, BezierSurfaceFamily, Family, PolygonalChainFamily
from mgraph.network.flat import FlatModel
from mgraph.train.draws import draws, on_device
from mgraph.train.engine import PathOptions, PathTrainer
from mgraph.train.phases import Curve, Phase
from mgraph.train.sampling import Sampling
from mgraph.train.updates import UpdateRule

LR, MOMENTUM = 1e-6, 0.9

Step = Callable[[], None]


@dataclass(frozen=True)
class Network:
    """A network, the shape of its images, and whether the aims apply to it."""

    spec: str
    shape: tuple[int, int, int]
    convolutional: bool = True


NETWORKS = {
    "mlp": Network("mlp?hidden=512,256", (1, 28, 28), convolutional=False),
    "cnn-digits": Network("cnn", (1, 8, 8)),
    "lenet5": Network("lenet5", (1, 28, 28)),
    "cnn-cifar": Network("cnn?channels=32,64,128&hidden=256", (3, 32, 32)),
    "resnet18": Network("torchvision:resnet18?stem=cifar", (3, 32, 32)),
}


@dataclass(frozen=True)
class Shape:
    """What is trained, how many parameter values split a batch, and whether autograd is compared too."""

    family: Family
    samples: int = 1
    autograd: bool = False


SHAPES = {
    "curve K=3": Shape(BezierCurveFamily(1), autograd=True),
    "chain K=3": Shape(PolygonalChainFamily(1)),
    "chain K=5": Shape(PolygonalChainFamily(3)),
    "surface K=9": Shape(BezierSurfaceFamily((2, 2)), autograd=True),
    "surface K=16": Shape(BezierSurfaceFamily((3, 3))),
    "surface K=25": Shape(BezierSurfaceFamily((4, 4))),
    "curve K=3, split 4": Shape(BezierCurveFamily(1), samples=4),
    "surface K=9, split 4": Shape(BezierSurfaceFamily((2, 2)), samples=4),
}
# Of one parameter value per batch, by batch size and K, on convolutional networks.
AIMS = {(128, 3): 1.03, (128, 9): 1.05, (32, 3): 1.08, (32, 9): 1.20}


class Case:
    """One network and batch size: makes steps that start at the same weights."""

    def __init__(self, network: Network, batch: int) -> None:
        self.network = network
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(batch, *network.shape, generator=generator)
        self.y = torch.randint(10, (batch,), generator=generator)

    def module(self) -> nn.Module:
        """Build the network; always the same initial values."""
        return build_network(self.network.spec, input_shape=self.network.shape, classes=10, seed=0).train()

    def plain(self) -> Step:
        """Make an ordinary training step."""
        flat = FlatModel(self.module())
        point = nn.Parameter(flat.theta)
        point.grad = flat.grad
        optimiser = torch.optim.SGD([point], lr=LR, momentum=MOMENTUM, fused=True)

        def step() -> None:
            flat.grad.zero_()
            F.cross_entropy(flat.module(flat.inputs(self.x)), self.y).backward()
            optimiser.param_groups[0]["lr"] = LR
            optimiser.step()

        return step

    def path(self, shape: Shape, update: str) -> tuple[Step, str]:
        """Make a step of the engine; return it with the update that it uses."""
        flat = FlatModel(self.module())
        P = torch.stack([flat.pack(point) for point in nearby(flat.unpack(flat.theta), shape.family.size)])
        phase, sampling = whole(shape.family), Sampling(shape.samples, shape.samples > 1)
        rule = UpdateRule(momentum=MOMENTUM)
        trainer = PathTrainer(flat, F.cross_entropy, P, phase, rule=rule, options=PathOptions(sampling, update=update))
        coming = on_device(draws(phase, sampling, np.random.default_rng(0)), phase.free, P)
        upcoming = next(coming)
        trainer.begin(upcoming)

        def step() -> None:
            nonlocal upcoming
            current, upcoming = upcoming, next(coming)
            trainer.step(self.x, self.y, LR, current, upcoming)

        return step, trainer.update.name

    def autograd(self, family: Family) -> Step:
        """Make a step with autograd through the control points, parameter by parameter."""
        module, images = self.module(), self.x
        named = dict(module.named_parameters())
        convolutions = {name for name, p in named.items() if p.ndim == 4}
        if convolutions:
            images = images.contiguous(memory_format=torch.channels_last)
        rows: list[dict[str, Tensor]] = []
        theta = torch.cat([p.detach().reshape(-1) for p in named.values()])
        for k, point in enumerate(nearby(theta, family.size)):
            parts = point.split([p.numel() for p in named.values()])
            row = {name: part.view(p.shape) for (name, p), part in zip(named.items(), parts, strict=True)}
            for name in convolutions:
                row[name] = row[name].contiguous(memory_format=torch.channels_last)
            rows.append({name: t.clone().requires_grad_(k in family.free) for name, t in row.items()})
        free = [t for k in family.free for t in rows[k].values()]
        optimiser = torch.optim.SGD(free, lr=LR, momentum=MOMENTUM, fused=True)
        coming = samples_of(family)

        def step() -> None:
            c = next(coming)
            weights = {name: sum(ck * row[name] for ck, row in zip(c, rows, strict=True)) for name in named}
            optimiser.zero_grad()
            F.cross_entropy(functional_call(module, weights, (images,)), self.y).backward()
            optimiser.step()

        return step


def whole(family: Family) -> Phase:
    """Train all free rows, anywhere on the curve or surface."""
    return Phase("whole", 1, (Curve.whole(family),), family.free)


def samples_of(family: Family) -> Iterator[list[float]]:
    """Coefficients of one sample per step."""
    for coefficients, _ in draws(whole(family), Sampling(), np.random.default_rng(0)):
        yield from coefficients[:, 0].tolist()


def nearby(theta: Tensor, count: int) -> list[Tensor]:
    """Control points so close together that all steps see the same activations."""
    generator = torch.Generator().manual_seed(1)
    return [theta + 1e-5 * torch.randn(theta.shape, generator=generator) for _ in range(count)]


def cpu_time(step: Step, repetitions: int) -> float:
    begin = time.process_time()
    for _ in range(repetitions):
        step()
    return (time.process_time() - begin) / repetitions


@dataclass(frozen=True)
class Ratio:
    """The cost of a step as a multiple of the plain step's, and of the plain step itself in ms."""

    value: float
    spread: float
    plain: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ±{self.spread:.3f}"


def compare(plain: Step, other: Step, *, block: float, pairs: int) -> Ratio:
    """Alternate blocks of both steps, each of about ``block`` seconds; which goes first alternates too."""
    for _ in range(3):  # the first steps allocate and compile
        plain(), other()
    repetitions = max(1, round(block / cpu_time(plain, 2)))
    times: list[tuple[float, float]] = []
    gc.disable()
    for i in range(pairs):
        first, second = (plain, other) if i % 2 == 0 else (other, plain)
        pair = cpu_time(first, repetitions), cpu_time(second, repetitions)
        times.append(pair if i % 2 == 0 else pair[::-1])
    gc.enable()
    ratios = [b / a for a, b in times]
    low, _, high = statistics.quantiles(ratios, n=4)
    return Ratio(statistics.median(ratios), (high - low) / 2, 1e3 * statistics.median(a for a, _ in times))


def run(names: list[str], batches: list[int], shapes: list[str], *, quick: bool, progress: Console) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("network", "batch", "points", "plain ms", "engine, eager", "engine, auto", "autograd", "aim"):
        table.add_column(column, justify="left" if column in ("network", "points", "aim") else "right", no_wrap=True)
    for name in names:
        for batch in batches:
            case = Case(NETWORKS[name], batch)
            plain = case.plain()
            cost = min(cpu_time(plain, 1) for _ in range(3))
            pairs = 4 if quick else max(6, min(24, round(5 / cost)))
            for points in shapes:
                shape = SHAPES[points]
                options = {"block": 0.05 if quick else 0.15, "pairs": pairs}
                progress.print(f"{name}, batch {batch}, {points}", style="dim")
                eager = compare(plain, case.path(shape, "eager")[0], **options)
                step, kind = case.path(shape, "auto")
                auto = eager if kind == "eager" else compare(plain, step, **options)
                del step
                aim = None
                if shape.samples == 1 and case.network.convolutional:
                    aim = AIMS.get((batch, shape.family.size))
                table.add_row(
                    name,
                    str(batch),
                    points,
                    f"{eager.plain:.2f}",
                    str(eager),
                    "eager" if kind == "eager" else f"{auto} ({kind})",
                    str(compare(plain, case.autograd(shape.family), **options)) if shape.autograd else "",
                    "" if aim is None else f"{aim:.2f} {'met' if auto.value <= aim else 'missed'}",
                )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=",".join(NETWORKS), help="names with commas (default: %(default)s)")
    parser.add_argument("--batches", default="32,128", help="batch sizes with commas (default: %(default)s)")
    parser.add_argument(
        "--points", action="append", choices=SHAPES, metavar="POINTS", help=f"one of {'; '.join(SHAPES)}"
    )
    parser.add_argument("--quick", action="store_true", help="few repetitions: is it alive, not how fast")
    parser.add_argument("-o", "--output", type=Path, help="write the table to this file as well")
    arguments = parser.parse_args()
    names = arguments.networks.split(",")
    if unknown := [name for name in names if name not in NETWORKS]:
        parser.error(f"no network {unknown[0]!r}; known are {', '.join(NETWORKS)}")
    quieten()
    table = run(
        names,
        [int(b) for b in arguments.batches.split(",")],
        arguments.points or list(SHAPES),
        quick=arguments.quick,
        progress=Console(stderr=True),
    )
    notes = "Ratios of CPU time to a plain SGD step: median ± half the distance between the quartiles."
    streams = [Console(width=140)]
    if arguments.output:
        file = arguments.output.open("w")
        streams.append(Console(file=file, width=140))
    for console in streams:
        console.print(f"{invocation()}\n{machine()}\n{notes}", highlight=False)
        console.print(table)


if __name__ == "__main__":
    main()
