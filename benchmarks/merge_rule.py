"""How often `merge` calls a point better than the best corner: where none is, and where one is.

Simulated classifiers on 11 × 11 points of a surface and 61 of a curve: the logits of a point are those of the right
class, noise that all points share, and noise of its own that varies as a Bézier surface or curve of degree 2 does. All
points are equally good in expectation, but for a bump in the middle where there is a gain. Everything is done as
`merge` does it (temperatures, best corner, best point, decision), by three rules:

- naive: 1.96 standard errors of the winner's paired difference;
- half: the point and the temperatures on one half of the examples, 1.96 standard errors on the other half, against the
  corner that is likeliest on all of them (`merge` asks the same against the corner with the best accuracy, if that is
  another, so it hands out a point no more often);
- maximum: the quantile of the largest of all points' differences over redrawn examples (mgraph/merge/bestof.py).

    python benchmarks/merge_rule.py | tee benchmarks/results/merge_rule.txt
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from harness import invocation, machine, quieten

from mgraph.families import BezierCurveFamily, BezierSurfaceFamily
from mgraph.merge.bestof import decide, halves
from mgraph.merge.calibration import example_nll, fit_temperature

CLASSES, GAIN = 10, 0.1
SHAPES = {"surface": (BezierSurfaceFamily((2, 2)), (11, 11)), "curve": (BezierCurveFamily(1), (61,))}
RULES = ("naive", "half", "maximum")


def logits(rng: np.random.Generator, shape: str, examples: int, gain: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits of all points, shape (S, N, C), and the labels, shape (N,)."""
    family, counts = SHAPES[shape]
    points = family.grid(counts).points
    mix = family.coefficients(points)
    mix /= np.sqrt((mix**2).sum(axis=1, keepdims=True))  # so that no point has less noise than another
    labels = rng.integers(0, CLASSES, examples)
    own = np.einsum("sk,knc->snc", mix, rng.standard_normal((family.size, examples, CLASSES)))
    noise = np.sqrt(0.8) * rng.standard_normal((examples, CLASSES)) + np.sqrt(0.2) * own
    bump = gain * np.exp(-8 * ((points - 0.5) ** 2).sum(axis=1))
    found = noise + (2.0 + bump)[:, None, None] * np.eye(CLASSES)[labels]
    return torch.from_numpy(3.0 * found), torch.from_numpy(labels)  # three times too sure


def scores(out: torch.Tensor, labels: torch.Tensor, fitted_on: torch.Tensor) -> np.ndarray:
    """Return the likelihoods of the labels under each point's own temperature, shape (S, N)."""
    temperatures = [fit_temperature(row[fitted_on], labels[fitted_on]) for row in out]
    return np.stack([-example_nll(row, labels, (), t).numpy() for row, t in zip(out, temperatures, strict=True)])


def fired(rng: np.random.Generator, shape: str, examples: int, gain: float) -> dict[str, bool]:
    """Say which of the rules calls the best point better."""
    out, labels = logits(rng, shape, examples, gain)
    family, counts = SHAPES[shape]
    corners = family.grid(counts).ends
    table = scores(out, labels, torch.arange(examples))
    means = table.mean(axis=1)
    best, corner = int(means.argmax()), max(corners, key=lambda i: means[i])
    alone = decide(table[[best]], 0, table[corner])
    searched, held_out = halves(examples)
    half = scores(out, labels, torch.from_numpy(searched))
    first = half[:, searched].mean(axis=1)
    best_half, corner_half = int(first.argmax()), max(corners, key=lambda i: half[i].mean())
    decided = decide(half[[best_half]][:, held_out], 0, half[corner_half][held_out])
    return {
        "naive": alone.standard_error > 0 and alone.errors >= 1.96,
        "half": decided.verdict == "better",
        "maximum": decide(table, best, table[corner]).verdict == "better",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--examples", type=int, nargs="+", default=[300])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    args = parser.parse_args()
    print(invocation(), machine(), "", sep="\n")
    print(f"How often, of {args.times} times, a rule calls the best point of a grid better than the best corner")
    print(f"{'shape':8}  {'examples':>9}  {'true gain':>9}  " + "  ".join(f"{rule:>8}" for rule in RULES))
    for shape, examples in [(shape, examples) for shape in args.shapes for examples in args.examples]:
        for gain in (0.0, GAIN):
            rng = np.random.default_rng(0)
            found = [fired(rng, shape, examples, gain) for _ in range(args.times)]
            shares = [np.mean([one[rule] for one in found]) for rule in RULES]
            said = "  ".join(f"{share:8.1%}" for share in shares)
            print(f"{shape:8}  {examples:9}  {'yes' if gain else 'none':>9}  {said}", flush=True)


if __name__ == "__main__":
    quieten()
    main()
