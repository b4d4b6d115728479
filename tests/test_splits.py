"""Folds: nothing of a patient on both sides, shares kept, same seed same folds."""

from __future__ import annotations

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


def test_only_by_nodule_a_patient_is_in_two_folds(table: pd.DataFrame) -> None:
    fold = splits.folds(table)
    assert fold.groupby(table["patient"]).nunique().max() == 1
    assert sorted(fold.unique()) == [0, 1, 2, 3, 4]
    assert (splits.summary(table, fold)["patients also elsewhere"] == 0).all()
    fold = splits.folds(table, by="nodule")
    assert (splits.summary(table, fold)["patients also elsewhere"] > 0).all()
    assert np.ptp(fold.value_counts()) <= 2


@pytest.mark.parametrize("by", ["patient", "nodule"])
def test_same_seed_same_folds_in_any_order_of_rows(table: pd.DataFrame, by: splits.By) -> None:
    fold = splits.folds(table, by=by, seed=3)
    share = table["label"].groupby(fold).mean()
    assert (share - table["label"].mean()).abs().max() < 0.06
    shuffled = table.sample(frac=1, random_state=1)
    pd.testing.assert_series_equal(splits.folds(shuffled, by=by, seed=3).reindex(fold.index), fold)
    assert not splits.folds(table, by=by, seed=4).equals(fold)


def test_default_strata_without_a_label_are_the_rounded_malignancy(table: pd.DataFrame) -> None:
    unlabelled = table.assign(malignancy=table["label"] * 3 + 1.2).drop(columns="label")
    by_hand = splits.folds(table, stratify=table["label"] * 3 + 1)
    pd.testing.assert_series_equal(splits.folds(unlabelled), by_hand)
    bare = splits.folds(table[["patient"]])
    assert bare.groupby(table["patient"]).nunique().max() == 1


SHARES = (0.7, 0.1, 0.2)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_parts_hold_whole_patients_and_keep_the_shares(table: pd.DataFrame, seed: int) -> None:
    part = splits.holdout(table, SHARES, seed=seed, label=table["label"])
    assert part.groupby(table["patient"]).nunique().max() == 1
    sizes = part.value_counts(normalize=True)[list(splits.PARTS)]
    assert np.abs(sizes.to_numpy() - SHARES).max() < 0.03
    malignant = table["label"].groupby(part).mean()
    assert (malignant - table["label"].mean()).abs().max() < 0.1
    shuffled = table.sample(frac=1, random_state=1)
    again = splits.holdout(shuffled, SHARES, seed=seed, label=shuffled["label"])
    pd.testing.assert_series_equal(again[part.index], part)
    assert not splits.holdout(table, SHARES, seed=seed + 1, label=table["label"]).equals(part)


def test_parts_without_a_label_or_with_gaps_in_it(table: pd.DataFrame) -> None:
    two = splits.holdout(table.drop(columns="label"), (0.8, 0, 0.2))
    assert set(two) == {"training", "test"}
    assert (two == "test").mean() == pytest.approx(0.2, abs=0.02)
    some = table["label"].where(np.arange(len(table)) % 3 > 0)
    part = splits.holdout(table, SHARES, label=some)
    assert some.isna().groupby(part).mean().between(0.25, 0.45).all()


def test_a_class_that_is_too_small_is_named(table: pd.DataFrame) -> None:
    rare = pd.Series(np.arange(len(table)) < 2, index=table.index).astype(int)
    for by in ("patient", "nodule"):
        with pytest.raises(ValueError, match=rf"class 1 has too few {by}s for 5 folds: [12]"):
            splits.folds(table.assign(label=rare), by=by)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="class 1 has too few patients for 3 parts: "):
        splits.holdout(table, SHARES, label=rare)


def test_bad_arguments(table: pd.DataFrame) -> None:
    for call, message in (
        (lambda: splits.folds(table, by="scan"), "by='scan'"),  # type: ignore[arg-type]
        (lambda: splits.folds(table, n_folds=61), "expected 2 to 60, the number of patients"),
        (lambda: splits.folds(pd.concat([table, table.head(1)])), "'L000' stands more than once"),
        (lambda: splits.folds(table, stratify=table["label"].head(5)), "own index"),
        (lambda: splits.folds(table.assign(label=np.nan)), "lesions have no class"),
        (lambda: splits.holdout(table, (0.5, 0.5)), "three from 0 that sum to 1"),
        (lambda: splits.holdout(table, label=table["label"].head(5)), "label: expected one value"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
