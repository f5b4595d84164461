"""What of a user's code is hashed, and that exactly this runs: from source, for the user's own imports only."""

from __future__ import annotations

import ast
import importlib
import py_compile
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from mgraph.errors import InputError, UntrustedError
from mgraph.factories import find_source, load_factory
from mgraph.specs import Spec
from mgraph.trust import NAMED
from mgraph.usercode import ShadowedFileWarning

Write = Callable[..., None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write files, by their paths, in a directory of its own that is the present one."""
    monkeypatch.chdir(tmp_path)

    def files(texts: Mapping[str, str]) -> None:
        for name, text in texts.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)

    return files


def load(text: str) -> Any:
    return load_factory(Spec.parse(text), base=Path.cwd(), consent=NAMED)


def covered(text: str) -> set[str]:
    return set(find_source(Spec.parse(text), base=Path.cwd()).files)


TREE = {
    "net.py": "import layers\ndef make():\n    from parts import deep\n    return layers.value + deep.value\n",
    "layers.py": "from helpers import value\nimport os, json.decoder\n",
    "helpers.py": "value = 'v'\n",
    "parts/__init__.py": "",
    "parts/deep.py": "from .sub.leaf import value\nfrom . import sibling\n",
    "parts/sibling.py": "",
    "parts/sub/leaf.py": "value = 'w'\n",  # a namespace package
    "unrelated.py": "raise RuntimeError\n",
    "parts/unrelated.py": "raise RuntimeError\n",
}


@pytest.mark.parametrize("spec", ["net.py:make", "net:make"])
def test_the_hash_covers_what_is_imported_from_the_same_directory(write: Write, spec: str) -> None:
    write(TREE)
    names = {"main", "layers.py", "helpers.py", "parts/__init__.py", "parts/deep.py", "parts/sibling.py"}
    assert covered(spec) == names | {"parts/sub/", "parts/sub/leaf.py"}
    assert load(spec)() == "vw"
    first = find_source(Spec.parse(spec), base=Path.cwd()).hash
    for name in TREE:
        write({name: TREE[name] + "# changed\n"})
        now = find_source(Spec.parse(spec), base=Path.cwd()).hash
        assert (now == first) == ("unrelated" in name), name
        write({name: TREE[name]})
    assert find_source(Spec.parse(spec), base=Path.cwd()).hash == first


def test_the_hash_does_not_depend_on_where_the_code_lies(write: Write) -> None:
    write({f"{place}/{name}": text for place in ("a", "b/c") for name, text in TREE.items()})
    hashes = {find_source(Spec.parse(f"{place}/net.py:make"), base=Path.cwd()).hash for place in ("a", "b/c")}
    assert len(hashes) == 1


def test_a_file_alone_keeps_the_hash_of_its_bytes(write: Write) -> None:
    import hashlib

    write({"one.py": "import torch\ndef make(): ...\n"})
    found = find_source(Spec.parse("one.py:make"), base=Path.cwd()).hash
    assert found == hashlib.blake2b(Path("one.py").read_bytes(), digest_size=16).hexdigest()


def test_reviewed_source_runs_and_never_the_bytecode_beside_it(write: Write) -> None:
    """Python never compares an unchecked .pyc with its source."""
    bad = "open('pwned', 'w')\nvalue = 'evil'\n"
    good = {"layers.py": "value = 'good'\n", "pkg/net.py": "import layers\ndef make(): return layers.value\n"}
    write(good | {"pkg/layers.py": good["layers.py"], "pkg/__init__.py": ""})
    for name in ("layers.py", "pkg/layers.py", "pkg/net.py", "pkg/__init__.py"):
        text = Path(name).read_text()
        write({name: bad + "def make(): return value\n"})
        py_compile.compile(name, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
        write({name: text})
    sys.dont_write_bytecode, before = False, sys.dont_write_bytecode
    try:
        assert load("pkg/net.py:make")() == "good"
        assert load("pkg.net:make")() == "good"
    finally:
        sys.dont_write_bytecode = before
    write({"only.py": "import compiled\ndef make(): ...\n", "compiled.py": bad})
    py_compile.compile("compiled.py", "compiled.pyc")
    Path("compiled.py").unlink()
    with pytest.raises(InputError, match="No module named 'compiled'"):
        load("only.py:make")
    assert not Path("pwned").exists()


def test_neighbours_are_for_the_users_own_imports_alone(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that looks for an optional package never finds a file of the user's, also not while it is loaded."""
    library = Path("site-packages")
    write(
        {
            "site-packages/some_library.py": "try:\n    import optional_thing\n    found = True\n"
            "except ImportError:\n    found = False\n",
            "net.py": "import optional_thing, some_library\ndef make():\n"
            "    import importlib\n    importlib.reload(some_library)\n    return some_library.found\n",
            "optional_thing.py": "",
        }
    )
    monkeypatch.syspath_prepend(str(library.resolve()))
    path, public = list(sys.path), set(sys.modules)
    assert load("net.py:make")() is False
    assert sys.path == path
    assert {name for name in set(sys.modules) - public if not name.startswith("_mgraph_code_")} == {"some_library"}
    del sys.modules["some_library"]


def test_installed_modules_go_before_files_of_the_same_name(write: Write) -> None:
    stray = "open('pwned', 'w')\n"
    write({"net.py": "import json, numpy\ndef make(): return json.dumps(numpy.zeros(1).tolist())\n"})
    assert load("net.py:make")() == "[0.0]"
    write(dict.fromkeys(("json.py", "numpy.py", "torch.py", "tqdm.py", "cupy.py"), stray))
    with pytest.warns(ShadowedFileWarning, match=r"which is an installed module and also a file beside it") as caught:
        assert load("net.py:make")() == "[0.0]"
    assert [str(w.message).split(" imports ")[1].partition(",")[0] for w in caught] == ["json", "numpy"]
    assert not Path("pwned").exists()


@pytest.mark.parametrize(
    "how",
    [
        "import importlib\nimportlib.import_module('hid' + 'den')",
        "exec('import hid' + 'den')",
        "__import__('hid' + 'den')",
        "import importlib, parts\nimportlib.import_module('.hid' + 'den', 'x' and parts.__name__)",
        "from parts import *",
    ],
)
def test_a_neighbour_that_nobody_was_asked_about_is_refused_by_name(write: Write, how: str) -> None:
    write(
        {
            "net.py": f"{how}\ndef make(): ...\n",
            "hidden.py": "open('pwned', 'w')\n",
            "parts/__init__.py": "__all__ = ['hidden']\n",
            "parts/hidden.py": "open('pwned', 'w')\n",
        }
    )
    with pytest.raises(InputError, match=r"hidden is beside .*net.py but .* its text does not show"):
        load("net.py:make")
    assert not Path("pwned").exists()
    assert not [name for name in sys.modules if name.startswith("_mgraph_code_") and "hidden" in name]


def test_neighbours_may_be_imported_late_and_from_other_threads(write: Write) -> None:
    write(
        {
            "net.py": "import net as me\ndef make():\n    def forward():\n        from layers import value\n"
            "        return value, me.make is make\n    return forward\n",
            "layers.py": "value = 3\n",
        }
    )
    forward, found = load("net.py:make")(), []
    thread = threading.Thread(target=lambda: found.append(forward()))
    thread.start()
    thread.join()
    assert found == [(3, True)]


def test_a_file_below_the_working_directory_finds_what_lies_there(write: Write, tmp_path: Path) -> None:
    write(
        {"nets/net.py": "from common.sizes import WIDTH\ndef make(): return WIDTH\n", "common/sizes.py": "WIDTH = 3\n"}
    )
    assert covered("nets/net.py:make") == {"main", "common/", "common/sizes.py"}
    assert load("nets/net.py:make")() == 3


def test_installed_packages_are_hashed_within_bounds() -> None:
    found = find_source(Spec.parse("torchvision.models.resnet:resnet18"), base=Path.cwd())
    assert found.kind == "module"
    assert 10 < len(found.files) <= 256 + 2
    assert all(name == "main" or name.startswith("torchvision/") for name in found.files)
    assert find_source(Spec.parse("subprocess:getoutput"), base=Path.cwd()).files.keys() == {"main"}
    assert set(find_source(Spec.parse("builtins:print"), base=Path.cwd()).files) == {"main"}


def test_code_of_ones_own_can_be_compiled_and_inspected(write: Write) -> None:
    import inspect

    import torch

    write(
        {
            "net.py": "import torch\nfrom layers import Twice\ndef make(): return torch.nn.Sequential(Twice())\n",
            "layers.py": "import torch\n\nclass Twice(torch.nn.Module):\n"
            "    def forward(self, x):\n        return x + x\n",
        }
    )
    network = load("net.py:make")()
    assert "return x + x" in inspect.getsource(type(network[0]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of both
        assert torch.compile(network, backend="eager", fullgraph=True)(torch.ones(2)).tolist() == [2, 2]
        assert torch.jit.script(network)(torch.ones(1)).tolist() == [2]


def test_what_failed_to_load_can_be_mended(write: Write) -> None:
    write({"net.py": "import layers\ndef make(): return layers.value\n", "layers.py": "1 / 0\n"})
    with pytest.raises(InputError, match=r"net.py cannot be imported: ZeroDivisionError"):
        load("net.py:make")
    write({"layers.py": "value = 1\n"})
    assert load("net.py:make")() == 1
    write({"layers.py": "from net import nothing\n"})
    with pytest.raises(InputError) as caught:
        load("net.py:make")
    assert "_mgraph_code_" not in str(caught.value)


def test_consent_is_asked_for_what_runs(write: Write) -> None:
    """The files are read once: what is there when consent is given is of no account."""
    write({"net.py": "import layers\ndef make(): return layers.value\n", "layers.py": "value = 'read'\n"})

    class Swapping:
        writes = False

        def ask(self, spec: str, hash: str, files: Mapping[str, str]) -> None:
            assert (spec, set(files)) == ("net.py:make", {"main", "layers.py"})
            write({"layers.py": "value = 'swapped'\n", "net.py": "make = print\n"})

    assert load_factory(Spec.parse("net.py:make"), base=Path.cwd(), consent=Swapping())() == "read"


def test_no_consent_no_code(write: Write) -> None:
    class Nobody:
        writes = False

        def ask(self, *_: object) -> None:
            raise UntrustedError("no")

    write({"net.py": "open('pwned', 'w')\n"})
    with pytest.raises(UntrustedError):
        load_factory(Spec.parse("net.py:make"), base=Path.cwd(), consent=Nobody())
    assert not Path("pwned").exists()


_LOADERS = {"exec", "eval", "compile", "__import__", "import_module", "run_path", "run_module", "exec_module"}
_LOADERS |= {"spec_from_file_location", "SourceFileLoader", "load_module", "execfile"}

_METHODS = {"eval", "compile"}  # module.eval(), re.compile()


def _computed_imports(file: Path) -> list[str]:
    """Name the calls in a source that run or import what is not written there."""
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if not isinstance(node, ast.Call) or (node.args and isinstance(node.args[0], ast.Constant)):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in _LOADERS and not (isinstance(node.func, ast.Attribute) and name in _METHODS):
            found.append(name)
    return found


def test_one_module_imports_what_somebody_has_named() -> None:
    """Names of ours are literals or come from our own tables; everything else goes through mgraph.usercode."""
    found = {}
    for package in ("mgraph", "mgraph_cli", "mgraph_store"):
        place = Path(importlib.import_module(package).__file__ or "").parent
        for file in place.rglob("*.py"):
            if calls := _computed_imports(file):
                found[str(file.relative_to(place.parent))] = calls
    assert found.pop("mgraph/usercode.py")
    assert found == {
        "mgraph/__init__.py": ["import_module"],  # the public names
        "mgraph/query/answers.py": ["import_module"],
        "mgraph/builtin.py": ["import_module"],  # the built-ins of the registries
        "mgraph/jobs/base.py": ["import_module"],  # the operation of each kind of job
        "mgraph/train/parallel.py": ["import_module"],
        "mgraph_cli/main.py": ["import_module"],  # the commands
        "mgraph_store/__init__.py": ["import_module"],
    }
