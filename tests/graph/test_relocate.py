"""Code and data that moved: told so, with the same hash, and otherwise nothing changes."""

from __future__ import annotations

import json
import shutil
from typing import Any

import numpy as np
import pytest

import mgraph
from mgraph import trust
from mgraph.errors import InputError, NotFoundError, UntrustedError
from mgraph_store import GraphStore, Space

CODE = """
import numpy as np
from torch import nn
from torch.nn import functional as F
def net(width=3): return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 2))
def data(n=40):
    x = np.random.default_rng(0).normal(0, 1, (n, 4)).astype(np.float32)
    pair = x, (x[:, 0] > 0).astype(np.int64)
    return {"train": pair, "valid": pair, "test": pair}
def odd(): return data() | {"loss": judge, "loss_name": "is it 100%?"}
def judge(out, y): return F.cross_entropy(out, y)
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A graph of two spaces in a project folder, one with data in a file and one with a loss of its own."""
    old = tmp_path / "old"
    (old / "code").mkdir(parents=True)
    (old / "code" / "n.py").write_text(CODE)
    x = np.random.default_rng(0).normal(0, 1, (40, 4)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)
    np.savez(old / "d.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    monkeypatch.chdir(old)
    g = mgraph.create("g.mgraph", arch="code/n.py:net", data="npz:d.npz", name="file")
    g.add_space("code/n.py:net?width=4", "code/n.py:data?n=30", loss="code/n.py:judge", name="own")
    for space in ("file", "own"):
        g.train(space=space, epochs=1, name=f"{space}-a")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def spaces(path) -> dict[str, Space]:
    with GraphStore.open(path).reading() as reader:
        return {space.name: space for space in reader.all(Space)}


def compute(g: Any) -> None:
    """Load architecture, data and loss of every space."""
    for name in ("file", "own"):
        _ = g.session.workspace(g.session.space(name)).flat


@pytest.fixture
def moved(place):
    """The project lies elsewhere, in another order."""
    shutil.move(place / "old", place / "new")
    (place / "new" / "code").rename(place / "new" / "src")
    return place


def test_what_is_missing_says_what_to_type(moved, run_in):
    for space, words in (
        ("file", "mgraph relocate file --arch NEW/n.py:net"),
        ("own", "mgraph relocate own --arch 'NEW/n.py:net?width=4' --data 'NEW/n.py:data?n=30' --loss NEW/n.py:judge"),
    ):
        told = run_in("train", "--space", space, "--graph", "new/g.mgraph", code=2).stderr
        assert f"does not exist; check the path. If it is somewhere else now, say where: {words}\n" in told
    (moved / "new" / "d.npz").rename(moved / "d.npz")
    shutil.copytree(moved / "new" / "src", moved / "new" / "code")
    told = run_in("train", "--space", "file", "--graph", "new/g.mgraph", "--trust", code=2).stderr
    assert told.endswith("say where: mgraph relocate file --data npz:NEW/d.npz\n")


@pytest.fixture
def run_in(tmp_path, commands):
    return commands(tmp_path)


def test_a_folder_that_moved(moved, run_in):
    before = spaces("new/g.mgraph")
    run = run_in("relocate", "new/code", "new/src", "--graph", "new/g.mgraph", "--json")
    assert {row["arch"] for row in run.rows} == {"../src/n.py:net", "../src/n.py:net?width=4"}
    after = spaces("new/g.mgraph")
    for name, space in after.items():
        assert (space.id, space.data_hash, space.layout) == tuple(
            getattr(before[name], field) for field in ("id", "data_hash", "layout")
        )
    assert (after["own"].data, after["own"].loss) == ("../src/n.py:data?n=30", "../src/n.py:judge")
    assert set(json.loads(after["own"].factories)) == {after["own"].arch, after["own"].data, after["own"].loss}
    with pytest.raises(UntrustedError):  # naming a folder trusts nothing in it
        compute(mgraph.open("new/g.mgraph"))
    g = mgraph.open("new/g.mgraph", trust=True)
    compute(g)
    assert g.train(space="own", epochs=1, seed=1, name="b").name == "b"
    assert g.check(deep=True).ok


def test_what_was_trusted_stays_so_when_only_the_code_moves(place):
    (place / "old" / "code").rename(place / "src")
    g = mgraph.open("old/g.mgraph")
    assert len(g.relocate(paths=("old/code", "src"))) == 2
    compute(mgraph.open("old/g.mgraph"))


def test_old_paths_may_be_given_as_they_stand_in_a_spec_and_new_ones_as_files(moved):
    g = mgraph.open("new/g.mgraph")
    g.relocate(paths=("../code/n.py", "new/src/n.py"))
    compute(g)  # the file was named
    with pytest.raises(
        NotFoundError, match=r"No space of .* names nothing\.py .*; they name \.\./d\.npz, \.\./src/n\.py"
    ):
        g.relocate(paths=("nothing.py", "new/src/n.py"))


def test_new_specs_of_one_space(moved, monkeypatch):
    monkeypatch.chdir(moved / "new" / "src")
    g = mgraph.open("../g.mgraph")
    with pytest.raises(NotFoundError, match="relocate file"):
        compute(g)
    [space] = g.relocate("own", arch="n.py:net?width=4", data="n.py:data?n=30", loss="n.py:judge")
    assert space.loss == "../src/n.py:judge"
    [_] = g.relocate("file", arch="n.py:net")
    compute(g)
    # a second move: the data's fingerprint still knows the loss by its first name
    shutil.copy("n.py", moved / "m.py")
    g.relocate("own", loss=f"{moved}/m.py:judge")
    compute(mgraph.open("../g.mgraph"))


def test_data_in_files_move_if_they_are_the_same(place):
    shutil.move(place / "old" / "d.npz", place / "e.npz")
    g = mgraph.open("old/g.mgraph")
    [space] = g.relocate("file", data="npz:e.npz")
    assert space.data == "npz:../../e.npz"
    compute(g)
    g.relocate("file", data=f"npz:{place}/e.npz")
    assert spaces("old/g.mgraph")["file"].data == f"npz:{place}/e.npz"
    (place / "deep").mkdir()
    shutil.move(place / "e.npz", place / "deep" / "e.npz")
    g.relocate(paths=(place / "e.npz", place / "deep" / "e.npz"))
    assert spaces("old/g.mgraph")["file"].data == f"npz:{place}/deep/e.npz"


def unchanged(path, before) -> bool:
    return spaces(path) == before


WRONG = (
    (
        {"arch": "other.py:net?width=4"},
        "is not the code of space own: its hash is [0-9a-f]{32}, .* recorded [0-9a-f]{32}",
    ),
    ({"arch": "src/n.py:net?width=5"}, "another function or parameter"),
    ({"arch": "src/n.py:judge?width=4"}, "another function or parameter"),
    ({"arch": "mlp"}, "of another kind"),
    ({"arch": "src/none.py:net?width=4"}, "does not exist"),
    ({"data": "npz:d.npz"}, "of another kind"),
    ({}, "Say what has moved"),
    ({"arch": "src/n.py:net?width=4", "loss": "other.py:judge"}, "is not the code"),
)


def test_nothing_changes_unless_it_is_the_same(moved, monkeypatch):
    monkeypatch.chdir(moved / "new")
    (moved / "new" / "other.py").write_text(CODE + "# changed\n")
    before = spaces("g.mgraph")
    for specs, says in WRONG:
        with pytest.raises((InputError, NotFoundError), match=says):
            mgraph.open("g.mgraph").relocate("own", **specs)
        assert unchanged("g.mgraph", before)


def test_one_space_that_is_not_the_same_keeps_all_where_they_are(place):
    shutil.copytree(place / "old" / "code", place / "src")
    shutil.copy(place / "old" / "d.npz", place / "src")
    x = np.ones((40, 4), np.float32)
    y = np.arange(40) % 2
    np.savez(place / "src" / "d.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    before = spaces("old/g.mgraph")
    g = mgraph.open("old/g.mgraph")
    with pytest.raises(InputError, match=r"other data than space file .* fingerprint is [0-9a-f]{32}, .*recorded"):
        g.relocate(paths=("old/d.npz", "src/d.npz"))
    (place / "src" / "n.py").write_text(CODE + "# changed\n")
    with pytest.raises(InputError, match="is not the code"):
        g.relocate(paths=("old/code", "src"))
    assert unchanged("old/g.mgraph", before)
    assert not trust.is_trusted(
        g.path, "../../src/n.py:net", json.loads(before["file"].factories)["../code/n.py:net"]["hash"]
    )


def test_what_does_not_come_from_a_place_has_none(graph):
    with pytest.raises(InputError, match="is built in; there is nothing to relocate"):
        graph.relocate(arch="cnn")
    with pytest.raises(InputError, match="comes with its data; there is nothing"):
        graph.relocate(loss="x.py:f")
    with pytest.raises(NotFoundError, match="they name no paths"):
        graph.relocate(paths=("a", "b"))
    with pytest.raises(InputError, match="Give either"):
        graph.relocate(arch="cnn", paths=("a", "b"))


def test_an_interrupted_run_goes_on_after_the_move(place, monkeypatch):
    """Its plan names the space by id."""
    from mgraph.progress import Progress

    def stop(progress: Progress) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(place / "old")
    with pytest.raises(KeyboardInterrupt):
        mgraph.open("g.mgraph").train(space="own", epochs=2, name="b", progress=stop)
    monkeypatch.chdir(place)
    (place / "old" / "code").rename(place / "src")
    g = mgraph.open("old/g.mgraph")
    g.relocate(paths=("old/code", "src"))
    assert g.resume("b").name == "b"


def test_wrong_usage(run_in, place):
    assert "Give a SPACE" in run_in("relocate", "a", "b", "--arch", "x.py:f", "--graph", "old/g.mgraph", code=2).stderr
    assert "Give a SPACE" in run_in("relocate", "a", "b", "c", "--graph", "old/g.mgraph", code=2).stderr


def test_bundles_from_before_the_move_still_fit(place):
    g = mgraph.open("old/g.mgraph")
    g.pack("own-a", "file-a", path="before.mgraph.zip")
    (place / "old" / "code").rename(place / "src")
    g.relocate(paths=("old/code", "src"))
    g.pack("own-a", path="after.mgraph.zip")
    for bundle in ("before.mgraph.zip", "after.mgraph.zip"):
        assert len(g.unpack(bundle).present) > 0
    assert set(spaces("old/g.mgraph")) == {"file", "own"}


def test_a_loss_that_comes_with_the_data_may_have_any_name(place):
    g = mgraph.open("old/g.mgraph")
    g.add_space("old/code/n.py:net", "old/code/n.py:odd", name="odd")
    (place / "old" / "code").rename(place / "src")
    with pytest.raises(NotFoundError, match=r"mgraph relocate odd --arch NEW/n.py:net --data NEW/n.py:odd$"):
        _ = mgraph.open("old/g.mgraph").session.workspace(g.session.space("odd")).flat
    assert len(g.relocate(paths=("old/code", "src"))) == 3
    assert spaces("old/g.mgraph")["odd"].loss == "is it 100%?"
