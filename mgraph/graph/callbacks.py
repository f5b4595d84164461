"""Callbacks for other trainers that pass their networks to a recorder; only this module imports their libraries."""

from __future__ import annotations

import importlib
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mgraph.architectures.huggingface import load_transformers
from mgraph.errors import InputError

if TYPE_CHECKING:
    from mgraph.graph.recorder import Recorder


def of_lightning(recorder: Recorder) -> Any:
    """Make a Lightning callback, for the package that is already imported or else for the one that is installed."""
    base = _lightning().Callback

    class Record(base):  # type: ignore[misc, valid-type]
        """Saves at the end of epochs, and finishes when training ends."""

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            """Save, if this epoch is to be saved."""
            if recorder.every is not None:
                recorder.write(pl_module, trainer.current_epoch + 1, first=trainer.is_global_zero)

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            """Store the last mode."""
            recorder.write(pl_module, None, first=trainer.is_global_zero)

    return Record()


def of_transformers(recorder: Recorder) -> Any:
    """Make a callback for the Trainer of transformers."""
    base = load_transformers().TrainerCallback

    class Record(base):  # type: ignore[misc, valid-type]
        """Saves at the end of epochs, and finishes when training ends."""

        def on_epoch_end(self, args: Any, state: Any, control: Any, *, model: Any, **further: Any) -> None:
            """Save, if this epoch is to be saved."""
            del args, control, further
            if recorder.every is not None:
                recorder.write(model, round(state.epoch), first=state.is_world_process_zero)

        def on_train_end(self, args: Any, state: Any, control: Any, *, model: Any, **further: Any) -> None:
            """Store the last mode."""
            del args, control, further
            recorder.write(model, None, first=state.is_world_process_zero)

    return Record()


def _lightning() -> Any:
    for name in ("lightning.pytorch", "pytorch_lightning"):  # two packages with the same content
        if sys.modules.get(name) is not None:
            return sys.modules[name]
    with suppress(ImportError):
        return importlib.import_module("lightning.pytorch")
    with suppress(ImportError):
        return importlib.import_module("pytorch_lightning")
    raise InputError("lightning is not installed; install it with pip install lightning.")
