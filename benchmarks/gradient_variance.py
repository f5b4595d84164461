"""How noisy the estimators of a surface's gradient are, early and late in its training.

Four modes are trained and the 3×3 surface between them, by the default method. Where it starts (early: the bilinear
surface) and where it ends (late), the gradient of its free control points is estimated again and again, each time from
another random batch and other parameter values: one value on the whole batch, the batch split between k values that
are drawn in one of three ways, and four values that each see the whole batch, which costs four passes instead of one.
All estimators see the same batches. The variance is the mean squared distance from the estimator's own mean; the table
has it relative to that of one value, with the standard error of that ratio by halves of the draws. With BatchNorm a
value normalises over the part of the batch that it sees, so that there the means differ, too; "mean" is the distance
of the estimator's mean from that of one value, relative to the length of the latter, and is mostly noise where the
network has no BatchNorm.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from harness import Network, invocation, machine, networks, quieten
from torch import Tensor

from mgraph.data.task import Task
from mgraph.methods.base import Start
from mgraph.methods.curves.surface import BezierSurface
from mgraph.network.flat import FlatModel
from mgraph.progress import silent
from mgraph.train.draws import draws, on_device
from mgraph.train.engine import PathOptions, PathTrainer
from mgraph.train.updates import UpdateRule

ESTIMATORS = {
    "k=1 iid": {"samples": 1, "draw": "iid", "batch": "whole"},
    **{
        f"split k={k} {draw}": {"samples": k, "draw": draw, "batch": "split"}
        for k in (2, 4, 8)
        for draw in ("stratified", "iid", "lattice")
    },
    "whole k=4 stratified": {"samples": 4, "batch": "whole"},
}
BASE = "k=1 iid"


def estimates(flat: FlatModel, task: Task, P: Tensor, method: BezierSurface, count: int, batch: int) -> Tensor:
    """Draw the gradient of the free rows so often; shape (count, F·T)."""
    (phase,), sampling = method.plan(method.family(4)), method.sampling()
    rows = P.clone()
    trainer = PathTrainer(
        flat, task.loss, rows, phase, rule=UpdateRule(momentum=0.0), options=PathOptions(sampling, update="eager")
    )
    coming = on_device(draws(phase, sampling, np.random.default_rng(1)), phase.free, rows)
    order = torch.Generator().manual_seed(2)
    found = []
    flat.module.train()
    for _ in range(count):
        x, y = task.train.examples(torch.randint(len(task.train), (batch,), generator=order))
        draw = next(coming)
        trainer.begin(draw)
        trainer.step(x, y, 1.0, draw, draw)  # moves by the gradient
        found.append((P - rows)[list(phase.free)].flatten())
        rows.copy_(P)
    trainer.finish()
    return torch.stack(found)


def variance(found: Tensor) -> float:
    """Return the mean squared distance from the mean."""
    return float((found - found.mean(0)).square().sum() / (len(found) - 1))


def table(name: str, network: Network, batch: int, count: int, epochs: int | None) -> None:
    task = network.task()
    flat = network.build(task)
    modes = network.modes(task, range(4))
    method = BezierSurface(batch_size=batch) if epochs is None else BezierSurface(batch_size=batch, epochs=epochs)
    family = method.family(4)
    start = Start.between(family, modes)
    ends = method.run(flat, task, family, start, silent).control_points
    stages = {"early": start.points(), "late": ends}
    for stage, points in stages.items():
        P = torch.stack([flat.pack(torch.from_numpy(np.array(row))) for row in points])
        base = None
        for label, changes in ESTIMATORS.items():
            chosen = BezierSurface(batch_size=batch, **changes)
            found = estimates(flat, task, P, chosen, count, batch)
            base = found if base is None else base
            ratio = variance(found) / variance(base)
            halves = [variance(found[i::2]) / variance(base[i::2]) for i in (0, 1)]
            error = abs(halves[0] - halves[1]) / 2
            mean = float((found.mean(0) - base.mean(0)).norm() / base.mean(0).norm())
            noise = (variance(base) ** 0.5) / float(base.mean(0).norm())
            shown = f"{noise:>10.2f}" if label == BASE else f"{'':>10}"
            print(
                f"{name:>8} {batch:>5} {stage:>5} {label:>20} {ratio:>8.3f} ±{error:.3f} {mean:>6.2f} {shown}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="mlp,cnn,cnn-bn,lenet5", help="names with commas")
    parser.add_argument("--batch", type=int, default=256, help="examples per step")
    parser.add_argument("--draws", type=int, default=200, help="estimates of each kind")
    parser.add_argument("--epochs", type=int, help="of the surface's training (default: the method's)")
    parser.add_argument("--mnist", default="mnist.npz")
    options = parser.parse_args()
    quieten()
    print(f"{invocation()}\n{machine()}\n")
    print("Variance relative to that of one value per batch; noise: its standard deviation over the mean's length.\n")
    print(f"{'network':>8} {'batch':>5} {'':>5} {'estimator':>20} {'variance':>15} {'mean':>6} {'noise':>10}")
    known = networks(options.mnist)
    for name in options.networks.split(","):
        table(name, known[name], options.batch, options.draws, options.epochs)


if __name__ == "__main__":
    main()
