"""Making graphs and their spaces."""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import replace
from pathlib import Path

from torch import nn

from mgraph import captured, trust
from mgraph.alone import alone
from mgraph.architectures.loading import build_network
from mgraph.data.loading import judged_by, load_task
from mgraph.data.task import DataWarning
from mgraph.errors import InputError, NameTakenError, NotFoundError
from mgraph.factories import names_code, source_of
from mgraph.metric import to_json
from mgraph.network.layout import layout_of
from mgraph.session.bases import base_entry, base_of
from mgraph.session.code import recorded_hash
from mgraph.session.meeting import meet, tell
from mgraph.specs import Spec
from mgraph_store import GraphStore, Space, new_id, validate_name

CODECS = ("none", "blosc")


@alone
def describe_space(
    path: Path, arch: str, data: str, *, loss: str | None = None, name: str | None = None, codec: str = "none"
) -> Space:
    """Load architecture and data once and describe the space they make; the graph is not touched.

    ``loss`` names the user's own function to evaluate by instead of the data's loss. Specs of files are stored relative
    to the graph directory ``path``. Naming code here trusts it. Raises InputError for what cannot be used, and warns
    about what the probe finds (:mod:`mgraph.session.meeting`).
    """
    if name is not None:
        validate_name(name)
    if codec not in CODECS:
        raise InputError(f"The codec must be one of {', '.join(CODECS)}, not {codec!r}.")
    specs, factories = [], {}
    for text in (arch, data, *([] if loss is None else [loss])):
        spec, source = source_of(Spec.parse(text), typed_in=Path.cwd(), base=path)
        specs.append(str(spec))
        if source is not None:
            described = {"kind": source.kind, "path": source.path, "hash": source.hash, "files": dict(source.files)}
            factories[str(spec)] = described
            trust.trust(path, str(spec), source.hash, source.files)
    arch, data, *named = specs
    consent = trust.OfNewSpace(path)  # so what runs is what is recorded
    task = load_task(data, base=path, consent=consent, first=True)
    for own in named:
        task = judged_by(task, own, base=path, consent=consent)
    if not named and names_code(task.loss_name):
        raise InputError(
            f"The data call their loss {task.loss_name!r}, which looks like code to load; leave out the ':'."
        )
    for note in task.notes:
        warnings.warn(note, DataWarning, stacklevel=5)

    def build(seed: int) -> nn.Module:
        shape, classes = task.input_shape, task.classes
        return build_network(arch, input_shape=shape, classes=classes, seed=seed, base=path, consent=consent)

    module = build(0)
    layout = layout_of(module)
    factories |= base_entry(arch, module, path)
    tell(meet(module, build(1), task, arch=arch, data=data), stacklevel=4)
    return Space(
        id=new_id("a"),
        name=name or _default_name(arch, data),
        arch=arch,
        data=data,
        loss=task.loss_name,
        layout=layout.to_json(),
        layout_hash=layout.fingerprint,
        data_hash=task.fingerprint,
        factories=json.dumps(factories, sort_keys=True),
        codec=codec,
        metrics=to_json(task.metrics),
    )


def add_space(store: GraphStore, space: Space, *, named: bool) -> Space:
    """Add a space, or return the one that is the same: layout, architecture, data and loss."""
    with store.reading() as reader:
        present = reader.all(Space)
    for other in present:
        fields = ("arch", "layout_hash", "data_hash", "loss", "codec")
        same = all(getattr(other, field) == getattr(space, field) for field in fields)
        if same and _loss_code(other) == _loss_code(space) and base_of(other) == base_of(space):
            return other
    if not named:
        space = _with_free_name(space, {s.name for s in present})
    captured.write(store.path)
    with store.transaction() as tx:
        tx.add(space)
    return space


def _loss_code(space: Space) -> str | None:
    """Return the hash of the code of a user's own evaluation loss; None if the loss comes with the data."""
    return recorded_hash(space, space.loss)


def create_graph(
    path: Path,
    arch: str,
    data: str,
    *,
    loss: str | None = None,
    name: str | None = None,
    codec: str = "none",
    tensors: str | None = None,
    shared: str | None = None,
) -> GraphStore:
    """Create a graph with its first space, or nothing at all; its tensors may be at a URL, or all of it be shared."""
    path = path.absolute()
    if path.exists():
        raise NameTakenError(f"{path} exists already; choose another directory or open that graph.")
    if not path.parent.is_dir():
        raise NotFoundError(f"The directory {path.parent} does not exist; create it first.")
    space = describe_space(path, arch, data, loss=loss, name=name, codec=codec)
    if shared is None:
        store = GraphStore.create(path, tensors=tensors)
    else:
        from mgraph_store.machines import share

        store = share(path, shared)
    try:
        add_space(store, space, named=name is not None)
    except BaseException:
        store.discard()
        raise
    return store


def _default_name(arch: str, data: str) -> str:
    parts = [re.split(r"[:/]", Spec.parse(text).name)[-1] for text in (arch, data)]
    text = re.sub(r"[^A-Za-z0-9_.-]", "-", "-".join(parts))[:50]
    return text if text[0].isalpha() else f"space-{text}"


def _with_free_name(space: Space, taken: set[str]) -> Space:
    number, name = 2, space.name
    while name in taken:
        name, number = f"{space.name}-{number}", number + 1
    return replace(space, name=name)
