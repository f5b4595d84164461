"""What a path cost, whether its modes look memorised, and what the same amount of training would buy instead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mgraph.merge.calibration import guessed_classes
from mgraph.models.costs import Costs, Memory, costs_of, memory_of
from mgraph.session.members import label
from mgraph.session.session import Session
from mgraph_store import Connection, Node, Space


@dataclass(frozen=True)
class Advice:
    """What a connection cost in T, the training of one mode, besides its modes, and what is known about these.

    ``otherwise`` says what the same training buys without the connection; None if its cost is unknown or zero.
    """

    costs: Costs
    memory: Memory
    otherwise: str | None

    def to_dict(self) -> dict[str, object]:
        """Return it as plain data."""
        path, modes = self.costs.connections, self.costs.modes
        return {
            "path_cost": None if path is None else round(path, 3),
            "modes_cost": None if modes is None else round(modes, 3),
            "modes_train_loss": self.memory.train,
            "modes_valid_loss": self.memory.valid,
            "modes_memorised": self.memory.memorised,
            "otherwise": self.otherwise,
        }


def advise(session: Session, space: Space, connections: Sequence[Connection], ends: Sequence[Node]) -> Advice:
    """Look up what connections cost, besides the modes at their ``ends``, and say what else that much training buys."""
    classes = guessed_classes(session.workspace(space).task)
    with session.store.reading() as reader:
        costs = costs_of(session, space, [node.id for node in ends], connections)
        memory = memory_of(reader, [node.id for node in ends], classes)
    return Advice(costs, memory, otherwise(costs.connections, memory, ends))


def otherwise(spent: float | None, memory: Memory, ends: Sequence[Node]) -> str | None:
    """Name what was worth the most at equal cost in benchmarks/merging.py, by whether the modes look memorised."""
    if not spent or not ends:
        return None
    first = label(ends[0])
    more = int(spent)
    vote = f"let the {len(ends)} modes vote (mgraph ensemble)"
    if more:
        vote = f"train {more} more mode{'s' if more > 1 else ''} and let {len(ends) + more} vote (mgraph ensemble)"
    if memory.memorised is None:
        return f"train one mode on for {spent:.2g} T (mgraph train --init {first}), or {vote}"
    if memory.memorised:
        return f"{vote}: the modes look memorised, where votes are worth the most, and training on may do harm"
    averaged = f"train one mode on for {spent:.2g} T and average its late weights (mgraph train --init {first} --swa)"
    return f"{averaged}: the modes still improve, where this was worth the most"
