"""Commands typed in a stranger's directory import nothing from it, and neither do the processes that they start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mgraph_cli.process import import_nothing_from_here

# What libraries look for and mostly do not find, what Python looks for at its start, and what every process imports.
DECOYS = (
    *("cupy", "tqdm", "opt_einsum", "pandas", "polars", "pyarrow", "triton", "yaml", "jax", "tensorflow", "psutil"),
    *("optree", "IPython", "attr", "colorama", "fsspec", "cloudpickle", "onnxruntime", "dill", "numba"),
    *("sitecustomize", "usercustomize", "multiprocessing", "pickle", "re", "ctypes", "random", "torch", "numpy"),
)
COMMANDS = (
    ["ls"],
    ["sql", "SELECT 1"],
    ["components", "--max-barrier", "1"],
    ["sweep", "line", "--grid", "3"],
    ["plot", "line", "-o", "p.png"],
    ["merge", "line"],
    ["check"],
    ["explore", "--max-pairs", "1", "--grid", "3", "--engine", "local:1"],
)
MAIN = """
import json, sys
from mgraph_cli.main import cli

if __name__ == "__main__":
    for command in json.loads(sys.argv[1]):
        try:
            cli.main(command, prog_name="mgraph")
        except SystemExit as done:
            assert done.code == 0, command
"""


@pytest.mark.parametrize("empty_part", [False, pytest.param(True, marks=pytest.mark.stress)])
def test_decoys_beside_the_graph_are_not_imported(
    path: Path, commands: Any, tmp_path_factory: pytest.TempPathFactory, empty_part: bool
) -> None:
    for name in DECOYS:
        (path.parent / f"{name}.py").write_text(f"open({str(path.parent / 'pwned')!r}, 'a').write('{name} ')\n")
    (path.parent / "matplotlibrc").write_text("text.usetex: True\nlines.linewidth: 20\n")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    given = COMMANDS[-1:] if empty_part else COMMANDS[:-1]
    # As the installed program starts: without the working directory on the path. Once as if the user's own
    # $PYTHONPATH had an empty part, which means that directory.
    program = MAIN if not empty_part else "import os\nos.environ['PYTHONPATH'] = os.pathsep\n" + MAIN
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, json.dumps(given)],
        cwd=path.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not (path.parent / "pwned").exists(), (path.parent / "pwned").read_text()
    if not empty_part:  # the picture ignores settings that lie here, too
        plain = tmp_path_factory.mktemp("elsewhere")
        commands(plain)("plot", "line", "-o", "p.png", "--graph", path)
        assert (path.parent / "p.png").read_bytes() == (plain / "p.png").read_bytes()


@pytest.mark.parametrize(
    ("pythonpath", "before", "after"),
    [
        (None, ["", "/lib"], ["/lib"]),  # python -c
        (None, ["HERE", "/lib"], ["/lib"]),  # python -m
        (None, ["/bin", "/lib"], ["/bin", "/lib"]),  # the program itself
        (None, ["/bin", "/lib", "HERE"], ["/bin", "/lib", "HERE"]),  # an editable install
        ("/x:", ["/bin", "/x", "HERE", "/lib"], ["/bin", "/x", "/lib"]),
        ("HERE", ["/bin", "HERE", "/lib"], ["/bin", "HERE", "/lib"]),
        ("HERE:", ["/bin", "HERE", "/lib"], ["/bin", "HERE", "/lib"]),
    ],
)
def test_the_working_directory_leaves_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pythonpath: str | None, before: list[str], after: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    here = str(tmp_path)
    monkeypatch.setattr(sys, "path", [entry.replace("HERE", here) for entry in before])
    monkeypatch.delenv("PYTHONPATH", raising=False)
    if pythonpath is not None:
        monkeypatch.setenv("PYTHONPATH", pythonpath.replace("HERE", here))
    import_nothing_from_here()
    assert sys.path == [entry.replace("HERE", here) for entry in after]
    assert not os.environ.get("PYTHONPATH", "x").endswith(":")


def test_modules_here_are_found_when_they_are_named(run: Any, path: Path) -> None:
    (path.parent / "mine.py").write_text("import helper\ndef zero(outputs, targets): return helper.value\n")
    (path.parent / "helper.py").write_text("value = 0.0\n")
    before = list(sys.path)
    row = run("sweep", "line", "--grid", 3, "--metric", "mine:zero", "--json").row
    assert {s["value"] for s in row["summary"] if s["metric"] == "zero"} == {0.0}
    assert sys.path == before
    assert "helper" not in sys.modules
