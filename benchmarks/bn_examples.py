"""How many training examples do BatchNorm statistics need? Trained networks, statistics recomputed from few or all.

Points are taken along a trained Bézier curve and the straight segment between two modes. For every point the test loss
and accuracy with statistics from N training examples (several random subsets) are compared with those from the whole
training set; ``stale`` keeps the statistics of the first mode. Printed are the largest and the root-mean-square
difference over points and subsets.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from harness import Network, invocation, machine, networks, quieten

from mgraph.data.task import Task
from mgraph.evaluate.batchnorm import BatchNormPolicy, recompute_statistics
from mgraph.evaluate.metrics import measure
from mgraph.methods.base import Start
from mgraph.methods.curves.path import BezierCurve
from mgraph.network.flat import FlatModel, combine
from mgraph.progress import silent

COUNTS = (200, 500, 1000, 2000, 5000, 10000)


def values(flat: FlatModel, task: Task, policy: BatchNormPolicy | None) -> tuple[float, float]:
    if policy is not None:
        recompute_statistics(flat, task.train, policy)
    found = measure(flat, task, "test")
    return found["loss"].value, found["accuracy"].value


def compare(name: str, network: Network, subsets: int, points: int) -> None:
    task = network.task()
    flat = network.build(task)
    modes = network.modes(task, range(2))
    method = BezierCurve(epochs=network.epochs, batch_size=network.batch_size)
    family = method.family(2)
    P = method.run(flat, task, family, Start.between(family, modes), silent).control_points
    rows = [flat.pack(torch.from_numpy(np.array(row))) for row in P]
    where = [("curve", c) for c in family.coefficients(family.grid(points).points).tolist()]
    straight = np.array([[1 - t, 0, t] for t in np.linspace(0, 1, points)[1:-1]])
    where += [("segment", c) for c in straight.tolist()]
    available = len(task.train)
    whole = BatchNormPolicy.default(task.train, available)
    differences: dict[str, list[tuple[float, float]]] = {}
    combine(where[0][1], rows, flat.theta)
    recompute_statistics(flat, task.train, whole)
    own = [{k: v.clone() for k, v in m.state_dict().items()} for m in flat.statistics]
    reference_losses = []
    for _, c in where:
        combine(c, rows, flat.theta)
        for module, state in zip(flat.statistics, own, strict=True):
            module.load_state_dict({**module.state_dict(), **{k: state[k] for k in ("running_mean", "running_var")}})
        stale = values(flat, task, None)
        reference = values(flat, task, whole)
        reference_losses.append(reference[0])
        differences.setdefault("stale", []).append((stale[0] - reference[0], stale[1] - reference[1]))
        for count in (n for n in COUNTS if n < available):
            for seed in range(subsets):
                policy = BatchNormPolicy.default(task.train, count)
                found = values(flat, task, BatchNormPolicy(policy.examples, policy.batch_size, seed))
                differences.setdefault(str(count), []).append((found[0] - reference[0], found[1] - reference[1]))
    print(f"{name}: {len(where)} points with test losses {min(reference_losses):.3f} to {max(reference_losses):.3f}, ")
    print(
        f"statistics of reference from {whole.whole_batches * whole.batch_size} images, {subsets} subsets of each size"
    )
    print(f"{'examples':>9} {'max |d loss|':>13} {'rms d loss':>11} {'max |d acc|':>12} {'rms d acc':>10}")
    for label, found in differences.items():
        loss, accuracy = np.abs(np.array(found)).T
        print(
            f"{label:>9} {loss.max():>13.4f} {np.sqrt((loss**2).mean()):>11.4f} "
            f"{accuracy.max():>12.2%} {np.sqrt((accuracy**2).mean()):>10.2%}"
        )
    print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="cnn-bn-mnist,cnn-bn-cifar")
    parser.add_argument("--mnist", default="mnist.npz")
    parser.add_argument("--cifar10", default="cifar10.npz")
    parser.add_argument("--subsets", type=int, default=3)
    parser.add_argument("--points", type=int, default=5)
    options = parser.parse_args()
    quieten()
    print(f"{invocation()}\n{machine()}\n")
    known = networks(options.mnist, options.cifar10)
    for name in options.networks.split(","):
        compare(name, known[name], options.subsets, options.points)


if __name__ == "__main__":
    main()
