"""The parts of a cross-validation: what is trained on, what selects, what is predicted."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import pandas as pd

from lesionlab import splits
from lesionlab.crops.sampling import Samples

Lesions = list[int]


@dataclass(frozen=True)
class Parts:
    """The lesions of a fold, by position: no lesion stands in two of the three lists.

    Attributes:
        training: To learn from.
        validation: To select by; empty where the last epoch is kept or the test part selects.
        test: To predict.
    """

    training: Lesions
    validation: Lesions
    test: Lesions

    def digest(self) -> str:
        """SHA-256 of the three lists."""
        return hashlib.sha256(repr(astuple(self)).encode()).hexdigest()


def split(
    table: pd.DataFrame,
    folds: pd.Series[int],
    fold: int,
    *,
    by: splits.By = "patient",
    share: float | None = 0.1,
    seed: int = 0,
) -> Parts:
    """The parts of a fold: itself to test, and of the others a share to validate.

    Args:
        table: One row per lesion, index `lesion_id`: patient, and `label` or `malignancy` to
            stratify by, if there.
        folds: lesion_id -> fold, in the order of the table.
        fold: Which.
        by: `patient` draws whole patients.
        share: Of the training part, about; None for no validation part.
        seed: Of the draw.

    Raises:
        ValueError: `share` is out of range, or there is too little to take it from.
    """
    inside = (folds == fold).to_numpy()
    rest, test = table[~inside], inside.nonzero()[0].tolist()
    places = (~inside).nonzero()[0]
    if share is None:
        return Parts(places.tolist(), [], test)
    if not 0 < share <= 0.5:
        raise ValueError(f"validation_share={share!r}: expected above 0, up to 0.5")
    units = rest["patient"].nunique() if by == "patient" else len(rest)
    if units < 2:
        raise ValueError(f"fold {fold}: {units} {by} to train on, expected 2 to take a part from")
    n_folds = min(round(1 / share), units)
    with warnings.catch_warnings():
        # that a class is too small to be in every part: only one part is used
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        strata = _strata(rest, n_folds)
        drawn = splits.folds(rest, by=by, n_folds=n_folds, stratify=strata, seed=seed)
    kept = (drawn != 0).to_numpy()
    return Parts(places[kept].tolist(), places[~kept].tolist(), test)


def _strata(rest: pd.DataFrame, n_folds: int) -> pd.Series[int]:
    """Classes to stratify by: label, else malignancy; one, if there are none or all are small."""
    name = next((name for name in ("label", "malignancy") if name in rest), None)
    if name is not None and rest[name].notna().all():
        classes = rest[name].round().astype(int)
        if classes.value_counts().max() >= n_folds:
            return classes
    return pd.Series(0, index=rest.index)


def align(
    samples: Samples,
    table: pd.DataFrame,
    folds: pd.Series[int],
    only: Sequence[int] | None,
    by: splits.By,
) -> tuple[pd.DataFrame, pd.Series[int], list[int]]:
    """Table and folds in the order of the samples, and the folds to train for.

    Raises:
        ValueError: They do not cover the samples, or what scoring needs later is missing.
    """
    ids = list(samples.lesion_ids)
    if not ids:
        raise ValueError("samples: expected at least one lesion, got none")
    if len(set(ids)) < len(ids):
        raise ValueError("samples: expected each lesion once")
    for name, index in (("table", table.index), ("folds", folds.index)):
        if not index.is_unique:
            raise ValueError(f"{name}: expected each lesion once")
        if missing := set(ids) - set(index):
            raise ValueError(f"{name} lacks {len(missing)} lesions, e.g. {min(missing)!r}")
    table, folds = table.loc[ids], folds.loc[ids]
    if "diameter" in table and not (table["diameter"] > 0).all():
        worst = (table["diameter"] > 0).idxmin()
        raise ValueError(f"table: diameter of {worst!r} is not above 0 mm")
    there = sorted(int(k) for k in folds.unique())
    if len(there) < 2:
        raise ValueError(f"folds: expected two or more, got {there}")
    chosen = there if only is None else list(only)
    if not chosen or not set(chosen) <= set(there):
        raise ValueError(f"only={only!r}: expected some of {there}")
    if (n := table.loc[folds.isin(chosen), "patient"].nunique()) < 2:
        raise ValueError(f"table: {n} patient to predict, an interval needs two or more")
    shared = folds.groupby(table["patient"]).nunique() > 1
    if by == "patient" and shared.any():
        raise ValueError(
            f"folds: patient {shared.idxmax()!r} is in more than one; make them by patient, "
            "or say by='nodule'"
        )
    return table, folds, chosen
