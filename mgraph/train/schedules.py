"""Learning-rate schedules: the factor on the learning rate as a function of progress in [0, 1) (torch-free).

Written as a spec: ``cosine``, ``multistep?at=60ep,120ep&factor=0.2``, ``curve?warmup=500``. A place or a length is a
whole number of steps, a number of epochs followed by ``ep``, or a fraction of the phase between 0 and 1. A schedule
also says after which steps a copy of the weights is worth keeping (:func:`lowest`) or averaging (:func:`averaged`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from mgraph.errors import InputError
from mgraph.specs import Scalar, Spec, suggestion, unknown_parameter

Schedule = Callable[[float], float]

_LENGTH = re.compile(r"(?P<count>[1-9][0-9]*)(?P<epochs>ep)?")


def curve_schedule(progress: float) -> float:
    """Return the factor that [G]'s released code uses for modes and curves.

    Constant for the first half, then linear to 1 % at 90 %, then 1 %.
    """
    if progress < 0.5:
        return 1.0
    if progress < 0.9:
        return 1.0 - 0.99 * (progress - 0.5) / 0.4
    return 0.01


def cosine_schedule(progress: float) -> float:
    """Return half a cosine, from 1 to 0 (Loshchilov & Hutter 2017, eq. 5, one cycle)."""
    return (1.0 + math.cos(math.pi * progress)) / 2.0


def constant_schedule(progress: float) -> float:
    """Return 1."""
    return 1.0


SCHEDULES: dict[str, Schedule] = {
    "curve": curve_schedule,
    "cosine": cosine_schedule,
    "constant": constant_schedule,
}


@dataclass(frozen=True)
class Span:
    """The length of a phase and of an epoch, in steps."""

    steps: int
    epoch: int


Parameters = Mapping[str, Any]


def _plain(name: str) -> Callable[[Parameters, Span], Schedule]:
    return lambda given, span: SCHEDULES[name]


def _onecycle(given: Parameters, span: Span) -> Schedule:
    """Rise from ``start`` to 1 and fall to ``end``, both by half a cosine (Smith & Topin 2017, as torch has it)."""
    top, start, end = _share(given["rise"], span), float(given["start"]), float(given["end"])

    def factor(progress: float) -> float:
        if progress < top:
            return start + (1.0 - start) * (1.0 - cosine_schedule(progress / top))
        return end + (1.0 - end) * cosine_schedule((progress - top) / (1.0 - top))

    return factor


def _multistep(given: Parameters, span: Span) -> Schedule:
    """Multiply by ``factor`` at each of the places ``at``."""
    places = [_share(at, span) for at in given["at"]]
    if places != sorted(set(places)):
        raise InputError(f"The places of multistep must rise: {_written(given['at'])}.")
    base = float(given["factor"])
    return lambda progress: float(base ** sum(progress >= place for place in places))


def _cyclic(given: Parameters, span: Span) -> Schedule:
    """Fall from 1 to ``low`` and rise again, linearly, in every ``period`` ([G] section 5, its α(i))."""
    period, low = _length(given["period"], span), float(given["low"])

    def factor(progress: float) -> float:
        t = (round(progress * span.steps) % period + 1.0) / period
        way = 2.0 * min(t, 1.0 - t)  # 0 at both ends, 1 in the middle
        return 1.0 - (1.0 - low) * max(0.0, way)

    return factor


def _restarts(given: Parameters, span: Span) -> Schedule:
    """Restart a half cosine ``cycles`` times, each ``grow`` times as long as the last (Loshchilov & Hutter 2017)."""
    lengths = [given["grow"] ** i for i in range(given["cycles"])]
    ends, low = [sum(lengths[: i + 1]) / sum(lengths) for i in range(len(lengths))], float(given["low"])

    def factor(progress: float) -> float:
        cycle = next((i for i, end in enumerate(ends) if progress < end), len(ends) - 1)
        begin = ends[cycle - 1] if cycle else 0.0
        return low + (1.0 - low) * cosine_schedule((progress - begin) / (ends[cycle] - begin))

    return factor


def _swa(given: Parameters, span: Span) -> Schedule:
    """Fall linearly from 1, at half of ``from``, to ``low`` at 90 % of it, and stay (code of Izmailov et al. 2018)."""
    begin, low = _share(given["from"], span), float(given["low"])

    def factor(progress: float) -> float:
        way = (progress / begin - 0.5) / 0.4
        return 1.0 - (1.0 - low) * min(1.0, max(0.0, way))

    return factor


@dataclass(frozen=True)
class _Kind:
    """How a schedule is made, and its parameters with their defaults (None: required)."""

    make: Callable[[Parameters, Span], Schedule]
    takes: Parameters = field(default_factory=dict)


_KINDS: Mapping[str, _Kind] = MappingProxyType(
    {name: _Kind(_plain(name)) for name in SCHEDULES}
    | {
        "onecycle": _Kind(_onecycle, {"rise": 0.3, "start": 0.04, "end": 4e-6}),
        "multistep": _Kind(_multistep, {"at": None, "factor": 0.1}),
        "cyclic": _Kind(_cyclic, {"period": None, "low": 0.01}),
        "restarts": _Kind(_restarts, {"cycles": None, "grow": 1, "low": 0.0}),
        "swa": _Kind(_swa, {"from": 0.75, "low": 0.5}),
    }
)
NAMES = tuple(_KINDS)


def check_schedule(text: str) -> None:
    """Raise InputError, naming what is unknown and similar names, unless this is how a schedule is written."""
    _read(text)


def schedule_of(text: str, span: Span) -> Schedule:
    """Return the schedule over a phase; raise InputError if a place or a length lies outside it."""
    name, given = _read(text)
    given = dict(given)
    warm = given.pop("warmup")
    schedule = _KINDS[name].make(given, span)
    if warm is None:
        return schedule
    rising = _rising(warm, span)
    absolute = name in ("multistep", "cyclic")  # their places count from the beginning of the phase

    def factor(progress: float) -> float:
        done = round(progress * span.steps)
        if done < rising:
            return (done + 1) / (rising + 1) * schedule(progress if absolute else 0.0)
        return schedule(progress if absolute else (done - rising) / (span.steps - rising))

    return factor


def beginning_of(schedule: Schedule, share: float) -> Schedule:
    """Return the schedule of the first ``share`` of a phase, as a function of the progress within that share."""
    return lambda progress: schedule(progress * share)


def lowest(text: str, span: Span) -> tuple[int, ...]:
    """Return, for each cycle, the number of steps at which its step with the lowest rate is done, in increasing order.

    For ``cyclic`` this is the middle of every period (i mod c = c/2 in [G] algorithm 1, rounded down if c is odd), for
    ``restarts`` the end of every cycle. InputError if two cycles end at the same step; ValueError for other schedules.
    """
    name, given = _read(text)
    if name == "cyclic":
        period = _length(given["period"], span)
        found = [math.floor(period * (k + 0.5)) for k in range(math.ceil(span.steps / period))]
    elif name == "restarts":
        rising = _rising(given["warmup"], span)
        ends = [sum(given["grow"] ** j for j in range(i + 1)) for i in range(given["cycles"])]
        found = [rising - (-end * (span.steps - rising) // ends[-1]) for end in ends]
    else:
        raise ValueError(f"the schedule {name} has no cycles")
    found = [step for step in found if step <= span.steps]
    if len(set(found)) < len(found) or 0 in found:
        raise InputError(f"The schedule {text} has a cycle without a step of its own: the phase has {span.steps}.")
    return tuple(found)


def averaged(text: str, span: Span) -> tuple[int, ...]:
    """Return the numbers of steps after which stochastic weight averaging takes the weights (Izmailov et al. 2018).

    These are the lowest points of a schedule with cycles, or the ends of epochs at a constant rate: all epochs for
    ``constant``, those after the decrease for ``swa``. ValueError for other schedules.
    """
    name, given = _read(text)
    if name in CYCLICAL:
        return lowest(text, span)
    if name not in AVERAGED:
        raise ValueError(f"the schedule {name} decays")
    rising = _rising(given["warmup"], span)
    begin = rising + (_share(given["from"], span) if name == "swa" else 0.0) * (span.steps - rising)
    return tuple(step for step in range(span.epoch, span.steps + 1, span.epoch) if step >= begin)


CYCLICAL = ("cyclic", "restarts")
AVERAGED = ("swa", "constant", *CYCLICAL)
"""Schedules with cycles, and those under which an average of the weights is better than the last weights."""


def name_of(text: str) -> str:
    """Return a schedule's name."""
    return _read(text)[0]


def _read(text: str) -> tuple[str, dict[str, Any]]:
    """Return a schedule's name and all its parameters, using defaults for those not given."""
    spec = Spec.parse(text)
    if spec.name not in _KINDS:
        raise InputError(
            f"schedule must be one of {', '.join(_KINDS)}, with parameters as in multistep?at=60ep,120ep or "
            f"cosine?warmup=500, not {text!r};{suggestion(spec.name, _KINDS) or ' see docs/training.md.'}"
        )
    takes = {**_KINDS[spec.name].takes, "warmup": None}
    for key in spec.params:
        if key not in takes:
            raise unknown_parameter(key, f"The schedule {spec.name}", takes)
    given = {key: _value(spec.name, key, spec.params[key]) for key in spec.params}
    for key, default in takes.items():
        if key not in given and default is None and key != "warmup":
            raise InputError(f"The schedule {spec.name} needs {key}, as in {_EXAMPLES[spec.name]}.")
    return spec.name, takes | given


_EXAMPLES = {
    "multistep": "multistep?at=60ep,120ep&factor=0.2",
    "cyclic": "cyclic?period=4ep&low=0.01",
    "restarts": "restarts?cycles=5",
}


def _value(name: str, key: str, value: Scalar | tuple[Scalar, ...]) -> Any:
    """Check one parameter; places and lengths stay as written."""
    where = f"{key} of the schedule {name}"
    if key == "at":
        return tuple(_place(where, part) for part in (value if isinstance(value, tuple) else (value,)))
    if isinstance(value, tuple):
        raise InputError(f"{where} is one number, not {_written(value)}.")
    if key in ("warmup", "period", "rise", "from"):
        return _place(where, value)
    number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    if key in ("cycles", "grow"):
        if not (number >= 1 and number <= 1000 and number.is_integer()):
            raise InputError(f"{where} is a whole number from 1 to 1000, not {value}.")
        return int(number)
    if not 0.0 <= number <= 1.0:
        raise InputError(f"{where} is a factor from 0 to 1, not {value}.")
    return number


def _place(where: str, value: Scalar) -> Scalar:
    """Check a place or length: steps, epochs, or a fraction."""
    if isinstance(value, float) and 0.0 < value < 1.0:
        return value
    if not isinstance(value, bool | float) and _LENGTH.fullmatch(str(value)):
        return value
    raise InputError(
        f"{where} is a number of steps (500), of epochs (5ep), or a share of the phase (0.1), not {value}."
    )


def _share(value: Scalar, span: Span) -> float:
    """Return a place as a fraction of the phase; raise InputError if it lies beyond the end."""
    return value if isinstance(value, float) else _length(value, span) / span.steps


def _length(value: Scalar, span: Span) -> float:
    """Return a place or a length in steps; raise InputError if it lies beyond the end of the phase."""
    if isinstance(value, float):
        return value * span.steps
    found = _LENGTH.fullmatch(str(value))
    assert found
    steps = int(found["count"]) * (span.epoch if found["epochs"] else 1)
    if steps >= span.steps:
        raise InputError(
            f"In the schedule of the learning rate, {value} is {steps} steps, and the phase has only {span.steps} (an "
            f"epoch has {span.epoch}): train longer, or give a schedule with less."
        )
    return steps


def _rising(warmup: Scalar | None, span: Span) -> int:
    """Return the number of warm-up steps."""
    return 0 if warmup is None else max(1, round(_share(warmup, span) * span.steps))


def _written(values: tuple[Scalar, ...]) -> str:
    return ",".join(map(str, values))
