"""Read pickles without running them: anything but plain containers and tensors becomes a placeholder.

``torch.load(weights_only=True)`` refuses a whole file because of one ``argparse.Namespace``, a NumPy number, or a class
derived from dict. This reader continues: a global is never imported, only its name is kept; where a pickle would call
or build something, nothing is called, and a :class:`Foreign` takes its place. Only the few names in ``_KNOWN`` have a
meaning, and what they stand for is made here. So no pickle can make it call, import or set anything.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.storage import TypedStorage
from typing_extensions import override

_CODE = frozenset({
    "asyncio", "builtins", "code", "codeop", "commands", "ctypes", "importlib", "io", "marshal", "multiprocessing",
    "nt", "operator", "os", "pickle", "pip", "platform", "posix", "pty", "runpy", "shutil", "signal", "socket",
    "subprocess", "sys", "tempfile", "threading", "timeit", "types", "webbrowser",
})  # fmt: skip
"""Modules whose functions no checkpoint needs. They would not be run anyway, but a file that names one is refused."""
_HARMLESS = frozenset({
    "bytearray", "complex", "dict", "float", "frozenset", "getattr", "int", "list", "object", "range", "set", "slice",
    "str", "tuple",
})  # fmt: skip
_DTYPES = {str(value).removeprefix("torch."): value for value in vars(torch).values() if isinstance(value, torch.dtype)}


class CodeFoundError(pickle.UnpicklingError):
    """The pickle names something whose only purpose is to be run."""


@dataclass(frozen=True, eq=False)
class Foreign:
    """Stands for an object that was not made: ``name`` is that of its class, or of the function to make it."""

    name: str


class PlainDict(dict[Any, Any]):
    """Stands for an OrderedDict; ``_metadata`` is what ``Module.state_dict`` records with it: versions, by module."""

    _metadata: Any = None


@dataclass(frozen=True, eq=False)
class _Global:
    name: str


class InertUnpickler(pickle._Unpickler):  # the Python version, so that every opcode can be inspected
    """An unpickler that calls nothing that a pickle names (see the module's docstring)."""

    stack: list[Any]
    append: Callable[[Any], None]  # to the stack
    pop_mark: Callable[[], list[Any]]
    readline: Callable[[], bytes]

    @override
    def find_class(self, module: str, name: str) -> Any:
        """Return a stand-in for a global, never the thing itself, except for types of numbers."""
        module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)  # Python 2, protocol 2
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) == ("torch.storage", "UntypedStorage"):
            return torch.UntypedStorage
        first = module.split(".")[0]
        harmless = (module == "builtins" and name in _HARMLESS) or (module, name) == ("types", "SimpleNamespace")
        if (first in _CODE and not harmless) or module in ("torch.hub", "torch.jit"):
            raise CodeFoundError(f"{module}.{name}")
        return _Global(f"{module}.{name}")

    def _take(self, found: Any) -> str:
        if not isinstance(found, _Global | Foreign):
            raise pickle.UnpicklingError(f"a {type(found).__name__} would be called")
        return found.name

    def _made(self, found: Any, args: Any) -> Any:
        """Return a stand-in for the result of a call."""
        name = self._take(found)
        known = _KNOWN.get(name)
        if known is None or not isinstance(args, tuple):
            whose = args[0] if name.startswith("torch._utils._rebuild") and isinstance(args, tuple) and args else None
            return Foreign(whose.name if isinstance(whose, _Global) else name)
        if name == "torch._tensor._rebuild_from_type_v2":  # (function, type, its arguments, state)
            inner, kind, further, *_ = args
            plain = isinstance(kind, _Global) and kind.name in _PLAIN_TYPES
            return self._made(inner, further) if plain else Foreign(self._take(kind))
        return known(*args)

    def _reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self._made(self.stack[-1], args)

    def _new(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self._made(self.stack[-1], args)

    def _new_with_keywords(self) -> None:
        self.stack.pop()
        self._new()

    def _object(self) -> None:
        kind, *args = self.pop_mark()
        self.append(self._made(kind, tuple(args)))

    def _instance(self) -> None:
        module = self.readline()[:-1].decode("ascii")
        name = self.readline()[:-1].decode("ascii")
        args = self.pop_mark()
        self.append(self._made(self.find_class(module, name), tuple(args)))

    def _build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, PlainDict):
            if isinstance(state, dict) and isinstance(noted := state.get("_metadata"), dict):
                target._metadata = noted
        elif not isinstance(target, Foreign | Tensor):
            raise pickle.UnpicklingError(f"a {type(target).__name__} has no state")

    def _append(self) -> None:
        value = self.stack.pop()
        self._extend(self.stack[-1], [value])

    def _appends(self) -> None:
        values = self.pop_mark()
        self._extend(self.stack[-1], values)

    def _extend(self, target: Any, values: Sequence[Any]) -> None:
        if type(target) is list:
            target.extend(values)
        elif not isinstance(target, Foreign):
            raise pickle.UnpicklingError(f"a {type(target).__name__} takes no items")

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._update(self.stack[-1], [key, value])

    def _set_items(self) -> None:
        pairs = self.pop_mark()
        self._update(self.stack[-1], pairs)

    def _update(self, target: Any, pairs: Sequence[Any]) -> None:
        if type(target) in (dict, PlainDict):
            target.update(zip(pairs[::2], pairs[1::2], strict=True))
        elif not isinstance(target, Foreign):
            raise pickle.UnpicklingError(f"a {type(target).__name__} takes no items")

    def _add_items(self) -> None:
        values = self.pop_mark()
        target = self.stack[-1]
        if type(target) is set:
            target.update(values)
        elif not isinstance(target, Foreign):
            raise pickle.UnpicklingError(f"a {type(target).__name__} takes no items")

    def _persistent(self) -> None:
        pid = self.stack.pop()
        if not isinstance(pid, tuple) or not pid or pid[0] not in ("storage", b"storage"):
            raise pickle.UnpicklingError("a whole module was saved, not its state_dict()")
        self.append(self.persistent_load(pid))  # torch's own method, which reads a storage

    def _refuse(self) -> None:
        raise pickle.UnpicklingError("an opcode that checkpoints do not have")

    dispatch: ClassVar[Any] = pickle._Unpickler.dispatch | {
        pickle.REDUCE[0]: _reduce,
        pickle.NEWOBJ[0]: _new,
        pickle.NEWOBJ_EX[0]: _new_with_keywords,
        pickle.OBJ[0]: _object,
        pickle.INST[0]: _instance,
        pickle.BUILD[0]: _build,
        pickle.APPEND[0]: _append,
        pickle.APPENDS[0]: _appends,
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: _set_items,
        pickle.ADDITEMS[0]: _add_items,
        pickle.BINPERSID[0]: _persistent,
        pickle.PERSID[0]: _refuse,
        pickle.EXT1[0]: _refuse,
        pickle.EXT2[0]: _refuse,
        pickle.EXT4[0]: _refuse,
    }


def load(file: Any, **options: Any) -> Any:
    """Read one pickle from an open file as :class:`InertUnpickler` does."""
    return InertUnpickler(file, **options).load()


INERT = SimpleNamespace(__name__="mgraph.network.checkpoints.inert", Unpickler=InertUnpickler, load=load)
"""The ``pickle_module`` to pass to ``torch.load``."""


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any, dtype: torch.dtype | None = None) -> Tensor:
    numbers = [offset, *size, *stride]
    if not isinstance(storage, TypedStorage) or not all(type(n) is int and n >= 0 for n in numbers):
        raise pickle.UnpicklingError("a tensor is described by what is not a storage, size or stride")
    dtype = dtype or storage.dtype
    untyped = storage._untyped_storage
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if all(size) else 0
    if all(size) and (last + 1) * dtype.itemsize > untyped.nbytes():
        raise pickle.UnpicklingError("a tensor reaches beyond its storage")
    return torch.empty((0,), dtype=dtype).set_(untyped, offset, tuple(size), tuple(stride))


def _typed_tensor(storage: Any, offset: Any, size: Any, stride: Any, *further: Any) -> Any:
    _grad, _hooks, dtype, *_ = further
    return _tensor(storage, offset, size, stride, dtype=dtype) if isinstance(dtype, torch.dtype) else Foreign("dtype")


def _storage_in_bytes(content: Any) -> Any:
    """Read the output of ``pickle.dumps`` for a storage: a torch file inside the pickle."""
    import io

    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


_KNOWN: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": lambda *_: PlainDict(),
    "collections.defaultdict": lambda *_: PlainDict(),
    "collections.Counter": lambda *_: PlainDict(),
    "torch.Size": lambda size=(): tuple(size),
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _typed_tensor,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch._tensor._rebuild_from_type_v2": lambda *_: None,  # handled by the unpickler, which needs its names
    "torch.storage._load_from_bytes": _storage_in_bytes,
}
_PLAIN_TYPES = ("torch.Tensor", "torch._tensor.Tensor", "torch.nn.Parameter", "torch.nn.parameter.Parameter")
