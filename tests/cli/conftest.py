"""How bad input is refused, and a graph that it leaves as it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def check(run: Any, args: list[Any], expect: tuple[str, ...], *, programs: bool = True) -> None:
    """Run it for people, and once more for programs."""
    done = run(*args, code=2)
    assert done.stdout == ""
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    for part in expect:
        assert part in done.stderr
    assert done.stderr.rstrip().endswith((".", "?", "--help")) or "mgraph" in done.stderr.rpartition(";")[2]
    if programs and args[0] not in ("plot", "report"):
        told = run(*args, "--json", code=2)
        assert told.stdout == ""
        error = json.loads(told.stderr)["error"]
        assert set(error) == {"kind", "message"}
        assert f"Error: {error['message']}\n" == done.stderr


@pytest.fixture(scope="session")
def refused() -> Callable[..., None]:
    return check


@pytest.fixture(scope="module")
def shared(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy for all cases that need nothing prepared: after each it must be as before."""
    return Path(shutil.copytree(template, tmp_path_factory.mktemp("shared") / "digits.mgraph"))
