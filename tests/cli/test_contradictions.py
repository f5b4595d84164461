"""A stranger's index whose rows contradict each other is said to be damaged, never met with an unexpected error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pytest

NOBODY = "mzzzzzzzzzzzz"
FORGED = {
    "no ends": "DELETE FROM member_rows WHERE role = 'end'",
    "one end": "DELETE FROM member_rows WHERE role = 'end' AND position = 1",
    "no members": "DELETE FROM member_rows",
    "members that do not exist": f"UPDATE member_rows SET node_id = '{NOBODY}'",
    "edges of others": f"UPDATE edges SET source_id = '{NOBODY}'",
    "edges between other nodes": "UPDATE edges SET target_id = (SELECT id FROM nodes WHERE name = 'd')",
    "a family of more rows": """UPDATE connections SET family = '{"family": "bezier-curve", "bends": 4}'""",
    "no nodes": "DELETE FROM nodes",
}
RARELY = {"no ends", "no nodes"}  # with make stress: others lack the same, and more
COMMANDS = (
    *("ls", "show curve", "show s", "components --max-barrier 9", "mst", "sweep curve --grid 3", "merge s"),
    *("ensemble curve", "route a b", "neighbours a", "plot curve -o x.png --overwrite", "suggest", "gc --dry-run"),
)


@pytest.mark.parametrize("what", [pytest.param(what, marks=[pytest.mark.stress] * (what in RARELY)) for what in FORGED])
def test_rows_that_contradict_each_other_are_said_to(commands: Any, path: Path, what: str) -> None:
    with duckdb.connect(str(path / "index.duckdb")) as con:
        con.execute(FORGED[what])
    run = commands(path.parent)
    if what != "a family of more rows":  # the store knows no families
        found = run("check", code=1).stdout
        assert "ends" in found or "is not in nodes" in found
    for command in COMMANDS:
        done = run(*command.split(), code=None)
        assert "--traceback" not in done.stderr, (command, done.stderr)  # the mark of what nobody expected
        assert done.code in (0, 1, 2)
