"""An experiment that was run, for tests of what follows."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mgraph.repro import costing


@pytest.fixture(scope="module")
def done(
    made_once: Callable[[str, Callable[[Path], None]], Path], tmp_path_factory: pytest.TempPathFactory, commands: Any
) -> Path:
    """A directory in which an experiment was run by the command."""

    def fill(place: Path) -> None:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(costing, "SECONDS", 0.01)
            told = commands(place)("repro", "s-simplex", "--device", "cpu", "--json")
        assert "1 row to run: about " in told.stderr

    made = made_once("s-simplex", fill)
    return Path(shutil.copytree(made, tmp_path_factory.mktemp("repro"), dirs_exist_ok=True))
