"""ONNX: a traced program in the operators of ONNX."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mgraph.errors import InputError
from mgraph.exporting.tracing import quietly

if TYPE_CHECKING:
    from torch.export import ExportedProgram

_LARGEST = 2**31 - 1  # bytes that a protobuf message may have
_BATCH = "batch"


def write_onnx(path: Path, traced: ExportedProgram, names: Sequence[str], metadata: dict[str, str]) -> None:
    """Write a traced program as ONNX: its inputs by their names, its ``output``, and ``metadata``.

    Raises InputError, naming the operator, for what ONNX lacks, and for more than it can hold; OSError if writing
    fails.
    """
    size = sum(t.numel() * t.element_size() for t in traced.state_dict.values())
    if size > _LARGEST:
        raise InputError(
            f"The tensors have {size / 2**30:.1f} GiB, and an .onnx file holds 2 GiB at most; export to .pt2."
        )
    with quietly(), torch.no_grad():
        try:
            made = torch.onnx.export(
                traced, dynamo=True, input_names=list(names), output_names=["output"], verbose=False
            )
        except Exception as error:  # of a converter, which has many kinds
            raise _refused(error) from None
        assert made is not None
        model = made.model_proto
    for key, value in metadata.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    for node in model.graph.node:
        del node.metadata_props[:]  # where the operation stands in the network's code, with the paths of this machine
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info]:
        extents = value.type.tensor_type.shape.dim
        if extents and extents[0].dim_param:
            extents[0].dim_param = _BATCH
    path.write_bytes(model.SerializeToString())


def _refused(error: BaseException) -> InputError:
    whole: BaseException | None = error
    texts: list[str] = []
    while whole is not None and len(texts) < 10:
        texts.append(str(whole))
        whole = whole.__cause__ or whole.__context__
    found = re.search(r"No ONNX function found for <OpOverload\(op='([^']+)'", "\n".join(texts))
    if found is not None:
        return InputError(
            f"ONNX has no operator for {found[1]}, which the network uses; export to .pt2, which has all of torch's."
        )
    lines = [line.strip() for text in reversed(texts) for line in text.splitlines() if line.strip()]
    why = lines[0].rstrip(".") if lines else type(error).__name__
    return InputError(f"The network cannot be written as ONNX ({why}); export to .pt2.")
