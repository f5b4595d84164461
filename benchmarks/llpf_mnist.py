"""Does LLPF connect LeNet-5 on MNIST, below a train loss of 0.1 and in under two minutes on two cores?

Three modes (seeds 0, 1, 2; three epochs), all three pairs, with the defaults; one pair again with the variance pinned
to the start's, and without correction. "left" is what was left of the way before the closing piece. Loss and accuracy
are those of the kept points and of one point on each piece between them, on a fixed 10000 of the training images;
"segment" is the largest loss on the straight line. Seconds are CPU time of the walk on one thread.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from harness import invocation, machine, quieten

import mgraph
from mgraph.query.sweepdata import family_of

PAIRS = (("a", "b"), ("a", "c"), ("b", "c"))
WALKS: dict[str, tuple[int, mgraph.LLPF]] = {
    "default": (3, mgraph.LLPF()),
    "pinned": (1, mgraph.LLPF(variance_target="start", ticks=600)),
    "no correction": (1, mgraph.LLPF(variance_correction=False)),
    "to the origin": (1, mgraph.LLPF(walk="m2o")),
}
EXAMPLES = 10000
BAR = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", default="mnist.npz", help="images as .npz (default: %(default)s)")
    parser.add_argument("--walks", default=";".join(WALKS), help="with ; between (default: all)")
    options = parser.parse_args()
    quieten()
    print(f"{invocation()}\n{machine()}\n")
    print(
        f"{'pair':>5} {'walk':>14} {'ticks':>6} {'iterations':>10} {'left %':>7} {'points':>6} {'segment':>8} ", end=""
    )
    print(f"{'max loss':>9} {'min acc':>8} {'test acc':>15} {'seconds':>8}")
    with tempfile.TemporaryDirectory() as directory:
        data = f"npz:{Path(options.mnist).resolve()}?mean=0.1307&std=0.3081"
        graph = mgraph.create(Path(directory) / "g.mgraph", arch="lenet5", data=data, device="cpu", threads=1)
        for seed, name in enumerate("abc"):
            graph.train(seed=seed, epochs=3, batch_size=128, name=name)
        for name in options.walks.split(";"):
            count, method = WALKS[name]
            for pair in PAIRS[:count]:
                ends = pair[: 1 if method.walk == "m2o" else 2]
                begin = time.process_time()
                connected = graph.connect(*ends, method=method, sweep=False)
                seconds = time.process_time() - begin
                family = family_of(connected.record)
                found = connected.sweep(family.pieces_grid(1), splits=("train", "test"), examples=EXAMPLES)
                segment = ""
                if len(ends) == 2:
                    line = graph.connect(*ends, method=mgraph.Linear(), sweep=False)
                    losses = line.sweep(11, splits=("train",), examples=EXAMPLES).values["train", "loss"]
                    segment = f"{losses.max():.3f}"
                row, test = connected.describe()["checks"], found.values["test", "accuracy"]
                bar = "" if name != "default" or row["max_train_loss"] < BAR else "  FAILED"
                print(
                    f"{'-'.join(ends):>5} {name:>14} {row['ticks']:>6} {row['iterations']:>10} "
                    f"{100 * row['left_before_the_last_piece']:>7.2f} {family.size:>6} {segment:>8} "
                    f"{row['max_train_loss']:>9.4f} {found.values['train', 'accuracy'].min():>8.4f} "
                    f"{test.min():>7.4f}…{test.max():.4f} {seconds:>8.1f}{bar}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
