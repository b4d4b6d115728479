"""What Lei et al. 2020 do with their models (section 4), on runs of `lesionlab.papers.lei2020`.

    fold = next(studies.trained(plan))
    seen = look(fold.experiment, fold.model(), fold.samples)       # all maps that the network has
    drawn = outlines(store.crops(seen.lesion_ids))                 # the readers', where they lie
    shares(where(seen.maps, seen.lesion_ids, drawn), patients)     # on margins? 4.3, 4.4
    classification(outcome.predictions)                            # what Table 2 measures, and more
    compare({"hesam": …, "cam": …})                                # Table 5, and what it leaves out
    beside(2, {"hesam": outcome.scores, …}, tier="phantom")        # Tables 2 to 6
    gallery(7, folds, lesion_id)                                   # Figures 5 to 8

Predictions and scores are those of `lesionlab.training.outcomes.Outcome`; a model is shown by
lesions that it has not seen. The paper judges its maps by eye, on nodules that it chose; here
they are measured over all lesions of a drawn set, against a map that is the same everywhere,
against a network that has learned nothing, and by what the network says when places are taken away.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from lesionlab.crops.sampling import Samples
from lesionlab.papers.lei2020 import Lei2020, duplicate_slice
from lesionlab.papers.lei2020._kept import by_split, head_differences, heads_on_folds, kept_maps
from lesionlab.papers.lei2020._maps import Maps, look, malignancy
from lesionlab.papers.lei2020._measures import (
    LUNG,
    RANDOM,
    against_random,
    faithfulness,
    randomised,
    shares,
    where,
)
from lesionlab.papers.lei2020._outlines import (
    Outlines,
    Pasted,
    lidc_crops,
    masks_of,
    outlines,
    pasted,
    pixel_of,
)
from lesionlab.papers.lei2020._readers import doctors, twenty
from lesionlab.papers.lei2020._tables import BASELINES, IMAGE_SETS, beside, courses, on
from lesionlab.papers.lei2020._tests import (
    MEASURES,
    classification,
    compare,
    mcnemar,
    on_fold,
    signed_rank,
    within_folds,
    without_images,
)
from lesionlab.papers.lei2020._variants import EXACT

if TYPE_CHECKING:
    from lesionlab.training.studies import Trained

__all__ = [
    "BASELINES",
    "EXACT",
    "FIGURES",
    "IMAGE_SETS",
    "LUNG",
    "MEASURES",
    "RANDOM",
    "Cell",
    "Maps",
    "Outlines",
    "Pasted",
    "against_random",
    "beside",
    "by_split",
    "classification",
    "compare",
    "courses",
    "doctors",
    "duplicated",
    "examples",
    "faithfulness",
    "gallery",
    "head_differences",
    "heads_on_folds",
    "kept_maps",
    "lidc_crops",
    "look",
    "malignancy",
    "masks_of",
    "mcnemar",
    "on",
    "on_fold",
    "outlines",
    "pasted",
    "pixel_of",
    "randomised",
    "shares",
    "signed_rank",
    "some",
    "summary",
    "twenty",
    "where",
    "within_folds",
    "without_images",
]

FIGURES: Mapping[str, Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "5": {
            f"{network}, {row}": (f"{variant}_{head}", row)
            for network, variant in (
                ("ResNet18", "resnet18"),
                ("ResNet34", "resnet34"),
                ("VGG16", "vgg16"),
            )
            for row, head in (("CAM", "cam"), ("Grad-CAM", "cam"), ("SAM", "sam"))
        },
        "6": {
            "CAM": ("cam", "CAM"),
            "HE-CAM": ("hecam", "HE-CAM"),
            "Grad-CAM": ("cam", "Grad-CAM"),
            "HE-Grad-CAM": ("hecam", "HE-Grad-CAM"),
        },
        "7": {
            "CAM": ("cam", "CAM"),
            "Grad-CAM": ("cam", "Grad-CAM"),
            "SAM": ("sam", "SAM"),
            "HESAM": ("hesam", "HESAM"),
        },
        "8": {
            "GAP / GAP": ("hesam_average_average", "HESAM"),
            "GAP / GMP": ("hesam_average_max", "HESAM"),
            "GMP / GMP": ("hesam_max_max", "HESAM"),
            "GMP / GAP": ("hesam", "HESAM"),
        },
    }
)
"""Rows of the paper's figures of maps: the variant, and which of its maps."""


def summary(
    folds: Iterable[Trained],
    predictions: pd.DataFrame,
    *,
    n_lesions: int = 60,
    n_curves: int = 30,
    n_resamples: int = 2000,
    seed: int = 0,
) -> dict[str, pd.DataFrame]:
    """What the models of a run look at, as the tables that its figures need.

    Args:
        folds: Of `studies.trained`.
        predictions: Of the same run, as `Outcome.predictions`.
        n_lesions: Test lesions whose maps are made, drawn; over all folds.
        n_curves: How many of them get deletion and insertion curves and a randomised network,
            which take most of the time.
        n_resamples: Resamples of patients for the intervals.
        seed: Of the draws and the randomisation.

    Returns:
        classes (`classification`; not for the nine ratings), regions and regions_untrained
        (`shares`, of the network and of one that has learned nothing), curves (`against_random`),
        randomised, high_level (quantiles of the part of a logit that no map shows; where there is
        one). Of lesions drawn alike for all variants of a run.
    """
    drawn = set(some(predictions["lesion_id"], n_lesions, seed=seed))
    patients = predictions.set_index("lesion_id")["patient"]
    found: dict[str, pd.DataFrame] = {}
    if predictions.get("malignancy_truth", pd.Series([0.5])).isin([0, 1]).all():
        found["classes"] = classification(predictions, n_resamples=n_resamples, seed=seed)
    parts: dict[str, list[pd.DataFrame]] = {}
    shuffled, high = [], []
    for fold in folds:
        at = [i for i, name in enumerate(fold.samples.lesion_ids) if name in drawn]
        if not isinstance(fold.experiment, Lei2020) or not at:
            continue
        samples, network = fold.samples.select(at), fold.model()
        seen = look(fold.experiment, network, samples)
        marked = outlines(lidc_crops(samples.lesion_ids))
        parts.setdefault("regions", []).append(where(seen.maps, seen.lesion_ids, marked))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            blank = fold.experiment.model(seed).eval()
        of_blank = look(fold.experiment, blank, samples).maps
        parts.setdefault("blank", []).append(where(of_blank, seen.lesion_ids, marked))
        few = samples.select(range(min(len(at), max(2, round(n_curves * len(at) / len(drawn))))))
        score = malignancy(fold.experiment, network)
        areas = faithfulness(score, few.images, seen.of(few.lesion_ids), few.lesion_ids, seed=seed)
        parts.setdefault("curves", []).append(areas)
        shuffled.append(randomised(fold.experiment, network, few, seed=seed))
        if fold.experiment.design.high_level and seen.high_level_share is not None:
            high.append(pd.Series(seen.high_level_share.double().numpy()))
    if "regions" not in parts:
        return found
    how = {"n_resamples": n_resamples, "seed": seed}
    found["regions"] = shares(pd.concat(parts["regions"]), patients, **how)
    found["regions_untrained"] = shares(pd.concat(parts["blank"]), patients, **how)
    found["curves"] = against_random(pd.concat(parts["curves"]), patients, **how)
    # folds have about as many lesions
    found["randomised"] = pd.concat(shuffled).groupby(level=0, sort=False).mean()
    if high:
        quantiles = pd.concat(high).quantile([0.1, 0.5, 0.9])
        found["high_level"] = quantiles.rename_axis("quantile").to_frame("share")
    return found


def some(lesion_ids: Sequence[str] | pd.Series[str], n: int, *, seed: int = 0) -> list[str]:
    """`n` lesions, drawn; all if there are no more. The order they are given in does not matter.

    Raises:
        ValueError: `n` is below 1.
    """
    if n < 1:
        raise ValueError(f"n={n!r}: expected 1 or more")
    there = sorted(set(lesion_ids))
    if len(there) <= n:
        return there
    return sorted(np.random.default_rng(seed).choice(there, n, replace=False).tolist())


def examples(
    predictions: pd.DataFrame, *, quantiles: Sequence[float] = (0.1, 0.5, 0.9)
) -> pd.DataFrame:
    """Lesions to show, picked by rule: of each class, some called rightly and some wrongly.

    The paper chose the nodules of its figures by what they show.

    Args:
        predictions: As `Outcome.predictions`.
        quantiles: Of the probability of the true class, over the lesions of a class; for each the
            lesion that is nearest to it.

    Returns:
        Index lesion_id, benign ones first; columns malignant (bool), probability (of malignant),
        quantile. A lesion may serve twice where there are few.

    Raises:
        KeyError: A column is missing.
        ValueError: A quantile outside of 0 to 1, or a class without a lesion.
    """
    if not quantiles or not all(0 <= q <= 1 for q in quantiles):
        raise ValueError(f"quantiles={quantiles!r}: expected some of 0 to 1")
    rows = predictions.set_index("lesion_id").sort_index()
    found = []
    for label in (0, 1):
        own = rows.loc[rows["malignancy_truth"] == label, "malignancy"].astype(float)
        if own.empty:
            raise ValueError(f"predictions: no lesion of class {label}")
        right = own if label else 1 - own
        for q in quantiles:
            name = str((right - float(right.quantile(q))).abs().idxmin())
            found.append((name, bool(label), float(own[name]), q))
    columns = ["lesion_id", "malignant", "probability", "quantile"]
    return pd.DataFrame(found, columns=columns).set_index("lesion_id")


@dataclass(frozen=True, eq=False)
class Cell:
    """One picture of Figures 5 to 8.

    Attributes:
        image: (y, x) the slice that is shown.
        map: (y, x), not normalised.
        malignancy: What the network says of what it was fed, a probability.
        wrong: Whether that is on the other side of 0.5 than the truth.
    """

    image: torch.Tensor
    map: torch.Tensor
    malignancy: float
    wrong: bool


def duplicated(samples: Samples, *, n: int = 5) -> tuple[torch.Tensor, list[int]]:
    """One nodule as in Figures 5 and 7: single slices in all channels, and then the whole volume.

    Args:
        samples: One lesion.
        n: Slices, evenly spaced, the middle one among them if odd ("5 of 11").

    Returns:
        (n + 1, channel, y, x), the last one as it is; and which slices.

    Raises:
        ValueError: There is another number of lesions, or there are not so many slices.
    """
    images = samples.images
    if len(images) != 1 or images.ndim != 4 or not 1 <= n <= images.shape[1]:
        raise ValueError(
            f"samples, n={n!r}: expected one lesion of {n} slices or more, got images of shape "
            f"{tuple(images.shape)}"
        )
    count = images.shape[1]
    # inside of the ends, where most volumes have left the nodule
    picked = [round((i + 0.5) * count / n - 0.5) for i in range(n)]
    return torch.cat([*(duplicate_slice(images, k) for k in picked), images]), picked


def gallery(
    figure: int | str,
    folds: Mapping[str, Trained],
    lesion_id: str,
    *,
    n: int = 5,
    rows: Mapping[str, tuple[str, str]] | None = None,
) -> dict[str, list[Cell]]:
    """The rows of Figure 5, 6, 7 or 8 for one nodule, as far as there are models for them.

    Args:
        figure: Which.
        folds: Variant to its trained fold; each must test the lesion.
        lesion_id: Which nodule.
        n: Single slices, see `duplicated`; the last picture of a row is the whole volume's on its
            middle slice. 0 shows that one alone, as Figures 6 and 8 do.
        rows: In place of the figure's, as in `FIGURES`.

    Returns:
        Row to pictures; rows whose variant is not there are left out.

    Raises:
        ValueError: No such figure, no model for it, or a model that did not test the lesion.
    """
    if str(figure) not in FIGURES:
        raise ValueError(f"figure={figure!r}: expected one of {', '.join(FIGURES)}")
    found: dict[str, list[Cell]] = {}
    for row, (variant, method) in (rows or FIGURES[str(figure)]).items():
        if variant not in folds:
            continue
        fold = folds[variant]
        if lesion_id not in fold.samples.lesion_ids or not isinstance(fold.experiment, Lei2020):
            raise ValueError(f"lesion_id={lesion_id!r}: {variant!r} did not test it")
        at = fold.samples.lesion_ids.index(lesion_id)
        one = fold.samples.select([at])
        middle = one.images.shape[1] // 2
        images, picked = duplicated(one, n=n) if n else (one.images, [])
        seen = look(fold.experiment, fold.model(), _fed(one, images))
        malignant = bool(fold.targets[at, 0] == 1)
        found[row] = [
            Cell(one.images[0, k], seen.maps[method][i], p, (p >= 0.5) != malignant)
            for i, (k, p) in enumerate(
                zip([*picked, middle], seen.malignancy.tolist(), strict=True)
            )
        ]
    if not found:
        raise ValueError(f"folds: no model for figure {figure}, got {list(folds)}")
    return found


def _fed(samples: Samples, images: torch.Tensor) -> Samples:
    """Samples with other images, each a lesion of its own."""
    n = len(images)
    return Samples(
        images=images,
        nodule=torch.arange(n),
        lesion_ids=tuple(f"{samples.lesion_ids[0]} {i}" for i in range(n)),
        padded=samples.padded.expand(n),
        missing=samples.missing.expand(n),
        calibrated=samples.calibrated.expand(n),
    )
