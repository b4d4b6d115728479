"""What a sweep asks of Dask: a scheduler with workers, and in each of them one fold at a time."""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from lesionlab import _files, papers
from lesionlab.training.devices import Precision
from lesionlab.training.folds import Dataset, train_folds
from lesionlab.training.studies import Plan, load

PATIENCE = 120.0  # seconds to wait for a fold that somebody else seems to train
CONNECTING = 5.0  # seconds to wait for a scheduler

_one_at_a_time = threading.Lock()


def dataset_of(plan: Plan) -> Dataset:
    """What a plan trains on; kept, as the next plan often trains on the same."""
    return _load(replace(plan, seed=0, folds=(0,), epochs=None))


@functools.lru_cache(maxsize=1)
def _load(plan: Plan) -> Dataset:
    return load(plan, progress=False)


def train(
    plan: Plan, fold: int, folder: Path, device: str, precision: Precision, threads: int | None
) -> None:
    """Train a fold in a worker of Dask, or go on with it, or see that it is done.

    The arguments are those of `sweeps.sweep`, and `folder` is that of the plan. A `RuntimeError`
    says that another process keeps training the same fold.
    """
    worker = import_module("distributed").get_worker()
    # torch's generators and switches belong to the process: two at a time would mix them up
    with _one_at_a_time, _alone(folder / f"fold-{fold}"):
        if threads is not None:
            torch.set_num_threads(threads)
        train_folds(
            papers.get(plan.paper).experiment(plan.variant),
            dataset_of(plan),
            recipe=plan.stages,
            folder=folder,
            seed=plan.seed,
            only=[fold],
            device=own_device(device, worker.name),
            precision=precision,
            progress=False,
        )


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep others away from a fold: a scheduler that loses sight of a worker tries elsewhere."""
    until = time.monotonic() + PATIENCE
    held = contextlib.ExitStack()
    while True:
        try:
            held.enter_context(_files.sole_writer(folder))
            break
        except _files.BusyError:
            # a file system over the network may take a while to notice that a machine is gone
            if time.monotonic() >= until:
                raise
            time.sleep(0.5)
    with held:
        yield


def own_device(device: str, worker: object) -> str:
    """The GPU of a worker by its number, where there are several to choose from."""
    count = torch.cuda.device_count()
    if device in ("auto", "cuda") and count > 1 and str(worker).isdigit():
        return f"cuda:{int(str(worker)) % count}"
    return device


# --- Dask ---------------------------------------------------------------------------------------

SETTINGS: Mapping[str, Any] = {
    # how often a job is tried again whose worker died
    "distributed.scheduler.allowed-failures": 3,
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
    """A `distributed.Client` of a scheduler at an address, or else of workers on this machine."""
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


def as_completed(
    client: Any, function: Callable[..., None], jobs: Mapping[str, tuple[Any, ...]]
) -> Generator[tuple[str, BaseException | str | None], None, None]:
    """Call a function with the arguments of each job.

    Of each job that has ended come its name and why it came to nothing, None if it did not.
    """
    topic = f"lesionlab-{time.time_ns()}"
    futures = {
        # keys that share a name are one group to Dask, which then keeps them in a queue
        client.submit(function, *arguments, key=(topic, i), pure=False): name
        for i, (name, arguments) in enumerate(jobs.items())
    }
    distributed = import_module("distributed")
    try:
        for future in distributed.as_completed(futures, loop=client.loop):
            error: BaseException | str | None = None
            if future.status == "cancelled":
                error = "the scheduler is gone, or has given it up"
            elif future.status == "error":
                # what counts of others is on disk: to ask for their values could take long
                error = future.exception()
                if isinstance(error, distributed.KilledWorker):
                    times = error.allowed_failures + 1
                    error = f"its worker died {times} times (out of memory?)"
            yield futures[future], error
            future.release()
    finally:
        if left := [future for future in futures if not future.done()]:
            client.cancel(left)
