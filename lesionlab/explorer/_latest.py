"""Work in the background of which only the newest piece counts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

Task = TypeVar("Task")
Done = TypeVar("Done")


class Superseded(Exception):  # noqa: N818 - nothing went wrong
    """Something newer has been asked for; what is raised here is nobody's business."""


class Latest(Generic[Task, Done]):
    """A thread that works on the newest task; older ones are left where they are.

    What a task says after a newer one was submitted is not passed on, be it progress, a result
    or an error. Nothing is passed on from two threads at once.

    Args:
        work: Called in the thread with a task and a function `tell`, which passes on progress and
            raises `Superseded` where there is something newer to do.
        tell: Takes progress.
        done: Takes a task and its result.
        failed: Takes a task and the exception that ended it.
    """

    def __init__(
        self,
        work: Callable[[Task, Callable[..., None]], Done],
        *,
        tell: Callable[..., None],
        done: Callable[[Task, Done], None],
        failed: Callable[[Task, Exception], None],
    ) -> None:
        self._work, self._tell, self._done, self._failed = work, tell, done, failed
        self._changed = threading.Condition(threading.RLock())
        self._newest = 0
        self._waiting: tuple[int, Task] | None = None
        self._busy = False
        self._thread: threading.Thread | None = None

    def submit(self, task: Task) -> None:
        """Ask for something; what was asked for before is no longer of interest."""
        with self._changed:
            self._newest += 1
            self._waiting = (self._newest, task)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True, name="workbench")
                self._thread.start()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until nothing is left to do; False if that took too long."""
        with self._changed:
            return self._changed.wait_for(lambda: self._thread is None, timeout)

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._waiting is None:  # the thread ends, a later task starts another
                    self._thread = None
                    self._changed.notify_all()
                    return
                ticket, task = self._waiting
                self._waiting = None
            self._one(ticket, task)

    def _one(self, ticket: int, task: Task) -> None:
        def tell(*words: Any) -> None:
            with self._changed:
                if ticket != self._newest:
                    raise Superseded
                self._tell(*words)

        try:
            found = self._work(task, tell)
        except Superseded:
            return
        except Exception as error:
            self._pass_on(ticket, self._failed, task, error)
        else:
            self._pass_on(ticket, self._done, task, found)

    def _pass_on(self, ticket: int, what: Callable[..., None], *values: Any) -> None:
        with self._changed:
            if ticket != self._newest:
                return
            try:
                what(*values)
            except Exception as error:  # in showing it: to be seen as well
                if what is not self._failed:
                    self._failed(values[0], error)
