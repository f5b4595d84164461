"""The gains that `mgraph demo` shows, for other draws of the labels and other seeds of the modes.

Every repeat is the whole demonstration with another seed: other labels are wrong, and other modes are trained. Nothing
is left out, and seed 0 is what `mgraph demo` prints. Gains are in points of test accuracy over the best mode, chosen on
validation data; with each, its paired standard error. Below are their means, and the standard errors of these means
over the repeats.

    python benchmarks/demo_seeds.py -o benchmarks/results/demo_seeds.txt
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path

import numpy as np
from harness import invocation, machine, quieten, standard_error

from mgraph.demo import run_demo
from mgraph.errors import MGraphWarning


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=6, help="how many, from 0 on")
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    lines = [invocation(), machine(), ""]
    head = f"{'seed':>4}  {'test accuracy':>13}  {'gain':>14}  what"
    print(*lines, head, sep="\n")
    lines.append(head)
    gains: dict[str, list[float]] = {}
    for seed in range(args.seeds):
        with tempfile.TemporaryDirectory() as directory:
            demo = run_demo(Path(directory), seed=seed, say=lambda _: None)
        for row in demo.models:
            kind = "best mode" if row["what"].startswith("best mode") else row["what"]
            kind = "merged point of the surface" if kind.startswith("merged") else kind
            gained = ""
            if "gain" in row:
                gains.setdefault(kind, []).append(100 * row["gain"])
                gained = f"{100 * row['gain']:+6.1f} ± {100 * row['gain_error']:.1f}"
            lines.append(f"{seed:4}  {100 * row['test_accuracy']:13.1f}  {gained:>14}  {row['what']}")
            print(lines[-1], flush=True)
    lines += ["", f"Mean gain over {args.seeds} seeds, its standard error, the least and the most"]
    for kind, values in gains.items():
        found = np.array(values)
        spread = f"{found.mean():+6.1f} ± {standard_error(found):.1f}  {found.min():+6.1f} to {found.max():+6.1f}"
        lines.append(f"{spread}  {kind}")
    print(*lines[-len(gains) - 2 :], sep="\n")
    if args.output is not None:
        args.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    quieten()
    warnings.simplefilter("ignore", MGraphWarning)
    main()
