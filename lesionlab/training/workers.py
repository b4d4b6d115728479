"""What a sweep asks of Dask: a scheduler with workers, and in each of them one fold at a time."""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from lesionlab import _files
from lesionlab.training.devices import Precision
from lesionlab.training.folds import RESULT, Dataset
from lesionlab.training.studies import Plan, load, train_fold

TRIES = 3
"""How often a job is tried again whose worker died."""

RETURNING, PATIENCE, CONNECTING = 120.0, 120.0, 5.0
"""Seconds that all workers of this machine may be gone (Dask starts them anew in a few), to wait
for a fold that somebody else seems to train, and to wait for a scheduler."""


@dataclass(frozen=True)
class Job:
    """One fold of one plan; `out` is the folder of the sweep, absolute."""

    plan: Plan
    fold: int
    out: str

    @property
    def run(self) -> Path:
        """The folder of the plan."""
        return Path(self.out, self.plan.paper, self.plan.name)

    @property
    def folder(self) -> Path:
        """The folder of the fold."""
        return self.run / f"fold-{self.fold}"

    @property
    def name(self) -> str:
        """Its folder as seen from the folder of the sweep."""
        return self.folder.relative_to(self.out).as_posix()

    @property
    def done(self) -> bool:
        """Whether it has a result."""
        return (self.folder / RESULT).exists()


_one_at_a_time = threading.Lock()


def dataset_of(plan: Plan) -> Dataset:
    """What a plan trains on; kept, as the next plan often trains on the same."""
    return _load(replace(plan, seed=0, folds=(0,), epochs=None))


@functools.lru_cache(maxsize=1)
def _load(plan: Plan) -> Dataset:
    return load(plan, progress=False)


def train(job: Job, topic: str, *, device: str, precision: Precision, threads: int | None) -> None:
    """Train a fold in a worker of Dask, or go on with it, or see that it is done.

    Args:
        job: Which.
        topic: Topic of the event that says that training has begun.
        device: As in `loop.fit`; where a machine has several GPUs, numbered workers share them out.
        precision: As in `loop.fit`.
        threads: PyTorch threads; as they are if None.

    Raises:
        RuntimeError: Another process keeps training the same fold.
        Exception: As `folds.train_folds` and `studies.load`.
    """
    worker = import_module("distributed").get_worker()
    # torch's generators and switches belong to the process: two at a time would mix them up
    with _one_at_a_time:
        if threads is not None:
            torch.set_num_threads(threads)
        with _alone(job.folder):
            # a job is called again also when its worker died after the last file was written
            if not job.done:
                worker.log_event(topic, job.name)
                options: Any = {"device": own_device(device, worker.name), "precision": precision}
                dataset = dataset_of(job.plan)
                train_fold(job.plan, job.fold, dataset, job.run, progress=False, **options)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep others away from a fold: a scheduler that loses sight of a worker tries elsewhere."""
    until = time.monotonic() + PATIENCE
    with contextlib.ExitStack() as held:
        while True:
            try:
                held.enter_context(_files.sole_writer(folder))
                break
            except _files.BusyError:
                # a file system over the network may take a while to notice that a machine is gone
                if time.monotonic() >= until:
                    raise
                time.sleep(0.5)
        yield


def own_device(device: str, worker: object) -> str:
    """The GPU of a worker by its number, where there are several to choose from."""
    count = torch.cuda.device_count()
    if device in ("auto", "cuda") and count > 1 and str(worker).isdigit():
        return f"cuda:{int(str(worker)) % count}"
    return device


# --- Dask ---------------------------------------------------------------------------------------

SETTINGS: Mapping[str, Any] = {
    "distributed.scheduler.allowed-failures": TRIES,
    # a job that waits at a worker would be blamed for its death, too
    "distributed.scheduler.worker-saturation": 1.0,
    # or a machine too busy to start a worker anew within 15 s would never do it
    "distributed.deploy.lost-worker-timeout": "1 hour",
    # Dask has a worker give memory back at once; training takes it again at each step, which on a
    # virtual machine took a third of its time
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None,
    # no web pages, and what is left of their server for this machine alone
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
}


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
    logger = logging.getLogger("distributed")
    before = logger.level
    with contextlib.ExitStack() as stack:
        if scheduler is None:
            stack.enter_context(dask.config.set(SETTINGS))
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
            stack.callback(logger.setLevel, before)
            logger.setLevel(logging.CRITICAL)
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


def own_threads(workers: int) -> int:
    """Threads for each of so many workers on this machine."""
    there = hasattr(os, "sched_getaffinity")  # on a shared machine fewer than os.cpu_count()
    cores = len(os.sched_getaffinity(0)) if there else os.cpu_count() or 1
    return max(1, cores // workers)


def as_completed(client: Any, futures: Iterable[Any]) -> Iterator[Any]:
    """Futures as they end; RuntimeError if workers of this machine do not come back."""
    completed = import_module("distributed").as_completed(futures, loop=client.loop)
    seen = asked = time.monotonic()
    while completed.count():
        yield from (batch := completed.next_batch(block=False))
        if not batch:
            time.sleep(0.2)
        if time.monotonic() - asked < 10:
            continue
        asked = time.monotonic()
        # workers elsewhere may wait in the queue of a cluster for days
        if client.cluster is None or client.scheduler_info(n_workers=1)["workers"]:
            seen = time.monotonic()
        elif time.monotonic() - seen > RETURNING:
            raise RuntimeError("all workers are gone; the same command goes on where they were")


def why(future: Any) -> BaseException | str:
    """Why a future that has ended gave nothing."""
    if future.status == "cancelled":
        return "the scheduler is gone, or has given it up"
    error: BaseException = future.exception()
    if isinstance(error, import_module("distributed").KilledWorker):
        return f"its worker died {error.allowed_failures + 1} times (out of memory?)"
    return error
