"""Names, specs, layouts, columns and configuration files of any content are read or refused, and lead nowhere else."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mgraph.errors import MGraphError
from mgraph.specs import Spec
from mgraph_store import Layout, validate_name
from mgraph_store.rows import columns
from mgraph_store.rows.ids import is_id

FUZZ = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
DEEP = "[" * 100_000
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=12,
)


@FUZZ
@given(st.text() | st.from_regex(r"[a-z0-9./~:%\\ -]{0,70}", fullmatch=True))
@example("../x")
@example("a\n")
@example("a/b")
@example("maaaaaaaaaaaa")
def test_a_name_is_one_word_that_is_no_path_and_no_id(text: str) -> None:
    try:
        name = validate_name(text)
    except MGraphError:
        return
    assert name == text
    assert name.isascii()
    assert 0 < len(name) <= 64
    assert name[0].isalpha()
    assert not set(name) & set("/\\~ \n\0:")
    assert Path("/base", name).parent == Path("/base")
    assert not is_id(name)


@FUZZ
@given(st.text() | st.from_regex(r"[a-z:.%?&=,0-9/]{0,40}", fullmatch=True))
@example("%")
@example("a?b=%zz&c=%00")
@example("a?b=" + "9" * 5000)
@example("a?b=1e999")
def test_any_spec_reads_back_or_is_refused(text: str) -> None:
    try:
        spec = Spec.parse(text)
    except MGraphError:
        return
    assert Spec.parse(str(spec)) == spec


@FUZZ
@given(JSON.map(json.dumps) | st.text(max_size=30))
@example(DEEP)
@example("[[0, 1e400]]")
@example("[[0, 99999999999999999999999999]]")
def test_any_columns_are_canonical_or_refused(text: str) -> None:
    try:
        ranges = columns.from_json(text)
    except MGraphError:
        return
    assert columns.check(ranges) == ranges
    assert columns.from_json(columns.to_json(ranges)) == ranges


GOOD: dict[str, Any] = {
    "tensors": [
        {"name": "w", "shape": [2, 3], "dtype": "float32", "role": "parameter"},
        {"name": "n", "shape": [], "dtype": "int64", "role": "statistic"},
    ],
    "aliases": {"v": "w"},
}


@FUZZ
@given(data=st.data())
def test_any_layout_is_consistent_or_refused(data: st.DataObject) -> None:
    document = json.loads(json.dumps(GOOD))
    where = data.draw(st.sampled_from(["tensors", "aliases", "tensor", "field", "shape", "all"]))
    if where == "all":
        document = data.draw(JSON)
    elif where == "tensor":
        document["tensors"].append(data.draw(JSON))
    elif where == "field":
        document["tensors"][0][data.draw(st.sampled_from(["name", "shape", "dtype", "role"]))] = data.draw(JSON)
    elif where == "shape":
        document["tensors"][0]["shape"] = data.draw(st.lists(st.integers(-2, 2**70), max_size=4))
    else:
        document[where] = data.draw(JSON)
    for text in (json.dumps(document), DEEP):
        try:
            layout = Layout.from_json(text)
        except MGraphError:
            continue
        assert all(t.size >= 0 for t in layout.tensors)
        assert Layout.from_json(layout.to_json()) == layout


TOML = st.text(max_size=60) | st.from_regex(r"([a-z_]{1,8} = [a-z0-9.\"\[\]{}, -]{0,12}\n){0,4}", fullmatch=True)


@FUZZ
@given(content=TOML.map(str.encode) | st.binary(max_size=60))
@example(b"epochs = " + b"[" * 5000)
@example(b"epochs = 1\x00")
@example(b"degree = " + b"9" * 5000)
def test_any_configuration_file_sets_or_is_refused(tmp_path: Path, content: bytes) -> None:
    from mgraph.methods.curves.surface import BezierSurface
    from mgraph_cli.options import GivenSettings

    path = tmp_path / "x.toml"
    path.write_bytes(content)
    with contextlib.suppress(MGraphError):
        assert isinstance(GivenSettings(config=path).of(BezierSurface), BezierSurface)


@FUZZ
@given(
    pairs=st.lists(st.text(max_size=20) | st.from_regex(r"[a-z_]{1,10}=[a-z0-9.,e-]{0,10}", fullmatch=True), max_size=4)
)
@example(["degree=" + "9" * 5000])
def test_any_settings_are_set_or_refused(pairs: list[str]) -> None:
    from mgraph.methods.curves.surface import BezierSurface
    from mgraph_cli.options import GivenSettings

    with contextlib.suppress(MGraphError):
        assert isinstance(GivenSettings(pairs=pairs).of(BezierSurface), BezierSurface)
