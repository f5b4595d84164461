"""An evaluation loss of one's own: part of the space, trusted like other code, never mixed with another one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mgraph
from mgraph.errors import InputError, NotFoundError, UntrustedError

CODE = """
from torch.nn import functional as F

def doubled(outputs, targets):
    return 2 * F.cross_entropy(outputs, targets)

def columns(outputs, targets):
    return outputs.mean(1)

number = 3
"""


@pytest.fixture
def own(tmp_path: Path) -> Any:
    (tmp_path / "own.py").write_text(CODE)
    loss = f"{tmp_path / 'own.py'}:doubled"
    return mgraph.create(tmp_path / "g.mgraph", arch="mlp?hidden=4,", data="digits", loss=loss, device="cpu")


def evaluations(point: Any) -> dict[tuple[str, str], Any]:
    return {(e["split"], e["metric"]): e for e in point.describe()["evaluations"]}


def test_everything_in_the_space_is_judged_by_it(own: Any) -> None:
    (space,) = own.spaces()
    assert space["loss"] == "../own.py:doubled"
    plain = own.add_space("mlp?hidden=4,", "digits", name="plain")
    assert plain.loss == "cross_entropy"
    assert own.add_space("mlp?hidden=4,", "digits", loss=str(own.path.parent / "own.py") + ":doubled").id == space["id"]
    settings = {"epochs": 2, "seed": 0, "momentum": 0.0, "weight_decay": 0.0}
    a = own.train(space=space["id"], lr=0.05, name="a", **settings)
    b = own.train(space="plain", lr=0.1, name="b", **settings)
    # Twice the loss at half the learning rate is the same training.
    for name in a.tensors():
        assert np.allclose(a.tensors()[name], b.tensors()[name], rtol=1e-4, atol=1e-6)
    mine, theirs = evaluations(a), evaluations(b)
    assert mine["test", "loss"]["value"] == pytest.approx(2 * theirs["test", "loss"]["value"], rel=1e-3)
    assert mine["test", "loss"]["standard_error"] is None
    assert mine["test", "accuracy"]["standard_error"] is not None
    c = own.train(space=space["id"], name="c", **settings | {"seed": 1})
    line = own.connect(a, c, method=mgraph.Linear(), grid=3)
    assert line.swept().values["train", "loss"][0] == pytest.approx(mine["train", "loss"]["value"], rel=1e-5)
    with pytest.raises(InputError, match="different tasks"):
        own.connect(a, b, method=mgraph.Linear())


def test_changed_code_is_never_taken_for_the_same(own: Any) -> None:
    a = own.train(epochs=1, name="a")
    file = own.path.parent / "own.py"
    file.write_text(CODE.replace("2 *", "3 *"))
    with pytest.raises(UntrustedError, match=r"own.py, which graph .* names, has changed since you trusted it"):
        mgraph.open(own.path, device="cpu").node("a").evaluate()
    with pytest.raises(InputError, match=r"The loss ../own.py:doubled is not what space .* was made with"):
        mgraph.open(own.path, device="cpu", trust=True).node("a").evaluate()
    other = own.add_space("mlp?hidden=4,", "digits", loss=f"{file}:doubled", name="tripled")
    assert other.name == "tripled"  # a space of its own
    file.write_text(CODE)
    assert mgraph.open(own.path, device="cpu").node("a").evaluate()["loss"].value > 0
    assert a.describe()["space"] != "tripled"


def test_a_strangers_loss_does_not_run(own: Any, tmp_path: Path) -> None:
    (tmp_path / "away").mkdir()
    shutil.copytree(own.path, tmp_path / "away" / "g.mgraph")
    shutil.copy(tmp_path / "own.py", tmp_path / "away" / "own.py")
    stranger = mgraph.open(tmp_path / "away" / "g.mgraph", device="cpu")
    with pytest.raises(UntrustedError, match="code that you have not trusted yet"):
        stranger.train(epochs=1)
    assert stranger.spaces()[0]["loss"] == "../own.py:doubled"  # looking runs nothing


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        ("cross_entropy", InputError, "A loss is named module:function or file.py:function, not 'cross_entropy'"),
        ("own.py:tripled", NotFoundError, "has no function 'tripled'"),
        ("none.py:loss", NotFoundError, "none.py does not exist"),
        ("own.py:number", InputError, "must be a function"),
        ("own.py:doubled?weight=2", InputError, "A loss is named module:function"),
        ("own.py:columns", InputError, r"The loss ../own.py:columns must return a scalar tensor"),
    ],
)
def test_what_is_no_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: str, error: Any, message: str) -> None:
    (tmp_path / "own.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        mgraph.create(tmp_path / "g.mgraph", arch="mlp?hidden=4,", data="digits", loss=loss, device="cpu")
    assert not (tmp_path / "g.mgraph").exists()


def test_on_the_command_line(run: Any, path: Path) -> None:
    (path.parent / "own.py").write_text(CODE)
    row = run("add-space", "--arch", "mlp?hidden=4,", "--data", "digits", "--loss", "own.py:doubled", "--json").row
    assert row["loss"] == "../own.py:doubled"
    made = run("init", "h.mgraph", "--arch", "mlp?hidden=4,", "--data", "digits", "--loss", "own.py:doubled", "--json")
    assert made.row["loss"] == "../own.py:doubled"
