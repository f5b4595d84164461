"""What the members of a set predict: computed once per model, split and BatchNorm policy, and cached in the graph.

A cached prediction is found by a hash of everything that determines it: the parameters and buffers themselves, the
BatchNorm policy, the contents of the data, the network's code, versions and kind of device. So it cannot be stale: any
change gives another key. Nor can it be forged by whoever made the graph: it is signed with a secret of this user.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mgraph.data.splits import Split
from mgraph.errors import InputError
from mgraph.evaluate.batchnorm import OWN, BatchNormPolicy, recompute_statistics
from mgraph.evaluate.metrics import outputs
from mgraph.live import is_live
from mgraph.models.sets import Member
from mgraph.session.code import of_space, warn_of_other_code
from mgraph.session.members import constants_source
from mgraph.session.points import buffers_of, lender_of, load_buffers, policy_name
from mgraph.session.policies import policy_for
from mgraph.session.recent import MOST_BYTES
from mgraph.session.runs import versions
from mgraph.session.session import Session
from mgraph.session.workspace import Workspace
from mgraph.specs import Spec
from mgraph.trust import secret
from mgraph_store import Connection, Node, NodeBuffers, Space
from mgraph_store.tensors.kernel import combine
from mgraph_store.values import buffers_in

Terms = Sequence[tuple[str, float]]


@dataclass(frozen=True)
class _Point:
    """A member ready for the network: θ, shape (D,), its buffers by dtype, and how to recompute statistics, if so."""

    theta: NDArray[np.float32]
    buffers: Mapping[str, NDArray[Any]]
    policy: BatchNormPolicy | None


class Predictor:
    """Loads members of a space into its network, and predicts with them.

    A node is used with its own BatchNorm statistics, if it has any, unless ``bn_examples`` asks to recompute those of
    all members; for a point between the ends of a connection they are recomputed. Raises InputError for fewer than 2
    ``bn_examples``.
    """

    def __init__(self, session: Session, space: Space, bn_examples: int | None = None) -> None:
        self.session, self.workspace = session, session.workspace(space)
        self.workspace.policy(bn_examples)  # which refuses too few
        self._bn_examples, self._recompute_all = bn_examples, bn_examples is not None
        self._policies: dict[tuple[str, ...], BatchNormPolicy] = {}
        self._constants: dict[str, dict[str, NDArray[Any]]] = {}
        self._nodes: dict[str, Node] = {}  # of which members are sums
        self._lent: dict[str, tuple[NodeBuffers | None, bool]] = {}  # a node's buffers, and whether they are its own
        self._cache = session.store.predictions(secret())
        self.computed = 0  # passes over a split that was not cached

    def look_up(self, members: Iterable[Member]) -> None:
        """Read at once what the graph says of members that are about to be used, one after the other."""
        with self.session.store.reading():
            for member in members:
                self._sources(member.terms)
                if self.workspace.layout.buffers and member.node is not None:
                    self._buffers_for(member.node)
                else:
                    self._buffers(member)

    def check_code(self, members: Sequence[Member]) -> None:
        """Warn if the code of the network or data is not the code with which the members were made."""
        found: dict[str, Node | Connection] = {}
        for member in members:
            thing = member.node or member.connection
            if thing is not None:
                found[thing.id] = thing
        warn_of_other_code(self.session.store, self.workspace, list(found.values()))

    def outputs(self, member: Member, splits: Mapping[str, Split]) -> dict[str, Tensor]:
        """Return a member's outputs on splits, by name: all in stored order, shape (N, …), on the CPU.

        Raises InputError for a network whose outputs are not one tensor.
        """
        point = self._point(member)
        base = self._identity(point)
        found: dict[str, Tensor] = {}
        placed = False
        for name, split in splits.items():
            key = self._key(base, name, split)
            known = None if key is None else self._cache.get(key)
            if known is not None and len(known) == len(split):
                found[name] = torch.from_numpy(known)
                continue
            if not placed:
                self._place(point)
                placed = True
            found[name] = _all_outputs(self.workspace, split)
            self.computed += 1
            if key is not None:
                self._cache.put(key, found[name].numpy())
        return found

    def place(self, member: Member) -> None:
        """Load a member into the space's network, with its BatchNorm statistics."""
        self._place(self._point(member))

    def policy_of(self, member: Member) -> str:
        """Return the name of the BatchNorm policy with which a member is used."""
        own = not self.workspace.layout.buffers or (member.node is not None and self._buffers_for(member.node)[1])
        recompute = self._recompute_all or not own
        return policy_name(self.workspace, self.policy_between(_thing(member)) if recompute else OWN)

    def policies(self, members: Sequence[Member]) -> str:
        """Name the policies by which statistics of members are recomputed where they are, each once."""
        with self.session.store.reading():  # once for all
            return ", ".join(dict.fromkeys(str(self.policy_between(_thing(member))) for member in members))

    def policy_between(self, *things: Node | Connection) -> BatchNormPolicy:
        """Return the policy by which statistics are recomputed for a point made of nodes, or lying on connections."""
        key = tuple(sorted(thing.id for thing in things))
        if key not in self._policies:
            self._policies[key] = policy_for(self.session, self.workspace, things, self._bn_examples)
        return self._policies[key]

    def policy_of_sum(self, terms: Terms) -> BatchNormPolicy:
        """Return the policy by which statistics are recomputed for Σ c θ of stored nodes."""
        return self.policy_between(*self._sources(terms))

    def place_sum(self, terms: Terms, like: Member, policy: BatchNormPolicy | None = None) -> NDArray[np.float32]:
        """Load Σ c θ of stored nodes into the network, recomputing statistics, with a member's constants; return θ.

        Statistics are recomputed by another ``policy`` than the sum's own if that is given.
        """
        theta = self.theta(terms)
        self._place(_Point(theta, self._buffers(like)[0], policy or self.policy_of_sum(terms)))
        return theta

    def theta(self, terms: Terms) -> NDArray[np.float32]:
        """Return Σ c θ over stored nodes, shape (D,); nodes that do not fit in memory together are read in parts."""
        return self._sum(terms, self._sources(terms))

    def _sources(self, terms: Terms) -> list[Node]:
        """Return the nodes of a sum, in its order; the points of a path, of the same nodes, read them once."""
        ids = [identifier for identifier, _ in terms]
        missing = [identifier for identifier in ids if identifier not in self._nodes]
        if missing:
            with self.session.store.reading() as reader:
                self._nodes |= {node.id: node for node in reader.all(Node, id=missing)}
        return [self._nodes[identifier] for identifier in ids]

    def _sum(self, terms: Terms, nodes: list[Node]) -> NDArray[np.float32]:
        coefficients = [c for _, c in terms]
        if len(nodes) == 1 and coefficients == [1.0]:
            return self.session.points.read(nodes[0])
        size = 4 * self.workspace.layout.size
        if len(nodes) * size > MOST_BYTES and all(node.tensor_key is not None for node in nodes):
            return self.session.store.combination(coefficients, nodes).run()
        return np.array(combine(coefficients, [self.session.points.read(node) for node in nodes]))

    def _point(self, member: Member) -> _Point:
        if member.node is not None and member.node.id not in self._nodes:
            self.look_up([member])
        nodes = self._sources(member.terms)
        buffers, own = self._buffers(member)
        recompute = self.workspace.flat.recomputes and (self._recompute_all or not own)
        policy = self.policy_between(_thing(member)) if recompute else None
        return _Point(self._sum(member.terms, nodes), buffers, policy)

    def _buffers(self, member: Member) -> tuple[Mapping[str, NDArray[Any]], bool]:
        """Return the buffers of a member, and whether they are its own."""
        if not self.workspace.layout.buffers:
            return {}, True
        store = self.session.store
        if member.node is not None:
            row, own = self._buffers_for(member.node)
            return ({} if row is None else buffers_in(store, row)), own
        connection = member.connection
        assert connection is not None, "a member is a node or a point of a connection"
        if connection.id not in self._constants:
            with store.reading() as reader:
                self._constants[connection.id] = buffers_of(store, reader, constants_source(reader, connection))
        return self._constants[connection.id], False

    def _buffers_for(self, node: Node) -> tuple[NodeBuffers | None, bool]:
        """Return the row of the buffers with which a node is used, and whether they are its own."""
        if node.id not in self._lent:
            with self.session.store.reading() as reader:
                rows = reader.all(NodeBuffers, node_id=node.id)
                lent = rows or reader.all(NodeBuffers, node_id=lender_of(reader, node).id)
            self._lent[node.id] = (lent[0] if lent else None, bool(rows))
        return self._lent[node.id]

    def _place(self, point: _Point) -> None:
        flat = self.workspace.flat
        flat.theta.copy_(flat.pack(torch.from_numpy(np.array(point.theta))))
        if point.buffers:
            load_buffers(self.workspace, point.buffers)
        if point.policy is not None:
            recompute_statistics(flat, self.workspace.task.train, point.policy)

    def _identity(self, point: _Point) -> bytes:
        """Hash everything about a prediction except the split."""
        space, here = self.workspace.space, self.workspace
        here.flat  # noqa: B018  (then it is known which code runs)
        hasher = hashlib.blake2b(digest_size=16)
        facts = {
            "space": [space.arch, space.layout_hash, space.data_hash],
            "code": of_space(here.code),
            "policy": policy_name(here, point.policy or OWN),
            "versions": versions() | _libraries(),
            "network": str(here.flat.module),
            "device": here.flat.device.type,
        }
        hasher.update(json.dumps(facts, sort_keys=True).encode())
        hasher.update(np.ascontiguousarray(point.theta).view(np.uint8).data)
        for name in sorted(point.buffers):
            hasher.update(f"\n{name} ".encode())
            hasher.update(np.ascontiguousarray(point.buffers[name]).reshape(-1).view(np.uint8).data)
        return hasher.digest()

    def _key(self, base: bytes, name: str, split: Split) -> str | None:
        """Return the key of a prediction; None if it must not be cached.

        This is the case for other data, and for networks given as objects, which cannot be recognised later.
        """
        if self.workspace.task.splits.get(name) is not split or is_live(Spec.parse(self.workspace.space.arch)):
            return None
        return hashlib.blake2b(base + f"\n{name} {len(split)}".encode(), digest_size=16).hexdigest()


def _thing(member: Member) -> Node | Connection:
    """Return the node that a member is, or the connection on which it lies."""
    thing = member.node or member.connection
    assert thing is not None, "a member is a node or a point of a connection"
    return thing


def _libraries() -> dict[str, str]:
    """Return the versions of the loaded libraries from which networks may come."""
    return {
        name: str(getattr(sys.modules[name], "__version__", "")) for name in ("transformers",) if name in sys.modules
    }


def _all_outputs(workspace: Workspace, split: Split) -> Tensor:
    parts = []
    for out, _ in outputs(workspace.flat, split):
        if not isinstance(out, Tensor):
            raise InputError(
                f"The network of space {workspace.space.name} returns a {type(out).__name__}; models are asked "
                "together only where outputs are one tensor."
            )
        parts.append(out.detach().cpu())
    return torch.cat(parts)
