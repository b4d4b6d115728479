"""Folds: nothing of a patient on both sides, shares kept, same seed same folds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lesionlab import splits


@pytest.fixture
def table() -> pd.DataFrame:
    """60 patients with 1 to 4 lesions each, a third of them malignant."""
    rng = np.random.default_rng(0)
    patients = np.repeat([f"P{i:03d}" for i in range(60)], rng.integers(1, 5, 60))
    label = (rng.random(len(patients)) < 1 / 3).astype(int)
    index = pd.Index([f"L{i:03d}" for i in range(len(patients))], name="lesion_id")
    return pd.DataFrame({"patient": patients, "label": label}, index=index)


def test_by_patient_no_patient_is_in_two_folds(table: pd.DataFrame) -> None:
    fold = splits.folds(table)
    assert fold.groupby(table["patient"]).nunique().max() == 1
    assert sorted(fold.unique()) == [0, 1, 2, 3, 4]
    assert (splits.summary(table, fold)["patients also elsewhere"] == 0).all()


def test_by_nodule_patients_are_shared(table: pd.DataFrame) -> None:
    fold = splits.folds(table, by="nodule")
    assert (splits.summary(table, fold)["patients also elsewhere"] > 0).all()
    assert np.ptp(fold.value_counts()) <= 2


@pytest.mark.parametrize("by", ["patient", "nodule"])
def test_folds_keep_the_share_of_malignant(table: pd.DataFrame, by: splits.By) -> None:
    share = table["label"].groupby(splits.folds(table, by=by)).mean()
    assert (share - table["label"].mean()).abs().max() < 0.06


@pytest.mark.parametrize("by", ["patient", "nodule"])
def test_same_seed_same_folds_in_any_order_of_rows(table: pd.DataFrame, by: splits.By) -> None:
    fold = splits.folds(table, by=by, seed=3)
    shuffled = table.sample(frac=1, random_state=1)
    pd.testing.assert_series_equal(splits.folds(shuffled, by=by, seed=3).reindex(fold.index), fold)
    assert not splits.folds(table, by=by, seed=4).equals(fold)


def test_default_strata_without_a_label_are_the_rounded_malignancy(table: pd.DataFrame) -> None:
    unlabelled = table.assign(malignancy=table["label"] * 3 + 1.2).drop(columns="label")
    by_hand = splits.folds(table, stratify=table["label"] * 3 + 1)
    pd.testing.assert_series_equal(splits.folds(unlabelled), by_hand)


def test_holdout_is_exact_stratified_and_by_nodule(table: pd.DataFrame) -> None:
    test = splits.holdout(table, n_test=30, seed=1)
    assert test.sum() == 30
    assert abs(table["label"][test == 1].mean() - table["label"].mean()) < 0.04
    shuffled = table.sample(frac=1, random_state=1)
    pd.testing.assert_series_equal(splits.holdout(shuffled, n_test=30, seed=1)[test.index], test)


def test_written_and_read_back(table: pd.DataFrame, tmp_path: Path) -> None:
    fold = splits.folds(table)
    path = splits.write(tmp_path / "folds.csv", table, fold)
    pd.testing.assert_series_equal(splits.read(path, table), fold)
    assert path.read_text().splitlines()[0] == "lesion_id,patient,fold"
    splits.write(path, table, fold)  # the same again is no overwriting


def test_other_folds_are_not_overwritten_silently(table: pd.DataFrame, tmp_path: Path) -> None:
    path = splits.write(tmp_path / "folds.csv", table, splits.folds(table))
    other = splits.folds(table, seed=1)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        splits.write(path, table, other)
    splits.write(path, table, other, overwrite=True)
    pd.testing.assert_series_equal(splits.read(path, table), other)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lesion_id,fold\nL000,1\n", r"lacks the columns \['patient'\]"),
        ("lesion_id,patient,fold\nL000,P0,1\nL000,P0,2\n", "names lesion 'L000' twice"),
        ("lesion_id,patient,fold\nL000,P0,1\n", "no fold for .* lesions, e.g. 'L001'"),
    ],
)
def test_files_that_do_not_fit(
    table: pd.DataFrame, tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "folds.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        splits.read(path, table)


def test_bad_arguments(table: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="by='scan'"):
        splits.folds(table, by="scan")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected 2 to 60, the number of patients"):
        splits.folds(table, n_folds=61)
    with pytest.raises(ValueError, match="n_folds=1"):
        splits.folds(table, n_folds=1)
    with pytest.raises(ValueError, match="'L000' stands more than once"):
        splits.folds(pd.concat([table, table.head(1)]))
    with pytest.raises(ValueError, match="own index"):
        splits.folds(table, stratify=table["label"].head(5))
    with pytest.raises(ValueError, match="1 lesions have no class"):
        splits.folds(table, stratify=table["label"].where(table.index != "L003"))
    with pytest.raises(ValueError, match="n_test=0"):
        splits.holdout(table, n_test=0)
    with pytest.raises(ValueError, match="exactly the lesions"):
        splits.write(tmp_path / "f.csv", table, splits.folds(table).head(3))
