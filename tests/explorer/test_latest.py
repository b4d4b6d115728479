"""Work in the background of which only the newest counts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from lesionlab.explorer._latest import Latest

PATIENCE = 20


class Told:
    """Takes what is passed on, and lets the test decide when a task goes on."""

    def __init__(self) -> None:
        self.progress: list[Any] = []
        self.results: list[Any] = []
        self.errors: list[tuple[str, str]] = []
        self.gates: dict[str, threading.Event] = {}
        self.begun: dict[str, threading.Event] = {}
        self.latest: Latest[str, str] = Latest(
            self.work,
            tell=lambda *words: self.progress.append(words),
            done=lambda task, found: self.results.append((task, found)),
            failed=lambda task, error: self.errors.append((task, str(error))),
        )

    def holding(self, *tasks: str) -> None:
        for task in tasks:
            self.gates[task], self.begun[task] = threading.Event(), threading.Event()

    def work(self, task: str, tell: Callable[..., None]) -> str:
        tell(task, "begins")
        if task in self.gates:
            self.begun[task].set()
            assert self.gates[task].wait(PATIENCE)
        if task.startswith("bad"):
            raise RuntimeError(f"{task} went wrong")
        if task.startswith("told"):
            tell(task, "ends")
        return task.upper()


@pytest.fixture
def told() -> Told:
    return Told()


def test_a_task_is_done_in_another_thread(told: Told) -> None:
    told.latest.submit("a")
    assert told.latest.wait(PATIENCE)
    assert told.results == [("a", "A")]
    assert told.progress == [("a", "begins")]
    told.latest.submit("b")  # the thread has ended, another begins
    assert told.latest.wait(PATIENCE)
    assert told.results[-1] == ("b", "B")
    assert not any(t.name == "workbench" for t in threading.enumerate())


@pytest.mark.parametrize("first", ["slow", "bad slow", "told slow"])
def test_what_is_superseded_never_comes_after_the_newer(told: Told, first: str) -> None:
    told.holding(first)
    told.latest.submit(first)
    assert told.begun[first].wait(PATIENCE)
    told.latest.submit("between")
    told.latest.submit("new")
    assert not told.latest.wait(0.05), "the first one holds the thread"
    told.gates[first].set()
    assert told.latest.wait(PATIENCE)
    assert told.results == [("new", "NEW")]
    assert told.errors == []
    assert (first, "ends") not in told.progress
    assert ("between", "begins") not in told.progress, "nobody waited for it any more"


def test_an_error_is_passed_on_and_ends_nothing(told: Told) -> None:
    told.latest.submit("bad")
    assert told.latest.wait(PATIENCE)
    assert told.errors == [("bad", "bad went wrong")]
    told.latest.submit("good")
    assert told.latest.wait(PATIENCE)
    assert told.results == [("good", "GOOD")]


def test_an_error_in_showing_a_result_is_passed_on_too() -> None:
    errors: list[Exception] = []

    def show(_: str, __: str) -> None:
        raise ZeroDivisionError("in showing")

    latest: Latest[str, str] = Latest(
        lambda task, tell: task, tell=print, done=show, failed=lambda _, error: errors.append(error)
    )
    latest.submit("a")
    assert latest.wait(PATIENCE)
    assert [str(error) for error in errors] == ["in showing"]


def test_submitting_does_not_wait(told: Told) -> None:
    told.holding("slow")
    told.latest.submit("slow")
    assert told.begun["slow"].wait(PATIENCE)
    done = threading.Event()

    def many() -> None:
        for n in range(100):
            told.latest.submit(f"t{n}")
        done.set()

    threading.Thread(target=many, daemon=True).start()
    assert done.wait(5)
    told.gates["slow"].set()
    assert told.latest.wait(PATIENCE)
    assert told.results == [("t99", "T99")]
