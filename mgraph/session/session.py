"""An open graph at work: the store, and per space the loaded task and network (a *workspace*)."""

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

from mgraph.alone import our_turn
from mgraph.errors import InputError, LayoutMismatchError, MGraphWarning, NotFoundError, UntrustedError
from mgraph.factories import find_source, names_code
from mgraph.families.own import own_families, with_code
from mgraph.query.sweepdata import family_of
from mgraph.session.code import METHOD_CODE, OF_RUN, Pinned, made_with, names_of
from mgraph.session.headway import HeadwayLog, Heard, noted
from mgraph.session.judged import agreeing
from mgraph.session.recent import RecentPoints
from mgraph.session.relocation import is_same_data, other_data, tells_if_moved
from mgraph.specs import Spec
from mgraph.trust import OfGraph
from mgraph_store import Connection, Layout, Run, Space

if TYPE_CHECKING:
    from torch import nn

    from mgraph.data.task import Task
    from mgraph.evaluate.batchnorm import BatchNormPolicy
    from mgraph.families import Family
    from mgraph.jobs.base import Job
    from mgraph.methods.base import Method
    from mgraph.network.flat import FlatModel
    from mgraph.network.probing.habits import Habits
    from mgraph.network.probing.probe import Finding
    from mgraph.progress import ProgressCallback
    from mgraph.session.runs import RunLog
    from mgraph_store import GraphStore


# Below this many multiply-adds per batch a second thread gains a step at most a fifth on an idle machine, and nearly
# doubles its time on a busy one (benchmarks/threads.py).
_SMALL_BATCH = 64
_SMALL_WORK = 25e6


class Workspace:
    """Everything needed to train and evaluate in one space; task and network are loaded on first use."""

    def __init__(
        self,
        space: Space,
        path: Path,
        device: str,
        *,
        trust: bool,
        threads: int | None = None,
        workers: int | None = None,
    ) -> None:
        self.space, self.device, self._workers = space, device, workers
        self._habits: Habits | None = None
        self.met = False  # whether the network was probed here and found usable
        self._path, self._trust, self._threads = path, trust, threads
        self.code: dict[str, str] = {}  # hashes of the user code that ran, by role: arch, data, loss

    @property
    def path(self) -> Path:
        """The graph directory."""
        return self._path

    @cached_property
    def layout(self) -> Layout:
        """The space's tensors."""
        return Layout.from_json(self.space.layout)

    @cached_property
    @tells_if_moved
    def task(self) -> Task:
        """The data, checked against the fingerprint that the space recorded."""
        from mgraph.data.loading import judged_by, load_task

        task = load_task(self.space.data, base=self._path, consent=self._consent("data"))
        if names_code(self.space.loss):
            task = judged_by(task, self.space.loss, base=self._path, consent=self._consent("loss"))
            if not made_with(self.space, find_source(Spec.parse(self.space.loss), base=self._path)):
                raise InputError(
                    f"The loss {self.space.loss} is not what space {self.space.name} was made with (its code "
                    f"changed), so its numbers would not be comparable; restore it or add a new space."
                )
        agreeing(task.metrics, self.space)
        if not is_same_data(task, self.space):
            raise other_data(
                self.space,
                task,
                lambda: load_task(self.space.data, base=self._path, consent=self._consent("data")),
            )
        task.read_by(self._workers)
        return task

    @cached_property
    def flat(self) -> FlatModel:
        """A network of the space on the device; its values are whatever was loaded last."""
        return self.new_network(seed=0)

    @tells_if_moved
    def new_network(self, seed: int) -> FlatModel:
        """Build a freshly initialised network; LayoutMismatchError if the architecture has changed."""
        from mgraph.network.flat import FlatModel

        flat = FlatModel(self.new_module(seed), device=self.device, outputs=self.task.outputs)
        if self._habits is None:
            from mgraph.network.probing.habits import observe
            from mgraph.session.meeting import first_examples

            x, _ = first_examples(self.task, flat.device)
            self._habits = observe(flat.module, flat.inputs(x))
        flat.respect(self._habits)
        return flat

    def probe(self, flat: FlatModel | None = None) -> list[Finding]:
        """Probe the network at its present point, or a new one, and leave it as it was.

        Returns what its user should know; InputError for a network that would be handled wrongly.
        """
        from mgraph.network.probing.untouched import untouched
        from mgraph.session.meeting import meet

        module = self.new_module(0) if flat is None else flat.module
        with untouched(module):
            return meet(
                module, self.new_module(1), self.task, arch=self.space.arch, data=self.space.data, fresh=flat is None
            )

    def new_module(self, seed: int) -> nn.Module:
        """Build a freshly initialised network as its factory returns it, as :meth:`new_network` does."""
        from mgraph.architectures.loading import build_network
        from mgraph.network.layout import layout_of
        from mgraph.session.bases import require_base

        module = build_network(
            self.space.arch,
            input_shape=self.task.input_shape,
            classes=self.task.classes,
            seed=seed,
            base=self._path,
            consent=self._consent("arch"),
        )
        difference = self.layout.first_difference(layout_of(module))
        if difference:
            raise LayoutMismatchError(
                f"The architecture {self.space.arch!r} no longer makes the network of space "
                f"{self.space.name}: {difference}; restore its code or add a new space."
            )
        require_base(self.space, module, self._path)
        return module

    @cached_property
    def threads(self) -> int:
        """CPU threads to compute with: the number asked for, or else one for a small network, torch's default for
        others."""
        import torch

        from mgraph.network.cost import multiply_adds

        if self._threads is not None:
            return self._threads
        least = self.flat.least_batch
        x, _ = self.task.train.examples(torch.zeros(least, dtype=torch.int64), device=self.flat.device)
        work = multiply_adds(self.flat.module, self.flat.inputs(x)) / least * _SMALL_BATCH
        return 1 if work < _SMALL_WORK else torch.get_num_threads()

    def policy(self, examples: int | None = None) -> BatchNormPolicy:
        """Return the BatchNorm policy for this many examples (default: at most 2000)."""
        from mgraph.evaluate.batchnorm import BatchNormPolicy

        if examples is not None and examples < 2:
            raise InputError(f"BatchNorm statistics need at least 2 examples, not {examples}.")
        train = self.task.train
        return BatchNormPolicy.default(train, examples) if examples else BatchNormPolicy.default(train)

    def _consent(self, role: str) -> Pinned:
        """Return the consent to ask before code of the space runs; what ran is recorded in :attr:`code`."""
        return Pinned(OfGraph(self._path, self._trust), role, self.code)


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
        return Heard.of(self, progress)

    def family_of(self, connection: Connection) -> Family:
        """Rebuild the family of a connection, with its code if it is a user's own: UntrustedError if that may not run.

        See :func:`mgraph.methods.own.load_family`.
        """
        family = family_of(connection)
        if not own_families(family):
            return family
        from mgraph.methods.own import load_family

        consent = OfGraph(self.store.path, self._trust)
        return with_code(family, lambda own: load_family(own, self.store.path, consent))

    def method_of(self, connection: Connection) -> type[Method] | None:
        """Return the class of the method that made a connection; a user's own one if its code is trusted here.

        None for code that is not, that is not where it was, or, with a warning, that cannot be loaded.
        """
        from mgraph.methods.own import load_method
        from mgraph.methods.registry import METHODS

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
        from mgraph.session.runs import RunCode, recorded_run

        with self.threads(workspace):  # this loads everything, so it is now known which code runs
            self._record_metrics(workspace)
            own = {
                role: _hash_of(named)
                for role, key in OF_RUN.items()
                if isinstance(named := settings.get(key), str) and names_code(named)
            }
            code = RunCode(workspace.space, workspace.code | own, names_of(workspace.space, settings))
            plan = job.to_json() if job is not None and job.resumes and job.can_be_written else None
            with (
                recorded_run(
                    self.store, command, settings, seed=seed, device=self.device, plan=plan, resumed=resumed, code=code
                ) as log,
                noted(self, log),
            ):
                yield log

    @contextmanager
    def threads(self, workspace: Workspace) -> Iterator[None]:
        """Compute inside a block with the workspace's number of threads; no other thread computes meanwhile."""
        import torch

        with our_turn():
            before = torch.get_num_threads()
            torch.set_num_threads(workspace.threads)
            try:
                yield
            finally:
                torch.set_num_threads(before)


def _hash_of(named: str) -> str:
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
