"""How long until a surface or curve is good: seconds to a mean loss on it, by what a training step samples.

Modes are trained; then the 3×3 surface between four of them, or the curve with one bend between two, by several
estimators of its gradient, everything else (SGD with momentum, batch, constant learning rate, the same for all unless
``--lrs`` names several, of which each takes its best) being equal. The clock (CPU seconds of one thread) stops while
the loss is measured: the mean train loss on a 5×5 grid, or on 13 points, over 500 fixed training images, with BatchNorm
statistics recomputed. The targets are shares of where it starts, straight: a fifth is reached early in training, while
the draw of the parameter is what blurs the gradient; a twentieth late, when the draw of the images does. "last" is the
loss where the run ended.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from harness import Network, invocation, machine, networks, quieten
from numpy.typing import NDArray

from mgraph.data.task import Task
from mgraph.evaluate.batchnorm import BatchNormPolicy
from mgraph.evaluate.metrics import Subset
from mgraph.evaluate.sweep import Measuring, sweep
from mgraph.methods.base import Start
from mgraph.methods.curves.path import BezierCurve
from mgraph.methods.curves.surface import BezierSurface
from mgraph.methods.curves.trained import TrainedMethod
from mgraph.network.flat import FlatModel
from mgraph.train.draws import draws, on_device
from mgraph.train.engine import PathOptions, PathTrainer
from mgraph.train.streams import Streams

CONTENDERS = {
    "ours": {},
    "split k=4 stratified": {"samples": 4},
    "split k=4 lattice": {"samples": 4, "draw": "lattice"},
    "split k=4 iid": {"samples": 4, "draw": "iid"},
    "split k=2 stratified": {"samples": 2},
    "split k=8 lattice": {"samples": 8, "draw": "lattice"},
    "whole k=1": {"samples": 1, "draw": "iid", "batch": "whole"},
    "whole k=4 stratified": {"samples": 4, "batch": "whole"},
    "whole k=80 iid": {"samples": 80, "draw": "iid", "batch": "whole"},
}
BASE = "whole k=1"
FAMILIES: dict[str, tuple[type[TrainedMethod], int, int]] = {
    "surface": (BezierSurface, 4, 5),
    "curve": (BezierCurve, 2, 13),
}
"""The method, how many modes it joins, and the points of its grid along each axis."""


@dataclass
class Race:
    """Modes of one network, ready to be joined again and again."""

    family: str
    network: Network
    task: Task
    flat: FlatModel
    modes: list[NDArray[np.float32]]

    @classmethod
    def of(cls, name: str, network: Network, seed: int) -> Race:
        """Train the modes."""
        task, ends = network.task(), FAMILIES[name][1]
        return cls(name, network, task, network.build(task), network.modes(task, range(seed, seed + ends)))

    def straight(self) -> list[torch.Tensor]:
        """Return the control points where training starts."""
        method, ends, _ = FAMILIES[self.family]
        points = Start.between(method().family(ends), self.modes).points()
        return [self.flat.pack(torch.from_numpy(row)) for row in points]

    def mean_loss(self, rows: list[torch.Tensor], examples: int = 500) -> float:
        """Return the mean train loss over the grid."""
        method, ends, grid = FAMILIES[self.family]
        family = method().family(ends)
        subset = Subset.random(len(self.task.train), examples)
        results = sweep(
            self.flat,
            self.task,
            rows,
            family.coefficients(family.grid(grid).points),
            how=Measuring(BatchNormPolicy.default(self.task.train, 500)),
            subsets={"train": subset},
        )
        return float(np.mean([point["train"]["loss"].value for point in results]))

    def run(self, method: TrainedMethod, target: float, limit: float, seed: int) -> list[tuple[float, float]]:
        """Train until the target or the limit in seconds; return (CPU seconds, mean loss) along the way."""
        family = method.family(len(self.modes))
        (phase,) = method.plan(family)
        streams = Streams.of(seed)
        flat, sampling = self.flat, method.sampling_for(self.flat, self.task)
        P = torch.stack(self.straight())
        trainer = PathTrainer(flat, self.task.loss, P, phase, options=PathOptions(sampling))
        coming = on_device(draws(phase, sampling, streams.draws), phase.free, P)
        curve, spent, next_look = [(0.0, self.mean_loss(list(P)))], 0.0, limit / 40
        upcoming = next(coming)
        trainer.begin(upcoming)
        flat.module.train()
        while True:
            order = torch.randperm(len(self.task.train), generator=streams.order)
            batches = self.task.train.batches(method.batch_size, order=order, drop_last=True)
            begin = time.process_time()
            for x, y in batches:
                current, upcoming = upcoming, next(coming)
                loss = trainer.step(x, y, method.lr, current, upcoming)
                if spent + time.process_time() - begin >= next_look:
                    spent += time.process_time() - begin
                    kept = flat.theta.clone(), trainer.lanes.theta.clone()
                    trainer.finish()
                    mean = self.mean_loss(list(P))
                    flat.theta.copy_(kept[0])
                    trainer.lanes.theta.copy_(kept[1])
                    flat.module.train()
                    curve.append((spent, mean))
                    next_look = spent * 1.2
                    if mean <= target or spent > limit or not torch.isfinite(loss):
                        trainer.finish()
                        return curve
                    begin = time.process_time()
            spent += time.process_time() - begin


def seconds_to(curve: list[tuple[float, float]], target: float) -> float | None:
    """Return when the target was crossed, interpolated between two looks in the logarithm of the loss."""
    for (t0, l0), (t1, l1) in pairwise(curve):
        if l1 <= target:
            return t0 + (t1 - t0) * (np.log(l0 / target) / np.log(l0 / l1)) if l0 > target else t0
    return None


def quickest(
    race: Race,
    changes: dict[str, Any],
    lrs: list[float],
    batch_size: int,
    targets: list[float],
    limit: float,
    seed: int,
) -> list[tuple[float, float, float, float]]:
    """For each target: seconds to it (or infinity), last loss, learning rate and seconds spent, at its best rate."""
    found: list[list[tuple[float, float, float, float]]] = [[] for _ in targets]
    for lr in lrs:
        method = FAMILIES[race.family][0](lr=lr, batch_size=batch_size, **changes)
        curve = race.run(method, min(targets), limit, seed)
        for target, runs in zip(targets, found, strict=True):
            reached = seconds_to(curve, target)
            runs.append((float("inf") if reached is None else reached, curve[-1][1], lr, curve[-1][0]))
    return [min(runs) for runs in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="cnn,cnn-bn")
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="names with commas")
    parser.add_argument("--lrs", default="0.1", help="learning rates with commas; each contender takes its best")
    parser.add_argument("--seeds", type=int, default=1, help="sets of four modes")
    parser.add_argument("--limit", type=float, default=20.0, help="CPU seconds at most, per run")
    parser.add_argument("--targets", default="0.2", help="shares of the mean loss at the start, with commas")
    parser.add_argument("--family", default="surface", choices=FAMILIES)
    parser.add_argument("--batch", type=int, help="examples per step (default: the network's)")
    parser.add_argument("--mnist", default="mnist.npz")
    options = parser.parse_args()
    quieten()
    known = networks(options.mnist)
    lrs = [float(lr) for lr in options.lrs.split(",")]
    print(f"{invocation()}\n{machine()}\n")
    heads = ("estimator", "lr", "target", "seconds", "x k=1", "last")
    widths = (22, 5, 7, 8, 6, 7)
    columns = " ".join(f"{head:>{width}}" for head, width in zip(heads, widths, strict=True))
    print(f"{'network':>14} {'seeds':>6} {columns}")
    for name in options.networks.split(","):
        network = known[name]
        for number in range(options.seeds):
            race = Race.of(options.family, network, 10 * number)
            start = race.mean_loss(race.straight())
            targets = [float(share) * start for share in options.targets.split(",")]
            times: dict[tuple[str, float], float] = {}
            chosen = sorted(options.contenders.split(","), key=lambda c: c != BASE)
            for contender in chosen:
                batch = options.batch or network.batch_size
                found = quickest(race, CONTENDERS[contender], lrs, batch, targets, options.limit, seed=number)
                for target, (seconds, last, lr, spent) in zip(targets, found, strict=True):
                    times[contender, target] = seconds
                    shown = f"{seconds:8.2f}" if np.isfinite(seconds) else f">{spent:7.1f}"
                    ratio = seconds / times.get((BASE, target), float("nan"))
                    seeds = f"{10 * number}+{len(race.modes) - 1}"
                    print(
                        f"{name:>14} {seeds:>6} {contender:>22} {lr:>5g} {target:>7.3f} {shown} "
                        f"{ratio:>6.2f} {last:>7.3f}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
