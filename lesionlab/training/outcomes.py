"""What came of a run: scores beside their baselines, and where they come from.

    studies.keep(plan, outcome, "book/results/fu2021", dataset=dataset)
    found = kept(chapter.results(), data="slices", by="patient")
    found["full"].scores

A kept file `NAME.json` has the scores, the folds, the provenance and what the paper's analysis says
of the trained models; `NAME.csv.gz` has the predictions. Neither has weights. Where a variant was
run in several ways, the run on more folds counts, then the one of more epochs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from lesionlab import __version__, _files
from lesionlab.statistics import baselines as predictors
from lesionlab.statistics import scoring
from lesionlab.statistics.intervals import Estimate
from lesionlab.training.targets import KEYS, Target, Targets, read_predictions

RESULTS = "results.json"
PREDICTIONS = "predictions.csv"
ENDS = ("value", "low", "high", "n", "n_groups")  # of an `Estimate`, in a row of scores
MEAN = Target("mean")  # over the ratings


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """A run that is done, or one that was kept.

    Attributes:
        predictions: One row per lesion, each predicted by a model that has not seen it:
            lesion_id, patient, fold, the predictions under `targets.columns`, and the truths under
            `…_truth`.
        scores: One row per target, predictor (`model` and the baselines) and metric: value, low,
            high, n lesions, n_groups patients, and the mean and standard deviation over the folds
            (fold_mean, fold_sd). The target `mean` is the mean over the ratings.
        about: All that is in the JSON file.
        path: The JSON file with all but the predictions, which are in a CSV file beside it.
    """

    predictions: pd.DataFrame
    scores: pd.DataFrame
    about: dict[str, Any]
    path: Path

    @property
    def folds(self) -> list[dict[str, Any]]:
        """What `result.json` of each fold says: counts, best epoch, metric, history, seconds."""
        return list(self.about["folds"])

    @property
    def variant(self) -> str:
        """Which model."""
        return str(self.about["variant"])

    @property
    def epochs(self) -> int:
        """Epochs of the recipe, over all its stages."""
        recipe = self.about["recipe"]
        stages = recipe if isinstance(recipe, list | tuple) else [recipe]
        return sum(int(stage["epochs"]) for stage in stages)

    def table(self, name: str) -> pd.DataFrame:
        """One table of the paper's analysis, its first column as the index."""
        rows = pd.DataFrame(self.about["analysis"][name])
        return rows.set_index(rows.columns[0])


# --- scores -------------------------------------------------------------------------------------


def score(
    predictions: pd.DataFrame,
    table: pd.DataFrame,
    labels: torch.Tensor,
    targets: Targets,
    *,
    n_resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Score a model and its baselines on the same lesions.

    For each fold, baselines are fitted on the lesions that it does not test. An area under the ROC
    curve is the mean of the folds' own, as networks of different folds are calibrated differently.
    Gives the scores of `Outcome`.

    Args:
        predictions: Those of `Outcome`.
        table: One row per lesion, index `lesion_id`: patient; with `diameter` (mm) there is a
            baseline of the diameter alone, with the readers' ratings one of these.
        labels: (lesion, target), in the order of the table.
        targets: What the columns are.
        n_resamples: Resamples of patients for the intervals.
        seed: Seed of the resamples.
    """
    every: list[tuple[Target, dict[str, pd.DataFrame]]] = []
    for target, label in zip(targets, labels.unbind(1), strict=True):
        truth = pd.Series(label.double().numpy(), index=table.index)
        truth = truth.where(target.known(label).numpy())
        every.append((target, _frames(target, predictions, table, truth)))
    ratings = [frames for target, frames in every if target.kind == "regression"]
    if len(ratings) > 1:
        means = {name: _mean([frames[name] for frames in ratings]) for name in ratings[0]}
        every.append((MEAN, means))
    rows = []
    for target, frames in every:
        for predictor, frame in frames.items():
            folds = [_score(target, part, n_resamples=1) for _, part in frame.groupby("fold")]
            for metric, found in _score(target, frame, n_resamples=n_resamples, seed=seed).items():
                alone = pd.Series([f[metric].value for f in folds if metric in f], dtype=float)
                row = {"target": target.name, "predictor": predictor, "metric": metric}
                row |= {end: getattr(found, end) for end in ENDS}
                rows.append(row | {"fold_mean": alone.mean(), "fold_sd": alone.std()})
    return pd.DataFrame(rows)


def _score(target: Target, frame: pd.DataFrame, **how: Any) -> dict[str, Estimate]:
    if target.kind == "binary":
        return scoring.score_binary(frame, **how)
    if target.kind == "multiclass":
        return scoring.score_multiclass(frame, target.codes, **how)
    if target.kind == "segmentation":
        return scoring.score_dice(frame, **how)
    found = scoring.score_regression(frame, **how)
    # the root of a mean square of mean errors would say nothing, nor would their bias
    return found if target is not MEAN else {k: found[k] for k in ("mae", "mae_constant", "skill")}


def _frames(
    target: Target, predictions: pd.DataFrame, table: pd.DataFrame, truth: pd.Series[float]
) -> dict[str, pd.DataFrame]:
    """The model's predictions of one target, and the baselines', on the lesions with a label."""
    names: Sequence[Any] = {
        "regression": ["prediction"],
        "binary": ["score"],
        "multiclass": target.codes,
        "segmentation": ["intersection", "prediction", "truth"],
    }[target.kind]
    model = predictions[KEYS].assign(truth=predictions["lesion_id"].map(truth))
    model = model[model["truth"].notna()].copy()
    model[[*names]] = predictions.loc[model.index, [*target.columns]].to_numpy()
    if target.kind == "segmentation":
        return {"model": model}
    found: dict[str, list[pd.DataFrame]] = {}
    nodules = table.assign(truth=truth)[truth.notna()].rename_axis("lesion_id")
    for _, tested in model.groupby("fold"):
        inside = pd.Series(nodules.index.isin(tested["lesion_id"]), index=nodules.index)
        for name, said in _baselines(target, nodules, inside.astype(int)).items():
            said = said.set_index("lesion_id").drop(columns=["patient", "fold"])
            found.setdefault(name, []).append(tested[KEYS].join(said, on="lesion_id"))
    frames = {name: pd.concat(parts).loc[model.index] for name, parts in found.items()}
    if target.kind == "regression":
        model["constant"] = frames["constant"]["constant"]
    return {"model": model, **frames}


def _baselines(
    target: Target, nodules: pd.DataFrame, folds: pd.Series[int]
) -> dict[str, pd.DataFrame]:
    """What each baseline predicts, by its name."""
    truth = nodules["truth"]
    if target.kind == "multiclass":
        how: Any = {"folds": folds, "classes": target.codes}
        found = {"majority": predictors.majority_multiclass(nodules, truth, **how)}
        if "diameter" in nodules:
            found["diameter"] = predictors.diameter_multiclass(nodules, truth, **how)
        return found
    if target.kind == "regression":
        rated = nodules.assign(**{target.name: truth})
        found = {"constant": predictors.constant_regression(rated, target.name, folds=folds)}
        if "diameter" in nodules and target.name != "diameter":
            found["diameter"] = predictors.diameter_regression(rated, target.name, folds=folds)
        return found
    found = {"majority": predictors.majority_classifier(nodules, truth, folds=folds)}
    if "diameter" in nodules:
        found["diameter"] = predictors.diameter_classifier(nodules, truth, folds=folds)
    ratings = nodules.reindex(columns=[*predictors.OTHER_RATINGS])
    if target.name == "malignancy" and ratings.notna().all(axis=None):
        found["ratings"] = predictors.ratings_classifier(nodules, truth, folds=folds)
    return found


def _mean(ratings: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Absolute errors as if they were predictions of 0: of each lesion, the mean over its ratings.

    Only the ratings that are known count.
    """
    every = pd.concat(ratings)
    gaps = every[["prediction", "constant"]].sub(every["truth"], axis=0).abs()
    lesions = gaps.assign(truth=0.0).groupby(level=0).mean()
    return lesions.join(every[KEYS].groupby(level=0).first())


# --- files --------------------------------------------------------------------------------------


def trainings(folds: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """How models were trained: a row for each name of one of `Outcome.folds`.

    Columns lesions (in the training part), epochs (that were run), best_epoch, minutes.
    """
    rows = {
        name: {
            "lesions": fold["training"]["lesions"],
            "epochs": len(fold["history"]),
            "best_epoch": fold["best_epoch"],
            "minutes": fold["seconds"] / 60,
        }
        for name, fold in folds.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def kept(folder: str | Path, *, data: str = "slices", by: str = "patient") -> dict[str, Outcome]:
    """The runs that were kept on one data set and one kind of folds, by variant.

    Raises:
        FileNotFoundError: There is no run of this kind in the folder.
        ValueError: A file was written by a version of lesionlab that kept other things.
        CheckpointError: A file of predictions is not the one that its JSON file was written with.
    """
    found: dict[str, Outcome] = {}
    for path in sorted(Path(folder).glob("*.json")):
        about = _about(path)
        if (about["plan"].get("data"), about["plan"].get("by")) != (data, by):
            continue
        one = Outcome(
            predictions=read_predictions(path.parent, about["predictions"]),
            scores=pd.DataFrame(about["results"]),
            about=about,
            path=path,
        )
        other = found.get(one.variant)
        if other is None or (len(one.folds), one.epochs) > (len(other.folds), other.epochs):
            found[one.variant] = one
    if not found:
        raise FileNotFoundError(
            f"{folder} holds no run with data={data!r} and folds by {by!r}. Results that are shown "
            "come with the checkout and the wheel; runs of your own are put into a folder by "
            "`lesionlab train PAPER --keep FOLDER`"
        )
    return found


def _about(path: Path) -> dict[str, Any]:
    about = _files.read_json(path, sealed=True)
    needed = {"plan", "variant", "recipe", "folds", "results", "predictions"}
    missing = sorted(needed - about.keys()) if isinstance(about, dict) else sorted(needed)
    if missing:
        raise ValueError(
            f"{path} does not hold the results of a run as lesionlab {__version__} keeps them: it "
            f"has no {', '.join(missing)}. Train again with --keep, or take the file that came "
            "with this version"
        )
    return dict(about)
