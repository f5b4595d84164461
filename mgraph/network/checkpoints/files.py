"""Read files of weights; the kind of a file is recognised by its first bytes, never by its name.

It reads safetensors, the output of ``torch.save`` and ``pickle.dump``, and shards with an index. Any other format that
its first bytes identify is refused, with advice on what to do.
"""

from __future__ import annotations

import contextlib
import json
import re
import tarfile
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import safetensors
import safetensors.torch
import torch

from mgraph.errors import InputError, NotFoundError
from mgraph.network.checkpoints.inert import INERT, CodeFoundError, Foreign, load
from mgraph.network.checkpoints.search import pairs

_TORCH_MAGIC = 0x1950A86A20F9469CFC6C
_SAVE = "save its state_dict() with torch.save, or as a .safetensors file"
_LARGEST_HEADER = 100_000_000  # bytes, for safetensors
_DEPTH, _MOST = 8, 100_000
"""How deep, and through how many objects, a file's content is searched for what was skipped."""

_FOREIGN_FORMATS: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"GGUF", "a GGUF file", f"convert it to PyTorch, then {_SAVE}"),
    (0, b"ggml", "a GGML file", f"convert it to PyTorch, then {_SAVE}"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras or TensorFlow)", f"load it into a PyTorch network and {_SAVE}"),
    (0, b"\x93NUMPY", "a NumPy array", "put the arrays under the network's names and save them as a .safetensors file"),
    (4, b"TFL3", "a TensorFlow Lite model", f"load it into a PyTorch network and {_SAVE}"),
    (0, b"\x1f\x8b", "compressed with gzip", "unpack it first"),
    (0, b"BZh", "compressed with bzip2", "unpack it first"),
    (0, b"\xfd7zXZ\x00", "compressed with xz", "unpack it first"),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it first"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first"),
    (0, b"version https://git-lfs", "a pointer of Git LFS, not the file itself", "fetch it with git lfs pull"),
    (0, b"<!DOCTYPE", "a web page", "download the file itself"),
    (0, b"<html", "a web page", "download the file itself"),
)
_SHARD = re.compile(r"^(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.\w+$")

_BESIDE = re.compile(r"training_args\.bin|(optimizer|scheduler|scaler|sampler)(_\d+)?\.(pt|bin)|rng_state(_\d+)?\.pth")
"""Files that the Trainer of transformers and accelerate write beside the weights."""
_BELOW = re.compile(r"checkpoint-\d+|checkpoints|version_\d+|lightning_logs")
"""Directories in which that Trainer, and Lightning, put checkpoints."""


class NoCheckpointError(InputError):
    """A directory holds no checkpoint."""


@dataclass(frozen=True)
class Content:
    """What a checkpoint holds: nested plain containers with tensors, what was skipped, and the files it came from."""

    value: Any
    skipped: tuple[str, ...]
    files: tuple[Path, ...]


def read_content(path: Path | str) -> Content:
    """Read a file of weights, or the only checkpoint in a directory, on the CPU; nothing in it is run.

    Tensors are memory-mapped if the format allows. Objects of other classes are skipped; ``skipped`` lists them as
    "where (class)". Raises NotFoundError if there is no such path, and InputError if it is not a checkpoint, is
    damaged, has an unsupported format (saying what to do), or names code.
    """
    path = Path(path)
    if path.is_dir():
        path = _checkpoint_in(path)
    if not path.exists():
        raise NotFoundError(f"The checkpoint {path} does not exist; check the path.")
    if not path.is_file():
        raise InputError(f"{path} is not a file; name a checkpoint, its index, or a directory that holds one.")
    index = _index(path)
    if index is not None:
        return _read_shards(path, index)
    shard = _SHARD.match(path.name)
    if shard and int(shard["count"]) > 1:
        raise InputError(
            f"{path} is shard {int(shard['number'])} of {int(shard['count'])}; give the index of the shards "
            f"({shard['stem']}….index.json) or their directory."
        )
    value = _read_file(path)
    return Content(value, tuple(_skipped(value)), (path,))


def _read_file(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None
    if not head:
        raise InputError(f"{path} is empty; save the checkpoint again.")
    _refuse_other_formats(path, head)
    header = int.from_bytes(head[:8], "little")
    if (head[8:9] == b"{" and header <= _LARGEST_HEADER) or (
        head[:4] != b"PK\x03\x04" and path.suffix == ".safetensors"
    ):
        return _read_safetensors(path)
    if head[:4] == b"PK\x03\x04":
        _refuse_other_archives(path)
    elif tarfile.is_tarfile(path):
        raise InputError(f"{path} is a tar archive, as torch wrote before 0.2, or a packed directory; unpack it first.")
    return _read_pickle(path)


def _refuse_other_formats(path: Path, head: bytes) -> None:
    for place, magic, what, todo in _FOREIGN_FORMATS:
        if head[place : place + len(magic)].lower() == magic.lower():
            raise InputError(f"{path} is {what}; {todo}.")
    if head[:1] == b"\x08" and any(maker in head[:200].lower() for maker in (b"onnx", b"pytorch", b"tf2")):
        raise InputError(f"{path} is an ONNX model, which has lost the network's names; {_SAVE}.")
    if head.lstrip()[:1] == b"{" and path.suffix == ".json":
        raise InputError(f"{path} is JSON without a weight_map, so it is not an index of shards; name a checkpoint.")


def _refuse_other_archives(path: Path) -> None:
    """Refuse zip files that torch.save did not write, judging by their contents."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InputError(
            f"{path} is not a checkpoint, or a damaged one ({_first_line(error)}); save it again."
        ) from None
    parts = [PurePosixPath(name).parts for name in names]
    last = {p[-1] for p in parts if p}
    if "constants.pkl" in last:
        raise InputError(f"{path} is a TorchScript archive, which is code; load it with torch.jit.load and {_SAVE}.")
    if "data.pkl" in last:
        return
    if names and all(name.endswith(".npy") for name in names):
        todo = "put the arrays under the network's names and save them as a .safetensors file"
        raise InputError(f"{path} is an archive of NumPy arrays (.npz); {todo}.")
    if any(name.endswith(".weights.h5") for name in names):
        raise InputError(f"{path} is a Keras model; load it into a PyTorch network and {_SAVE}.")
    if "archive_format" in last or any("models" in p for p in parts):
        raise InputError(f"{path} is a program written by torch.export; {_SAVE}.")
    raise InputError(f"{path} is not a checkpoint, or a damaged one (a zip archive without data.pkl); save it again.")


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            made_for = (file.metadata() or {}).get("format", "pt")
        if made_for in ("tf", "flax", "jax", "mlx", "keras"):
            raise InputError(f"{path} was written for {made_for}; load it into a PyTorch network and {_SAVE}.")
        return dict(safetensors.torch.load_file(path))
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, AttributeError) as error:
        raise InputError(f"{path} is not a safetensors file, or a damaged one: {_first_line(error)}.") from None


def _read_pickle(path: Path) -> Any:
    """Read with torch's restricted unpickler, or, if that refuses the file, with the one that makes placeholders."""
    mapped = zipfile.is_zipfile(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about pickle protocols; real problems raise errors
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        except Exception:  # the parser may raise anything on damaged bytes and on forbidden content
            pass
        try:
            if not mapped:
                with path.open("rb") as file:
                    first = load(file, encoding="utf-8")
                if first != _TORCH_MAGIC:  # written by pickle.dump
                    return first
            return torch.load(path, map_location="cpu", weights_only=False, mmap=mapped, pickle_module=INERT)
        except CodeFoundError as error:
            raise InputError(f"{path} holds pickled code ({error}), which is never run; {_SAVE}.") from None
        except RecursionError:
            raise InputError(f"{path} is not a checkpoint, or a damaged one (nested too deeply).") from None
        except Exception as error:
            # The unpickler looks up opcodes by number: a KeyError only says that an opcode is unknown.
            strange = isinstance(error, KeyError)
            why = "neither safetensors nor what torch.save writes" if strange else _first_line(error)
            raise InputError(f"{path} is not a checkpoint, or a damaged one ({why}); save it again.") from None


def _skipped(value: Any) -> list[str]:
    """List where placeholders are, and for which classes; a class that occurs often is listed once."""
    found: dict[str, str] = {}
    stack: list[tuple[str, Any, int]] = [("", value, 0)]
    seen: set[int] = set()
    while stack and len(seen) < _MOST:
        where, item, depth = stack.pop()
        if id(item) in seen:  # objects may be shared, and many times over
            continue
        seen.add(id(item))
        if isinstance(item, Foreign):
            found.setdefault(item.name, where)
        elif depth < _DEPTH and isinstance(item, dict | list | tuple):
            inner = list(enumerate(item)) if isinstance(item, list | tuple) else pairs(item)
            stack += [(f"{where}.{k}" if where else str(k), v, depth + 1) for k, v in reversed(inner)]
    return [f"{where} ({name})" if where else name for name, where in found.items()]


# Directories and shards


def _checkpoint_in(directory: Path) -> Path:
    """Find the only checkpoint in a directory; else raise InputError."""
    found = checkpoints_in(directory)
    if len(found) > 1:
        names = ", ".join(str(path.relative_to(directory)) for path in found)
        raise InputError(
            f"{directory} holds several checkpoints ({names}); name one of them, or give the name as a pattern, as in "
            "--name '{parent}-{stem}', to add all."
        )
    return found[0]


def checkpoints_in(directory: Path) -> list[Path]:
    """Find the checkpoints in a directory: an index of shards, or files; or those in the directories that the Trainer
    of transformers, or Lightning, made in it.

    Raises InputError if there is none, and for a directory that is itself a checkpoint of another kind.
    """
    names = sorted(p.name for p in directory.iterdir() if not p.name.startswith("._"))
    if ".metadata" in names and any(n.endswith(".distcp") for n in names):
        raise InputError(
            f"{directory} is a distributed checkpoint of torch; join it first: python -m "
            f"torch.distributed.checkpoint.format_utils dcp_to_torch {directory} FILE."
        )
    if "saved_model.pb" in names or any(".data-00000-of-" in n for n in names):
        raise InputError(f"{directory} is a TensorFlow checkpoint; load it into a PyTorch network and {_SAVE}.")
    indices = [n for n in names if n.endswith(".index.json")]
    whole = [n for n in names if n.endswith((".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".tar"))]
    whole = [n for n in whole if not _BESIDE.fullmatch(n) and not _SHARD.match(n)]
    for candidates in (indices, whole):
        safe = [n for n in candidates if ".safetensors" in n]  # the same weights as any .bin files, without pickles
        if candidates:
            return [directory / n for n in sorted(safe if len(safe) == 1 else candidates, key=_numbered)]
    below = [p for p in directory.iterdir() if p.is_dir() and _BELOW.fullmatch(p.name)]
    found = []
    for p in sorted(below, key=lambda p: _numbered(p.name)):
        with contextlib.suppress(NoCheckpointError):  # of a run that did not come so far
            found += checkpoints_in(p)
    if not found:
        raise NoCheckpointError(f"{directory} is not a file, and holds no checkpoint; name a file.")
    return found


def _numbered(name: str) -> list[tuple[int, str]]:
    """Return a key by which step 5 comes before step 10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _index(path: Path) -> Mapping[str, Any] | None:
    """Read the file as an index of shards, if it is one: a JSON document with a ``weight_map``."""
    if path.suffix != ".json":
        return None
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    found = document.get("weight_map") if isinstance(document, dict) else None
    return found if isinstance(found, dict) else None


def _read_shards(path: Path, index: Mapping[str, Any]) -> Content:
    files: dict[str, Any] = {}
    skipped: list[str] = []
    tensors: dict[str, Any] = {}
    for name, file in index.items():
        if not isinstance(file, str) or file in ("", ".", "..") or "/" in file or "\\" in file or "\0" in file:
            raise InputError(f"The index {path} places {name} in {file!r}, which is not a file beside it.")
        if file not in files:
            shard = path.parent / file
            if not shard.is_file():
                raise NotFoundError(f"The shard {file}, which {path} names, is not beside it; fetch all shards.")
            files[file] = _read_file(shard)
            skipped += _skipped(files[file])
        content = files[file]
        if not isinstance(content, dict) or name not in content:
            raise InputError(f"The shard {file} lacks {name}, which {path} places there; fetch all shards again.")
        tensors[name] = content[name]
    if not tensors:
        raise InputError(f"The index {path} does not name any tensor; fetch it again.")
    return Content(tensors, tuple(skipped), (path, *(path.parent / file for file in files)))


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
