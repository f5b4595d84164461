"""Writing trained tensors that the graph does not accept to a file in the working directory, so they are not lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mgraph.errors import MGraphError
from mgraph.network.checkpoints import state_dict, write_safetensors
from mgraph.session.runs import RunLog
from mgraph.session.session import Session
from mgraph_store import Layout

Tensors = tuple[NDArray[np.float32], Mapping[str, NDArray[Any]]]


def write_aside(layout: Layout, stem: str, parameters: NDArray[np.float32], buffers: Mapping[str, Any]) -> Path:
    """Write a checkpoint ``STEM.safetensors`` that ``add-mode`` reads; an existing file is left alone."""
    file = _free(Path.cwd() / f"{stem}.safetensors")
    write_safetensors(file, state_dict(layout, parameters, buffers))
    return file


@contextmanager
def rescued(session: Session, run: RunLog, layout: Layout, modes: Mapping[str, Tensors]) -> Iterator[None]:
    """If a block that stores ``modes`` fails and the run has no saved state, write them to files and say so.

    ``modes`` has the parameters (D,) and buffers of each, by name.
    """
    try:
        yield
    except (MGraphError, OSError) as error:
        if _can_go_on(session, run):
            raise
        with suppress(MGraphError, OSError):  # the first error matters
            files = [write_aside(layout, f"{name}-unsaved", *tensors) for name, tensors in modes.items()]
            error.add_note(
                f"What was trained is in {', '.join(f.name for f in files)}; once the graph can be written again, add "
                f"it with add-mode."
            )
        raise


def _can_go_on(session: Session, run: RunLog) -> bool:
    try:
        session.store.folder.root.where()
        return session.store.states(run.id).summary() is not None
    except (MGraphError, OSError):
        return False


def _free(path: Path) -> Path:
    number, free = 2, path
    while free.exists():
        number, free = number + 1, path.with_stem(f"{path.stem}-{number}")
    return free
