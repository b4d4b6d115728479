"""Folds and parts: by patient, stratified and seeded; by nodule, as the papers did.

A patient's nodules share scanner, anatomy and readers, so a model that has seen one of them has
seen something of the others. All five papers split by nodule (or do not say); `by="nodule"` is
kept to show what that changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from lesionlab import _names

By = Literal["patient", "nodule"]
PARTS = ("training", "validation", "test")


def folds(
    table: pd.DataFrame,
    *,
    by: By = "patient",
    n_folds: int = 5,
    stratify: pd.Series | None = None,
    seed: int = 0,
) -> pd.Series:
    """Assign every lesion to one of `n_folds` folds: 0 … `n_folds` − 1 per `lesion_id`.

    Args:
        table: One row per lesion, index `lesion_id`, with a column `patient`.
        by: `patient` keeps all lesions of a patient in one fold; `nodule` does not.
        n_folds: How many folds, at least 2.
        stratify: Classes whose shares the folds should keep, one per lesion. By default the
            `label` of the table, or the rounded mean malignancy; without either, nothing is kept.
        seed: Same seed, same folds, on every machine.
    """
    _names.one_of("by", by, get_args(By))
    units = table["patient"].nunique() if by == "patient" else len(table)
    if not 2 <= n_folds <= units:
        raise ValueError(f"n_folds={n_folds!r}: expected 2 to {units}, the number of {by}s")
    strata = _strata(table, stratify)
    sizes = strata.value_counts() if by == "nodule" else table["patient"].groupby(strata).nunique()
    # of a class that is to be scored, every fold needs some; of other strata, one suffices
    smallest = sizes.min() if stratify is None and "label" in table else sizes.max()
    if smallest < n_folds:
        raise ValueError(
            f"class {sizes.idxmin()} has too few {by}s for {n_folds} folds: {sizes.min()}"
        )
    # The order of rows must not matter: split in the order of the ids.
    order = np.argsort(table.index.to_numpy(dtype=str), kind="stable")
    y = strata.to_numpy()[order]
    patient = table["patient"].to_numpy()[order] if by == "patient" else None
    splitter = StratifiedGroupKFold if by == "patient" else StratifiedKFold
    assigned = np.empty(len(table), dtype=np.int64)
    split = splitter(n_splits=n_folds, shuffle=True, random_state=seed).split(y, y, groups=patient)
    for number, (_, test) in enumerate(split):
        assigned[order[test]] = number
    return pd.Series(assigned, index=table.index, name="fold")


def holdout(
    table: pd.DataFrame,
    shares: Sequence[float] = (0.7, 0.1, 0.2),
    *,
    seed: int = 0,
    label: pd.Series | None = None,
) -> pd.Series:
    """Assign whole patients to one of `PARTS` each, which is told per `lesion_id`.

    Patients come in a random order. Each goes to the part that lacks the largest share of the
    lesions that it is to have, class by class.

    Args:
        table: One row per lesion, index `lesion_id`, with a column `patient`.
        shares: Shares of the lesions, for the three parts; they sum to 1, and a part may have 0.
        seed: Same seed, same parts, on every machine; another seed gives a second split.
        label: Class of each lesion, whose shares the parts should keep; a missing one is a class.
    """
    wanted = np.asarray(shares, dtype=float)
    if wanted.shape != (3,) or not (wanted >= 0).all() or not np.isclose(wanted.sum(), 1):
        raise ValueError(f"shares={shares!r}: expected three from 0 that sum to 1")
    _check_index(table, label, "label")
    parts = np.flatnonzero(wanted)
    classes = pd.Series(0, table.index) if label is None else label
    counts = pd.crosstab(table["patient"], classes.astype(object).fillna("missing"))
    patients = (counts > 0).sum()  # of each class
    if patients.min() < len(parts):
        raise ValueError(
            f"class {patients.idxmin()} has too few patients for {len(parts)} parts: "
            f"{patients.min()}"
        )
    counts = counts.loc[sorted(counts.index, key=str)].sample(frac=1, random_state=seed)
    total = counts.sum().to_numpy()
    has = np.zeros((len(parts), len(total)))  # (part, class)
    chosen = {}
    for patient, lesions in zip(counts.index, counts.to_numpy(), strict=True):
        lacks = 1 - has / (wanted[parts, None] * total)
        part = int(np.argmax(lacks @ (lesions / total)))
        has[part] += lesions
        chosen[patient] = PARTS[parts[part]]
    return table["patient"].map(chosen).rename("part")


def _strata(table: pd.DataFrame, stratify: pd.Series | None) -> pd.Series:
    _check_index(table, stratify, "stratify")
    malignancy: pd.Series = table.get("malignancy", pd.Series(0, index=table.index)).round()
    strata: pd.Series = table.get("label", malignancy) if stratify is None else stratify
    if strata.isna().any():
        raise ValueError(f"stratify: {int(strata.isna().sum())} lesions have no class")
    return strata.astype(int) if pd.api.types.is_numeric_dtype(strata) else strata


def _check_index(table: pd.DataFrame, classes: pd.Series | None, name: str) -> None:
    if not table.index.is_unique:
        twice = table.index[table.index.duplicated()][0]
        raise ValueError(f"lesion_id {twice!r} stands more than once in the table")
    if classes is not None and not classes.index.equals(table.index):
        raise ValueError(f"{name}: expected one value per lesion, with the table's own index")


def summary(table: pd.DataFrame, fold: pd.Series) -> pd.DataFrame:
    """Lesions, patients, patients shared with other folds, and malignant share, per fold."""
    elsewhere = table["patient"].where(fold.groupby(table["patient"]).transform("nunique") > 1)
    by = fold.rename("fold")
    found = pd.DataFrame(
        {
            "nodules": table.groupby(by).size(),
            "patients": table["patient"].groupby(by).nunique(),
            "patients also elsewhere": elsewhere.groupby(by).nunique(),
        }
    )
    if "label" in table:
        found["malignant"] = (table["label"] == 1).groupby(by).mean().round(3)
    return found
