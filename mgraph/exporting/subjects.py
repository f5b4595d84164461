"""What is exported: a node, or a place that no node is at; both are one point of a space."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from typing_extensions import override

from mgraph.bookkeeping.ancestry import ancestry
from mgraph.operations.export import node_facts, node_state, write_node
from mgraph.operations.places import Place, load_place, place_facts, place_state, write_place
from mgraph.session.members import label
from mgraph.session.points import load_node
from mgraph.session.session import Session
from mgraph.session.workspace import Workspace
from mgraph_store import Node, Space


class Subject(ABC):
    """One point: its tensors, its network at work, and where it comes from."""

    name: str
    space: Space

    def __init__(self, session: Session) -> None:
        self.session = session

    @property
    def workspace(self) -> Workspace:
        """The bench of its space."""
        return self.session.workspace(self.space)

    @abstractmethod
    def load(self) -> Workspace:
        """Put it into the network of its bench, ready to be evaluated."""

    @abstractmethod
    def state(self) -> dict[str, torch.Tensor]:
        """Return its complete state dict."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Return where it comes from, as plain data."""

    @abstractmethod
    def write_weights(self, path: Path, metadata: Mapping[str, str]) -> None:
        """Write its tensors by the file's ending, .safetensors (with the metadata) or a state_dict."""


class NodeSubject(Subject):
    """A node of the graph."""

    def __init__(self, session: Session, node: Node) -> None:
        super().__init__(session)
        self._node, self.name = node, label(node)
        with session.store.reading() as reader:
            self.space = reader.get(Space, id=node.space_id)

    @override
    def load(self) -> Workspace:
        return load_node(self.session, self._node)

    @override
    def state(self) -> dict[str, torch.Tensor]:
        return node_state(self.session, self._node)

    @override
    def facts(self) -> dict[str, Any]:
        return node_facts(self.session, self._node) | {"ancestry": ancestry(self.session.store, self._node)}

    @override
    def write_weights(self, path: Path, metadata: Mapping[str, str]) -> None:
        write_node(self.session, self._node, path, metadata)


class PlaceSubject(Subject):
    """A place of a connection."""

    def __init__(self, session: Session, place: Place) -> None:
        super().__init__(session)
        self._place = place
        self.name = f"{label(place.connection)} at {','.join(f'{x:g}' for x in place.parameter)}"
        with session.store.reading() as reader:
            self.space = reader.get(Space, id=place.connection.space_id)

    @override
    def load(self) -> Workspace:
        return load_place(self.session, self._place)[0]

    @override
    def state(self) -> dict[str, torch.Tensor]:
        return place_state(self.session, self._place)

    @override
    def facts(self) -> dict[str, Any]:
        return place_facts(self.session, self._place) | {
            "ancestry": ancestry(self.session.store, self._place.connection)
        }

    @override
    def write_weights(self, path: Path, metadata: Mapping[str, str]) -> None:
        write_place(self.session, self._place, path, metadata)
