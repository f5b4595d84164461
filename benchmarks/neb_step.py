"""What a step of a nudged elastic band costs beside the forward and backward passes of its points.

For each network, a band of N points does everything of a step but the passes: pointing the network at every point,
clearing gradients, inner products, tangents, projected forces, momentum, weight decay, the update, and redistribution
or springs. Beside it the same done in a straightforward way, point by point and tensor by tensor: parameters copied
into the network and gradients copied out, sums of products for every pair that a tangent needs, forces as lists of
tensors. Both get the same losses and gradients, and end at the same points, which is checked. The two alternate in
short blocks.

Time is CPU time of the process, on one thread; a figure is the median over pairs of neighbouring blocks of the ratio
of the band to the loop, and half the distance between its quartiles. The aim: at most half.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from harness import invocation, machine, quieten
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from mgraph.architectures.loading import build_network
from mgraph.families import Floats
from mgraph.methods.neb.band import Band, BandRule
from mgraph.network.flat import FlatModel

LR, WEIGHT_DECAY, MOMENTUM = 1e-4, 1e-4, 0.9
AIM = 0.5

Tensors = list[Tensor]


@dataclass(frozen=True)
class Case:
    """A network, the shape of its images, and how many points the band has."""

    spec: str
    shape: tuple[int, int, int]
    points: int


CASES = {
    "cnn": Case("cnn", (1, 8, 8), 13),
    "lenet5": Case("lenet5", (1, 28, 28), 13),
    "mlp": Case("mlp?hidden=512,256", (1, 28, 28), 13),
    "resnet18": Case("torchvision:resnet18?stem=cifar", (3, 32, 32), 7),
}


class BandWithoutPasses(Band):
    """A band whose losses and gradients are given."""

    losses: Tensor
    given: Tensor

    def _gradients(self, x: Tensor, y: Tensor) -> Tensor:
        del x, y
        for i in range(len(self.points)):
            self._lanes.enter(i)
        return self.losses

    def _products(self, sides: NDArray[np.bool_]) -> tuple[Floats, Floats, Floats]:
        self._grad = self.given  # cleared by the first step: what the numbers are costs no time
        return super()._products(sides)


class Loop:
    """The same step, point by point and tensor by tensor."""

    def __init__(self, flat: FlatModel, points: Sequence[Tensor], losses: Sequence[float], spring: float | None):
        self.parameters = list(flat.module.parameters())
        shapes = [p.shape for p in self.parameters]
        self.points = [split(point, shapes) for point in points]
        self.momentum = [[torch.zeros_like(t) for t in point] for point in self.points]
        self.losses, self.spring = losses, spring
        lengths = [distance(a, b) for a, b in zip(self.points[:-1], self.points[1:], strict=True)]
        self.shares = np.cumsum(lengths)[:-1] / np.sum(lengths)

    def step(self, gradients: list[Tensors]) -> None:
        """Do one step with the gradients of all points."""
        if self.spring is None:
            self.redistribute()
        collected: list[Tensors] = []
        for i, point in enumerate(self.points):
            for parameter, tensor in zip(self.parameters, point, strict=True):
                parameter.data.copy_(tensor)
            collected.append([] if i in (0, len(self.points) - 1) else [g.clone() for g in gradients[i]])
        moved = []
        for i in range(1, len(self.points) - 1):
            gradient = [g + WEIGHT_DECAY * t for g, t in zip(collected[i], self.points[i], strict=True)]
            before = [a - b for a, b in zip(self.points[i], self.points[i - 1], strict=True)]
            after = [a - b for a, b in zip(self.points[i + 1], self.points[i], strict=True)]
            left, here, right = self.losses[i - 1 : i + 2]
            if left < here < right:
                tangent = after
            elif left > here > right:
                tangent = before
            else:
                larger = max(abs(left - here), abs(right - here))
                smaller = min(abs(left - here), abs(right - here))
                a, b = (smaller, larger) if right > left else (larger, smaller)
                tangent = [a * x + b * y for x, y in zip(before, after, strict=True)]
            length = dot(tangent, tangent) ** 0.5
            tangent = [t / length for t in tangent]
            along = dot(gradient, tangent)
            if self.spring is not None:
                along += self.spring * (dot(after, after) ** 0.5 - dot(before, before) ** 0.5)
            moved.append([g - along * t for g, t in zip(gradient, tangent, strict=True)])
        for i, force in enumerate(moved, start=1):
            for tensor, momentum, f in zip(self.points[i], self.momentum[i], force, strict=True):
                momentum.mul_(MOMENTUM).add_(f)
                tensor.add_(momentum, alpha=-LR)

    def redistribute(self) -> None:
        """Put the inner points back to their shares of the length."""
        lengths = [distance(a, b) for a, b in zip(self.points[:-1], self.points[1:], strict=True)]
        reached = np.concatenate([[0.0], np.cumsum(lengths)])
        placed = []
        for wanted in self.shares * reached[-1]:
            piece = min(int(np.searchsorted(reached, wanted, side="right")) - 1, len(lengths) - 1)
            along = (wanted - reached[piece]) / lengths[piece]
            pair = zip(self.points[piece], self.points[piece + 1], strict=True)
            placed.append([(1.0 - along) * a + along * b for a, b in pair])
        self.points[1:-1] = placed


def split(point: Tensor, shapes: Sequence[torch.Size]) -> Tensors:
    """Cut a canonical point into tensors."""
    parts = point.split([shape.numel() for shape in shapes])
    return [part.view(shape).clone() for part, shape in zip(parts, shapes, strict=True)]


def dot(left: Tensors, right: Tensors) -> float:
    return sum(float((a * b).sum()) for a, b in zip(left, right, strict=True))


def distance(left: Tensors, right: Tensors) -> float:
    return dot(*[[a - b for a, b in zip(left, right, strict=True)]] * 2) ** 0.5


def contenders(
    case: Case, spring: float | None
) -> tuple[Callable[[], None], Callable[[], None], Callable[[], float], int]:
    """Return a step of the band, one of the loop, how far apart their points are, relative to the loop's, and D."""
    generator = torch.Generator().manual_seed(0)
    flat, other = (FlatModel(build_network(case.spec, input_shape=case.shape, classes=10, seed=0)) for _ in range(2))
    n, size = case.points, flat.dimension
    ends = 0.05 * torch.randn(2, size, generator=generator)
    t = torch.linspace(0, 1, n)[:, None]
    points = (1 - t) * ends[0] + t * ends[1] + 0.002 * torch.randn(n, size, generator=generator)
    gradients = 1e-3 * torch.randn(n, size, generator=generator)
    losses = torch.rand(n, generator=generator)
    rule = BandRule(MOMENTUM, WEIGHT_DECAY, spring)
    band = BandWithoutPasses(flat, F.cross_entropy, torch.stack([flat.pack(p) for p in points]), rule=rule)
    band.losses = losses
    fresh = torch.stack([flat.pack(g) for g in gradients[1:-1]])
    band.given = fresh
    loop = Loop(other, points, losses.tolist(), spring)
    lists = [split(g, [p.shape for p in loop.parameters]) for g in gradients]
    nothing = torch.zeros(1)

    def by_band() -> None:
        band.step(nothing, nothing, LR)

    def by_loop() -> None:
        loop.step(lists)

    def apart() -> float:
        theirs = torch.stack([torch.cat([t.reshape(-1) for t in point]) for point in loop.points])
        ours = torch.stack([flat.unpack(row) for row in band.points])
        return float((ours - theirs).norm() / (theirs - points).norm())

    return by_band, by_loop, apart, size


def seconds(step: Callable[[], None], steps: int) -> float:
    began = time.process_time()
    for _ in range(steps):
        step()
    return (time.process_time() - began) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="cnn,lenet5,mlp", help=f"from {', '.join(CASES)}")
    parser.add_argument("--blocks", type=int, default=40)
    parser.add_argument("--block-seconds", type=float, default=0.05)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    quieten()
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("network", "N", "D", "kept apart by", "band ms", "loop ms", "band / loop", "aim"):
        table.add_column(column, justify="left" if column in ("network", "kept apart by") else "right")
    for name in options.networks.split(","):
        case = CASES[name]
        for spring, what in ((None, "redistribution"), (1.0, "springs")):
            by_band, by_loop, apart, size = contenders(case, spring)
            by_band()
            by_loop()
            if not apart() < 1e-3:
                raise RuntimeError(f"band and loop differ by {apart():.2g} after one step")
            steps = max(1, round(options.block_seconds / seconds(by_loop, 2)))
            pairs = [(seconds(by_band, steps), seconds(by_loop, steps)) for _ in range(options.blocks)]
            ratios = [a / b for a, b in pairs]
            low, middle, high = statistics.quantiles(ratios, n=4)
            table.add_row(
                name,
                str(case.points),
                str(size),
                what,
                f"{1e3 * statistics.median(a for a, _ in pairs):.2f}",
                f"{1e3 * statistics.median(b for _, b in pairs):.2f}",
                f"{middle:.3f} ±{(high - low) / 2:.3f}",
                f"{AIM:g} {'met' if middle <= AIM else 'missed'}",
            )
    console = Console(width=120, record=options.output is not None)
    console.print(f"{invocation()}\n{machine()}", highlight=False)
    console.print(table)
    if options.output is not None:
        text = "\n".join(line.rstrip() for line in console.export_text().splitlines())
        options.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
