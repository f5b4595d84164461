"""How much faster is a sweep here than the plain way? A BatchNorm CNN on CIFAR-10, points of an 11×11 surface grid.

Plain: the network as torch makes it (contiguous, fp32), statistics of every point from the whole training set, train
loss on the whole training set. Ours: channels_last, statistics from this package's default number of examples, train
loss on a fixed subset (``--examples``); with ``bf16`` also in autocast. Some points of the grid are measured in both
ways in turn (CPU seconds of one thread), the rest would only repeat them.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from harness import invocation, machine, networks, quieten
from torch import Tensor, nn
from torch.nn import functional as F

from mgraph.architectures.loading import build_network
from mgraph.data.task import Task
from mgraph.evaluate.batchnorm import BatchNormPolicy
from mgraph.evaluate.metrics import Subset
from mgraph.evaluate.sweep import Measuring, sweep
from mgraph.methods.base import Start
from mgraph.methods.curves.surface import BezierSurface

_BATCH = 500


def plain(module: nn.Module, task: Task, train_loss: bool) -> tuple[float, float]:
    """Measure test and train loss as a script would: every image, in batches, nothing arranged."""

    def mean_loss(split: str) -> float:
        total = 0.0
        for x, y in getattr(task, split).batches(_BATCH):
            total += float(F.cross_entropy(module(x), y, reduction="sum"))
        return total / len(getattr(task, split))

    with torch.no_grad():
        for m in module.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.reset_running_stats()
                m.momentum = None
        module.train()
        for x, _ in task.train.batches(_BATCH):
            module(x)
        module.eval()
        return mean_loss("test"), mean_loss("train") if train_loss else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="cnn-bn-cifar")
    parser.add_argument("--mnist", default="mnist.npz")
    parser.add_argument("--cifar10", default="cifar10.npz")
    parser.add_argument("--points", type=int, default=9)
    parser.add_argument("--examples", type=int, default=10000, help="training images for the train loss")
    options = parser.parse_args()
    quieten()
    network = networks(options.mnist, options.cifar10)[options.network]
    task = network.task()
    flat = network.build(task)
    family = BezierSurface().family(4)
    P = Start.between(family, network.modes(task, range(4))).points()
    rows = [flat.pack(torch.from_numpy(row)) for row in P]
    grid = family.coefficients(family.grid(11).points)
    chosen = grid[np.linspace(0, len(grid) - 1, options.points).round().astype(int)]
    module = build_network(network.arch, input_shape=task.input_shape, classes=task.classes, seed=0)
    policy = BatchNormPolicy.default(len(task.train))
    ways = {"plain": None, "ours": "fp32", "ours, bf16": "bf16"}
    seconds = {(way, full): 0.0 for way in ways for full in (False, True)}
    losses: dict[tuple[str, bool], list[tuple[float, float]]] = {key: [] for key in seconds}
    for c in chosen:
        for full in (False, True):
            splits = {"test": Subset()} | ({"train": Subset.random(len(task.train), options.examples)} if full else {})
            for way, precision in ways.items():
                if precision is None:
                    point = torch.from_numpy(np.asarray(c @ P, np.float32))
                    _load(module, point)
                begin = time.process_time()
                if precision is None:
                    found = plain(module, task, full)
                else:
                    how = Measuring(policy, precision=precision)
                    (result,) = sweep(flat, task, rows, c[None], how=how, subsets=splits)
                    found = tuple(result[s]["loss"].value if s in result else float("nan") for s in ("test", "train"))
                seconds[way, full] += time.process_time() - begin
                losses[way, full].append(found)
    print(f"{invocation()}\n{machine()}\n")
    print(
        f"{options.points} of 121 points, {len(task.train)} train and {len(task.test)} test images, BatchNorm {policy}"
    )
    print(f"{'measured':>22} {'way':>12} {'s a point':>10} {'times faster':>13} ", end="")
    print(f"{'max |d test|':>13} {'max |d train|':>14}")
    for full in (False, True):
        what = "test and train loss" if full else "test loss"
        reference = np.array(losses["plain", full])
        for way in ways:
            difference = np.abs(np.array(losses[way, full]) - reference).max(axis=0)
            ratio = seconds["plain", full] / seconds[way, full]
            train = f"{difference[1]:>14.4f}" if full else ""
            each = seconds[way, full] / len(chosen)
            print(f"{what:>22} {way:>12} {each:>10.2f} {ratio:>13.1f} {difference[0]:>13.4f} {train}")


def _load(module: nn.Module, point: Tensor) -> None:
    torch.nn.utils.vector_to_parameters(point, module.parameters())


if __name__ == "__main__":
    main()
