"""A process that trains on a streamed folder and measures on all of it, and prints the most memory that it and its
workers had of their own (MiB; what they share is counted once, and the network, which computes with memory of its own,
is small). The files of libraries, which are mapped and not copied, do not count: how much of them is charged to a
process depends on who else on the machine uses them.

``python measure_streaming.py DIR FILES SIDE``: so many noisy images of this size are put into DIR. They are links to a
few files, so the folder is as large as it says without filling the disk.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from multiprocessing import active_children
from pathlib import Path

DISTINCT = 64


def fill(root: Path, count: int, side: int) -> int:
    """Make the folder; return how many bytes its files have."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    total = 0
    for i in range(count):
        split, label = "train" if i % 10 else "test", (i // 10) % 2
        file = root / split / f"class{label}" / f"{i:06}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        kept = root / f"{i % DISTINCT}.source"
        if not kept.exists():
            Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(kept, "PNG", compress_level=0)
        if not file.exists():
            os.link(kept, file)
        total += kept.stat().st_size
    return total


def own(process: str) -> int:
    """Return the KiB of a process that are no file's; what it shares is divided among those that share it."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))


def main() -> None:
    root, count, side = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    size = fill(root / "photos", count, side)
    import mgraph

    most, over = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not over.wait(0.2):
            with contextlib.suppress(OSError):  # of a worker that has just ended
                most = max(most, sum(own(str(p)) for p in ["self", *(c.pid for c in active_children())]))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        data = f"imagefolder:{root}/photos?size=64&stream=true"
        g = mgraph.create(root / "g.mgraph", arch="mlp?hidden=16,&bn=true", data=data, device="cpu", workers=1)
        g.train(seed=0, epochs=1, max_steps=40, batch_size=128, name="a")
    finally:
        over.set()
        watcher.join()
    print(json.dumps({"bytes": size, "MiB": most / 1024}))


if __name__ == "__main__":
    main()
