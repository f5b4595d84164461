"""Ctrl-C while DuckDB works: a real signal in a real process."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mgraph_store import GraphStore, assert_consistent

LONG = "SELECT sum(a.range * b.range) FROM range(100000) a, range(1000000) b"

READING = f"""
with store.reading() as reader:
    print("under way", flush=True)
    reader.query({LONG!r})
"""

SWALLOWING = """
from mgraph_store.errors import MGraphError
try:
    with store.reading() as reader:
        print("under way", flush=True)
        reader.all(Node, where="(SELECT sum(a.range * b.range) FROM range(100000) a, range(1000000) b) > 0")
except MGraphError:
    pass
"""

COMMITTING = f"""
from mgraph_store import Run, new_id
with store.transaction() as tx:
    tx.add(Run(new_id("r"), "train", "{{}}"))
    def check(reader):
        print("under way", flush=True)
        reader.query({LONG!r})
    tx.require(check)
"""


@pytest.mark.parametrize("code", [pytest.param(READING, marks=pytest.mark.stress), SWALLOWING, COMMITTING])
def test_ctrl_c_ends_what_duckdb_does(tmp_path: Path, code: str) -> None:
    store = GraphStore.create(tmp_path / "g.mgraph")
    start = f"""
from mgraph_store import GraphStore, Node
store = GraphStore.open({str(store.path)!r})
try:
{"".join("    " + line + chr(10) for line in code.splitlines())}
except KeyboardInterrupt:
    raise SystemExit(130)
print("went on")
"""
    child = subprocess.Popen([sys.executable, "-c", start], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "under way\n"
    time.sleep(0.3)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=30)
    assert (out, err, child.returncode) == ("", "", 130)
    assert_consistent(store)
