"""What a tick of LLPF costs beyond its forward and backward passes, against a straightforward loop over the tensors.

Both do the same tick on the same numbers: distances by layer, Move, VarianceCorrection, five SGD updates from gradients
that are there already, VarianceCorrection, distances; ours also keeps the point, so that a tick can be taken back. The
loop is what one writes by hand: a Python loop over named tensors, ``x - mean`` and ``var`` of each. The aim is at most
half of its time. "pass" is one forward and backward pass at batch 64, for scale (a tick does five at least). CPU time,
median of ratios of neighbours.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from harness import invocation, machine, quieten
from torch import Tensor, nn
from torch.nn import functional as F

from mgraph.architectures.loading import build_network
from mgraph.methods.llpf.legs import TickPhase, TowardsMode, Units
from mgraph.methods.llpf.walk_settings import WalkSettings
from mgraph.network.flat import FlatModel
from mgraph.network.order import execution_order

SHAPES = {
    "mlp": ("mlp", (1, 8, 8)),
    "cnn-bn": ("cnn?bn=true", (1, 8, 8)),
    "lenet5": ("lenet5", (1, 28, 28)),
    "resnet18": ("torchvision:resnet18?stem=cifar", (3, 32, 32)),
}
ITERATIONS = 5
HOW = WalkSettings(step_a=1e-6, step_f=0.0, lr=1e-9)  # nothing gets anywhere, so that every tick costs the same


def flat_network(name: str, seed: int) -> FlatModel:
    arch, shape = SHAPES[name]
    flat = FlatModel(build_network(arch, input_shape=shape, classes=10, seed=seed, base=Path.cwd()))
    # As if trained: no two tensors are alike, those of normalisations included.
    flat.theta.add_(torch.randn(flat.size, generator=torch.Generator().manual_seed(seed)), alpha=0.01)
    return flat


def fused(name: str) -> Callable[[], None]:
    """Make this package's tick."""
    flat, other = flat_network(name, 0), flat_network(name, 1)
    traced, idle = execution_order(flat.module, torch.zeros(2, *SHAPES[name][1]))
    units = Units.of_layers(flat, [*traced, *idle], [flat.names])
    leg = TowardsMode(flat, units, HOW, flat.theta.clone(), other.theta.clone())
    leg.begin(TickPhase("all", np.ones(len(units), dtype=bool), 1, HOW.step_a), anew=True)
    flat.grad.normal_(generator=torch.Generator().manual_seed(0))
    before, back = leg.distances(), flat.theta.clone()

    def tick() -> None:
        distances = leg.distances()
        back.copy_(flat.theta)
        leg.move(distances, leg.lengths(distances, before))
        for _ in range(ITERATIONS):
            flat.theta.add_(flat.grad, alpha=-HOW.lr)
        leg.settle()

    return tick


def by_hand(name: str) -> Callable[[], None]:
    """Make the same tick as a loop over named tensors."""
    module, other = (flat_network(name, seed).module for seed in (0, 1))
    x = {key: p.detach().clone() for key, p in module.named_parameters()}
    b = {key: p.detach().clone() for key, p in other.named_parameters()}
    norms = {f"{key}." for key, m in module.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    weights = [k for k in x if k.endswith("weight") and not any(k.startswith(norm) for norm in norms)]
    layers: dict[str, list[str]] = {}
    for key in x:
        layers.setdefault(key.rpartition(".")[0], []).append(key)
    gradients = {key: torch.randn_like(value) for key, value in x.items()}
    before = {key: float(x[key].var(correction=0)) for key in weights}
    after = {key: float(b[key].var(correction=0)) for key in weights}

    def length(keys: list[str]) -> float:
        return float(sum(((b[key] - x[key]) ** 2).sum() for key in keys)) ** 0.5

    gap = {layer: length(keys) for layer, keys in layers.items()}

    def correct(progress: dict[str, float]) -> None:
        for key in weights:
            target = before[key] + progress[key.rpartition(".")[0]] * (after[key] - before[key])
            mean = x[key].mean()
            x[key] = mean + (x[key] - mean) * (target / x[key].var(correction=0)).sqrt()

    def tick() -> None:
        progress = {}
        for layer, keys in layers.items():
            distance = length(keys)
            step = min(distance, HOW.step_a * distance)
            for key in keys:
                x[key] = x[key] + step / distance * (b[key] - x[key])
            progress[layer] = min(1.0, max(0.0, 1.0 - (distance - step) / gap[layer]))
        correct(progress)
        for _ in range(ITERATIONS):
            for key, gradient in gradients.items():
                x[key] -= HOW.lr * gradient
        correct(progress)

    return tick


def plain(name: str) -> Callable[[], None]:
    """Make one forward and backward pass."""
    flat = flat_network(name, 0)
    inputs: Tensor = flat.inputs(torch.randn(64, *SHAPES[name][1]))
    labels = torch.arange(64) % 10

    def step() -> None:
        F.cross_entropy(flat.module(inputs), labels).backward()

    return step


def cpu_time(step: Callable[[], None], repetitions: int) -> float:
    begin = time.process_time()
    for _ in range(repetitions):
        step()
    return 1e3 * (time.process_time() - begin) / repetitions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=",".join(SHAPES), help="names with commas (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=15, help="blocks of each (default: %(default)s)")
    options = parser.parse_args()
    quieten()
    print(f"{invocation()}\n{machine()}\n")
    print(f"{'network':>9} {'parameters':>10} {'tensors':>8} {'pass ms':>8} ", end="")
    print(f"{'by hand ms':>11} {'tick ms':>8} {'ratio':>6}")
    for name in options.networks.split(","):
        flat = flat_network(name, 0)
        ours, theirs = fused(name), by_hand(name)
        ours(), theirs()
        repetitions = max(1, round(30.0 / cpu_time(theirs, 2)))
        pairs = [(cpu_time(theirs, repetitions), cpu_time(ours, repetitions)) for _ in range(options.pairs)]
        ratio = statistics.median(b / a for a, b in pairs)
        step = plain(name)
        step()
        print(
            f"{name:>9} {flat.dimension:>10} {len(flat.names):>8} {cpu_time(step, 3):>8.2f} "
            f"{statistics.median(a for a, _ in pairs):>11.3f} {statistics.median(b for _, b in pairs):>8.3f} "
            f"{ratio:>6.2f}{'' if ratio <= 0.5 else '  above the aim'}",
            flush=True,
        )


if __name__ == "__main__":
    main()
