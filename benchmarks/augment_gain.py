"""What augmentation gains: a small CNN on CIFAR-10, trained with and without it for as many steps.

A fifth of the training images, so that the network can learn them by heart within minutes on a CPU; tested on all test
images. Run: ``python benchmarks/augment_gain.py --cifar10 cifar10.npz [-o FILE]``, some ten minutes of CPU.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from harness import invocation, machine, networks, quieten

from mgraph.evaluate.metrics import measure
from mgraph.train.mode import train_mode
from mgraph.train.settings import TrainSettings

CONTENDERS = (None, "crop4+flip")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cifar10", default="cifar10.npz")
    parser.add_argument("--limit", type=int, default=10_000, help="training images")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    quieten()
    network = networks("mnist.npz", arguments.cifar10)["cnn-bn-cifar"]
    network = replace(network, data=f"{network.data}&limit={arguments.limit}")
    task = network.task()
    how = TrainSettings(epochs=arguments.epochs, batch_size=128)
    lines = [
        invocation(),
        machine(),
        f"{network.arch} on {len(task.train)} images of CIFAR-10, {how.epochs} epochs in batches of {how.batch_size}, "
        f"learning rate {how.lr}, seeds 0 … {arguments.seeds - 1}.",
        "",
        f"{'augmentation':<14}{'train accuracy':>16}{'test accuracy':>15}{'standard error':>16}{'CPU seconds':>13}",
    ]
    print("\n".join(lines), flush=True)
    tested = {}
    for text in CONTENDERS:
        found, start = [], time.process_time()
        for seed in range(arguments.seeds):
            flat = network.build(task, seed)
            train_mode(flat, task, replace(how, seed=seed, augment=text))
            found.append({split: measure(flat, task, split)["accuracy"] for split in ("train", "test")})
        train, test = ([result[split] for result in found] for split in ("train", "test"))
        tested[text] = np.mean([m.value for m in test])
        error = np.sqrt(sum(m.standard_error**2 for m in test)) / len(test)
        line = f"{text or 'none':<14}{np.mean([m.value for m in train]):>16.4f}{tested[text]:>15.4f}{error:>16.4f}"
        lines.append(f"{line}{time.process_time() - start:>13.0f}")
        print(lines[-1], flush=True)
    none, gain = tested[None], tested[CONTENDERS[1]] - tested[None]
    lines.append(f"\n{CONTENDERS[1]} gains {100 * gain:.1f} points of test accuracy over {100 * none:.1f} %.")
    print(lines[-1])
    if arguments.output:
        arguments.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
