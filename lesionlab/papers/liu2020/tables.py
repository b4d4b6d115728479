"""Liu 2020: its Tables I to IV beside ours, and the linear comparators of Table III.

Scores and predictions are those of `lesionlab.training.outcomes.Outcome`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from scipy import ndimage
from sklearn.linear_model import ElasticNetCV, LassoCV, LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from lesionlab import published
from lesionlab.crops import Crop, Tier
from lesionlab.packing import segment_sum
from lesionlab.papers import _shared
from lesionlab.papers.liu2020 import ATTRIBUTES, TABLES, Design, Network
from lesionlab.statistics.agreement import one_against_rest, pairwise_difference
from lesionlab.statistics.baselines import diameter_classifier, ratings_classifier
from lesionlab.statistics.importance import recursive_feature_elimination
from lesionlab.statistics.paired import paired_auc
from lesionlab.statistics.scoring import score_binary

if TYPE_CHECKING:
    from lesionlab.training.studies import Trained

MEASURES = ("accuracy", "sensitivity", "specificity", "auc")
"""The columns of Table II; the paper prints the first three in per cent."""


LIKE_FOR_LIKE = "One reader against the others' mean"


def layers(size: int = 224) -> pd.DataFrame:
    """Table I as printed, with our ResNet-50's `output` (channels × pixels²) and `parameters`."""
    net: Any = Network(Design(pretrained=False)).eval()
    first, last, heads = list(net.backbone.early), list(net.backbone.late), net.heads
    parts = [first[:3], *([layer] for layer in (*first[3:], *last))]
    x, outputs, counts = torch.zeros(1, 3, size, size), [], []
    with torch.no_grad():
        for part in parts:
            x = nn.Sequential(*part)(x)
            outputs.append(f"{x.shape[1]} × {x.shape[-1]}²")
            counts.append(_count(*part))
    linear = (heads.attributes, heads.scores, heads.classifier)
    outputs += [str(x.shape[1]), *(str(layer.out_features) for layer in linear)]
    counts += [0, *map(_count, linear)]
    return published.table("liu2020", "I").assign(output=outputs, parameters=counts)


def _count(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def classification(
    runs: Mapping[str, pd.DataFrame], *, tier: Tier, rows: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Table II with our numbers beside it: `runs` are variant to scores, all on the same lesions.

    `rows` say which variant stands in which row; by default the paper's ResNet-50.
    """
    wanted = TABLES["II"] if rows is None else rows
    printed = published.table("liu2020", "II").set_index("method").drop(columns="reference")

    def cell(row: Any, column: str) -> tuple[str | None, str, str]:
        return wanted.get(row), column, "malignancy"

    return _shared.beside(printed, runs, cell, columns=MEASURES, percent=MEASURES[:3], tier=tier)


def errors(
    scores: pd.DataFrame,
    *,
    tier: Tier,
    readings: pd.DataFrame | None = None,
    linear: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Table III, mean absolute errors in rating steps, with our numbers beside it.

    Args:
        scores: Of the model, in the row MTMR-Net.
        tier: What its voxels were.
        readings: One row per reading of the same nodules, for the row IB, and below it the error of
            one reader against the others' mean, which is like for like.
        linear: What `mean_errors` gives of `linear`, for the rows LASSO and EN.
    """
    printed = published.table("liu2020", "III").set_index("method").drop(columns="reference")
    others: dict[str, Any] = {} if linear is None else {str(n): e for n, e in linear.items()}
    if readings is not None:
        others["IB"] = pairwise_difference(readings, ATTRIBUTES)["value"]
        others[LIKE_FOR_LIKE] = one_against_rest(readings, ATTRIBUTES)["value"]

    def cell(row: Any, column: str) -> tuple[str | None, str, str]:
        return "model" if row == "MTMR-Net" else None, "mae", column

    return _shared.beside(
        printed, {"model": scores}, cell, columns=ATTRIBUTES, tier=tier, others=others
    )


def importance(predictions: pd.DataFrame, *, readers: bool = False, **how: Any) -> pd.DataFrame:
    """Recursive feature elimination (III.D.1) on the predicted scores, or on the readers' own.

    As `statistics.importance.recursive_feature_elimination`, to which `**how` goes, on the lesions
    of `predictions` whose ratings are all known.
    """
    truths = [f"{name}_truth" for name in ATTRIBUTES]
    rows = predictions.dropna(subset=[*truths, "malignancy_truth"])
    X = rows[truths if readers else list(ATTRIBUTES)].set_axis(list(ATTRIBUTES), axis=1)
    return recursive_feature_elimination(X, rows["malignancy_truth"], groups=rows["patient"], **how)


def relatedness(found: pd.DataFrame, *, tier: Tier) -> pd.DataFrame:
    """Table IV with a table of `importance` beside it."""
    printed = published.table("liu2020", "IV").set_index("attribute")
    numbers = printed[["relatedness", "relatedness_sd", "ranking"]]
    numbers.attrs = printed.attrs
    names = {"importance": "relatedness", "importance_sd": "relatedness_sd", "rank": "ranking"}
    ours = found.rename(columns=names)[list(names.values())].rename_axis("attribute")
    return _shared.joined(numbers, ours, tier=tier)


# --- linear models of simple features (Table III) -----------------------------------------------


def image_features(crops: Iterable[Crop]) -> pd.DataFrame:
    """Simple features of each nodule, by lesion: its size and shape, its HU, those around it.

    Of the voxels that half of the readers outlined. The paper takes its two linear rows from its
    reference 13, whose features are others. Lengths in mm.
    """
    rows = {}
    for crop in crops:
        inside, spacing = crop.consensus(), np.array(crop.spacing)
        hu = crop.hu.astype(float)
        own, voxel = hu[inside], float(spacing.prod())
        extent = [
            float((np.ptp(i) + 1) * mm) for i, mm in zip(inside.nonzero(), spacing, strict=True)
        ]
        volume = len(own) * voxel
        faces = [np.diff(np.pad(inside, 1).astype(int), axis=a) != 0 for a in range(3)]
        surface = sum(f.sum() * voxel / mm for f, mm in zip(faces, spacing, strict=True))
        plane = np.ones((1, 3, 3), bool)
        shell = ndimage.binary_dilation(inside, plane, iterations=3) & ~inside
        edge = inside & ~ndimage.binary_erosion(inside, plane)
        steep = np.hypot(*np.gradient(hu, *spacing[1:], axis=(1, 2)))
        rows[crop.lesion_id] = {
            "log_volume": np.log(volume),
            "height": extent[0], "width": max(extent[1:]), "elongation": max(extent) / min(extent),
            "compactness": np.pi ** (1 / 3) * (6 * volume) ** (2 / 3) / surface,
            "fill": volume / np.prod(extent),
            "hu_mean": own.mean(), "hu_sd": own.std(),
            **{f"hu_{q}": np.percentile(own, q) for q in (5, 50, 95, 100)},
            "hu_around": hu[shell].mean() if shell.any() else hu.mean(),
            "contrast": own.mean() - (hu[shell].mean() if shell.any() else hu.mean()),
            "edge_slope": steep[edge].mean(), "edge_slope_sd": steep[edge].std(),
        }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("lesion_id")


def linear(
    features: pd.DataFrame, table: pd.DataFrame, predictions: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    """LASSO and elastic net (EN) on `image_features`, on the folds and lesions of a run.

    Each fold is predicted from the others, with the penalty that cross-validation chooses there.
    `table` has the ratings. Gives tables like `predictions`, by the paper's name. `KeyError` where
    a lesion has no features.
    """
    how: Any = {"cv": 5, "alphas": 20, "eps": 0.01}
    models = {"LASSO": LassoCV(**how), "EN": ElasticNetCV(l1_ratio=[0.1, 0.5, 0.9], **how)}
    rows = table.loc[features.index].assign(fold=predictions.set_index("lesion_id")["fold"])
    found = {}
    for name, model in models.items():
        said = predictions.set_index("lesion_id")
        for fold, asked in said.groupby("fold"):
            for attribute in ATTRIBUTES:
                truth = rows.loc[rows["fold"] != fold, attribute].dropna()
                fitted = make_pipeline(StandardScaler(), model).fit(
                    features.loc[truth.index], truth
                )
                said.loc[asked.index, attribute] = fitted.predict(features.loc[asked.index])
        found[name] = said.reset_index()
    return found


def mean_errors(said: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """(attribute × model) mean absolute errors in rating steps, of predictions by name."""
    gaps = {
        k: {a: (f[a] - f[f"{a}_truth"]).abs().mean() for a in ATTRIBUTES} for k, f in said.items()
    }
    return pd.DataFrame(gaps).rename_axis("attribute")


def probe(folds: Sequence[Trained]) -> pd.DataFrame:
    """Malignancy by a logistic regression on kept features, on the folds and lesions of a run.

    On the mean of a nodule's slices; each fold is predicted from the others, with the penalty that
    cross-validation by patient chooses there. Beside it the heads show what they add. Gives
    lesion_id, patient, fold, malignancy, and the class under malignancy_truth.
    """
    parts = []
    for fold in folds:
        n, nodule = len(fold.table), fold.samples.nodule
        means = segment_sum(fold.samples.images, nodule, n) / fold.samples.lengths[:, None]
        rows = fold.table[["patient"]].rename_axis("lesion_id").reset_index()
        rows = rows.assign(fold=fold.fold, malignancy_truth=fold.labels[:, 0].numpy())
        parts.append((rows, means.numpy()))
    table = pd.concat([rows for rows, _ in parts], ignore_index=True)
    X, truth = np.concatenate([means for _, means in parts]), table["malignancy_truth"]
    said = pd.Series(np.nan, table.index)
    of = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    grid = {"logisticregression__C": np.logspace(-5, -2, 4)}
    search = GridSearchCV(of, grid, scoring="roc_auc", cv=GroupKFold(3))
    for k in table["fold"].unique():
        learns = (table["fold"] != k).to_numpy()
        search.fit(X[learns], truth[learns], groups=table["patient"][learns])
        said[~learns] = search.predict_proba(X[~learns])[:, 1]
    return table.assign(malignancy=said)


# --- several seeds (`lesionlab.training.sweeps.pooled`) -----------------------------------------


def opponents(run: pd.DataFrame, nodules: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of a pooled run with what says malignancy without an image in place of the model.

    That is the diameter alone, and the readers' other ratings (`statistics.baselines`). `nodules`
    are as `lidc.nodules()`.
    """
    one = run[run["seed"] == run["seed"].min()].set_index("lesion")
    how: Any = {"folds": one["fold"], "labels": one["malignancy_truth"]}
    found = {}
    for name, of in {"diameter": diameter_classifier, "ratings": ratings_classifier}.items():
        said = of(nodules.loc[one.index].rename_axis("lesion_id"), **how)
        found[name] = run.assign(malignancy=run["lesion"].map(said.set_index("lesion_id")["score"]))
    return found


def compared(runs: Mapping[str, pd.DataFrame], **how: Any) -> pd.DataFrame:
    """Each of several pooled runs by name: `MEASURES`, low and high of the AUC, n_groups."""
    rows = {}
    for name, run in runs.items():
        frame = run.rename(columns={"malignancy_truth": "truth", "malignancy": "score"})
        found = score_binary(frame, **how)
        values = {measure: found[measure].value for measure in ("auc", *MEASURES[:3])}
        auc = found["auc"]
        rows[name] = values | {"low": auc.low, "high": auc.high, "n_groups": auc.n_groups}
    order = ["auc", "low", "high", *MEASURES[:3], "n_groups"]
    return pd.DataFrame.from_dict(rows, orient="index")[order]


def roc(run: pd.DataFrame, **how: Any) -> pd.DataFrame:
    """The ROC curve of malignancy, as of `_shared.roc`, of one pooled run."""
    frame = run.rename(columns={"malignancy": "score"})
    return _shared.roc(frame.assign(truth=frame["malignancy_truth"] == 1), **how)


def differences(
    runs: Mapping[str, pd.DataFrame], pairs: Iterable[tuple[str, str]], **how: Any
) -> pd.DataFrame:
    """AUC of the first minus that of the second of each pair, on the same lesions and patients."""
    rows = {f"{a} − {b}": paired_auc(runs[a], runs[b], **how)["difference"] for a, b in pairs}
    return _shared.estimates(rows).rename(columns={"value": "difference"})
