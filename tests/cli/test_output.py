"""The renderer: what people and programs are shown."""

from __future__ import annotations

import json
import math

import pytest

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
