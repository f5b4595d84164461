"""Where the fused, compiled update of the control points is quicker than the eager one.

Only the update is timed, without a network: gradients fold into the momenta of the free rows, these move, and the next
points are written. The fused pass reads and writes everything once, but walks through K control points, F momenta and
2n points and gradients side by side; the eager one calls the library several times. The two alternate; a figure is the
median ratio of their CPU times on one thread. "chosen" is what ``update=auto`` takes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from harness import invocation, machine, quieten

from mgraph.families import BezierCurveFamily, BezierSurfaceFamily, Family
from mgraph.train.updates import CompiledUpdate, EagerUpdate, UpdateRule, choose_update

FAMILIES = {
    "curve": BezierCurveFamily(1),
    "surface 3×3": BezierSurfaceFamily((2, 2)),
    "surface 4×4": BezierSurfaceFamily((3, 3)),
    "surface 4×5": BezierSurfaceFamily((3, 4)),
    "surface 5×5": BezierSurfaceFamily((4, 4)),
}


def step(kind: type[EagerUpdate], family: Family, size: int, samples: int) -> Callable[[], None]:
    """Make an update of rows of that size."""
    P, theta, grad = (torch.randn(rows, size) for rows in (family.size, samples, samples))
    update = kind(P, family.free, theta, grad, UpdateRule())
    pull, following = torch.rand(len(family.free), samples), torch.rand(samples, family.size)
    return lambda: update.apply(pull, True, 1e-6, following)


def seconds(step: Callable[[], None]) -> float:
    begin = time.process_time()
    step()
    return time.process_time() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1_500_000, help="D, columns of a control point")
    parser.add_argument("--samples", default="1,4", help="points per step, with commas")
    parser.add_argument("--pairs", type=int, default=15)
    options = parser.parse_args()
    quieten()
    print(f"{invocation()}\n{machine()}\n\nD = {options.size}\n")
    print(f"{'':>12} {'K':>3} {'F':>3} {'n':>3} {'arrays':>7} {'eager ms':>9} {'compiled/eager':>15} {'chosen':>9}")
    for name, family in FAMILIES.items():
        for samples in map(int, options.samples.split(",")):
            eager, fused = (step(kind, family, options.size, samples) for kind in (EagerUpdate, CompiledUpdate))
            for _ in range(2):  # compiles
                eager(), fused()
            pairs = [(seconds(eager), seconds(fused)) for _ in range(options.pairs)]
            ratio = statistics.median(b / a for a, b in pairs)
            free, K = len(family.free), family.size
            P = torch.empty(K, options.size, device="meta")
            chosen = choose_update(P, "auto", UpdateRule(), free=free, samples=samples).name
            milliseconds = 1e3 * statistics.median(a for a, _ in pairs)
            print(
                f"{name:>12} {K:>3} {free:>3} {samples:>3} {K + free + 2 * samples:>7} {milliseconds:>9.2f} "
                f"{ratio:>15.2f} {chosen:>9}",
                flush=True,
            )


if __name__ == "__main__":
    main()
