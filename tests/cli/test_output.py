"""The renderer: what people and programs are shown."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgraph_cli.output import emit, emit_one

ROWS = [
    {"name": "a", "value": math.nan, "parts": [1.0, math.inf], "facts": {"low": -math.inf, "high": 0.1234567}},
    {"name": "[b]:smile:[/b]", "value": 1 / 3, "parts": [], "facts": {}},
]


def test_json_has_null_for_what_is_no_number_and_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    emit(ROWS, ("name",), form="json")
    document = json.loads(capsys.readouterr().out)
    assert document["format"] == 1
    assert document["non_finite"] == ["rows[0].value", "rows[0].parts[1]", "rows[0].facts.low"]
    assert document["rows"][0] == {
        "name": "a",
        "value": None,
        "parts": [1.0, None],
        "facts": {"low": None, "high": 0.1234567},
    }
    assert document["rows"][1]["value"] == 1 / 3  # all digits
    emit_one({"x": math.nan, "y": [{"z": math.inf}]}, form="json")
    assert json.loads(capsys.readouterr().out) == {
        "format": 1,
        "row": {"x": None, "y": [{"z": None}]},
        "non_finite": ["row.x", "row.y[0].z"],
    }
    emit([{"x": 1.0}], ("x",), form="json")
    assert "non_finite" not in json.loads(capsys.readouterr().out)


def test_csv_has_every_field_once(capsys: pytest.CaptureFixture[str]) -> None:
    emit([{"a": 1, "b": "x,y"}, {"a": None, "c": [1, 2]}], ("a",), form="csv")
    assert capsys.readouterr().out.splitlines() == ["a,b,c", '1,"x,y",', ',,"[1, 2]"']
    emit([], ("a", "b"), form="csv")
    assert capsys.readouterr().out == "a,b\n"
    emit_one({"a": 1, "b": [1], "c": "z"}, form="csv")
    assert capsys.readouterr().out.splitlines() == ["a,c", "1,z"]


def test_tables_show_data_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    emit(ROWS, ("name", "value", "parts"), title="things")
    text = capsys.readouterr().out
    assert "things" in text
    assert "[b]:smile:[/b]" in text  # no markup in data
    assert "nan" in text
    assert "0.3333" in text
    assert "1 inf" in text
    emit([], ("name",), empty="none here")
    assert capsys.readouterr().out == "none here\n"


def test_one_thing_leaves_out_what_is_empty(capsys: pytest.CaptureFixture[str]) -> None:
    emit_one({"long_name": True, "none": None, "list": [1, 2]}, tables={"rows": ("a",)})
    assert capsys.readouterr().out.splitlines() == ["long name  yes", "list       1 2"]


def test_wide_tables_are_not_cut_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    row = {f"column{i}": "x" * 9 for i in range(12)}
    emit([row], list(row))
    assert capsys.readouterr().out.count("x" * 9) == 12


_TEXTS = st.text(st.sampled_from("ab [:]0-.é日\u0301\u200b👍🏽\n"), max_size=9)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(_TEXTS, _TEXTS, st.floats() | st.none()), min_size=1, max_size=4),
    st.text("n_ 日", min_size=1, max_size=9),
    st.sampled_from(["", "nodes", "日本", "a title longer than its table, and than two of them"]),
)
def test_a_table_in_a_pipe_is_the_one_of_the_terminal(
    values: list[tuple[str, str, float | None]], head: str, title: str
) -> None:
    rows = [{"name": name, head: text, "train_loss": loss} for name, text, loss in values]
    shown = []
    for place in (io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), io.StringIO()):  # whose encoding is not known
        with contextlib.redirect_stdout(place):
            emit(rows, ("name", head, "train_loss"), title=title)
        place.seek(0)
        shown.append(place.read())
    assert shown[0] == shown[1]


_WORDS = st.text(st.sampled_from("abcdefgh-0123456789"), min_size=1, max_size=14)


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.tuples(_WORDS, st.lists(_WORDS, max_size=5), st.floats(-10, 10)), min_size=1, max_size=4),
    st.integers(30, 120),
)
def test_no_table_breaks_a_name_or_a_number(values: list[tuple[str, list[str], float]], room: int) -> None:
    rows = [{"name": name, "ends": ends, "train loss": loss} for name, ends, loss in values]
    printed, told = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, COLUMNS=str(room)),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(told),
    ):
        emit(rows, ("name", "ends", "train loss"))
    lines = printed.getvalue().splitlines()
    assert all(len(line) <= room for line in lines)
    words = printed.getvalue().split()
    dropped = [head for head in ("ends", "train loss") if head in told.getvalue()]
    for name, ends, loss in values:
        assert name in words
        assert "ends" in dropped or all(end in words for end in ends)
        assert "train loss" in dropped or f"{loss:.4g}" in words
    assert ("did not fit" in told.getvalue()) == bool(dropped)
