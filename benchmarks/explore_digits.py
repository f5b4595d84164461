"""Ten modes of a CNN on digits, joined by exploring: how many connections it takes, and at which loss they merge.

``mgraph explore`` with the curve method and its defaults, until all ten are one component at a barrier of at most
0.05; the fewest that can do it are nine. Then the same from the same modes on two engines, and in each a worker is
killed in the middle: the result must be the same, bit for bit. Run: ``python benchmarks/explore_digits.py``, some
minutes. ``--picture FILE`` draws the dendrogram.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from harness import invocation, machine, quieten

import mgraph

GOAL = "components(0.05) == 1"


class Killer:
    """Kills one process of an engine's, the first that works after a connection is done."""

    def __init__(self) -> None:
        self.begin, self.killed = threading.Event(), 0
        threading.Thread(target=self._kill, daemon=True).start()

    def tell(self, _: Any) -> None:
        """Hear of a connection."""
        self.begin.set()

    def _kill(self) -> None:
        self.begin.wait()
        time.sleep(1.0)  # by now the next connection is under way
        while not self.killed:
            for pid in descendants(os.getpid()):
                command = Path(f"/proc/{pid}/cmdline").read_text()
                if "ray::_made" in command or "spawn_main" in command:
                    os.kill(pid, signal.SIGKILL)
                    self.killed = pid
                    return
            time.sleep(0.05)


def descendants(parent: int) -> list[int]:
    """Return the processes that this one started, and those that these started, by /proc."""
    children: list[int] = []
    for task in Path(f"/proc/{parent}/task").iterdir():
        children += map(int, (task / "children").read_text().split())
    return children + [deeper for child in children for deeper in descendants(child)]


def found(graph: mgraph.Graph) -> list[Any]:
    """Return what every connection is, ids and times aside: its ends, its barrier, the digest of its bend."""
    rows = []
    for row in graph.connections():
        points = graph.connection(row["id"]).describe()["control_points"]
        digests = [graph.node(p["node"]).digest for p in points]
        rows.append((row["ends"], row["peak"], row["barrier"], digests))
    return sorted(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modes", type=int, default=10)
    parser.add_argument("--arch", default="cnn")
    parser.add_argument("--engines", default="local:2 ray:2", help="with spaces between them")
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    quieten()
    print(f"{invocation()}\n{machine()}\n")
    with tempfile.TemporaryDirectory() as directory:
        graph = mgraph.create(Path(directory) / "g.mgraph", arch=options.arch, data="digits", device="cpu", threads=1)
        begin = time.process_time()
        for seed in range(options.modes):
            graph.train(seed=seed, name=f"m{seed}")
        trained = time.process_time() - begin
        copies = {engine: Path(directory) / f"{i}.mgraph" for i, engine in enumerate(options.engines.split())}
        for copy in copies.values():
            shutil.copytree(graph.path, copy)
        losses = [row["train_loss"] for row in graph.nodes("mode")]
        print(f"{options.modes} modes, seeds 0 to {options.modes - 1}: {trained:.0f} s of CPU time to train, ", end="")
        print(f"train loss {min(losses):.4f} to {max(losses):.4f}\n")

        begin = time.process_time()
        result = graph.explore(until=GOAL, max_pairs=3 * options.modes)
        spent = time.process_time() - begin
        print(f"{'step':>8} {'ends':>8} {'peak':>7} {'barrier':>8}")
        for done in result.done:
            ends = "-".join(done.suggestion.names)
            print(f"{done.suggestion.step:>8} {ends:>8} {done.peak:>7.4f} {done.barrier:>8.4f}")
        print(f"\nStopped: {result.stopped}. {result.connected} connections, {spent:.0f} s of CPU time in all.")
        straight = [
            graph.connect(*d.suggestion.ends, method=mgraph.Linear()).swept().values["train", "loss"].max()
            for d in result.done
        ]
        print(f"Straight segments between the same modes peak at {min(straight):.2f} to {max(straight):.2f}.")
        print(f"\nDendrogram, train loss peak:\n{graph.dendrogram()}\n")
        if options.picture is not None:
            graph.plot_dendrogram(options.picture)
        expected = [row for row in found(graph) if len(row[3]) == 3]
        for engine, copy in copies.items():
            other, killer = mgraph.open(copy, device="cpu", threads=1), Killer()
            result = other.explore(until=GOAL, max_pairs=3 * options.modes, engine=engine, tell=killer.tell)
            verdict = "the same connections, bit for bit" if found(other) == expected else "OTHER CONNECTIONS"
            how = "one worker killed" if killer.killed else "NO WORKER KILLED"
            print(f"--engine {engine}, {how}: {result.stopped}; {result.connected} connections; {verdict}", flush=True)


if __name__ == "__main__":
    main()
