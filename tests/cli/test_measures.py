"""compare, sharpness and connect --auto as a person and a program meet them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from matplotlib.image import imread


def test_compare_for_people_programs_and_spreadsheets(run: Any, path: Path) -> None:
    told = run("compare", "a", "b", "-o", "x.png")
    assert "median cosine" in told.stdout
    assert "look like independent runs" in told.stdout
    assert "norm a   norm b   variance a   variance b" in told.stdout
    assert "(all)" in told.stdout
    assert "misleads where there is normalisation" in told.stderr
    assert imread(path.parent / "x.png").shape[0] > 500
    (row,) = run("compare", "a", "b", "--json").rows
    assert (row["source"], row["target"], row["same_run"]) == ("a", "b", False)
    assert len(row["layers"]) == 12
    assert abs(row["median_cosine"]) < 0.3 < row["whole"]["cosine"] + 0.3
    assert len(run("compare", *"abcd", "--json").rows) == 6
    table = list(csv.DictReader(io.StringIO(run("compare", *"abc", "--csv").stdout)))
    assert len(table) == 3 * 13
    assert float(table[0]["cosine"]) == row["layers"][0]["cosine"]


def test_sharpness_for_people_programs_and_spreadsheets(run: Any, path: Path) -> None:
    fast = ["--directions", 2, "--radii", "0.01,0.1", "--examples", 100]
    told = run("sharpness", "a", "b", *fast, "-o", "x.png")
    assert told.stdout.count("relative flatness  ") == 2
    assert "profile" in told.stdout
    assert imread(path.parent / "x.png").shape[0] > 500
    (row,) = run("sharpness", "a", *fast, "--json").rows
    assert [r["radius"] for r in row["profile"]] == [0.01, 0.1]
    assert row["relative_flatness"] > 0
    table = list(csv.DictReader(io.StringIO(run("sharpness", "a", *fast, "--csv").stdout)))
    assert [float(r["mean"]) for r in table] == [r["mean"] for r in row["profile"]]
    shown = run("show", "a")
    assert "sharpness" in shown.stdout
    assert "flatness" in shown.stdout
    measures = run("show", "a", "--json").row["measures"]
    assert {m["quantity"] for m in measures} == {"sharpness", "relative_flatness", "loss"}
    assert [m["value"] for m in measures if m["statistic"] == "max"][:2] == [r["max"] for r in row["profile"]]


AUTO = ["--epochs", 1, "--batch-size", 256, "--grid", 3, "--name", "ab"]


def test_auto_that_finds_a_connection(run: Any) -> None:
    done = run("connect", "a", "b", "--auto", "--max-barrier", 50, "--budget", "10m", *AUTO)
    lines = done.stderr.splitlines()
    assert len(lines) == 4  # cosines, variances, one method, the result
    assert lines[2].startswith("linear: train loss barrier ")
    assert lines[3] == "line connects a and b at train loss barrier <= 50."
    assert " linear   met       line " in done.stdout
    row = run("connect", "a", "b", "--auto", "--max-drop", 1, "--split", "test", "--json", *AUTO).row
    assert row["winner"] == "line"
    assert row["threshold"] == {"quantity": "drop", "limit": 1.0, "metric": "error", "split": "test"}
    assert row["attempts"][0]["reused"]
    assert row["said"][-1] == row["reason"]


def test_auto_that_finds_none_fails_and_keeps_what_was_tried(run: Any, monkeypatch: Any) -> None:
    from mgraph.methods import ladder

    monkeypatch.setattr(ladder, "LADDER", ("linear", "curve"))
    done = run("connect", "a", "b", "--auto", "--max-barrier", 0, *AUTO, "--json", code=1)
    row = json.loads(done.stdout)["row"]
    assert row["winner"] is None
    assert [(a["method"], a["outcome"], a["name"]) for a in row["attempts"]] == [
        ("linear", "missed", "line"),
        ("curve", "missed", "ab-curve"),
    ]
    *said, error = done.stderr.splitlines()
    assert [line.partition(":")[0] for line in said[2:]] == ["linear", "curve"]
    error = json.loads(error)["error"]
    assert error == {"kind": "unconnected", "message": row["reason"]}
    assert row["reason"].startswith("No method connects a and b at train loss barrier <= 0; the nearest was ")
    assert run("show", "ab-curve", "--json").row["reason"].startswith("curve finished; tried by --auto: train loss")
    people = run("connect", "a", "b", "--auto", "--max-barrier", 0, *AUTO, code=1)
    assert people.stderr.splitlines()[-1] == f"Error: {row['reason']}"
    assert people.stderr.count("No method connects") == 1
