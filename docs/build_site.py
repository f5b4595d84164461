"""Builds the documentation as a site: ``python docs/build_site.py build/site``, strictly, every warning an error.

The pages are those of docs/, which stand on their own; here they get shelves, a search, and pages of the Python
interface from its docstrings. A link that leads out of docs/ goes to the page that stands in for it, or becomes text.
"""

from __future__ import annotations

import inspect
import re
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INSTEAD = {"../README.md": "index.md", "../benchmarks/README.md": "benchmarks.md"}
_OUT = re.compile(r"\[([^\]]+)\]\((\.\./[^)\s]+)\)")
_FENCE = re.compile(r"^```(\w+) [^\n]*$", re.MULTILINE)  # what follows the language is for docs/generate.py


def collect(source: Path) -> None:
    """Copy pages and pictures, and write those that exist only here."""
    for file in sorted((ROOT / "docs").iterdir()):
        if file.suffix == ".md":
            (source / file.name).write_text(page(file.read_text()))
        elif file.suffix == ".png" or file.name == "conf.py":
            shutil.copy(file, source / file.name)
    shutil.copytree(ROOT / "docs" / "gallery", source / "gallery")
    (source / "benchmarks.md").write_text(page((ROOT / "benchmarks" / "README.md").read_text()))
    write_api(source / "api")


def page(text: str) -> str:
    """Return a page whose links lead to pages of the site."""

    def led(match: re.Match[str]) -> str:
        said, target = match.groups()
        return f"[{said}]({INSTEAD[target]})" if target in INSTEAD else said

    return _FENCE.sub(r"```\1", _OUT.sub(led, text))


def write_api(directory: Path) -> None:
    """Write one page for each public name."""
    import mgraph

    directory.mkdir()
    names = [name for name in mgraph.__all__ if not inspect.ismodule(getattr(mgraph, name))]
    for name in names:
        thing = getattr(mgraph, name)
        if inspect.isclass(thing):
            body = f".. autoclass:: mgraph.{name}\n   :members:\n   :inherited-members: dict, tuple, Exception\n"
        elif callable(thing):
            body = f".. autofunction:: mgraph.{name}\n"
        else:
            held = f"\n   {', '.join(f'``{key}``' for key in thing)}\n"
            body = f".. py:data:: mgraph.{name}\n   :type: {type(thing).__name__}\n{held}"
        (directory / f"{name}.rst").write_text(f"{name}\n{'=' * len(name)}\n\n{body}")
    listed = "\n".join(f"   {name}" for name in sorted(names, key=str.lower))
    head = "Python interface, name by name"
    toctree = f".. toctree::\n   :maxdepth: 1\n\n{listed}\n"
    (directory / "index.rst").write_text(f"{head}\n{'=' * len(head)}\n\n{toctree}")


def main() -> None:
    """Build the site into the directory that is named."""
    from sphinx.cmd.build import build_main

    out = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as directory:
        collect(Path(directory))
        code = build_main(["-W", "--keep-going", "-q", "-b", "html", directory, str(out)])
    if code == 0:
        print(out / "index.html")
    sys.exit(code)


if __name__ == "__main__":
    main()
