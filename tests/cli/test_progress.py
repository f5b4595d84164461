"""Where a long command stands, off a terminal: a line every so often, and nothing of a short one."""

from __future__ import annotations

import time
from typing import Any

import pytest

from mgraph.progress import Progress
from mgraph_cli import progress
from mgraph_cli.progress import Line, progress_bars, progress_lines


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def wait_for(text: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Wait until a text is said on stderr, and return all that was said since the last time."""
    said, deadline = "", time.monotonic() + 30
    while text not in said:
        assert time.monotonic() < deadline, said
        time.sleep(0.01)
        now = capsys.readouterr()
        assert now.out == ""
        said += now.err
    return said


def test_a_line_says_what_is_known() -> None:
    clock = Clock()
    line = Line("connect", clock)
    clock.now += 60
    assert str(line) == "connect: under way for 1 m"
    line.report(Progress("surface", 10, 110, 0.25))  # resumed there
    assert str(line) == "connect: surface 10 of 110, loss 0.2500, under way for 1 m"
    clock.now += 60
    line.report(Progress("surface", 30, 110, 0.125))
    assert str(line) == "connect: surface 30 of 110, loss 0.1250, under way for 2 m, about 4 m left"
    line.report(Progress("connect", 5, 5))
    assert str(line) == "connect: 5 of 5, under way for 2 m"


def test_a_line_says_how_many_examples_a_second_there_are() -> None:
    clock = Clock()
    line = Line("train", clock)
    line.report(Progress("train", 100, 1000, examples=128, called="images"))
    assert "images" not in str(line)  # not known yet
    clock.now += 10
    line.report(Progress("train", 400, 1000, examples=128, called="images"))
    assert str(line) == "train: 400 of 1000, 3,840 images/s, under way for 10 s, about 20 s left"


def test_lines_come_again_and_again_and_only_the_innermost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.05)
    with progress_lines("route"):
        said = wait_for("\n", capsys)
        assert said.startswith("route: under way for 0")
        with progress_bars("compose") as report:
            assert report is not None
            report(Progress("sweep\x1b[2J", 1, 9))
            wait_for("compose: sweep\\x1b[2J 1 of 9, under way for 0.", capsys)
            assert "route" not in wait_for("\n", capsys)
        wait_for("route: under way", capsys)
    capsys.readouterr()
    time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_a_short_command_says_nothing_and_a_long_one_where_it_is(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("train", "--seed", "20", "--epochs", "1").stderr == ""
    monkeypatch.setattr(progress, "EVERY", 0.02)
    done = run("train", "--seed", "21", "--epochs", "8", "--json")
    lines = [line for line in done.stderr.splitlines() if line.startswith("train: ")]
    assert len(lines) > 1
    assert any(" of " in line and ", loss " in line and " images/s, under way for" in line for line in lines)
    assert done.row["kind"] == "mode"


def test_of_several_processes_only_the_first_says_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(progress, "EVERY", 0.02)
    with progress_lines("train"), progress_bars("train") as report:
        assert report is None
        time.sleep(0.06)
    assert capsys.readouterr().err == ""


def test_how_often_is_for_the_user_to_say(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run: Any
) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.02)
    monkeypatch.setenv(progress.VARIABLE, "0")
    with progress_lines("train"):
        time.sleep(0.06)
    assert capsys.readouterr().err == ""
    monkeypatch.setenv(progress.VARIABLE, "0.02")
    with progress_lines("train"):
        wait_for("train: under way", capsys)
    for text in ("often", "-1", "nan", "inf"):
        monkeypatch.setenv(progress.VARIABLE, text)
        assert "must be a number of seconds" in run("sharpness", "a", code=2).stderr
