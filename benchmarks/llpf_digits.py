"""Does LLPF arrive on every pair, at a low loss? Ten pairs of digits modes of three networks, seeds named in advance.

The pairs are all of the modes from seeds 100 to 104; nothing was tuned on these. For every network: the default walk
between each pair; three of them again with what the default could have been (variance pinned to the start's, none
corrected, groups by data flow); a walk towards the origin from each mode; and three pairs of modes trained with weight
decay 0 and 5e-3, walked straight and across variance spheres, there also without taking ticks back. "left" is what was
left of the way (of the norm, towards the origin) before the closing piece. Loss and accuracy are those of the kept
points and of one point on each piece between them, on the whole training split. Seconds are CPU time of the walk. A
pair that fails is reported.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from harness import invocation, machine, quieten

import mgraph
from mgraph.operations.modes import SimilarModeWarning
from mgraph.query.sweepdata import family_of

NETWORKS = ("mlp", "cnn", "cnn?bn=true")
SEEDS = range(100, 105)
PAIRS = list(combinations(SEEDS, 2))
FEW = 3


@dataclass(frozen=True)
class Contender:
    """A walk, on how many pairs it is tried, how the two modes are trained, and the loss it must stay below."""

    method: mgraph.Method
    pairs: int = FEW
    decays: tuple[float, float] = (5e-4, 5e-4)
    bar: float | None = None
    ends: int = 2


CONTENDERS = {
    "default": Contender(mgraph.LLPF(), len(PAIRS), bar=0.1),
    "pinned": Contender(mgraph.LLPF(variance_target="start", ticks=600)),
    "no correction": Contender(mgraph.LLPF(variance_correction=False)),
    "groups=fdf": Contender(mgraph.LLPF(groups="fdf")),
    "to the origin": Contender(mgraph.LLPF(walk="m2o"), len(SEEDS), bar=0.1, ends=1),
    "decays, m2m": Contender(mgraph.LLPF(walk="m2m"), decays=(0.0, 5e-3), bar=0.1),
    "decays, across": Contender(mgraph.LLPF(walk="across"), decays=(0.0, 5e-3), bar=0.1),
    "across, all kept": Contender(mgraph.LLPF(walk="across", take_back=None), decays=(0.0, 5e-3), bar=0.1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=" ".join(NETWORKS), help="specs, with spaces between them")
    parser.add_argument("--contenders", default=";".join(CONTENDERS), help="with ; between (default: all)")
    parser.add_argument("--pairs", type=int, default=len(PAIRS), help="at most so many (default: %(default)s)")
    options = parser.parse_args()
    quieten()
    warnings.simplefilter("ignore", SimilarModeWarning)  # the ends of walks towards the origin are not independent
    print(f"{invocation()}\n{machine()}\n")
    print(f"{'network':>12} {'seeds':>8} {'walk':>16} {'ticks':>6} {'iterations':>10} {'left %':>7} ", end="")
    print(f"{'points':>6} {'max loss':>9} {'above ends':>10} {'min acc':>8} {'seconds':>8}")
    verdicts: dict[tuple[str, str], list[tuple[float, float, float, bool]]] = {}
    for arch in options.networks.split():
        with tempfile.TemporaryDirectory() as directory:
            graph = mgraph.create(Path(directory) / "g.mgraph", arch=arch, data="digits", device="cpu")
            modes: dict[tuple[int, float], mgraph.Point] = {}
            for name in options.contenders.split(";"):
                contender = CONTENDERS[name]
                for pair in range(min(contender.pairs, options.pairs)):
                    seeds = PAIRS[pair] if contender.ends == 2 else (SEEDS[pair],)
                    keys = list(zip(seeds, contender.decays, strict=False))
                    for key in keys:
                        if key not in modes:
                            modes[key] = graph.train(seed=key[0], weight_decay=key[1])
                    row = walked(graph, [modes[key] for key in keys], contender)
                    low = contender.bar is None or row["max_train_loss"] < contender.bar
                    # A walk between modes that shall meet a bar must have arrived, not only been closed.
                    there = contender.bar is None or contender.ends == 1 or row["most_left_of_a_layer"] <= 0.01
                    passed = low and there and (contender.ends == 2 or row["left_before_the_last_piece"] <= 0.7)
                    print(
                        f"{arch:>12} {'-'.join(map(str, seeds)):>8} {name:>16} {row['ticks']:>6} "
                        f"{row['iterations']:>10} {100 * row['left_before_the_last_piece']:>7.2f} {row['points']:>6} "
                        f"{row['max_train_loss']:>9.4f} {row['tolerance']:>10.4f} {row['accuracy']:>8.4f} "
                        f"{row['cpu']:>8.1f}{'' if passed else '  FAILED'}",
                        flush=True,
                    )
                    verdicts.setdefault((arch, name), []).append(
                        (row["max_train_loss"], row["left_before_the_last_piece"], row["cpu"], passed)
                    )
    print(
        f"\n{'network':>12} {'walk':>16} {'pairs':>6} {'worst loss':>10} {'mean loss':>10} {'most left %':>11} ", end=""
    )
    print(f"{'seconds':>8}  within the bar")
    for (arch, name), rows in verdicts.items():
        losses, left, seconds, passed = zip(*rows, strict=True)
        bar = CONTENDERS[name].bar
        verdict = "" if bar is None else f"{sum(passed)} of {len(passed)} below {bar:g}"
        print(
            f"{arch:>12} {name:>16} {len(rows):>6} {max(losses):>10.4f} {sum(losses) / len(losses):>10.4f} "
            f"{100 * max(left):>11.2f} {sum(seconds) / len(seconds):>8.1f}  {verdict}"
        )


def walked(graph: mgraph.Graph, ends: list[mgraph.Point], contender: Contender) -> dict[str, Any]:
    """Walk, sweep, and return the checks of the path with what the benchmark adds to them."""
    begin = time.process_time()
    connected = graph.connect(*ends, method=contender.method, sweep=False)
    seconds = time.process_time() - begin
    family = family_of(connected.record)
    data = connected.sweep(family.pieces_grid(1), splits=("train",))
    checks: dict[str, Any] = connected.describe()["checks"]
    accuracy = float(data.values["train", "accuracy"].min())
    return checks | {"cpu": seconds, "accuracy": accuracy, "points": family.size}


if __name__ == "__main__":
    main()
