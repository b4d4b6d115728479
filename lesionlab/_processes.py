"""What processes that work for another one share, and the same work on many items in several."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def usable_cores() -> int:
    """Cores that this process may use: fewer than the machine has where a scheduler shares them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def end_with_parent() -> None:
    """Have this process end when its parent does: a killed one tells its workers nothing."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def in_order(
    work: Callable[[Item], Result], items: Iterable[Item], processes: int, what: str
) -> Generator[Result, None, None]:
    """`work` of every item, in their order; this process does it if there is to be one only.

    `work` is a function of a module or a `functools.partial` of one. It is sent to each process
    once and keeps what it has opened there. Few results wait in memory.

    Raises:
        RuntimeError: A process ended; `what` it did stands in the message.
    """
    if processes == 1:
        yield from map(work, items)
        return
    # spawn is the same on every system, and safe in a process that has threads
    context = multiprocessing.get_context("spawn")
    waiting = deque[Future[Result]]()
    with ProcessPoolExecutor(processes, context, _start, (work,)) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(_work_here, item))
                if len(waiting) > processes + 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise RuntimeError(
                f"a process ended while it {what}: it was killed, ran out of memory, or could not "
                "import what it was to do (a script calls it under `if __name__ == '__main__':`)"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


_work_of_this_process: Callable[[Any], Any]


def _start(work: Callable[[Any], Any]) -> None:
    global _work_of_this_process
    _work_of_this_process = work
    end_with_parent()


def _work_here(item: Any) -> Any:
    return _work_of_this_process(item)
