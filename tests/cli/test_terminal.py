"""Nothing that a stranger wrote reaches the terminal raw, and no cell of a CSV is a formula where that is asked for."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import matplotlib as mpl
import pytest
from click.testing import CliRunner
from warm import Process

import mgraph
from mgraph_cli import terminal
from mgraph_cli.libraries import Warnings, library_of
from mgraph_cli.main import cli
from mgraph_cli.output import emit

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\x7f\r\n[red]x[/red]\u202eb\u200b"
SHOWN = r"\x1b]0;owned\x07\x1b[2J\x9b31m\x7f\r\n[red]x[/red]\u202eb\u200b"
# What may stand in an output beside text: our own styles on a terminal, and our own line breaks.
_HIDDEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u202e]")
_ONE_AFTER_THE_OTHER = """
import json, sys
from mgraph_cli.__main__ import main
for command in json.loads(sys.argv.pop()):
    sys.argv[1:] = command
    try:
        main()
    except SystemExit:
        pass
    print("===", flush=True)
"""

COMMANDS = [
    ["ls"],
    ["ls", "--kind", "merged"],
    ["show", "a"],
    ["show", "k\x1b"],
    ["show", "m", "--ancestry"],
    ["log"],
    ["spaces"],
    ["neighbours", "a"],
    ["matrix"],
    ["mst"],
    ["isolated"],
    ["components", "--max-barrier", "9"],
    ["route", "a", "c"],
    ["dendrogram"],
    ["suggest"],
    ["note", "a"],
    ["tag", "a"],
    ["du"],
    ["check"],
    ["sql", 'SELECT name, name AS "=1\x1b" FROM nodes'],
    ["sql", "SELECT \x1b[2J"],
    ["show", EVIL.replace("\x1b", "\x1b_")],
    ["--traceback", "show", "none\x1b[2J\r"],
    ["rm", "b" + EVIL, "--dry-run", "--cascade"],
    ["resume", "x\x1b[2J"],
    ["init", "no\x1b[2J/such.mgraph", "--arch", "mlp?x=\x1b[2J", "--data", "digits"],
    ["train", "--name", "x", "-s", "a\x1b[2J=1"],
]


@pytest.fixture(scope="module")
def hostile(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph in which every text that its maker could choose tries to write to the terminal."""
    import shutil

    path = Path(shutil.copytree(template, tmp_path_factory.mktemp("hostile") / "digits.mgraph"))
    with duckdb.connect(str(path / "index.duckdb")) as con:
        con.execute("UPDATE nodes SET name = name || ? WHERE name = 'b'", [EVIL])
        con.execute("UPDATE connections SET name = 'k\x1b', reason = ? WHERE name = 'curve'", [EVIL])
        con.execute("UPDATE runs SET status = 'failed', reason = ?, host = ?, device = ?", [EVIL] * 3)
        con.execute("UPDATE spaces SET codec = codec, name = name || ?", [EVIL])
        (node,) = con.execute("SELECT id FROM nodes WHERE name = 'a'").fetchone() or ()
        for i, (key, value) in enumerate([("key" + EVIL, "value" + EVIL), ("tag" + EVIL, None)]):
            con.execute(
                "INSERT INTO notes BY NAME SELECT ? AS id, ? AS key, ? AS value, ? AS node_id, "
                "NULL::VARCHAR AS connection_id, now()::TIMESTAMP AS created",
                [f"nabcdefghijk{'ab'[i]}", key, value, node],
            )
    return path


@pytest.mark.parametrize("args", COMMANDS, ids=lambda args: re.sub(r"[^\w -]", ".", " ".join(args))[:40])
def test_no_command_passes_anything_on(hostile: Path, monkeypatch: pytest.MonkeyPatch, args: list[str]) -> None:
    monkeypatch.chdir(hostile.parent)
    for form in ([], ["--json"], ["--csv-safe"]):
        done = CliRunner().invoke(cli, [*args, *form], prog_name="mgraph")  # an error is an answer, too
        text = done.stdout + done.stderr
        assert done.exit_code in (0, 2), text
        assert text
        assert _HIDDEN.search(text) is None, text


def test_names_are_shown_escaped_and_markup_is_text(hostile: Path, commands: Any) -> None:
    run = commands(hostile.parent)
    assert "b" + SHOWN in "".join(run("ls").stdout.split())
    assert "b" + SHOWN in "".join(run("neighbours", "a").stdout.split())
    assert {row["name"] for row in run("ls", "--json").rows} >= {"a", "b" + EVIL}  # programs get what is there


def test_on_a_real_terminal(hostile: Path) -> None:
    """There our tables have styles of their own, and nothing else has any."""
    commands = (["ls"], ["ls", "--csv"], ["show", "a"], ["log"], ["show", "none\x1b]0;owned\x07"])
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", _ONE_AFTER_THE_OTHER, json.dumps(commands)],
        cwd=hostile.parent,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    said = b""
    try:
        while part := os.read(ours, 4096):
            said += part
    except OSError:  # the end of a terminal
        pass
    child.wait()
    os.close(ours)
    texts = re.sub(r"\x1b\[\d*(;\d+)*m", "", said.decode()).replace("\r\n", "\n").split("===\n")
    assert len(texts) == len(commands) + 1
    assert texts.pop() == ""
    for text in texts:
        assert text
        assert _HIDDEN.search(text) is None, text


def test_commands_print_through_one_door() -> None:
    directory = Path(terminal.__file__).parent
    for file in (directory / "commands").glob("*.py"):
        text = file.read_text()
        assert "click.echo" not in text, file.name
        assert not re.search(r"(?<![\w.])print\(|sys\.std(out|err)", text), file.name


def test_what_anything_else_writes_passes_a_guard(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.guarded():
        print("a\x1b[2J\tb\u202e")
        print("c\x07\r", file=sys.stderr)
        sys.stdout.writelines(["d\x9b", "e\n"])
        assert sys.stdout.encoding
    said = capsys.readouterr()
    assert said.out == "a\\x1b[2J\tb\\u202e\nd\\x9be\n"
    assert said.err == "c\\x07\r\n"


def test_csv_is_harmless_on_request(capsys: pytest.CaptureFixture[str], tmp_path: Path, run: Any) -> None:
    query = (
        "SELECT * FROM (VALUES ('=1+1', -0.5), ('+x', 2.5), ('-0.5', 3), ('@a', 4), ('\t=1', 5), (' =1', 6), ('b', 7), "
        "('-1e3', 8), ('-1+cmd()', 9), ('＝1', 10)) AS t(\"=name\", value) ORDER BY value"
    )
    plain = list(csv.reader(io.StringIO(run("sql", query, "--csv").stdout)))
    assert plain[1:3] == [["=1+1", "-0.5"], ["+x", "2.5"]]
    safe = list(csv.reader(io.StringIO(run("sql", query, "--csv-safe").stdout)))
    assert safe[0] == ["'=name", "value"]
    assert [row[0] for row in safe[1:]] == [
        "'=1+1",
        "'+x",
        "-0.5",
        "'@a",
        "'\\t=1",
        "' =1",
        "b",
        "-1e3",
        "'-1+cmd()",
        "'＝1",
    ]
    assert safe[1][1] == "-0.5"
    run("sql", query, "--csv-safe", "-o", "x.csv")
    assert list(csv.reader((run.directory / "x.csv").read_text().splitlines())) == safe
    assert "choose one" in run("ls", "--csv-safe", "--json", code=2).stderr


def test_json_holds_what_is_there_in_visible_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.guarded():
        emit([{"name": EVIL}], ["name"], form="json")
    text = capsys.readouterr().out
    assert _HIDDEN.search(text) is None
    assert text.isascii()
    assert json.loads(text)["rows"] == [{"name": EVIL}]


def test_pictures_take_names_literally(path: Path, tmp_path: Path) -> None:
    """A name with dollars is not a formula: not one that fails to be drawn, nor one that shows something else."""
    with duckdb.connect(str(path / "index.duckdb")) as con:
        con.execute("UPDATE nodes SET name = ? WHERE name = 'a'", ["$\\frac{x$ \x1b[2J$\\alpha$"])
        con.execute("UPDATE connections SET name = ? WHERE name = 'curve'", ["$\\curve{\u202e$"])
    g = mgraph.open(path, device="cpu")
    k = next(c for c in g.connections() if c["kind"] == "bezier-curve" or "curve" in str(c["name"]))
    drawn: list[str] = []
    with mpl.rc_context({"svg.fonttype": "none"}):  # texts as texts
        for i, draw in enumerate((g.plot_map, g.plot_matrix, g.plot_dendrogram, g.connection(k["id"]).plot)):
            draw(tmp_path / f"{i}.svg")
            drawn.append((tmp_path / f"{i}.svg").read_text())
    for svg in drawn[1:3]:  # on the map names are outlines
        assert r"$\frac{x$ \x1b[2J$\alpha$" in svg
    assert r"$\curve{\u202e$" in drawn[3]


@pytest.mark.parametrize(
    ("file", "library"),
    [
        ("/x/lib/python3.12/site-packages/torch/nn/modules/loss.py", "torch"),
        ("/x/site-packages/six.py", "six"),
        (str(Path(mgraph.__file__).parent / "session" / "spaces.py"), "a library"),
        (os.__file__, "python"),
        ("/home/me/net.py", "net.py"),
    ],
)
def test_who_warns(file: str, library: str) -> None:
    assert library_of(file) == library


def test_a_warning_of_a_library_is_shown_once_and_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Warnings()
    file = "/x/site-packages/torch/nn/modules/loss.py"
    for _ in range(3):
        shown.show(UserWarning("Using a target size\n  that is \x1b[2Jdifferent"), UserWarning, file, 1)
    shown.show(UserWarning("x" * 5000), UserWarning, file, 1)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == r"Warning (torch): Using a target size that is \x1b[2Jdifferent"
    assert len(lines) == 2
    assert len(lines[1]) < 600


@pytest.mark.parametrize(
    "chatter",
    [
        "Can't initialize NVML",
        "User provided device_type of 'cuda', but CUDA is not available. Disabling",
        "Not enough SMs to use max_autotune_gemm mode",
    ],
)
def test_what_torch_says_of_cuda_and_its_compiler_is_left_out(chatter: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = Warnings()
    shown.show(UserWarning(chatter), UserWarning, "/x/site-packages/torch/cuda/__init__.py", 1)
    assert capsys.readouterr().err == ""
    shown.show(UserWarning(chatter), UserWarning, "/home/me/net.py", 1)  # from anywhere else, it is shown
    assert capsys.readouterr().err.startswith("Warning (net.py): ")


def test_a_warning_of_a_library_reaches_the_user(warm_process: Callable[..., Process], path: Path) -> None:
    (path.parent / "own.py").write_text(
        "import warnings\n"
        "def net(input_shape, classes):\n"
        "    import torch\n"
        "    warnings.warn('nested \\x1b[2J tensors are a prototype', stacklevel=1)\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, classes))\n"
    )
    child = warm_process("init", "own.mgraph", "--arch", "own.py:net", "--data", "digits", cwd=path.parent)
    _, said = child.communicate(timeout=120)
    assert child.returncode == 0, said
    assert said.count("nested") == 1
    assert r"Warning (own.py): nested \x1b[2J tensors are a prototype" in said
