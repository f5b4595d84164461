"""A user's own method or family, named file.py:Class: stored, resumed, moved, and never run for a stranger."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mgraph
from mgraph import usercode
from mgraph.errors import InputError, MGraphWarning, UntrustedError
from mgraph.families import BentPath, family_from
from mgraph.methods.own import method_from
from mgraph.session.members import rows_of
from mgraph.trust import trust_file
from mgraph_store import Connection, Run

PATHS = '''
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

import mgraph
from mgraph.families import BentPath, Segment
from mgraph.methods.base import Outcome, SeriesData
from mgraph.methods.curves.path import TrainedPath
from mgraph.settings import setting

if Path({pwned!r}).parent.exists():
    Path({pwned!r}).touch()


@dataclass(frozen=True)
class Lagrange(BentPath):
    """The polynomial through its control points at evenly spaced t."""

    name: ClassVar[str] = "lagrange"
    noun: ClassVar[str] = "Lagrange path"

    @property
    def order(self):
        return self.bends + 1

    def coefficients(self, t):
        t, x = self.points(t), self.places
        others = [np.delete(x, k) for k in range(self.size)]
        return np.stack([np.prod((t - o) / (x[k] - o), axis=1) for k, o in enumerate(others)], axis=1)

    def derivatives(self, t):
        t, x = self.points(t)[:, 0], self.places
        basis = [np.polynomial.Polynomial.fromroots(np.delete(x, k)) for k in range(self.size)]
        return np.stack([p.deriv()(t) / p(x[k]) for k, p in enumerate(basis)], axis=1)[:, None]


@dataclass(frozen=True)
class Skewed(Lagrange):
    """Its control points lie closer to the first end."""

    name: ClassVar[str] = "skewed"
    skew: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if self.skew <= 0:
            raise ValueError("skew is above 0")

    @property
    def places(self):
        return super().places ** self.skew


@dataclass(frozen=True, kw_only=True)
class Mine(TrainedPath):
    name: ClassVar[str] = "mine"
    summary: ClassVar[str] = "a path of my own"
    stiff: float = setting(1.0, "how stiff it is", low=0)

    def family(self, ends):
        return Lagrange(self.bends)


@dataclass(frozen=True, kw_only=True)
class Straight(mgraph.Method):
    name: ClassVar[str] = "mystraight"
    summary: ClassVar[str] = "a segment"

    def family(self, ends):
        return Segment()

    def run(self, flat, task, family, start, progress, checkpointer=None):
        return Outcome(start.points())


class Taken(Straight):
    name = "curve"


class Told(Straight):
    """Tells and draws what it observed."""

    name: ClassVar[str] = "told"

    def run(self, flat, task, family, start, progress, checkpointer=None):
        return Outcome(start.points(), series=(SeriesData("train_loss", "", (0.0, 1.0), (2.0, 1.5)),))

    @classmethod
    def describe(cls, series, data):
        steps = [{{"step": a, "loss": b}} for s in series for a, b in zip(s.positions, s.values, strict=True)]
        return {{"steps": steps, "id": "forged"}}

    @classmethod
    def figure(cls, series, data, ends, *, title="", before=None):
        from matplotlib.figure import Figure

        drawn = Figure()
        drawn.text(0.5, 0.5, f"{{title}} of {{'-'.join(ends)}}, {{len(series)}} told")
        return drawn


@dataclass(frozen=True)
class Loose(Lagrange):
    """Its coefficients do not sum to one."""

    def coefficients(self, t):
        return super().coefficients(t) * np.where((t > 0) & (t < 1), 1.1, 1.0)


def function():
    ...
'''


@pytest.fixture
def pwned(path: Path) -> Path:
    """Appears when the code runs, if it lies in a directory that exists."""
    (path.parent / "seen").mkdir()
    found = path.parent / "seen" / "ran"
    (path.parent / "paths.py").write_text(PATHS.format(pwned=str(found)))
    return found


@pytest.fixture
def lagrange(run: Any, pwned: Path) -> None:
    run("connect", "a", "b", "--method", "paths.py:Lagrange", "--bends", 2, "--epochs", 1, "--name", "q", "--grid", 5)


def forget(pwned: Path) -> None:
    """Let nothing of the code be loaded, so that it would be seen to run."""
    for name in [name for name in sys.modules if name.startswith("_mgraph_code_")]:
        del sys.modules[name]
    usercode._loaded.clear()
    pwned.unlink()


def connection(path: Path, name: str) -> Connection:
    with mgraph.open(path).session.store.reading() as reader:
        return reader.all(Connection, name=name)[0]


def test_a_family_is_trained_and_used_like_any_other(run: Any, path: Path, lagrange: None) -> None:
    stored = json.loads(connection(path, "q").family)
    assert stored["family"] == "../paths.py:Lagrange"
    assert (stored["size"], stored["ends"], stored["order"], stored["settings"]) == (4, [0, 3], 3, {"bends": 2})
    shown = run("show", "q", "--json").row
    assert shown["family"] == stored
    assert len(shown["control_points"]) == 4
    assert run("sweep", "q", "--grid", 7).stdout
    assert run("merge", "q", "--at", "0.4", "--force").stdout
    assert run("ensemble", "q", "--grid", 3).stdout
    assert run("connect", "a", "b", "--curve", "--init", "q", "--epochs", 0, "--name", "fit", "--no-sweep").stdout
    # From a cubic to a parabola: its middle is fitted, so the ends alone do not say where it is.
    assert "least-squares fit to q" in run("show", "fit", "--json").row["reason"]
    assert "of your own" not in run("compose", "q", "q", code=2).stderr  # a path that ends where it began
    assert run("plot", "q", "-o", "q.png").stdout


def test_further_fields_of_a_family_stand_in_its_name(run: Any, path: Path, pwned: Path) -> None:
    named = "paths.py:Skewed?skew=2"
    run("connect", "a", "b", "--method", named, "--bends", 2, "--epochs", 0, "--name", "q", "--grid", 3)
    made = connection(path, "q")
    assert json.loads(made.family)["settings"] == {"bends": 2, "skew": 2.0}
    g = mgraph.open(path, device="cpu")
    rows = [g.session.store.read_parameters(n["node"]) for n in g.connection("q").describe()["control_points"]]
    for row, along in zip(rows, (0.0, 1 / 9, 4 / 9, 1.0), strict=True):  # untrained, they lie where the class says
        np.testing.assert_allclose(row, (1 - along) * rows[0] + along * rows[-1], atol=1e-6)
    with g.session.store.reading() as reader:
        assert json.loads(reader.get(Run, id=made.run_id).settings)["method_code"] == "paths.py:Skewed?skew=2.0"
    assert (
        "--method 'paths.py:Skewed?skew=2.0' -s bends=2"
        in run("suggest", "b", "c", "--method", named, "-s", "bends=2").stdout
    )


def test_a_method_with_settings_of_its_own(run: Any, path: Path, pwned: Path) -> None:
    run("connect", "a", "b", "--method", "paths.py:Mine", "-s", "stiff=2", "--epochs", 0, "--name", "own", "--no-sweep")
    made = connection(path, "own")
    assert made.kind == "mine"
    assert json.loads(made.settings)["stiff"] == 2
    with mgraph.open(path).session.store.reading() as reader:
        ran = reader.get(Run, id=made.run_id)
    assert json.loads(ran.settings)["method_code"] == "paths.py:Mine"
    assert set(json.loads(ran.versions)["code"]) == {"method"}
    assert "stiff = 1.0  # how stiff it is" in run("methods", "paths.py:Mine").stdout
    assert "a whole number" in run("connect", "a", "b", "--method", "paths.py:Mine", "-s", "bends=x", code=2).stderr
    assert run("connect", "a", "b", "--method", "paths.py:Straight", "--grid", 3).stdout
    said = run("suggest", "-n", 9, "--method", "paths.py:Mine", "-s", "stiff=3").stdout
    assert "--method paths.py:Mine -s stiff=3.0" in said


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("paths.py:function", "is not a subclass of mgraph.Method"),
        ("paths.py:Taken", "is that of a built-in method"),
        ("paths.py:Loose", "coefficients must sum to one"),
        ("paths.py:Nothing", "has no function 'Nothing'"),
        ("nowhere.py:Mine", "does not exist"),
        ("paths.py:Mine?bends=3", "settings are not part of its name"),
        ("paths.py:Skewed?bends=3", "are a setting of its training; give them by --bends"),
        ("paths.py:Skewed?skwe=3", "has no parameter 'skwe'; did you mean 'skew'?"),
        ("paths.py:Skewed?skew=x", "skew must be a number, not 'x'"),
        ("paths.py:Skewed?skew=-1", "cannot be made with skew=-1.0: skew is above 0"),
        ("mine", "There is no method 'mine'"),
    ],
)
def test_what_is_no_method_is_refused(run: Any, pwned: Path, named: str, said: str) -> None:
    done = run("connect", "a", "b", "--method", named, code=2)
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_method_tells_and_draws_what_it_observed(run: Any, path: Path, pwned: Path) -> None:
    run("connect", "a", "b", "--method", "paths.py:Told", "--name", "own", "--grid", 3)
    row = run("show", "own", "--json").row
    assert row["steps"] == [{"step": 0.0, "loss": 2.0}, {"step": 1.0, "loss": 1.5}]
    assert row["id"] == connection(path, "own").id
    assert "steps" in run("show", "own").stdout.splitlines()
    run("plot", "own", "-o", "own.svg")
    assert "own of a-b, 1 told" in (path.parent / "own.svg").read_text()
    # It is a stranger's, as far as anybody knows.
    forget(pwned)
    trust_file().unlink()
    assert "steps" not in run("show", "own", "--json").row
    run("plot", "own", "-o", "plain.svg")
    assert "told" not in (path.parent / "plain.svg").read_text()
    assert not pwned.exists()
    assert "steps" in mgraph.open(path, device="cpu", trust=True).connection("own").describe()
    (path.parent / "paths.py").write_text("class Told:")
    with pytest.warns(MGraphWarning, match=r"paths.py:Told says of own is not shown: .* cannot be imported"):
        assert "steps" not in mgraph.open(path, device="cpu", trust=True).connection("own").describe()
    (path.parent / "paths.py").unlink()
    assert "steps" not in mgraph.open(path, device="cpu", trust=True).connection("own").describe()


def test_queries_run_no_code_and_computing_asks(run: Any, path: Path, lagrange: None, pwned: Path) -> None:
    """As if a stranger had made it: the user has trusted nothing."""
    forget(pwned)
    trust_file().unlink()
    for command in (("ls",), ("show", "q"), ("components", "--max-barrier", 1), ("check",)):
        run(*command)
    g = mgraph.open(path, device="cpu")
    assert g.connection("q").swept().family.size == 4
    with pytest.raises(UntrustedError, match="a family of your own"):
        g.connection("q").swept().coefficients  # noqa: B018
    for command in (("sweep", "q"), ("merge", "q"), ("ensemble", "q"), ("connect", "a", "b", "--curve", "--init", "q")):
        done = run(*command, "--json", code=2)
        assert json.loads(done.stderr.splitlines()[-1])["error"]["kind"] == "untrusted", done.stderr
    assert not pwned.exists()
    run("sweep", "q", "--grid", 3, "--trust")
    assert pwned.exists()


def test_changed_code_of_a_family_is_refused(run: Any, path: Path, lagrange: None) -> None:
    with (path.parent / "paths.py").open("a") as file:
        file.write("# other\n")
    assert "has changed since you trusted it" in run("sweep", "q", code=2).stderr
    assert "its code changed" in run("sweep", "q", "--trust", code=2).stderr


def test_a_bundle_brings_the_name_and_no_trust(run: Any, path: Path, lagrange: None, pwned: Path) -> None:
    forget(pwned)
    run("pack", "q", "-o", "q.zip")
    mgraph.create(path.parent / "other.mgraph", arch="mlp?hidden=4,", data="digits", device="cpu")
    said = run("unpack", "q.zip", "--graph", "other.mgraph")
    assert "q runs along ../paths.py:Lagrange" in said.stderr + said.stdout
    assert "have not trusted" in run("sweep", "q", "--grid", 3, "--graph", "other.mgraph", code=2).stderr
    assert not pwned.exists()
    run("sweep", "q", "--grid", 3, "--graph", "other.mgraph", "--trust")


def test_a_family_is_found_where_it_has_moved(run: Any, path: Path, lagrange: None) -> None:
    (path.parent / "code").mkdir()
    shutil.move(path.parent / "paths.py", path.parent / "code" / "paths.py")
    assert "does not exist" in run("sweep", "q", code=2).stderr
    assert "the family of q is named by its new path" in run("relocate", "paths.py", "code/paths.py").stderr
    assert json.loads(connection(path, "q").family)["family"] == "../code/paths.py:Lagrange"
    run("sweep", "q", "--grid", 3)


@pytest.mark.parametrize(
    ("named", "fields"),
    [pytest.param("Lagrange", {}, marks=pytest.mark.stress), ("Skewed?skew=2", {"skew": 2.0})],
)
def test_an_interrupted_run_goes_on(
    run: Any, path: Path, pwned: Path, monkeypatch: pytest.MonkeyPatch, named: str, fields: dict[str, Any]
) -> None:
    monkeypatch.chdir(path.parent)
    settings = {"bends": 1, "epochs": 2, "seed": 3}
    g = mgraph.open(path, device="cpu")
    whole = g.connect("a", "b", method=method_from(f"paths.py:{named}", ())(**settings), sweep=False, name="whole")

    def stop(progress: Any) -> None:
        if progress.done > 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        g.connect(
            "a", "b", method=method_from(f"paths.py:{named}", ())(**settings), sweep=False, name="cut", progress=stop
        )
    (waiting,) = [r for r in g.runs() if r["status"] == "interrupted"]
    assert "if you know it, add --trust" in run("resume", waiting["id"], "--json", code=2).stderr
    run("resume", waiting["id"], "--trust")
    cut = mgraph.open(path).connection("cut")
    with mgraph.open(path).session.store.reading() as reader:
        digests = [[node.digest for node in rows_of(reader, c.record)] for c in (whole, cut)]
    assert digests[0] == digests[1]
    family = run("show", "cut", "--json").row["family"]
    assert family["family"] == f"../paths.py:{named.partition('?')[0]}"
    assert family["settings"] == {"bends": 1} | fields


def test_an_object_of_an_imported_class_is_stored_by_its_file(
    path: Path, pwned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(path.parent))
    import paths  # type: ignore[import-not-found]

    g = mgraph.open(path, device="cpu")
    made = g.connect("a", "b", method=paths.Mine(epochs=0), name="own", sweep=False)
    assert json.loads(made.record.family)["family"] == "../paths.py:Lagrange"
    assert made.sweep(3).coefficients.shape == (3, 3)


def test_a_family_that_no_graph_could_find_again_is_refused(path: Path) -> None:
    class Local(BentPath):
        coefficients = mgraph.families.BezierCurveFamily.coefficients
        derivatives = mgraph.families.BezierCurveFamily.derivatives
        order = mgraph.families.BezierCurveFamily.order

    class Here(mgraph.BezierCurve):
        name = "here"

        def family(self, ends: int) -> Any:
            return Local(1)

    with pytest.raises(InputError, match="put it into a file of its own"):
        mgraph.open(path, device="cpu").connect("a", "b", method=Here())


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 10**9},
        {"size": True},
        {"ends": [0, 9]},
        {"ends": [0]},
        {"ends": "01"},
        {"dimension": 60},
        {"hash": 3},
        {"knots": [0, 0.5, 0.5, 1]},
        {"order": -1},
        {"settings": None},
        {"more": 1},
    ],
)
def test_a_damaged_description_is_refused_without_code(wrong: dict[str, Any]) -> None:
    good = {
        "family": "evil.py:F",
        "hash": "00",
        "dimension": 1,
        "size": 3,
        "ends": [0, 2],
        "order": 2,
        "knots": [0, 1],
        "settings": {},
    }
    assert family_from(good).describe() == good
    with pytest.raises(InputError, match="not described as"):
        family_from(good | wrong)


def test_a_strangers_family_runs_nothing(run: Any, path: Path, pwned: Path) -> None:
    store = mgraph.open(path).session.store
    line = connection(path, "line")
    forged = {"family": "../paths.py:Lagrange", "hash": "00", "dimension": 1, "size": 2, "ends": [0, 1]}
    forged |= {"order": 1, "knots": [0, 1], "settings": {"bends": 0}}
    with store.transaction() as tx:
        tx.update(replace(line, family=json.dumps(forged)))
    for command in (("show", "line"), ("check",), ("ls",)):
        run(*command)
    for command in (("sweep", "line"), ("merge", "line"), ("ensemble", "line"), ("compose", "line", "line")):
        run(*command, code=2)
    assert not pwned.exists()


def test_a_method_is_sent_to_a_worker_by_its_name(path: Path, pwned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    for name, settings in (("Lagrange", {"bends": 3}), ("Mine", {"stiff": 2.0}), ("Skewed?skew=2", {"bends": 1})):
        method = method_from(f"paths.py:{name}", ())(**settings)
        parcel = pickle.dumps(method)
        assert b"_mgraph_code_" not in parcel
        there = pickle.loads(parcel)
        assert (there.name, asdict(there)) == (method.name, asdict(method))
        assert there.family(2) == method.family(2)


def test_it_is_a_piece_of_a_path(run: Any, path: Path, lagrange: None) -> None:
    run("connect", "b", "c", "--linear", "--name", "on", "--no-sweep")
    run("compose", "q", "on", "--name", "whole", "--grid", 5)
    assert json.loads(connection(path, "whole").family)["pieces"][0]["family"]["family"] == "../paths.py:Lagrange"
    trust_file().unlink()
    run("show", "whole")
    assert "have not trusted" in run("sweep", "whole", code=2).stderr
