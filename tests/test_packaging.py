"""The wheel: three packages with their types and data, and it works outside the checkout."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("mgraph", "mgraph_cli", "mgraph_store")
_IN_ONE_PROCESS = """
import contextlib, io, json, sys
from pathlib import Path
import mgraph, mgraph_cli.main, mgraph_store
assert all(Path(m.__file__).is_relative_to(sys.argv[1]) for m in (mgraph, mgraph_cli, mgraph_store))
said = []
for command in json.loads(sys.argv[2]):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            mgraph_cli.main.cli(command, prog_name="mgraph")
        except SystemExit as end:
            assert not end.code, command
    said.append(out.getvalue())
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of what is packaged, so that nothing is left in the checkout."""
    pytest.importorskip("hatchling")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("mgraph", "cli", "store"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(out)],
        cwd=source,
        check=True,
        capture_output=True,
    )
    (built,) = out.glob("*.whl")
    return built


def test_the_readme_of_the_package_stands_alone() -> None:
    """On the package index nothing lies beside it: its picture and links lead to the repository, or there are none."""
    spec = importlib.util.spec_from_file_location("published", ROOT / ".ci" / "published.py")
    assert spec is not None
    assert spec.loader is not None
    published = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(published)
    text, url = (ROOT / "README.md").read_text(), "https://example.org/us/mgraph"
    there = published.readme(text, url, "1.2.3")
    pictures, links = re.findall(r"!\[[^\]]*\]\((\S+)\)", there), re.findall(r"(?<!!)\[[^\]]+\]\((\S+)\)", there)
    assert pictures == [f"{url}/raw/v1.2.3/docs/surface.png"]
    assert len(links) > 20
    assert all(link.startswith(f"{url}/blob/v1.2.3/") for link in links)
    assert all((ROOT / link.removeprefix(f"{url}/blob/v1.2.3/").partition("#")[0]).exists() for link in links)
    alone = published.readme(text, None, "1.2.3")
    assert re.findall(r"\]\(", alone) == []
    assert "tutorial goes from nothing" in alone
    found = tomllib.loads(published.project((ROOT / "pyproject.toml").read_text(), url))
    assert found["project"]["urls"]["Homepage"] == url


def test_the_wheel_holds_three_packages_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.split("/")[0] for n in names if ".dist-info" not in n} == set(PACKAGES)
    assert {f"{p}/py.typed" for p in PACKAGES} < set(names)
    assert "mgraph/data/digits.npz" in names
    assert any(n.endswith("licenses/LICENSE") for n in names)
    page = {
        str(p.relative_to(ROOT)) for p in (ROOT / "mgraph" / "page").rglob("*") if p.suffix not in ("", ".py", ".pyc")
    }
    assert len(page) > 10
    assert page | {f"mgraph/page/echarts/{name}" for name in ("LICENSE", "LICENSE-d3", "NOTICE")} <= set(names)
    for name in ("LICENSE", "LICENSE-d3", "NOTICE"):  # of ECharts, beside ours
        assert any(n.endswith(f"licenses/mgraph/page/echarts/{name}") for n in names)
    modules = {
        str(p.relative_to(ROOT / top)) for top in ("", "cli", "store") for p in (ROOT / top).glob("mgraph*/**/*.py")
    }
    assert modules == {n for n in names if n.endswith(".py")}
    metadata = zipfile.ZipFile(wheel).read(next(n for n in names if n.endswith("METADATA"))).decode()
    assert "License-Expression: Apache-2.0 AND BSD-3-Clause" in metadata
    assert "Requires-Python: >=3.11" in metadata


def test_the_unpacked_wheel_works_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)

    commands = (
        ["--version"],
        ["methods"],
        ["init", "g.mgraph", "--arch", "mlp?hidden=4,", "--data", "digits", "--json"],  # the data came along
        ["report", "-o", "r.html"],
    )
    said = subprocess.run(
        [sys.executable, "-c", _IN_ONE_PROCESS, str(site), json.dumps(commands)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    version, methods, made, reported = json.loads(said)
    assert version.startswith("mgraph, version ")
    assert "surface" in methods
    assert json.loads(made)["row"]["parameters"] == 64 * 4 + 4 + 4 * 10 + 10
    assert reported == "r.html\n"
    assert (tmp_path / "r.html").stat().st_size > 1_000_000  # ECharts came along, too
