"""Every command once from end to end, as a table, as JSON and as CSV."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest


def cells(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_init_makes_a_graph_and_shows_its_space(commands: Any, tmp_path: Path) -> None:
    run = commands(tmp_path)
    made = run("init", "new.mgraph", "--arch", "mlp?hidden=4", "--data", "digits", "--json")
    assert (made.row["arch"], made.row["data"], made.row["parameters"]) == ("mlp?hidden=4", "digits", 64 * 4 + 4 + 50)
    assert made.stderr == "Made new.mgraph.\n"
    assert (tmp_path / "new.mgraph" / "index.duckdb").is_file()
    again = run("init", "other.mgraph", "--arch", "mlp", "--data", "digits", "--name", "first", "--codec", "blosc")
    assert "first" in again.stdout
    assert "blosc" in again.stdout


def test_add_space_twice_gives_the_first(run: Any) -> None:
    first = run("add-space", "--arch", "mlp?hidden=4", "--data", "digits", "--name", "small", "--json").row
    second = run("add-space", "--arch", "mlp?hidden=4", "--data", "digits", "--json").row
    assert first["id"] == second["id"]
    rows = run("spaces", "--json").rows
    assert [r["name"] for r in rows] == ["cnn-digits", "small"]
    assert [r["modes"] for r in rows] == [4, 0]
    assert [r["name"] for r in cells(run("spaces", "--csv").stdout)] == ["cnn-digits", "small"]
    assert "cnn-digits" in run("spaces").stdout


def test_train_adds_a_mode_with_its_numbers(run: Any, graph: Any) -> None:
    row = run("train", "--seed", 7, "--epochs", 2, "--lr", 0.1, "--name", "e", "--json").row
    assert (row["name"], row["kind"], row["run"]["seed"]) == ("e", "mode", 7)
    assert row["info"]["settings"]["epochs"] == 2
    assert {(e["split"], e["metric"]) for e in row["evaluations"]} == {
        (s, m) for s in ("train", "valid", "test") for m in ("loss", "accuracy")
    }
    measured = graph.node("e").evaluate("test")
    stored = {e["metric"]: e["value"] for e in row["evaluations"] if e["split"] == "test"}
    assert stored == {name: m.value for name, m in measured.items()}
    table = run("train", "--epochs", 1, "--seed", 8)
    assert "test accuracy" in table.stdout
    assert table.stderr == ""
    assert len(cells(run("train", "--epochs", 1, "--seed", 9, "--csv").stdout)) == 1


def test_settings_come_from_config_then_pairs_then_flags(run: Any, path: Path) -> None:
    (path.parent / "t.toml").write_text("epochs = 3\nlr = 0.01\nbatch_size = 32\n")
    row = run("train", "--config", "t.toml", "-s", "lr=0.02", "-s", "epochs=2", "--epochs", 1, "--json").row
    settings = row["info"]["settings"]
    assert (settings["epochs"], settings["lr"], settings["batch_size"]) == (1, 0.02, 32)


def test_printed_settings_of_a_method_are_a_config_file(run: Any, path: Path) -> None:
    for method, ends in (("surface", "abcd"), ("curve", "ab"), ("chain", "ab")):
        (path.parent / "m.toml").write_text(run("methods", method).stdout)
        row = run("connect", *ends, f"--{method}", "--config", "m.toml", "--epochs", 1, "--no-sweep", "--json").row
        defaults = {r["name"]: r["default"] for r in run("methods", method, "--json").rows}
        changed = {k for k, v in row["settings"].items() if v != defaults[k]}
        assert changed == {"epochs"}


@pytest.mark.parametrize(
    ("prefix", "wrapper"),
    [
        pytest.param("", (), marks=pytest.mark.stress),
        pytest.param("module.", (), marks=pytest.mark.stress),
        ("module._orig_mod.", ("state_dict",)),
        pytest.param("", ("model",), marks=pytest.mark.stress),
        pytest.param("", ("model_state",), marks=pytest.mark.stress),
        ("_orig_mod.", ("model_state_dict", "model")),
    ],
)
def test_add_mode_finds_the_state_dict(run: Any, graph: Any, path: Path, prefix: str, wrapper: tuple[str, ...]) -> None:
    import torch

    content: Any = {prefix + name: tensor for name, tensor in graph.node("a").state_dict().items()}
    for key in wrapper:
        content = {key: content, "epoch": 3}
    torch.save(content, path.parent / "x.pt")
    row = run("add-mode", "x.pt", "--name", "x", "--json").row
    assert row["digest"] == graph.node("a").digest
    assert row["info"]["origin"] == "file"
    mine = {(e["split"], e["metric"]): e["value"] for e in row["evaluations"]}
    theirs = {
        (e["split"], e["metric"]): e["value"] for e in graph.node("a").describe()["evaluations"] if not e["sweep_id"]
    }
    assert mine == theirs  # its own BatchNorm statistics came along


def test_add_mode_reads_safetensors_and_says_what_it_converted(run: Any, graph: Any, path: Path) -> None:
    from safetensors.torch import save_file

    state = graph.node("b").state_dict()
    save_file({f"module.{k}": v for k, v in state.items()}, path.parent / "b.safetensors")
    assert run("add-mode", "b.safetensors", "--json").row["digest"] == graph.node("b").digest
    half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    save_file(half, path.parent / "half.safetensors")
    added = run("add-mode", "half.safetensors", "--name", "half")
    assert "Note: float16 to float32" in added.stderr
    assert "half" in added.stdout
    double = {k: v.double() if v.is_floating_point() else v for k, v in state.items()}
    save_file(double, path.parent / "double.safetensors")
    assert "--cast" in run("add-mode", "double.safetensors", code=2).stderr
    assert run("add-mode", "double.safetensors", "--cast", "--json").row["digest"] == graph.node("b").digest


@pytest.mark.parametrize(
    ("args", "kind", "family", "edges"),
    [
        (["a", "b", "--linear"], "linear", {"family": "segment"}, 1),
        pytest.param(
            ["a", "b", "c", "d", "--linear"],
            "linear",
            {"family": "bezier-surface", "degree": [1, 1]},
            6,
            marks=pytest.mark.stress,
        ),
        pytest.param(
            ["a", "b", "--curve", "--bends", "2", "--epochs", "1"],
            "curve",
            {"family": "bezier-curve", "bends": 2},
            1,
            marks=pytest.mark.stress,
        ),
        (
            ["a", "b", "c", "d", "--surface", "--degree", "2,3", "--epochs", "1"],
            "surface",
            {"family": "bezier-surface", "degree": [2, 3]},
            6,
        ),
    ],
)
def test_connect(run: Any, args: list[str], kind: str, family: dict[str, Any], edges: int) -> None:
    done = run("connect", *args, "--name", "new", "--grid", 3, "--json")
    row = done.row
    assert (row["kind"], row["status"], row["family"]) == (kind, "complete", family)
    assert len(row["edges"]) == edges * 6  # loss and error on three splits
    assert row["sweeps"][0]["grid"] == ([3, 3] if len(row["ends"]) == 4 else [3])
    said = "Corners: a (0,0), b (0,1), c (1,0), d (1,1); opposite are a-d and b-c.\n"
    assert done.stderr == (said if len(row["ends"]) == 4 else "")
    kinds = {p["kind"] for p in row["control_points"]}
    assert kinds == ({"mode"} if kind == "linear" else {"mode", "control"})
    assert run("show", "new", "--json").row == row
    assert "barrier" in run("show", "new").stdout
    if kind == "linear":
        assert "barrier" in run("connect", *args, "--grid", 2).stdout


def test_connect_without_sweep_then_sweep(run: Any) -> None:
    row = run("connect", "c", "d", "--curve", "--epochs", 1, "--name", "new", "--no-sweep", "--json").row
    assert (row["sweeps"], row["edges"], row["summary"]) == ([], [], [])
    assert "Not swept yet." in run("connect", "c", "d", "--linear", "--no-sweep").stdout
    row = run(
        "sweep", "new", "--grid", 4, "--splits", "train, valid", "--examples", 50, "--bn-examples", 60, "--json"
    ).row
    (sweep,) = row["sweeps"]
    assert (sweep["grid"], sweep["batchnorm"]) == ([4], "recompute(examples=60,batch=60,seed=0)")
    assert {e["split"] for e in row["edges"]} == {"train", "valid"}
    assert run("sweep", "new", "--grid", 2).stdout.count("linear") == 0
    assert cells(run("sweep", "new", "--grid", 2, "--csv").stdout)[0]["name"] == "new"


def test_ls(run: Any) -> None:
    rows = run("ls", "--json").rows
    assert [r["name"] for r in rows] == ["a", "b", "c", "d", "m", "line", "wall", "curve", "s", "bare"]
    assert [r["type"] for r in rows] == ["node"] * 5 + ["connection"] * 5
    assert {r["kind"] for r in rows} == {"mode", "merged", "linear", "curve", "surface"}
    assert [r["barrier"] is None for r in rows[5:]] == [False, False, False, False, True]
    assert len(rows[0]["id"]) == 13
    assert [r["name"] for r in cells(run("ls", "--csv").stdout)] == [r["name"] for r in rows]
    assert {r["kind"] for r in run("ls", "--kind", "sample", "--json").rows} == {"sample"}
    assert len(run("ls", "--kind", "connection", "--json").rows) == 5
    assert len(run("ls", "--kind", "control", "--json").rows) == 1 + 5
    table = run("ls").stdout
    assert all(name in table for name in ("nodes", "connections", "surface", "merged"))
    assert run("ls", "--space", "cnn-digits").stdout == table


def test_an_empty_graph_lists_nothing(commands: Any, tmp_path: Path) -> None:
    run = commands(tmp_path)
    run("init", "new.mgraph", "--arch", "mlp?hidden=4", "--data", "digits")
    assert "mgraph train" in run("ls").stdout
    assert run("ls", "--json").rows == []
    assert run("log", "--json").rows == []
    assert run("log", "--csv").stdout.splitlines() == ["id,command,name,status,seconds,started,reason"]


def test_show_every_kind_of_thing(run: Any) -> None:
    mode = run("show", "a", "--json").row
    assert (mode["kind"], mode["info"]["origin"], mode["stored"]) == ("mode", "train", True)
    assert "end of s (surface)" in mode["connections"]
    merged = run("show", "m", "--json").row
    assert (merged["kind"], merged["selected_on"], merged["info"]["origin"]) == ("merged", "valid", "merge")
    sample = run("ls", "--kind", "sample", "--json").rows[0]["id"]
    shown = run("show", sample[:6], "--json").row
    assert (shown["id"], shown["stored"], shown["digest"]) == (sample, False, None)
    assert sum(t["c"] for t in shown["terms"]) == pytest.approx(1)
    connection = run("show", "s", "--json").row
    assert [p["name"] for p in connection["control_points"] if p["name"]] == list("abcd")
    assert len(connection["summary"]) == 6 * 5 + 1  # min, max, mean and two integrals of everything, and the area
    for name in ("a", "m", sample, "s", "bare"):
        assert name in run("show", name).stdout
        assert len(cells(run("show", name, "--csv").stdout)) == 1


def test_log_lists_every_run(run: Any) -> None:
    rows = run("log", "--json").rows
    assert [r["command"] for r in rows[:5]] == ["train"] * 4 + ["connect"]
    assert {r["status"] for r in rows} == {"complete"}
    assert [r["seed"] for r in rows[:4]] == [0, 1, 2, 3]
    assert all(r["seconds"] > 0 for r in rows)
    assert "connect" in run("log").stdout
    assert len(cells(run("log", "--csv").stdout)) == len(rows)


@pytest.mark.parametrize("limit", ["max-barrier", pytest.param("max-peak", marks=pytest.mark.stress), "max-drop"])
def test_components_group_by_the_edges_within_the_limit(run: Any, limit: str) -> None:
    none = run("components", f"--{limit}", -1, "--json").row
    assert [c["size"] for c in none["components"]] == [1, 1, 1, 1]
    assert none["edges"] == []
    everything = run("components", f"--{limit}", 100, "--json").row
    assert [c["nodes"] for c in everything["components"]] == [["a", "b", "c", "d"]]
    quantity = limit.removeprefix("max-")
    assert everything["threshold"] == {
        "quantity": quantity,
        "limit": 100,
        "metric": "error" if quantity == "drop" else "loss",
        "split": "train",
    }
    assert len(everything["edges"]) == 1 + 6 + 1 + 6
    values = [e[quantity] for e in everything["edges"]]
    assert values == sorted(values)
    # At the middle value exactly the edges up to it count.
    middle = values[6]
    some = run("components", f"--{limit}", repr(middle), "--json").row
    assert [e[quantity] for e in some["edges"]] == [v for v in values if v <= middle]


def test_components_by_metric_and_split_and_for_people(run: Any) -> None:
    row = run("components", "--max-barrier", 100, "--metric", "accuracy", "--split", "test", "--json").row
    assert {(e["metric"], e["split"]) for e in row["edges"]} == {("error", "test")}
    text = run("components", "--max-barrier", 100).stdout
    assert text.startswith("1 component at train loss barrier <= 100")
    assert "No edge is below the threshold." in run("components", "--max-barrier", -1).stdout
    assert cells(run("components", "--max-barrier", 100, "--csv").stdout) == [
        {"component": "1", "size": "4", "nodes": json.dumps(list("abcd"))}
    ]
    assert run("components", "--max-peak", 100, "--space", "cnn-digits").code == 0


@pytest.mark.parametrize(
    ("args", "selected", "has_parameter"),
    [
        ([], "valid", True),
        pytest.param(["--best"], "valid", True, marks=pytest.mark.stress),
        (["--at", "0.25,0.5", "--force"], None, True),  # the little surface has walls
        (["--soup", "uniform", "--force"], None, False),
        pytest.param(["--soup", "greedy"], "valid", False, marks=pytest.mark.stress),
    ],
)
def test_merge(run: Any, graph: Any, args: list[str], selected: str | None, has_parameter: bool) -> None:
    row = run("merge", "s", *args, "--name", "new", "--json").row
    assert (row["name"], row["selected_on"], row["parameter"] is not None) == ("new", selected, has_parameter)
    assert [m["what"] for m in row["models"]] == ["new", "corner a", "corner b", "corner c", "corner d"]
    node = graph.node("new")
    assert node.kind == "merged"
    test = node.evaluate("test")
    assert row["models"][0]["test_accuracy"] == test["accuracy"].value
    assert row["models"][0]["valid_accuracy"] == node.evaluate("valid")["accuracy"].value
    assert row["models"][0]["test_error_bar"] == test["accuracy"].standard_error
    if "--at" in args:
        assert row["parameter"] == [0.25, 0.5]
    if "uniform" in args:  # the quickest: it looks at no single point
        assert "corner a" in run("merge", "s", *args).stdout
        assert cells(run("merge", "s", *args, "--csv").stdout)[1]["what"] == "corner a"


def test_merge_a_curve_at_a_number(run: Any) -> None:
    assert run("merge", "curve", "--at", 0.3, "--force", "--json").row["parameter"] == [0.3]
    assert run("merge", "bare", "--at", 0.5, "--force", "--json").row["oracle"] is None  # needs no sweep


def test_an_ensemble_says_of_what_it_is(run: Any) -> None:
    row = run("ensemble", "a", "--where", "kind=mode, name=b", "--json").row
    assert (row["set"], row["members"]) == ("a where kind=mode, name=b", 2)


def test_ensemble(run: Any) -> None:
    row = run("ensemble", "s", "--grid", 3, "--json").row
    assert row["grid"] == [3, 3]
    single, corners, *modes, whole = row["models"]
    assert single["what"].startswith("single corner ")
    assert (corners["what"], whole["what"]) == ("ensemble of the corners", "ensemble of 9 points")
    assert [m["what"].partition(" (")[0] for m in modes] == ["4 independent modes"] * 2
    gain = whole["test_accuracy"] - corners["test_accuracy"]
    assert row["grid_minus_corners"] == pytest.approx(gain)
    assert row["corners_minus_single"] == pytest.approx(corners["test_accuracy"] - single["test_accuracy"])
    assert row["grid_minus_corners_verdict"] in ("better", "worse", "even")
    assert "ensemble of 9 points" in run("ensemble", "s", "--grid", "3,3").stdout
    assert len(cells(run("ensemble", "curve", "--grid", 2, "--csv").stdout)) == 5
    assert "ensemble_grid" in run("show", "s").stdout


def test_export(run: Any, path: Path) -> None:
    here = path.parent
    for name in ("m.safetensors", "m.pt", "m.pth"):
        row = run("export", "m", "-o", name, "--json").row
        size = (here / name).stat().st_size
        assert row == {"node": "m", "output": name, "nbytes": size, "card": f"{name}.md"}
    assert "b.pt" in run("export", "b", "--output", "b.pt").stdout
    row = run("export", "s", "--ensemble", "--grid", 2, "-o", "ensemble", "--json").row
    assert (row["output"], row["members"]) == ("ensemble", 4)
    manifest = json.loads((here / "ensemble" / "manifest.json").read_text())
    assert manifest["test"] == row["test"]
    assert sorted(p.name for p in (here / "ensemble").iterdir()) == [
        "README.md",
        "manifest.json",
        *(f"member-000{i}.safetensors" for i in range(4)),
    ]
    run("export", "s", "--ensemble", "--grid", 2, "-o", "ensemble", code=2)
    (here / "ensemble" / "mine.txt").write_text("keep")
    run("export", "curve", "--ensemble", "--grid", 3, "-o", "ensemble", "--overwrite")
    assert (here / "ensemble" / "mine.txt").read_text() == "keep"
    assert len(list((here / "ensemble").glob("member-*"))) == 3
    assert sorted(p.name for p in here.iterdir() if p.name.startswith(".")) == []


def test_plot_says_where_it_drew(run: Any, path: Path, graph: Any) -> None:
    for name, picture in (("s", "s.png"), ("line", "l.pdf")):
        drawn = run("plot", name, "-o", picture)
        assert drawn.stdout == f"{picture}\n"
        assert (path.parent / picture).stat().st_size > 5000
    # Nothing to compare with is made on the way, and said so.
    run("connect", "c", "d", "--curve", "--epochs", 1, "--grid", 3, "--name", "cd")
    before = len(graph.connections())
    assert "--before does that" in run("plot", "cd", "-o", "cd.png").stderr
    assert len(graph.connections()) == before  # nothing is measured unasked
    assert "--linear" in run("plot", "cd", "-o", "cd.png", "--before").stderr
    assert run("plot", "cd", "-o", "cd.png").stderr == ""


def test_lists_of_what_can_be_named(run: Any) -> None:
    assert [r["name"] for r in run("methods", "--json").rows] == [
        *("linear", "simplex", "chain", "curve", "surface", "neb", "llpf")
    ]
    surface = run("methods", "--json").rows[4]
    assert set(surface["presets"]) == {"three-phase", "paper"}
    assert surface["presets"]["paper"]["samples"] == 15
    printed = run("methods", "surface").stdout
    assert '# --preset three-phase: phases = ["edges:10", "columns:10", "surface:40"]' in printed
    surface = run("methods", "surface", "--json").rows
    assert {"degree", "epochs", "lr", "seed"} < {r["name"] for r in surface}
    assert run("methods", "linear", "--csv").stdout.startswith("name,")
    for command, known in (("archs", {"mlp", "cnn", "lenet5"}), ("datasets", {"digits", "npz:FILE"})):
        assert known < {r["spec"] for r in run(command, "--json").rows}
        assert known < {r["spec"] for r in cells(run(command, "--csv").stdout)}
        assert all(name in run(command).stdout for name in known)


def test_architectures_are_listed_with_their_size(run: Any) -> None:
    rows = {r["spec"]: r for r in run("archs", "--json").rows}
    small = rows["cifarresnet"]
    assert (small["parameters"], small["multiply_adds"], small["input"]) == (269722, 40551040, "3×32×32")
    assert (rows["lstm"]["input"], rows["lstm"]["classes"]) == ("35", 10000)
    assert rows["torchvision:NAME"]["parameters"] is None
    assert all(row["parameters"] for spec, row in rows.items() if ":" not in spec)
    one, two = run(
        "archs", "mlp?hidden=3,", "cnn?channels=2&hidden=4,", "--input", "1,8,8", "--classes", 2, "--json"
    ).rows
    assert (one["parameters"], one["multiply_adds"]) == (64 * 3 + 3 + 8, 64 * 3 + 6)
    assert (two["parameters"], two["multiply_adds"]) == (20 + 132 + 10, 18 * 64 + 128 + 8)
    assert {r["spec"]: r["parameters"] for r in run("archs", "--input", 16, "--json").rows}["vit"] is None
    assert "numbers with commas" in run("archs", "mlp", "--input", "3x32", code=2).stderr
    assert "must be positive" in run("archs", "mlp", "--input", "3,0", code=2).stderr
    assert "did you mean 'cnn'" in run("archs", "cnm", code=2).stderr
    assert "cannot be run" in run("archs", "torchvision:squeezenet1_1", "--input", "3,8,8", code=2).stderr


def test_the_graph_is_found_as_git_does(run: Any, commands: Any, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = path.parent / "deep" / "down"
    inside.mkdir(parents=True)
    assert len(commands(inside)("ls", "--json").rows) == 10
    elsewhere = commands(Path("/"))
    assert len(elsewhere("ls", "--graph", path, "--json").rows) == 10
    monkeypatch.setenv("MGRAPH_GRAPH", str(path))
    assert len(elsewhere("ls", "--json").rows) == 10


def test_numbers_of_the_command_are_those_of_the_api(run: Any, graph: Any) -> None:
    import mgraph

    printed = run("connect", "b", "d", "--curve", "--epochs", 1, "--grid", 4, "--seed", 3, "--name", "x", "--json").row
    mine = graph.connect("b", "d", method=mgraph.BezierCurve(epochs=1, seed=3), grid=4, name="y")
    for edge, other in zip(printed["edges"], mine.describe()["edges"], strict=True):
        assert edge == other
    assert np.array_equal(graph.connection("x").swept().values["test", "loss"], mine.swept().values["test", "loss"])


def test_nothing_but_data_on_stdout(run: Any) -> None:
    noisy: list[tuple[Any, ...]] = [
        ("merge", "line", "--at", "0", "--json"),
        ("connect", *"abcd", "--linear", "--grid", 2, "--csv"),
    ]
    for args in noisy:
        done = run(*args)
        assert done.stderr  # corners, or a note
        if "--json" in args:
            assert isinstance(json.loads(done.stdout), dict)
        else:
            assert len(cells(done.stdout)) == 1


def test_a_checkpoint_added_twice_is_pointed_out(run: Any) -> None:
    run("export", "a", "-o", "a.pt")
    added = run("add-mode", "a.pt", "--name", "copy")
    assert added.stderr == "Warning: copy has exactly the parameters of a: the same checkpoint twice.\n"
    assert len(run("ls", "--kind", "mode", "--json").rows) == 5
