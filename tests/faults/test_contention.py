"""Many writers, two readers and one who connects: all there, no error, nobody starves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "contention.py"


@pytest.mark.parametrize(
    ("writers", "nodes", "connections"), [(4, 3, 2), pytest.param(8, 50, 20, marks=pytest.mark.stress, id="full")]
)
def test_nobody_starves(writers: int, nodes: int, connections: int) -> None:
    arguments = ["--writers", str(writers), "--readers", "2", "--nodes", str(nodes), "--connections", str(connections)]
    done = subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = [
        line for line in done.stdout.splitlines() if line.startswith((f"{writers} writers", "2 readers", "1 connector"))
    ]
    assert [int(line[24:35]) for line in lines][::2] == [writers * nodes, connections]
    assert max(float(line[64:76]) for line in lines) < 60_000, done.stdout
