"""The page without eyes or a mouse: Chromium's accessibility tree, the order of the focus, and what is read out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import mgraph
from mgraph.page.contents import Contents
from mgraph.page.writing import write_page

# What somebody can act on, or must be told the name of.
_NAMED = {
    *("button", "link", "searchbox", "textbox", "combobox", "application", "progressbar", "image", "table", "region"),
    *("navigation", "DisclosureTriangle", "columnheader", "rowheader", "checkbox"),
}
_PLACE = """() => {
    const reached = [...document.querySelectorAll("a[href], button, input, select, summary, [tabindex]")];
    return reached.indexOf(document.activeElement);
}"""


@pytest.fixture(scope="module")
def reader(browser: Any, looked_at: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A page on which a run is under way, in a browser."""
    data = Contents(looked_at.session.store).read(seconds=3600)
    file = write_page({**data, "under_way": [_running(data, 30)]}, tmp_path_factory.mktemp("read") / "r.html")
    context = browser.new_context(viewport={"width": 1000, "height": 800})
    page = context.new_page()
    page.goto(file.as_uri())
    yield page
    context.close()


def _running(data: dict[str, Any], done: int) -> dict[str, Any]:
    told = {"phase": "train", "done": done, "total": 90, "loss": 0.5, "when": data["made"], "seconds_left": 125}
    told["losses"] = [["train", step, 2 / step] for step in range(1, 8)]
    row = {"id": data["runs"]["rows"][0]["id"], "command": "train", "name": "e", "reason": None, "seconds": 61}
    return {**row, "headway": told}


def _views(graph: Any) -> dict[str, str]:
    views = {name: name for name in ("graph", "nodes", "connections", "runs", "provenance")}
    views |= {f"a {one}": f"connection/{graph.connection(one).id}" for one in ("s", "curve", "bare")}
    return views | {"a node": f"node/{graph.node('a').id}", "a run": f"run/{graph.runs()[0]['id']}"}


def _look_at(page: Any, view: str) -> None:
    page.evaluate("(hash) => { location.hash = hash; }", view)
    page.locator(f'#content[data-view="{view}"]').wait_for()
    page.evaluate(
        """() => new Promise((done) => {
            document.querySelectorAll("details").forEach((box) => { box.open = true; });
            requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 0)));
        })"""
    )


def _tree(page: Any) -> list[dict[str, Any]]:
    session = page.context.new_cdp_session(page)
    nodes: list[dict[str, Any]] = session.send("Accessibility.getFullAXTree")["nodes"]
    session.detach()
    return [node for node in nodes if not node.get("ignored")]


def _said(node: dict[str, Any], what: str = "name") -> str:
    return str(node.get(what, {}).get("value", "")).strip()


def test_everything_has_a_name_and_every_chart_a_table(reader: Any, looked_at: Any) -> None:
    for view in _views(looked_at).values():
        _look_at(reader, view)
        tree = _tree(reader)
        nameless = [_said(node, "role") for node in tree if _said(node, "role") in _NAMED and not _said(node)]
        assert nameless == [], view
        roles = [_said(node, "role") for node in tree]
        assert {"banner", "main", "navigation", "contentinfo"} <= set(roles), view
        headings = [int(p["value"]["value"]) for node in tree if _said(node, "role") == "heading"
                    for p in node["properties"] if p["name"] == "level"]  # fmt: skip
        assert headings[0] == 1, view
        assert all(after - before <= 1 for before, after in pairwise(headings)), view
        # The table of a chart is folded up in the same part of the page.
        bare = reader.evaluate(
            """() => [...document.querySelectorAll(".chart, canvas.relief")].filter((chart) => {
                for (let around = chart; around && around.id !== "content"; around = around.parentElement) {
                    if (around.querySelector("details table")) return false;
                }
                return !chart.closest(".panels")?.parentElement.querySelector("details table");
            }).map((chart) => chart.getAttribute("aria-label"))"""
        )
        assert bare == [], view
        for role in ("searchbox", "combobox", "region", "application", "image"):  # a list of them says which is which
            names = [_said(node) for node in tree if _said(node, "role") == role]
            assert len(names) == len(set(names)), (view, role)


def test_the_focus_goes_from_the_top_to_the_bottom_and_is_seen(reader: Any, looked_at: Any) -> None:
    for view in ("connections", f"connection/{looked_at.connection('s').id}"):
        _look_at(reader, view)
        assert reader.evaluate("""() => [...document.querySelectorAll("[tabindex]")].every((e) => e.tabIndex <= 0)""")
        reader.locator("#skip").focus()
        places = [reader.evaluate(_PLACE)]
        for _ in range(14):
            reader.keyboard.press("Tab")
            places.append(reader.evaluate(_PLACE))
        assert places == sorted(set(places)), view
        assert places[0] == 0
        shown = reader.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
        assert shown != "none"


def test_all_rows_can_be_shown_without_losing_the_place(
    reader: Any, browser: Any, looked_at: Any, tmp_path: Path
) -> None:
    data = Contents(looked_at.session.store).read()
    rows = [{**data["runs"]["rows"][0], "id": f"r{i}"} for i in range(201)]
    file = write_page({**data, "runs": {**data["runs"], "rows": rows}}, tmp_path / "many.html")
    page = browser.new_page()
    page.goto(f"{file.as_uri()}#runs")
    page.get_by_role("button", name="Show all rows").press("Enter")
    assert page.locator("#runs tbody tr").count() == 201
    assert page.evaluate("document.activeElement.getAttribute('role')") == "region"
    page.close()


def test_what_is_under_way_is_read_out_and_the_focus_stays(browser: Any, looked_at: Any, tmp_path: Path) -> None:
    data = Contents(looked_at.session.store).read(seconds=2)  # a busy machine must get it onto the screen in this time
    file = tmp_path / "r.html"
    write_page({**data, "under_way": [_running(data, 30)]}, file)
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{file.as_uri()}#connections")
    news = page.locator("footer [role=status]")
    page.wait_for_function("() => document.querySelector('footer [role=status]')?.textContent", timeout=60_000)
    assert news.inner_text() == "train e: train 30 of 90, loss 0.5, about 2 min left of this phase"
    page.get_by_role("button", name="peak", exact=True).focus()
    write_page({**data, "under_way": [_running(data, 31)]}, file)
    with page.expect_navigation(timeout=60_000):
        page.evaluate("() => { window.before = true; }")
    page.wait_for_function("() => window.before === undefined && document.readyState === 'complete'", timeout=60_000)
    assert page.evaluate("document.activeElement.textContent") == "peak"
    assert news.inner_text() == ""  # once a minute is enough
    write_page({**data, "under_way": []}, file)
    page.wait_for_function("() => document.querySelector('footer [role=status]')?.textContent", timeout=60_000)
    assert news.inner_text() == "Nothing is under way any more."
    context.close()


def test_an_ancestry_that_is_left_out_is_said(browser: Any, looked_at: Any, tmp_path: Path) -> None:
    data = Contents(looked_at.session.store).read()
    node = looked_at.node("m").id
    data["node_details"][node]["ancestry"] = None
    page = browser.new_page()
    page.goto(f"{write_page(data, tmp_path / 'r.html').as_uri()}#node/{node}")
    assert f"mgraph show {node} --ancestry --graph digits.mgraph" in page.locator("main").inner_text()
    assert json.loads(page.locator("#data").inner_text())["graph"] == mgraph.open(looked_at.path).path.name
    page.close()
