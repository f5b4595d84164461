"""Eight writers, two readers and one who connects: all there, no error, nobody starves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "contention.py"


@pytest.mark.stress  # every day, four writers and a reader in tests/store/test_crash.py
@pytest.mark.parametrize(("nodes", "connections"), [(3, 2), pytest.param(50, 20, id="full")])
def test_nobody_starves(nodes: int, connections: int) -> None:
    arguments = ["--writers", "8", "--readers", "2", "--nodes", str(nodes), "--connections", str(connections)]
    done = subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = [line for line in done.stdout.splitlines() if line.startswith(("8 writers", "2 readers", "1 connector"))]
    assert [int(line[24:35]) for line in lines][::2] == [8 * nodes, connections]
    assert max(float(line[64:76]) for line in lines) < 60_000, done.stdout
