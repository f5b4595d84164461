"""A browser, and the graph of a stranger to look at in it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
_ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
_ARGUMENTS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]


def contents_of(page: Path) -> dict[str, Any]:
    """Read the data of a page as a browser does: up to the first end of a script element."""
    (island,) = re.findall(r'<script type="application/json" id="data">(.*?)</script', page.read_text(), re.DOTALL)
    data: dict[str, Any] = json.loads(island)
    return data


@pytest.fixture(scope="session")
def contents() -> Callable[[Path], dict[str, Any]]:
    return contents_of


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium; tests that need it are skipped where there is none.

    Its driver ends when nobody holds the other end of its pipe any more. So it does not outlive a file: processes that
    are forked later, to load data, would hold it until the end of the tests, which would never come.
    """
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def looked_at(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A copy of the template graph that no test changes, opened."""
    import mgraph

    return mgraph.open(shutil.copytree(template, tmp_path_factory.mktemp("page") / "digits.mgraph"), device="cpu")


@pytest.fixture(scope="session")
def page(looked_at: Any) -> Path:
    """Its page, which no test changes."""
    written: Path = looked_at.report(looked_at.path.parent / "r.html")
    return written
