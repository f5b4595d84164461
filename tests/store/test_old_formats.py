"""A graph of every format that was ever released opens, is sound, and holds what it held."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

from mgraph_store import FORMAT_VERSION, GraphStore, problems
from mgraph_store.index import migrations
from mgraph_store.rows.schema import TABLES
from mgraph_store.upkeep.repair import repair

DATA = Path(__file__).parents[1] / "data"
VERSIONS = range(1, FORMAT_VERSION + 1)


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def path(version: int, tmp_path: Path) -> Path:
    shutil.unpack_archive(DATA / f"v{version}.mgraph.zip", tmp_path)
    return tmp_path / f"v{version}.mgraph"


def test_it_opens_and_holds_what_it_held(version: int, path: Path) -> None:
    spec = importlib.util.spec_from_file_location("make_v1", DATA / "make_v1.py")
    assert spec is not None
    assert spec.loader is not None
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    store = GraphStore.open(path)
    assert problems(store, deep=True) == []
    expected = json.loads((DATA / f"v{version}.json").read_text())
    assert maker.describe(store) == expected
    assert set(expected["rows"]) == set(TABLES)  # something of everything


def test_its_journal_makes_it_anew(version: int, path: Path) -> None:
    if version != FORMAT_VERSION:
        GraphStore.open(path)  # after a migration it begins anew
    (path / "index.duckdb").unlink()
    store = GraphStore(path)
    repair(store)
    assert problems(store, deep=True) == []


def test_a_way_leads_from_every_version_to_this_one() -> None:
    assert all(migrations.can_migrate(version) for version in VERSIONS)
    assert not migrations.can_migrate(0)
