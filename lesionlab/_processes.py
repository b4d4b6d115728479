"""What processes that work for another one share."""

from __future__ import annotations

import multiprocessing
import os
import threading


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
