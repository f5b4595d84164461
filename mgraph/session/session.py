"""An open graph at work: the store, and per space a workspace (:mod:`mgraph.session.workspace`)."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mgraph.errors import InputError, MGraphWarning, NotFoundError, UntrustedError
from mgraph.session.recent import RecentPoints
from mgraph_store import Connection, Run, Space

# What only computing needs is imported where something is computed: to list what there is takes none of it.
if TYPE_CHECKING:
    from mgraph.families import Family
    from mgraph.jobs.base import Job
    from mgraph.methods.base import Method
    from mgraph.progress import ProgressCallback
    from mgraph.session.headway import HeadwayLog
    from mgraph.session.runs import RunLog
    from mgraph.session.workspace import Workspace
    from mgraph_store import GraphStore


class Session:
    """The open store with its device, its trust, and its workspaces."""

    def __init__(
        self,
        store: GraphStore,
        *,
        device: str = "auto",
        trust: bool = False,
        threads: int | None = None,
        workers: int | None = None,
    ) -> None:
        if threads is not None and threads < 1:
            raise InputError(f"There must be at least 1 thread, not {threads}.")
        if workers is not None and workers < 0:
            raise InputError(f"There must be at least 0 workers, not {workers}.")
        self.store = store
        self._device, self._trust, self._threads, self._workers = device, trust, threads, workers
        self._workspaces: dict[str, Workspace] = {}
        self.headway: HeadwayLog | None = None  # of the run that is under way here
        self.next_run: str | None = None  # the id that whoever asked for the next run has chosen for it
        self.points = RecentPoints(store)

    @property
    def options(self) -> dict[str, Any]:
        """How it was opened, so that another process can do the same: each as it was given."""
        return {
            "device": self._device,
            "trust": self._trust,
            "threads": self._threads,
            "workers": self._workers,
        }

    def like(self, run: Run) -> Session:
        """Return a session that computes where and as a run did, unless this one was told otherwise."""
        return Session(
            self.store,
            device=run.device if self._device == "auto" else self._device,
            trust=self._trust,
            threads=self._threads or run.threads,
            workers=self._workers,
        )

    @property
    def trusts(self) -> bool:
        """Whether the user allows running code that the graph names."""
        return self._trust

    def _record_metrics(self, workspace: Workspace) -> None:
        """Record with the space what its task is now measured by: an older graph may not say it, or the code has new
        metrics."""
        from mgraph.session.judged import agreeing

        metrics = agreeing(workspace.task.metrics, workspace.space)
        if metrics != workspace.space.metrics:
            before, workspace.space = workspace.space, replace(workspace.space, metrics=metrics)
            with self.store.transaction() as tx:
                tx.update(workspace.space, since=before)

    @cached_property
    def device(self) -> str:
        """The device to compute on: the one asked for, or the best available."""
        return resolve_device(self._device)

    def workspace(self, space: Space) -> Workspace:
        """Return the workspace of a space, the same one every time."""
        from mgraph.session.workspace import Workspace

        if space.id not in self._workspaces:
            self._workspaces[space.id] = Workspace(
                space,
                self.store.path,
                self.device,
                trust=self._trust,
                threads=self._threads,
                workers=self._workers,
            )
        return self._workspaces[space.id]

    def heard(self, progress: ProgressCallback) -> ProgressCallback:
        """Return a reporter that passes everything on, and notes how far the run under way here has come."""
        from mgraph.session.headway import Heard

        return Heard.of(self, progress)

    def family_of(self, connection: Connection) -> Family:
        """Rebuild the family of a connection, with its code if it is a user's own: UntrustedError if that may not run.

        See :func:`mgraph.methods.own.load_family`.
        """
        from mgraph.families.own import own_families, with_code
        from mgraph.query.sweepdata import family_of

        family = family_of(connection)
        if not own_families(family):
            return family
        from mgraph.methods.own import load_family
        from mgraph.trust import OfGraph

        consent = OfGraph(self.store.path, self._trust)
        return with_code(family, lambda own: load_family(own, self.store.path, consent))

    def method_of(self, connection: Connection) -> type[Method] | None:
        """Return the class of the method that made a connection; a user's own one if its code is trusted here.

        None for code that is not, that is not where it was, or, with a warning, that cannot be loaded.
        """
        from mgraph.factories import names_code
        from mgraph.methods.own import load_method
        from mgraph.methods.registry import METHODS
        from mgraph.session.code import METHOD_CODE
        from mgraph.trust import OfGraph

        if connection.kind in METHODS or connection.run_id is None:
            return METHODS.get(connection.kind)
        with self.store.reading() as reader:
            run = reader.get(Run, id=connection.run_id)
        code = json.loads(run.settings).get(METHOD_CODE)
        directory = json.loads(run.plan or "{}").get("directory")
        if not isinstance(code, str) or not isinstance(directory, str) or not names_code(code):
            return None
        try:
            return load_method(code, Path(directory), self.store.path, OfGraph(self.store.path, self._trust))
        except (UntrustedError, NotFoundError):
            return None
        except InputError as error:
            warnings.warn(
                f"What {code} says of {connection.name or connection.id} is not shown: {error}",
                MGraphWarning,
                stacklevel=3,
            )
            return None

    def forget(self, space: Space) -> None:
        """Make task and network of a space be loaded anew when next needed, because its specs have changed."""
        self._workspaces.pop(space.id, None)

    def space(self, text: str | None = None) -> Space:
        """Look up a space by name or id; None means the only one."""
        with self.store.reading() as reader:
            return reader.find_space(text)

    @contextmanager
    def run(
        self,
        workspace: Workspace,
        command: str,
        settings: Mapping[str, Any],
        seed: int | None = None,
        *,
        job: Job | None = None,
        resumed: Run | None = None,
    ) -> Iterator[RunLog]:
        """Record a run around a block that computes on a workspace, with the workspace's number of threads.

        With a ``job`` that can be written down, it can be resumed after an interruption. See
        :func:`mgraph.session.runs.recorded_run`.
        """
        from mgraph.factories import names_code
        from mgraph.session.code import OF_RUN, names_of
        from mgraph.session.headway import noted
        from mgraph.session.runs import RunCode, new_run, recorded_run

        with self.threads(workspace):  # this loads everything, so it is now known which code runs
            self._record_metrics(workspace)
            own = {
                role: _hash_of(named)
                for role, key in OF_RUN.items()
                if isinstance(named := settings.get(key), str) and names_code(named)
            }
            code = RunCode(workspace.space, workspace.code | own, names_of(workspace.space, settings))
            plan = job.to_json() if job is not None and job.resumes and job.can_be_written else None
            run_id, self.next_run = self.next_run, None
            run = new_run(command, settings, seed=seed, device=self.device, plan=plan, run_id=run_id)
            with recorded_run(self.store, run, resumed=resumed, code=code) as log, noted(self, log):
                yield log

    @contextmanager
    def threads(self, workspace: Workspace) -> Iterator[None]:
        """Compute inside a block with the workspace's number of threads; no other thread computes meanwhile."""
        import torch

        from mgraph.alone import our_turn

        with our_turn():
            before = torch.get_num_threads()
            torch.set_num_threads(workspace.threads)
            try:
                yield
            finally:
                torch.set_num_threads(before)


def _hash_of(named: str) -> str:
    from mgraph.factories import find_source
    from mgraph.specs import Spec

    return find_source(Spec.parse(named), base=Path.cwd()).hash


def resolve_device(text: str) -> str:
    """Turn auto, cpu, cuda[:i] or mps into a device that exists; InputError if it does not."""
    import torch

    if text == "auto":
        if torch.cuda.is_available():
            return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"  # one GPU for each process under torchrun
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(text)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise InputError(f"There is no device {text!r}; choose auto, cpu, cuda, cuda:1, … or mps.")
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0].rstrip(".")
        raise InputError(f"Device {text!r} cannot be used ({why}); try auto or cpu.") from None
    return str(device)
