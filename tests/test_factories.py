"""Factories from files and modules: found, hashed, loaded, called, and refused in one sentence."""

import sys

import pytest

from mgraph.errors import InputError, NotFoundError, UntrustedError
from mgraph.factories import call_factory, find_source, load_factory, source_of
from mgraph.specs import Spec
from mgraph.trust import NAMED


@pytest.fixture
def work(tmp_path):
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "m.py").write_text("def make(width=3, *, depth=1):\n    return width, depth\n")
    (tmp_path / "g.mgraph").mkdir()
    return tmp_path


def load(folder, text, consent=NAMED):
    return load_factory(Spec.parse(text), base=folder, consent=consent)


class Exactly:
    """Consents to one version of the code."""

    def __init__(self, hash):
        self.hash = hash

    def ask(self, spec, hash, files):
        if hash != self.hash:
            raise UntrustedError(f"{spec} has changed")


def test_typed_path_is_stored_relative_to_the_graph(work):
    spec, source = source_of(Spec.parse("m.py:make?width=5"), typed_in=work / "nets", base=work / "g.mgraph")
    assert str(spec) == "../nets/m.py:make?width=5"
    assert (source.kind, source.path, source.attribute) == ("file", "../nets/m.py", "make")
    assert call_factory(load(work / "g.mgraph", str(spec), Exactly(source.hash)), spec) == (5, 1)
    absolute, _ = source_of(Spec.parse(f"{work}/nets/m.py:make"), typed_in=work, base=work / "g.mgraph")
    assert absolute.name == "../nets/m.py:make"


def test_the_graph_need_not_exist_yet(work):
    spec, _ = source_of(Spec.parse("nets/m.py:make"), typed_in=work, base=work / "new" / "n.mgraph")
    assert spec.name == "../../nets/m.py:make"


def test_paths_of_data_move_too(work):
    def stored(text):
        spec, source = source_of(Spec.parse(text), typed_in=work / "nets", base=work / "g.mgraph")
        assert source is None
        return str(spec)

    assert stored("npz:d.npz?limit=10") == "npz:../nets/d.npz?limit=10"
    assert stored("imagefolder:photos") == "imagefolder:../nets/photos"
    assert stored("mnist?root=here") == "mnist?root=../nets/here"
    assert stored("npz:/data/d.npz") == "npz:/data/d.npz"
    assert stored("cnn?hidden=3") == "cnn?hidden=3"
    assert stored("torchvision:resnet18") == "torchvision:resnet18"


def test_hash_follows_the_file_and_guards_loading(work):
    spec = Spec.parse("nets/m.py:make")
    before = find_source(spec, base=work).hash
    assert len(before) == 32
    (work / "nets" / "m.py").write_text("def make(): return 'new'\n")
    assert find_source(spec, base=work).hash != before
    with pytest.raises(UntrustedError, match="has changed"):
        load_factory(spec, base=work, consent=Exactly(before))
    assert load_factory(spec, base=work, consent=NAMED)() == "new"


def test_nothing_runs_before_loading(work):
    (work / "nets" / "m.py").write_text("raise RuntimeError('ran')\n")
    source_of(Spec.parse("nets/m.py:make"), typed_in=work, base=work)
    with pytest.raises(InputError, match=r"m\.py cannot be imported: RuntimeError: ran\."):
        load(work, "nets/m.py:make")


def test_finding_a_module_does_not_run_its_package(work, monkeypatch):
    package = work / "some_package_of_mine"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('ran')\n")
    (package / "nets.py").write_text("def make(): return 1\n")
    monkeypatch.syspath_prepend(str(work))
    spec = Spec.parse("some_package_of_mine.nets:make")
    stored, source = source_of(spec, typed_in=work, base=work)
    assert stored == spec
    assert (source.kind, source.path) == ("module", "some_package_of_mine.nets")
    with pytest.raises(InputError, match="cannot be imported: RuntimeError: ran"):
        load_factory(spec, base=work, consent=NAMED)
    (package / "__init__.py").write_text("")
    assert load_factory(spec, base=work, consent=Exactly(find_source(spec, base=work).hash))() == 1
    (package / "nets.py").write_text("def make(): return 2\n")
    with pytest.raises(UntrustedError, match="has changed"):
        load_factory(spec, base=work, consent=Exactly(source.hash))


def test_neighbours_of_two_files_do_not_clash(work):
    before = set(sys.modules)
    for name in ("one", "two"):
        (work / name).mkdir()
        (work / name / "parts.py").write_text(f"value = {name!r}\n")
        (work / name / "m.py").write_text(
            "import parts\ndef make():\n    import parts as late\n    return parts.value + late.value\n"
        )
    path = list(sys.path)
    one, two = load(work, "one/m.py:make"), load(work, "two/m.py:make")
    assert (one(), two(), one()) == ("oneone", "twotwo", "oneone")
    assert sys.path == path
    assert "parts" not in sys.modules
    assert "m" not in set(sys.modules) - before


def test_dataclasses_work_in_a_factory_file(work):
    (work / "d.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Net:\n    width: int = 3\n"
    )
    assert call_factory(load(work, "d.py:Net"), Spec.parse("d.py:Net?width=4")).width == 4


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("nets/none.py:make", NotFoundError, "does not exist"),
        ("nets/m.py:mak", NotFoundError, "did you mean 'make'"),
        ("nets.py:", InputError, "does not name a factory"),
        ("no_such_module_at_all:make", NotFoundError, "cannot be found"),
        ("json.nothing:make", NotFoundError, "cannot be found"),
        ("math.pi:x", NotFoundError, "math is not a package"),
        ("json:__name__", InputError, "is a str; a factory must be a function"),
    ],
)
def test_errors_of_finding(work, text, error, says):
    with pytest.raises(error, match=says):
        load(work, text)
    if error is NotFoundError and "make'" not in says:
        with pytest.raises(error, match=says):
            source_of(Spec.parse(text), typed_in=work, base=work)


def test_syntax_errors_and_exits_are_told(work):
    (work / "bad.py").write_text("def make(:\n")
    with pytest.raises(InputError, match="SyntaxError"):
        load(work, "bad.py:make")
    (work / "exit.py").write_text("raise SystemExit(3)\n")
    with pytest.raises(InputError, match="SystemExit: 3"):
        load(work, "exit.py:make")


def test_only_what_the_signature_names_is_filled_in():
    def make(width, classes=0, *, in_channels=None):
        return width, classes, in_channels

    offered = {"classes": 10, "num_classes": 10, "in_channels": 3}
    assert call_factory(make, Spec.parse("a:b?width=2"), offered) == (2, 10, 3)
    assert call_factory(make, Spec.parse("a:b?width=2&classes=7"), offered) == (2, 7, 3)
    assert call_factory(lambda **kw: kw, Spec.parse("a:b?x=2"), offered) == {"x": 2}


def test_errors_of_calling():
    def make(width, depth=1):
        raise ValueError(f"no\nwidth {width}")

    with pytest.raises(InputError, match=r"no parameter 'widht'; did you mean 'width'.* it has width, depth"):
        call_factory(make, Spec.parse("a:b?widht=2"))
    with pytest.raises(InputError, match="needs a value for width"):
        call_factory(make, Spec.parse("a:b"))
    with pytest.raises(InputError, match="a:b failed: ValueError: no width 2"):
        call_factory(make, Spec.parse("a:b?width=2"))
