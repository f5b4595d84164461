"""Adapters as written by peft: a directory with ``adapter_config.json`` and only the adapter's tensors.

Their names lack that of the adapter (``…lora_A.weight`` for the network's ``…lora_A.default.weight``), and the base's
tensors are missing. Settings that the tensors do not reveal, above all the scale, must match the network's own.
"""

from __future__ import annotations

import importlib
import json
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from mgraph.errors import InputError
from mgraph.network.checkpoints.files import Content

CONFIG = "adapter_config.json"
_NAME = "default"  # peft's default name for an adapter
_SCALES = ("lora_alpha", "use_rslora", "use_dora", "alpha_pattern", "rank_pattern")
"""Fields of a LoraConfig that change what tensors of the same shapes compute."""


def is_adapted(module: nn.Module) -> bool:
    """Return whether a network is one of peft's, with an adapter of the default name."""
    return type(module).__module__.startswith("peft.") and _NAME in getattr(module, "peft_config", {})


def adapter_names(module: nn.Module) -> dict[str, str]:
    """Map the names in an adapter's file to the network's own."""
    state = module.state_dict(keep_vars=True)
    saved = importlib.import_module("peft").get_peft_model_state_dict(
        module, state_dict=state, save_embedding_layers=False
    )
    own = {id(tensor): name for name, tensor in state.items()}
    return {name: own[id(tensor)] for name, tensor in saved.items()}


def left_out(module: nn.Module, fresh: nn.Module) -> list[str]:
    """Name the tensors that an adapter's file has no place for and that are not those of a newly built network."""
    state = module.state_dict(keep_vars=True)
    held = {id(state[name]) for name in adapter_names(module).values()}
    own = fresh.state_dict()
    tensors = ((name, value) for name, value in state.items() if isinstance(value, torch.Tensor))
    return [name for name, tensor in tensors if id(tensor) not in held and not torch.equal(tensor, own[name])]


def from_adapter(content: Content, module: nn.Module, where: str, given: Any = None) -> tuple[Content, list[str]]:
    """Convert the content of an adapter's file to a network's names; leave other content unchanged. Also return notes.

    ``given`` is the object with this content, if it is in memory. Raises InputError for an adapter if the network has
    none, and for one of another kind or scale.
    """
    config = _config_beside(content.files)
    if isinstance(given, nn.Module) and is_adapted(given):
        config = given.peft_config[_NAME].to_dict()  # type: ignore[index, union-attr]
    if config is not None and not is_adapted(module):
        raise InputError(
            f"{where} is an adapter of peft, and the network of this space has none; make a space with "
            f"--arch peft:DIR, where DIR holds the base or this adapter."
        )
    notes = _compared(config, module, where) if config is not None else []
    value = content.value
    if not is_adapted(module) or not isinstance(value, dict):
        return content, notes
    names = adapter_names(module)
    if not any(name in names for name in value):
        return content, notes
    renamed = {names.get(name, name): tensor for name, tensor in dict.items(value)}
    return replace(content, value=renamed), notes


def write_adapter(directory: Path, module: nn.Module, metadata: Mapping[str, str], *, overwrite: bool = False) -> None:
    """Write a network's adapter as ``peft.PeftModel.from_pretrained`` reads it, either completely or not at all."""

    def save(place: Path) -> None:
        state = module.state_dict(keep_vars=True)
        tensors = {name: state[own].detach().cpu().contiguous() for name, own in adapter_names(module).items()}
        safetensors.torch.save_file(tensors, place / "adapter_model.safetensors", {"format": "pt", **metadata})
        config: Any = module.peft_config[_NAME]  # type: ignore[index]
        before, config.inference_mode = config.inference_mode, True
        try:
            config.save_pretrained(str(place))
        finally:
            config.inference_mode = before

    write_directory(directory, CONFIG, save, overwrite=overwrite)


def write_directory(directory: Path, mark: str, save: Callable[[Path], None], *, overwrite: bool) -> None:
    """Write a directory by ``save(temporary path)``, either completely or not at all.

    An existing one is replaced only with ``overwrite``, and only if it contains the file ``mark``, as the new one does.
    Otherwise raises InputError if it exists, or if it cannot be written.
    """
    if directory.exists() and not (overwrite and (directory / mark).is_file()):
        what = "exists already" if not overwrite else f"holds no {mark}, so it is not replaced"
        raise InputError(f"{directory} {what}; choose another name or allow overwriting.")
    mine = directory.with_name(f".{directory.name}.{secrets.token_hex(4)}.tmp")
    old = mine.with_suffix(".old")
    try:
        mine.mkdir()
        (mine / mark).touch()
        mode = (mine / mark).stat().st_mode
        save(mine)
        for file in mine.iterdir():
            file.chmod(mode)  # safetensors makes its files private
        if directory.exists():
            directory.replace(old)
        mine.replace(directory)
    except OSError as error:
        raise InputError(f"{directory} cannot be written: {error.strerror or error}.") from None
    finally:
        if old.exists() and not directory.exists():
            old.replace(directory)
        for left in (mine, old):
            shutil.rmtree(left, ignore_errors=True)


def _config_beside(files: tuple[Path, ...]) -> dict[str, Any] | None:
    """Read the configuration beside an adapter's file; None if there is none."""
    place = files[0].parent / CONFIG if files and files[0].name.startswith("adapter_model") else None
    if place is None or not place.is_file():
        return None
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{place} is not the configuration of an adapter, as peft saves it.")
    return found


def _compared(config: Mapping[str, Any], module: nn.Module, where: str) -> list[str]:
    own: Any = module.peft_config[_NAME]  # type: ignore[index]
    kind = getattr(own.peft_type, "value", own.peft_type)
    if config.get("peft_type") != kind:
        raise InputError(f"{where} is an adapter of the kind {config.get('peft_type')}, the space's is {kind}.")
    for key in _SCALES:
        mine, theirs = getattr(own, key, None), config.get(key)
        if (theirs or None) != (mine or None):
            raise InputError(
                f"{where} has {key}={theirs}, and the network of this space {key}={mine}: its tensors would compute "
                f"something else there. Make a space with --arch peft:{where}, which takes the adapter's settings."
            )
    base, other = own.base_model_name_or_path, config.get("base_model_name_or_path")
    same = other in (None, "") or other == base or Path(str(other)).name == Path(str(base)).name
    return [] if same else [f"the adapter was saved for the base {other}"]
