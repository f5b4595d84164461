"""The page in a browser: every view at two widths, clicks and keys, and a stranger's names."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

import mgraph
from mgraph_store.index.following import follow_at_last

EVIL = '<img src="x" onerror="window.pwned = 1">\x1b[31m\u202e{b}'


@pytest.fixture(scope="module")
def place(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph beside which commands are run; the name of b, those of line and space, and notes are markup."""
    path = Path(shutil.copytree(template, tmp_path_factory.mktemp("browser") / "digits.mgraph"))
    g = mgraph.open(path, device="cpu")
    g.node("a").note(why=EVIL)
    g.plane("a", "b", "c", grid=5, name="plane", splits=["train"], examples=50, bn_examples=50)
    follow_at_last()
    with duckdb.connect(str(path / "index.duckdb")) as con:
        con.execute("UPDATE nodes SET name = ? WHERE name = 'b'", [EVIL])
        con.execute("UPDATE connections SET name = ? WHERE name = 'line'", [f"</script><script>{EVIL}"])
        con.execute("UPDATE connections SET reason = ?", [EVIL])
        con.execute("UPDATE spaces SET name = ?", [EVIL])
        con.execute(_DIVERGED)
    mgraph.open(path).report(path.parent / "r.html")
    return path.parent


_DIVERGED = """UPDATE evaluation_blocks e
SET "values" = list_transform(e."values", lambda v, i: if(p.positions[i] = 4, 'NaN'::DOUBLE, v))
FROM point_blocks p JOIN connections c ON c.id = p.connection_id WHERE p.id = e.block_id AND c.name = 'wall'"""


class Reader:
    """Somebody who looks at a page, and what goes wrong meanwhile."""

    def __init__(self, browser: Any, file: Path, **how: Any) -> None:
        self._context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | how)
        self.page = self._context.new_page()
        self.address = file.as_uri()
        self.trouble: list[str] = []
        self.page.on("console", lambda message: self.trouble.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.trouble.append(str(error)))
        self.page.on("request", self._requested)
        self.ids = self._ids(file)

    def _requested(self, request: Any) -> None:
        if request.url.partition("#")[0] != self.address and request.url != "data:,":
            self.trouble.append(f"requested {request.url}")

    @staticmethod
    def _ids(file: Path) -> dict[str, str]:
        g = mgraph.open(file.parent / "digits.mgraph")
        return {row["name"]: row["id"] for row in [*g.nodes(), *g.connections()]}

    def look_at(self, view: str) -> Any:
        self.page.goto(f"{self.address}#{view}")
        self.wait_for("" if view == "%" else view)
        self.page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        return self.page

    def wait_for(self, view: str) -> None:
        """Wait until a view is shown: a new address is noticed a moment later."""
        self.page.locator(f'#content[data-view="{view}"]').wait_for()

    def pixel(self, series: str, index: int, chart: int = 0) -> tuple[float, float]:
        """Return where a chart has drawn a point of a series, in the window."""
        self.page.locator(".chart canvas").nth(chart).wait_for()
        found = self.page.evaluate(
            """([series, index, number]) => {
                const box = document.querySelectorAll(".chart")[number];
                box.scrollIntoView({ block: "center" });
                const chart = echarts.getInstanceByDom(box);
                const one = chart.getOption().series.find((s) => s.id === series) ?? chart.getOption().series[0];
                const data = one.data[index];
                const at = data.coords ? [0, 1].map((k) => data.coords[0][k] * 0.6 + data.coords[1][k] * 0.4)
                    : (data.value ?? data).slice(0, 2);
                const [x, y] = chart.convertToPixel({ gridIndex: 0 }, at);
                const { left, top } = box.getBoundingClientRect();
                return [left + x, top + y];
            }""",
            [series, index, chart],
        )
        return found[0], found[1]

    def close(self) -> None:
        self._context.close()
        assert self.trouble == []


@pytest.fixture(scope="module")
def _reader(browser: Any, place: Path) -> Iterator[Reader]:
    one = Reader(browser, place / "r.html")
    yield one
    one.close()


@pytest.fixture
def reader(_reader: Reader) -> Iterator[Reader]:
    """Somebody who goes on reading one page, as its parsing takes half a second."""
    yield _reader
    assert _reader.trouble == []


def commands_in(page: Any) -> dict[str, list[str]]:
    """Return the commands that a page offers for the chosen point, as a shell reads them."""
    texts = page.locator(".point code").all_inner_texts()
    return {words[1]: words[1:] for words in map(shlex.split, texts)}


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
def test_every_view_fits_and_requests_nothing(browser: Any, place: Path, width: int, scheme: str) -> None:
    reader = Reader(browser, place / "r.html", viewport={"width": width, "height": 900}, color_scheme=scheme)
    g = mgraph.open(place / "digits.mgraph")
    ids = reader.ids
    views = ["graph", "nodes", "connections", "runs", "provenance", f"node/{ids['m']}", f"node/{ids['a']}"]
    views += [f"connection/{ids[name]}" for name in ("s", "curve", "bare", "plane")]
    views += [f"connection/{next(row['id'] for row in g.connections() if '<img' in row['name'])}"]
    views += [f"run/{g.runs()[0]['id']}", "node/nothing", "nonsense", "%"]
    for view in views:
        page = reader.look_at(view)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, view
        assert page.evaluate("window.pwned") is None
        assert page.locator("img").count() == 0
        for box in page.locator(".chart").all():
            assert box.bounding_box()["height"] > 100, view
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    red = int(paper.partition("(")[2].partition(",")[0])
    assert red > 200 if scheme == "light" else red < 60
    reader.close()


def test_a_click_on_a_cell_gives_the_command_that_exports_the_point(
    reader: Reader, place: Path, commands: Callable[[Path], Any], tmp_path: Path
) -> None:
    page = reader.look_at(f"connection/{reader.ids['s']}")
    x, y = reader.pixel("cells", 5)
    page.mouse.move(x, y)
    tip = page.locator(".tip")
    tip.wait_for()
    swept = mgraph.open(place / "digits.mgraph").connection("s").swept()
    said = tip.inner_text()
    assert "u = 0.5, v = 1" in said
    for split, metric in swept.values:
        assert f"{split} {metric}" in said
    assert f"{swept.values['train', 'loss'][5]:.4g}" in said
    page.mouse.click(x, y)
    given = commands_in(page)
    assert given["export"][1] == swept.node_ids[5]
    run = commands(place)
    run(*given["export"], "--no-verify")
    assert (place / f"{swept.node_ids[5]}.safetensors").exists()
    assert "--at" in given["merge"]
    assert json.loads(run(*given["merge"], "--force", "--json").stdout)["row"]["parameter"] == [0.5, 1]


def test_a_point_of_a_curve_is_chosen_by_click_and_by_key(reader: Reader) -> None:
    page = reader.look_at(f"connection/{reader.ids['curve']}")
    page.mouse.click(*reader.pixel("train", 3))
    point = page.locator(".point h3")
    assert point.inner_text().startswith("t = 0.75")
    page.locator("[role=application]").focus()
    page.keyboard.press("ArrowLeft")
    assert point.inner_text().startswith("t = 0.5")
    page.keyboard.press("End")
    assert point.inner_text().startswith("t = 1")
    page.get_by_role("combobox").select_option("accuracy")
    assert "accuracy" in page.locator(".chart").get_attribute("aria-label")
    page.get_by_text("Table of the 5 points").click()
    page.locator("details tbody tr").nth(4).wait_for()
    assert page.locator("details tbody tr").count() == 5


def test_on_a_plane_u_runs_to_the_right_and_v_upwards(reader: Reader) -> None:
    page = reader.look_at(f"connection/{reader.ids['plane']}")
    page.locator("[role=application]").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    point = page.locator(".point h3")
    assert point.inner_text().endswith("v = 0")
    assert not point.inner_text().startswith("u = 0,")
    page.mouse.click(*reader.pixel("cells", 0))
    assert point.inner_text() == "u = 0, v = 0"
    page.keyboard.press("ArrowUp")
    assert point.inner_text().startswith("u = 0, v = 0.")


def test_the_relief_is_drawn_on_demand_and_shows_the_same_point(reader: Reader) -> None:
    page = reader.look_at(f"connection/{reader.ids['wall']}")
    page.mouse.move(*reader.pixel("cells", 4))
    page.locator(".tip", has_text="nan").wait_for()  # its middle diverged
    assert page.locator("canvas.relief").count() == 0
    page.get_by_role("button", name="3-D view").click()
    canvas = page.locator("canvas.relief")
    drawn = canvas.evaluate("c => c.toDataURL()")
    page.locator("[role=application]").first.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowUp")
    assert page.locator(".point h3").inner_text().startswith("u = 0.5, v = 0")
    assert canvas.evaluate("c => c.toDataURL()") != drawn  # its mark has moved
    canvas.focus()
    page.keyboard.press("ArrowLeft")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert page.locator(".point h3").inner_text().startswith("u = ")
    page.get_by_role("button", name="3-D view").click()
    assert page.locator("canvas.relief").count() == 0


def test_basins_are_marked_and_listed(reader: Reader) -> None:
    page = reader.look_at(f"connection/{reader.ids['s']}")
    page.get_by_role("combobox").select_option("test loss")

    def marked() -> Any:
        page.locator(".chart canvas").wait_for()
        return page.evaluate(
            """() => Object.fromEntries(echarts.getInstanceByDom(document.querySelector(".chart")).getOption().series
                .map((s) => [s.id, s.data.length]))"""
        )

    shown = marked()
    assert shown["basins"] > shown["saddles"] >= 0
    page.get_by_text(f"Table of the {shown['basins']} basin").click()
    table = page.get_by_role("table", name="Basins of the test loss")
    rows = table.locator("tbody tr")
    rows.first.wait_for()
    assert rows.count() == shown["basins"]
    last = rows.last.locator("td").first
    last.get_by_role("button").press("Enter")
    assert last.inner_text() in page.locator(".point h3").inner_text()
    page.get_by_role("button", name="Basins").click()
    assert marked()["basins"] == 0
    page.get_by_role("button", name="Basins").click()
    assert marked() == shown


def test_the_graph_leads_to_its_parts(reader: Reader) -> None:
    page = reader.look_at("graph")
    page.mouse.click(*reader.pixel("nodes", 0))
    reader.wait_for(f"node/{reader.ids['a']}")
    assert page.locator("h1").inner_text() == "a"
    page.get_by_role("link", name="Graph").click()
    reader.wait_for("graph")
    page.mouse.click(*reader.pixel("links", 0))
    page.wait_for_url("**#connection/*")
    page = reader.look_at("graph")
    page.get_by_text("Table of the pairs").click()
    page.locator("details[open] tbody tr").nth(5).wait_for()
    assert page.locator("details[open] tbody tr").count() == 6
    page.mouse.click(*reader.pixel("", 1, chart=2))  # a cell of the matrix
    page.wait_for_url("**#connection/*")


def test_tables_are_sorted_and_filtered_by_keyboard(reader: Reader) -> None:
    page = reader.look_at("connections")
    names = lambda: page.locator("#connections tbody tr td:first-child").all_inner_texts()  # noqa: E731
    assert names()[1:] == ["wall", "curve", "s", "bare", "plane"]
    page.get_by_role("button", name="peak", exact=True).focus()
    page.keyboard.press("Enter")
    assert page.locator("th[aria-sort=ascending]").inner_text().startswith("peak")
    peaks = [
        float(text) for text in page.locator("#connections tbody td:nth-child(5)").all_inner_texts() if text != "–"
    ]
    assert peaks == sorted(peaks)
    assert names()[-1] == "bare"  # what is not known comes last
    page.keyboard.press("Enter")
    assert names()[-1] == "bare"
    page.get_by_role("searchbox").fill("surface peak<99")
    assert names() == ["s"]
    assert "1 of 6 rows" in page.locator("main").inner_text()
    page.get_by_role("link", name="s", exact=True).press("Enter")
    reader.wait_for(f"connection/{reader.ids['s']}")
    assert page.locator("h1").inner_text() == "s"
    assert page.evaluate("document.activeElement.id") == "content"


def test_a_stranger_s_text_is_text(reader: Reader) -> None:
    page = reader.look_at("nodes")
    shown = page.locator("#nodes tbody tr:nth-child(2) td").first.inner_text()
    assert shown == '<img src="x" onerror="window.pwned = 1">\\x1b[31m\\u202e{b}'
    text = reader.look_at(f"node/{reader.ids['a']}").locator("main").inner_text()
    assert 'why: <img src="x"' in text
    assert not {"\x1b", "\u202e"} & set(text)


def test_a_watched_page_shows_what_is_under_way_and_keeps_what_the_reader_chose(browser: Any, place: Path) -> None:
    from mgraph.page.contents import Contents
    from mgraph.page.writing import write_page

    data = Contents(mgraph.open(place / "digits.mgraph").session.store).read(seconds=1)
    told = {"phase": "train", "done": 30, "total": 90, "loss": 0.5, "when": data["made"], "seconds_left": 125}
    told["losses"] = [["train", step, 2 / step] for step in range(1, 31)]
    row = {"id": data["runs"]["rows"][0]["id"], "command": "train", "name": EVIL, "reason": None, "seconds": 61}
    file = write_page({**data, "under_way": [{**row, "headway": told}]}, place / "watched.html")
    reader = Reader(browser, file)
    page = reader.look_at("graph")
    page.get_by_role("button", name="Pause").click()
    said = page.locator(".running").inner_text()
    assert "train 30 of 90, loss 0.5, about 2 min left of this phase; under way for 1 min" in said
    assert page.locator("progress").get_attribute("value") == "30"
    assert page.locator(".running .chart").count() == 1
    page = reader.look_at("connections")
    page.get_by_role("searchbox").fill("curve")
    page.evaluate("window.stays = true")
    page.wait_for_timeout(1300)
    assert page.evaluate("window.stays") is True
    with page.expect_navigation(timeout=60_000):
        page.get_by_role("button", name="Go on reloading").click()
    assert page.evaluate("window.stays") is None
    assert page.evaluate("location.hash") == "#connections"
    assert page.locator("#connections tbody tr").count() == 1
    reader.close()
