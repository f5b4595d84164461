"""SLURM, by submitit: every connection is a job of the cluster."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mgraph.engines.pool import Pool
from mgraph.errors import InputError


def open_slurm(places: int, parameters: Mapping[str, Any], device: str | None) -> Pool:
    """Return a pool of at most ``places`` jobs at once; ``parameters`` are those of submitit.

    ``cluster`` (slurm; or local, jobs on this machine, for trying it out) and ``folder`` (for its logs and pickles;
    default ``~/.mgraph-slurm``, because all machines must see it) go to ``submitit.AutoExecutor``; all others, such as
    ``partition`` and ``timeout_min``, to its ``update_parameters``. Raises InputError if submitit or SLURM is missing.
    """
    try:
        import submitit
    except ImportError:
        raise InputError("--engine slurm needs submitit: pip install 'mgraph[slurm]'") from None
    given = dict(parameters)
    cluster = str(given.pop("cluster", "slurm"))
    folder = Path(str(given.pop("folder", Path.home() / ".mgraph-slurm")))
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
        executor.update_parameters(**given)
    except Exception as error:  # RuntimeError, NameError, …: what it says is all that is known
        why = " ".join(str(error).split()).rstrip(".")
        raise InputError(f"SLURM is not available here through submitit: {why}.") from error
    return Pool(executor, places, device)
