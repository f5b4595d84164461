"""Provenance: every command that computes is a run, recorded when it starts and when it ends."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib import metadata
from typing import TYPE_CHECKING, Any

from mgraph_store import Run, new_id
from mgraph_store.records import now

if TYPE_CHECKING:
    from mgraph_store import GraphStore, Transaction


class RunLog:
    """One run under way; :meth:`complete` ends it in the same transaction as its results.

    Of several processes that compute one run together only the first records it.
    """

    def __init__(self, store: GraphStore, run: Run, *, follows: bool = False) -> None:
        self._store = store
        self.record = run
        self._ended = follows

    @property
    def id(self) -> str:
        """Id of the run."""
        return self.record.id

    def complete(self, tx: Transaction, **changes: Any) -> None:
        """Mark the run complete as part of ``tx``; ``changes`` are further columns, e.g. ``update``."""
        self.record = replace(self.record, status="complete", ended=now(), **changes)
        tx.update(self.record)
        self._ended = True

    def end(self, status: str, reason: str | None = None) -> None:
        """End the run on its own, unless its results already did."""
        if not self._ended:
            self._ended = True
            self.record = replace(self.record, status=status, reason=reason, ended=now())
            with self._store.transaction() as tx:
                tx.update(self.record)


@contextmanager
def recorded_run(
    store: GraphStore, command: str, settings: Mapping[str, Any], *, seed: int | None, device: str
) -> Iterator[RunLog]:
    """Record a run around a block: complete at its end, interrupted by Ctrl-C, failed by an error."""
    import torch

    from mgraph.train.parallel import present

    run = Run(
        id=new_id("r"),
        command=command,
        settings=json.dumps(dict(settings), sort_keys=True, default=str),
        seed=seed,
        versions=json.dumps(versions()),
        device=device,
        threads=torch.get_num_threads(),
        host=platform.node(),
        pid=os.getpid(),
    )
    follows = present().rank > 0
    if not follows:
        with store.transaction() as tx:
            tx.add(run)
    log = RunLog(store, run, follows=follows)
    try:
        yield log
    except KeyboardInterrupt:
        log.end("interrupted", "stopped by the user")
        raise
    except BaseException as error:
        log.end("failed", str(error) or type(error).__name__)
        raise
    log.end("complete")


def record_failure(store: GraphStore, command: str, settings: Mapping[str, Any], reason: str) -> None:
    """Record a run that failed without being able to say so itself."""
    text = json.dumps(dict(settings), sort_keys=True, default=str)
    with store.transaction() as tx:
        tx.add(Run(new_id("r"), command, text, host=platform.node(), status="failed", reason=reason, ended=now()))


def versions() -> dict[str, str]:
    """Return the versions that decide a run's numbers."""
    names = ("mgraph", "torch", "torchvision", "numpy")
    return {"python": platform.python_version(), "platform": sys.platform} | {
        name: metadata.version(name) for name in names
    }
