"""Jobs as values: written and read back as they were, and refused by name where somebody has tampered with them."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mgraph
from mgraph.errors import CorruptError, InputError, MGraphError, UntrustedError
from mgraph.evaluate.refine import Refinement
from mgraph.jobs.base import Job
from mgraph.jobs.registry import JOBS

SETTINGS = mgraph.TrainSettings(epochs=3, lr=0.07, keep=(1, 2))
EXAMPLES: tuple[Job, ...] = (
    mgraph.TrainJob(space="s", settings=SETTINGS, name="a"),
    mgraph.AddModeJob(space="s", file="a.pt", ignore=("aux.*",), weights="ema"),
    mgraph.AddPointJob(space="s", coordinates=(1.0, -0.5), name="left"),
    mgraph.AddCurveJob(space="s", file="curve.pt", method="chain", cast=True),
    mgraph.AlignJob(node="m", to="n", name="a", restarts=5, seed=2),
    *(mgraph.ConnectJob(ends=("m", "n"), method=method()) for method in mgraph.METHODS.values()),
    mgraph.ConnectJob(
        ends=("m", "n"),
        method=mgraph.BezierCurve(bends=3, epochs=2),
        name="x",
        init="k",
        same_layout=True,
        buffers_from="m",
        sweep=mgraph.Following(inner=4),
    ),
    mgraph.SweepJob(connection="k"),
    mgraph.SweepJob(
        connection="k",
        axes=((0.0, 1 / 3, 1.0), (0.0, 1.0)),
        splits=("train",),
        examples=50,
        metrics=("ece", "file.py:own"),
        refine=Refinement(0.1, "train", "loss", 99),
        route_on="valid",
        reuse=False,
    ),
    mgraph.ComposeJob(
        pieces=(mgraph.CompositeLeg("k"), mgraph.CompositeLeg("l", "m", "n", ((0.0, 0.5), (1.0, 1.0)))),
        thin=0.01,
        sweep=mgraph.Following((5,)),
    ),
    mgraph.PlaneJob(nodes=("m", "n", "o"), margin=0.1, name="p", sweep=mgraph.Following((5, 5), metrics=("ece",))),
    mgraph.MergeJob(connection="k", at=(0.25, 0.5), refine=3, name="m", force=True),
    mgraph.SoupJob(members=("m", "k@0.5"), how="greedy", name="s", bn_examples=100, force=True),
    mgraph.EnsembleJob(members=("m", "k@3,4"), bn_examples=100, temperature=True, greedy=3),
    mgraph.PredictJob(members=("m",), path="p.npz", data="digits", split="valid"),
    mgraph.EvaluateJob(node="m", splits=("test",), metrics=("ece",), examples=10, save=True),
    mgraph.SharpnessJob(node="m", settings=mgraph.SharpnessSettings(radii=(0.1, 0.2))),
    mgraph.ArchiveJob(node="m", rounding="bitround:5"),
    mgraph.ExportJob(node="m", path="m.pt", overwrite=True),
    mgraph.ExportEnsembleJob(members=("k@3",), path="members"),
)


def kinds(job: Job) -> str:
    return f"{job.kind}-{job.method.name}" if isinstance(job, mgraph.ConnectJob) else job.kind


@pytest.mark.parametrize("job", EXAMPLES, ids=kinds)
def test_what_is_written_is_read_back(job: Job) -> None:
    text = job.to_json()
    assert mgraph.read_job(text) == job
    assert type(job).from_json(text) == job
    assert mgraph.read_job(text).to_json() == text


def test_every_kind_is_tried() -> None:
    assert {type(job) for job in EXAMPLES} == set(JOBS.values())


@pytest.mark.parametrize("job", EXAMPLES, ids=kinds)
def test_every_field_must_have_its_type(job: Job) -> None:
    """Whatever stands in a field instead, the job is refused in one of our sentences, or is a job with good fields."""
    document, refusals = json.loads(job.to_json()), []
    for name in document:
        for wrong in ({"a": [1]}, [[[]]], [{}], -1.5, True, 10**400, "\u0000", "../../x", [None], None):
            changed = json.dumps(document | {name: wrong})
            try:
                read = mgraph.read_job(changed)
            except MGraphError as error:
                refusals.append(str(error))
                continue
            assert mgraph.read_job(read.to_json()) == read
            hint = get_type_hints(type(read)).get(name)
            assert hint not in (str, bool, int) or type(getattr(read, name)) is hint
    assert refusals
    assert all(len(refusal) < 500 for refusal in refusals)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"connection": 3}, "The sweep job: connection must be a text, not 3"),
        ({"grid": "11"}, "grid must be a list, not '11'"),
        ({"grid": [11.5]}, "grid must be a whole number, not 11.5"),
        ({"reuse": "yes"}, "reuse must be true or false, not 'yes'"),
        ({"axes": [[0.0, float("nan")]]}, "axes must be a finite number, not nan"),
        ({"metrics": [{"name": "x"}]}, "metrics must be a text"),
        ({"refine": {"bound": 0.1, "most": 3}}, "refine has a field 'most'; known are bound"),
        ({"evil": 1}, "The sweep job has a field 'evil'; known are"),
        ({"job": "format"}, "There is no job of the kind 'format'; known are train"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], message: str) -> None:
    document = json.loads(mgraph.SweepJob(connection="k").to_json())
    with pytest.raises(CorruptError, match=message):
        mgraph.read_job(json.dumps(document | changes))


def test_a_field_without_a_default_must_be_there() -> None:
    with pytest.raises(CorruptError, match="The connect job has no ends"):
        mgraph.read_job('{"job": "connect", "method": {"name": "linear", "settings": {}}}')


def test_limits_hold_for_what_is_read() -> None:
    with pytest.raises(InputError, match="This grid has 8000000 points; a sweep may have at most"):
        mgraph.read_job(json.dumps({"job": "sweep", "connection": "k", "axes": [[0.0] * 4000, [0.0] * 2000]}))
    with pytest.raises(InputError, match="either a grid or the number of inner points of every piece, not both"):
        mgraph.read_job(json.dumps({"job": "sweep", "connection": "k", "grid": [3], "inner": 2}))
    with pytest.raises(InputError, match="epochs must be at least"):
        mgraph.read_job(json.dumps({"job": "train", "space": "s", "settings": {"epochs": -1}}))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=6,
    ),
    st.sampled_from([*JOBS, "operation", ""]),
)
def test_no_document_is_an_unexpected_error(document: Any, kind: str) -> None:
    for whole in (document, {"job": kind, "settings": document}, {"operation": kind, "settings": document}):
        with pytest.raises((CorruptError, InputError)):
            mgraph.read_job(json.dumps(whole))


def test_a_function_cannot_be_written_down() -> None:
    job = mgraph.SweepJob(connection="k", metrics=(max,))
    assert not job.can_be_written
    with pytest.raises(InputError, match="cannot be written down; name it"):
        job.to_json()


def test_jobs_say_what_code_they_name() -> None:
    assert mgraph.SweepJob(connection="k", metrics=("ece", "own.py:f")).code == ("own.py:f",)
    assert mgraph.TrainJob(space="s", settings=mgraph.TrainSettings(loss="own.py:f")).code == ("own.py:f",)
    assert mgraph.ConnectJob(ends=(), method=mgraph.BezierCurve(loss="own.py:f")).code == ("own.py:f",)
    assert mgraph.ConnectJob(ends=(), method=mgraph.Linear()).code == ()


@pytest.mark.parametrize("job", JOBS.values())
def test_a_job_names_the_operation_that_there_is(job: type[Job]) -> None:
    from importlib import import_module
    from inspect import signature

    module, _, name = job.operation.partition(":")
    parameters = signature(getattr(import_module(module), name)).parameters
    assert list(parameters)[:2] == ["session", "job"]
    assert "progress" in parameters
    assert ("resumed" in parameters) == job.resumes
    assert {"kind", "operation", "resumes"}.isdisjoint(f.name for f in fields(job))


EARLIER = [
    (
        {"operation": "train", "space": "s", "settings": {"epochs": 3}, "name": None, "directory": "/w"},
        mgraph.TrainJob(space="s", settings=mgraph.TrainSettings(epochs=3), directory="/w"),
    ),
    (
        {
            "operation": "connect",
            "method": "linear",
            "settings": {},
            "ends": ["m", "n"],
            "name": "x",
            "init": None,
            "same_layout": False,
            "buffers_from": None,
            "sweep": {"grid": None, "inner": 3},
            "directory": "/w",
        },
        mgraph.ConnectJob(
            ends=("m", "n"), method=mgraph.Linear(), name="x", sweep=mgraph.Following(inner=3), directory="/w"
        ),
    ),
    (  # exploring noted no inner
        {"operation": "connect", "method": "linear", "settings": {}, "ends": ["m"], "sweep": {"grid": [5]}}
        | {"directory": "/w"},
        mgraph.ConnectJob(ends=("m",), method=mgraph.Linear(), sweep=mgraph.Following((5,)), directory="/w"),
    ),
    (
        {
            "operation": "sweep",
            "connection": "k",
            "grid": [3],
            "axes": "[[0.0, 0.25, 1.0]]",
            "splits": ["train"],
            "examples": None,
            "bn_examples": 9,
            "precision": "fp32",
            "metrics": ["ece"],
            "refine": None,
            "reuse": True,
            "directory": "/w",
        },
        mgraph.SweepJob(
            connection="k", axes=((0.0, 0.25, 1.0),), splits=("train",), bn_examples=9, metrics=("ece",), directory="/w"
        ),
    ),
]


@pytest.mark.parametrize(("plan", "job"), EARLIER)
def test_plans_of_earlier_versions_are_read(plan: dict[str, Any], job: Job) -> None:
    assert mgraph.read_job(json.dumps(plan)) == job


def test_earlier_plans_that_say_nothing_are_refused() -> None:
    with pytest.raises(CorruptError, match="operation 'merge' could not be resumed in any version"):
        mgraph.read_job('{"operation": "merge"}')
    with pytest.raises(CorruptError, match="The axes of the sweep cannot be read"):
        mgraph.read_job('{"operation": "sweep", "connection": "k", "axes": [1]}')


def test_reading_a_job_runs_no_code(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text("open('pwned', 'w').close()\n")
    text = json.dumps({"job": "connect", "ends": ["m", "n"], "method": {"name": "evil.py:M", "settings": {}}})
    with pytest.raises(UntrustedError, match=r"method is code, 'evil.py:M', which reading a job does not run"):
        mgraph.read_job(text)
    assert not (tmp_path / "pwned").exists()
