"""Where the jobs of a sweep go: workers of this machine, or a scheduler that runs already."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
from collections.abc import Iterator
from importlib import import_module
from typing import Any

TRIES = 3
"""How often a run is tried again whose worker died."""

CONNECTING = 5.0
"""Seconds to wait for a scheduler."""


@contextlib.contextmanager
def connect(scheduler: str | None, workers: int) -> Iterator[Any]:
    """A `distributed.Client`.

    Args:
        scheduler: Address of one that runs; None for workers of this machine.
        workers: How many of these.

    Raises:
        ImportError: Dask is not installed.
        OSError: There is no scheduler at the address.
        ValueError: The address is none.
    """
    try:
        # only here, as it takes a while; half of its functions have no types
        dask, distributed = import_module("dask"), import_module("distributed")
    except ImportError as error:
        raise ImportError("a sweep needs Dask: pip install 'lesionlab[scale]'") from error
    with contextlib.ExitStack() as stack:
        if scheduler is None:
            settings = {
                "distributed.scheduler.allowed-failures": TRIES,
                # a job that waits at a worker would be blamed for its death, too
                "distributed.scheduler.worker-saturation": 1.0,
                # or a machine too busy to start a worker anew within 15 s would never do it
                "distributed.deploy.lost-worker-timeout": "1 hour",
                # Dask has a worker give memory back at once; training takes it again at each step,
                # which on a virtual machine took a third of its time
                "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None,
                # no web pages, and what is left of their server for this machine alone
                "distributed.scheduler.http.routes": [],
                "distributed.worker.http.routes": [],
            }
            stack.enter_context(dask.config.set(settings))
            cluster = distributed.LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                worker_dashboard_address="127.0.0.1:0",
                scheduler_kwargs={"dashboard": False},
                memory_limit=0,  # Dask would pause or end a worker whose training needs much
                silence_logs=logging.CRITICAL,  # what goes wrong is told in our own words
            )
            client = distributed.Client(stack.enter_context(cluster))
        else:
            stack.enter_context(_quiet())
            client = _client(distributed, scheduler)
        yield stack.enter_context(client)


def _client(distributed: Any, address: str) -> Any:
    try:
        return distributed.Client(address, timeout=CONNECTING, set_as_default=False)
    except (OSError, ValueError) as error:
        kind = ValueError if isinstance(error, ValueError) else OSError
        why = str(error).splitlines()[0]
    # a client that came to nothing stops its loop when it is collected; were that to happen while
    # another one starts, both would wait for ever
    gc.collect()
    raise kind(f"scheduler={address!r}: no scheduler answers there ({why})")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("distributed")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def own_threads(workers: int) -> int:
    """Threads for each of so many workers on this machine."""
    there = hasattr(os, "sched_getaffinity")  # on a shared machine fewer than os.cpu_count()
    cores = len(os.sched_getaffinity(0)) if there else os.cpu_count() or 1
    return max(1, cores // workers)
