"""Jobs by kind: those listed here can be read back, and therefore resumed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mgraph.errors import CorruptError
from mgraph.factories import names_code
from mgraph.jobs.base import KIND, NAMING_CODE, Job
from mgraph.jobs.connections import ComposeJob, ConnectJob, PlaneJob, SweepJob
from mgraph.jobs.earlier import brought_up
from mgraph.jobs.modes import AddCurveJob, AddModeJob, AddPointJob, AlignJob, TrainJob
from mgraph.jobs.points import (
    ArchiveJob,
    EnsembleJob,
    EvaluateJob,
    ExportEnsembleJob,
    ExportJob,
    MergeJob,
    PredictJob,
    SharpnessJob,
    SoupJob,
)
from mgraph.jobs.reading import shown

JOBS: dict[str, type[Job]] = {
    job.kind: job
    for job in (
        TrainJob,
        AddModeJob,
        AddPointJob,
        AddCurveJob,
        AlignJob,
        ConnectJob,
        SweepJob,
        ComposeJob,
        PlaneJob,
        MergeJob,
        SoupJob,
        EnsembleJob,
        PredictJob,
        EvaluateJob,
        SharpnessJob,
        ArchiveJob,
        ExportJob,
        ExportEnsembleJob,
    )
}


def read_job(text: str) -> Job:
    """Read a job of any kind, including those written by an earlier version.

    Raises CorruptError, naming the field, for anything that is not a job, and InputError for a value that is out of
    range.
    """
    try:
        document: Any = json.loads(text)
    except ValueError as error:
        raise CorruptError(f"A job is written in JSON: {error}.") from None
    document = brought_up(document)
    kind = document.get(KIND)
    if not isinstance(kind, str) or kind not in JOBS:
        raise CorruptError(f"There is no job of the kind {shown(kind)}; known are {', '.join(JOBS)}.")
    return JOBS[kind].from_document(document)


def code_in(document: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the user's code that a written job names, without reading the job, which would load a method's class."""
    method = document.get("method")
    chosen = [document.get("settings"), *([method.get("settings")] if isinstance(method, dict) else [])]
    named = [document.get("data")] if document.get(KIND) == PredictJob.kind else []
    named += [part.get(setting) for part in chosen if isinstance(part, dict) for setting in NAMING_CODE]
    named += [method.get("name")] if isinstance(method, dict) else []
    sweep = document.get("sweep")
    for metrics in (document.get("metrics"), sweep.get("metrics") if isinstance(sweep, dict) else None):
        named += metrics if isinstance(metrics, list) else []
    return tuple(name for name in named if isinstance(name, str) and names_code(name))
