"""Folds: by patient, stratified and seeded; by nodule, as the papers did, as a named variant.

A patient's nodules share scanner, anatomy and readers, so a model that has seen one of them has
seen something of the others. All five papers split by nodule (or do not say); `by="nodule"` is
kept to show what that changes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, train_test_split

from lesionlab import _files

By = Literal["patient", "nodule"]
COLUMNS = ["lesion_id", "patient", "fold"]


def folds(
    table: pd.DataFrame,
    *,
    by: By = "patient",
    n_folds: int = 5,
    stratify: pd.Series | None = None,
    seed: int = 0,
) -> pd.Series:
    """Assign every lesion to one of `n_folds` folds.

    Args:
        table: One row per lesion, index `lesion_id`, with a column `patient`.
        by: `patient` keeps all lesions of a patient in one fold; `nodule` does not.
        n_folds: How many folds, at least 2.
        stratify: Classes whose shares the folds should keep, one per lesion. By default the
            `label` of the table, or the rounded mean malignancy.
        seed: Same seed, same folds, on every machine.

    Returns:
        Fold number 0 … `n_folds` − 1 per `lesion_id`, in the order of the table.

    Raises:
        ValueError: An argument is out of range, a lesion id stands twice, or `stratify` does not
            go with the table.
    """
    if by not in ("patient", "nodule"):
        raise ValueError(f"by={by!r}: expected 'patient' or 'nodule'")
    units = table["patient"].nunique() if by == "patient" else len(table)
    if not 2 <= n_folds <= units:
        raise ValueError(f"n_folds={n_folds!r}: expected 2 to {units}, the number of {by}s")
    strata = _strata(table, stratify)
    # The order of rows must not matter: split in the order of the ids.
    order = np.argsort(table.index.to_numpy(dtype=str), kind="stable")
    y, patient = strata.to_numpy()[order], table["patient"].to_numpy()[order]
    splitter: StratifiedGroupKFold | StratifiedKFold
    if by == "patient":
        splitter = StratifiedGroupKFold(n_splits=n_folds, shuffle=True, random_state=seed)
    else:
        splitter = StratifiedKFold(n_splits=n_folds, shuffle=True, random_state=seed)
    assigned = np.empty(len(table), dtype=np.int64)
    groups = patient if by == "patient" else None
    for number, (_, test) in enumerate(splitter.split(y, y, groups=groups)):
        assigned[order[test]] = number
    return pd.Series(assigned, index=table.index, name="fold")


def holdout(
    table: pd.DataFrame, *, n_test: int, stratify: pd.Series | None = None, seed: int = 0
) -> pd.Series:
    """One fixed test part of `n_test` lesions, drawn by nodule, as Lei 2020's 916/229 (Table 1).

    Returns:
        1 for test and 0 for training per `lesion_id`, named `fold`.

    Raises:
        ValueError: `n_test` leaves no lesion on one side.
    """
    if not 0 < n_test < len(table):
        raise ValueError(f"n_test={n_test!r}: expected 1 to {len(table) - 1}")
    ids = np.sort(table.index.to_numpy(dtype=str))
    strata = _strata(table, stratify).reindex(ids).to_numpy()
    _, test = train_test_split(ids, test_size=n_test, stratify=strata, random_state=seed)
    return pd.Series(table.index.isin(test).astype(np.int64), index=table.index, name="fold")


def _strata(table: pd.DataFrame, stratify: pd.Series | None) -> pd.Series:
    if not table.index.is_unique:
        twice = table.index[table.index.duplicated()][0]
        raise ValueError(f"lesion_id {twice!r} stands more than once in the table")
    if stratify is not None:
        if not stratify.index.equals(table.index):
            raise ValueError("stratify: expected one value per lesion, with the table's own index")
        strata = stratify
    elif "label" in table:
        strata = table["label"]
    else:
        strata = table["malignancy"].round()
    if strata.isna().any():
        raise ValueError(f"stratify: {int(strata.isna().sum())} lesions have no class")
    return strata.astype(int) if pd.api.types.is_numeric_dtype(strata) else strata


def write(
    path: str | Path, table: pd.DataFrame, fold: pd.Series, *, overwrite: bool = False
) -> Path:
    """Write folds as CSV with the columns `lesion_id`, `patient`, `fold`.

    Raises:
        FileExistsError: The file holds other folds and `overwrite` is False.
        ValueError: `fold` does not cover exactly the table's lesions.
    """
    if set(fold.index) != set(table.index):
        raise ValueError("fold: expected exactly the lesions of the table")
    frame = pd.DataFrame({"patient": table["patient"], "fold": fold.reindex(table.index)})
    text = frame.rename_axis("lesion_id").sort_index().to_csv(lineterminator="\n")
    path = Path(path)
    if path.exists() and not overwrite:
        if path.read_text(encoding="utf-8") == text:
            return path
        raise FileExistsError(f"{path} holds other folds; pass overwrite=True to replace them")
    return _files.write_text(path, text)


def read(path: str | Path, table: pd.DataFrame | None = None) -> pd.Series:
    """Read folds that `write` wrote, and check them against a table.

    Raises:
        ValueError: The file lacks a column, names a lesion twice, or does not cover the table.
    """
    frame = pd.read_csv(path)
    if missing := [c for c in COLUMNS if c not in frame]:
        raise ValueError(f"{Path(path).name} lacks the columns {missing}; expected {COLUMNS}")
    if frame["lesion_id"].duplicated().any():
        twice = frame.loc[frame["lesion_id"].duplicated(), "lesion_id"].iloc[0]
        raise ValueError(f"{Path(path).name} names lesion {twice!r} twice")
    fold = frame.set_index("lesion_id")["fold"]
    if table is None:
        return fold
    if without := set(table.index) - set(fold.index):
        raise ValueError(
            f"{Path(path).name} has no fold for {len(without)} lesions, e.g. {sorted(without)[0]!r}"
        )
    return fold.reindex(table.index)


def summary(table: pd.DataFrame, fold: pd.Series) -> pd.DataFrame:
    """Lesions, patients, patients shared with other folds, and malignant share, per fold."""
    patient = table["patient"]
    rows = []
    for number in sorted(fold.unique()):
        inside = fold == number
        here, elsewhere = set(patient[inside]), set(patient[~inside])
        row = {
            "fold": number,
            "nodules": int(inside.sum()),
            "patients": len(here),
            "patients also elsewhere": len(here & elsewhere),
        }
        if "label" in table:
            row["malignant"] = round(float((table.loc[inside, "label"] == 1).mean()), 3)
        rows.append(row)
    return pd.DataFrame(rows).set_index("fold")
