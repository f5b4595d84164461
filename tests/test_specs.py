"""Spec strings: what they mean, their canonical form, and the errors of a mistyped one."""

from __future__ import annotations

import math
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mgraph.builtin import BuiltIn
from mgraph.errors import InputError, NotFoundError
from mgraph.specs import Spec, bind, look_up

scalars = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.text())
values = st.one_of(scalars, st.lists(scalars.filter(lambda v: v != ""), max_size=4).map(tuple))
keys = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
specs = st.builds(Spec, st.text(min_size=1), st.dictionaries(keys, values, max_size=4))


def typed(params):
    """Tell 1 from 1.0 and True, and 0.0 from -0.0."""
    return {k: repr(v) for k, v in params.items()}


@given(specs)
def test_canonical_string_reads_back(spec):
    again = Spec.parse(str(spec))
    assert again.name == spec.name
    assert typed(again.params) == typed(spec.params)
    assert str(again) == str(spec)
    assert again == spec
    assert hash(again) == hash(spec)


def test_values_are_typed():
    spec = Spec.parse("cnn?channels=16,32&lr=1e-3&bn=false&stem=cifar&hidden=64&one=64,&neg=-1&mixed=1,a,true")
    assert spec.name == "cnn"
    assert typed(spec.params) == typed(
        {
            "channels": (16, 32),
            "lr": 1e-3,
            "bn": False,
            "stem": "cifar",
            "hidden": 64,
            "one": (64,),
            "neg": -1,
            "mixed": (1, "a", True),
        }
    )


def test_order_of_keys_does_not_matter_but_types_do():
    assert Spec.parse("cnn?hidden=64&bn=true") == Spec.parse(" cnn?bn=true&hidden=64 ")
    assert str(Spec.parse("cnn?hidden=64&bn=true")) == "cnn?bn=true&hidden=64"
    assert Spec("a", {"x": 1}) != Spec("a", {"x": True})


def test_words_that_look_like_numbers_can_be_written():
    assert Spec.parse("d?root=%32024").params["root"] == "2024"
    assert str(Spec("d", {"root": "2024"})) == "d?root=%32024"
    assert str(Spec("npz:/my data/a?b.npz")) == "npz:/my%20data/a%3Fb.npz"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no name"),
        ("?a=1", "no name"),
        ("cnn?", "key=value"),
        ("cnn?hidden", "key=value"),
        ("cnn?=3", "key=value"),
        ("cnn?1a=3", "key=value"),
        ("cnn?a=1&a=2", "twice"),
        ("cnn?a=1,,2", "empty place"),
    ],
)
def test_bad_specs_are_refused(text, says):
    with pytest.raises(InputError, match=says):
        Spec.parse(text)


@pytest.mark.parametrize("value", [math.nan, math.inf, None, [1], ("a", "")])
def test_values_that_cannot_be_written_are_refused(value):
    with pytest.raises(InputError):
        Spec("a", {"x": value})


@pytest.mark.parametrize(
    ("text", "factory"),
    [
        ("cnn", False),
        ("torchvision:resnet18", False),
        ("timm:vit_tiny", False),
        ("npz:data.npz", False),
        ("imagefolder:photos", False),
        ("model.py:make", True),
        ("../nets/model.py:make?width=3", True),
        ("package.module:factory", True),
    ],
)
def test_is_factory(text, factory):
    assert Spec.parse(text).is_factory is factory


def net(
    *,
    shape: int = 0,
    hidden: Annotated[tuple[int, ...], ""] = (3,),
    p: Annotated[float, "how much"] = 0.0,
    bn: Annotated[bool, ""] = False,
    root: Annotated[str | None, ""] = None,
    n: Annotated[int | None, ""] = 1,
) -> NotImportedHere:  # noqa: F821
    ...


ENTRY = BuiltIn("net", "a net", f"{__name__}:net")


def test_parameters_are_those_of_the_function():
    assert [(p.name, p.default, p.help) for p in ENTRY.params][:2] == [("hidden", (3,), ""), ("p", 0.0, "how much")]
    assert [p.name for p in ENTRY.params] == ["hidden", "p", "bn", "root", "n"]
    assert not ENTRY.further


def test_binding_converts_to_the_declared_types():
    bound = bind(ENTRY, Spec.parse("net?hidden=64&p=1&bn=true&root=2024&n=3"))
    assert typed(bound) == typed({"hidden": (64,), "p": 1.0, "bn": True, "root": "2024", "n": 3})
    assert bind(ENTRY, Spec.parse("net?hidden=")) == {"hidden": ()}
    assert bind(ENTRY, Spec.parse("net?hidden=,")) == {"hidden": ()}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("net?hiden=3", "did you mean 'hidden'"),
        ("net?zzz=3", "it has hidden, p, bn, root, n"),
        ("net?hidden=a", "whole numbers"),
        ("net?hidden=1.5", "whole numbers"),
        ("net?bn=1", "true or false"),
        ("net?n=1,2", "a whole number"),
        ("net?n=true", "a whole number"),
        ("net?n=", "a whole number"),
        ("net?hidden=true,false", "whole numbers"),
        ("net?p=x", "a number"),
        ("net:arg", "write net"),
    ],
)
def test_binding_refuses_what_does_not_fit(text, says):
    with pytest.raises(InputError, match=says):
        bind(ENTRY, Spec.parse(text))


def test_looking_up_suggests():
    with pytest.raises(NotFoundError, match=r"no network 'nett'; did you mean 'net'\?"):
        look_up(Spec.parse("nett"), {"net": ENTRY}, "network")


def test_looking_up_suggests_what_other_libraries_have():
    known = {"resnet18": "torchvision:resnet18"}.get
    with pytest.raises(NotFoundError, match=r"no network 'resnet18'; did you mean 'torchvision:resnet18'\?"):
        look_up(Spec.parse("resnet18"), {"net": ENTRY}, "network", known)
    with pytest.raises(NotFoundError, match=r"no network 'nett'; did you mean 'net'\?"):
        look_up(Spec.parse("nett"), {"net": ENTRY}, "network", known)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def net():\n    pass\n\ndef _helper():\n    pass\n", "did you mean 'model.py:net'?"),
        ("class Net:\n    pass\n\ndef made():\n    pass\n", "did you mean 'model.py:Net' or 'model.py:made'?"),
        ("x = 1\n", "did you mean 'model.py:FUNCTION'?"),
        ("def broken(:\n", "did you mean 'model.py:FUNCTION'?"),
        (None, "did you mean 'model.py:FUNCTION'?"),
    ],
)
def test_a_file_is_told_its_functions_and_not_run(source, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if source is not None:
        (tmp_path / "model.py").write_text(source)
    with pytest.raises(NotFoundError) as refused:
        look_up(Spec.parse("model.py"), {"net": ENTRY}, "network")
    assert says in str(refused.value)


def test_a_module_is_told_that_its_function_is_missing():
    with pytest.raises(NotFoundError, match=r"did you mean 'pkg\.nets:FUNCTION'\?"):
        look_up(Spec.parse("pkg.nets"), {"net": ENTRY}, "network")
