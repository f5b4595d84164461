"""Bad input: one sentence, exit code 2, and a graph that is exactly as before."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mgraph_store import GraphStore, Node, NodeTerm


@dataclass(frozen=True)
class Case:
    """A command line, what its message must contain, and what is prepared before."""

    args: str
    expect: tuple[str, ...] = ()
    prepare: Callable[[Any, Path], Any] | None = field(default=None, compare=False)


def checkpoint(change: Callable[[dict[str, Any]], Any], name: str = "x.pt") -> Callable[[Any, Path], None]:
    """Save the state of mode a, changed; what the change returns is saved if it is not None."""

    def prepare(_: Any, path: Path) -> None:
        import torch

        import mgraph

        state = mgraph.open(path, device="cpu").node("a").state_dict()
        changed = change(state)
        torch.save(state if changed is None else changed, path.parent / name)

    return prepare


def file(name: str, content: str | bytes) -> Callable[[Any, Path], None]:
    def prepare(_: Any, path: Path) -> None:
        (path.parent / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return prepare


def with_mlp(run: Any, _: Path) -> None:
    """Add another space with a mode z."""
    run("add-space", "--arch", "mlp?hidden=4", "--data", "digits", "--name", "mlp")
    run("train", "--space", "mlp", "--epochs", 1, "--name", "z")


def with_simplex(run: Any, _: Path) -> None:
    run("connect", *"abc", "--simplex", "--name", "tri", "--no-sweep")


def alike(_: Any, path: Path) -> None:
    """Add two samples whose ids begin alike."""
    store = GraphStore.open(path)
    with store.reading() as reader:
        a = reader.find_node("a")
    with store.transaction() as tx:
        for end in ("aaaaaaaa", "bbbbbbbb"):
            tx.add(Node(f"szzzz{end}", "sample", a.space_id, kernel=1), NodeTerm(f"szzzz{end}", 0, a.id, 1.0))


def truncated(_: Any, path: Path) -> None:
    checkpoint(lambda state: None)(None, path)
    content = (path.parent / "x.pt").read_bytes()
    (path.parent / "x.pt").write_bytes(content[: len(content) // 2])
    from safetensors.numpy import save

    (path.parent / "x.safetensors").write_bytes(save({"0.weight": np.zeros(4, np.float32)})[:-3])


class Runs:
    """Unpickling this would run code."""

    def __reduce__(self) -> Any:
        return (exec, ("print('code ran')",))  # Ray puts a print of its own in place


def lacking(state: dict[str, Any]) -> None:
    del state["4.bias"]


def extra(state: dict[str, Any]) -> None:
    state["head.weight"] = next(iter(state.values()))


def misshapen(state: dict[str, Any]) -> None:
    state["0.weight"] = state["0.weight"][:, :, :2]


def mistyped(state: dict[str, Any]) -> None:
    state["0.weight"] = state["0.weight"].int()


def not_a_number(state: dict[str, Any]) -> None:
    state["1.running_var"][1] = float("nan")


def infinite(state: dict[str, Any]) -> None:
    state["0.bias"][0] = float("inf")


def broken_npz(_: Any, path: Path) -> None:
    np.savez(path.parent / "some.npz", x_train=np.zeros((4, 2)), y_train=np.zeros(4, int))


FACTORY = "from torch import nn\ndef make(classes):\n    return nn.Linear(3, classes)\ndef number():\n    return 3\n"

CASES = {
    # Nothing of that name
    "unknown node": Case("connect a bb --linear", ("bb", "did you mean b")),
    "unknown thing": Case("show curv", ("curv", "did you mean curve")),
    "unknown connection": Case("sweep surface", ("surface",)),
    "node for a connection": Case("merge m", ("m is a merged", "not a connection")),
    "node for a connection, by id": Case("ensemble a --grid 3", ("a is a mode",)),
    "connection for a node": Case("export s -o x.pt", ("s is a connection",)),
    "connection for an end": Case("connect a line --linear", ("line is a connection",)),
    "prefix of three characters": Case("show szz", ("szz",), alike),
    "ambiguous prefix": Case("show szzzz", ("szzzzaaaaaaaa", "szzzzbbbbbbbb", "type more"), alike),
    "unknown space": Case("train --space nowhere", ("nowhere", "cnn-digits")),
    "several spaces": Case("train --epochs 1", ("2 spaces", "cnn-digits", "mlp"), with_mlp),
    "unknown kind": Case("ls --kind node", ("'node'", "merged")),
    # Ends and methods
    "a sample as end": Case("connect a szzzza --linear", ("is a sample", "only modes"), alike),
    "different networks": Case(
        "connect a z --linear",
        ("a (space cnn-digits)", "z (space mlp)", "0.weight [4, 1, 3, 3] float32", "against 1.weight [4, 64]"),
        with_mlp,
    ),
    # Measures, and methods chosen by them
    "compare one point": Case("compare a", ("at least 2 points",)),
    "compare a point with itself": Case("compare a b a", ("a is given twice",)),
    "compare other networks": Case("compare a z", ("z (space mlp)", "0.weight [4, 1, 3, 3] float32"), with_mlp),
    "compare a connection": Case("compare a line", ("line is a connection",)),
    "wrong suffix of a comparison": Case("compare a b -o x.jpg", (".png, .pdf, .svg",)),
    "sharpness of a connection": Case("sharpness line", ("line is a connection",)),
    "sharpness without radii": Case("sharpness a --radii 0.1,0.1", ("rising numbers",)),
    "sharpness of no split": Case("sharpness a --split all", ("train, valid, test",)),
    "sharpness of too little": Case("sharpness a --examples 1", ("at least 2",)),
    "unknown setting of sharpness": Case("sharpness a -s radius=1", ("no setting 'radius'", "radii")),
    "picture of sharpness nowhere": Case("sharpness a -o x/s.png", ("does not exist",)),
    "auto without a limit": Case("connect a b --auto", ("Give exactly one of --max-barrier, --max-peak",)),
    "auto with two limits": Case(
        "connect a b --auto --max-barrier 1 --max-peak 2", ("Give exactly one of --max-barrier, --max-peak",)
    ),
    "auto between three": Case("connect a b c --auto --max-barrier 1", ("exactly 2 modes; 3 given",)),
    "auto and a method": Case("connect a b --auto --curve --max-barrier 1", ("exactly one method", "or --auto")),
    "auto below the modes' own loss": Case(
        "connect a b --auto --max-peak 1e-9", ("No path can meet --max-peak 1e-09", "itself is", "raise the limit")
    ),
    "auto below any barrier": Case("connect a b --auto --max-barrier=-1", ("a barrier is never below 0",)),
    "auto with no time": Case("connect a b --auto --max-barrier 1 --budget 0m", ("above 0", "30m", "'0m'")),
    "auto with no length of time": Case("connect a b --auto --max-barrier 1 --budget soon", ("'soon'", "1h30m")),
    "auto on no metric": Case("connect a b --auto --max-barrier 1 --metric f1", ("by loss, error,", "f1")),
    "auto on no split": Case("connect a b --auto --max-barrier 1 --split all", ("train, valid, test",)),
    "auto with a preset": Case("connect a b --auto --max-barrier 1 --preset quick", ("--preset is for one method",)),
    "auto from elsewhere": Case("connect a b --auto --max-barrier 1 --init s", ("--init is for one method",)),
    "auto with inner points": Case("connect a b --auto --max-barrier 1 --inner 2", ("--inner is for a chain or band",)),
    "auto without a sweep": Case(
        "connect a b --auto --max-barrier 1 --no-sweep", ("cannot be combined with --no-sweep",)
    ),
    "auto with a setting of no method": Case(
        "connect a b --auto --max-barrier 1 -s epoch=2", ("no setting 'epoch'", "epochs")
    ),
    "auto with a bad name": Case(
        "connect a c --auto --max-barrier 1 --name 1st", ("'1st-linear'", "start with a letter")
    ),
    "limit without auto": Case("connect a b --curve --max-barrier 1", ("--max-barrier is an option of --auto",)),
    "budget without auto": Case("connect a b --linear --budget 1m", ("--budget is an option of --auto",)),
    # Checkpoints
    "missing file": Case("add-mode none.pt", ("none.pt", "does not exist")),
    "directory": Case("add-mode digits.mgraph", ("is not a file",)),
    "other suffix": Case("add-mode x.bin", ("x.bin is not a checkpoint", "safetensors"), file("x.bin", "x")),
    "other format": Case("add-mode x.bin", ("GGUF", "convert it"), file("x.bin", "GGUF....")),
    "two sets of weights": Case(
        "add-mode x.pt",
        ("model (raw), ema (averaged)", "--weights raw or --weights ema"),
        checkpoint(lambda state: {"model": state, "ema": {k: v + 1 for k, v in state.items()}}),
    ),
    "weights that are not there": Case("add-mode x.pt --weights ema", ("'ema'", "raw"), checkpoint(lambda _: None)),
    "no curve": Case("add-mode x.pt --curve", ("no trained curve",), checkpoint(lambda _: None)),
    "file and point": Case("add-mode --at 1,0 --weights raw", ("--at", "cannot be combined with options for files")),
    "weights of a curve": Case("add-mode x.pt --curve --weights raw", ("--curve",), checkpoint(lambda _: None)),
    "empty file": Case("add-mode x.pt", ("empty",), file("x.pt", "")),
    "not a checkpoint": Case("add-mode x.pt", ("not a checkpoint",), file("x.pt", "hello " * 99)),
    "not safetensors": Case(
        "add-mode x.safetensors", ("not a safetensors file",), file("x.safetensors", "hello " * 99)
    ),
    "truncated": Case("add-mode x.pt", ("not a checkpoint, or a damaged one",), truncated),
    "truncated safetensors": Case("add-mode x.safetensors", ("damaged",), truncated),
    "list, not a state dict": Case("add-mode x.pt", ("holds a list",), checkpoint(lambda state: [1, 2])),
    "no tensors": Case("add-mode x.pt", ("without a dict of tensors",), checkpoint(lambda state: {"epoch": 3})),
    "pickled code": Case("add-mode x.pt", ("pickled code", "exec"), checkpoint(lambda state: {"x": Runs()})),
    "missing tensor": Case("add-mode x.pt", ("lacks 1 tensor", "4.bias"), checkpoint(lacking)),
    "extra tensor": Case("add-mode x.pt", ("head.weight",), checkpoint(extra)),
    "misshapen tensor": Case("add-mode x.pt", ("0.weight", "[4, 1, 2, 3]", "[4, 1, 3, 3]"), checkpoint(misshapen)),
    "wrong dtype": Case("add-mode x.pt", ("0.weight is int32", "expected float32"), checkpoint(mistyped)),
    "NaN in a tensor": Case("add-mode x.pt", ("1.running_var has 1 of 4",), checkpoint(not_a_number)),
    "infinity in a tensor": Case("add-mode x.pt", ("0.bias", "infinite"), checkpoint(infinite)),
    # Names
    "name of a mode taken": Case("train --name a", ("name a", "choose another")),
    "name of a connection taken": Case("train --name line", ("name line", "linear")),
    "taken by a mode": Case("connect a b --linear --name m", ("name m", "merged")),
    "taken, merging": Case("merge s --name s", ("name s", "surface")),
    "taken, importing": Case("add-mode x.pt --name b", ("name b",), checkpoint(lambda state: None)),
    "space name taken": Case(
        "add-space --arch mlp?hidden=3 --data digits --name cnn-digits", ("'cnn-digits'", "choose another")
    ),
    "bad name": Case("train --name 1st", ("'1st'", "start with a letter")),
    "empty name": Case("train --name=", ("''", "start with a letter")),
    "long name": Case(f"connect a b --linear --name {'x' * 65}", ("64 characters",)),
    "name like an id": Case("train --name maaaaaaaaaaaa", ("looks like an identifier",)),
    "bad space name": Case("add-space --arch mlp?hidden=3 --data digits --name 9", ("'9'", "letter")),
    # Merging, ensembles, files
    "merge what was never swept": Case("merge bare", ("bare has not been swept", "mgraph sweep bare")),
    "soup of what was never swept": Case("merge bare --soup uniform", ("mgraph sweep bare",)),
    "plot what was never swept": Case("plot bare -o x.png", ("mgraph sweep bare",)),
    "two ways to merge": Case("merge s --best --at 0,0", ("one of --best, --at and --soup",)),
    "unknown soup": Case("merge s --soup tomato", ("uniform or greedy", "'tomato'")),
    "parameter outside": Case("merge s --at 0.5,1.5", ("[0, 1]",)),
    "parameter of a curve on a surface": Case("merge s --at 0.5", ("u,v",)),
    "coordinates of a simplex that miss": Case("merge tri --at 0.2,0.2,0.2", ("sum to 1",), with_simplex),
    "two coordinates of three": Case("merge tri --at 0.2,0.8", ("3 barycentric coordinates",), with_simplex),
    "negative coordinates": Case("merge tri --at=-0.5,0.5,1", ("0 or more",), with_simplex),
    "parameter NaN": Case("merge line --at nan", ("[0, 1]",)),
    "parameter no number": Case("merge line --at half", ("--at takes numbers",)),
    "ensemble on a bad grid": Case("ensemble s --grid 0", ("at least 2",)),
    "ensemble with one example": Case("ensemble s --bn-examples 0", ("at least 2 examples",)),
    "query that chooses nothing": Case("ensemble --where test_acc>2", ("fits 'test_acc>2'",)),
    "points of a node": Case("ensemble a@5", ("a is a mode, which has no points",)),
    "points that are no numbers": Case("soup s@x", ("points are numbers with commas",)),
    "grid of several": Case("ensemble s line --grid 3", ("write CONN@POINTS",)),
    "weights and a selection": Case("ensemble a b --weights --greedy 2", ("either weighted or chosen",)),
    "models of two spaces": Case("soup a z", ("a is of space cnn-digits and z of space mlp",), with_mlp),
    "predictions of two spaces": Case("predict a z -o p.csv", ("must be of one space",), with_mlp),
    "soup of one": Case("soup a", ("two models or more",)),
    "soup across a barrier": Case("soup a b --greedy", ("barrier divides a and b", "force averages them anyway")),
    "soup called as something else": Case("soup a b --force --name s", ("name s", "surface")),
    "predictions of nothing": Case("predict -o p.csv", ("at least one member",)),
    "predictions of an unknown split": Case("predict a --split tests -o p.csv", ("did you mean 'test'",)),
    "predictions in another format": Case("predict a -o p.xlsx", (".parquet, .csv, .npz",)),
    "predictions into nowhere": Case("predict a -o none/p.csv", ("does not exist",)),
    "predictions over a file": Case("predict a -o p.csv", ("exists",), file("p.csv", "mine")),
    "predictions of unknown data": Case("predict a --data digit -o p.csv", ("did you mean 'digits'?",)),
    "search after a choice": Case("merge s --at 0,0 --refine 3", ("only one of",)),
    "two recipes of a soup": Case("soup a b --greedy --learned", ("one of --greedy, --learned",)),
    "grid of a node": Case("export m -o x.pt --grid 3", ("--ensemble",)),
    "export to what exists": Case("export m -o x.pt", ("exists",), file("x.pt", "mine")),
    "ensemble to what exists": Case("export s --ensemble -o x", ("exists",), file("x", "mine")),
    "wrong suffix of an export": Case("export m -o m.txt", (".safetensors, .pt, .pth",)),
    "wrong suffix of a picture": Case("plot s -o s.jpg", (".png, .pdf, .svg",)),
    "export into nowhere": Case("export m -o none/m.pt", ("cannot be written",)),
    "export below a file": Case("export m -o x/m.pt", ("cannot be written",), file("x", "")),
    "ensemble below a file": Case("export s --ensemble -o x/e", ("cannot be written",), file("x", "")),
    "picture below a file": Case("plot s -o x/s.png", ("does not exist",), file("x", "")),
    "wrong suffix of a page": Case("report -o r.pdf", ("r.pdf must end in .html.",)),
    "page in no directory": Case("report -o none/r.html", ("The directory none does not exist; create it first.",)),
    "page over a directory": Case("report -o p.html", ("is a directory",), lambda _, p: (p.parent / "p.html").mkdir()),
    "page written without pause": Case("report -o r.html --watch 0", ("at least 1 second, not 0",)),
    "graph below a file": Case("init x/g.mgraph --arch mlp --data digits", ("does not exist",), file("x", "")),
    "graph where none can be": Case("init /proc/g.mgraph --arch mlp --data digits", ("choose a writable place",)),
    "graph that exists": Case("init digits.mgraph --arch mlp --data digits", ("exists already",)),
    "demo below a file": Case("demo -o x/demo", ("cannot be made",), file("x", "")),
    # Specs
    "bad name of a first space": Case("init g.mgraph --arch mlp --data digits --name 9", ("'9'",)),
    "unknown data": Case("add-space --arch mlp --data digit", ("'digit'", "did you mean 'digits'?")),
    "unknown parameter of data": Case("add-space --arch mlp --data digits?size=3", ("'size'",)),
    "data file missing": Case("add-space --arch mlp --data npz:none.npz", ("none.npz", "does not exist")),
    "data file is none": Case("init g.mgraph --arch mlp --data npz:x.npz", ("x.npz",), file("x.npz", "no")),
    "data without test": Case("add-space --arch mlp --data npz:some.npz", ("'x_test'",), broken_npz),
    "data not fetched": Case("add-space --arch mlp --data mnist?root=here", ("download=true",)),
    "unknown architecture": Case("add-space --arch cnm --data digits", ("'cnm'", "did you mean 'cnn'?")),
    "unknown parameter": Case("add-space --arch cnn?depth=2 --data digits", ("'depth'", "channels")),
    "parameter of another type": Case("add-space --arch cnn?channels=x --data digits", ("channels", "whole numbers")),
    "malformed spec": Case("add-space --arch cnn?channels --data digits", ("key=value",)),
    "network too deep": Case("add-space --arch cnn?channels=1,1,1,1 --data digits", ("too small",)),
    "no such network": Case("add-space --arch torchvision:resnet17 --data digits", ("resnet17", "did you mean")),
    "codec": Case("add-space --arch mlp --data digits --codec zip", ("'zip'", "none, blosc")),
    "factory file missing": Case("add-space --arch none.py:make --data digits", ("none.py", "does not exist")),
    "factory module missing": Case("add-space --arch no.such:make --data digits", ("no.such", "cannot be found")),
    "factory with a syntax error": Case(
        "add-space --arch x.py:make --data digits", ("x.py", "SyntaxError"), file("x.py", "def make(:\n")
    ),
    "factory that is not in its file": Case(
        "add-space --arch x.py:mak --data digits", ("'mak'", "did you mean 'make'?"), file("x.py", FACTORY)
    ),
    "factory that makes no network": Case(
        "add-space --arch x.py:number --data digits", ("returned a int", "nn.Module"), file("x.py", FACTORY)
    ),
    "network that does not take the data": Case(
        "add-space --arch x.py:make --data digits", ("cannot be run on the data", "[8, 1, 8, 8]"), file("x.py", FACTORY)
    ),
    "data factory that fails": Case(
        "add-space --arch mlp --data x.py:data",
        ("x.py:data failed", "KeyError"),
        file("x.py", "def data():\n    return {}['train']\n"),
    ),
    "data factory with other keys": Case(
        "add-space --arch mlp --data x.py:data", ("'trian'",), file("x.py", "def data():\n    return {'trian': 1}\n")
    ),
    # The command line itself
    "unknown command": Case("trian", ("trian", "See: mgraph --help")),
    "unknown option": Case("train --epoch 3", ("--epoch", "See: mgraph train --help")),
    "missing option": Case("export m", ("--output", "See: mgraph export --help")),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input(
    request: pytest.FixtureRequest,
    commands: Any,
    shared: Path,
    snapshot: Callable[..., Any],
    name: str,
    refused: Callable[..., None],
) -> None:
    case = CASES[name]
    path = shared if case.prepare is None else request.getfixturevalue("path")
    run = commands(path.parent)
    if case.prepare is not None:
        case.prepare(run, path)
    before = snapshot(path)
    # One path leads to both messages, so that every fourth case is enough to see it.
    refused(run, case.args.split(" "), case.expect, programs=list(CASES).index(name) % 4 == 0)
    assert snapshot(path) == before


def test_the_three_sentences_of_finding_a_graph(
    commands: Any, path: Path, tmp_path: Path, refused: Callable[..., None]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "x.mgraph").write_text("a file is not a graph")
    refused(commands(Path("/")), ["ls"], ("no graph here or above", "mgraph init"))
    refused(commands(tmp_path), ["ls", "--graph", "none.mgraph"], ("no graph at", "none.mgraph"))
    refused(commands(tmp_path), ["ls", "--graph", "empty"], ("is not a graph",))
    refused(commands(tmp_path), ["ls", "--graph", "empty/x.mgraph"], ("no graph at",))
    shutil.copytree(path, tmp_path / "other.mgraph")
    refused(commands(tmp_path), ["ls"], ("several graphs", "digits.mgraph, other.mgraph", "--graph"))
    refused(commands(empty), ["ls"], ("several graphs",))


def test_a_failed_init_leaves_nothing(commands: Any, tmp_path: Path, refused: Callable[..., None]) -> None:
    (tmp_path / "x.py").write_text(FACTORY)
    run = commands(tmp_path)
    for args in (
        ["--arch", "mlp", "--data", "none"],
        ["--arch", "mlpp", "--data", "digits"],
        ["--arch", "mlp", "--data", "digits", "--name", "no good"],
        ["--arch", "mlp", "--data", "digits", "--codec", "lzma"],
        ["--arch", "x.py:make", "--data", "digits"],
    ):
        refused(run, ["init", "new.mgraph", *args], ())
        assert [p.name for p in tmp_path.iterdir()] == ["x.py"]


def test_components_without_edges_say_what_to_type(commands: Any, tmp_path: Path, refused: Callable[..., None]) -> None:
    run = commands(tmp_path)
    run("init", "new.mgraph", "--arch", "mlp?hidden=4", "--data", "digits")
    refused(
        run, ["components", "--max-barrier", "0.1"], ("no edge", "connect modes first: mgraph connect A B --linear")
    )


def test_a_split_that_no_sweep_saw(run: Any, refused: Callable[..., None]) -> None:
    run("sweep", "bare", "--grid", 3, "--splits", "train")
    refused(run, ["merge", "bare"], ("validation",))


def test_code_of_a_stranger_is_not_run(
    commands: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., None]
) -> None:
    run = commands(tmp_path)
    own = tmp_path / "own.py"
    own.write_text(
        "import pathlib\nfrom torch import nn\n\ndef net(classes):\n"
        f"    pathlib.Path({str(tmp_path / 'ran')!r}).touch()\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))\n"
    )
    run("init", "g.mgraph", "--arch", "own.py:net", "--data", "digits")
    run("train", "--epochs", 1, "--name", "a")  # naming it was trusting it
    (tmp_path / "ran").unlink()
    monkeypatch.setenv("MGRAPH_CONFIG_DIR", str(tmp_path / "other user"))
    refused(run, ["train", "--epochs", "1"], ("own.py", "not trusted", "--trust"))
    run("ls")  # looking runs nothing
    assert not (tmp_path / "ran").exists()
    assert len(run("log", "--json").rows) == 1
    run("train", "--epochs", 1, "--trust")
    assert (tmp_path / "ran").exists()
    run("train", "--epochs", 1)  # remembered
    own.write_text(own.read_text() + "\n# changed\n")
    (tmp_path / "ran").unlink()
    refused(run, ["train", "--epochs", "1"], ("own.py", "changed", "--trust"))
    assert not (tmp_path / "ran").exists()
    run("train", "--epochs", 1, "--trust")
    own.write_text(own.read_text().replace("Linear(64", "Identity(), nn.Linear(64"))
    refused(run, ["train", "--epochs", "1", "--trust"], ("no longer makes the network", "1.weight"))
    own.unlink()
    refused(run, ["train", "--epochs", "1"], ("own.py", "does not exist"))


def test_data_that_changed_are_refused(commands: Any, tmp_path: Path, refused: Callable[..., None]) -> None:
    run = commands(tmp_path)
    random = np.random.default_rng(0)
    x, y = random.random((40, 3), np.float32), random.integers(0, 2, 40)
    np.savez(tmp_path / "d.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    run("init", "g.mgraph", "--arch", "mlp?hidden=4", "--data", "npz:d.npz")
    np.savez(tmp_path / "d.npz", x_train=x, y_train=1 - y, x_test=x, y_test=y)
    refused(run, ["train", "--epochs", "1"], ("d.npz", "not those"))
    assert run("log", "--json").rows == []


@pytest.mark.parametrize(
    "args",
    [
        ["train", "--seed", "5", "--epochs", "2", "--lr", "1e30", "--name", "bad"],
        ["connect", "a", "b", "--curve", "--epochs", "2", "--lr", "1e30", "--name", "bad"],
        ["connect", "a", "b", "--llpf", "--lr", "1e30", "--name", "bad"],
        pytest.param(
            ["connect", *"abcd", "--surface", "--epochs", "1", "--lr", "1e30", "--name", "bad"],
            marks=pytest.mark.stress,
        ),
    ],
)
def test_a_loss_that_becomes_nan_stops_and_says_when(
    run: Any, path: Path, snapshot: Callable[..., Any], args: list[str]
) -> None:
    before, runs = snapshot(path, runs=False), len(run("log", "--json").rows)
    *warnings, error = run(*args, code=2).stderr.splitlines()
    # It was tried again with half the learning rate, one line each time, before it was given up.
    assert len(warnings) >= (0 if "--llpf" in args else 3)  # a walk has no learning rate to spare
    for i, line in enumerate(warnings, start=1):
        assert line.startswith("Warning: ")
        assert line.endswith(f"begins again with half the learning rate, {1e30 / 2**i:g}.")
    assert error.startswith("Error: ")
    assert "lower the learning rate" in error
    assert ("in tick " if "--llpf" in args else "at step ") in "".join(warnings) + error
    assert snapshot(path, runs=False) == before
    rows = run("log", "--json").rows
    assert len(rows) == runs + 1
    assert (rows[-1]["status"], rows[-1]["command"]) == ("failed", args[0])
    assert rows[-1]["reason"] == error.removeprefix("Error: ")
