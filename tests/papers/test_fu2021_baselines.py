import numpy as np
import pandas as pd
import pytest

from lesionlab.papers.fu2021 import ATTRIBUTES, analyses
from lesionlab.statistics.baselines import diameter_regression


def readings_of(*margins):
    """Lesions whose readers agree on all but the margin."""
    columns = {f"{name}_readings": [[3] * len(m) for m in margins] for name in ATTRIBUTES}
    columns["margin_readings"] = [list(m) for m in margins]
    columns |= {name: [3.0] * len(margins) for name in ATTRIBUTES}
    columns["margin"] = [float(np.mean(m)) for m in margins]
    columns["patient"] = [f"p{i}" for i in range(len(margins))]
    return pd.DataFrame(columns, index=[f"n{i}" for i in range(len(margins))])


def test_who_knows_the_shown_rating_says_the_median_of_its_like():
    table = readings_of([2], [2], [5], [5], [5], [2], [5])
    table["margin"] = [2.0, 3.0, 4.0, 5.0, 4.0, 2.0, 5.0]
    folds = pd.Series([1, 1, 1, 2, 2, 0, 0], index=table.index)
    row = analyses.visible(table, folds).loc["margin"]
    # learned: 2 is shown by 2 and 3, so 2.5; 5 by 4, 5 and 4, so 4; the constant is 4
    assert row["known"] == pytest.approx((0.5 + 1) / 2)
    assert row["constant"] == pytest.approx((2 + 1) / 2)
    assert (row["skill"], row["n"]) == (pytest.approx(0.5), 2)
    # the one gains 2 - 0.5, the other 1 - 1: drawn twice each, or both
    assert (row["low"], row["high"]) == (pytest.approx(0), pytest.approx(1.5))


def test_what_nobody_rates_otherwise_cannot_be_seen():
    table = readings_of([1], [3], [5], [4])
    found = analyses.visible(table, pd.Series([0, 0, 1, 1], index=table.index))
    assert "malignancy" not in found.index  # never rendered
    assert "sphericity" not in found.index  # comes with the outline
    assert np.isnan(found.loc["texture", "skill"])  # the constant is never wrong
    with pytest.raises(ValueError, match="0 of 4 lesions are tested"):
        analyses.visible(table, pd.Series(1, index=table.index))


@pytest.fixture(scope="module")
def cohort():
    """Margins that the diameter explains in part, lobulations that it does not."""
    rng = np.random.default_rng(0)
    diameter = rng.uniform(3, 30, 60)
    names = pd.Index([f"n{i}" for i in range(60)], name="lesion_id")
    table = pd.DataFrame({"patient": [f"p{i // 2}" for i in range(60)]}, index=names)
    table["diameter"] = diameter
    table["margin"] = np.clip(diameter / 6 + rng.normal(0, 0.3, 60), 1, 5)
    table["lobulation"] = rng.integers(1, 6, 60).astype(float)
    return table, pd.Series(np.arange(60) // 12, index=names)


def predicted(cohort, folds, off=0.0):
    table, parts = cohort
    some = table[parts.isin(folds)]
    frame = some.reset_index()[["lesion_id", "patient"]].assign(fold=parts[some.index].to_numpy())
    for name in ("margin", "lobulation"):
        frame[f"{name}_truth"] = some[name].to_numpy()
        frame[name] = frame[f"{name}_truth"] + off
    return frame


def test_a_model_against_the_diameter_alone(cohort):
    table, folds = cohort
    names = ("margin", "lobulation")
    frame = predicted(cohort, [1, 3], 0.25)
    found = analyses.against_diameter(frame, table, folds, names, n_resamples=100)
    assert found.index.tolist() == [*names, "mean"]
    for name in names:
        # what the baseline of the library says on all folds, on the two that were asked for
        alone = diameter_regression(table, name, folds=folds)
        alone = alone[alone["fold"].isin([1, 3])]
        error = (alone["prediction"] - alone["truth"]).abs().mean()
        assert found.loc[name, "mae_diameter"] == pytest.approx(error)
        assert found.loc[name, "mae_model"] == pytest.approx(0.25)
        assert found.loc[name, "difference"] == pytest.approx(0.25 - error)
        assert found.loc[name, "n"] == 24
    # off by 0.25 at each nodule: clearly better than guessing lobulations from the diameter
    assert found.loc["lobulation", "high"] < 0


def test_a_run_on_other_folds_is_not_compared(cohort):
    table, folds = cohort
    frame = predicted(cohort, [1])
    with pytest.raises(ValueError, match="n12 was predicted in another fold"):
        analyses.against_diameter(frame.assign(fold=2), table, folds, ["margin"])
    with pytest.raises(ValueError, match="x was predicted in another fold"):
        analyses.against_diameter(frame.assign(lesion_id="x"), table, folds, ["margin"])
