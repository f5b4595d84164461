"""Runs the documentation: every console and Python block of a page, in order, in one fresh directory.

``python docs/generate.py`` writes the real output below every command, and the reference pages; the tests run the same
blocks and compare. Blocks: ``console`` (lines after ``$`` are commands, the rest is their output), ``python`` (one
namespace per page), and any block with ``file=NAME`` (written to the directory, not run).
"""

from __future__ import annotations

import contextlib
import io
import json
import linecache
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGES = (
    "README.md",
    "docs/tutorial.md",
    "docs/architectures.md",
    "docs/training.md",
    "docs/paths-and-surfaces.md",
    "docs/queries.md",
    "docs/merging.md",
    "docs/neb.md",
    "docs/llpf.md",
    "docs/measures.md",
    "docs/explore.md",
    "docs/reproducing.md",
    "docs/report.md",
    "docs/your-own.md",
    "docs/extending.md",
    "docs/tasks.md",
    "docs/resume.md",
    "docs/sharing.md",
    "docs/upkeep.md",
    "docs/python.md",
)
COLUMNS = "100"
RECORDED = ROOT / "docs" / "recorded.json"
_BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run_page(text: str) -> str:
    """Run a page's blocks in a fresh directory and return the page with the real outputs."""
    from mgraph_store.index.following import follow_at_last

    namespace: dict[str, Any] = {"__name__": "__page__"}
    with tempfile.TemporaryDirectory() as directory, _surroundings(Path(directory)):
        page = _BLOCK.sub(lambda match: _run_block(match, namespace), text)
        follow_at_last()  # before the directory goes
        return page


def _as_cell(body: str) -> str:
    """Let the source of a block be found, as a notebook does with its cells; return the name of its file."""
    name = f"<block {len(linecache.cache)}>"
    linecache.cache[name] = (len(body), None, body.splitlines(keepends=True), name)
    return name


def _run_block(match: re.Match[str], namespace: dict[str, Any]) -> str:
    language, info, body = match.groups()
    file = re.search(r"file=(\S+)", info)
    if file:
        Path(file.group(1)).parent.mkdir(parents=True, exist_ok=True)
        Path(file.group(1)).write_text(body)
    elif language == "python":
        output = io.StringIO()
        with contextlib.redirect_stdout(output), _importable_from_here():
            exec(compile(body, _as_cell(body), "exec", dont_inherit=True), namespace)
    elif language == "console":
        lines = []
        for line in body.splitlines():
            if line.startswith("$ "):
                lines.append(line)
                # The directory has another name each time.
                lines += _command(line[2:]).replace(f"{Path.cwd()}/", "").rstrip("\n").splitlines()
        body = "\n".join(line.rstrip() for line in lines) + "\n"
    return f"```{language}{info}\n{body}```"


@contextlib.contextmanager
def _importable_from_here() -> Iterator[None]:
    """Let a page's Python import the modules that the page wrote, and forget them afterwards."""
    before, here = set(sys.modules), str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", None) or "").startswith(here):
                del sys.modules[name]


def _command(line: str) -> str:
    words = shlex.split(line, comments=True)
    if words[0] == "mgraph":
        return _mgraph(words[1:])
    if words[0] == "python":
        words[0] = sys.executable
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"$ {line}\nexited with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def _mgraph(arguments: list[str]) -> str:
    """Run a command in this process: loading torch anew for each would cost minutes."""
    from mgraph_cli.main import cli
    from mgraph_store.index.following import follow_at_last

    output = io.StringIO()
    code: Any = 0
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            cli.main(arguments, prog_name="mgraph")
        except SystemExit as end:
            code = end.code
    follow_at_last()  # as when a process ends
    text = output.getvalue()
    if code and not text.startswith("Error:"):  # an error that a page shows on purpose is output, too
        raise RuntimeError(f"$ mgraph {shlex.join(arguments)}\nexited with {code}:\n{text}")
    return text


@contextlib.contextmanager
def _surroundings(directory: Path) -> Iterator[None]:
    before, here = dict(os.environ), Path.cwd()
    os.environ |= {"COLUMNS": COLUMNS, "MGRAPH_CONFIG_DIR": str(directory / ".config"), "MGRAPH_PROGRESS_SECONDS": "0"}
    os.environ.pop("MGRAPH_GRAPH", None)
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(here)
        os.environ.clear()
        os.environ.update(before)


_COMPLETION = """## Completion

The shell completes commands, options, the names of nodes, connections and spaces of the graph, and specs. It reads the
index alone. Put the line for your shell into its start-up file:

```sh
eval "$(_MGRAPH_COMPLETE=bash_source mgraph)"            # ~/.bashrc, bash 4.4 or newer
eval "$(_MGRAPH_COMPLETE=zsh_source mgraph)"             # ~/.zshrc
_MGRAPH_COMPLETE=fish_source mgraph | source             # ~/.config/fish/completions/mgraph.fish
```
"""


def commands_page() -> str:
    """Write the reference of the command line from the help texts."""
    from mgraph_cli.main import cli

    parts = ["# Commands\n\nGenerated from `--help` by `docs/generate.py`.\n", _COMPLETION]
    with tempfile.TemporaryDirectory() as directory, _surroundings(Path(directory)):
        for name in cli.list_commands(None):  # type: ignore[arg-type]
            parts.append(f"## mgraph {name}\n\n```text\n{_mgraph([name, '--help']).rstrip()}\n```\n")
    return "\n".join(parts)


def methods_page() -> str:
    """Write the reference of methods and settings from the dataclasses."""
    from mgraph.evaluate.sharpness import SharpnessSettings
    from mgraph.methods.registry import METHODS
    from mgraph.settings import format_value
    from mgraph.train.settings import TrainSettings

    parts = ["# Methods and settings\n\nGenerated from the settings' dataclasses by `docs/generate.py`.\n"]
    others = {"train": "training of a mode", "sharpness": "how sharp the minimum around a point is"}
    for name, settings in ({"train": TrainSettings} | METHODS | {"sharpness": SharpnessSettings}).items():
        how = f"mgraph {name}" if name in others else f"mgraph connect … --{name}"
        summary = getattr(settings, "summary", None) or others[name]
        parts.append(f"## {name}\n\n`{how}`, in Python `mgraph.{settings.__name__}`: {summary}.\n")
        if settings.infos():
            parts.append("| setting | type | default | unit | meaning |\n|---|---|---|---|---|")
            parts += [
                f"| `{i.name}` | {', '.join(i.choices) or i.kind} | {i.example()} | {i.unit} | {i.help} |"
                for i in settings.infos()
            ]
            parts.append("")
        for preset, values in settings.presets.items():
            written = ", ".join(f"`{key}={format_value(value)}`" for key, value in values.items())
            parts.append(f"Preset `{preset}`: {written}.\n")
        for reference in getattr(settings, "references", ()):
            parts.append(f"Reference: {reference}\n")
    return "\n".join(parts).rstrip() + "\n"


def results_page() -> str:
    """Put what was found, in words, before the stored outputs of the benchmarks that found it."""
    results = ROOT / "benchmarks" / "results"
    parts = [(results / "findings.md").read_text()]
    for file in sorted(results.glob("*.txt")):
        parts.append(f"## {file.stem}\n\n```text\n{file.read_text().rstrip()}\n```\n")
    return "\n".join(parts)


def recorded_on() -> dict[str, str]:
    """Say what training's last digits depend on: the pages were recorded on such a machine."""
    import torch

    facts = Path("/proc/cpuinfo")
    text = facts.read_text() if facts.exists() else ""
    # Where a name is shared by generations of processors that round differently, these two tell them apart.
    told = [re.search(rf"^{field}\s*: (.*)$", text, re.MULTILINE) for field in ("model name", "cpu family", "model")]
    processor = " ".join(found.group(1) for found in told if found) or platform.processor()
    return {"processor": processor, "torch": torch.__version__}


GENERATED = {"docs/commands.md": commands_page, "docs/methods.md": methods_page, "docs/results.md": results_page}


def main() -> None:
    """Write all pages anew, or those named as arguments."""
    chosen = sys.argv[1:] or [*PAGES, *GENERATED]
    for page in chosen:
        path = ROOT / page
        path.write_text(GENERATED[page]() if page in GENERATED else run_page(path.read_text()))
        print(page)
    if set(PAGES) <= set(chosen):
        RECORDED.write_text(json.dumps(recorded_on(), indent=2) + "\n")


if __name__ == "__main__":
    main()
