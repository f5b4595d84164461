"""Checkpoints of others in a graph: what is stored with a mode, stale statistics, further states, trained curves."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import mgraph
from mgraph.errors import InputError, MGraphWarning, TrainedCurveError
from mgraph_store import assert_consistent

_NET = """
import numpy as np
import torch
from torch import nn

def net(): return nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))

def bare(): return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))

class Extra(nn.Module):
    def __init__(self, used, plain):
        super().__init__()
        self.a, self.b, self.scale, self.used, self.plain = nn.Linear(4, 8), nn.Linear(8, 2), 1.0, used, plain
    def forward(self, x): return self.b(torch.relu(self.a(x))) * (self.scale if self.used else 1)
    def get_extra_state(self): return self.scale if self.plain else torch.tensor([self.scale])
    def set_extra_state(self, s): self.scale = float(s)

def extra(used=True, plain=False): return Extra(used, plain)

def data():
    r = np.random.default_rng(0)
    def draw(n):
        x = r.normal(20, 5, (n, 4)).astype(np.float32)
        return x, (x[:, 0] + x[:, 1] > 40).astype(np.int64)
    return {"train": draw(200), "valid": draw(60), "test": draw(60)}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with networks and data of one's own, and the current one."""
    (tmp_path / "n.py").write_text(_NET)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def create(name: str, arch: str) -> mgraph.Graph:
    return mgraph.create(name, arch=f"n.py:{arch}", data="n.py:data", device="cpu")


def module(arch: str, **arguments: Any) -> torch.nn.Module:
    names: dict[str, Any] = {}
    exec(compile(_NET, "n.py", "exec"), names)
    made: torch.nn.Module = names[arch](**arguments)
    return made


def trained() -> dict[str, torch.Tensor]:
    """Train the network with batch normalisation for a moment; return its state dict."""
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    exec(compile(_NET, "n.py", "exec"), names)
    x, y = map(torch.tensor, names["data"]()["train"])
    network = names["net"]()
    optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9)
    for _ in range(150):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()
    state: dict[str, torch.Tensor] = network.state_dict()
    return state


def stale(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    fresh = module("net").state_dict()
    return {k: fresh[k] if "running" in k or "num_" in k else v for k, v in state.items()}


def train_loss(point: mgraph.Point) -> float:
    found: float = point.evaluate("train")["loss"].value
    return found


def test_stale_statistics_are_said_and_can_be_recomputed(folder: Path) -> None:
    g, good = create("g.mgraph", "net"), trained()
    torch.save(good, "good.pt")
    torch.save(stale(good), "stale.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mode = g.add_mode("good.pt", name="good")
    with pytest.warns(MGraphWarning) as caught:
        bad = g.add_mode("stale.pt", name="bad")
    (said,) = [str(w.message) for w in caught if "stale" in str(w.message)]
    assert f"train loss of {train_loss(bad):.4g} with the BatchNorm statistics of its file" in said
    assert "--recompute-batchnorm" in said
    with pytest.warns(MGraphWarning, match="exactly the parameters"):
        mended = g.add_mode("stale.pt", name="mended", recompute_batchnorm=True)
    assert train_loss(mended) < 2 * train_loss(mode) < 0.1 * train_loss(bad)
    assert f"of {train_loss(mended):.4g} with recomputed ones" in said
    described = mended.describe()
    assert described["info"]["batchnorm"].startswith("recompute(examples=200")
    assert f"BatchNorm statistics recomputed from the training data: {described['info']['batchnorm']}" in mended.notes
    stored = {(e["split"], e["metric"]): e["value"] for e in described["evaluations"]}
    assert stored["train", "loss"] == pytest.approx(train_loss(mended))  # measured with what is stored
    assert_consistent(g.session.store)


def test_statistics_that_are_absent_are_recomputed_when_told(folder: Path) -> None:
    g, good = create("g.mgraph", "net"), trained()
    torch.save({k: v for k, v in good.items() if "running" not in k}, "m.pt")
    with pytest.raises(InputError, match="lacks 2 tensors of running statistics"):
        g.add_mode("m.pt")
    assert not g.nodes()
    assert train_loss(g.add_mode("m.pt", recompute_batchnorm=True)) < 0.5
    bare = create("b.mgraph", "bare")
    torch.save(module("bare").state_dict(), "b.pt")
    with pytest.raises(InputError, match="has no BatchNorm statistics to recompute"):
        bare.add_mode("b.pt", recompute_batchnorm=True)


def test_what_was_done_is_noted_with_the_mode(folder: Path, commands: Any) -> None:
    create("g.mgraph", "bare")
    run = commands(folder)
    a, b = module("bare").state_dict(), module("bare").state_dict()
    content = {"state_dict": {f"model.{k}": v.half() for k, v in a.items()}, "ema": b, "x": torch.device("cpu")}
    torch.save(content, "last.ckpt")
    refused = run("add-mode", "last.ckpt", code=2).stderr
    assert "state_dict.model (raw), ema (averaged); say which with --weights raw or --weights ema" in refused
    said = run("add-mode", "last.ckpt", "--name", "m", "--weights", "raw")
    notes = ["taken from state_dict", "not taken: ema", "prefix model. removed from the names"]
    notes.append("float16 to float32: 4 tensors, first 0.weight")
    assert [line for line in said.stderr.splitlines() if line.startswith("Note")] == [f"Note: {n}" for n in notes]
    info = run("show", "m", "--json").row["info"]
    assert info["notes"] == notes
    assert info["checkpoint"]["key"] == "state_dict.model"
    assert info["checkpoint"]["prefix"] == "model."


def test_states_besides_tensors_come_in_and_go_out(folder: Path) -> None:
    g = create("g.mgraph", "extra")
    own = module("extra")
    torch.save(own.state_dict(), "own.pt")
    g.add_mode("own.pt", name="own")
    g.train(seed=0, epochs=1, name="a")
    g.connect("own", "a", method=mgraph.Linear(), name="line", grid=3).merge(at=0.5, name="m")
    for node in ("own", "a", "m"):
        for file in (f"{node}.pt", f"{node}.safetensors"):
            g.node(node).export(file, overwrite=True)
            state = load_file(file) if file.endswith("s") else torch.load(file, weights_only=True)
            module("extra").load_state_dict(state, strict=True)
    manifest = g.connection("line").export_ensemble("members", grid=3)
    module("extra").load_state_dict(load_file(Path("members") / manifest["members"][1]["file"]), strict=True)
    own.set_extra_state(torch.tensor([3.0]))
    torch.save(own.state_dict(), "other.pt")
    with pytest.raises(InputError, match=r"not a tensor \(_extra_state\) and changes its outputs"):
        g.add_mode("other.pt")
    unused = create("u.mgraph", "extra?used=false")
    unused.add_mode("other.pt", name="fine")


def test_a_state_that_is_no_tensor_goes_to_pt_alone(folder: Path) -> None:
    g = create("g.mgraph", "extra?plain=true")
    torch.save(module("extra", plain=True).state_dict(), "own.pt")
    point = g.add_mode("own.pt", name="own")
    point.export("out.pt")
    module("extra", plain=True).load_state_dict(torch.load("out.pt", weights_only=True), strict=True)
    with pytest.raises(InputError, match=r"keeps _extra_state, a float, which \.safetensors cannot hold"):
        point.export("out.safetensors")
    assert not Path("out.safetensors").exists()


def curve(arch: str, family: str | None, size: int = 3) -> tuple[list[dict[str, torch.Tensor]], dict[str, Any]]:
    """Return control points, and the file of the curve through them as the field's reference code writes it."""
    points = [module(arch).state_dict() for _ in range(size)]
    learned = [name for name, _ in module(arch).named_parameters()]
    held: dict[str, Any] = {f"net.{n}_{i}": p[n] for n in learned for i, p in enumerate(points)}
    held |= {f"net.{n}": v + 7 for n, v in points[0].items() if n not in learned}  # statistics of the last t
    if family is not None:
        held["coeff_layer.range"] = torch.arange(float(size))
    if family == "curve":
        held["coeff_layer.binom"] = torch.ones(size)
    return points, {"epoch": 100, "model_state": held, "optimizer_state": {}}


@pytest.mark.parametrize(
    ("arch", "family", "size"),
    [
        pytest.param("net", "curve", 3, marks=pytest.mark.stress),
        ("net", "chain", 4),
        pytest.param("bare", "curve", 5, marks=pytest.mark.stress),
    ],
)
def test_a_trained_curve_becomes_two_modes_and_a_connection(folder: Path, arch: str, family: str, size: int) -> None:
    torch.manual_seed(0)
    g = create("g.mgraph", arch)
    points, content = curve(arch, family, size)
    torch.save(content, "checkpoint-100.pt")
    with pytest.raises(TrainedCurveError, match=rf"trained .* of {size} control points: .* with --{family}"):
        g.add_mode("checkpoint-100.pt")
    connected = g.add_curve("checkpoint-100.pt", name="c")
    assert (connected.kind, [p.name for p in connected.ends]) == (family, ["c-start", "c-end"])
    swept = connected.sweep(2 * size - 1)
    learned = [name for name, _ in module(arch).named_parameters()]
    rows = np.stack([np.concatenate([p[n].flatten().numpy() for n in learned]) for p in points])
    from mgraph.query.sweepdata import family_of

    C = family_of(connected.record).coefficients(np.array([[0.3]]))
    want = (C @ rows)[0]
    connected.merge(at=0.3, name="m")
    state = g.node("m").state_dict()
    found = np.concatenate([state[n].flatten().numpy() for n in learned])
    np.testing.assert_allclose(found, want, atol=1e-6)
    measured = swept.values["train", "loss"]
    ends = [e.evaluate("train")["loss"].value for e in connected.ends]
    assert [measured[0], measured[-1]] == pytest.approx(ends)  # the ends' statistics are theirs
    assert "imported from checkpoint-100.pt" in connected.describe()["reason"]
    job = mgraph.AddCurveJob(space=connected.space.id, file="checkpoint-100.pt", name="d")
    again = g.run(mgraph.read_job(job.to_json()))
    assert ([p.digest for p in again.ends], again.notes) == ([p.digest for p in connected.ends], connected.notes)
    assert_consistent(g.session.store)


def test_a_curve_of_unknown_family_is_asked_about(folder: Path, commands: Any) -> None:
    create("g.mgraph", "bare")
    run = commands(folder)
    torch.save(curve("bare", None)[1], "c.pt")
    said = run("add-mode", "c.pt", "--name", "c", code=2).stderr
    assert "a trained curve of 3 control points and does not name its family" in said
    made = run("add-mode", "c.pt", "--name", "c", "--chain")
    assert "trained curve of 3 control points, taken from model_state" in made.stderr
    assert run("show", "c", "--json").row["kind"] == "chain"
    torch.save(curve("bare", "curve")[1], "d.pt")
    assert "import it with --curve, not --chain" in run("add-mode", "d.pt", "--chain", code=2).stderr
    run("add-mode", "d.pt", "--name", "d")
    assert run("show", "d", "--json").row["kind"] == "curve"
    torch.save(module("bare").state_dict(), "plain.pt")
    assert "holds no trained curve" in run("add-mode", "plain.pt", "--curve", code=2).stderr
