"""From a spec string to a task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mgraph import live
from mgraph.builtin import CONFIGS, DATASETS, ROOT
from mgraph.data.making import Judging, make_task
from mgraph.data.repeatable import RandomState, require_repeatable
from mgraph.data.task import Task
from mgraph.errors import InputError, NotFoundError, UntrustedError
from mgraph.factories import call_factory, load_factory, locate, names_file
from mgraph.specs import Spec, bind, look_up, suggestion
from mgraph.trust import Consent, speaker


def load_task(
    spec: Spec | str, *, base: Path | None = None, consent: Consent | None = None, first: bool = False
) -> Task:
    """Load the data named by a spec; paths in it are relative to ``base`` (default: the current directory).

    A data factory is run if ``consent`` allows it (default: :func:`mgraph.trust.speaker`). It returns a Task, or a
    mapping of :func:`make_task`'s arguments. ``first`` is for data that are loaded for the first time: they are refused
    if the factory makes different ones when called again. Raises InputError for anything that cannot be used, and
    UntrustedError for code that may not run, or if data would be downloaded into a directory where that is not
    permitted.
    """
    spec, base, consent = Spec.parse(spec), base or Path.cwd(), consent or speaker()
    if spec.is_factory:
        before = RandomState()
        factory = load_factory(spec, base=base, consent=consent)
        at = RandomState()
        task = _made(spec, call_factory(factory, spec))
        if first:
            again = partial(call_factory, factory, spec)
            require_repeatable(task, spec.name, lambda: _made(spec, again()), before=before, at=at)
        return task
    if live.is_live(spec):
        kept: Task = live.recall(spec, "data")
        return kept
    entry = look_up(spec, DATASETS, "data set")
    params = bind(entry, spec)
    if ROOT in params:
        params[ROOT] = str(locate(params[ROOT], base))
    named = entry.name in CONFIGS and not names_file(spec.argument, base)
    arguments = [spec.argument if named else locate(spec.argument, base)] if entry.argument else []
    held_back = bool(params.get("download")) and (ROOT in params or named) and not consent.writes
    try:
        built: Task = entry.function()(*arguments, **params | ({"download": False} if held_back else {}))
    except NotFoundError:
        if not held_back:
            raise
        place = params.get(ROOT) or "the cache"
        raise UntrustedError(
            f"{spec.name} is not in {place}, and only the graph says to fetch it there; add --trust to do so."
        ) from None
    return built


def judged_by(task: Task, loss: Spec | str, *, base: Path | None = None, consent: Consent | None = None) -> Task:
    """Return the task with the user's own evaluation loss: a function of (outputs, targets), returning a batch's mean.

    Its code is run if ``consent`` allows it (default: :func:`mgraph.trust.speaker`). The losses of single examples are
    then unknown. Raises InputError for an invalid name, NotFoundError if there is no such function, UntrustedError if
    it may not run.
    """
    spec = Spec.parse(loss)
    if not spec.is_factory or spec.params:
        raise InputError(f"A loss is named module:function or file.py:function, not {str(loss)!r}.")
    function = load_factory(spec, base=base or Path.cwd(), consent=consent or speaker())
    return replace(task, loss=function, loss_name=str(spec), example_loss=None)


def _made(spec: Spec, result: Any) -> Task:
    if isinstance(result, Task):
        return result
    if not isinstance(result, Mapping):
        raise InputError(
            f"The factory {spec.name} returned a {type(result).__name__}; return a dict with train=(x, y) and "
            f"test=(x, y), or a Task."
        )
    known = ["train", *(make_task.__kwdefaults__ or {}), *Judging.__annotations__]
    for key in result:
        if key not in known:
            raise InputError(
                f"The factory {spec.name} returned an unknown key {key!r};{suggestion(str(key), known)} "
                f"known are {', '.join(known)}."
            )
    if "train" not in result:
        raise InputError(f"The factory {spec.name} returned no 'train'; return train=(x, y) and test=(x, y).")
    return make_task(**result)
