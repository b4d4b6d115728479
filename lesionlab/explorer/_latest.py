"""Work in the background of which only the newest piece counts."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any


class Superseded(Exception):  # noqa: N818 - nothing went wrong
    """Raised to abandon a task that a newer one has replaced; never shown to the user."""


class Latest:
    """Works on the newest task in a thread of its own; older ones are abandoned.

    What a task says after a newer one was submitted is not passed on, be it progress, a result
    or an error. Nothing is passed on from two threads at once.

    `work` is called in the thread with a task and a function that passes words on to `tell`, and
    raises `Superseded` where there is something newer to do. `done` takes a task and its result,
    `failed` a task and the exception that ended it.
    """

    def __init__(
        self,
        work: Callable[[Any, Callable[..., None]], Any],
        *,
        tell: Callable[..., None],
        done: Callable[[Any, Any], None],
        failed: Callable[[Any, Exception], None],
    ) -> None:
        self._work, self._tell, self._done, self._failed = work, tell, done, failed
        self._working = threading.Lock()  # one task at a time
        self._passing_on = threading.RLock()
        self._newest: threading.Thread | None = None

    def submit(self, task: Any) -> None:
        """Ask for something; what was asked for before is abandoned."""
        thread = threading.Thread(target=self._run, args=[task], daemon=True, name="workbench")
        with self._passing_on:
            self._newest = thread
            thread.start()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until nothing is left to do; False if that took too long."""
        with self._passing_on:
            thread = self._newest
        if thread is not None:
            thread.join(timeout)
        return thread is None or not thread.is_alive()

    def _run(self, task: Any) -> None:
        with self._working:
            try:
                self._pass_on(lambda: None)  # nothing is begun that is superseded already
                found = self._work(task, lambda *words: self._pass_on(self._tell, *words))
                self._pass_on(self._done, task, found)
            except Superseded:
                pass
            except Exception as error:  # in showing a result, too
                with contextlib.suppress(Superseded):
                    self._pass_on(self._failed, task, error)

    def _pass_on(self, what: Callable[..., None], *values: Any) -> None:
        with self._passing_on:
            if threading.current_thread() is not self._newest:
                raise Superseded
            what(*values)
