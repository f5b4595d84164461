"""What does `mgraph ls` cost, beside what any program takes that opens a DuckDB file? A part of ``store.py``.

Every process runs alone, and its CPU time is what the system says it took, its start and its end included.
"""

from __future__ import annotations

import os
import statistics
import sys
from pathlib import Path

from mgraph_store import GraphStore


def starting(scratch: Path, rounds: int) -> None:
    """Print the CPU time of processes, each run ``rounds`` times, in turn; a ratio is that of medians."""
    path = GraphStore.create(scratch / "ls.mgraph").path
    opened = f"""import duckdb
con = duckdb.connect(":memory:", config={{"threads": 1}})
con.execute("ATTACH '{path / "index.duckdb"}' AS g (READ_ONLY)")
con.execute("SELECT * FROM g.nodes").fetchall()"""
    commands = {
        "import duckdb": ["-c", "import duckdb"],
        "… and read the nodes": ["-c", opened],
        "mgraph ls": ["-m", "mgraph_cli", "ls", "--graph", str(path)],
        "mgraph ls --json": ["-m", "mgraph_cli", "ls", "--json", "--graph", str(path)],
    }
    took: dict[str, list[float]] = {name: [] for name in commands}
    for i in range(-1, rounds):
        for name, command in commands.items():
            seconds = _cpu_seconds([sys.executable, *command])
            if i >= 0:  # the first round writes bytecode and warms up the disk
                took[name].append(seconds)
    base = statistics.median(took["import duckdb"])
    for name, seconds_of in took.items():
        cpu = statistics.median(seconds_of)
        print(f"{'start, print, end':>24} {name:>26} {'':>9} {1000 * cpu:>9.1f} {'':>7} {cpu / base:>7.2f}")


def _cpu_seconds(command: list[str]) -> float:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    silent = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_WRONLY, 0) for stream in (1, 2)]
    process = os.posix_spawn(command[0], command, environment, file_actions=silent)
    _, status, usage = os.wait4(process, 0)
    if status:
        raise RuntimeError(f"{command} ended with {os.waitstatus_to_exitcode(status)}")
    return usage.ru_utime + usage.ru_stime
