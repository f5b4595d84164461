"""What a notebook has at hand goes in as it is: functions, classes, modules, arrays."""

from __future__ import annotations

import linecache
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import mgraph
from mgraph.captured import capture
from mgraph.errors import InputError, NotFoundError, UntrustedError

NOTEBOOK = '''
import numpy as np
import torch.nn as layers
from torch import nn

import mgraph

WIDTH = 6
SHIFT = (0.5, -0.5)


class Block(nn.Module):
    """One layer."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.inner = layers.Linear(2, width)

    def forward(self, x):
        return helper(self.inner(x))


def helper(x):
    return x.tanh()


def net(classes, depth=1):
    return nn.Sequential(*[Block() for _ in range(1)], nn.Linear(WIDTH, classes))


def moons():
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    x = (rng.normal(size=(60, 2)) + np.outer(2 * y - 1, SHIFT)).astype(np.float32)
    return {"train": (x[:40], y[:40]), "test": (x[40:], y[40:])}


def twice(outputs, targets):
    return 2 * layers.functional.cross_entropy(outputs, targets)


g = mgraph.create("g.mgraph", arch=net, data=moons, device="cpu")
a = g.train(seed=1, epochs=1, name="a", loss=twice)
print(a.evaluate("test")["loss"].value)
'''


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MGRAPH_CONFIG_DIR", str(tmp_path / "config"))
    return tmp_path


def arrays(count: int = 40) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    y = np.arange(count) % 2
    x = (rng.normal(size=(count, 2)) + y[:, None]).astype(np.float32)
    return {"train": (x, y), "test": (x[:10], y[:10])}


def test_a_factory_of_a_script_is_captured_and_runs_in_other_processes(here: Path, commands: Any) -> None:
    (here / "script.py").write_text(NOTEBOOK)
    done = subprocess.run([sys.executable, "script.py"], cwd=here, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (space,) = mgraph.open(here / "g.mgraph").spaces()
    assert space["arch"].startswith("code/net-")
    kept = (here / "g.mgraph" / space["arch"].rpartition(":")[0]).read_text()
    assert "import torch.nn as layers" in kept
    assert kept.index("WIDTH = 6") < kept.index("class Block") < kept.index("def net(")
    run = commands(here)
    loss = run("show", "a", "--json").row["run"]["settings"]["loss"]
    assert "/g.mgraph/code/twice-" in loss
    assert Path(loss.rpartition(":")[0]).read_text().count("def twice") == 1
    run("train", "--seed", 2, "--epochs", 1, "--name", "b")
    rows = {row["name"]: row for row in run("ls", "--json").rows}
    assert rows["a"]["test_loss"] == pytest.approx(float(done.stdout), rel=1e-6) != rows["b"]["test_loss"]
    assert run("check").code == 0
    # A copy elsewhere has the source with it, and asks to be trusted.
    (here / "config" / "trust.json").unlink()
    with pytest.raises(UntrustedError, match=r"code/moons-.*\.py, which graph"):
        mgraph.open(here / "g.mgraph").train(epochs=1)
    assert mgraph.open(here / "g.mgraph", trust=True).train(epochs=1, seed=3, name="c").name == "c"


def test_an_importable_function_is_recorded_by_its_name(here: Path) -> None:
    g = mgraph.create("g.mgraph", arch=partial(nn.Linear, in_features=2, out_features=2), data=arrays(), device="cpu")
    assert g.spaces()[0]["arch"] == "torch.nn.modules.linear:Linear?in_features=2&out_features=2"
    assert g.train(epochs=1).evaluate("test")


def test_a_module_and_arrays_are_given_again(here: Path) -> None:
    module = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.warns(match="drawing its parameters with the layers' own reset_parameters"):
        g = mgraph.create("g.mgraph", arch=module, data=arrays(), device="cpu")
    a, b = (g.train(seed=seed, epochs=1, name=name) for seed, name in enumerate("ab"))
    assert a.evaluate("test") != b.evaluate("test")
    curve = g.connect("a", "b", method=mgraph.BezierCurve(epochs=1), grid=3)
    with pytest.warns(match="reset_parameters"):
        again = mgraph.open("g.mgraph", arch=module, data=arrays(), device="cpu")
    with pytest.warns(match="has exactly the parameters of a"):
        assert again.train(seed=0, epochs=1).evaluate("test") == a.evaluate("test")
    assert again.connection(curve.id).swept() is not None
    with pytest.raises(InputError, match=r"No space of .* was made with this data, which is object:"):
        mgraph.open("g.mgraph", data=arrays(42))
    with pytest.raises(InputError, match="Give arch again only if it was a module"):
        mgraph.open("g.mgraph", arch=nn.Linear)
    script = "import mgraph; mgraph.open('g.mgraph').train(epochs=1)"
    other = subprocess.run([sys.executable, "-c", script], cwd=here, capture_output=True, text=True, timeout=120)
    assert NotFoundError.__name__ in other.stderr
    assert "was given as a Python object, which this process does not have: give it again" in other.stderr


class Custom(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale


@pytest.mark.parametrize(
    ("arch", "data", "says"),
    [
        (lambda: nn.Linear(2, 2), arrays, "A lambda has no name to record"),
        (Custom(), arrays, r"How to draw initial values of scale is not known"),
        (3, arrays, "An architecture is a spec, .* not a int"),
        ("mlp", 3, "Data are a spec, .* not a int"),
        ("mlp", {"x": 1}, "Data given as a dict are what make_task takes"),
        (partial(nn.Linear, 2), arrays, "Of a functools.partial only keywords"),
        (partial(nn.Linear, in_features=torch.ones(1)), arrays, "in_features of Linear is a Tensor"),
    ],
)
def test_what_cannot_be_recorded_is_refused_and_leaves_nothing(here: Path, arch: Any, data: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        mgraph.create("g.mgraph", arch=arch, data=data)
    assert not (here / "g.mgraph").exists()


def defined(source: str, name: str, where: Path) -> Any:
    """Define something as a module does that no process can import."""
    file = where / "cell.py"
    file.write_text(textwrap.dedent(source))
    scope: dict[str, Any] = {"__name__": "cell_of_a_notebook"}
    sys.modules["cell_of_a_notebook"] = type(sys)("cell_of_a_notebook")
    sys.modules["cell_of_a_notebook"].__dict__.update(scope)
    exec(compile(file.read_text(), str(file), "exec", dont_inherit=True), sys.modules["cell_of_a_notebook"].__dict__)
    return sys.modules["cell_of_a_notebook"].__dict__[name]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (
            "import torch\nBIG = torch.ones(2)\ndef net():\n    return BIG",
            "net uses BIG, a Tensor that cannot be written",
        ),
        (
            "def make():\n    k = 2\n    def net():\n        return k\n    return net\nnet = make()",
            "uses k of the function",
        ),
        ("def net():\n    return gone", "net uses gone, which is defined nowhere"),
    ],
)
def test_what_a_capture_cannot_take_is_named(tmp_path: Path, source: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        capture(defined(source, "net", tmp_path))


def test_a_capture_runs_alone(tmp_path: Path) -> None:
    source = """
    from __future__ import annotations
    import math as m
    from collections import OrderedDict
    HALF = 0.5
    def even(n: Missing) -> bool:
        return n == 0 or odd(n - 1)
    def odd(n):
        return n != 0 and even(n - 1)
    def net(n, table=OrderedDict(a=1)):
        return even(n), m.sqrt(HALF), [HALF for HALF in range(2)], dict(table)
    """
    net = defined(source, "net", tmp_path)
    alone: dict[str, Any] = {}
    exec(capture(net), alone)
    assert alone["net"](4) == net(4)


def test_a_class_of_a_module_that_is_not_loaded_is_captured() -> None:
    """As cells are run by some notebooks, and by tests of documents."""
    source = "WIDTH = 3\n\n\nclass Net:\n    def size(self):\n        return WIDTH\n"
    linecache.cache["<cell>"] = (len(source), None, source.splitlines(keepends=True), "<cell>")
    cell: dict[str, Any] = {"__name__": "__cell__"}
    exec(compile(source, "<cell>", "exec"), cell)
    assert "WIDTH = 3" in capture(cell["Net"])
    assert "class Net" in capture(cell["Net"])
