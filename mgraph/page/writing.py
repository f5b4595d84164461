"""Assembling the page as one file, and writing it so that nobody ever reads half of it."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from mgraph.errors import InputError
from mgraph.shown import visible

SUFFIX = ".html"

# In the order in which they build on each other; together they are one script.
_SCRIPTS = ("dom", "format", "state", "colours", "table", "chart", "sweep", "surface", "structure", "views", "main")


def check_page(path: Path) -> None:
    """Raise InputError early for a page that cannot be written, because of its name or its directory."""
    if path.suffix.lower() != SUFFIX:
        raise InputError(f"{path.name} must end in {SUFFIX}.")
    if not path.parent.is_dir():
        raise InputError(f"The directory {path.parent} does not exist; create it first.")
    if path.is_dir():
        raise InputError(f"{path} is a directory; name a file in it.")


def write_page(contents: Mapping[str, Any], path: Path) -> Path:
    """Write the page under another name and rename it; InputError, leaving what was there, if that is refused."""
    check_page(path)
    text = page(contents)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}.") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path


def page(contents: Mapping[str, Any]) -> str:
    """Assemble the page: its style, the library, the data and its own script, in one file that requests nothing."""
    library, script = _library(), _script()
    allowed = f"'{_hash(library)}' '{_hash(script)}'"
    parts = {
        "policy": f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'",
        "refresh": _refresh(contents.get("seconds")),
        "title": _escaped(f"{contents['graph']} – mgraph report"),
        "style": _asset("page.css"),
        "data": island({**contents, "echarts": library_version()}),
        "library": library,
        "script": script,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _asset("page.html"))


def island(contents: Mapping[str, Any]) -> str:
    r"""Write data as JSON that cannot end the script element in which it lies: every < and & is an escape.

    Everything beyond ASCII is one too, and so are U+2028 and U+2029.
    """
    text = json.dumps(contents, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def library_version() -> str:
    """Return the version of ECharts, as the file itself says it."""
    found = re.findall(r'\bversion="(\d+\.\d+\.\d+)"', _library()[-2000:])
    return str(found[-1])


def _refresh(seconds: float | None) -> str:
    """Without scripts the browser reloads a page that is written again; with them the page does, and can be paused."""
    if seconds is None:
        return ""
    return f'<noscript><meta http-equiv="refresh" content="{max(1, round(seconds))}"></noscript>'


def _escaped(text: str) -> str:
    marks = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}
    return "".join(marks.get(character, character) for character in visible(text))


def _hash(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


@cache
def _library() -> str:
    return _read("echarts", "echarts.min.js").strip()


@cache
def _script() -> str:
    parts = "\n".join(_asset(f"{name}.js") for name in _SCRIPTS)
    return f'(() => {{\n"use strict";\n{parts}\n}})();'


def _asset(name: str) -> str:
    return _read("assets", name)


def _read(folder: str, name: str) -> str:
    return resources.files("mgraph.page").joinpath(folder, name).read_text(encoding="utf-8")
