"""What the shell completes: names in the graph, and nothing, in silence, where that fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.shell_completion import ShellComplete, shell_complete

import mgraph
from mgraph_cli.main import cli
from mgraph_store.errors import LockTimeoutError
from mgraph_store.index.lock import GraphLock

Complete = Callable[..., list[str]]


@pytest.fixture
def complete(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Complete:
    """Complete the last word of a command line beside the graph."""
    monkeypatch.chdir(shared.parent)

    def completed(line: str) -> list[str]:
        *before, last = line.split(" ")
        items = ShellComplete(cli, {}, "mgraph", "_MGRAPH_COMPLETE").get_completions(before, last)
        return [item.value for item in items if item.type == "plain"]

    return completed


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("tra", ["train"]),
        ("show ", [*"abcdm", "line", "wall", "curve", "s", "bare"]),
        ("show li", ["line"]),
        ("sweep ", ["line", "wall", "curve", "s", "bare"]),
        ("connect a ", [*"abcdm"]),
        ("route a ", [*"abcdm"]),
        ("align a --to b", ["b"]),
        ("connect a b --curve --init cu", ["curve"]),
        ("connect a b --linear --buffers-from ", [*"abcdm"]),
        ("train --space ", ["cnn-digits"]),
        ("components --space cn", ["cnn-digits"]),
        ("rm cn", ["cnn-digits"]),
        ("ensemble s m", ["m"]),
        ("init x.mgraph --arch c", ["cnn", "convfc", "cifarresnet", "cct"]),
        ("init x.mgraph --arch cnn --data di", ["digits"]),
        ("show x", []),
        ("show a --graph nowhere.mgraph ", []),
    ],
)
def test_names_are_completed_where_they_belong(complete: Complete, line: str, expected: list[str]) -> None:
    assert sorted(complete(line)) == sorted(expected)


def test_each_name_says_what_it_is(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shared.parent)
    items = ShellComplete(cli, {}, "mgraph", "_MGRAPH_COMPLETE").get_completions(["rm"], "c")
    assert {item.value: item.help for item in items} == {"c": "mode", "curve": "curve", "cnn-digits": "space"}


def test_what_has_no_name_is_completed_by_its_id(run: Any, graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    unnamed = graph.connect("a", "c", method=mgraph.Linear(), sweep=False)
    monkeypatch.chdir(run.directory)
    items = ShellComplete(cli, {}, "mgraph", "_MGRAPH_COMPLETE").get_completions(["sweep"], unnamed.id[:3])
    assert [item.value for item in items] == [unnamed.id]


@pytest.mark.parametrize("harm", ["damaged", "several", "none", "busy"])
def test_nothing_is_said_where_completing_fails(
    harm: str, path: Path, complete: Complete, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(path.parent)
    waited = []
    if harm == "damaged":
        (path / "index.duckdb").write_bytes(b"damaged" * 1000)
    elif harm == "several":
        (path.parent / "other.mgraph").mkdir()
    elif harm == "none":
        shutil.rmtree(path)
    else:

        def busy(path: Path) -> None:
            waited.append(GraphLock(path).timeout)
            raise LockTimeoutError("Somebody else has the lock.")

        monkeypatch.setattr("mgraph.open", busy, raising=False)
    assert complete("show ") == []
    assert waited == ([1.0] if harm == "busy" else [])
    assert GraphLock(path).timeout == 60
    assert capfd.readouterr() == ("", "")


def test_completing_needs_no_torch(python: Callable[..., str], path: Path) -> None:
    script = """
import sys
from click.shell_completion import ShellComplete
from mgraph_cli.main import cli
print([item.value for item in ShellComplete(cli, {}, "mgraph", "X").get_completions(["show"], "cur")])
print("torch" in sys.modules, "matplotlib" in sys.modules)
"""
    assert python(script, cwd=path.parent).splitlines() == ["['curve']", "False False"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_a_real_bash_completes(path: Path, tmp_path: Path) -> None:
    """The script that the page tells people to load, in bash, with the words that pressing the key would give it."""
    home = tmp_path / "bin"
    home.mkdir()
    program = home / "mgraph"
    program.write_text(f"#!/bin/sh\nexec {sys.executable} -c 'from mgraph_cli.main import main; main()' \"$@\"\n")
    program.chmod(0o755)
    script = """
eval "$(_MGRAPH_COMPLETE=bash_source mgraph)"
complete -p mgraph
COMP_WORDS=(mgraph show cu); COMP_CWORD=2
_mgraph_completion mgraph
echo "${COMPREPLY[@]}"
"""
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        cwd=path.parent,
        env=os.environ | {"PATH": f"{home}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    registered, found = done.stdout.splitlines()
    assert registered.endswith("-F _mgraph_completion mgraph")
    assert found == "curve"


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_a_script_and_answers(
    shell: str, shared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(shared.parent)
    monkeypatch.setenv("COMP_WORDS", "mgraph show cu")
    monkeypatch.setenv("COMP_CWORD", "2" if shell == "zsh" else "cu")
    for asked, expected in ((f"{shell}_source", "_mgraph_completion"), (f"{shell}_complete", "curve")):
        assert shell_complete(cli, {}, "mgraph", "_MGRAPH_COMPLETE", asked) == 0
        out, err = capsys.readouterr()
        assert expected in out
        assert err == ""
