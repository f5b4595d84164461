"""The documentation runs, its transcripts are what the commands print, and the reference pages are up to date."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
from pathlib import Path
from types import ModuleType

import click
import pytest
from transcripts import differences

from mgraph_cli.main import cli

ROOT = Path(__file__).resolve().parents[2]


def _generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATE = _generate()

# Pages that take longest and whose features other tests try one by one; make stress runs them, and otherwise only their
# code is looked at. The tutorial begins like README, which is run.
_LONG = (
    *("docs/tutorial.md", "docs/paths-and-surfaces.md", "docs/queries.md", "docs/explore.md", "docs/resume.md"),
    *("docs/llpf.md", "docs/measures.md", "docs/neb.md", "docs/your-own.md", "docs/tasks.md"),
)


@pytest.mark.parametrize("page", [pytest.param(p, marks=[pytest.mark.stress] * (p in _LONG)) for p in GENERATE.PAGES])
def test_page_runs_and_prints_what_it_shows(page: str) -> None:
    text = (ROOT / page).read_text()
    found = differences(text, GENERATE.run_page(text))
    here = json.loads(GENERATE.RECORDED.read_text()) == GENERATE.recorded_on()
    # On another processor, other points of a surface may come out best: a few lines then name others.
    assert len(found) <= (0 if here else len(text.splitlines()) // 25), "\n".join(found)


@pytest.mark.parametrize("page", _LONG)
def test_its_commands_can_be_given_and_its_python_is_python(page: str) -> None:
    text = (ROOT / page).read_text()
    commands = 0
    for language, _, body in re.findall(r"^```(console|python)([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if language == "python":
            compile(body, page, "exec", dont_inherit=True)
            continue
        lines = body.splitlines()
        for line, said in zip(lines, [*lines[1:], ""], strict=True):
            if line.startswith("$ mgraph ") and not said.startswith("Error: "):
                _, command, *rest = shlex.split(line[2:], comments=True)
                with click.Context(cli, **cli.context_settings) as above:
                    found = cli.get_command(above, command)
                    assert found is not None, line
                    found.make_context(command, rest, parent=above)
                commands += 1
    assert commands >= 4


def test_every_page_with_code_is_run() -> None:
    pages = ["README.md", *(f"docs/{f.name}" for f in (ROOT / "docs").glob("*.md"))]
    with_code = {p for p in pages if re.search(r"^```(console|python)", (ROOT / p).read_text(), re.MULTILINE)}
    # The store's page reads a graph with DuckDB and Zarr alone; the store's own tests run it.
    assert with_code - {"docs/store-format.md"} == set(GENERATE.PAGES)


def test_every_page_is_on_one_shelf_of_the_site() -> None:
    def listed(page: str) -> list[str]:
        (toctree,) = re.findall(r"^```{toctree}\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
        return [line for line in toctree.splitlines() if line and not line.startswith(":")]

    shelves = listed("docs/index.md")
    pages = {f.stem for f in (ROOT / "docs").glob("*.md")} - {"index", *shelves}
    found = [page for shelf in shelves for page in listed(f"docs/{shelf}.md")]
    assert len(shelves) == 4
    assert sorted(found) == sorted([*pages, "api/index", "benchmarks"])  # the last two exist on the site alone


def test_every_picture_of_the_site_is_collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("docs_build_site", ROOT / "docs" / "build_site.py")
    assert spec is not None
    assert spec.loader is not None
    site = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(site)
    monkeypatch.setattr(site, "write_api", lambda _: None)
    site.collect(tmp_path)
    shown = [p for file in tmp_path.glob("*.md") for p in re.findall(r"!\[[^\]]*\]\((\S+)\)", file.read_text())]
    assert "gallery/surface.png" in shown
    assert [picture for picture in shown if not (tmp_path / picture).exists()] == []


def test_every_link_between_pages_leads_somewhere() -> None:
    for file in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(
            r"\]\(([^)#\s]+)(?:#[^)]*)?\)", re.sub(r"```.*?```", "", file.read_text(), flags=re.DOTALL)
        ):
            if "://" not in target:
                assert (file.parent / target).exists(), f"{file.name} links to {target}"


@pytest.mark.parametrize("page", ["docs/commands.md", "docs/methods.md", "docs/results.md"])
def test_reference_is_up_to_date(page: str) -> None:
    assert (ROOT / page).read_text() == GENERATE.GENERATED[page](), "run: python docs/generate.py"


def test_every_public_name_is_shown_in_the_python_page() -> None:
    import mgraph

    text = (ROOT / "docs" / "python.md").read_text() + (ROOT / "docs" / "your-own.md").read_text()
    assert [n for n in mgraph.__all__ if n not in _TYPES and f"mgraph.{n}" not in text] == []


def test_the_lines_of_an_extension_are_counted() -> None:
    """A row of the table of docs/extending.md says how long its file is, and a file is a family in under 50 lines."""
    text = (ROOT / "docs" / "extending.md").read_text()
    files = {
        name: sum(bool(line.strip()) for line in body.splitlines())
        for name, body in re.findall(r"^```python file=(\S+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    }
    told = {
        name: int(lines)
        for name, lines in re.findall(r"^\|.*\| `(\S+\.py)` \| 1 \| (\d+) \| 0 \|$", text, re.MULTILINE)
    }
    assert told == files
    assert len(told) == 8
    assert max(told.values()) < 50


# What functions return, shown by use rather than by name.
_TYPES = {
    *("Components", "Connected", "Criterion", "Difference", "Done", "Graph", "Link", "Measured", "Method", "Outlook"),
    *("Point", "Progress", "Size", "Suggestion", "UpkeepPlan"),
}


@pytest.mark.parametrize("page", ["README.md", *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))])
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#\s]+)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), target


SHOWN = """
 name   id              train loss   seconds
 ───────────────────────────────────────────
 a      mwrv6jcyeidwz       0.0813       1.5
 b      mmtlzwwsw6zpu        0.214      12.5
a and mwrv6jcyeidwz at 61 points, 2026-11-24T07:00:39Z
a sha256-{0}, b sha256-{1}, a again sha256-{0}
""".format("149cf867" * 8, "c14cd65c" * 8)


@pytest.mark.parametrize(
    ("old", "new", "count"),
    [
        ("mwrv6jcyeidwz", "mwrv6jcyeidww", 0),  # another id, the same in both places
        ("149cf867", "9ac0136b", 0),  # another digest, the same in both places
        ("again sha256-149cf867", "again sha256-c14cd65c", 1),
        ("0.0813       1.5", "0.0815      17.5", 0),  # a last digit and a clock
        ("2026-11-24T07:00:39Z", "2026-12-01T11:00:00Z", 0),
        ("0.214", "0.314", 1),
        ("61 points", "60 points", 1),
        ("a and mwrv6jcyeidwz", "a and mmtlzwwsw6zpu", 1),
        (" b      mmtlzwwsw6zpu        0.214      12.5\n", "", 1),
    ],
)
def test_a_transcript_that_differs_is_noticed(old: str, new: str, count: int) -> None:
    assert len(differences(SHOWN, SHOWN.replace(old, new))) == count


def test_a_wrong_order_is_noticed() -> None:
    first, second = SHOWN.splitlines(keepends=True)[3:5]
    assert differences(SHOWN, SHOWN.replace(first + second, second + first)) != []


def test_only_a_block_that_says_so_may_come_in_another_order() -> None:
    block = "```console{}\n$ mgraph x\n{} took 0.5\n{} took 0.25\n```\n"
    told, other = block.format(" unordered", "one", "two"), block.format(" unordered", "two", "one")
    assert differences(told, other.replace("0.5", "Z").replace("0.25", "0.5").replace("Z", "0.25")) == []
    assert differences(told, told.replace("two", "three")) != []
    assert differences(block.format("", "one", "two"), block.format("", "two", "one")) != []


def test_the_table_of_the_demo_is_what_its_benchmark_found() -> None:
    """README's numbers are those of seed 0, which ``mgraph demo`` prints too."""
    table = (ROOT / "README.md").read_text().partition("| over the best mode |")[2].partition("\n\n")[0]
    shown = set()
    for line in table.splitlines()[2:]:
        cells = [cell.strip(" *") for cell in line.strip("|").split("|")]
        gain = tuple(float(x) for x in re.findall(r"[-+]?\d+\.\d", cells[4].replace("−", "-")))
        shown.add((round(100 * float(cells[3]), 1), *gain))
    found = set()
    for line in (ROOT / "benchmarks" / "results" / "demo_seeds.txt").read_text().splitlines():
        if match := re.fullmatch(r" +0 +(\d+\.\d)(?: +([-+]\d+\.\d) ± (\d+\.\d))? +\S.*", line):
            found.add(tuple(float(x) for x in match.groups() if x is not None))
    assert len(shown) == 8
    assert shown == found
