"""Work in the background of which only the newest counts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from lesionlab.explorer._latest import Latest

PATIENCE = 20


class Told:
    """Takes what is passed on, and lets the test decide when a slow task goes on."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.begun, self.go = threading.Event(), threading.Event()
        self.latest = Latest(
            self.work,
            tell=lambda *words: self.said.append(words),
            done=self.show,
            failed=lambda task, error: self.said.append((task, str(error))),
        )

    def show(self, task: str, found: str) -> None:
        if task == "unshown":
            raise ZeroDivisionError("in showing")
        self.said.append((task, found))

    def work(self, task: str, tell: Callable[..., None]) -> str:
        if "slow" in task:
            self.begun.set()
            assert self.go.wait(PATIENCE)
        if task.startswith("bad"):
            raise RuntimeError(f"{task} went wrong")
        tell(task, "ends")
        return task.upper()


@pytest.fixture
def told() -> Told:
    return Told()


def test_a_task_is_done_in_another_thread_and_an_error_ends_nothing(told: Told) -> None:
    for task in ("a", "bad", "unshown", "b"):
        told.latest.submit(task)
        assert told.latest.wait(PATIENCE)
    assert told.said == [
        ("a", "ends"), ("a", "A"), ("bad", "bad went wrong"),
        ("unshown", "ends"), ("unshown", "in showing"), ("b", "ends"), ("b", "B"),
    ]  # fmt: skip
    assert not any(t.name == "workbench" for t in threading.enumerate())


@pytest.mark.parametrize("first", ["slow", "bad slow"])
def test_what_is_superseded_never_comes_after_the_newer(told: Told, first: str) -> None:
    told.latest.submit(first)
    assert told.begun.wait(PATIENCE)
    told.latest.submit("between")  # does not wait
    told.latest.submit("new")
    assert not told.latest.wait(0.05), "the first one holds the thread"
    told.go.set()
    assert told.latest.wait(PATIENCE)
    assert told.said == [("new", "ends"), ("new", "NEW")], "nobody waited for those before"
