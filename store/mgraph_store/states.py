"""Saved states of runs, from which an interrupted one can be resumed: files below ``states/RUN_ID``.

``state-000007.safetensors`` is the newest state: arrays and, in the file's metadata, plain values as JSON and a digest
of everything. It is written under another name, flushed, renamed, and its directory flushed, before the previous state
is removed, so whenever a process is killed, there is a whole state. ``item-000012.safetensors`` is something that the
run has finished for good; a state counts those that belong to it, and an item is on the disk before the first state
that counts it. Nothing else refers to these files; they are deleted when their run is complete.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mgraph_store.errors import CorruptError, StoreError
from mgraph_store.folder import STATES, Folder
from mgraph_store.root import path_of
from mgraph_store.rows.ids import is_id

_STATE = re.compile(r"state-(\d{6,})\.safetensors")

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class SavedState:
    """A state on disk: values, arrays, how many items belong to it, and when it was saved.

    ``where`` describes its position for people.
    """

    values: Mapping[str, Any]
    arrays: Arrays = field(repr=False)
    items: int
    where: str
    saved: datetime


class StateFiles:
    """The states and items of one run, in their own directory, which is made when the first one is saved."""

    def __init__(self, graph: Folder | Path, run_id: str) -> None:
        if not is_id(run_id):  # it becomes a path, which is later deleted
            raise CorruptError(f"The index has a run {run_id!r}, which is not an id: run `mgraph check`.")
        self._all = (Folder(graph) if isinstance(graph, Path) else graph).sub(STATES)
        self._folder = self._all.sub(run_id)

    @property
    def path(self) -> Path:
        """Their path when the graph was opened."""
        return self._folder.path

    def save(self, values: Mapping[str, Any], arrays: Arrays, *, items: int, where: str = "") -> None:
        """Save a state that counts the items from 0 to ``items``; the one before is removed once this one is durable.

        Raises
        ------
        StoreError
            If the disk is full or refuses; the state before is then still there.
        """
        document = {"values": values, "items": items, "where": where, "saved": datetime.now(UTC).isoformat()}
        earlier = self._states()
        number = max(earlier, default=0) + 1
        self._write(f"state-{number:06}.safetensors", document, arrays)
        for old in earlier.values():
            with contextlib.suppress(OSError):
                self._folder.unlink(old)

    def append(self, index: int, arrays: Arrays) -> None:
        """Save an item, replacing one with the same number that no state counts. Raises as :meth:`save`."""
        self._write(_item(index), {}, arrays)

    def newest(self) -> SavedState | None:
        """Read the newest whole state; None if none was ever saved.

        Raises
        ------
        CorruptError
            If there are states, but none that is whole.
        """
        damage: CorruptError | None = None
        for _, file in sorted(self._states().items(), reverse=True):
            try:
                document, arrays = self._read(file)
                moment = datetime.fromisoformat(document["saved"])
                return SavedState(document["values"], arrays, document["items"], document["where"], moment)
            except CorruptError as error:
                damage = damage or error
        if damage is not None:
            raise damage
        return None

    def item(self, index: int) -> dict[str, NDArray[Any]]:
        """Read an item; ``CorruptError`` if it is missing or damaged."""
        return self._read(_item(index))[1]

    def summary(self) -> tuple[str, datetime] | None:
        """Return the position of the newest state and when it was saved, without its arrays; None if there is none."""
        for _, file in sorted(self._states().items(), reverse=True):
            with contextlib.suppress(CorruptError):
                document = self._header(file)
                return document["where"], datetime.fromisoformat(document["saved"])
        return None

    def remove(self) -> None:
        """Delete everything, as far as the file system allows."""
        # The states first, because items without a state are ignored.
        for file in self._states().values():
            with contextlib.suppress(OSError):
                self._folder.unlink(file)
        self._all.remove(self._folder.name)
        self._all.above().remove_if_empty(STATES)  # if it was the last one

    def _states(self) -> dict[int, str]:
        try:
            found = [(_STATE.fullmatch(name), name) for name in self._folder.entries()]
        except OSError:
            return {}
        return {int(match[1]): name for match, name in found if match}

    def _write(self, name: str, document: Mapping[str, Any], arrays: Arrays) -> None:
        from safetensors import SafetensorError
        from safetensors.numpy import save_file

        from mgraph_store.tensors.objects import disk_error

        # Arrays that are not contiguous would be saved in memory order.
        tensors = {key: np.asarray(array, order="C") for key, array in arrays.items()}
        text = json.dumps(document, sort_keys=True)
        folder, temporary = self._folder, f"{name}.tmp"
        try:
            if not folder.exists():
                with folder.opened(create=True):
                    pass
                self._all.above().flush()
                self._all.flush()
            folder.unlink(temporary)  # an unfinished one from a process that was killed
            with folder.opened() as descriptor:
                file = folder.path_within(descriptor) / temporary
                save_file(tensors, file, {"state": text, "digest": _digest(text, tensors)})
            folder.flush(temporary)
            folder.rename(temporary, folder, name)
            folder.flush()
        except (OSError, SafetensorError) as error:
            self._forget(temporary)
            if isinstance(error, OSError):
                raise disk_error(error, self.path) from error
            raise StoreError(f"Cannot write {self.path / name} ({error}): nothing was stored.") from error
        except BaseException:
            self._forget(temporary)
            raise

    def _forget(self, name: str) -> None:
        with contextlib.suppress(OSError):
            self._folder.unlink(name)

    def _header(self, name: str) -> dict[str, Any]:
        with self._opened(name) as opened:
            document: dict[str, Any] = json.loads(opened.metadata()["state"])
            return document

    def _read(self, name: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        with self._opened(name) as opened:
            metadata = opened.metadata()
            arrays = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 (no mapping)
            text, digest = metadata["state"], metadata["digest"]
            document = json.loads(text)
        if _digest(text, arrays) != digest:
            raise _damaged(self.path / name, "its digest differs")
        return document, arrays

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[Any]:
        from safetensors import SafetensorError, safe_open

        try:
            with self._folder.reader(name) as file, safe_open(path_of(file.fileno()), framework="numpy") as opened:
                yield opened
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise _damaged(self.path / name, reason) from error


def _item(index: int) -> str:
    return f"item-{index:06}.safetensors"


def _digest(text: str, arrays: Arrays) -> str:
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"\n{name} {array.dtype} {list(array.shape)}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _damaged(file: Path, why: object) -> CorruptError:
    return CorruptError(f"The state {file} is missing or damaged ({why}): start the run again.")
