"""Map the names in a file to those of a network.

Wrappers insert themselves into names: DistributedDataParallel ``module.``, torch.compile ``_orig_mod.``, FSDP
``_fsdp_wrapped_module.``, each at the front or in the middle; a Lightning module, an AveragedModel or a larger network
puts a prefix before all names. So names are compared on both sides without the wrappers' words, and a prefix is
whatever has to be removed to obtain the network's own names. Weight normalisation has two spellings, of which a
network knows one: ``weight_g`` and ``weight_v``, or ``parametrizations.weight.original0`` and ``original1``. PyTorch
itself takes files in the former; those in the latter are spelled as the network has them here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

WRAPPERS = (
    "_orig_mod",
    "module",
    "_fsdp_wrapped_module",
    "_fpw_module",
    "_checkpoint_wrapped_module",
    "_forward_module",
)
_MOST_PREFIXES = 8
_NORMED = re.compile(r"(?P<owner>.*\.|)parametrizations\.(?P<name>\w+)\.original(?P<part>[01])")


@dataclass(frozen=True)
class Reading:
    """One way to read a dict's names: ``renamed`` maps those under a prefix to the network's spelling.

    ``prefix`` was removed and ``added`` put in front, both without wrappers' words; ``wrappers`` are the words left
    out; ``outside`` are the names that do not begin with the prefix.
    """

    prefix: str
    added: str
    renamed: Mapping[str, str]
    wrappers: tuple[str, ...]
    outside: tuple[str, ...]

    @property
    def notes(self) -> list[str]:
        """What was done to the names, for the user."""
        notes = []
        if self.prefix:
            notes.append(f"prefix {self.prefix} removed from the names")
        if self.added:
            notes.append(f"prefix {self.added} added to the names")
        notes += [f"{word}. removed from the names" for word in self.wrappers]
        if any(_NORMED.search(name) and not _NORMED.search(ours) for name, ours in self.renamed.items()):
            notes.append("weight normalisation in its former spelling, as the network has it")
        return notes


class TensorNames:
    """The names of a network's tensors and modules."""

    def __init__(self, module: nn.Module, tensors: Collection[str]) -> None:
        self._words = set(WRAPPERS)
        if len({self._plain(name) for name in tensors}) < len(tensors):  # two names would coincide: compare literally
            self._words = set()
        self._tensors = {self._plain(name): name for name in tensors}
        paths = [name for name, _ in module.named_modules(remove_duplicate=False)]
        self._modules = {self._plain(name): name for name in paths}

    def readings(self, names: Collection[str]) -> list[Reading]:
        """List the ways to read a file's names, those that name most of the network's tensors first."""
        plain = {name: self._plain(name) for name in names}
        best: Counter[tuple[str, str]] = Counter()
        for added in self._own_prefixes():
            wanted = {t.removeprefix(added) for t in self._tensors if t.startswith(added)}
            best += _count_prefixes(plain.values(), wanted, added)
        if not best:  # no tensor has its current name: perhaps old names that the network's own hooks know
            wanted = {m for m in self._modules if m}
            owners = {name.rpartition(".")[0] for name in plain.values()}
            best = _count_prefixes(owners, wanted, "")
        best[("", "")] += 0
        ranked = sorted(best, key=lambda pair: (-best[pair], len(pair[0]) + len(pair[1])))
        least = max(best.values()) / 2
        chosen = [pair for pair in ranked if best[pair] >= least][:_MOST_PREFIXES]
        if ("", "") not in chosen:  # unchanged: a network may rename all of them when it loads
            chosen.append(("", ""))
        return [self._reading(plain, *pair) for pair in chosen]

    def _reading(self, plain: Mapping[str, str], prefix: str, added: str) -> Reading:
        renamed, outside, words = {}, [], set()
        for name, short in plain.items():
            if not short.startswith(prefix):
                outside.append(name)
                continue
            renamed[name] = self._spelled(added + short.removeprefix(prefix))
            own = set(renamed[name].split("."))
            words |= {w for w in self._words if w in name.split(".") and w not in own}
        return Reading(prefix, added, renamed, tuple(w for w in WRAPPERS if w in words), tuple(outside))

    def _spelled(self, name: str) -> str:
        """Spell a name as the network does: one of its tensors, or something inside one of its modules."""
        if name in self._tensors:
            return self._tensors[name]
        normed = _NORMED.fullmatch(name)
        former = normed and f"{normed['owner']}{normed['name']}_{'gv'[int(normed['part'])]}"
        if former in self._tensors:
            return self._tensors[former]
        owner, rest = name, ""
        while owner:
            owner, _, last = owner.rpartition(".")
            rest = f"{last}.{rest}" if rest else last
            if owner in self._modules:
                real = self._modules[owner]
                return f"{real}.{rest}" if real else rest
        return name

    def module_path(self, path: str, reading: Reading) -> str | None:
        """Map a module's path in the file's metadata to the network's; return None if it lies outside."""
        short = self._plain(path)
        if reading.prefix and not (short + ".").startswith(reading.prefix):
            return None
        short = reading.added + (short + ".").removeprefix(reading.prefix) if short else reading.added
        return self._modules.get(short.rstrip("."))

    def _plain(self, name: str) -> str:
        return ".".join(part for part in name.split(".") if part not in self._words)

    def _own_prefixes(self) -> list[str]:
        """List the prefixes common to all of the network's names, which a file of an inner module lacks."""
        first, *others = self._tensors
        prefixes, at = [""], 0
        while (at := first.find(".", at) + 1) > 0 and all(name.startswith(first[:at]) for name in others):
            prefixes.append(first[:at])
        return prefixes if others else [""]


def _count_prefixes(names: Collection[str], wanted: set[str], added: str) -> Counter[tuple[str, str]]:
    """Count, for every prefix of the names, how many wanted names result from removing it."""
    counts: Counter[tuple[str, str]] = Counter()
    for name in names:
        at = 0
        while True:
            if name[at:] in wanted:
                counts[name[:at], added] += 1
            dot = name.find(".", at)
            if dot < 0:
                break
            at = dot + 1
    return counts


def metadata_for(names: TensorNames, reading: Reading, metadata: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Map what a state dict records about its modules (versions) to the network's paths."""
    if metadata is None:
        return None
    found = {}
    for path, noted in metadata.items():
        real = names.module_path(path, reading) if isinstance(path, str) else None
        if real is not None and isinstance(noted, Mapping):
            found[real] = {k: v for k, v in noted.items() if isinstance(k, str)}
    return found
