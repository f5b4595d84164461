"""From a spec string to a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import nn

from mgraph import live
from mgraph.alone import alone
from mgraph.builtin import ARCHITECTURES, BASE, PRETRAINED
from mgraph.errors import InputError, MGraphError
from mgraph.factories import call_factory, load_factory, locate, path_in
from mgraph.fields import Shape, Shapes
from mgraph.specs import Spec, bind, look_up
from mgraph.trust import Consent, speaker


@alone
def build_network(
    spec: Spec | str,
    *,
    input_shape: Shapes,
    classes: int | None,
    seed: int,
    base: Path | None = None,
    consent: Consent | None = None,
) -> nn.Module:
    """Build the network named by a spec, with initial values drawn only from ``seed``.

    ``input_shape`` is that of one example, or those of its fields by name or place. A factory is given ``input_shape``,
    ``classes``, ``num_classes`` and ``in_channels`` if its signature names them and the spec does not; it is run if
    ``consent`` allows it (default: :func:`mgraph.trust.speaker`). Its path is relative to ``base`` (default: the
    current directory). The global random state is left as it was. Raises InputError for a spec that cannot be built,
    UntrustedError for code that may not run.
    """
    spec, shape = Spec.parse(spec), input_shape
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        if spec.is_factory:
            factory = load_factory(spec, base=base or Path.cwd(), consent=consent or speaker())
            offered = {
                "input_shape": shape,
                "classes": classes,
                "num_classes": classes,
                "in_channels": shape[0] if shape and _of_one(shape) else None,
            }
            network = call_factory(factory, spec, offered)
        elif live.is_live(spec):
            network = live.recall(spec, "arch")()
        else:
            network = _built_in(spec, shape, classes, base or Path.cwd())
    if not isinstance(network, nn.Module):
        raise InputError(f"{spec.name} returned a {type(network).__name__}; a factory must return an nn.Module.")
    return network


def base_hash(spec: Spec | str, network: nn.Module, base: Path) -> str | None:
    """Hash the untrained part of a network named by a spec; None unless it has such a base.

    Paths are relative to the directory ``base``. The hash covers what is in the spec's directory now.
    """
    spec = Spec.parse(spec)
    path = path_in(spec)
    if spec.prefix not in PRETRAINED or path is None:
        return None
    from mgraph.architectures.adapters import describe_base

    params = dict(spec.params)
    if isinstance(elsewhere := params.get(BASE), str):
        params[BASE] = str(locate(elsewhere, base))
    return describe_base(locate(path, base), params, network)


def _of_one(shape: Shapes) -> TypeGuard[Shape]:
    """Return whether a shape is that of a single tensor."""
    return isinstance(shape, tuple) and all(isinstance(extent, int) for extent in shape)


def _built_in(spec: Spec, shape: Shapes, classes: int | None, base: Path) -> Any:
    from mgraph.architectures.libraries import known_as

    entry = look_up(spec, ARCHITECTURES, "architecture", known_as)
    if not entry.several and not _of_one(shape):
        fields = ", ".join(shape if isinstance(shape, dict) else map(str, range(len(shape))))
        raise InputError(
            f"{spec.name} takes one tensor, and the inputs of these data are several ({fields}); give a network of "
            "your own, module:factory or file.py:factory, whose forward takes them."
        )
    params = {"classes": classes} | bind(entry, spec)
    if params["classes"] is None:
        raise InputError(f"The data have no classes; say how many outputs, as in {entry.usage}?classes=1.")
    if params["classes"] < 1:
        raise InputError(f"classes must be at least 1, not {params['classes']}.")
    arguments = [spec.argument] if entry.argument else []
    if (path := path_in(spec)) is not None:
        arguments = [str(locate(path, base))]
    if entry.name in PRETRAINED and isinstance(elsewhere := params.get(BASE), str):
        params[BASE] = str(locate(elsewhere, base))
    try:
        return entry.function()(*arguments, input_shape=shape, **params)
    except MGraphError:
        raise
    except Exception as error:  # the underlying libraries may raise anything
        why = " ".join(str(error).split())
        raise InputError(f"{spec} cannot be built: {type(error).__name__}: {why}.") from error
