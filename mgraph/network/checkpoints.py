"""Files of weights: foreign checkpoints in, state dicts out. No file is ever unpickled into code."""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import secrets
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from mgraph.errors import InputError, LayoutMismatchError, NonFiniteError, NotFoundError
from mgraph.network.layout import dtype_name, to_numpy
from mgraph_store.rows.layout import Layout, TensorSpec

WRAPPERS = ("state_dict", "model", "model_state", "model_state_dict")
PREFIXES = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile
_DEPTH = 2


@dataclass(frozen=True)
class FittedCheckpoint:
    """A checkpoint in the order of a layout: parameters (D,), the other tensors by type, and what was changed."""

    parameters: NDArray[np.float32]
    buffers: dict[str, NDArray[Any]]
    notes: list[str] = field(default_factory=list)


def read_checkpoint(path: Path | str) -> dict[str, Tensor]:
    """Read the state dict in a ``.pt``, ``.pth`` or ``.safetensors`` file, on the CPU.

    It may lie inside common wrappers, up to two deep, and all names may have prefixes of DDP or torch.compile,
    which are removed. Raises NotFoundError if there is no file, InputError if it is no checkpoint, is damaged,
    or would have to run code to be read.
    """
    path = Path(path)
    if not path.exists():
        raise NotFoundError(f"The checkpoint {path} does not exist; check the path.")
    if not path.is_file():
        raise InputError(f"{path} is no file; give a .pt, .pth or .safetensors file.")
    if path.suffix not in (".pt", ".pth", ".safetensors"):
        raise InputError(f"{path} ends in {path.suffix or 'nothing'}; give a .pt, .pth or .safetensors file.")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty; save the checkpoint again.")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    tensors = _find_state_dict(content, path)
    while tensors and (prefix := next((p for p in PREFIXES if all(n.startswith(p) for n in tensors)), "")):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def fit_to_layout(tensors: Mapping[str, Tensor], layout: Layout, *, cast: bool = False) -> FittedCheckpoint:
    """Check tensors against a layout and put them in its order.

    float16 and bfloat16 become float32, which is noted; wider floats than the layout's need ``cast``. A missing
    ``num_batches_tracked`` counts from 0, as torch has it for old checkpoints. Raises LayoutMismatchError for
    missing, extra, misshapen or mistyped tensors and for tied ones that differ; NonFiniteError for NaN or
    infinity, except in ordinary buffers, where masks have them on purpose.
    """
    found = _restore_prefix(tensors, layout)
    notes: list[str] = []
    known = {t.name for t in layout.tensors} | set(layout.aliases)
    extra = [name for name in found if name not in known]
    if extra:
        raise LayoutMismatchError(
            f"The checkpoint has {_count(extra)} that the network has not, first {extra[0]}; is it of this network?"
        )
    values = _untie(found, layout)
    counters = {t.name for t in layout.buffers if t.role == "statistic" and not t.shape}
    missing = [t.name for t in layout.tensors if t.name not in values]
    if missing and counters.issuperset(missing):
        values |= {name: torch.tensor(0) for name in missing}
        notes.append(f"{_count(missing)} absent and set to 0, first {missing[0]}")
        missing = []
    if missing:
        raise LayoutMismatchError(
            f"The checkpoint lacks {_count(missing)} of the network, first {missing[0]}; is it of this network?"
        )
    wrong = [t for t in layout.tensors if tuple(values[t.name].shape) != t.shape]
    if wrong:
        t = wrong[0]
        more = f" ({len(wrong)} tensors differ in shape)" if len(wrong) > 1 else ""
        raise LayoutMismatchError(
            f"{t.name} has shape {list(values[t.name].shape)} in the checkpoint, expected {list(t.shape)}{more}."
        )
    arrays: dict[str, NDArray[Any]] = {}
    changed: dict[str, list[str]] = {}
    for t in layout.tensors:
        arrays[t.name], change = _convert(t, values[t.name], cast)
        if change:
            changed.setdefault(change, []).append(t.name)
    notes += [f"{change}: {_count(names)}, first {names[0]}" for change, names in changed.items()]
    for t in layout.tensors:
        if t.role != "buffer" and arrays[t.name].dtype.kind == "f":
            bad = int((~np.isfinite(arrays[t.name])).sum())
            if bad:
                raise NonFiniteError(
                    f"{t.name} has {bad} of {t.size} values that are NaN or infinite; give a finite checkpoint."
                )
    return FittedCheckpoint(layout.pack_parameters(arrays), layout.pack_buffers(arrays), notes)


def state_dict(
    layout: Layout,
    parameters: NDArray[Any],
    buffers: Mapping[str, NDArray[Any]],
    *,
    include_aliases: bool = True,
) -> dict[str, Tensor]:
    """Make a state dict of copies from stored arrays: parameters (D,) and the buffers by type.

    Every tensor has its network's type; with ``include_aliases`` a tied tensor appears under all its names.
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
    """Write tensors to a safetensors file, whole or not at all; tied ones are written out under each name.

    Raises InputError if the file exists (unless ``overwrite``) or cannot be written.
    """
    seen: set[int] = set()
    dense: dict[str, Tensor] = {}
    for name, tensor in state.items():
        tensor = tensor.detach().cpu().contiguous()
        pointer = tensor.untyped_storage().data_ptr()
        dense[name] = tensor.clone() if pointer in seen else tensor  # the format has no sharing
        seen.add(pointer)
    write_whole(path, lambda p: safetensors.torch.save_file(dense, p, dict(metadata or {})), overwrite)


def write_pt(path: Path | str, state: Mapping[str, Tensor], *, overwrite: bool = False) -> None:
    """Write a state dict with ``torch.save``, whole or not at all; tied tensors stay tied.

    Raises InputError if the file exists (unless ``overwrite``) or cannot be written.
    """
    write_whole(path, lambda p: torch.save(dict(state), p), overwrite)


def write_whole(path: Path | str, save: Callable[[Path], Any], overwrite: bool) -> None:
    """Write a file by ``save(temporary path)``, durable on return: whole under its name, or not at all.

    Raises InputError if the file exists (unless ``overwrite``) or cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a directory; name a file.")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists already; choose another name or allow overwriting.")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.touch(exist_ok=False)  # the plain error, before a library wraps it
        mode = temporary.stat().st_mode
        save(temporary)
        temporary.chmod(mode)  # safetensors makes its files private
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}.") from None
    finally:
        with contextlib.suppress(OSError):  # where nothing could be written, nothing is left
            temporary.unlink()


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} is no safetensors file, or a damaged one: {_first_line(error)}.") from None


def _read_pickle(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about pickle protocols; what matters is raised
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        except Exception as error:  # on damaged bytes the parser raises whatever it stumbles over
            wanted = _forbidden(path, str(error)) if isinstance(error, pickle.UnpicklingError) else ""
            if wanted:
                raise InputError(
                    f"{path} holds pickled code ({wanted}), which is never run; save its state_dict() alone, or a "
                    f".safetensors file."
                ) from None
            why = "" if isinstance(error, pickle.UnpicklingError) else f" ({_first_line(error)})"
            raise InputError(f"{path} is no checkpoint, or a damaged one{why}; save it again.") from None


def _forbidden(path: Path, message: str) -> str:
    """Name the globals that a checkpoint wants and may not have, empty if that is not why it failed."""
    try:
        return ", ".join(sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path)))
    except Exception:  # not of the new format: the message says it
        found = re.search(r"GLOBAL ([\w.]+) (?:was not|whose module)", message)
        return found.group(1) if found else ""


def _find_state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    for _ in range(_DEPTH + 1):
        if not isinstance(content, Mapping):
            break
        if content and all(isinstance(v, Tensor) for v in content.values()):
            return {str(name): tensor for name, tensor in content.items()}
        inner = next((content[w] for w in WRAPPERS if isinstance(content.get(w), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds a {type(content).__name__}, no state dict; save model.state_dict().")
    odd = next((str(k) for k, v in content.items() if not isinstance(v, Tensor)), None)
    what = f"{odd!r} in it is no tensor" if odd else "it is empty"
    raise InputError(f"{path} holds no state dict: {what}; save model.state_dict().")


def _restore_prefix(tensors: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """Give back a prefix that is the network's own: one whose only child is called ``module``."""
    found = dict(tensors)
    names = [t.name for t in layout.tensors]
    prefix = ""
    while found and (p := next((p for p in PREFIXES if all(n.startswith(prefix + p) for n in names)), "")):
        prefix += p
    while prefix and not any(name.startswith(prefix) for name in found):
        inner = next(p for p in PREFIXES if prefix.endswith(p))
        found = {inner + name: tensor for name, tensor in found.items()}
        prefix = prefix.removesuffix(inner)
    return found


def _untie(found: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """Reduce tied tensors to their stored names; they must agree bit for bit."""
    values = {name: tensor for name, tensor in found.items() if name not in layout.aliases}
    for alias, name in layout.aliases.items():
        if alias not in found:
            continue
        mine, other = found[alias], values.setdefault(name, found[alias])
        if mine.dtype != other.dtype or mine.shape != other.shape or not _same_bits(mine, other):
            raise LayoutMismatchError(f"{alias} and {name} are tied in the network but differ in the checkpoint.")
    return values


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() or to_numpy(a).tobytes() == to_numpy(b).tobytes()


def _convert(t: TensorSpec, tensor: Tensor, cast: bool) -> tuple[NDArray[Any], str]:
    """Bring a tensor to its layout's type; the second value says what was changed, if anything."""
    expected, given = getattr(torch, t.dtype), tensor.dtype
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise LayoutMismatchError(f"{t.name} is not a dense tensor in the checkpoint; save it dense.")
    if given == expected:
        return to_numpy(tensor), ""
    if expected.is_floating_point and given.is_floating_point:
        if given.itemsize > expected.itemsize and not cast:
            raise LayoutMismatchError(
                f"{t.name} is {dtype_name(given)} in the checkpoint, expected {t.dtype}; add --cast to round it."
            )
        return to_numpy(tensor.to(expected)), f"{dtype_name(given)} to {t.dtype}"
    integers = not (expected.is_floating_point or given.is_floating_point or given.is_complex)
    if integers and torch.bool not in (expected, given):
        converted = tensor.to(expected)
        if torch.equal(converted.to(torch.int64), tensor.to(torch.int64)):
            return to_numpy(converted), f"{dtype_name(given)} to {t.dtype}"
    raise LayoutMismatchError(f"{t.name} is {dtype_name(given)} in the checkpoint, expected {t.dtype}.")


def _count(names: list[str]) -> str:
    return f"{len(names)} tensor" + ("s" if len(names) > 1 else "")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
