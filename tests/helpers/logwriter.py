"""A process that writes to a shared log, to be killed: it takes names that others want too, each once."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

from mgraph_store.sharedlog import START, LogRecord, Position, SharedLog

WRITERS = 4


class Replica:
    """What a machine makes of the log: who owns which name."""

    def __init__(self, at: Position = START, owners: dict[str, str] | None = None) -> None:
        self.at, self.owners = at, owners or {}

    @classmethod
    def load(cls, text: bytes) -> Replica:
        number, identity, owners = json.loads(text)
        return cls(Position(number, bytes.fromhex(identity)), owners)

    def dump(self) -> bytes:
        return json.dumps([self.at.number, self.at.id.hex(), self.owners]).encode()

    def keep(self, path: Path) -> None:
        """Write it to a file, whole or not at all."""
        other = path.with_suffix(".tmp")
        other.write_bytes(self.dump())
        other.replace(path)

    def take(self, record: LogRecord) -> None:
        name, owner = json.loads(record.payload)
        assert name not in self.owners, "two owners of one name"
        self.owners[name], self.at = owner, record.position

    def follow(self, log: SharedLog) -> Replica:
        for record in log.since(self.at):
            self.take(record)
        return self


def write(place: str, owner: str, until: int, folder: str, *, skew: float = 0.0, stale: bool = False) -> None:
    """Take names until the log has so many; say which ones in ``folder``/``owner``.said after the log has said yes.

    ``skew`` puts this machine's clock wrong; a ``stale`` one looks at the log only when it has lost.
    """
    true_time = time.time
    time.time = lambda: true_time() + skew
    log, kept, said = SharedLog.at(place), Path(folder, f"{owner}.json"), Path(folder, f"{owner}.said")
    said.touch()
    while len(list(said.parent.glob("*.said"))) < WRITERS:  # so that nobody is done before the others have begun
        time.sleep(0.01)
    replica = Replica.load(kept.read_bytes()) if kept.exists() else Replica()
    lost = not stale
    while True:
        if lost:
            replica.follow(log)
        if replica.at.number >= until:
            replica.keep(kept)
            return
        free = (f"n{i}" for i in range(2 * until) if f"n{i}" not in replica.owners)
        name = random.choice([next(free), next(free)])
        time.sleep(0.001)  # so that others look and write meanwhile, on a busy machine too
        position = log.append(json.dumps([name, owner]).encode(), replica.at)
        lost = position is None or not stale
        with (said if position is not None else said.with_suffix(".lost")).open("a") as file:
            file.write(f"{name}\n")
        if position is not None:
            replica.owners[name], replica.at = owner, position
        if replica.at.number % 5 == 0:
            log.put_snapshot(replica.dump(), replica.at)
            replica.keep(kept)
