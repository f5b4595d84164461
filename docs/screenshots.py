"""Draws docs/report.png: the page of the demo's graph in Chromium, as a reader sees it.

``python docs/screenshots.py`` runs the demo, which takes a minute; ``python docs/screenshots.py GRAPH DIRECTORY`` takes
pictures of every view of another graph, at 1280 and at 400 pixels, to be looked at.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mgraph

DOCS = Path(__file__).resolve().parent
WIDTHS = (1280, 400)


@contextmanager
def _pages(file: Path, width: int, height: int = 900) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": height})
        page.goto(file.as_uri())
        yield page
        browser.close()


def picture_for_docs() -> None:
    """Draw the graph's view of the demo."""
    with tempfile.TemporaryDirectory() as directory:
        mgraph.run_demo(Path(directory), say=lambda _: None)
        file = mgraph.open(Path(directory) / "digits.mgraph").report(Path(directory) / "r.html")
        with _pages(file, 1000) as page:
            page.wait_for_timeout(500)
            page.screenshot(path=DOCS / "report.png", full_page=True)


def every_view(graph: Path, directory: Path) -> None:
    """Draw all views of a graph's page at both widths, those of single things by their names."""
    g = mgraph.open(graph)
    file = g.report(directory / "report.html")
    views = {name: name for name in ("graph", "nodes", "connections", "runs", "provenance")}
    views |= {f"node-{row['name'] or row['id']}": f"node/{row['id']}" for row in g.nodes()}
    views |= {f"connection-{row['name'] or row['id']}": f"connection/{row['id']}" for row in g.connections()}
    for width in WIDTHS:
        with _pages(file, width) as page:
            for name, view in views.items():
                page.goto(f"{file.as_uri()}#{view}")
                page.wait_for_timeout(300)
                page.screenshot(path=directory / f"{name}-{width}.png", full_page=True)


if __name__ == "__main__":
    if sys.argv[1:]:
        every_view(Path(sys.argv[1]), Path(sys.argv[2]))
    else:
        picture_for_docs()
