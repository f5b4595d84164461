"""Write weights: state dicts from stored arrays, and files of them that plain PyTorch loads."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from mgraph.errors import InputError
from mgraph_store.rows.layout import Layout


def state_dict(
    layout: Layout,
    parameters: NDArray[Any],
    buffers: Mapping[str, NDArray[Any]],
    *,
    include_aliases: bool = True,
) -> dict[str, Tensor]:
    """Make a state dict of copies from stored arrays: parameters (D,) and the buffers by type.

    Every tensor has its network's type; with ``include_aliases``, a tied tensor appears under all its names.
    """
    views = layout.parameter_views(parameters) | layout.buffer_views(buffers)
    state = {t.name: torch.from_numpy(views[t.name].copy()).to(getattr(torch, t.dtype)) for t in layout.tensors}
    if include_aliases:
        state |= {alias: state[name] for alias, name in layout.aliases.items()}
    return state


def write_safetensors(
    path: Path | str,
    state: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Write tensors to a safetensors file, either completely or not at all; tied ones are repeated under each name.

    Raises InputError if the file exists (unless ``overwrite``) or cannot be written.
    """
    seen: set[int] = set()
    dense: dict[str, Tensor] = {}
    for name, tensor in state.items():
        tensor = tensor.detach().cpu().contiguous()
        pointer = tensor.untyped_storage().data_ptr()
        dense[name] = tensor.clone() if pointer in seen else tensor  # the format cannot share memory
        seen.add(pointer)

    def save(temporary: Path) -> None:
        try:
            safetensors.torch.save_file(dense, temporary, dict(metadata or {}))
        except safetensors.SafetensorError as error:
            raise _as_os_error(error) or error from None

    write_whole(path, save, overwrite)


def write_pt(path: Path | str, state: Mapping[str, Tensor], *, overwrite: bool = False) -> None:
    """Write a state dict with ``torch.save``, either completely or not at all; tied tensors stay tied.

    Raises InputError if the file exists (unless ``overwrite``) or cannot be written.
    """
    write_whole(path, lambda p: save_by(p, lambda file: torch.save(dict(state), file)), overwrite)


def write_whole(path: Path | str, save: Callable[[Path], Any], overwrite: bool) -> None:
    """Write a file by ``save(temporary path)``, durably: it appears complete under its name, or not at all.

    Raises InputError if the file exists (unless ``overwrite``) or cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a directory; name a file.")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists already; choose another name or allow overwriting.")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.touch(exist_ok=False)  # raises the plain error before a library wraps it
        mode = temporary.stat().st_mode
        save(temporary)
        temporary.chmod(mode)  # safetensors makes its files private
        flush(temporary)
        temporary.replace(path)
        flush(path.parent)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}.") from None
    finally:
        with contextlib.suppress(OSError):  # there may be nothing to remove
            temporary.unlink()


def save_by(path: Path, save: Callable[[Any], object]) -> None:
    """Write a file by a library's ``save(file)``; the OSError of a write reaches the caller, whatever it became there.

    Libraries in C++ turn a full disk into errors of their own.
    """
    with _Telling(path, "wb") as file:
        try:
            save(file)
        except Exception:
            if file.error is not None:
                raise file.error from None
            raise


class _Telling(io.FileIO):
    """A file that remembers the error of a write, and writes all that it is given."""

    error: OSError | None = None

    @override
    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        done = 0
        try:
            while done < len(view):
                done += super().write(view[done:]) or 0
        except OSError as error:
            self.error = error
            raise
        return done


def _as_os_error(error: Exception) -> OSError | None:
    """Return the error of the system that a library in Rust reports in words, ``… (os error 28)``."""
    found = re.search(r"os error (\d+)", str(error))
    if found is None:
        return None
    number = int(found[1])
    return OSError(number, os.strerror(number) if number in errno.errorcode else str(error))


def flush(path: Path) -> None:
    """Wait until a file, or what a directory lists, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
