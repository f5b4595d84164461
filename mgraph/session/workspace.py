"""A space at work: its task and network, loaded when they are needed first."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mgraph.errors import InputError, LayoutMismatchError
from mgraph.factories import find_source, names_code
from mgraph.session.code import Pinned, made_with
from mgraph.session.judged import agreeing
from mgraph.session.relocation import is_same_data, other_data, tells_if_moved
from mgraph.specs import Spec
from mgraph.trust import OfGraph
from mgraph_store import Layout, Space

if TYPE_CHECKING:
    from torch import nn

    from mgraph.data.task import Task
    from mgraph.evaluate.batchnorm import BatchNormPolicy
    from mgraph.network.flat import FlatModel
    from mgraph.network.probing.habits import Habits
    from mgraph.network.probing.probe import Finding


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

    def policy(self, examples: int | None = None, augment: str = "") -> BatchNormPolicy:
        """Return the BatchNorm policy for this many examples (default: at most 2000), augmented if that is given.

        For points made of stored nodes, :func:`mgraph.session.policies.policy_for` knows the augmentation.
        """
        from mgraph.evaluate.batchnorm import BatchNormPolicy

        if examples is not None and examples < 2:
            raise InputError(f"BatchNorm statistics need at least 2 examples, not {examples}.")
        train = self.task.train
        if examples is None:
            return BatchNormPolicy.default(train, augment=augment)
        return BatchNormPolicy.default(train, examples, augment)

    def _consent(self, role: str) -> Pinned:
        """Return the consent to ask before code of the space runs; what ran is recorded in :attr:`code`."""
        return Pinned(OfGraph(self._path, self._trust), role, self.code)
