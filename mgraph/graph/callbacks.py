"""Callbacks for other trainers that pass their networks to a recorder; only this module imports their libraries."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from mgraph.errors import InputError

if TYPE_CHECKING:
    from mgraph.graph.recorder import Recorder

_LIGHTNING = ("lightning.pytorch", "pytorch_lightning")  # two packages with the same content


def of_lightning(recorder: Recorder) -> Any:
    """Make a Lightning callback, for the package that is already imported or else for the one that is installed."""
    base = _first_of([name for name in _LIGHTNING if name in sys.modules] or _LIGHTNING, "lightning").Callback

    class Record(base):  # type: ignore[misc, valid-type]
        """Saves at the end of epochs, and finishes when training ends."""

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            """Save, if this epoch is to be saved."""
            if recorder.every is not None and trainer.is_global_zero:
                recorder.save(pl_module, trainer.current_epoch + 1)

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            """Store the last mode."""
            if trainer.is_global_zero:
                recorder.finish(pl_module)

    return Record()


def of_transformers(recorder: Recorder) -> Any:
    """Make a callback for the Trainer of transformers."""
    base = _first_of(["transformers"], "transformers").TrainerCallback

    class Record(base):  # type: ignore[misc, valid-type]
        """Saves at the end of epochs, and finishes when training ends."""

        def on_epoch_end(self, args: Any, state: Any, control: Any, *, model: Any, **further: Any) -> None:
            """Save, if this epoch is to be saved."""
            del args, control, further
            if recorder.every is not None and state.is_world_process_zero:
                recorder.save(model, round(state.epoch))

        def on_train_end(self, args: Any, state: Any, control: Any, *, model: Any, **further: Any) -> None:
            """Store the last mode."""
            del args, control, further
            if state.is_world_process_zero:
                recorder.finish(model)

    return Record()


def _first_of(names: list[str] | tuple[str, ...], package: str) -> Any:
    for name in names:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise InputError(f"{package} is not installed; install it with pip install {package}.")
