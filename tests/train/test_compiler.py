"""The compiler's own warnings are not shown, unless somebody has asked for its log."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch

from mgraph.train.compiler import compiled

NAMES = ("torch._dynamo", "torch._inductor", "torch.utils.cpp_extension")


@pytest.fixture(autouse=True)
def levels() -> Iterator[None]:
    """Begin as torch does, and leave every level as it was."""
    loggers = [logging.getLogger(name) for name in ("torch", *NAMES, "torch._functorch")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING if logger.name == "torch" else logging.NOTSET)
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


def heard() -> list[str]:
    return [name for name in NAMES if logging.getLogger(f"{name}.part").isEnabledFor(logging.WARNING)]


def test_warnings_of_the_compiler_are_silent_once_we_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH_LOGS", raising=False)
    assert heard() == list(NAMES)
    compiled(torch.sin)
    assert heard() == []
    assert logging.getLogger("torch._inductor").isEnabledFor(logging.ERROR)
    assert logging.getLogger("torch.distributed").isEnabledFor(logging.WARNING)


def test_who_asks_for_the_log_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_LOGS", "recompiles")
    compiled(torch.sin)
    assert heard() == list(NAMES)
    monkeypatch.delenv("TORCH_LOGS")
    logging.getLogger("torch._dynamo").setLevel(logging.INFO)
    compiled(torch.sin)
    assert heard() == ["torch._dynamo"]
