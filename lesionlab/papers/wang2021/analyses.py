"""What is made of trained models: masks and floors case by case, cases before and after, ROC, SVM.

    cases = segmentations(folds)                 # Dice of each nodule, floors beside it
    between(cases, readers(masks))               # the network between floor and readers
    before_after(cascade_folds, joint_folds)     # Fig. 6
    on_predicted_masks(masked_folds, cascade_folds)    # the classifiers of Table 4

Folds are those of `lesionlab.training.studies.trained`, predictions those of an `Outcome`; `tables`
has the paper's tables.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from scipy import stats
from skimage import feature
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from lesionlab.crops import Crop
from lesionlab.crops.sampling import Samples, from_unit, locate
from lesionlab.papers import _shared
from lesionlab.papers.wang2021 import CLASSES, WINDOW, Outputs, Wang2021
from lesionlab.statistics.intervals import Array, Resampling
from lesionlab.statistics.scoring import confusion, multiclass_statistics
from lesionlab.training.loop import fit
from lesionlab.training.recipes import Recipe
from lesionlab.training.targets import KEYS, TRUTH, Target, to_frame

if TYPE_CHECKING:
    from lesionlab.training.studies import Trained

THRESHOLDS = np.arange(-950.0, -325.0, 50.0)
"""HU among which the floor's one threshold is chosen."""

SEGMENTED: Mapping[str, str] = {
    "dice": "network",
    "one_slice": "network, in one slice",
    "box": "ellipsoid",
    "above_box": "network − ellipsoid",
    "own_threshold": "threshold, best of these",
    "above_threshold": "network − threshold",
    "above_own_threshold": "network − threshold, best of these",
}
"""What `between` compares, in words."""

# --- segmentation -------------------------------------------------------------------------------


def outputs(fold: Trained, *, batch_size: int = 32) -> Iterator[tuple[Samples, Outputs]]:
    """Batches of a fold's test lesions, and what its model says of them."""
    model = fold.model()
    for batch in fold.samples.split(batch_size):
        with torch.no_grad():
            found: Outputs = fold.experiment.forward(model, batch)
        yield batch, found


def dice(a: Any, b: Any) -> Any:
    """(nodule,) 2 |a ∩ b| / (|a| + |b|) of masks (nodule, …), 1 where both are empty."""
    a, b = (np.asarray(m, bool).reshape(len(m), -1) for m in (a, b))
    total = a.sum(1) + b.sum(1)
    return np.divide(2 * (a & b).sum(1), total, out=np.ones(len(a)), where=total > 0)


def segmentations(folds: Iterable[Trained]) -> pd.DataFrame:
    """Every tested nodule's Dice coefficient against the readers' consensus, and its floors.

    Real crops end a little beyond the nodule: on each side by its own width in plane, and by a
    slice or none along z. What is beyond is missing, and a network may learn the nodule's place
    from that alone. So there are two other numbers. In one slice, the nodule's largest, the end
    along z says nothing. And a mask that is made from the nodule's box alone says how much of a
    Dice the box gives away: the ellipsoid that fits into it.

    Returns:
        Index lesion_id; columns patient, fold, dice, one_slice, threshold (see `floors`), box, and
        subsolid where the table has it.
    """
    parts = []
    for fold in folds:
        rows = fold.table[["patient", *({"subsolid"} & set(fold.table))]].assign(fold=fold.fold)
        found: dict[str, list[Any]] = {"dice": [], "one_slice": []}
        for batch, said in outputs(fold):
            if said.segmentation is None:
                raise ValueError(f"variant={fold.experiment.variant!r}: it has no segmentation")
            masks: Any = batch.masks
            known, truth = masks.isfinite().numpy(), (masks > 0.5).numpy()
            predicted = (said.segmentation > 0).numpy() & known
            at = truth.sum((1, 3, 4)).argmax(1)
            lesions = np.arange(len(at))
            found["dice"].append(dice(predicted, truth))
            found["one_slice"].append(dice(predicted[lesions, 0, at], truth[lesions, 0, at]))
        named = {name: np.concatenate(values) for name, values in found.items()}
        parts.append(rows.assign(**named).join(floors(fold.samples)))
    return pd.concat(parts).rename_axis("lesion_id")


class _Still(Wang2021):
    """Nodules as they are, every time."""

    def augment(self, samples: Samples, generator: torch.Generator) -> Samples:
        return samples


def overfitted(samples: Samples, *, epochs: int = 80, seed: int = 0, **how: Any) -> pd.DataFrame:
    """Can the segmentation learn a few nodules by heart? It is tested on those that it learns.

    A network that cannot do that cannot do anything. Half the width, no augmentation.

    Args:
        samples: Of some nodules, with masks.
        epochs: How often each is seen.
        seed: How the weights begin.
        how: Other arguments of `fit`: progress.

    Returns:
        Index epoch; columns loss, and dice, the mean over the nodules.
    """
    again = replace(samples, lesion_ids=tuple(f"{name}, again" for name in samples.lesion_ids))
    recipe = Recipe(epochs=epochs, batch_size=4, lr=3e-3, select_by="dice")
    masks = torch.ones(len(samples.lesion_ids), 1)
    parts: Any = {"training": (samples, masks), "validation": (again, masks)}
    course = fit(_Still("segmentation_narrow"), recipe=recipe, seed=seed, **parts, **how).history
    return course.rename(columns={"validation_dice": "dice"})[["loss", "dice"]]


def floors(samples: Samples) -> pd.DataFrame:
    """What needs no network, inside of the box of the consensus: index lesion_id.

    `threshold_…` is the Dice coefficient of the voxels above so many HU, for each of `THRESHOLDS`;
    `box` that of the ellipsoid that fits into the box.
    """
    rows = {}
    images = from_unit((samples.images + 1) / 2, WINDOW).numpy()
    for lesion, hu, mask in zip(samples.lesion_ids, images, _masks(samples), strict=True):
        at = np.argwhere(mask[0])
        low, high = at.min(0), at.max(0) + 1
        box = (slice(None), *map(slice, low, high))
        inside, hu = mask[box][0], hu[box][0]
        # from -1 to 1 along each side, at the middles of the voxels
        r = sum(c**2 for c in np.meshgrid(*((2 * np.arange(n) + 1) / n - 1 for n in inside.shape),
                                          indexing="ij"))  # fmt: skip
        above = hu[None] > THRESHOLDS.reshape(-1, 1, 1, 1)
        values = dice(above, np.broadcast_to(inside, above.shape))
        named = {f"threshold_{hu:g}": v for hu, v in zip(THRESHOLDS, values, strict=True)}
        rows[lesion] = {"box": dice(r[None] <= 1, inside[None])[0], **named}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("lesion_id")


def _masks(samples: Samples) -> Any:
    if samples.masks is None:
        raise ValueError("samples: expected masks, got none")
    return (samples.masks > 0.5).numpy()


def readers(masks: Mapping[str, npt.NDArray[np.bool_]]) -> pd.Series[float]:
    """By lesion, the mean Dice coefficient of all pairs of readers, in the scan's own voxels.

    `masks` are (reader, z, y, x) by lesion_id. NaN for a lesion with one reader.
    """
    found = {}
    for lesion_id, drawn in masks.items():
        pairs = [*itertools.combinations(range(len(drawn)), 2)]
        both = [dice(drawn[[a]], drawn[[b]])[0] for a, b in pairs]
        found[lesion_id] = float(np.mean(both)) if both else np.nan
    return pd.Series(found, name="readers").rename_axis("lesion_id")


def between(
    cases: pd.DataFrame, pairs: pd.Series[float] | None = None, **how: Unpack[Resampling]
) -> pd.DataFrame:
    """Mean Dice coefficients of the network, of its floors, and of pairs of readers.

    `cases` is what `segmentations` gives, `pairs` what `readers` gives. `threshold` is the one with
    the best mean over all these nodules, `own_threshold` the best for each group: both have seen
    the nodules, and the network has not.

    Returns:
        Index (nodules, what), nodules being all, sub-solid and solid where that is known; columns
        value, low, high (over patients), n, n_groups. `above_…` are the differences between the
        network and a floor, on the same nodules.
    """
    by_threshold = cases.filter(like="threshold_")
    best = str(by_threshold.mean().idxmax())
    frame = cases[["dice", "one_slice", "box"]].assign(threshold=by_threshold[best])
    if pairs is not None:
        frame = frame.assign(readers=pairs.reindex(frame.index))
    groups = {"all": pd.Series(True, frame.index)}
    if "subsolid" in cases:
        groups |= {"sub-solid": cases["subsolid"], "solid": ~cases["subsolid"]}
    parts = {}
    for name, inside in groups.items():
        some = frame[inside.to_numpy(dtype=bool)].dropna()
        own = by_threshold.loc[some.index]
        some = some.assign(own_threshold=own[own.mean().idxmax()])
        for floor in ("threshold", "own_threshold", "box"):
            some[f"above_{floor}"] = some["dice"] - some[floor]
        parts[name] = _shared.ratios(some, 1.0, cases.loc[some.index, "patient"], **how)
    found = pd.concat(parts, names=["nodules", "what"])
    found.attrs["threshold"] = float(best.removeprefix("threshold_"))
    return found


# --- masks and classes --------------------------------------------------------------------------


def before_after(before: Iterable[Trained], after: Iterable[Trained]) -> pd.DataFrame:
    """Each nodule's mask and class before and after joint training: models (c) and (d) (Fig. 6).

    Returns:
        Index lesion_id; columns patient, dice_before, dice_after, and score_before, score_after:
        the probability of the true class. `ValueError` if the lesions differ.
    """
    parts = []
    for first, second in zip(before, after, strict=True):
        if first.samples.lesion_ids != second.samples.lesion_ids:
            raise ValueError(f"fold {first.fold}: before and after are not on the same lesions")
        rows = first.table[["patient"]].copy()
        for when, fold in (("before", first), ("after", second)):
            target, counts = fold.experiment.targets[0], slice(-3, None)
            said = fold.predict(device="cpu")
            at = target.positions(fold.labels[:, 0])
            p = said.gather(1, at.clamp(min=0)[:, None])[:, 0]
            both, predicted, truth = said[:, counts].unbind(1)
            rows[f"dice_{when}"] = (2 * both / (predicted + truth)).numpy()
            rows[f"score_{when}"] = p.where(at >= 0, torch.nan).numpy()
        parts.append(rows)
    return pd.concat(parts).rename_axis("lesion_id")


def on_predicted_masks(
    classifiers: Iterable[Trained], segmenters: Iterable[Trained]
) -> pd.DataFrame:
    """What classifiers of true masks say where the masks are predicted ones (Table 4).

    Args:
        classifiers: Folds of model (b).
        segmenters: The same folds of a model with a segmentation; other lesions of theirs, which
            have no class, are left out.

    Returns:
        Predictions of the class. `ValueError` if a lesion was not tested by both.
    """
    parts = []
    for classifier, segmenter in zip(classifiers, segmenters, strict=True):
        ids = classifier.samples.lesion_ids
        if missing := set(ids) - set(segmenter.samples.lesion_ids):
            raise ValueError(f"segmenters: fold {segmenter.fold} has not tested {min(missing)!r}")
        inside = torch.cat([said.segmentation.sigmoid() for _, said in outputs(segmenter)])  # type: ignore[union-attr]
        where = [segmenter.samples.lesion_ids.index(i) for i in ids]
        model, found = classifier.model(), []
        low = 0
        for batch in classifier.samples.split(32):
            masks: Any = batch.masks
            predicted = inside[where[low : (low := low + len(masks))]]
            given = torch.cat([batch.images, predicted.where(masks.isfinite(), torch.nan)], dim=1)
            with torch.no_grad():
                found.append(classifier.experiment.predict(model(given)))
        rows = classifier.table["patient"].astype(str).rename_axis("lesion_id").reset_index()
        rows = rows.assign(fold=classifier.fold)
        parts.append(
            to_frame(classifier.experiment.targets, rows, torch.cat(found), classifier.labels)
        )
    return pd.concat(parts, ignore_index=True)


def class_frame(predictions: pd.DataFrame, task: str) -> tuple[pd.DataFrame, Target]:
    """Predictions of a task's classes as `statistics.scoring` takes them, and the target.

    Columns `KEYS`, truth (a code), and a probability under each code; lesions without a class are
    left out.
    """
    target = Wang2021(f"raw_{task}").targets[0]
    known = predictions.dropna(subset=target.name + TRUTH)
    frame = known[KEYS].assign(truth=known[target.name + TRUTH].astype(int))
    frame[list(target.codes)] = known[list(target.columns)].to_numpy()
    return frame, target


def confusion_of(predictions: pd.DataFrame, task: str) -> pd.DataFrame:
    """How many of each class (row) were called what (column), under their names (Fig. 4)."""
    frame, target = class_frame(predictions, task)
    names = pd.Index(target.classes)
    return confusion(frame, target.codes).set_axis(names, axis=0).set_axis(names, axis=1)


def roc(
    predictions: pd.DataFrame, task: str, *, points: int = 101, **how: Unpack[Resampling]
) -> pd.DataFrame:
    """The ROC curve of a task of two classes, with its band over patients (Fig. 5).

    Index and columns are those of `_shared.roc`.
    """
    frame, target = class_frame(predictions, task)
    if len(target.codes) != 2:
        raise ValueError(f"task={task!r}: a ROC curve needs two classes, got {target.classes}")
    scored = frame.assign(score=frame[1], truth=frame["truth"] == 1)
    return _shared.roc(scored, points=points, **how)


def compare(
    predictions: pd.DataFrame, others: pd.DataFrame, task: str, **how: Unpack[Resampling]
) -> pd.DataFrame:
    """One model minus another on the same nodules, both weighed by the same draws of patients.

    Index measure: accuracy, mcc, weighted_f1, macro_f1, auc; columns value, low, high, n, n_groups.
    `ValueError` if the nodules or their folds differ.
    """
    frame, target = class_frame(predictions, task)
    second = class_frame(others, task)[0].set_index("lesion_id")
    second = second.reindex(frame["lesion_id"]).reset_index()
    if len(second) != len(class_frame(others, task)[0]) or not second[KEYS].equals(
        frame[KEYS].reset_index(drop=True)
    ):
        raise ValueError("others: expected predictions of the same lesions and folds")
    one, two = (multiclass_statistics(f, target.codes) for f in (frame, second))

    def statistics(weights: Array) -> dict[Any, Array]:
        a, b = one(weights), two(weights)
        return {k: a[k] - b[k] for k in ("accuracy", "mcc", "weighted_f1", "macro_f1", "auc")}

    return _shared.intervals(statistics, frame["patient"], **how).rename_axis("measure")


# --- hand-made features -------------------------------------------------------------------------


def features(crops: Iterable[Crop], *, levels: int = 16) -> pd.DataFrame:
    """What can be measured inside of the consensus without a network: index lesion_id.

    Reference 10 of the paper has 57 features and prints no list that we have. Here are size and
    form, moments and percentiles of HU, and texture: the co-occurrence of neighbouring HU in plane
    (Haralick et al. 1973), in `levels` steps of HU, over all slices and four directions.
    """
    rows = {}
    for crop in crops:
        lesion = locate(crop)
        inside, hu = lesion.inside, crop.hu.astype(float)
        own = np.clip(hu[inside], *WINDOW)
        extent = (lesion.high - lesion.low) * np.array(crop.spacing)
        volume = float(inside.sum() * np.prod(crop.spacing))
        rows[crop.lesion_id] = {
            "diameter": lesion.equivalent_diameter,
            "volume": volume,
            **dict(zip(("extent_z", "extent_y", "extent_x"), extent, strict=True)),
            "fill": volume / float(np.prod(extent)),
            "hu_mean": own.mean(),
            "hu_sd": own.std(),
            "hu_skew": float(np.nan_to_num(stats.skew(own))),
            "hu_kurtosis": float(np.nan_to_num(stats.kurtosis(own))),
            **{f"hu_{q}": np.percentile(own, q) for q in (5, 25, 50, 75, 95)},
            "share_solid": (own > -300).mean(),
            "mass": volume * (own.mean() + 1000) / 1000,
            **_texture(hu, inside, levels),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("lesion_id")


def _texture(hu: Any, inside: Any, levels: int) -> dict[str, float]:
    texture: Any = feature  # without types
    share = (np.clip(hu, *WINDOW) - WINDOW[0]) / (WINDOW[1] - WINDOW[0])
    steps = np.where(inside, 1 + np.minimum((share * levels).astype(int), levels - 1), 0)
    angles = [k * np.pi / 4 for k in range(4)]
    counts: Any = sum(
        texture.graycomatrix(plane.astype(np.uint8), [1], angles, levels + 1, symmetric=True)
        for plane in steps[inside.any((1, 2))]
    )[1:, 1:]  # without what is outside
    pairs = counts.sum(axis=-1, keepdims=True).astype(float)  # all directions alike
    names = ("contrast", "dissimilarity", "homogeneity", "energy", "correlation")
    # a nodule of single pixels has no neighbours
    pairs = pairs if pairs.sum() else np.ones_like(pairs)
    return {name: float(texture.graycoprops(pairs / pairs.sum(), name)[0, 0]) for name in names}


def svm(
    measured: pd.DataFrame, labels: pd.Series[float], predictions: pd.DataFrame, task: str
) -> pd.DataFrame:
    """A support vector machine on `features`, on the lesions and folds of a run (Table 6).

    Args:
        measured: What `features` gives, of all lesions of the data set.
        labels: The codes of `wang2021.codes`.
        predictions: Those of a run on the task: which lesions each fold tests.
        task: Whose classes.

    Returns:
        Predictions whose columns are decision values, the largest of the class that is called.
    """
    frame, target = class_frame(predictions, task)
    parts = []
    for _, tested in frame.groupby("fold"):
        truth = labels.drop(tested["lesion_id"], errors="ignore").dropna()
        truth = truth[truth.index.isin(measured.index)]
        model = make_pipeline(StandardScaler(), SVC(break_ties=True, decision_function_shape="ovr"))
        model.fit(measured.loc[truth.index], truth)
        said = model.decision_function(measured.loc[tested["lesion_id"]])
        said = np.stack([-said, said], axis=1) if said.ndim == 1 else said
        columns = pd.DataFrame(-np.inf, tested.index, list(target.columns))
        columns[[target.columns[int(code)] for code in model.classes_]] = said
        parts.append(tested[KEYS].join(columns).assign(**{target.name + TRUTH: tested["truth"]}))
    return pd.concat(parts, ignore_index=True)


def summary(folds: Iterable[Trained], predictions: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """What is kept of a run: Dice and floors of each nodule, and calls against classes.

    Of a segmentation of real nodules also `overfitted`, on sixteen that it was tested on.
    """
    every: Sequence[Trained] = list(folds)
    found, design = {}, every[0].experiment.design  # type: ignore[attr-defined]
    if design.segments:
        cases = segmentations(every).reset_index()
        of_class = [n for n in cases if not (design.task and str(n).startswith("threshold_"))]
        found["cases"] = cases[of_class].round(4)  # a file of all folds stays below 1 MB
        first, ids = every[0], every[0].samples.lesion_ids[:16]
        tiers = {crop.tier for crop in first.crops(ids)} if first.crops else set()
        if not design.task and tiers == {"volumes"}:
            found["overfitted"] = overfitted(first.samples.select(range(len(ids)))).reset_index()
    if design.task:
        table = confusion_of(predictions, design.task).rename_axis("truth").reset_index()
        found["confusion"] = table[["truth", *CLASSES[design.task]]]
    return found
