"""What a worker of a sweep does: train one fold of one plan, and nothing twice."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lesionlab.crops._folders import open_folder
from lesionlab.training._devices import Precision
from lesionlab.training.crossval import RESULT, train_folds
from lesionlab.training.plans import Plan, study
from lesionlab.training.studies import Loaded, load

PATIENCE = 120.0
"""Seconds to wait for a fold that somebody else seems to train: a file system over the network may
take a while to notice that a machine is gone."""

_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Job:
    """One fold of one plan.

    Attributes:
        plan: What to train.
        fold: Which of its folds.
        out: The folder of the sweep, absolute.
    """

    plan: Plan
    fold: int
    out: str

    @property
    def run(self) -> Path:
        """The folder of the plan."""
        return folder_of(self.plan, self.out)

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


def folder_of(plan: Plan, out: str | Path) -> Path:
    """Where a plan is trained; under `runs` it is the plan's own folder."""
    return Path(out, plan.paper, plan.name)


def jobs_of(plan: Plan, out: str | Path) -> list[Job]:
    """One job per fold that a plan asks for."""
    return [Job(plan, fold, str(out)) for fold in plan.chosen]


def loaded(plan: Plan) -> Loaded:
    """What a plan trains on; kept, as the next plan often trains on the same."""
    return _load(replace(plan, seed=0, folds=(0,), epochs=None))


@functools.lru_cache(maxsize=1)
def _load(plan: Plan) -> Loaded:
    return load(plan, progress=False)


def train(job: Job, topic: str, *, device: str, precision: Precision, threads: int | None) -> None:
    """Train a fold in a worker of Dask, or go on with it, or see that it is done.

    Args:
        job: Which.
        topic: Of the event that says that training has begun.
        device: As `loop.fit`; where a machine has several GPUs, numbered workers share them out.
        precision: As `loop.fit`.
        threads: Of torch; as they are if None.

    Raises:
        RuntimeError: Another process keeps training the same fold.
        Exception: As `crossval.train_folds` and `studies.load`.
    """
    from distributed import get_worker

    # torch's generators and switches belong to the process: two at a time would mix them up
    with _one_at_a_time:
        if threads is not None:
            torch.set_num_threads(threads)
        with _alone(job):
            # a job is called again also when its worker died after the last file was written
            if not job.done:
                worker = get_worker()
                worker.log_event(topic, job.name)
                _train(job, device=own_device(device, worker.name), precision=precision)


def _train(job: Job, *, device: str, precision: Precision) -> None:
    plan = job.plan
    data = loaded(plan)
    train_folds(
        study(plan.paper).make(plan.model),
        data.samples,
        data.targets,
        data.table,
        data.folds,
        recipe=plan.recipe,
        folder=job.run,
        seed=plan.seed,
        only=[job.fold],
        by=plan.by,
        device=device,
        precision=precision,
        progress=False,
    )


def own_device(device: str, worker: object) -> str:
    """The GPU of a worker by its number, where there are several to choose from."""
    count = torch.cuda.device_count()
    if device in ("auto", "cuda") and count > 1 and str(worker).isdigit():
        return f"cuda:{int(str(worker)) % count}"
    return device


@contextmanager
def _alone(job: Job) -> Iterator[None]:
    """Keep others away from a fold: a scheduler that loses sight of a worker tries elsewhere."""
    until = time.monotonic() + PATIENCE
    folder = open_folder(job.folder)
    while True:
        try:
            lock = folder.lock()
            break
        except RuntimeError:
            if time.monotonic() >= until:
                raise
            time.sleep(0.5)
    with lock:
        yield
