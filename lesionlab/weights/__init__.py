"""Trained models that ship with lesionlab, and the same for models of your own.

    from lesionlab import weights
    model = weights.load("lei2020/hesam", data="slices")        # in evaluation mode
    weights.about("lei2020/hesam", data="slices")["scores"]     # on patients that it has not seen
    fold, outcome = weights.evaluate("lei2020/hesam", data="slices")    # predicts for them, now

One file is one model, `PAPER/VARIANT-DATA.safetensors`: the weights in half precision, or in 8 bits
with a scale for each output channel where they would take more than 5 MB; and, in its header as
JSON, the plan and recipe, the data, commit and versions, the normalisation, the patients
that it has seen and not seen, and its scores. A checksum covers all of it. `lesionlab train
--weights FOLDER` writes such files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from lesionlab import _files, _names, papers
from lesionlab.crops import Crop
from lesionlab.crops.sampling import Samples
from lesionlab.training import checkpoints, studies
from lesionlab.training.checkpoints import CheckpointError, Tensors
from lesionlab.training.folds import Dataset
from lesionlab.training.loop import trained_model
from lesionlab.training.outcomes import Outcome, score
from lesionlab.training.paper import Experiment, unchanged
from lesionlab.training.studies import Plan, Trained

FOLDER = Path(__file__).parent
"""Where the files of lesionlab lie, in a checkout and after `pip install`."""

MOST_BYTES = 10_000_000
HALF_BYTES = 5_000_000  # what is larger in half precision is kept in 8 bits


def names(folder: str | Path = FOLDER) -> list[tuple[str, str]]:
    """Which models are kept in a folder, each with its data: `("fu2021/full", "slices")`."""
    found = sorted(Path(folder).glob("*/*-*.safetensors"))
    split = [(path.parent.name, *path.stem.partition("-")) for path in found]
    return [(f"{paper}/{variant}", data) for paper, variant, _, data in split]


def load(name: str, *, data: str = "phantom", folder: str | Path = FOLDER) -> nn.Module:
    """A kept model in evaluation mode, on the CPU, in single precision.

    Args:
        name: Paper and variant: `"fu2021/full"`.
        data: What it was trained on.
        folder: Where it is kept.

    Raises:
        ValueError: There is no such model in the folder.
        CheckpointError: The file is damaged, of another model, or of another version of it.
    """
    _, weights, plan = _read(name, data, folder)
    return _model(_path(plan, folder), plan, weights)


def about(name: str, *, data: str = "phantom", folder: str | Path = FOLDER) -> dict[str, Any]:
    """How a kept model was trained and how well it does, as `load` finds it.

    `plan`, `recipe`, `data`, `commit`, `versions`, `folds` (of the one fold its number,
    normalisation, course, seconds and device), `scores` (a row per target, predictor and metric),
    and `patients`: those `seen` and `unseen`.
    """
    return _read(name, data, folder)[0]


def evaluate(
    name: str,
    *,
    data: str = "phantom",
    on: str = "",
    folder: str | Path = FOLDER,
    n_lesions: int | None = None,
    n_resamples: int = 2000,
    progress: bool = False,
) -> tuple[Trained, Outcome]:
    """A kept model with the lesions of patients that it has not seen, and its scores on them.

    The baselines are fitted on the patients that the model has seen, whole, as it was.

    Args:
        name: See `load`, which has the errors of the file, too.
        data: What it was trained on.
        on: What it is tested on; the same if empty. Folds are by patient and the same for all data
            sets of a paper, so that the patients are unseen there, too.
        folder: Where it is kept.
        n_lesions: Draw so many of the lesions; all if None, or if there are fewer.
        n_resamples: Resamples of patients for the intervals.
        progress: Show a bar while crops are made.

    Raises:
        FileNotFoundError: The data set is not set up.
    """
    state, weights, plan = _read(name, data, folder)
    path, experiment = _path(plan, folder), plan.experiment
    _model(path, plan, weights)  # refused before minutes go into the samples
    unseen = state["patients"]["unseen"]
    there = replace(plan, data=on or plan.data)
    dataset = studies.load(there, patients=unseen, n_lesions=n_lesions, progress=progress)
    how = normaliser(state, experiment)
    samples, labels = dataset.part(range(len(dataset.table)), how)
    fold = Trained(
        fold=state["folds"][0]["fold"],
        experiment=experiment,
        weights=weights,
        samples=samples.select(range(len(labels))),
        labels=labels,
        table=dataset.table,
        normalise=how,
    )
    predictions = fold.predictions()
    cohort = dataset.cohort.table
    table = cohort[cohort["patient"].isin(state["patients"]["seen"])]
    table = pd.concat([table, dataset.table])
    everyone = papers.get(plan.paper).labels(table, plan.variant)
    scores = score(predictions, table, everyone, experiment.targets, n_resamples=n_resamples)
    return fold, Outcome(predictions=predictions, scores=scores, about=state, path=path)


def given(
    name: str, crops: Iterable[Crop], *, data: str = "phantom", folder: str | Path = FOLDER
) -> Trained:
    """A kept model with crops of your own, whose labels nobody knows; errors as of `load`."""
    state, weights, plan = _read(name, data, folder)
    _model(_path(plan, folder), plan, weights)
    how = normaliser(state, plan.experiment)
    samples = how(papers.get(plan.paper).prepare(iter(crops), plan.variant))
    ids = pd.Index(samples.lesion_ids, name="lesion_id")
    return Trained(
        fold=state["folds"][0]["fold"],
        experiment=plan.experiment,
        weights=weights,
        samples=samples,
        labels=torch.full((len(ids), len(plan.experiment.targets)), torch.nan),
        table=pd.DataFrame({"patient": ""}, index=ids),
        normalise=how,
    )


def normaliser(about: Mapping[str, Any], experiment: Experiment) -> Callable[[Samples], Samples]:
    """What was done to the samples that a kept model learned from; `about` is that of the model."""
    told = about["folds"][0]["normalisation"]
    return unchanged if told is None else experiment.normaliser(**told)


def keep(
    plan: Plan,
    outcome: Outcome,
    folder: str | Path,
    *,
    fold: int | None = None,
    dataset: Dataset | None = None,
) -> Path:
    """Keep the model of one fold of a finished run; a file of the same model is replaced.

    Args:
        plan: What was trained.
        outcome: What `studies.run` gave.
        folder: Where to.
        fold: Which of its folds; the first if None.
        dataset: What `studies.load` gives for the plan; loaded if None.

    Raises:
        ValueError: The run has no such fold, its folds are by nodule, so that its patients are in
            several, the file would be larger than `MOST_BYTES`, or the normalisation could not be
            made again from it (`Experiment.normaliser`).
        OSError: No file can be written in the folder.
    """
    check(plan, folder)
    dataset = studies.load(plan) if dataset is None else dataset
    known = {str(of["fold"]): of for of in outcome.folds}
    chosen = next(iter(known)) if fold is None else str(fold)
    _names.one_of("fold", chosen, known)
    run = known[chosen]
    every = studies.trained(plan, dataset=dataset, folder=outcome.path.parent)
    one = next(model for model in every if model.fold == run["fold"])
    told = run["normalisation"]
    if one.normalise is not unchanged and None in (told, one.experiment.normaliser):
        raise ValueError(
            f"{plan.paper}/{plan.variant}: its normalisation cannot be made again; expected a "
            "dataclass that the experiment names as its normaliser"
        )
    groups = _packed(one.weights, f"{plan.paper}/{plan.variant}")
    said = outcome.predictions[outcome.predictions["fold"] == run["fold"]]
    unseen = sorted(set(one.table["patient"]))
    facts = ("variant", "recipe", "data", "commit", "dirty", "versions")
    state = {
        "plan": asdict(plan),
        "folds": [{k: v for k, v in run.items() if k not in ("identity", "predictions")}],
        **{fact: outcome.about[fact] for fact in facts},
        "patients": {
            "seen": sorted(set(dataset.table["patient"]).difference(unseen)),
            "unseen": unseen,
        },
        "scores": score(said, dataset.table, dataset.labels, one.experiment.targets),
    }
    path = _path(plan, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoints.write(path, state, groups)
    return path


def _packed(weights: Tensors, name: str) -> dict[str, Tensors]:
    """Weights in half precision, or in 8 bits with a scale for each output channel."""
    half: Tensors = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
    if wide := [key for key, values in half.items() if not bool(values.isfinite().all())]:
        raise ValueError(f"{name}: {wide[0]} does not fit half precision")
    if _size(half) <= HALF_BYTES:
        return {"selected": half}
    scales: Tensors = {}
    for key, values in weights.items():
        if values.is_floating_point() and values.ndim > 1:
            largest = values.abs().amax(tuple(range(1, values.ndim)), keepdim=True)
            scales[key] = (largest / 127).clamp(min=torch.finfo(torch.float32).tiny)
            half[key] = (values / scales[key]).round().to(torch.int8)
    if (n := _size(half)) > MOST_BYTES:
        raise ValueError(f"{name}: {n:,} bytes of weights, expected {MOST_BYTES:,} or less")
    return {"selected": half, "scales": scales}


def _size(tensors: Tensors) -> int:
    return sum(values.numel() * values.element_size() for values in tensors.values())


def check(plan: Plan, folder: str | Path) -> None:
    """Refuse, before anything is trained, what `keep` cannot keep or a folder it cannot write to.

    Raises:
        ValueError: The folds are by nodule.
        OSError: No file can be written in the folder.
    """
    if plan.by != "patient":
        raise ValueError(f"by={plan.by!r}: expected folds by patient, as kept scores are of unseen")
    _files.check_writable(folder)


def _path(plan: Plan, folder: str | Path) -> Path:
    return Path(folder, plan.paper, f"{plan.variant}-{plan.data}.safetensors")


def _read(name: str, data: str, folder: str | Path) -> tuple[dict[str, Any], Tensors, Plan]:
    """What a file says, its weights in single precision, and what was trained."""
    paper, _, variant = name.partition("/")
    asked = Plan(paper=paper, variant=variant, data=data)
    path = _path(asked, folder)
    if not path.is_file():
        there = ", ".join(f"{known} on {of}" for known, of in names(folder)) or "none"
        raise ValueError(f"name={name!r}, data={data!r}: not kept in {folder}; there are {there}")
    state, groups = checkpoints.read(path)
    try:
        of = Plan(**state["plan"] | {"folds": None})
        weights, scales = groups["selected"], groups.get("scales", {})
        weights = {k: v.float() if v.is_floating_point() else v for k, v in weights.items()}
        weights |= {key: weights[key].float() * scale for key, scale in scales.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is no kept model: {error!r}") from error
    if (of.paper, of.variant, of.data) != (asked.paper, asked.variant, asked.data):
        raise CheckpointError(f"{path} is of {of.paper}/{of.variant} on {of.data}")
    if wrong := [key for key, values in weights.items() if not bool(values.isfinite().all())]:
        raise CheckpointError(f"{path} is damaged: {wrong[0]} has values that are not finite")
    return state, weights, of


def _model(path: Path, plan: Plan, weights: Tensors) -> nn.Module:
    try:
        return trained_model(plan.experiment, weights)
    except RuntimeError as error:  # names and shapes
        raise CheckpointError(f"{path} is of another version of the model: {error}") from error
