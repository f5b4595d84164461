"""What is the least that reading a checked tensor of 44.7 MB costs, and where does the time go?

The file is in the page cache, from where the kernel copies it. New memory costs page faults; whether there are any is
up to glibc, which keeps freed blocks of up to 32 MB if it is told so (the command line does, and so do the benchmarks),
and never larger ones: a state dict of many tensors then has none, and one array for all parameters always has. mgraph
keeps the memory of the last large array for the next one. Where memory begins a few bytes behind a page, some
processors copy at a third of the speed; ours begins on one. mgraph reads the chunks of a large array in two threads;
all the rest has one. Ratios are those of wall time.

Run: ``python benchmarks/reading.py [--rounds N]``
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from fastcrc.crc32 import iscsi as crc32c
from harness import invocation, machine, quieten
from numpy.typing import NDArray

from mgraph.network.layout import layout_of
from mgraph_store.tensors.chunkfiles import PIECE
from store import add, new_store, resnet18, trained

SIZE = 44_726_568
Bytes = NDArray[np.uint8]
Parts = Mapping[str, Callable[[], object]]


def memory(behind: int = 0) -> Bytes:
    """Make new memory that begins so many bytes behind the beginning of a page."""
    whole = np.empty(SIZE + 8192, np.uint8)
    start = -whole.ctypes.data % 4096 + behind
    return whole[start : start + SIZE]


def read(descriptor: int, out: Bytes, *, checked: bool) -> None:
    """Read the file in pieces, and with ``checked`` compute the checksum of each."""
    found = 0
    for start in range(0, SIZE, PIECE):
        piece = out[start : start + PIECE]
        os.preadv(descriptor, [piece.data], start)
        if checked:
            found = crc32c(piece.data, found)


def check(kept: Bytes) -> None:
    """Compute the checksum of what is in memory."""
    found = 0
    for start in range(0, SIZE, PIECE):
        found = crc32c(kept[start : start + PIECE].data, found)


def show(parts: Parts, rounds: int) -> None:
    """Measure parts in turn; print the medians of their wall and CPU times, and of their ratios to the first."""
    wall: dict[str, list[float]] = {name: [] for name in parts}
    cpu: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(rounds):
        for name, part in parts.items():
            begun = time.perf_counter(), time.process_time()
            result = part()
            wall[name].append(time.perf_counter() - begun[0])
            cpu[name].append(time.process_time() - begun[1])
            del result
    first = next(iter(wall.values()))
    for name, seconds in wall.items():
        median, own = statistics.median(seconds), statistics.median(cpu[name])
        ratio = statistics.median(mine / other for mine, other in zip(seconds, first, strict=True))
        print(f"{name:>46} {1000 * median:>8.2f} {1000 * own:>8.2f} {SIZE / median / 1e9:>6.1f} {ratio:>7.2f}")


def readers(scratch: Path) -> Parts:
    """Write the parameters of a ResNet-18 in both ways; return what reads them."""
    module = resnet18()
    layout, state = layout_of(module), trained(module, 0)
    store, space = new_store(scratch / "g.mgraph", layout)
    (node,) = add(store, space, [layout.pack_parameters({n: t.numpy() for n, t in state.items()})], ["a"])
    torch.save(state, scratch / "a.pt")
    return {
        "torch.load": lambda: torch.load(scratch / "a.pt", weights_only=True),
        "mgraph": lambda: store.read_parameters(node),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=45)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print(f"{invocation()}\n{machine()}\n\n{'44.7 MB':>46} {'ms':>8} {'CPU ms':>8} {'GB/s':>6} {'ratio':>7}")
    with tempfile.TemporaryDirectory() as directory:
        both = readers(Path(directory))
        show({f"{name}, as Python starts": part for name, part in both.items()}, rounds)
        quieten()
        show({f"{name}, where glibc keeps freed memory": part for name, part in both.items()}, rounds)
        file = Path(directory) / "numbers"
        file.write_bytes(np.random.default_rng(0).bytes(SIZE))
        kept = memory()
        kept[:] = 1
        descriptor = os.open(file, os.O_RDONLY)
        show(
            {
                "copied into memory in use": lambda: read(descriptor, kept, checked=False),
                "copied into new memory": lambda: read(descriptor, memory(), checked=False),
                "… and CRC32C": lambda: read(descriptor, memory(), checked=True),
                "the same, 16 bytes behind a page": lambda: read(descriptor, memory(16), checked=True),
                "CRC32C alone": lambda: check(kept),
                "new memory, filled": lambda: memory().fill(1),
            },
            rounds,
        )
        os.close(descriptor)


if __name__ == "__main__":
    main()
