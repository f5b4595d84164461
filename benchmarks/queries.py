"""How fast does a graph answer, at a million edges? Components, spanning tree, route and a filtered listing.

The graphs are random: a mode for every ten edges, parallel edges and ties among them, a fiftieth of the connections
failed, written straight into the index. Ours is what the commands do, reading from DuckDB included; networkx reads the
same rows, builds its MultiGraph and answers by its own functions (route: the bottleneck along the minimum spanning
tree, then Dijkstra on the edges that are no worse). Each answer in a process of its own: CPU seconds of one thread,
imports not counted, and the peak of its memory. That both answers agree is checked.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mgraph.bookkeeping.listing import list_nodes
from mgraph.query.components import components
from mgraph.query.criterion import Criterion
from mgraph.query.routes import route
from mgraph.query.tree import spanning_forest
from mgraph_store import GraphStore, Layout, Node, Space, TensorSpec

LIMIT = 0.02
COLUMNS = "source_id, target_id, barrier, length, connection_id"
ROWS = f"SELECT {COLUMNS} FROM edges WHERE split = 'train' AND metric = 'loss'"
WHERE = "test_accuracy > 0.9 and name like 'mode%'"
FAILED = "SELECT id FROM connections WHERE status = 'failed'"


def build(path: Path, edges: int, seed: int = 0) -> None:
    """Write a graph of that many edges."""
    store = GraphStore.create(path)
    layout = Layout((TensorSpec("w", (2,), "float32", "parameter"),))
    space = Space("a" + "2" * 12, "random", "mlp", "digits", "loss", layout.to_json(), layout.fingerprint, "0" * 32)
    with store.transaction() as tx:
        tx.add(space)
    modes = edges // 10
    rng = np.random.default_rng(seed)
    source = rng.integers(0, modes, edges)
    target = (source + 1 + rng.integers(0, modes - 1, edges)) % modes
    columns = [np.arange(edges), source, target, np.round(rng.random(edges), 4), 1.0 + rng.random(edges)]
    with store.lock.exclusive(), store.index.connect(read_only=False) as con:
        con.execute("BEGIN")
        con.execute(
            "CREATE TEMP TABLE drawn AS SELECT unnest(?::BIGINT[]) i, unnest(?::BIGINT[]) s, unnest(?::BIGINT[]) t, "
            "unnest(?::DOUBLE[]) v, unnest(?::DOUBLE[]) l",
            [column.tolist() for column in columns],
        )
        con.execute(
            "INSERT INTO nodes BY NAME SELECT 'm' || lpad(i::VARCHAR, 12, '0') id, 'mode' kind, "
            f"'{space.id}' space_id, 'mode' || i AS name, "
            "0 nbytes, 1 kernel, '{}' info, TIMESTAMP '2026-01-01' + to_seconds(i) created "
            f"FROM range({modes}) r(i)"
        )
        con.execute(
            "INSERT INTO evaluation_rows BY NAME SELECT n.id node_id, split, 'all' subset, 'own' batchnorm, "
            '\'fp32\' "precision", metric, (hash(n.id, split, metric) % 1000) / 1000 AS "value", 1000 AS "count" '
            "FROM nodes n, unnest(['train', 'valid', 'test']) a(split), unnest(['loss', 'accuracy']) b(metric)"
        )
        con.execute(
            f"INSERT INTO connections BY NAME SELECT 'k' || lpad(i::VARCHAR, 12, '0') id, 'linear' kind, "
            f"'{space.id}' space_id, '{{}}' family, '{{}}' settings, "
            "CASE WHEN i % 50 = 7 THEN 'failed' ELSE 'complete' END status, TIMESTAMP '2026-02-01' created FROM drawn"
        )
        con.execute(
            "INSERT INTO sweeps BY NAME SELECT 'w' || lpad(i::VARCHAR, 12, '0') id, "
            "'k' || lpad(i::VARCHAR, 12, '0') connection_id, [61] AS grid, 'none' batchnorm, 'fp32' \"precision\", "
            "'complete' status, TIMESTAMP '2026-02-01' created FROM drawn"
        )
        con.execute(
            "INSERT INTO edges BY NAME SELECT 'k' || lpad(i::VARCHAR, 12, '0') connection_id, "
            "'w' || lpad(i::VARCHAR, 12, '0') sweep_id, 'm' || lpad(s::VARCHAR, 12, '0') source_id, "
            "'m' || lpad(t::VARCHAR, 12, '0') target_id, 'train' split, 'loss' metric, v + 0.1 peak, v barrier, "
            "v AS \"drop\", l length, 61 resolution, 1000 examples, 'none' batchnorm, 'fp32' \"precision\", "
            "['m' || lpad(s::VARCHAR, 12, '0'), 'm' || lpad(t::VARCHAR, 12, '0')] AS route, 'path' chosen_on FROM drawn"
        )
        for end, column in enumerate("st"):
            con.execute(
                "INSERT INTO member_rows BY NAME SELECT 'k' || lpad(i::VARCHAR, 12, '0') connection_id, "
                f"'m' || lpad({column}::VARCHAR, 12, '0') node_id, 'sample' \"role\", {end} AS \"position\", "
                f'[{end}::DOUBLE] AS "parameter" FROM drawn'
            )
        con.execute("DROP TABLE drawn")
        con.execute("COMMIT")


def last(store: GraphStore) -> tuple[Node, Node]:
    """Return the oldest and the newest mode."""
    with store.reading() as reader:
        return reader.all(Node, limit=1)[0], reader.all(Node, order="created DESC", limit=1)[0]


def ours(store: GraphStore) -> dict[str, Callable[[], Any]]:
    """The questions, as the commands ask them; each returns what is compared."""
    anything = Criterion("barrier")

    def way() -> Any:
        found = route(store, anything, *last(store))
        return [found.value, round(found.length, 9)]

    return {
        "components": lambda: len(components(store, Criterion("barrier", LIMIT))),
        "tree": lambda: round(spanning_forest(store, anything).total, 6),
        "route": way,
        "list": lambda: len(list_nodes(store, where=WHERE, sort=["-test_accuracy"], limit=20)),
    }


def theirs(store: GraphStore) -> dict[str, Callable[[], Any]]:
    """The same by networkx."""
    import networkx as nx

    def read() -> Any:
        graph = nx.MultiGraph()
        with store.reading() as reader:
            graph.add_nodes_from(row[0] for row in reader.query("SELECT id FROM nodes ORDER BY created")[1])
            failed = {row[0] for row in reader.query(FAILED)[1]}
            rows = reader.query(ROWS)[1]
        graph.add_edges_from(
            (s, t, {"barrier": v, "length": n}) for s, t, v, n, connection in rows if connection not in failed
        )
        return graph

    def below(graph: Any, limit: float) -> Any:
        kept = nx.MultiGraph()
        kept.add_nodes_from(graph)
        kept.add_edges_from((s, t, d) for s, t, d in graph.edges(data=True) if d["barrier"] <= limit)
        return kept

    def way() -> Any:
        graph = read()
        start, goal = (node.id for node in last(store))
        tree = nx.Graph((s, t, d) for s, t, d in nx.minimum_spanning_edges(graph, weight="barrier", keys=False))
        path = nx.shortest_path(tree, start, goal)
        worst = max(tree.edges[pair]["barrier"] for pair in pairwise(path))
        return [worst, round(nx.dijkstra_path_length(below(graph, worst), start, goal, weight="length"), 9)]

    return {
        "components": lambda: nx.number_connected_components(below(read(), LIMIT)),
        "tree": lambda: round(sum(d["barrier"] for *_, d in nx.minimum_spanning_edges(read(), weight="barrier")), 6),
        "route": way,
    }


def answer(path: Path, whose: str, question: str) -> None:
    """Answer one question in this process, and print what it cost."""
    store = GraphStore.open(path)
    asked = (ours if whose == "ours" else theirs)(store)[question]
    import scipy.sparse.csgraph  # noqa: F401  (imports are nobody's time)

    with store.reading() as reader:
        reader.fetch("SELECT 1")
    before = memory("VmRSS")
    start = time.process_time()
    result = asked()
    seconds = time.process_time() - start
    print(json.dumps({"result": result, "seconds": seconds, "mib": memory("VmHWM") - before}))


def memory(what: str) -> float:
    """Return VmRSS (now) or VmHWM (at most so far) of this process, MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024


def run(path: Path, whose: str, question: str) -> dict[str, Any]:
    """Answer one question in a process of its own."""
    command = [sys.executable, __file__, "--graph", str(path), "--answer", whose, question]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edges", type=lambda text: [int(float(n)) for n in text.split(",")], default="1e4,1e5,1e6")
    parser.add_argument("--no-networkx", action="store_true", help="only ours")
    parser.add_argument("--graph", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--answer", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.answer:
        answer(options.graph, *options.answer)
        return
    from harness import invocation, machine, quieten  # loads torch, which the answers do without

    quieten()
    print(invocation())
    print(machine())
    print()
    print(f"{'edges':>8} {'modes':>7} {'question':>11} {'s':>7} {'MiB':>6}", end="")
    print(f" {'networkx s':>11} {'MiB':>6} {'times faster':>13}")
    for edges in options.edges:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "random.mgraph"
            build(path, edges)
            for question in ("components", "tree", "route", "list"):
                mine = run(path, "ours", question)
                line = f"{edges:>8} {edges // 10:>7} {question:>11} {mine['seconds']:>7.3f} {mine['mib']:>6.0f}"
                if question != "list" and not options.no_networkx:
                    other = run(path, "networkx", question)
                    if other["result"] != mine["result"]:
                        raise SystemExit(f"{question}: {mine['result']} is not {other['result']}")
                    times = other["seconds"] / mine["seconds"]
                    line += f" {other['seconds']:>11.2f} {other['mib']:>6.0f} {times:>13.1f}"
                print(line, flush=True)


if __name__ == "__main__":
    main()
