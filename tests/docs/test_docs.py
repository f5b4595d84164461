"""The documentation runs, its transcripts are what the commands print, and the reference pages are up to date."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATE = _generate()


@pytest.fixture(autouse=True)
def page_directory_importable() -> Iterator[None]:
    """Pages write modules and import them from the working directory."""
    before, modules = list(sys.path), set(sys.modules)
    sys.path.insert(0, "")
    yield
    sys.path[:] = before
    for name in set(sys.modules) - modules:
        if name in ("mine", "regression"):
            del sys.modules[name]


def masked(text: str) -> set[str]:
    """Return a page's lines without what may differ between machines: numbers, ids, which point came out best."""
    text = re.sub(r"\b[mcpsgakwr][a-z2-7]{12}\b", "X", text)
    text = re.sub(r"\b[0-9a-f]{32}\b", "DIGEST", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:]+Z", "TIME", text)
    text = re.sub(r"[-+]?\d+(\.\d+)*(e[-+]?\d+)?(\+\w+)?", "#", text)
    text = re.sub(r"\b(better|worse|even)\b", "VERDICT", text)
    text = re.sub(r"\b[a-d]\b", "X", text)
    text = re.sub(r"─+", "─", text)
    lines = {" ".join(line.split()) for line in text.splitlines()}
    # The chosen point may be a corner, and lists more or fewer terms.
    return {line for line in lines if not line.startswith(("Note: the chosen point", "info batchnorm"))}


@pytest.mark.parametrize("page", GENERATE.PAGES)
def test_page_runs_and_prints_what_it_shows(page: str) -> None:
    text = (ROOT / page).read_text()
    assert masked(GENERATE.run_page(text)) == masked(text)


def test_every_page_with_code_is_run() -> None:
    pages = ["README.md", *(f"docs/{f.name}" for f in (ROOT / "docs").glob("*.md"))]
    with_code = {p for p in pages if re.search(r"^```(console|python)", (ROOT / p).read_text(), re.MULTILINE)}
    # The store's page reads a graph with DuckDB and Zarr alone; the store's own tests run it.
    assert with_code - {"docs/store-format.md"} == set(GENERATE.PAGES)


@pytest.mark.parametrize("page", ["docs/commands.md", "docs/methods.md", "docs/results.md"])
def test_reference_is_up_to_date(page: str) -> None:
    assert (ROOT / page).read_text() == GENERATE.GENERATED[page](), "run: python docs/generate.py"


def test_every_public_name_is_shown_in_the_python_page() -> None:
    import mgraph

    text = (ROOT / "docs" / "python.md").read_text() + (ROOT / "docs" / "your-own.md").read_text()
    assert [n for n in mgraph.__all__ if n not in _TYPES and f"mgraph.{n}" not in text] == []


# What functions return, shown by use rather than by name.
_TYPES = {"Components", "Connected", "Graph", "Method", "Point"}


@pytest.mark.parametrize("page", ["README.md", *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))])
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#\s]+)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), target
