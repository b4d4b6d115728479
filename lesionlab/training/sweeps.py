"""Many plans on many workers: variants × folds × seeds, through Dask.

    plans = grid("fu2021", table="1", seeds=[0, 1, 2], folds=range(5), preset="book")
    found = sweep(plans, out="runs", workers=4)             # or scheduler="tcp://…:8786"
    found.table                                             # a row per plan

A *job* is one fold of one plan. What is done is on disk, in the folders that `studies.run` uses, so
that the same call made again trains only what is missing. A worker that dies costs the time since
the last checkpoint of its one job: the job goes on from there on another worker.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from tqdm import tqdm

import lesionlab
from lesionlab import _files, _names, papers, results
from lesionlab.training.devices import Precision, resolve
from lesionlab.training.folds import RESULT
from lesionlab.training.outcomes import RESULTS
from lesionlab.training.studies import Plan, finished, run
from lesionlab.training.workers import as_completed, connect, dataset_of, train

SWEEP = "sweep.json"

ARRIVING = 60.0  # seconds until a file that another machine has written must be here


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

    Raises:
        ValueError: A field of a plan is out of range, or the paper has no such table.
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
        path: The JSON file with all this.
    """

    table: pd.DataFrame
    failures: dict[str, str]
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

    Returns:
        The scores, and what is missing; also in `sweep.json` under `out`.

    Raises:
        ValueError: An argument is out of range, or the data do not fit the plans.
        FileNotFoundError: The data set is not set up.
        ImportError: Dask is not installed.
        RuntimeError: Another sweep is at work in the folder.
        OSError: There is no scheduler at the address, or a file cannot be written.
    """
    chosen, place = list(plans), Path(out).absolute()
    if not chosen:
        raise ValueError("plans=[]: expected at least one")
    twice = [name for name, n in Counter(map(_name, chosen)).items() if n > 1]
    if twice:
        raise ValueError(f"plans: {twice[0]} is there twice, with other folds")
    for name, value in (("workers", workers), ("threads", threads)):
        if value is not None and (isinstance(value, bool) or int(value) != value or value < 1):
            raise ValueError(f"{name}={value!r}: expected a whole number, 1 or more")
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
                with contextlib.closing(as_completed(client, train, work)) as ended:
                    for name, error in ended:
                        if error is None and not _arrives(place / name / RESULT):
                            error = f"no {RESULT} is here: do the workers see this very folder?"
                        if error is None:
                            tell(f"{name}: done")
                            score(left[name][0])
                        else:
                            failed(name, error)
                        bar.update()
        return _write(chosen, place, failures)


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
        there = _files.read_json(folder / RESULTS)["folds"]
        here = [_files.read_json(folder / f"fold-{k}" / RESULT) for k in finished(folder)]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(there and there == here)


def _write(plans: Sequence[Plan], out: Path, failures: dict[str, str]) -> Sweep:
    rows = [_summary(plan, out, failures) for plan in plans]
    found = results.provenance(Path(lesionlab.__file__).resolve().parents[1])
    found["versions"]["distributed"] = metadata.version("distributed")
    content = results.jsonable({**found, "plans": rows, "failures": failures})
    path = _files.write_json(out / SWEEP, content)
    numbers = ["value", "low", "high", "seconds"]
    table = pd.DataFrame(rows)[["paper", "variant", "seed", "folds", "of", "metric", *numbers]]
    table["folds"] = table["folds"].map(len)
    return Sweep(table.astype(dict.fromkeys(numbers, float)), failures, path)


def _summary(plan: Plan, out: Path, failures: dict[str, str]) -> dict[str, Any]:
    """A plan, which folds are done, and its headline score if all are that were asked for."""
    name, folder = _name(plan), out / _name(plan)
    done = set(plan.chosen) & set(finished(folder))
    done -= {fold for fold in done if f"{name}/fold-{fold}" in failures}
    metric = papers.get(plan.paper).experiment(plan.variant).metric
    about = asdict(plan) | {
        "folder": name,
        "folds": sorted(done),
        "of": len(plan.chosen),
        "metric": metric,
        **dict.fromkeys(("value", "low", "high", "seconds")),
    }
    if len(done) == len(plan.chosen) and name not in failures:
        there = _files.read_json(folder / RESULTS)
        folds = there["split"]["trained"]  # others may have been trained before
        rows = [r for r in there["results"] if (r["predictor"], r["metric"]) == ("model", metric)]
        # the mean over all ratings, or else the first target
        rows.sort(key=lambda row: row["target"] != "mean")
        about |= {end: rows[0][end] for end in ("value", "low", "high") if rows}
        about |= {field: there[field] for field in ("seconds", "device")}
        about |= {"folds": folds, "of": len(folds), "rests_on": there["data"]}
    return about
