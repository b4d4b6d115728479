"""Many plans on many workers: variants × folds × seeds, through Dask.

    plans = grid("fu2021", table="1", seeds=[0, 1, 2], folds=range(5), preset="book")
    found = sweep(plans, out="runs", workers=4)             # or scheduler="tcp://…:8786"
    found.table                                             # a row per plan
    keep(found, "book/results/fu2021/sweep")                # and later, in a page:
    pooled("book/results/fu2021/sweep")["full"]             # predictions of all seeds

A *job* is one fold of one plan. What is done is on disk, in the folders that `studies.run` uses, so
that the same call made again trains only what is missing. A worker that dies costs the time since
the last checkpoint of its one job: the job goes on from there on another worker.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from tqdm import tqdm

from lesionlab import _files, _names, papers, results
from lesionlab.training.devices import Precision, resolve
from lesionlab.training.folds import RESULT, Dataset, train_folds
from lesionlab.training.outcomes import RESULTS
from lesionlab.training.studies import Plan, finished, load, run
from lesionlab.training.targets import KEYS, long, read_csv, read_predictions, wide, write_csv

SWEEP = "sweep.json"

ARRIVING = 60.0  # seconds until a file that another machine has written must be here
PATIENCE = 120.0  # seconds to wait for a fold that somebody else seems to train
CONNECTING = 5.0  # seconds to wait for a scheduler


def grid(
    paper: str,
    *,
    variants: Sequence[str] | Literal["all"] = (),
    table: str | None = None,
    seeds: Iterable[int] = (0,),
    folds: Iterable[int] | None = None,
    **others: Any,
) -> list[Plan]:
    """Plans for every variant and seed, those of a variant one after the other, each plan once.

    Args:
        paper: The paper's name in the registry: `"fu2021"`.
        variants: By name, or `"all"`; the paper's own if there is neither this nor a table.
        table: The rows of this table of the paper, as in `Paper.tables`.
        seeds: Seeds for weights, order and augmentation.
        folds: Which of the folds to train for; by the preset if None.
        **others: The other fields of `Plan`, the same for all: data, preset, by, ….
    """
    of = papers.get(paper)
    names = list(of.variants) if variants == "all" else list(variants)
    if table is not None:
        _names.one_of("table", table, of.tables)
        names += of.tables[table].values()
    several = list(seeds)
    if not several:
        raise ValueError("seeds=[]: expected at least one")
    first = Plan(paper=paper, folds=None if folds is None else tuple(folds), **others)
    plans = [
        replace(first, variant=name, seed=seed)
        for name in names or [first.variant]
        for seed in several
    ]
    return list(dict.fromkeys(plans))


@dataclass(frozen=True, eq=False)
class Sweep:
    """What came of a sweep.

    Attributes:
        table: One row per plan: paper, variant, seed, folds (done), of (asked for), the headline
            metric of the variant with value, low and high (NaN where a fold is missing), seconds of
            training.
        failures: What is missing, by its folder as seen from that of the sweep: why, in a line.
        path: The JSON file `sweep.json` with all this.
    """

    table: pd.DataFrame
    failures: dict[str, str]
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
    tell: Callable[[str], None] = lambda line: None,
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
        device: `"auto"`, `"cpu"` or `"cuda"`; several GPUs of a machine are shared out.
        threads: PyTorch threads per worker. If None: on this machine those of this process, shared
            out; with a scheduler whatever the worker has (1, unless it was started otherwise).
        precision: `"32-true"` or `"bf16-mixed"`.
        n_resamples: Resamples of patients for the intervals.
        progress: Show a bar.
        tell: Is given a line whenever a job has ended.

    It raises what `studies.load` does, and an ImportError where Dask is not installed, a
    RuntimeError if another sweep is at work in the folder, an OSError if there is no scheduler at
    the address.
    """
    chosen, place = list(plans), Path(out).absolute()
    if not chosen:
        raise ValueError("plans=[]: expected at least one")
    names = [_name(plan) for plan in chosen]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"plans: {twice[0]} is there twice, with other folds")
    _names.whole(1, workers=workers, threads=1 if threads is None else threads)
    if scheduler is None:
        resolve(device)
        threads = threads or max(1, torch.get_num_threads() // workers)
    failures: dict[str, str] = {}

    def failed(name: str, error: BaseException | str) -> None:
        words = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
        # a folder of this machine says nothing in a file of results
        failures[name] = " ".join(words.split()).replace(f"{place}/", "")
        tell(f"{name}: failed")

    def score(plan: Plan) -> None:
        """Score a plan whose folds are all done; a fold of another run is a failure."""
        name, folder = _name(plan), place / _name(plan)
        missing = set(plan.chosen) - set(finished(folder))
        if missing or _scored(folder) or any(job.startswith(f"{name}/") for job in failures):
            return
        how: Any = {"device": "cpu", "precision": precision, "progress": False}
        try:
            run(plan, dataset=dataset_of(plan), folder=folder, n_resamples=n_resamples, **how)
        except Exception as error:
            failed(name, error)

    with _files.sole_writer(place):
        jobs = {
            f"{_name(plan)}/fold-{fold}": (plan, fold) for plan in chosen for fold in plan.chosen
        }
        left = {name: job for name, job in jobs.items() if not (place / name / RESULT).exists()}
        if len(left) < len(jobs):
            tell(f"{len(jobs) - len(left)} of {len(jobs)} runs are done already")
        for plan in chosen:
            score(plan)
        if left:
            bar = tqdm(total=len(left), unit="run", disable=not progress)
            with connect(scheduler, workers) as client, bar:
                if not client.scheduler_info(n_workers=-1)["workers"]:
                    tell("the scheduler has no workers yet: waiting for the first one")
                # here first: what is not set up is told now, and workers find crops that are made
                sets = {(p.paper, p.data, p.data_seed): p for p, _ in left.values()}
                for plan in sets.values():
                    dataset_of(plan)
                work = {
                    name: (plan, fold, place / _name(plan), device, precision, threads)
                    for name, (plan, fold) in left.items()
                }
                for name, error in as_completed(client, train, work):
                    if error is None and not _arrives(place / name / RESULT):
                        error = f"no {RESULT} is here: do the workers see this very folder?"
                    if error is None:
                        tell(f"{name}: done")
                        score(left[name][0])
                    else:
                        failed(name, error)
                    bar.update()
        return _write(chosen, place, failures)


def keep(found: Sweep, folder: str | Path) -> Path:
    """Keep what a sweep predicted, for a page that compares its variants over all seeds.

    `sweep.json` has the table and where it comes from; `VARIANT.csv.gz` has a row for each lesion
    and prediction and a column for each seed, to four digits, so that it stays small. Gives the
    JSON file. `ValueError` if a plan is not done, or the plans were tested on different lesions.
    """
    content = _files.read_json(found.path)
    if lacks := [row["folder"] for row in content["plans"] if row["value"] is None]:
        raise ValueError(f"{lacks[0]} is not done: nothing is kept of the sweep")
    parts = []
    for row in content["plans"]:
        place = found.path.parent / row["folder"]
        entry = _files.read_json(place / RESULTS, sealed=True)["predictions"]
        one = long(read_predictions(place, entry))
        one["truth"] = one["truth"].map("{:.6g}".format).replace("nan", "")
        parts.append(one.assign(variant=row["variant"], seed=str(row["seed"])))
    every = pd.concat(parts)
    plans = every.groupby(KEYS)[["variant", "seed"]].apply(lambda of: len(of.drop_duplicates()))
    if plans.nunique() > 1:
        raise ValueError("plans: they were tested on different lesions")
    place, entries = Path(folder), {}
    keys = [*KEYS, "target", "class", "truth"]
    for variant, some in every.groupby("variant", sort=False):
        rows = some.pivot(index=keys, columns="seed", values="value").reset_index()
        entries[variant] = write_csv(place / f"{variant}.csv.gz", rows, "%.4g")
    return _files.write_json(place / SWEEP, content | {"predictions": entries}, sealed=True)


def pooled(folder: str | Path) -> dict[str, pd.DataFrame]:
    """The predictions that `keep` kept, by variant: those of all seeds, one below the other.

    They are as `Outcome.predictions`, with the columns seed and lesion; `lesion_id` names lesion
    and seed, and each seed's folds have numbers of their own. So whatever is measured within folds
    is a mean over the seeds, and an interval over patients, who are the same for all seeds, is one
    of that mean. Raises what `targets.read_csv` does.
    """
    found = {}
    for variant, entry in _files.read_json(Path(folder) / SWEEP, sealed=True)[
        "predictions"
    ].items():
        rows, seeds = read_csv(Path(folder), entry), []
        for seed in rows.columns.drop([*KEYS, "target", "class", "truth"]):
            one = wide(rows.rename(columns={seed: "value"}))
            one = one.assign(lesion=one["lesion_id"], seed=int(seed))
            one["lesion_id"] += f" seed {seed}"
            seeds.append(one.assign(fold=one["fold"] + 100 * int(seed)))
        found[variant] = pd.concat(seeds, ignore_index=True)
    return found


def _name(plan: Plan) -> str:
    """The folder of a plan as seen from that of the sweep."""
    return f"{plan.paper}/{plan.name}"


def _arrives(path: Path) -> bool:
    """Whether a file is here, or soon: a file system over the network may take a while."""
    until = time.monotonic() + ARRIVING
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.5)
    return path.exists()


def _scored(folder: Path) -> bool:
    """Whether a plan's scores are those of the folds that are there."""
    try:
        there = _files.read_json(folder / RESULTS, sealed=True)["folds"]
        results = [folder / f"fold-{k}" / RESULT for k in finished(folder)]
        here = [_files.read_json(path, sealed=True) for path in results]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(there and there == here)


def _write(plans: Sequence[Plan], out: Path, failures: dict[str, str]) -> Sweep:
    rows = [_summary(plan, out, failures) for plan in plans]
    found = results.provenance(results.ROOT, "distributed")
    content = results.jsonable({**found, "plans": rows, "failures": failures})
    path = _files.write_json(out / SWEEP, content)
    numbers = ["value", "low", "high", "seconds"]
    table = pd.DataFrame(rows)[["paper", "variant", "seed", "folds", "of", "metric", *numbers]]
    table["folds"] = table["folds"].map(len)
    return Sweep(table.astype(dict.fromkeys(numbers, float)), failures, path)


def _summary(plan: Plan, out: Path, failures: dict[str, str]) -> dict[str, Any]:
    """A plan, which folds are done, and its headline score if all are that were asked for."""
    name, folder = _name(plan), out / _name(plan)
    ended = finished(folder)
    done = [k for k in plan.chosen if k in ended and f"{name}/fold-{k}" not in failures]
    metric = plan.experiment.metric
    about = asdict(plan) | {"folder": name, "folds": done, "of": len(plan.chosen)}
    about |= {"metric": metric, **dict.fromkeys(("value", "low", "high", "seconds"))}
    if len(done) == len(plan.chosen) and name not in failures:
        there = _files.read_json(folder / RESULTS, sealed=True)
        folds = there["split"]["trained"]  # others may have been trained before
        about |= {"folds": folds, "of": len(folds), "rests_on": there["data"]}
        about |= {field: there[field] for field in ("seconds", "device")}
        rows = [r for r in there["results"] if (r["predictor"], r["metric"]) == ("model", metric)]
        # the mean over all ratings, or else the first target
        rows.sort(key=lambda row: row["target"] != "mean")
        about |= {end: rows[0][end] for end in ("value", "low", "high") if rows}
    return about


# --- in a worker: one fold at a time -------------------------------------------------------------

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
    """Train a fold in a worker of Dask; `folder` is that of the plan.

    A `BusyError` says that another process keeps training the same fold.
    """
    worker = import_module("distributed").get_worker()
    # a scheduler that loses sight of a worker tries elsewhere while the first one still trains
    alone = _files.sole_writer(folder / f"fold-{fold}", patience=PATIENCE)
    # torch's generators and switches belong to the process: two at a time would mix them up
    with _one_at_a_time, alone:
        if threads is not None:
            torch.set_num_threads(threads)
        train_folds(
            plan.experiment,
            dataset_of(plan),
            recipe=plan.stages,
            folder=folder,
            seed=plan.seed,
            only=[fold],
            device=own_device(device, worker.name),
            precision=precision,
            progress=False,
        )


def own_device(device: str, worker: object) -> str:
    """The GPU of a worker by its number, where there are several to choose from."""
    count = torch.cuda.device_count()
    if device in ("auto", "cuda") and count > 1 and str(worker).isdigit():
        return f"cuda:{int(str(worker)) % count}"
    return device


# --- Dask ---------------------------------------------------------------------------------------

SETTINGS: Mapping[str, Any] = {
    # a job that waits at a worker would be blamed for its death, too
    "distributed.scheduler.worker-saturation": 1.0,
    # or a sweep whose workers do not come back would wait for ever
    "distributed.scheduler.no-workers-timeout": "2 minutes",
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
) -> Iterator[tuple[str, BaseException | str | None]]:
    """Call a function with each job's arguments; gives the jobs that end and why they failed."""
    distributed, topic = import_module("distributed"), f"lesionlab-{time.time_ns()}"
    futures = {
        # keys that share a name are one group to Dask, which then keeps them in a queue
        client.submit(function, *arguments, key=(topic, i), pure=False): name
        for i, (name, arguments) in enumerate(jobs.items())
    }
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
