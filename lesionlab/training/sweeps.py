"""Many plans on many workers: variants × folds × seeds, through Dask.

    plans = grid("fu2021", table="1", seeds=[0, 1, 2], folds=range(5), preset="book")
    found = sweep(plans, out="runs", workers=4)             # or scheduler="tcp://…:8786"
    found.table                                             # a row per plan

A *job* is one fold of one plan. What is done is on disk, in the folders that `studies.run` uses, so
that the same call made again trains only what is missing. A worker that dies costs the time since
the last checkpoint of its one job: the job goes on from there on another worker.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from tqdm import tqdm

import lesionlab
from lesionlab import _files, papers, results
from lesionlab.splits import By
from lesionlab.training.devices import Precision, resolve
from lesionlab.training.folds import RESULT
from lesionlab.training.outcomes import RESULTS
from lesionlab.training.studies import Plan, finished, run
from lesionlab.training.workers import (
    Job,
    as_completed,
    connect,
    dataset_of,
    own_threads,
    train,
    why,
)

SWEEP = "sweep.json"

ARRIVING = 60.0
"""Seconds until a file that another machine has written must be here."""


def grid(
    paper: str,
    *,
    variants: Sequence[str] | Literal["all"] = (),
    table: str | None = None,
    seeds: Iterable[int] = (0,),
    folds: Iterable[int] | None = None,
    data: str = "",
    preset: str = "book",
    by: By = "patient",
    n_lesions: int | None = None,
    epochs: int | None = None,
    data_seed: int = 0,
) -> list[Plan]:
    """Plans for every variant and seed, those of a variant one after the other.

    Args:
        paper: The paper's name in the registry: `"fu2021"`.
        variants: By name, or `"all"`; the paper's own if there is neither this nor a table.
        table: The rows of this table of the paper, as in `Paper.tables`.
        seeds: Seeds for weights, order and augmentation.
        folds: As in `Plan`, as all that follow.
        data: The data set.
        preset: How long, and on how many lesions.
        by: What the folds are made by.
        n_lesions: In place of the preset's.
        epochs: In place of the recipe's.
        data_seed: Seed of the phantoms.

    Returns:
        Each plan once.

    Raises:
        ValueError: As `Plan`, or the paper has no such table.
    """
    of = papers.get(paper)
    names = list(of.variants) if variants == "all" else list(variants)
    if table is not None:
        if table not in of.tables:
            there = ", ".join(of.tables) or "none"
            raise ValueError(f"table={table!r}: expected one of {there}, for {paper}")
        names += of.tables[table].values()
    several = list(seeds)
    if not several:
        raise ValueError("seeds=[]: expected at least one")
    first = Plan(
        paper=paper, data=data, preset=preset, by=by, n_lesions=n_lesions, epochs=epochs,
        data_seed=data_seed, folds=None if folds is None else tuple(folds),
    )  # fmt: skip
    plans = [
        replace(first, variant=name, seed=seed)
        for name in names or [first.variant]
        for seed in several
    ]
    return list(dict.fromkeys(plans))


@dataclass(frozen=True)
class Failure:
    """A plan or a fold that did not come to its end.

    Attributes:
        name: Its folder, as seen from the folder of the sweep.
        error: Why, in a line.
    """

    name: str
    error: str


@dataclass(frozen=True, eq=False)
class Sweep:
    """What came of a sweep.

    Attributes:
        table: One row per plan: paper, variant, seed, folds (done), of (asked for), the headline
            metric of the variant with value, low and high (NaN where a fold is missing), seconds of
            training.
        failures: What is missing, and why.
        begun: How often each fold was begun or gone on with in this call, by its name; once,
            unless its worker died. Folds that were done before are not in it.
        path: The JSON file with all this.
    """

    table: pd.DataFrame
    failures: list[Failure]
    begun: dict[str, int]
    path: Path

    def over_seeds(self) -> pd.DataFrame:
        """Mean, standard deviation (with n − 1) and number of the seeds, per variant."""
        known = self.table.dropna(subset="value")
        runs = known.groupby(["paper", "variant", "metric"], sort=False)["value"]
        return pd.DataFrame({"mean": runs.mean(), "sd": runs.std(), "n": runs.count()})


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
        plans: What `grid` gave.
        out: Where to: the folder of a plan is `out/paper/name`. With workers on other machines it
            is storage that all of them see under the same path.
        workers: Processes on this machine, each with one job at a time.
        scheduler: Address of a Dask scheduler, `tcp://host:8786`, to use its workers instead.
        device: As in `loop.fit`; workers of a machine with several GPUs share them out.
        threads: PyTorch threads per worker. If None: on this machine the cores by the workers,
            with a scheduler whatever the worker has (1, unless it was started otherwise).
        precision: As in `loop.fit`.
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
    chosen, place = list(plans), Path(out).absolute()
    if not chosen:
        raise ValueError("plans=[]: expected at least one")
    twice = [name for name, n in Counter((p.paper, p.name) for p in chosen).items() if n > 1]
    if twice:
        raise ValueError(f"plans: {'/'.join(twice[0])} is there twice, with other folds")
    for name, value in (("workers", workers), ("threads", threads)):
        if value is not None and (isinstance(value, bool) or int(value) != value or value < 1):
            raise ValueError(f"{name}={value!r}: expected a whole number, 1 or more")
    if scheduler is None:
        resolve(device)
        threads = threads or own_threads(workers)
    with _files.sole_writer(place):
        todo = _Todo(chosen, place, precision, n_resamples, tell or (lambda line: None))
        if todo.jobs:
            how = {"device": device, "precision": precision, "threads": threads}
            with connect(scheduler, workers) as client:
                todo.train(client, how, progress)
        return todo.write()


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
        self.failures: list[Failure] = []
        self.begun: Counter[str] = Counter()
        every = [job for plan in plans for job in self.jobs_of(plan)]
        self.jobs = [job for job in every if not job.done]
        if kept := len(every) - len(self.jobs):
            tell(f"{kept} of {len(every)} runs are done already")
        for plan in plans:
            self._score(plan)

    def jobs_of(self, plan: Plan) -> list[Job]:
        """One job per fold that a plan asks for."""
        return [Job(plan, fold, str(self.out)) for fold in plan.chosen]

    def train(self, client: Any, how: dict[str, Any], progress: bool) -> None:
        """Train all jobs, whatever becomes of one of them, and score a plan with its last one."""
        topic = f"lesionlab-{id(self)}-{time.time_ns()}"
        client.subscribe_topic(topic, self._has_begun)
        if not client.scheduler_info(n_workers=-1)["workers"]:
            self.tell("the scheduler has no workers yet: waiting for the first one")
        # here first: what is not set up is told now, and workers find crops that are made
        for plan in {
            (j.plan.paper, j.plan.data, j.plan.data_seed): j.plan for j in self.jobs
        }.values():
            dataset_of(plan)
        futures = {
            # keys that share a name are one group to Dask, which then keeps them in a queue
            client.submit(train, job, topic, **how, key=(topic, i), pure=False): job
            for i, job in enumerate(self.jobs)
        }
        bar = tqdm(total=len(futures), unit="run", disable=not progress)
        try:
            with bar:
                for future in as_completed(client, futures):
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
        error = None if future.status == "finished" else why(future)
        until = time.monotonic() + ARRIVING
        while error is None and not job.done:  # a file system over the network may take a while
            if time.monotonic() >= until:
                error = f"no {RESULT} is here: the workers do not see this folder under {self.out}"
            time.sleep(0.5)
        if error is not None:
            self._failed(job.name, error)
            return
        # what counts is on disk: to ask the worker for a value could take until it is back
        future.release()
        self.tell(f"{job.name}: done")
        self._score(job.plan)

    def _failed(self, name: str, error: object) -> None:
        words = str(error) if isinstance(error, str) else f"{type(error).__name__}: {error}"
        # a folder of this machine says nothing in a file of results
        line = " ".join(words.split()).replace(f"{self.out}/", "")
        self.failures.append(Failure(name, line))
        self.tell(f"{name}: failed")

    def _score(self, plan: Plan) -> None:
        """Score a plan whose folds are all done; a fold of another run is a failure."""
        jobs = self.jobs_of(plan)
        names = {failure.name for failure in self.failures}
        if scored(jobs[0].run) or not all(job.done and job.name not in names for job in jobs):
            return
        try:
            run(
                plan,
                dataset=dataset_of(plan),
                folder=jobs[0].run,
                n_resamples=self.n_resamples,
                device="cpu",
                precision=self.precision,
                progress=False,
            )
        except Exception as error:
            self._failed(jobs[0].run.relative_to(self.out).as_posix(), error)

    def write(self) -> Sweep:
        """Put all of it together."""
        plans = [self._summary(plan) for plan in self.plans]
        found = results.provenance(Path(lesionlab.__file__).resolve().parents[1])
        found["versions"]["distributed"] = metadata.version("distributed")
        content = {**found, "plans": plans, "begun": self.begun, "failures": self.failures}
        path = _files.write_json(self.out / SWEEP, results.jsonable(content))
        columns = ["paper", "variant", "seed", "folds", "of", "metric", "value", "low", "high"]
        table = pd.DataFrame(plans)[[*columns, "seconds"]]
        table["folds"] = [len(folds) for folds in table["folds"]]
        numbers = dict.fromkeys(("value", "low", "high", "seconds"), float)
        return Sweep(table.astype(numbers), self.failures, dict(self.begun), path)

    def _summary(self, plan: Plan) -> dict[str, Any]:
        """A plan, which folds are done, and its headline score if all are that were asked for."""
        jobs = self.jobs_of(plan)
        failed = {failure.name for failure in self.failures}
        done = [job.fold for job in jobs if job.done and job.name not in failed]
        experiment = papers.get(plan.paper).experiment(plan.variant)
        names = ("paper", "variant", "data", "preset", "by", "seed", "data_seed")
        about = {name: getattr(plan, name) for name in names} | {
            "n_lesions": plan.size,
            "epochs": sum(stage.epochs for stage in plan.stages),
            "folder": jobs[0].run.relative_to(self.out).as_posix(),
            "folds": done,
            "of": len(jobs),
            "metric": experiment.metric,
            **dict.fromkeys(("value", "low", "high", "seconds")),
        }
        if len(done) == len(jobs) and about["folder"] not in failed:
            there = _files.read_json(jobs[0].run / RESULTS)
            about["folds"] = there["split"]["trained"]  # others may have been trained before
            about["of"] = len(about["folds"])
            about |= _headline(there["results"], experiment.metric)
            about |= {name: there[name] for name in ("seconds", "device")}
            about["rests_on"] = there["data"]
        return about


def _headline(rows: list[dict[str, Any]], metric: str) -> dict[str, Any]:
    """The model's score by the metric that selects: over all ratings, or of the first target."""
    own = [row for row in rows if row["predictor"] == "model" and row["metric"] == metric]
    own.sort(key=lambda row: row["target"] != "mean")
    return {name: own[0][name] for name in ("value", "low", "high")} if own else {}


def scored(folder: Path) -> bool:
    """Whether a plan's scores are those of the folds that are there."""
    try:
        there = _files.read_json(folder / RESULTS)["folds"]
        here = [_files.read_json(folder / f"fold-{k}" / RESULT) for k in finished(folder)]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(there and there == here)
