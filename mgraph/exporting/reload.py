"""Runs an exported file in a process of its own, which cannot import mgraph: ``python -I reload.py DIRECTORY``.

``request.json`` in the directory says what to run, ``inputs.npz`` on what. The outputs are written to ``outputs.npz``,
or a line on what went wrong to ``error.txt``. Of a network that cannot be traced, only the tensors are read, and their
digests written to ``digests.json``.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

_OURS = ("mgraph", "mgraph_cli", "mgraph_store")

Run = Callable[[list[Any]], Any]


def main(directory: Path) -> None:
    """Run what the request says, without mgraph."""
    for name in _OURS:
        sys.modules[name] = None  # type: ignore[assignment]  # an import of it fails
    try:
        answer(directory)
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        (directory / "error.txt").write_text(f"{type(error).__name__}: {lines[0] if lines else ''}".rstrip(": "))
        sys.exit(1)


def answer(directory: Path) -> None:
    """Run what the request in the directory says on each of its batches."""
    request = json.loads((directory / "request.json").read_text())
    if request["kind"] == "tensors":
        digests = {name: digest(value) for name, value in _tensors(request["files"][0]).items()}
        (directory / "digests.json").write_text(json.dumps(digests))
        return
    with np.load(directory / "inputs.npz") as given:
        batches = [[given[f"{i}_{j}"] for j in range(n)] for i, n in enumerate(request["batches"])]
    run = _KINDS[request["kind"]](request)
    outputs = {str(i): run(batch) for i, batch in enumerate(batches)}
    np.savez(directory / "outputs.npz", **outputs)


def _pt2(request: dict[str, Any]) -> Run:
    import torch

    return _running(torch.export.load(request["files"][0]).module(), request)


def _onnx(request: dict[str, Any]) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = request["threads"]
    session = onnxruntime.InferenceSession(request["files"][0], options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]

    def run(batch: list[Any]) -> Any:
        return np.asarray(session.run(None, dict(zip(names, batch, strict=True)))[0], np.float64)

    return run


def _weights(request: dict[str, Any]) -> Run:
    """Put the files' tensors into the network, traced with zeros in their place; several files vote."""
    import torch

    module = torch.export.load(request["program"]).module()
    one = _running(module, request)
    votes: dict[str | None, Callable[[Any], Any]] = {
        "softmax": lambda x: torch.softmax(x, 1),
        "sigmoid": torch.sigmoid,
        "mean": lambda x: x,
        None: lambda x: x,
    }
    vote = votes[request["vote"]]

    def run(batch: list[Any]) -> Any:
        total: Any = 0.0
        for file in request["files"]:
            state = _tensors(file)
            names = set(request["names"])
            if set(state) != names:
                odd = sorted(set(state) ^ names)[0]
                raise ValueError(f"{Path(file).name} {'lacks' if odd in names else 'has besides'} {odd}")
            known = {request["prefix"] + name: value for name, value in state.items() if hasattr(value, "shape")}
            missing = module.load_state_dict(known, strict=False).missing_keys
            if missing:
                raise ValueError(f"{Path(file).name} lacks {missing[0]}")
            total = total + vote(torch.from_numpy(one(batch))).numpy()
        return total / len(request["files"])

    return run


def _tensors(file: str) -> dict[str, Any]:
    if file.endswith(".safetensors"):
        from safetensors.torch import load_file

        return dict(load_file(file))
    import torch

    return dict(torch.load(file, weights_only=True, map_location="cpu"))


def digest(value: Any) -> str | None:
    """Return the digest of a tensor's type, shape and bytes; None for a state of another kind."""
    import torch

    if not isinstance(value, torch.Tensor):
        return None
    content = value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return f"{value.dtype} {list(value.shape)} {hashlib.sha256(content).hexdigest()}"


def _running(module: Any, request: dict[str, Any]) -> Run:
    import torch

    torch.set_num_threads(request["threads"])

    def run(batch: list[Any]) -> Any:
        with torch.no_grad():
            return module(*(torch.from_numpy(x) for x in batch)).double().numpy()

    return run


_KINDS: dict[str, Callable[[dict[str, Any]], Run]] = {"pt2": _pt2, "onnx": _onnx, "weights": _weights}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
