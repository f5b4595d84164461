"""The program as a person meets it: help, version, exit codes, and no torch where none is needed."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from mgraph_cli.main import cli

COMMANDS = [
    *("init", "join", "add-space", "spaces", "train", "add-mode", "evaluate", "connect", "sweep", "resume", "ls"),
    "align",
    *("show", "log"),
    *("components", "route", "compose", "mst", "dendrogram", "neighbours", "isolated", "suggest", "explore"),
    *("tag", "note", "sql", "compare", "sharpness", "merge", "soup", "ensemble", "predict", "export", "pack", "unpack"),
    *("plot", "map", "matrix", "report", "check", "gc", "rm", "mv", "relocate", "du", "copy", "upgrade", "archive"),
    *("methods", "recipes", "archs", "datasets", "demo", "repro", "plane"),
]

_WITHOUT_TORCH = """
import json, sys
from mgraph_cli.main import cli
seen = {}
for line in json.loads(sys.argv[1]):
    try:
        cli(line, prog_name="mgraph")
    except SystemExit as end:
        seen[" ".join(line)] = [end.code, "torch" in sys.modules, "matplotlib" in sys.modules]
print("\\n" + json.dumps(seen))
"""


def test_looking_and_asking_never_import_torch(python: Callable[..., str], path: Path) -> None:
    lines = [["--help"], ["--version"], *([c, "--help"] for c in COMMANDS)]
    lines += [["ls"], ["ls", "--kind", "sample", "--json"], ["show", "s"], ["show", "a"], ["log"], ["spaces"]]
    lines += [
        ["components", "--max-barrier", "0.5"],
        ["methods"],
        ["compare", "a", "b", "--json"],
        ["methods", "surface"],
        ["recipes"],
        ["recipes", "lenet5-mnist"],
        ["show", "s", "--table"],
        ["show", "s", "--basins"],
        ["datasets"],
        ["report", "-o", "r.html"],
        ["repro"],
    ]
    seen = json.loads(python(_WITHOUT_TORCH, json.dumps(lines), cwd=path.parent).splitlines()[-1])
    assert len(seen) == len(lines)
    assert seen == {" ".join(line): [0, False, False] for line in lines}


def test_listing_loads_what_it_needs(python: Callable[..., str], path: Path) -> None:
    """In a pipe, ls takes twice as long as to import DuckDB; each of these would make that more."""
    script = """
import os, sys
os.environ.pop("COLUMNS", None)  # which is as wide as asked for, and then set by Rich
from mgraph_cli.main import cli
try:
    cli(["ls"], prog_name="mgraph")
except SystemExit as end:
    assert end.code == 0
heavy = ("mgraph.methods", "mgraph.jobs", "mgraph.families", "mgraph.factories", "mgraph_store.tensors.arrays",
    "mgraph_store.objectstorage", "mgraph_store.sharedlog", "numpy", "rich", "zarr", "concurrent.futures", "subprocess")
print(sorted(name for name in heavy if name in sys.modules))
"""
    assert python(script, cwd=path.parent).splitlines()[-1] == "[]"


def test_bad_input_is_refused_without_torch_where_that_is_possible(python: Callable[..., str], path: Path) -> None:
    lines = [["train", "--epochs", "x"], ["connect", "a"], ["connect", "a", "b", "--curve", "--bends", "0"]]
    seen = json.loads(python(_WITHOUT_TORCH, json.dumps(lines), cwd=path.parent).splitlines()[-1])
    assert {tuple(v) for v in seen.values()} == {(2, False, False)}


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_ends_its_text_with_an_example(commands: Any, tmp_path: Path, command: str) -> None:
    text = commands(tmp_path)(*filter(None, [command]), "--help").stdout
    lines = text.splitlines()
    example = lines.index("  Example:")
    options = next(i for i, line in enumerate(lines) if i > example and line and not line.startswith(" "))
    assert example < options
    shown = [line for line in lines[example + 1 : options] if line.strip()]
    assert shown
    assert shown[0].startswith(f"    mgraph {command}".rstrip())
    assert all(line.startswith("    mgraph ") for line in shown)
    assert commands(tmp_path)(*filter(None, [command]), "-h").stdout == text


def test_examples_give_options_that_there_are() -> None:
    context = click.Context(cli)
    for command in COMMANDS:
        made = cli.get_command(context, command)
        assert made is not None
        for line in (made.help or "").partition("Example:")[2].strip().splitlines():
            program, named, *words = shlex.split(line)
            used = cli.get_command(context, named)
            assert program == "mgraph"
            assert used is not None, line
            known = {name for option in used.params for name in (*option.opts, *option.secondary_opts)}
            given = {word.partition("=")[0] for word in words if re.fullmatch(r"--\w.*|-[a-z]", word)}
            assert given <= known, line


def test_every_command_is_in_the_help(commands: Any, tmp_path: Path) -> None:
    text = commands(tmp_path)("--help").stdout
    sections = text.partition("Graphs and modes:")[2].splitlines()
    listed = [line.split()[0] for line in sections if line.startswith("  ")]
    assert sorted(listed) == sorted(COMMANDS)
    assert next(line for line in sections if line and not line.startswith(" ")) == "Connections:"


def test_no_command_is_a_wish_for_help(commands: Any, tmp_path: Path) -> None:
    assert commands(tmp_path)().stdout == commands(tmp_path)("--help").stdout


def test_a_misspelt_command_is_told_the_closest(commands: Any, tmp_path: Path) -> None:
    told = commands(tmp_path)("conect", "a", code=2).stderr
    assert told == "Error: There is no command 'conect'. Did you mean connect? See: mgraph --help\n"


def test_every_setting_is_a_flag_with_its_default(commands: Any, tmp_path: Path) -> None:
    from mgraph.methods.registry import METHODS

    shared = " ".join(commands(tmp_path)("connect", "--help").stdout.split())
    assert "--bends VALUE" not in shared
    assert "Settings of" not in shared
    for name, method in METHODS.items():
        text = " ".join(commands(tmp_path)("connect", f"--{name}", "--help").stdout.split())
        assert f"--{name} {method.summary[0].upper()}{method.summary[1:]}." in shared
        shown = {word for word in text.partition(f"Settings of --{name}:")[2].split() if word.startswith("--")}
        assert shown >= {f"--{info.name.replace('_', '-')}" for info in method.infos()}
        assert ("--pivots" in shown) == (name == "neb")  # and those of no other method
        assert all(preset in text.replace("- ", "-") for preset in method.presets)
    text = " ".join(commands(tmp_path)("connect", "a", "b", "--curve", "-h").stdout.split())
    assert "[default: 30]" in text
    assert "--optimizer sgd|adamw|muon Optimiser; muon is for modes, paths and surfaces. [default: sgd]" in text
    assert "--nesterov true|false " in text
    assert "--bends VALUE Control points between the two ends. [default: 1]" in text
    assert text.index("Methods: --linear") < text.index("Options: --name") < text.index("Settings of --curve")


def test_version(commands: Any, tmp_path: Path) -> None:
    from importlib.metadata import version

    assert commands(tmp_path)("--version").stdout == f"mgraph, version {version('mgraph')}\n"


def test_exit_codes_of_the_real_program(process: Callable[..., subprocess.Popen[str]], path: Path) -> None:
    done = process("ls", "--json", cwd=path.parent)
    out, err = done.communicate(timeout=60)
    assert (done.returncode, err) == (0, "")
    assert len(json.loads(out)["rows"]) == 10
    wrong = process("show", "nothing", cwd=path.parent)
    out, err = wrong.communicate(timeout=60)
    assert (wrong.returncode, out) == (2, "")
    assert err.startswith("Error: ")
    (path / "index.duckdb").write_bytes(b"damaged" * 1000)
    failed = process("ls", cwd=path.parent)
    out, err = failed.communicate(timeout=60)
    assert (failed.returncode, out, err.count("\n")) == (1, "", 1)


def test_a_closed_pipe_is_no_traceback(path: Path) -> None:
    line = f"{sys.executable} -c 'from mgraph_cli.main import main; main()' ls --kind sample | true"
    done = subprocess.run(["/bin/sh", "-c", line], cwd=path.parent, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


def test_an_unexpected_error_is_one_line_and_a_traceback_if_asked(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import mgraph.bookkeeping.listing

    def broken(*_: Any) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(mgraph.bookkeeping.listing, "list_runs", broken)
    short = run("log", code=1)
    assert short.stderr == "Error: ZeroDivisionError: by zero (mgraph --traceback … shows where)\n"
    assert json.loads(run("log", "--json", code=1).stderr)["error"]["kind"] == "unexpected"
    assert "Traceback" in run("--traceback", "log", code=1).stderr
