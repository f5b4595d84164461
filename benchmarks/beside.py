"""Runs a benchmark on an older revision and on this tree, in turns, and sets their ratios side by side.

    python benchmarks/beside.py REVISION path_step --networks lenet5,mlp --batches 32

The older revision runs its own script of that name, from a copy made for the purpose, with the libraries of this
environment. A row is known by its words before its ratio (``1.023 ±0.030``, or the last figure); of several rounds the
medians are compared, so that a machine that is slow for a while does not decide.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from harness import invocation, machine

ROOT = Path(__file__).resolve().parents[1]
RATIO = re.compile(r"\d+\.\d+ ±\d+\.\d+|\d+\.\d+(?=$|\s+above the aim)")
PARTS = re.compile(r"\s{2,}")


def checkout(revision: str, folder: Path) -> None:
    """Write the files of ``revision`` into ``folder``."""
    archive = subprocess.run(["git", "archive", revision], cwd=ROOT, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)


def measure(tree: Path, script: str, arguments: list[str]) -> dict[str, float]:
    """Run a script of ``tree``; return the first ratio of each row, by the words that name the row."""
    path = os.pathsep.join(str(tree / part) for part in ("", "cli", "store"))
    done = subprocess.run(
        [sys.executable, str(tree / "benchmarks" / f"{script}.py"), *arguments],
        cwd=tree,
        env=os.environ | {"PYTHONPATH": path, "COLUMNS": "160"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{tree}: {script} failed:\n{done.stderr}")
    return dict(rows(done.stdout))


def rows(output: str) -> list[tuple[str, float]]:
    """Find the rows that have a ratio; times in ms stand before it and name nothing."""
    found = []
    for line in output.splitlines():
        if match := RATIO.search(line):
            words = [part for part in PARTS.split(line[: match.start()].strip()) if not re.fullmatch(r"\d+\.\d+", part)]
            found.append(("  ".join(words), float(match[0].split()[0])))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision", help="what to compare this tree with, for instance a commit")
    parser.add_argument("script", help="a benchmark, by name")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is run (default: %(default)s)")
    arguments, further = parser.parse_known_args()
    old, new = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    with tempfile.TemporaryDirectory() as folder:
        checkout(arguments.revision, Path(folder))
        for _ in range(arguments.rounds):
            for tree, kept in ((Path(folder), old), (ROOT, new)):
                for name, ratio in measure(tree, arguments.script, further).items():
                    kept[name].append(ratio)
    print(f"{invocation()}\n{machine()}")
    print(f"{'row':44} {arguments.revision[:10]:>10} {'now':>7} {'now/then':>9}  spread of both")
    for name in new:
        before, after = statistics.median(old[name]), statistics.median(new[name])
        spread = max(max(kept[name]) - min(kept[name]) for kept in (old, new))
        print(f"{name:44} {before:10.3f} {after:7.3f} {after / before:9.3f}  {spread:.3f}")


if __name__ == "__main__":
    main()
