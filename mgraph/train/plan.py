"""What a training keeps besides its end: after which steps, and under which names (torch-free)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mgraph.errors import InputError
from mgraph.train.schedules import Span, averaged, lowest
from mgraph.train.settings import TrainSettings


@dataclass(frozen=True)
class Copy:
    """A copy of the weights that becomes a mode, called NAME-``suffix``, and the facts recorded with it."""

    suffix: str
    facts: Mapping[str, int]


@dataclass(frozen=True)
class Plan:
    """The concrete steps that a training's settings mean for data of one size.

    The first ``steps`` of ``span`` are done, ``copies`` are made after some of them, and the weights are averaged after
    those in ``averaged``. If the last copy is a member of an ensemble, training ends there.
    """

    span: Span
    steps: int
    copies: Mapping[int, Copy] = field(default_factory=dict)
    averaged: tuple[int, ...] = ()

    @classmethod
    def of(cls, settings: TrainSettings, epoch: int) -> Plan:
        """Lay out a training whose epochs have ``epoch`` steps; InputError if it is too short for its schedule."""
        span = Span(settings.epochs * epoch, epoch)
        if settings.fge or settings.snapshot:
            places = lowest(settings.schedule, span)
            if not places:
                raise InputError(
                    f"The schedule {settings.schedule} reaches no lowest rate within {span.steps} steps; train longer."
                )
            copies = {step: Copy(str(k + 1), _facts(step, epoch) | {"cycle": k + 1}) for k, step in enumerate(places)}
            return cls(span, places[-1], copies)
        copies = {e * epoch: Copy(str(e), {"epoch": e}) for e in settings.keep}
        taken = averaged(settings.schedule, span) if settings.swa else ()
        if settings.swa and not taken:
            raise InputError(
                f"With the schedule {settings.schedule} swa has nothing to average in {settings.epochs} epochs; train "
                "longer."
            )
        return cls(span, span.steps, copies, taken)

    @property
    def ends_in_member(self) -> bool:
        """Whether the training, unless something stops it, ends at its last copy."""
        return self.steps in self.copies


def _facts(step: int, epoch: int) -> dict[str, int]:
    return {"step": step} | ({"epoch": step // epoch} if step % epoch == 0 else {})
