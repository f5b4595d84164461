"""LoRA adapters (Hu et al. 2021) on a pretrained transformers network: only the adapter's tensors are trained.

The base is read from a directory as written by ``save_pretrained``, and is frozen: it is not part of the space's
points. Nor are its running statistics (BatchNorm), which stay as they are: an adapter's file has no place for others.
Anything that the base lacks, such as a new head, is trained whole and belongs to the adapter (peft's
``modules_to_save``). Nothing is downloaded, and only the libraries' code is run: from an adapter's configuration only
:data:`FIELDS` are used, and anything else that is set there is refused.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType, MethodType
from typing import TYPE_CHECKING, Annotated, Any

from mgraph.architectures.builtin import Classes
from mgraph.architectures.huggingface import (
    HAVE_LABELS,
    configured,
    load_transformers,
    maker_of,
    outputs_of,
    quiet,
    read_config,
    require_task,
)
from mgraph.builtin import BASE
from mgraph.errors import InputError, NotFoundError
from mgraph.fields import Shapes
from mgraph.specs import unknown_parameter

if TYPE_CHECKING:
    from torch import nn

ADAPTER = "adapter_config.json"
FIELDS = (
    *("r", "lora_alpha", "target_modules", "lora_dropout", "bias", "use_rslora", "use_dora", "modules_to_save"),
    *("exclude_modules", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern", "fan_in_fan_out"),
    *("init_lora_weights", "lora_bias"),
)
"""What is taken of a LoraConfig: the others load code or change the base."""

_UNHEEDED = (  # what says nothing about the function that an adapter computes
    *("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision"),
    *("task_type", "runtime_config", "loftq_config", "megatron_core"),
)
_PEFT_TASKS: Mapping[str, str] = MappingProxyType(
    {
        "sequence-classification": "SEQ_CLS",
        "token-classification": "TOKEN_CLS",
        "causal-lm": "CAUSAL_LM",
    }
)
_NAMED = MappingProxyType({"alpha": "lora_alpha", "targets": "target_modules"})
_HEADS = ("classifier", "score")  # saved by peft itself, for classification tasks


@dataclass(frozen=True)
class Plan:
    """What a spec and its directory amount to: where the base is, its task, and values of a LoraConfig."""

    base: Path
    task: str
    lora: Mapping[str, Any]


def peft(
    directory: str,
    *,
    input_shape: Shapes,
    task: Annotated[str | None, "what the network is made for, as of hf (default: the adapter's)"] = None,
    r: Annotated[int | None, "rank of the adapters (default: the adapter's, or 8)"] = None,
    alpha: Annotated[float | None, "their scale, divided by the rank (default: the adapter's, or 8)"] = None,
    targets: Annotated[tuple[str, ...] | None, "modules that get one (default: the adapter's, or peft's)"] = None,
    classes: Classes,
    **further: Any,
) -> nn.Module:
    """Put LoRA adapters on a pretrained network, which is frozen.

    ``directory`` holds a transformers network, ``config.json`` and weights; or an adapter as saved by peft, whose
    settings are used together with its base, or the one in ``base``, if it is no longer where the adapter says. The
    other ``further`` values are fields of peft's LoraConfig (:data:`FIELDS`), such as ``lora_dropout``. Initial values
    of the adapter, and of what the base lacks, are drawn from torch's generator. Raises NotFoundError if there is no
    base, InputError for what does not fit together, and if peft is not installed.
    """
    del input_shape  # the network's forward says what it takes, and it is tried on the data
    base = further.pop(BASE, None)
    given = {"r": r, "lora_alpha": alpha, "target_modules": targets, **further}
    given = {key: _listed(value) for key, value in given.items() if value is not None}
    for key in given:
        if key not in FIELDS:
            raise unknown_parameter(key, "peft:DIR", ("task", "alpha", "targets", BASE, *FIELDS))
    plan = plan_of(Path(directory), task, given, None if base is None else Path(str(base)))
    library = _load_peft()
    with warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")  # of what the libraries announce
        network, missing = _pretrained(plan, classes)
        return _adapted(library, plan, network, missing)


def plan_of(directory: Path, task: str | None, given: Mapping[str, Any], base: Path | None = None) -> Plan:
    """Read what a directory holds, an adapter or a base, and combine it with what is ``given`` of a LoraConfig.

    Raises InputError for an adapter of a kind other than LoRA, or with unsupported settings.
    """
    values: Mapping[str, Any] = {}
    if (directory / ADAPTER).is_file():
        values = read_adapter(directory / ADAPTER)
        base = base or _base_of(directory, values)
        task = task or next((name for name, kind in _PEFT_TASKS.items() if kind == values.get("task_type")), None)
    elif base is not None:
        raise InputError(f"{directory} holds no adapter ({ADAPTER}), so it has no base; leave out base={base}.")
    base = directory if base is None else base
    if (base / ADAPTER).is_file():
        raise InputError(f"The base {base} is an adapter itself ({ADAPTER}); name the network that it adapts.")
    lora = {key: values[key] for key in FIELDS if values.get(key) is not None} | dict(given)
    for key in ("target_modules", "modules_to_save", "exclude_modules"):
        if isinstance(lora.get(key), list):
            lora[key] = sorted(lora[key])
    if lora.get("init_lora_weights", True) not in (True, "gaussian"):
        raise InputError(
            f"init_lora_weights={lora['init_lora_weights']} changes the base, which all points share; leave it out, "
            "or give gaussian."
        )
    return Plan(base, task or "sequence-classification", lora)


def read_adapter(file: Path) -> dict[str, Any]:
    """Read an ``adapter_config.json``; InputError unless it is of LoRA and sets only what is taken."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise NotFoundError(f"{file} cannot be read: {error.strerror}.") from None
    except ValueError:
        values = None
    if not isinstance(values, dict) or "peft_type" not in values:
        raise InputError(f"{file} is not the configuration of an adapter, as peft saves it.")
    if values["peft_type"] != "LORA":
        raise InputError(f"{file} is of an adapter of the kind {values['peft_type']}; only LORA is taken.")
    for key, value in values.items():
        if key not in (*FIELDS, *_UNHEEDED) and value and key not in _DEFAULTS:
            raise InputError(f"{file} sets {key}, which is not taken; such adapters cannot be points of a space.")
    return values


_DEFAULTS = frozenset({"qalora_group_size"})  # values without effect while their switch is off


def describe_base(directory: Path, params: Mapping[str, Any], network: nn.Module) -> str:
    """Hash everything that an adapter's tensors do not reveal: the base's tensors and configuration, and the settings.

    BLAKE2b-128, in hexadecimal digits. ``params`` are those of a spec; the number of classes is in the layout.
    """
    task, base = params.get("task"), params.get(BASE)
    given = {_NAMED.get(k, k): _listed(v) for k, v in params.items() if k not in ("task", BASE, "classes")}
    plan = plan_of(directory, None if task is None else str(task), given, None if base is None else Path(str(base)))
    told = {"config": read_config(plan.base), "task": plan.task, "lora": dict(plan.lora)}
    digest = hashlib.blake2b(json.dumps(told, sort_keys=True, default=str).encode(), digest_size=16)
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            digest.update(f"{name} {list(parameter.shape)}\n".encode())
            digest.update(parameter.detach().cpu().contiguous().numpy().tobytes())
    for name, part in _normed(network):
        for key, buffer in part.named_buffers():
            digest.update(f"{name}.{key} {list(buffer.shape)}\n".encode() + buffer.cpu().numpy().tobytes())
    return digest.hexdigest()


def _load_peft() -> Any:
    try:
        return importlib.import_module("peft")
    except ImportError:
        raise InputError("peft is not installed; install it: pip install 'mgraph[peft]'.") from None


def _listed(value: Any) -> Any:
    if not isinstance(value, tuple):
        return value
    return value[0] if value == ("all-linear",) else list(value)


def _base_of(directory: Path, values: Mapping[str, Any]) -> Path:
    named = values.get("base_model_name_or_path")
    places = [directory / str(named), Path(str(named))] if named else []
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        raise NotFoundError(
            f"The adapter in {directory} is for {named!r}, which is not a directory here; give the directory of its "
            f"base, as in peft:{directory}?base=DIR."
        )
    return found


def _pretrained(plan: Plan, classes: int) -> tuple[nn.Module, set[str]]:
    """Read the base; return it with the names of the tensors that its files lack, drawn from torch's generator."""
    library = load_transformers()
    require_task("peft", plan.task)
    values = read_config(plan.base, "peft: takes the directory of a network of transformers, or of an adapter of one")
    if "quantization_config" in values:
        raise InputError(f"{plan.base} is quantised; give the base in floats.")
    config = configured(library, f"peft:{plan.base}", values, {}, outputs_of(plan.task, classes))
    maker = maker_of(library, plan.task, config, f"peft:{plan.base}")
    read = partial(
        maker.from_pretrained,
        plan.base,
        config=config,
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # which are looked at here
    )
    try:
        try:
            made, told = read(attn_implementation="sdpa")
        except ValueError:  # not all kinds have that
            made, told = read(attn_implementation="eager")
    except OSError as error:
        why = str(error).splitlines()[0].rstrip(".")
        raise NotFoundError(f"The weights of the base {plan.base} cannot be read: {why}.") from None
    except RuntimeError as error:
        why = " ".join(str(error).split()).rstrip(".")
        raise InputError(f"The weights of the base {plan.base} are not of its configuration: {why}.") from None
    missing = set(told["missing_keys"]) | _other_heads(plan, told["mismatched_keys"], classes)
    if missing >= set(made.state_dict()):
        unused = f"; they have {min(told['unexpected_keys'])}" if told["unexpected_keys"] else ""
        raise InputError(f"The weights of the base {plan.base} are not of its configuration{unused}.")
    network: nn.Module = made.float()
    return network, missing


def _other_heads(plan: Plan, mismatched: Collection[Any], classes: int) -> set[str]:
    """Return the tensors of a head for other labels, which is made anew; InputError for any other shape that differs.

    ``mismatched`` has names with the shapes of the base and of the network.
    """
    for name, theirs, ours in sorted(mismatched):
        if ours[0] != classes or theirs[1:] != ours[1:]:
            raise InputError(
                f"The weights of the base {plan.base} have {name} of shape {list(theirs)}, and its configuration "
                f"says {list(ours)}; give one whose files belong together."
            )
        if plan.task not in HAVE_LABELS:
            raise InputError(
                f"The base {plan.base} knows {theirs[0]} tokens, and the data have {classes}; they must be the same "
                f"tokens, numbered alike."
            )
    return {name for name, _, _ in mismatched}


def _adapted(library: Any, plan: Plan, network: nn.Module, missing: Collection[str]) -> nn.Module:
    kind = _PEFT_TASKS.get(plan.task)
    heads = _HEADS if kind in ("SEQ_CLS", "TOKEN_CLS") else ()
    lacking = {name.rpartition(".")[0] for name in missing if not set(name.split(".")) & set(heads)}
    if "" in lacking:
        raise InputError(f"The base {plan.base} lacks {sorted(missing)[0]}; give one that has it.")
    values = dict(plan.lora)
    if lacking or values.get("modules_to_save"):
        values["modules_to_save"] = sorted({*lacking, *(values.get("modules_to_save") or ())})
    try:
        adapter = library.LoraConfig(task_type=kind, base_model_name_or_path=str(plan.base), **values)
        made: nn.Module = library.get_peft_model(network, adapter)
    except ValueError as error:
        raise InputError(
            f"peft cannot put adapters on {plan.base}: {' '.join(str(error).split()).rstrip('.')}."
        ) from None
    _forget_originals(made, missing)
    for _, part in _normed(made):
        _keep_statistics(part)
    return made


def _normed(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the modules of the base with running statistics, by name; those that an adapter holds are not among
    them."""
    from torch.nn.modules.batchnorm import _NormBase

    found = [(name, part) for name, part in network.named_modules() if isinstance(part, _NormBase)]
    return [(n, part) for n, part in found if part.running_mean is not None and ".modules_to_save." not in n]


def _keep_statistics(part: nn.Module) -> None:
    """Keep a module in evaluation mode, whatever mode its network is in."""

    def train(self: nn.Module, mode: bool = True) -> nn.Module:
        del mode
        return self

    part.eval()
    part.train = MethodType(train, part)  # type: ignore[method-assign]


def _forget_originals(network: nn.Module, missing: Collection[str]) -> None:
    """Set to zero what stands beside a trained copy and was drawn: it is not computed with, and must be the same in
    every build."""
    import torch

    for name, parameter in network.named_parameters():
        plain = name.removeprefix("base_model.model.").replace(".original_module.", ".")
        if ".original_module." in name and plain in missing:
            with torch.no_grad():
                parameter.zero_()
        elif plain in missing and not parameter.requires_grad:
            raise InputError(
                f"The base lacks {plain}, which would stay as it is drawn; add its module to modules_to_save."
            )
