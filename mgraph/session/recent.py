"""Points just read or written, kept in memory for the next operation, such as the sweep after a connection."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from mgraph_store import GraphStore, Node

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float32]

MOST_BYTES = 512 << 20


class RecentPoints:
    """Parameters of nodes, shape (D,) each, as in the store; at most ``most`` bytes are kept, newest first."""

    def __init__(self, store: GraphStore, most: int = MOST_BYTES) -> None:
        self._store, self._most = store, most
        self._points: OrderedDict[str, Array] = OrderedDict()
        self._nbytes = 0

    def read(self, node: Node) -> Array:
        """Return a node's parameters, read-only; raises CorruptError if they have to be read and are damaged."""
        if node.id not in self._points:
            point = self._store.read_parameters(node)
            self.keep(node.id, point)
            return point
        self._points.move_to_end(node.id)
        return self._points[node.id]

    def keep(self, node_id: str, point: Array) -> None:
        """Keep what was stored as a node, bit for bit; the array must not be changed afterwards."""
        if point.nbytes > self._most or node_id in self._points:
            return
        view = point.view()
        view.flags.writeable = False
        self._points[node_id] = view
        self._nbytes += view.nbytes
        while self._nbytes > self._most:
            _, oldest = self._points.popitem(last=False)
            self._nbytes -= oldest.nbytes
