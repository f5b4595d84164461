"""Programs (.pt2, ONNX) of networks and ensembles, model cards, and the check that every exported file must pass."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import mgraph
from mgraph.errors import InputError

# Networks that some formats cannot express, and one whose batches are dicts.
OWN = """
import torch
from torch import nn


class Odd(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind, self.layer = kind, nn.Linear(12, 2)

    def forward(self, x):
        x = self.layer(x.flatten(1))
        if self.kind == "choosy" and x.sum() > 0:
            x = x + 1
        if self.kind == "i0e":
            x = torch.special.i0e(x)
        return x


class Fixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(12, 2)
        self.size = 0

    def forward(self, x):
        self.size = int(x.shape[0])
        return self.layer(x.reshape(self.size, 12))


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, numbers, mask):
        return {"logits": self.layer(numbers * mask), "more": numbers}


def odd(kind="plain"):
    return Odd(kind)


def fixed():
    return Fixed()


def pair():
    return Pair()


def images():
    random = torch.Generator().manual_seed(0)
    x, y = torch.randint(0, 256, (40, 3, 2, 2), generator=random).byte(), torch.arange(40) % 2
    return {"train": (x, y), "test": (x[:30], y[:30]), "mean": (0.5, 0.4, 0.3), "std": (0.1, 0.2, 0.3)}


def pairs():
    random = torch.Generator().manual_seed(0)
    x = {"numbers": torch.randn(40, 3, generator=random), "mask": torch.ones(40, 3)}
    return {"train": (x, torch.arange(40) % 2), "test": (x, torch.arange(40) % 2)}
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Make a graph of a network of the file above, with one mode, a."""
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)

    def make(arch: str = "odd", data: str = "images") -> Any:
        g = mgraph.create(f"{len(list(tmp_path.iterdir()))}.mgraph", arch=f"own.py:{arch}", data=f"own.py:{data}")
        g.train(epochs=1, batch_size=20, name="a")
        return g

    return make


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let the system refuse to make files longer, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def written(directory: Path) -> list[str]:
    """List what lies beside the graph."""
    return sorted(p.name for p in directory.iterdir() if p.suffix not in (".mgraph", ".py"))


def test_a_program_takes_what_the_data_hold(own: Callable[..., Any], commands: Any, tmp_path: Path) -> None:
    g = own()
    row = commands(tmp_path)("export", "a", "-o", "a.pt2", "--normalise", "--trust", "--json").row
    assert row["takes"].startswith("input: uint8 (N, 3, 2, 2), 0 to 255")
    assert row["verified"]["examples"] == 30
    assert row["verified"]["largest_difference"] <= 1e-5
    further = {"mgraph.json": "", "card.md": ""}
    program = torch.export.load("a.pt2", extra_files=further).module()
    raw = g.session.workspace(g.session.space()).task.test.inputs
    mean, std = (torch.tensor(v).reshape(-1, 1, 1) for v in ((0.5, 0.4, 0.3), (0.1, 0.2, 0.3)))
    seen = (raw / 255 - mean) / std
    for count in (1, 2, 30):
        expected = g.node("a").model()(seen[:count])
        assert torch.allclose(program(raw[:count]), expected, atol=1e-5)
    facts = json.loads(further["mgraph.json"])
    assert (facts["name"], facts["program"]["normalises"]) == ("a", True)
    assert b"own.py" not in Path("a.pt2").read_bytes().replace(b"own.py:", b"")  # where this machine keeps the code
    card = Path("a.pt2.md").read_text()
    assert card.startswith(further["card.md"].rstrip("\n"))
    assert "Reloaded in a fresh process without mgraph" in card
    seen_by_network = g.node("a").export("b.pt2").program
    assert seen_by_network is not None
    assert seen_by_network.takes[0].dtype == "float32"
    assert "(x / 255 - [0.5, 0.4, 0.3]) / [0.1, 0.2, 0.3]" in str(seen_by_network.takes[0])
    assert torch.allclose(torch.export.load("b.pt2").module()(seen), program(raw), atol=1e-5)


def test_onnx_is_run_by_onnxruntime_alone(own: Callable[..., Any], fresh_process: None) -> None:
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    g = own("odd", "images")
    exported = g.node("a").export("a.onnx", normalise=True)
    assert exported.verified.difference <= 1e-5
    model = onnx.load("a.onnx")
    kept = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(kept["mgraph"])["digest"] == g.node("a").digest
    assert kept["card"].startswith("# a\n")
    assert [i.type.tensor_type.shape.dim[0].dim_param for i in (*model.graph.input, *model.graph.output)] == [
        "batch"
    ] * 2
    assert b"own.py" not in Path("a.onnx").read_bytes().replace(b"own.py:", b"")
    raw = g.session.workspace(g.session.space()).task.test.inputs
    session = runtime.InferenceSession("a.onnx", providers=["CPUExecutionProvider"])
    g.node("a").export("a.pt2", normalise=True, verify=False)
    expected = torch.export.load("a.pt2").module()(raw).detach().numpy()
    assert np.abs(session.run(None, {"input": raw.numpy()})[0] - expected).max() <= 1e-5


def test_an_operator_that_onnx_lacks_is_named(own: Callable[..., Any], tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    g = own("odd?kind=i0e")
    with pytest.raises(InputError, match=r"ONNX has no operator for \S*i0e\S*, .* export to \.pt2, which has"):
        g.node("a").export("a.onnx")
    assert written(tmp_path) == []


@pytest.mark.parametrize(
    ("models", "count"), [(("a", "m", "curve@3"), 4), pytest.param(("s@3",), 9, marks=pytest.mark.stress)]
)
def test_an_ensemble_is_one_program(graph: Any, tmp_path: Path, models: tuple[str, ...], count: int) -> None:
    manifest = graph.export_ensemble(tmp_path / "e.pt2", *models)
    assert len(manifest["members"]) == count
    assert manifest["verified"]["difference"] <= 1e-5
    assert manifest["program"]["gives"] == "class probabilities"
    test = graph.session.workspace(graph.session.space()).task.test
    x, y = test.examples(torch.arange(len(test)))
    found = torch.export.load(tmp_path / "e.pt2").module()(x)
    streamed = torch.from_numpy(graph.predict(*models).probabilities)
    assert (found - streamed).abs().max() <= 1e-5
    assert (found.argmax(1) == y).double().mean().item() == manifest["test"]["accuracy"]
    card = (tmp_path / "e.pt2.md").read_text()
    assert f"{count} members" in card
    assert ("| s@0.5,0.5 |" if count == 9 else "| curve@0.5 |") in card
    assert written(tmp_path) == ["e.pt2", "e.pt2.md"]


def test_the_card_says_where_it_comes_from(graph: Any, tmp_path: Path) -> None:
    written_ = graph.node("m").export(tmp_path / "m.safetensors")
    card = written_.card.read_text()
    assert written_.card.name == "m.safetensors.md"
    with safe_open(written_, "np") as file:
        kept = file.metadata()
    assert kept["card"] == card  # nothing was verified here
    facts = json.loads(kept["mgraph"])
    for term in facts["terms"]:
        assert f"| {term['name'] or term['node']} | {term['c']:.6g} |" in card
    assert "- selected on: the valid split" in card
    (accuracy,) = [m for m in facts["metrics"] if (m["split"], m["metric"]) == ("test", "accuracy")]
    assert accuracy["examples"] == 360
    assert f"| test | accuracy | {accuracy['value']:.6g} | {accuracy['standard_error']:.2g} | 360 |" in card
    assert f"`digits`, fingerprint `{graph.session.space().data_hash}`" in card
    assert "a 0, b 1, c 2, d 3" in card
    assert "point of: s (surface)" in card


def test_batches_that_are_dicts_go_in_one_by_one(own: Callable[..., Any]) -> None:
    g = own("pair", "pairs")
    exported = g.node("a").export("a.pt2", normalise=True)
    assert [one.name for one in exported.program.takes] == ["numbers", "mask"]
    x = {"numbers": torch.randn(5, 3), "mask": torch.ones(5, 3)}
    found = torch.export.load("a.pt2").module()(x["numbers"], x["mask"])
    assert torch.allclose(found, g.node("a").model()(**x)["logits"], atol=1e-6)


def test_a_network_that_cannot_be_traced(own: Callable[..., Any], tmp_path: Path, verified_weights: None) -> None:
    g = own("odd?kind=choosy")
    with pytest.raises(InputError, match=r"depends on values of its inputs \(own\.py, line 13\)") as caught:
        g.node("a").export("a.pt2")
    assert "export the weights" in str(caught.value)
    assert written(tmp_path) == []
    kept = g.node("a").export("a.safetensors").verified  # its tensors are compared
    assert kept.instead.startswith("torch.export cannot trace the network")
    assert "its tensors are those of the graph" in (tmp_path / "a.safetensors.md").read_text()
    with pytest.raises(InputError, match=r"takes it for the constant 3.*use x\.shape\[0\]"):
        own("fixed").node("a").export("b.pt2")


@pytest.mark.parametrize("suffix", [".safetensors", pytest.param(".pt", marks=pytest.mark.stress)])
def test_weights_that_predict_something_else_are_not_written(
    own: Callable[..., Any], tmp_path: Path, verified_weights: None, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    g = own()
    assert g.node("a").export(f"good{suffix}").verified.difference <= 1e-5

    def spoilt(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
        state = g.node("a").state_dict()
        change(state)
        save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)

    for change, message in (
        (lambda state: state["layer.bias"][0].add_(0.1), "its predictions differ by up to"),
        (lambda state: state.pop("layer.bias"), f"a{suffix} lacks layer.bias"),
    ):
        monkeypatch.setattr(
            "mgraph.exporting.subjects.write_node", lambda _s, _n, path, _m, change=change: spoilt(path, change)
        )
        with pytest.raises((InputError, ValueError), match=message):
            g.node("a").export(f"a{suffix}")
        assert written(tmp_path) == [f"good{suffix}", f"good{suffix}.md"]


@pytest.mark.parametrize("name", ["m.pt", "m.safetensors", "m.pt2"])
def test_a_full_disk_leaves_nothing(graph: Any, tmp_path: Path, name: str) -> None:
    with files_of_at_most(4096), pytest.raises(InputError, match=rf"/{name} cannot be written: File too large"):
        graph.node("m").export(tmp_path / name, verify=False)
    assert written(tmp_path) == []


@pytest.mark.parametrize("name", ["e", "e.pt2"])
def test_a_full_disk_leaves_nothing_of_an_ensemble(graph: Any, tmp_path: Path, name: str) -> None:
    with ExitStack() as full:

        def fills(at: mgraph.Progress) -> None:
            if at.phase == "export" and at.done == 1:
                full.enter_context(files_of_at_most(4096))

        with pytest.raises(InputError, match=rf"/{name}(/member-0001.safetensors)? cannot be written: File too large"):
            graph.connection("line").export_ensemble(tmp_path / name, grid=2, verify=False, progress=fills)
    assert written(tmp_path) == []


@pytest.mark.parametrize("name", ["place.safetensors", "place.pt"])
def test_a_full_disk_leaves_nothing_of_a_place(graph: Any, tmp_path: Path, name: str) -> None:
    with files_of_at_most(4096), pytest.raises(InputError, match="cannot be written: File too large"):
        graph.connection("line").at(0.3).export(tmp_path / name)
    assert written(tmp_path) == []


def test_what_cannot_be_written_is_refused(run: Any, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: Any) -> str:
        text: str = run("export", *args, code=2).stderr
        assert text.count("\n") == 1
        return text

    assert "must end in .safetensors, .pt, .pth (weights), .pt2" in refused("m", "-o", "m.h5")
    assert "m.pt holds weights alone: export to .pt2" in refused("m", "-o", "m.pt", "--normalise")
    assert "a directory, or a program" in refused("s", "--ensemble", "-o", "e.safetensors")
    assert "--where is for --ensemble" in refused("--where", "kind=mode", "-o", "m.pt2")
    assert "One node is exported at a time, not 2" in refused("a", "b", "-o", "m.pt2")
    assert "`mgraph merge s --at …` makes one point" in refused("s@0.5,0.5", "-o", "m.pt2")
    assert "fits 'kind=none'" in refused("--where", "kind=none", "--ensemble", "-o", "e.pt2")
    (path.parent / "m.pt2.md").write_text("mine")
    assert "m.pt2.md exists already" in refused("m", "-o", "m.pt2")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert "m.onnx needs onnxscript: pip install 'mgraph[onnx]'" in refused("m", "-o", "m.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "onnxscript")
    assert "m.onnx needs onnxruntime: pip install 'mgraph[onnx]' (or leave" in refused("m", "-o", "m.onnx")
    assert written(path.parent) == ["m.pt2.md"]


@pytest.mark.stress
@pytest.mark.parametrize("name", ["m.safetensors", "m.pt", "m.pt2", "m.onnx", "e.pt2", "e.onnx", "e"])
def test_every_format_predicts_the_same_in_a_fresh_process(
    graph: Any, tmp_path: Path, name: str, fresh_process: None
) -> None:
    if name.startswith("e"):
        verified = graph.connection("s").export_ensemble(tmp_path / name, grid=3)["verified"]
        assert (verified["examples"], verified["instead"]) == (64, None)
        assert verified["difference"] <= 1e-5
    else:
        for node in ("m", graph.connection("s").swept().node_ids[1]):
            verified = graph.node(node).export(tmp_path / name, overwrite=True).verified
            assert (verified.examples, verified.instead) == (64, None)
            assert verified.difference <= 1e-5


def test_a_fresh_process_cannot_import_mgraph(tmp_path: Path) -> None:
    """A program of operators that only mgraph registers would run here, and not there."""
    script = Path(mgraph.__file__).parent / "exporting" / "reload.py"
    (tmp_path / "request.json").write_text("{}")
    probe = (
        f"import importlib.util, pathlib\nspec = importlib.util.spec_from_file_location('r', {str(script)!r})\n"
        "reload = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(reload)\n"
        "reload.answer = lambda directory: __import__('mgraph')\nreload.main(pathlib.Path('.'))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", probe], cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert (tmp_path / "error.txt").read_text().startswith("ModuleNotFoundError: import of mgraph halted")


@pytest.mark.stress
@pytest.mark.parametrize("arch", ["resnet18", "mobilenet_v2"])
def test_networks_of_torchvision_become_programs(tmp_path: Path, arch: str, verified_weights: None) -> None:
    random = np.random.default_rng(0)
    x, y = random.integers(0, 256, (8, 3, 32, 32), np.uint8), np.arange(8) % 2
    np.savez(tmp_path / "d.npz", x_train=x, y_train=y, x_valid=x, y_valid=y, x_test=x, y_test=y)
    g = mgraph.create(
        tmp_path / "g.mgraph", arch=f"torchvision:{arch}", data=f"npz:{tmp_path / 'd.npz'}?mean=0.5&std=0.2"
    )
    # At a larger rate, the rounding of float32 alone moves the outputs of mobilenet_v2 by 4e-4, in torch as well.
    a = g.train(epochs=1, batch_size=4, lr=0.01, name="a")
    for name in ("a.pt2", "a.onnx", "a.safetensors"):
        assert a.export(tmp_path / name, normalise=not name.endswith("s")).verified.difference <= 1e-5
