"""Lei 2020, finished runs side by side: see `lesionlab.papers.lei2020.analyses`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from lesionlab import published, tables
from lesionlab.cohorts import Cohort
from lesionlab.papers.lei2020 import N_CHANNELS
from lesionlab.papers.lei2020._tables import PAPER, on
from lesionlab.papers.lei2020._tests import compare, on_fold, within_folds, without_images
from lesionlab.training.publishing import Published

HEADS = {"hesam": "HESAM", "sam": "SAM", "cam": "CAM"}
"""The paper's own three networks, by variant."""

DIFFERENCE = {
    "within_difference": ("within folds", "difference"),
    "within_low": ("within folds", "low"),
    "within_high": ("within folds", "high"),
    "auc_difference": ("folds together", "difference"),
    "low": ("folds together", "low"),
    "high": ("folds together", "high"),
}
ENDS = ("value", "low", "high")


def heads(runs: Mapping[str, Published]) -> dict[str, str]:
    """The paper's own networks on each image set, as far as they were run.

    Returns:
        Variant to words, as "HESAM, D11C"; D11C, which most of the paper is about, first.
    """
    wanted = {
        on(head, images): f"{said}, {images}"
        for images in sorted(N_CHANNELS, key=lambda name: name != "D11C")
        for head, said in HEADS.items()
    }
    return {variant: said for variant, said in wanted.items() if variant in runs}


def heads_on_folds(runs: Mapping[str, Published], **how: int) -> pd.DataFrame:
    """How well the paper's own networks do, accuracy beside Table 2.

    Args:
        runs: Variant to its run.
        how: n_resamples and seed of the intervals.

    Returns:
        Index as the words of `heads`. Columns of two levels: "AUC within folds" (value, low, high,
        see `within_folds`), "AUC, together" (value), "called malignant" (fewest, most: the
        share of a fold's lesions, in the fold where it is lowest and highest), and "accuracy (%)"
        (Lei 2020, ours, difference).
    """
    printed: Any = published.table(PAPER, 2).set_index("method")
    rows, theirs, ours = {}, {}, {}
    for variant, said in heads(runs).items():
        head, images = said.split(", ")
        scores = runs[variant].scores.set_index(["predictor", "metric"])["value"]
        theirs[said] = float(printed.loc[f"Ours-{head}", images.lower()])
        ours[said] = 100 * float(scores["model", "accuracy"])
        predictions = runs[variant].predictions
        within = within_folds(predictions, **how)
        called = (predictions["malignancy"] >= 0.5).groupby(predictions["fold"]).mean()
        rows[said] = {
            **{("AUC within folds", end): getattr(within, end) for end in ENDS},
            ("AUC, together", "value"): float(scores["model", "auc"]),
            ("called malignant", "fewest"): float(called.min()),
            ("called malignant", "most"): float(called.max()),
        }
    accuracy = tables.beside(theirs, ours, paper="Lei 2020", here="ours")
    return pd.concat([pd.DataFrame(rows).T, pd.concat({"accuracy (%)": accuracy}, axis=1)], axis=1)


def head_differences(runs: Mapping[str, Published], cohort: Cohort, **how: int) -> pd.DataFrame:
    """SAM against CAM, HESAM against CAM, and HESAM against the diameter alone, by image set.

    Args:
        runs: Variant to its run; with the three heads on all image sets.
        cohort: The paper's.
        how: As in `heads_on_folds`.

    Returns:
        Index as "SAM − CAM, D11C". Columns ("within folds", …) and ("folds together", …), each
        difference (of the AUCs, above 0 the first is better), low, high.

    Raises:
        KeyError: A head was not run on an image set.
    """
    found = {}
    for first, second in (("sam", "cam"), ("hesam", "cam"), ("hesam", "diameter")):
        for images in N_CHANNELS:
            one = runs[on(first, images)].predictions
            if second == "diameter":
                other = without_images(one, cohort)["diameter"]
            else:
                other = runs[on(second, images)].predictions
            row = compare({first: one, second: other}, reference=first, **how).loc[second]
            name = f"{HEADS[first]} − {HEADS.get(second, second)}, {images}"
            found[name] = row[list(DIFFERENCE)].astype(float)
    table = pd.DataFrame(found).T
    return table.set_axis(pd.MultiIndex.from_tuples(DIFFERENCE.values()), axis=1)


def by_split(
    by_patient: Mapping[str, Published],
    by_nodule: Mapping[str, Published],
    cohort: Cohort,
    **how: int,
) -> pd.DataFrame:
    """The AUC on the first fold by patient beside that on the first fold by nodule.

    One fold beside one fold: the networks of several folds are not alike in their levels.

    Args:
        by_patient: Variant to its run.
        by_nodule: Variant to its run; heads that are in both are compared.
        cohort: The paper's.
        how: As in `heads_on_folds`.

    Returns:
        Index as the words of `heads`, and "diameter alone". Columns ("by patient", …) and
        ("by nodule", …), each value, low, high; and ("by nodule less by patient", "difference").
    """
    there = {v: said for v, said in heads(by_patient).items() if v in by_nodule}
    frames = {
        said: (by_patient[v].predictions, by_nodule[v].predictions) for v, said in there.items()
    }
    one, other = next(iter(frames.values()))
    frames["diameter alone"] = (
        without_images(one, cohort)["diameter"],
        without_images(other, cohort, by="nodule")["diameter"],
    )
    rows: dict[str, dict[tuple[str, str], float]] = {}
    for said, both in frames.items():
        row = rows[said] = {}
        for by, frame in zip(("by patient", "by nodule"), both, strict=True):
            auc: Any = on_fold({"model": frame}, 0, **how).set_index("metric").loc["auc"]
            row |= {(by, end): float(auc[end]) for end in ENDS}
        change = row["by nodule", "value"] - row["by patient", "value"]
        row["by nodule less by patient", "difference"] = change
    return pd.DataFrame(rows).T


def kept_maps(runs: Mapping[str, Published], name: str, level: str) -> pd.DataFrame:
    """One table of `summary`, of the three heads on D11C together.

    Args:
        runs: Variant to its run, with an analysis.
        name: Which table, such as `"regions"`.
        level: Its index beside the method.

    Returns:
        Index (method, level). Grad-CAM, which two of the networks have, is named after its network.
    """
    parts = []
    for head, said in HEADS.items():
        rows = pd.DataFrame(runs[head].about["analysis"][name])
        parts.append(rows.replace({"method": {"Grad-CAM": f"Grad-CAM, {said} network"}}))
    table: pd.DataFrame = pd.concat(parts)
    return table.set_index(["method", level])
