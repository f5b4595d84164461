from __future__ import annotations

import subprocess
import sys

HEAVY = ("duckdb", "zarr", "torch", "click", "numcodecs")


def _loaded(code: str) -> set[str]:
    script = f"{code}\nimport sys\nprint(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {m for m in run.stdout.split() if m in HEAVY}


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert _loaded("import mgraph_store, mgraph_store.errors, mgraph_store.rows.records") == set()
    assert _loaded("import mgraph_store.rows.ids, mgraph_store.rows.layout") == set()
    assert _loaded("from mgraph_store import Layout, Node, combine, describe, new_id, digest") == set()


def test_reading_rows_does_not_load_zarr(tmp_path: object) -> None:
    code = f"""
from pathlib import Path
from mgraph_store import GraphStore, Node
GraphStore.create({str(tmp_path)!r} + "/g.mgraph")
with GraphStore.open({str(tmp_path)!r} + "/g.mgraph").reading() as reader:
    assert reader.all(Node) == []
"""
    assert _loaded(code) == {"duckdb"}


def test_all_names_exist() -> None:
    import mgraph_store

    assert all(hasattr(mgraph_store, name) for name in mgraph_store.__all__)
    assert set(mgraph_store.__all__) <= set(dir(mgraph_store))
    assert not hasattr(mgraph_store, "nonsense")
