"""One CPU thread or all of them? Wall time of training steps, alternating, on an idle and on a busy machine.

Small networks gain little from a second thread, and lose much where another process uses the other core: the
threads of one step wait for each other. mgraph therefore trains and sweeps networks below a fixed number of
multiply-adds on one thread. Run: ``python benchmarks/threads.py [--steps 100]``
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import statistics
import time

import torch
from harness import invocation

from mgraph.architectures.loading import build_network
from mgraph.network.cost import multiply_adds
from mgraph.network.flat import FlatModel

NETWORKS = {
    "mlp on digits": ("mlp", (1, 8, 8)),
    "cnn on digits": ("cnn", (1, 8, 8)),
    "lenet5 on 28×28": ("lenet5", (1, 28, 28)),
    "cnn 32,64,128 on 32×32": ("cnn?channels=32,64,128&hidden=256", (3, 32, 32)),
}
BATCH = 64


def burn() -> None:
    """Keep one core busy."""
    while True:
        pass


def step_time(flat: FlatModel, x: torch.Tensor, y: torch.Tensor, steps: int) -> float:
    """Seconds of wall time per forward and backward pass."""
    start = time.perf_counter()
    for _ in range(steps):
        flat.grad.zero_()
        torch.nn.functional.cross_entropy(flat.module(flat.inputs(x)), y).backward()
    return (time.perf_counter() - start) / steps


def compare(flat: FlatModel, x: torch.Tensor, y: torch.Tensor, steps: int, rounds: int = 5) -> tuple[float, float]:
    """Median milliseconds per step with one thread, and with all, in turn."""
    times: dict[int, list[float]] = {1: [], os.cpu_count() or 1: []}
    for _ in range(rounds):
        for threads, measured in times.items():
            torch.set_num_threads(threads)
            step_time(flat, x, y, 3)
            measured.append(step_time(flat, x, y, steps) * 1e3)
    one, many = (statistics.median(measured) for measured in times.values())
    return one, many


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    cores = os.cpu_count() or 1
    print(f"{invocation()}\npython {platform.python_version()}, torch {torch.__version__}, {cores} cores, ", end="")
    print(f"batch {BATCH}; ms per step")
    print(f"{'network':>24} {'MFLOP/batch':>12} {'machine':>8} {'1 thread':>9} {f'{cores} threads':>10} {'ratio':>6}")
    for name, (spec, shape) in NETWORKS.items():
        flat = FlatModel(build_network(spec, input_shape=shape, classes=10, seed=0))
        work = 2 * multiply_adds(flat.module, torch.zeros(1, *shape)) * BATCH / 1e6
        x, y = torch.randn(BATCH, *shape), torch.arange(BATCH) % 10
        flat.module.train()
        for machine in ("idle", "busy"):
            other = multiprocessing.get_context("spawn").Process(target=burn, daemon=True)
            if machine == "busy":
                other.start()
                time.sleep(3)
            one, many = compare(flat, x, y, options.steps)
            if machine == "busy":
                other.kill()
            print(f"{name:>24} {work:>12.1f} {machine:>8} {one:>9.2f} {many:>10.2f} {many / one:>6.2f}", flush=True)


if __name__ == "__main__":
    main()
