"""Many plans on many workers: variants × folds × seeds, through Dask.

    plans = grid("fu2021", table="1", seeds=[0, 1, 2], folds=range(5), preset="book")
    found = sweep(plans, out="runs", workers=4)             # or scheduler="tcp://…:8786"
    found.table                                             # a row per plan

A *job* is one fold of one plan. What is done is on disk, in the folders that `studies.run` uses, so
that the same call made again trains only what is missing. A worker that dies costs the time since
the last checkpoint of its one job: the job goes on from there on another worker.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from tqdm import tqdm

import lesionlab
from lesionlab import _files, results
from lesionlab.crops._folders import open_folder
from lesionlab.splits import By
from lesionlab.training._devices import Precision, resolve
from lesionlab.training._sweep_cluster import connect, own_threads
from lesionlab.training._sweep_jobs import Job, folder_of, jobs_of, loaded, train
from lesionlab.training._sweep_summary import as_table, scored, summary
from lesionlab.training.checkpoints import CheckpointError, differences, versions
from lesionlab.training.crossval import RESULT
from lesionlab.training.plans import Plan, study
from lesionlab.training.studies import run

__all__ = ["SWEEP", "Failure", "Sweep", "grid", "sweep"]

SWEEP = "sweep.json"

POLLING, ASKING = 0.2, 10.0
RETURNING = 120.0
"""Seconds that all workers of this machine may be gone; Dask starts them anew in a few."""

ARRIVING = 60.0
"""Seconds until a file that another machine has written must be here."""


def grid(
    paper: str,
    *,
    variants: Sequence[str] | Literal["all"] = (),
    table: str | None = None,
    seeds: Iterable[int] = (0,),
    folds: Iterable[int] | None = None,
    data: str = "phantom",
    preset: str = "book",
    by: By = "patient",
    n_lesions: int | None = None,
    epochs: int | None = None,
    data_seed: int = 0,
) -> list[Plan]:
    """Plans for every variant and seed, those of a variant one after the other.

    Args:
        paper: As its module: `"fu2021"`.
        variants: By name, or `"all"`; the paper's own if there is neither this nor a table.
        table: The rows of this table of the paper, as in `TABLES` of its module.
        seeds: Of weights, order and augmentation.
        folds: As `Plan`; by the preset if None.
        data: As `Plan`.
        preset: As `Plan`.
        by: As `Plan`.
        n_lesions: As `Plan`.
        epochs: As `Plan`.
        data_seed: As `Plan`.

    Returns:
        Each plan once.

    Raises:
        ValueError: As `Plan`, or the paper has no such table.
    """
    of = study(paper)
    names = list(of.variants) if variants == "all" else list(variants)
    if table is not None:
        tables: Mapping[str, Mapping[str, str]]
        tables = getattr(import_module(f"lesionlab.papers.{paper}"), "TABLES", {})
        if table not in tables:
            there = ", ".join(tables) or "none"
            raise ValueError(f"table={table!r}: expected one of {there}, for {paper}")
        names += tables[table].values()
    chosen = None if folds is None else tuple(folds)
    several = list(seeds)
    if not several:
        raise ValueError("seeds=[]: expected at least one")
    plans = [
        Plan(
            paper=paper,
            variant=name,
            data=data,
            preset=preset,
            by=by,
            seed=seed,
            folds=chosen,
            n_lesions=n_lesions,
            epochs=epochs,
            data_seed=data_seed,
        )
        for name in names or [of.variants[0]]
        for seed in several
    ]
    return list(dict.fromkeys(plans))


@dataclass(frozen=True)
class Failure:
    """What did not come to its end.

    Attributes:
        name: Of the plan or the fold: its folder, as seen from the folder of the sweep.
        error: Why, in a line.
    """

    name: str
    error: str


@dataclass(frozen=True, eq=False)
class Sweep:
    """What came of a sweep.

    Attributes:
        table: One row per plan: paper, variant, seed, folds (done), of (asked for), mae and auc
            with their limits (NaN where there is none, or a fold is missing), seconds of training.
            mae is the mean over the ratings of the model's mean absolute errors.
        failures: What is missing, and why.
        begun: How often each fold was begun or gone on with in this call, by its name; once,
            unless its worker died. Folds that were done before are not in it.
        path: The JSON file with all this.
    """

    table: pd.DataFrame
    failures: list[Failure]
    begun: dict[str, int]
    path: Path


def sweep(
    plans: Iterable[Plan],
    *,
    out: str | Path = "runs",
    workers: int = 2,
    scheduler: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    precision: Precision = "32-true",
    n_resamples: int = 2000,
    progress: bool = True,
    tell: Callable[[str], None] | None = None,
) -> Sweep:
    """Train all folds of all plans that are not done yet, and score the plans.

    In a script it has to stand under `if __name__ == "__main__":`, as workers are processes that
    import the script.

    Args:
        plans: As of `grid`.
        out: Where to: the folder of a plan is `out/paper/name`. With workers on other machines it
            is storage that all of them see under the same path.
        workers: Processes on this machine, each with one job at a time.
        scheduler: Address of a Dask scheduler, `tcp://host:8786`, to use its workers instead.
        device: As `loop.fit`; workers of a machine with several GPUs share them out.
        threads: Of torch in each worker. If None: on this machine the cores by the workers, with a
            scheduler whatever the worker has (1, unless it was started otherwise).
        precision: As `loop.fit`.
        n_resamples: Resamples of patients for the intervals.
        progress: Show a bar.
        tell: Is given a line whenever something has happened.

    Returns:
        The scores, and what is missing; also in `sweep.json` under `out`.

    Raises:
        ValueError: An argument is out of range, or the data do not fit, as `studies.load`.
        FileNotFoundError: The data set is not set up.
        ImportError: Dask is not installed.
        RuntimeError: Another sweep is at work in the folder.
        OSError: There is no scheduler at the address, or a file cannot be written.
    """
    chosen = _checked(plans)
    for name, value in (("workers", workers), ("threads", threads)):
        if value is not None and (isinstance(value, bool) or int(value) != value or value < 1):
            raise ValueError(f"{name}={value!r}: expected a whole number, 1 or more")
    if scheduler is None:
        resolve(device)
        threads = threads or own_threads(workers)
    place = Path(out).absolute()
    with open_folder(place).lock():
        todo = _Todo(chosen, place, precision, n_resamples, tell or (lambda line: None))
        if todo.jobs:
            how = {"device": device, "precision": precision, "threads": threads}
            with connect(scheduler, workers) as client:
                todo.train(client, how, progress)
        return todo.write()


def _checked(plans: Iterable[Plan]) -> list[Plan]:
    chosen = list(plans)
    if not chosen:
        raise ValueError("plans=[]: expected at least one")
    for plan in chosen:
        _ = plan.recipe  # a wrong number of epochs is an error now
    twice = [name for name, n in Counter((p.paper, p.name) for p in chosen).items() if n > 1]
    if twice:
        raise ValueError(f"plans: {'/'.join(twice[0])} is there twice, with other folds")
    return chosen


class _Todo:
    """A sweep at work: what is done, what is not, and what went wrong."""

    def __init__(
        self,
        plans: list[Plan],
        out: Path,
        precision: Precision,
        n_resamples: int,
        tell: Callable[[str], None],
    ) -> None:
        self.plans, self.out, self.tell = plans, out, tell
        self.precision, self.n_resamples = precision, n_resamples
        self.patience = ARRIVING
        self.failures: list[Failure] = []
        self.begun: Counter[str] = Counter()
        every = [job for plan in plans for job in jobs_of(plan, out)]
        self.jobs = [job for job in every if not job.done]
        kept = [job for job in every if job.done]
        for job in kept:
            self._check(job)
        if kept:
            tell(f"{len(kept)} of {len(every)} runs are done already")
        for plan in plans:
            self._score(plan)

    def train(self, client: Any, how: dict[str, Any], progress: bool) -> None:
        """Train all jobs, whatever becomes of one of them, and score a plan with its last one."""
        topic = f"lesionlab-{secrets.token_hex(8)}"
        client.subscribe_topic(topic, self._has_begun)
        if not client.scheduler_info(n_workers=-1)["workers"]:
            self.tell("the scheduler has no workers yet: waiting for the first one")
        # here first: what is not set up is told now, and workers find crops that are made
        firsts = {(j.plan.paper, j.plan.data, j.plan.data_seed): j.plan for j in self.jobs[::-1]}
        for plan in firsts.values():
            loaded(plan)
        futures: dict[Any, Job] = {
            # keys that share a name are one group to Dask, which then keeps them in a queue
            client.submit(train, job, topic, **how, key=(topic, i), pure=False): job
            for i, job in enumerate(self.jobs)
        }
        bar = tqdm(total=len(futures), unit="run", disable=not progress)
        try:
            with bar:
                for future in _as_completed(client, futures):
                    self._ended(futures[future], future)
                    bar.update()
        finally:
            if left := [future for future in futures if not future.done()]:
                client.cancel(left)

    def _has_begun(self, event: tuple[float, str]) -> None:
        name = event[1]
        self.begun[name] += 1
        if self.begun[name] > 1:
            self.tell(f"{name}: its worker died; it goes on from its last checkpoint")

    def _ended(self, job: Job, future: Any) -> None:
        error = None if future.status == "finished" else _why(future)
        if error is None and not self._arrived(job):
            error = f"no {RESULT} is here: the workers do not see this folder under {self.out}"
        if error is None:
            # what counts is on disk: to ask the worker for a value could take until it is back
            future.release()
            self.tell(f"{job.name}: done")
            self._score(job.plan)
        else:
            self._failed(job.name, error)

    def _arrived(self, job: Job) -> bool:
        """Whether its result is here; a file system over the network may take a while."""
        until = time.monotonic() + self.patience
        while not job.done:
            if time.monotonic() >= until:
                self.patience = 0.0  # nor will those of the other jobs be
                return False
            time.sleep(0.5)
        return True

    def _failed(self, name: str, error: object) -> None:
        words = str(error) if isinstance(error, str) else f"{type(error).__name__}: {error}"
        # a folder of this machine says nothing in a file of results
        line = " ".join(words.split()).replace(f"{self.out}/", "")
        self.failures.append(Failure(name, line))
        self.tell(f"{name}: failed")

    def _check(self, job: Job) -> None:
        """A finished fold of another run counts as a failure, as it would when it is scored."""
        expected = results.jsonable(
            {
                "fold": job.fold,
                "seed": job.plan.seed,
                "variant": job.plan.model,
                "recipe": job.plan.recipe,
                "precision": self.precision,
                "versions": versions(),
            }
        )
        try:
            there = _files.read_json(job.folder / RESULT)["identity"]
            if words := differences({name: there.get(name) for name in expected}, expected):
                raise CheckpointError(f"is of another run: {'; '.join(words)}. Use another folder")
        except (ValueError, KeyError, TypeError, AttributeError, CheckpointError) as error:
            self._failed(job.name, error)

    def _score(self, plan: Plan) -> None:
        """Score a plan whose folds are all done, unless it has been."""
        folder = folder_of(plan, self.out)
        names = {failure.name for failure in self.failures}
        if not all(job.done and job.name not in names for job in jobs_of(plan, self.out)) or scored(
            folder
        ):
            return
        try:
            run(
                plan,
                loaded=loaded(plan),
                folder=folder,
                n_resamples=self.n_resamples,
                device="cpu",
                precision=self.precision,
                progress=False,
            )
        except Exception as error:
            self._failed(folder.relative_to(self.out).as_posix(), error)

    def write(self) -> Sweep:
        """Put all of it together."""
        failed = {failure.name for failure in self.failures}
        plans = [summary(plan, self.out, failed) for plan in self.plans]
        found = results.provenance(Path(lesionlab.__file__).resolve().parents[1])
        found["versions"]["distributed"] = metadata.version("distributed")
        content = {
            **found,
            "plans": plans,
            "begun": self.begun,
            "failures": self.failures,
        }
        path = _files.write_json(self.out / SWEEP, results.jsonable(content))
        return Sweep(as_table(plans), self.failures, dict(self.begun), path)


def _as_completed(client: Any, futures: Iterable[Any]) -> Iterator[Any]:
    """Futures as they end; RuntimeError if workers of this machine do not come back."""
    completed = import_module("distributed").as_completed(futures, loop=client.loop)
    seen = asked = time.monotonic()
    while completed.count():
        yield from (batch := completed.next_batch(block=False))
        if not batch:
            time.sleep(POLLING)
        if time.monotonic() - asked < ASKING:
            continue
        asked = time.monotonic()
        # workers elsewhere may wait in the queue of a cluster for days
        if client.cluster is None or client.scheduler_info(n_workers=1)["workers"]:
            seen = time.monotonic()
        elif time.monotonic() - seen > RETURNING:
            raise RuntimeError("all workers are gone; the same command goes on where they were")


def _why(future: Any) -> BaseException | str:
    if future.status == "cancelled":
        return "the scheduler is gone, or has given it up"
    error: BaseException = future.exception()
    if isinstance(error, import_module("distributed").KilledWorker):
        return f"its worker died {error.allowed_failures + 1} times (out of memory?)"
    return error
